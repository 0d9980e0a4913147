//! The world of a worker, made of host calls.

use crate::calls::{self, Level, Status};
use crate::metrics::{PolicyMetrics, store};
use resilience_core::breaker::State;
use resilience_core::config::Policy;
use resilience_core::store::{Expected, PutError, Store, Unavailable, Versioned};
use resilience_core::worker::{Event, Port};

/// On a missing key any number creates; on one that exists this one does not fit (but for one value in four billion, written
/// by whoever got there first a moment ago), so it creates only what is absent.
const ONLY_IF_ABSENT: u32 = u32::MAX;

/// A worker's access to shared data and metrics.
pub(crate) struct HostPort<'a> {
    pub(crate) names: &'a [Policy],
    pub(crate) policies: &'a mut [PolicyMetrics],
}

impl HostPort<'_> {
    fn name(&self, policy: usize) -> &str {
        self.names.get(policy).map_or("", |policy| policy.name.as_str())
    }
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
                    State::Open => Level::Warn,
                    _ => Level::Info,
                };
                let name = self.name(policy);
                calls::log(level, &format!("policy {name}: circuit breaker {transition}"));
            }
            Event::Observed { policy, state } => {
                if let Some(metrics) = self.policies.get_mut(policy) {
                    metrics.show(state);
                }
            }
            Event::Conflicts { operation, count } => store::conflicts(operation, count),
            Event::GaveUp { operation } => store::gave_up(operation),
            Event::Reclaimed { policy, count } => {
                let name = self.name(policy);
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
