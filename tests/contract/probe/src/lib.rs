//! The probe of the host contract: does what a request's `x-probe` header tells it to and answers with what the host
//! said.
//!
//! A request with `x-probe: word key=value ...; word ...` runs these commands (`commands.rs`) when its headers arrive and
//! is answered with one line for each, unless a command says otherwise. A request with `x-case: name` has each of
//! its callbacks logged with what can be read in it (`events.rs`), under that name. Commands can also be left for other
//! callbacks (`later.rs`).
//!
//! The exports are written out here, so that what the host calls, and in what order, is plain to see. The suite hides
//! some of them from the host to see what it does without.

mod commands;
mod events;
mod later;
mod rewrite;
mod vm;

use resilience_host::calls::{self, Map};
use vm::Stream;

const CONTINUE: u32 = 0;
const PAUSE: u32 = 1;

// Without an `_initialize` of its own the linker wraps every export in the constructors and destructors of a program.
#[cfg(target_arch = "wasm32")]
unsafe extern "C" {
    fn __wasm_call_ctors();
}

/// Runs once, before anything else.
#[unsafe(no_mangle)]
pub extern "C" fn _initialize() {
    #[cfg(target_arch = "wasm32")]
    // SAFETY: the linker makes it, and the host calls this export once.
    unsafe {
        __wasm_call_ctors();
    }
}

/// The version of the ABI that the host must speak.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_abi_version_0_2_1() {}

/// Memory for what the host returns.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    calls::allocate(size)
}

/// A context begins: a root if it has no parent.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_context_create(id: u32, parent: u32) {
    if parent == 0 {
        vm::with(|vm| vm.add_root(id));
    } else {
        vm::with(|vm| vm.add_stream(id, parent));
    }
}

/// A root begins; the first of them is the beginning of the VM.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_vm_start(_root: u32, _size: usize) -> bool {
    vm::with(vm::Vm::start);
    true
}

/// A plugin of this VM is configured; its document is a list of commands.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_configure(root: u32, _size: usize) -> bool {
    let document = calls::plugin_configuration().unwrap_or_default();
    let document = String::from_utf8(document).expect("the suite writes text");
    vm::with(|vm| vm.configure(root, &document))
}

/// The timer of a root.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_tick(root: u32) {
    vm::with(|vm| vm.tick(root));
    later::tick(root);
}

/// Something is in a queue of this VM.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_queue_ready(root: u32, queue: u32) {
    while let Ok(Some(entry)) = calls::dequeue(calls::Queue(queue)) {
        let commands = String::from_utf8(entry).expect("the suite writes text");
        later::run("queue_ready", root, root, &commands);
    }
}

/// Runs the commands of the request.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_request_headers(id: u32, _headers: usize, end: bool) -> u32 {
    // The case's name is kept, because request headers cannot be read later.
    let case = read("x-case");
    vm::with(|vm| vm.stream(id).case = case);
    vm::with(|vm| vm.stream(id).whole = end);
    events::log(id, "request_headers");
    let commands = read("x-probe");
    if commands.is_empty() || vm::with(|vm| vm.deaf) {
        CONTINUE
    } else {
        commands::from_request(id, &commands)
    }
}

/// Only looks.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_request_body(id: u32, _size: usize, end: bool) -> u32 {
    look_at_request(id, "request_body", end)
}

/// Only looks.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_request_trailers(id: u32, _trailers: usize) -> u32 {
    look_at_request(id, "request_trailers", true)
}

fn look_at_request(id: u32, event: &str, end: bool) -> u32 {
    vm::with(|vm| vm.stream(id).whole = end);
    if vm::with(|vm| vm.bodies) {
        events::log(id, event);
    }
    CONTINUE
}

/// Hands back what the commands left for the response.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_response_headers(id: u32, _headers: usize, end: bool) -> u32 {
    vm::with(|vm| vm.stream(id).bodiless = end);
    events::log(id, "response_headers");
    let Stream { answer, on_response, .. } = vm::with(|vm| vm.stream(id).clone());
    if !answer.is_empty() {
        let _ = calls::add_header(Map::ResponseHeaders, "x-probe-answer", answer.join("|").as_bytes());
    }
    if on_response.is_empty() { CONTINUE } else { commands::on_response(id, &on_response) }
}

/// Looks, and does what was left for the answer.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_response_body(id: u32, _size: usize, end: bool) -> u32 {
    events::log(id, if end { "response_body_end" } else { "response_body" });
    rewrite::body(id, end)
}

/// Looks, and does what was left for the answer.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_response_trailers(id: u32, _trailers: usize) -> u32 {
    events::log(id, "response_trailers");
    rewrite::trailers(id);
    CONTINUE
}

/// Looks, and runs what was left for it.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_log(id: u32) {
    events::log(id, "log");
    later::end("log", id);
}

/// Looks, and runs what was left for it.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_done(id: u32) -> bool {
    events::log(id, "done");
    later::end("done", id);
    true
}

/// The context is gone after this.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_delete(id: u32) {
    events::log(id, "delete");
    later::end("delete", id);
    vm::with(|vm| vm.remove(id));
}

/// A request header as text, empty where there is none.
fn read(name: &str) -> String {
    let value = calls::header(Map::RequestHeaders, name).unwrap_or_default().unwrap_or_default();
    String::from_utf8(value).expect("the suite writes text")
}
