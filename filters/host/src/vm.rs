//! The callbacks of the ABI, over all contexts of one VM.
//!
//! A VM is one thread, and no host call we make runs one of our callbacks except `proxy_on_memory_allocate`, which touches
//! nothing here; should a host ever do otherwise, the inner callback does nothing.

use crate::calls::{self, Level, Queue, log};
use crate::metrics::process;
use crate::root::{Root, fingerprint};
use crate::stream::Stream;

pub use crate::answering::BodyAction;
pub use crate::stream::Action;
use resilience_core::worker::Resumed;
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Context ids are small numbers that the host counts up: they need no hashing.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        // The table takes its tag from the high bits.
        self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = u64::from(id);
    }
}

/// Of how many requests whose answers take their time retries are given back with one sign of life: each costs an update of
/// the shared state.
const GIVEN_BACK: usize = 256;

type Contexts<T> = HashMap<u32, T, BuildHasherDefault<Identity>>;

#[derive(Default)]
struct Vm {
    /// Whether it has ticked, or got a request: one that only tries a configuration does not.
    serves: bool,
    roots: Contexts<Root>,
    streams: Contexts<Stream>,
}

thread_local! {
    static VM: RefCell<Vm> = RefCell::default();
}

fn with<T: Default>(act: impl FnOnce(&mut Vm) -> T) -> T {
    VM.with(|vm| vm.try_borrow_mut().map_or_else(|_| T::default(), |mut vm| act(&mut vm)))
}

impl Vm {
    /// Counts this VM once it serves: one that dies of its first request, before its first tick, has served too.
    fn serve(&mut self) {
        if !std::mem::replace(&mut self.serves, true) {
            process::vm_started();
        }
    }

    /// Runs `act` on a stream and its root, if both are known.
    fn stream<T: Default>(&mut self, id: u32, act: impl FnOnce(&mut Stream, &mut Root) -> T) -> T {
        let Some(stream) = self.streams.get_mut(&id) else { return T::default() };
        let Some(root) = self.roots.get_mut(&stream.root) else { return T::default() };
        act(stream, root)
    }

    /// Ends requests whose time is over.
    fn time_out(&mut self, id: u32) {
        let Some(root) = self.roots.get_mut(&id) else { return };
        for call in root.overdue() {
            if let Some(stream) = self.streams.get_mut(&call) {
                stream.time_out(root);
            }
        }
    }

    /// With each sign of life: gives back the retries that are kept for requests whose answers take their time.
    fn give_back_retries(&mut self, id: u32) {
        let Some(root) = self.roots.get_mut(&id) else { return };
        if !root.has_beaten() {
            return;
        }
        let mut left = GIVEN_BACK;
        for stream in self.streams.values_mut().filter(|stream| stream.root == id) {
            if left == 0 {
                return;
            }
            left = left.saturating_sub(usize::from(stream.give_back_retries(root)));
        }
    }

    /// Has a root look after those that wait, and lets those go on, or answers them, whose wait is over.
    fn resume(&mut self, id: u32, look: impl FnOnce(&mut Root) -> Vec<Resumed>) {
        let Some(root) = self.roots.get_mut(&id) else { return };
        for resumed in look(root) {
            match self.streams.get_mut(&resumed.call) {
                Some(stream) => stream.resume(root, resumed),
                None => root.abandon(resumed),
            }
        }
        root.set_timer();
    }

    fn configure(&mut self, id: u32) -> bool {
        let text = match calls::plugin_configuration() {
            Ok(text) => text,
            Err(status) => {
                log(Level::Error, &format!("document: cannot be read: {status}"));
                return false;
            }
        };
        let known = self.roots.get(&id).map(|root| root.fingerprint);
        if known == Some(fingerprint(&text)) {
            return true;
        }
        if known.is_some() {
            // Streams go by the policies of their root. Envoy gives every document a root context of its own.
            log(Level::Error, "document: a root context cannot be configured twice");
            return false;
        }
        let Some(root) = Root::configure(&text) else { return false };
        self.roots.insert(id, root);
        true
    }
}

/// `proxy_on_context_create`; `parent` is 0 for a root context.
pub fn on_context_create(id: u32, parent: u32) {
    if parent != 0 {
        with(|vm| {
            // One for operators is no part of the data plane, and never ticks.
            if !vm.serves && vm.roots.get(&parent).is_some_and(|root| !root.is_for_operators()) {
                vm.serve();
            }
            vm.streams.insert(id, Stream::new(id, parent));
        });
    }
}

