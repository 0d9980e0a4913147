//! The world of a worker, made of host calls.

use crate::calls::{self, Level, Queue, Status};
use crate::facts::request_id;
use crate::metrics::{PolicyMetrics, process, shows_unused, store};
use resilience_core::breaker::{Cause, State};
use resilience_core::bulkhead::Wake;
use resilience_core::config::Document;
use resilience_core::metrics::Lease;
use resilience_core::store::{Expected, PutError, Store, Unavailable, Versioned};
use resilience_core::worker::{Event, Port, Target};

/// On a missing key any number creates; on one that exists this one does not fit (but for one value in four billion, written
/// by whoever got there first a moment ago), so it creates only what is absent.
const ONLY_IF_ABSENT: u32 = u32::MAX;

/// A worker's access to shared data, metrics and the log.
pub(crate) struct HostPort<'a> {
    pub(crate) document: &'a Document,
    pub(crate) policies: &'a mut [PolicyMetrics],
    pub(crate) asker: Asker<'a>,
}

/// Which request leads to what is told.
#[derive(Clone, Copy)]
pub(crate) enum Asker<'a> {
    /// None.
    Nobody,
    /// The current one, whose headers can be read.
    Current,
    /// One whose identity was read when it came, if that was foreseen.
    Earlier(Option<&'a str>),
}

impl Asker<'_> {
    /// What a line says of it.
    fn request_id(self) -> Option<String> {
        match self {
            Self::Nobody => None,
            Self::Current => request_id(),
            Self::Earlier(id) => id.map(str::to_owned),
        }
    }
}

/// Reads shared data.
pub(crate) fn read(key: &[u8]) -> Result<Option<Versioned>, Unavailable> {
    let found = calls::shared_data(key).map_err(|_| Unavailable)?;
    Ok(found.map(|(bytes, version)| Versioned { bytes, version }))
}

impl HostPort<'_> {
    /// A policy, or a key of it, as log lines name it.
    pub(crate) fn name(&self, target: Target) -> String {
        let policy = self.document.policies.get(target.policy).map_or("", |policy| policy.name.as_str());
        let key = self.policies.get(target.policy).map_or("", |metrics| metrics.key(target.key));
        if key.is_empty() { format!("policy {policy}") } else { format!("policy {policy}, key {key}") }
    }

    fn metrics(&mut self, policy: usize, act: impl FnOnce(&mut PolicyMetrics)) {
        if let Some(metrics) = self.policies.get_mut(policy) {
            act(metrics);
        }
    }
}

impl Store for HostPort<'_> {
    fn get(&mut self, key: &[u8]) -> Result<Option<Versioned>, Unavailable> {
        read(key)
    }

    fn put(&mut self, key: &[u8], bytes: &[u8], expected: Expected) -> Result<(), PutError> {
        let cas = match expected {
            Expected::Absent => ONLY_IF_ABSENT,
            // The host never gives out 0, which would overwrite whatever is there.
            Expected::Version(0) => return Err(PutError::Unavailable),
            Expected::Version(version) => version,
        };
        calls::set_shared_data(key, bytes, cas).map_err(|status| match status {
            Status::CAS_MISMATCH => PutError::Conflict,
            _ => PutError::Unavailable,
        })
    }
}

impl Port for HostPort<'_> {
    fn changes(&mut self, target: Target) -> Option<u64> {
        self.policies.get_mut(target.policy)?.changes(target.key)
    }

    fn changed(&mut self, target: Target) {
        self.metrics(target.policy, |metrics| metrics.changed(target.key));
    }

    fn introduce(&mut self, target: Target, key: &[u8]) {
        self.metrics(target.policy, |metrics| metrics.introduce(target.key, key));
    }

    fn listen(&mut self, name: &str) -> Option<u32> {
        let registered = calls::register_queue(name);
        if let Err(status) = registered {
            let harm = "requests that wait hear of their turn on the next tick only";
            calls::log(Level::Warn, &format!("the shared queue {name} cannot be had, {harm}: {status}"));
        }
        registered.ok().map(|Queue(token)| token)
    }

    fn wake(&mut self, wake: Wake) {
        if let Err(status) = calls::enqueue(Queue(wake.queue), &wake.id.to_le_bytes()) {
            calls::log(
                Level::Debug,
                &format!("a worker could not be woken, it will look by itself: {status}"),
            );
        }
    }

    fn shows_unused(&self) -> bool {
        shows_unused()
    }

    fn report(&mut self, event: Event) {
        match event {
            Event::Transition { target, transition, lasted } => {
                self.metrics(target.policy, |metrics| metrics.transition(target.key, &transition, lasted));
                let level = match (transition.to, transition.cause) {
                    (State::Open, _) | (_, Cause::Forced) => Level::Warn,
                    _ => Level::Info,
                };
                let id = self.asker.request_id().map(|id| format!(" request_id={id}")).unwrap_or_default();
                calls::log(level, &format!("{}: circuit breaker {transition}{id}", self.name(target)));
            }
            Event::Observed { target, state } => {
                self.metrics(target.policy, |metrics| metrics.show(target.key, state));
            }
            Event::Crowd { policy, in_flight, waiting, limit } => {
                self.metrics(policy, |metrics| metrics.crowd(in_flight, waiting, limit));
            }
            Event::Balance { policy, retries } => self.metrics(policy, |metrics| metrics.balance(retries)),
            Event::Conflicts { operation, count } => store::conflicts(operation, count),
            Event::GaveUp { operation } => store::gave_up(operation),
            Event::Reigns { generation } => {
                process::reigns(&self.document.namespace, generation);
                // It is there before the first of them dies.
                process::vms_died(&self.document.namespace, 0);
            }
            Event::Lost { vms } => {
                process::vms_died(&self.document.namespace, vms);
                calls::log(Level::Warn, &format!("{vms} of the workers' VMs died, or stood still for long"));
            }
            Event::KeysExhausted { policy } => self.metrics(policy, PolicyMetrics::keys_exhausted),
            Event::Reclaimed { target, probes, permits, retries } => {
                let name = self.name(target);
                let probes = u32::try_from(probes).unwrap_or(u32::MAX);
                self.metrics(target.policy, |metrics| {
                    metrics.reclaimed(Lease::Probe, probes);
                    metrics.reclaimed(Lease::Permit, permits);
                    metrics.reclaimed(Lease::Retry, retries);
                });
                let kinds = [(probes, "probes"), (permits, "permits"), (retries, "retries (as made)")];
                let held = kinds.iter().filter(|(count, _)| *count > 0);
                let held: Vec<_> = held.map(|(count, kind)| format!("{count} {kind}")).collect();
                let held = held.join(" and ");
                let message = format!("{name}: gave back {held} of workers that show no sign of life");
                calls::log(Level::Warn, &message);
            }
        }
    }
}
