//! The world of a worker, made of host calls.

use crate::calls::{self, Level, Status};
use crate::metrics::{PolicyMetrics, StoreMetrics};
use resilience_core::store::{Expected, PutError, Store, Unavailable, Versioned};
use resilience_core::worker::{Event, Port};

/// On a missing key any number creates; on one that exists this one never fits, so it creates only what is absent.
const ONLY_IF_ABSENT: u32 = u32::MAX;

/// A worker's access to shared data and metrics.
pub(crate) struct HostPort<'a> {
    pub(crate) policies: &'a mut [PolicyMetrics],
    pub(crate) store: &'a mut StoreMetrics,
    pub(crate) names: &'a dyn Fn(usize) -> &'a str,
}

impl Store for HostPort<'_> {
    fn get(&mut self, key: &[u8]) -> Result<Option<Versioned>, Unavailable> {
        let found = calls::shared_data(key).map_err(|_| Unavailable)?;
        Ok(found.map(|(bytes, version)| Versioned { bytes, version }))
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
    fn changes(&mut self, policy: usize) -> Option<u64> {
        self.policies.get_mut(policy)?.changes()
    }

    fn changed(&mut self, policy: usize) {
        if let Some(metrics) = self.policies.get_mut(policy) {
            metrics.changed();
        }
    }

    fn report(&mut self, event: Event) {
        match event {
            Event::Transition { policy, transition } => {
                if let Some(metrics) = self.policies.get_mut(policy) {
                    metrics.transition(&transition);
                }
                let level = match transition.to {
                    resilience_core::breaker::State::Open => Level::Warn,
                    _ => Level::Info,
                };
                let name = (self.names)(policy);
                calls::log(level, &format!("policy {name}: circuit breaker {transition}"));
            }
            Event::Observed { policy, state } => {
                if let Some(metrics) = self.policies.get_mut(policy) {
                    metrics.show(state);
                }
            }
            Event::Conflicts { operation, count } => self.store.conflicts(operation, count),
            Event::GaveUp { operation } => self.store.gave_up(operation),
            Event::Reclaimed { policy, count } => {
                let name = (self.names)(policy);
                calls::log(
                    Level::Warn,
                    &format!(
                        "policy {name}: gave back {count} probes of a worker that shows no sign of life"
                    ),
                );
            }
        }
    }
}
