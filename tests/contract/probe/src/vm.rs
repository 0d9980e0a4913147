//! What a VM of the probe knows: its number, its roots, its streams.

use crate::commands;
use crate::rewrite::Rewrite;
use resilience_host::calls::{self, Metric, MetricKind};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

thread_local! {
    static VM: RefCell<Vm> = RefCell::default();
}

/// Runs `f` on this VM. Not re-entrant: the host may call back in during a host call that wakes a queue of ours.
pub(crate) fn with<T>(f: impl FnOnce(&mut Vm) -> T) -> T {
    VM.with_borrow_mut(f)
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Stream {
    /// The root it belongs to.
    pub(crate) root: u32,
    /// Value of `x-case`; empty where the request was never seen.
    pub(crate) case: String,
    /// Whether the last callback of the request was told that it is the last.
    pub(crate) whole: bool,
    /// What the commands answered, for the response headers.
    pub(crate) answer: Vec<String>,
    /// Commands that wait for the response headers.
    pub(crate) on_response: String,
    /// What waits for the body and the trailers of the answer.
    pub(crate) rewrite: Option<Rewrite>,
    /// Whether the headers of the answer are all of it.
    pub(crate) bodiless: bool,
    /// Commands that wait for a callback at its end, by its name.
    pub(crate) at_end: HashMap<String, String>,
}

#[derive(Debug, Default)]
pub(crate) struct Vm {
    /// Unique among the VMs of this `vm_id`.
    pub(crate) number: u32,
    /// Name of each root's plugin, from its document.
    pub(crate) roots: HashMap<u32, String>,
    /// Roots that stop their timer when they are deleted.
    pub(crate) stops: HashSet<u32>,
    /// Whether the plugins of this VM only look.
    pub(crate) deaf: bool,
    /// Whether bodies and trailers of requests are logged.
    pub(crate) bodies: bool,
    pub(crate) streams: HashMap<u32, Stream>,
    /// Commands that wait for a tick, with the plugin whose tick it is.
    pub(crate) at_tick: Vec<(String, String)>,
    /// How often each plugin ticked.
    pub(crate) ticks: HashMap<String, u64>,
}

impl Vm {
    pub(crate) fn add_root(&mut self, id: u32) {
        self.roots.insert(id, String::new());
    }

    pub(crate) fn add_stream(&mut self, id: u32, root: u32) {
        self.streams.insert(id, Stream { root, ..Stream::default() });
    }

    pub(crate) fn remove(&mut self, id: u32) {
        self.streams.remove(&id);
        if self.roots.remove(&id).is_some() {
            count("probe_roots_deleted");
        }
        if self.stops.remove(&id) {
            calls::set_tick_period(0).expect("a timer");
        }
    }

    pub(crate) fn stream(&mut self, id: u32) -> &mut Stream {
        self.streams.get_mut(&id).expect("the host names a stream it created")
    }

    /// Takes the next free number of this `vm_id`, as a module would take a slot.
    pub(crate) fn start(&mut self) {
        count("probe_started");
        if self.number != 0 {
            return;
        }
        loop {
            let (number, cas) = match calls::shared_data(b"vms").expect("shared data") {
                Some((bytes, cas)) => (String::from_utf8(bytes).unwrap().parse().unwrap(), cas),
                None => (0, u32::MAX),
            };
            self.number = number + 1;
            if calls::set_shared_data(b"vms", self.number.to_string().as_bytes(), cas).is_ok() {
                return;
            }
        }
    }

    /// Runs a plugin's document: `name=...` names it, `tick=...` starts its timer, `stop` ends that when the root is deleted,
    /// `queue` registers the queue of this VM, `reject` refuses the configuration, `deaf` makes this VM ignore the
    /// commands of requests, `bodies` makes it log their bodies and trailers, `put=...` writes shared data.
    pub(crate) fn configure(&mut self, root: u32, document: &str) -> bool {
        let mut accepted = true;
        for (word, value) in
            document.split_whitespace().map(|word| word.split_once('=').unwrap_or((word, "")))
        {
            match word {
                "name" => {
                    self.roots.insert(root, value.to_owned());
                    count(&format!("probe_configured_{value}"));
                }
                "tick" => calls::set_tick_period(value.parse().expect("milliseconds")).expect("a timer"),
                "stop" => drop(self.stops.insert(root)),
                "queue" => drop(calls::register_queue(&commands::queue_name(self.number)).expect("a queue")),
                "deaf" => self.deaf = true,
                "bodies" => self.bodies = true,
                "reject" => accepted = false,
                "put" => calls::set_shared_data(b"configured", value.as_bytes(), 0).expect("shared data"),
                _ => panic!("configuration: {word}"),
            }
        }
        accepted
    }

    pub(crate) fn tick(&mut self, root: u32) {
        let plugin = self.roots[&root].clone();
        count(&format!("probe_ticks_{plugin}_{}", self.number));
        *self.ticks.entry(plugin).or_default() += 1;
    }
}

fn count(metric: &str) {
    Metric::define(MetricKind::Counter, metric).and_then(|metric| metric.increment(1)).expect("a counter");
}
