//! The names of our metrics, as `interface` promises them.
//!
//! A name carries its labels in Graphite's form, `name;label=value;label=value`; the bundle's `stats_config` turns them into
//! labels of Prometheus, and a StatsD sink passes them on as they are.

#[cfg(test)]
mod tests;

use crate::answer::{Reason, Source};
use crate::breaker::{Cause, Outcome, State};
use crate::worker::Operation;

/// The value of a label that does not apply.
const NONE: &str = "_";

/// Requests of a policy that were let through, by what they proved.
#[must_use]
pub fn calls(policy: &str, outcome: Outcome) -> String {
    let outcome = match outcome {
        Outcome::Success => "success",
        Outcome::Failure => "failure",
        Outcome::Ignored => "ignored",
    };
    format!("resilience_calls_total;policy={policy};outcome={outcome};slow=false")
}

/// Requests refused.
#[must_use]
pub fn rejections(policy: &str, reason: Reason) -> String {
    format!("resilience_rejections_total;policy={policy};reason={reason};class={NONE}")
}

/// The breaker's state: 0 closed, 1 half-open, 2 open.
#[must_use]
pub fn breaker_state(policy: &str) -> String {
    format!("resilience_circuit_breaker_state;policy={policy};key={NONE}")
}

/// The breaker's transitions.
#[must_use]
pub fn transitions(policy: &str, to: State, cause: Cause) -> String {
    format!("resilience_circuit_breaker_transitions_total;policy={policy};to={to};cause={cause}")
}

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
pub fn changes(policy: &str) -> String {
    format!("resilience_store_changes_total;policy={policy}")
}
