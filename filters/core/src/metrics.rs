//! The names of our metrics, as `interface` promises them.
//!
//! A name carries its labels in Graphite's form, `name;label=value;label=value`; the bundle's `stats_config` turns them into
//! labels of Prometheus, and a StatsD sink passes them on as they are.

#[cfg(test)]
mod tests;

use crate::answer::{Reason, Source};
use crate::breaker::{Cause, Outcome, State};
use crate::retry::Denied;
use crate::worker::Operation;

/// The value of a label that does not apply.
const NONE: &str = "_";

/// Requests of a policy that were let through, by what they proved.
#[must_use]
pub fn calls(policy: &str, outcome: Outcome) -> String {
    let (slow, outcome) = (outcome.is_slow(), outcome_label(outcome));
    format!("resilience_calls_total;policy={policy};outcome={outcome};slow={slow}")
}

const fn outcome_label(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Success | Outcome::SlowSuccess => "success",
        Outcome::Failure | Outcome::SlowFailure => "failure",
        Outcome::Ignored => "ignored",
    }
}

/// Requests refused; `class` where the policy tells classes apart.
#[must_use]
pub fn rejections(policy: &str, reason: Reason, class: Option<&str>) -> String {
    let class = class.unwrap_or(NONE);
    format!("resilience_rejections_total;policy={policy};reason={reason};class={class}")
}

/// Calls in flight through a bulkhead.
#[must_use]
pub fn in_flight(policy: &str) -> String {
    format!("resilience_bulkhead_in_flight;policy={policy}")
}

/// How many calls a bulkhead lets be in flight.
#[must_use]
pub fn limit(policy: &str) -> String {
    format!("resilience_bulkhead_limit;policy={policy}")
}

/// Requests that wait for a permit.
#[must_use]
pub fn waiting(policy: &str) -> String {
    format!("resilience_bulkhead_waiting;policy={policy}")
}

/// How long requests waited for a permit.
#[must_use]
pub fn waits(policy: &str) -> String {
    format!("resilience_bulkhead_wait_milliseconds;policy={policy}")
}

/// The breaker's state: 0 closed, 1 half-open, 2 open. `key` is empty for the policy's own.
#[must_use]
pub fn breaker_state(policy: &str, key: &str) -> String {
    let key = if key.is_empty() { NONE } else { key };
    format!("resilience_circuit_breaker_state;policy={policy};key={key}")
}

/// A key, or a namespace, as a label's value: what would end the value, or the line, becomes an underscore.
#[must_use]
pub fn key_label(key: &[u8]) -> String {
    let plain =
        |letter: char| if letter.is_ascii_graphic() && !matches!(letter, ';' | '=') { letter } else { '_' };
    String::from_utf8_lossy(key).chars().map(plain).collect()
}

/// Requests that had to share a policy's breaker because it had no key left.
#[must_use]
pub fn keys_exhausted(policy: &str) -> String {
    format!("resilience_keys_exhausted_total;policy={policy}")
}

/// Requests that went by another route than the one whose name they were matched by.
#[must_use]
pub fn stale_routes(policy: &str) -> String {
    format!("resilience_stale_routes_total;policy={policy}")
}

/// The breaker's transitions.
#[must_use]
pub fn transitions(policy: &str, to: State, cause: Cause) -> String {
    format!("resilience_circuit_breaker_transitions_total;policy={policy};to={to};cause={cause}")
}

/// How many milliseconds breakers of a policy were open, counted when they leave that state.
#[must_use]
pub fn open_milliseconds(policy: &str) -> String {
    format!("resilience_circuit_breaker_open_milliseconds_total;policy={policy}")
}

/// How long a policy's outages lasted: from the trip until the probes closed the breaker.
#[must_use]
pub fn recovery(policy: &str) -> String {
    format!("resilience_circuit_breaker_recovery_milliseconds;policy={policy}")
}

/// Probes that ended, by what they proved.
#[must_use]
pub fn probes(policy: &str, outcome: Outcome) -> String {
    let outcome = outcome_label(outcome);
    format!("resilience_circuit_breaker_probes_total;policy={policy};outcome={outcome}")
}

/// What a VM held that died; the label `kind` of [`leases_reclaimed`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lease {
    /// The place of a probe.
    Probe,
    /// A bulkhead's permit.
    Permit,
    /// A retry kept of a budget.
    Retry,
}

impl Lease {
    const fn name(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Permit => "permit",
            Self::Retry => "retry",
        }
    }
}

/// What was given back that VMs had held that died.
#[must_use]
pub fn leases_reclaimed(policy: &str, kind: Lease) -> String {
    format!("resilience_leases_reclaimed_total;policy={policy};kind={}", kind.name())
}

/// The how manieth configuration of a namespace is the newest.
#[must_use]
pub fn configuration_generation(namespace: &str) -> String {
    format!("resilience_configuration_generation;namespace={}", key_label(namespace.as_bytes()))
}

/// VMs that began to serve.
pub const VM_STARTS: &str = "resilience_vm_starts_total";

/// VMs of a namespace that fell silent and never said that they go.
#[must_use]
pub fn vm_deaths(namespace: &str) -> String {
    format!("resilience_vm_deaths_total;namespace={}", key_label(namespace.as_bytes()))
}

/// Writes of metrics that were not made because a VM had defined as many as it may.
pub const DROPPED: &str = "resilience_metrics_dropped_total";

/// Answers made by a fallback.
#[must_use]
pub fn fallbacks(policy: &str, reason: Reason, source: Source) -> String {
    format!("resilience_fallbacks_total;policy={policy};reason={reason};source={source}")
}

/// Requests that a pattern in shadow mode would have refused.
#[must_use]
pub fn shadow_decisions(policy: &str, reason: Reason) -> String {
    format!("resilience_shadow_decisions_total;policy={policy};reason={reason}")
}

/// How many retries there are that are kept for nobody.
#[must_use]
pub fn balance(policy: &str) -> String {
    format!("resilience_retry_budget_balance;policy={policy}")
}

/// Retries that were made.
#[must_use]
pub fn retries_granted(policy: &str) -> String {
    format!("resilience_retries_total;policy={policy};decision=granted")
}

/// Requests that failed and were not retried, or not again, because that was denied.
#[must_use]
pub fn retries_denied(policy: &str) -> String {
    format!("resilience_retries_total;policy={policy};decision=denied")
}

/// The same by what denied it.
#[must_use]
pub fn denials(policy: &str, reason: Denied) -> String {
    format!("resilience_retries_denied_total;policy={policy};reason={reason}")
}

/// Requests that were retried more often than a budget in shadow mode would have granted.
#[must_use]
pub fn shadow_denials(policy: &str) -> String {
    format!("resilience_shadow_decisions_total;policy={policy};reason=retry_denied")
}

/// Writes of others that got in between.
#[must_use]
pub fn conflicts(operation: Operation) -> String {
    format!("resilience_store_conflicts_total;operation={}", operation.name())
}

/// Operations that could not be done.
#[must_use]
pub fn give_ups(operation: Operation) -> String {
    format!("resilience_store_give_ups_total;operation={}", operation.name())
}

/// How often a policy's shared state was written: tells a worker at the price of a counter that what it read still holds.
#[must_use]
pub fn changes(policy: &str, key: &str) -> String {
    let key = if key.is_empty() { NONE } else { key };
    format!("resilience_store_changes_total;policy={policy};key={key}")
}
