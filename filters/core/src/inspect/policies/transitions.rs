//! The latest changes of a breaker, as operators read them.

use crate::breaker::{Exceeded, Numbers, Tally, Transition};
use crate::inspect::Clock;
use serde::Serialize;

#[derive(Serialize)]
pub(super) struct Change {
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    age_ms: u64,
    from: &'static str,
    to: &'static str,
    cause: String,
    generation: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    numbers: Option<Decided>,
}

/// What decided; the words are those of the log lines.
#[derive(Serialize, Default)]
struct Decided {
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure_rate: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slow_call_rate: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    threshold: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    calls: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slow: Option<u32>,
}

impl Change {
    pub(super) fn new(transition: &Transition, clock: Clock) -> Self {
        let Transition { at, from, to, cause, generation, numbers } = transition;
        Self {
            at: clock.utc(*at),
            age_ms: clock.age(*at),
            from: from.name(),
            to: to.name(),
            cause: cause.to_string(),
            generation: *generation,
            numbers: Decided::new(numbers),
        }
    }
}

impl Decided {
    fn new(numbers: &Numbers) -> Option<Self> {
        Some(match numbers {
            Numbers::None => return None,
            Numbers::Count { count, limit } => {
                Self { count: Some(*count), limit: Some(*limit), ..Self::default() }
            }
            Numbers::Probes(tally) => Self::of(tally),
            Numbers::Rate { exceeded: Exceeded::Failures(threshold), tally } => Self {
                failure_rate: tally.failure_rate(0),
                threshold: Some(threshold.get()),
                ..Self::of(tally)
            },
            Numbers::Rate { exceeded: Exceeded::SlowCalls(threshold), tally } => Self {
                slow_call_rate: tally.slow_rate(0),
                threshold: Some(threshold.get()),
                ..Self::of(tally)
            },
        })
    }

    fn of(tally: &Tally) -> Self {
        let Tally { calls, failed, slow } = *tally;
        Self { calls: Some(calls), failed: Some(failed), slow: Some(slow), ..Self::default() }
    }
}