/// `proxy_on_configure`: false refuses the configuration.
#[must_use]
pub fn on_configure(root: u32) -> bool {
    with(|vm| vm.configure(root))
}

/// `proxy_on_tick`.
pub fn on_tick(root: u32) {
    with(|vm| {
        vm.serve();
        vm.time_out(root);
        vm.resume(root, Root::tick);
        vm.give_back_retries(root);
    });
}

/// `proxy_on_queue_ready`: some of our requests may have got their turn. Here, and on ticks, no stream is in hand: what a
/// stream's own callbacks lead to in another must take this way, or Envoy may crash.
pub fn on_queue_ready(root: u32, queue: u32) {
    with(|vm| vm.resume(root, |root| root.read_queue(Queue(queue))));
}

/// `proxy_on_request_headers`; `is_whole` where nothing follows them.
#[must_use]
pub fn on_request_headers(id: u32, is_whole: bool) -> Action {
    #[cfg(feature = "test-trap")]
    crate::trap::pull();
    with(|vm| vm.stream(id, |stream, root| stream.request_headers(root, is_whole)))
}

/// `proxy_on_request_body`, and, with `is_last`, `proxy_on_request_trailers`.
#[must_use]
pub fn on_request_body(id: u32, is_last: bool) -> Action {
    with(|vm| vm.stream(id, |stream, root| stream.request_body(root, is_last)))
}

/// `proxy_on_response_headers`; it `ends` where nothing follows them.
#[must_use]
pub fn on_response_headers(id: u32, ends: bool) -> Action {
    with(|vm| vm.stream(id, |stream, root| stream.response_headers(root, ends)))
}

/// `proxy_on_response_body`.
#[must_use]
pub fn on_response_body(id: u32, size: usize, is_last: bool) -> BodyAction {
    with(|vm| {
        let stream = vm.streams.get_mut(&id);
        stream.map_or(BodyAction::Continue, |stream| stream.response_body(size, is_last))
    })
}

/// `proxy_on_response_trailers`.
pub fn on_response_trailers(id: u32) {
    with(|vm| vm.stream(id, Stream::response_trailers));
}

/// `proxy_on_delete`: the one callback that ends every stream. The module exports neither `proxy_on_log` nor
/// `proxy_on_done`, which would cost a call each and tell nothing more.
pub fn on_delete(id: u32) {
    with(|vm| {
        if let Some(stream) = vm.streams.remove(&id) {
            if let Some(root) = vm.roots.get_mut(&stream.root) {
                stream.end(root);
            }
        } else if let Some(mut root) = vm.roots.remove(&id) {
            root.leave();
            // The host goes on ticking for a root context that is gone, as long as the VM lives.
            let _ = calls::set_tick_period(0);
        }
    });
}

/// Exports the callbacks of the ABI from a module. Only those that do something: the host skips what is not there, and every
/// call into a module is paid for.
#[macro_export]
macro_rules! export {
    () => {
        mod exports {
            use $crate::{calls, vm};

            #[unsafe(no_mangle)]
            extern "C" fn _initialize() {
                calls::initialize();
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_abi_version_0_2_1() {}

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
                calls::allocate(size)
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_context_create(id: u32, parent: u32) {
                vm::on_context_create(id, parent);
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_configure(root: u32, _size: usize) -> bool {
                vm::on_configure(root)
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_tick(root: u32) {
                vm::on_tick(root);
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_queue_ready(root: u32, queue: u32) {
                vm::on_queue_ready(root, queue);
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_request_headers(id: u32, _count: u32, end: bool) -> vm::Action {
                vm::on_request_headers(id, end)
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_request_body(id: u32, _size: usize, end: bool) -> vm::Action {
                vm::on_request_body(id, end)
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_request_trailers(id: u32, _count: u32) -> vm::Action {
                vm::on_request_body(id, true)
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_response_headers(id: u32, _count: u32, end: bool) -> vm::Action {
                vm::on_response_headers(id, end)
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_response_body(id: u32, size: usize, end: bool) -> vm::BodyAction {
                vm::on_response_body(id, size, end)
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_response_trailers(id: u32, _count: u32) -> vm::Action {
                vm::on_response_trailers(id);
                vm::Action::Continue
            }

            #[unsafe(no_mangle)]
            extern "C" fn proxy_on_delete(id: u32) {
                vm::on_delete(id);
            }
        }
    };
}
