//! A circuit breaker, as operators read it.

use super::transitions::Change;
use crate::breaker::{Closed, Evidence, HalfOpen, Percentage, Phase, Settings, State, Tally};
use crate::config::{BreakerMode, CircuitBreaker};
use crate::inspect::Clock;
use crate::worker::Reading;
use serde::Serialize;

#[derive(Serialize)]
pub(super) struct Breaker {
    mode: &'static str,
    state: &'static str,
    #[serde(flatten)]
    kept: Option<Kept>,
}

/// What a breaker keeps whose mode leaves it a state of its own.
#[derive(Serialize)]
struct Kept {
    /// Since when; missing where another version of the module has moved it on.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(flatten)]
    phase: InPhase,
    generation: u64,
    trips: u32,
    /// The latest, oldest first.
    transitions: Vec<Change>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum InPhase {
    Closed {
        /// How long an operator still holds it closed.
        #[serde(skip_serializing_if = "Option::is_none")]
        held_closed_remaining_ms: Option<u64>,
        /// What share of requests it lets in.
        #[serde(skip_serializing_if = "Option::is_none")]
        ramp_up_percent: Option<f64>,
        evidence: Counted,
    },
    Open {
        wait_remaining_ms: u64,
    },
    HalfOpen {
        half_open_remaining_ms: u64,
        probes: Probes,
    },
}

#[derive(Serialize)]
struct Probes {
    permitted: u32,
    in_flight: usize,
    answered: u32,
    failed: u32,
    slow: u32,
}

/// What has been counted, for each trigger that there is.
#[derive(Serialize)]
struct Counted {
    #[serde(skip_serializing_if = "Option::is_none")]
    consecutive_failures: Option<Count>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failures_in_window: Option<Count>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure_rate: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slow_call_rate: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<Calls>,
}

#[derive(Serialize)]
struct Count {
    count: usize,
    limit: u32,
}

#[derive(Serialize)]
struct Rate {
    /// `None` with too few calls.
    percent: Option<f32>,
    threshold: f32,
}

#[derive(Serialize)]
struct Calls {
    calls: u32,
    failed: u32,
    slow: u32,
    minimum: u32,
}

impl Breaker {
    pub(super) fn new(breaker: &CircuitBreaker, reading: Option<&Reading>, clock: Clock) -> Self {
        let state = match breaker.mode {
            BreakerMode::ForcedOpen | BreakerMode::ShadowForcedOpen => State::Open,
            BreakerMode::Disabled => State::Closed,
            BreakerMode::Enforce | BreakerMode::Shadow => {
                reading.map_or(State::Closed, |reading| reading.state.breaker.phase().state())
            }
        };
        let keeps = matches!(breaker.mode, BreakerMode::Enforce | BreakerMode::Shadow);
        let kept = reading.filter(|_| keeps).map(|reading| Kept::new(&breaker.settings, reading, clock));
        Self { mode: breaker.mode.name(), state: state.name(), kept }
    }
}

impl Kept {
    fn new(settings: &Settings, reading: &Reading, clock: Clock) -> Self {
        let breaker = &reading.state.breaker;
        let phase = match breaker.phase() {
            Phase::Closed(closed) => closed_now(closed, settings, clock),
            Phase::Open { until } => InPhase::Open { wait_remaining_ms: clock.until(*until) },
            Phase::HalfOpen(probing) => InPhase::HalfOpen {
                half_open_remaining_ms: clock.until(probing.until),
                probes: Probes::new(probing),
            },
        };
        let transitions = reading.state.history.transitions();
        let last = transitions.last().filter(|last| last.generation == breaker.generation());
        Self {
            since: last.and_then(|last| clock.utc(last.at)),
            phase,
            generation: breaker.generation(),
            trips: breaker.trips(),
            transitions: transitions.iter().map(|transition| Change::new(transition, clock)).collect(),
        }
    }
}

fn closed_now(closed: &Closed, settings: &Settings, clock: Clock) -> InPhase {
    let held = closed.held_until.filter(|_| closed.is_held(clock.now));
    let share = closed.ramp_share(settings, clock.now);
    InPhase::Closed {
        held_closed_remaining_ms: held.map(|until| clock.until(until)),
        ramp_up_percent: share.map(|share| (share * 1000.0).round() / 10.0),
        evidence: Counted::new(&closed.evidence, settings, clock),
    }
}

impl Probes {
    fn new(probing: &HalfOpen) -> Self {
        let Tally { calls, failed, slow } = probing.answers;
        Self { permitted: probing.permitted, in_flight: probing.probes.len(), answered: calls, failed, slow }
    }
}

impl Counted {
    fn new(evidence: &Evidence, settings: &Settings, clock: Clock) -> Self {
        let consecutive = |limit| {
            let count = usize::try_from(evidence.consecutive()).unwrap_or(usize::MAX);
            Count { count, limit }
        };
        let in_window = settings.failures_in_window.map(|trigger| Count {
            count: evidence.failures_within(trigger.window, clock.now),
            limit: trigger.failures.into(),
        });
        let tally = evidence.tally(clock.now);
        let minimum = settings.rates.map_or(0, |rates| rates.minimum_in_closed());
        let rate = |percent: Option<f32>, threshold: Option<Percentage>| {
            threshold.map(|threshold| Rate { percent, threshold: threshold.get() })
        };
        let rates = settings.rates;
        Self {
            consecutive_failures: settings.consecutive_failures.map(consecutive),
            failures_in_window: in_window,
            failure_rate: rates.and_then(|it| rate(tally.failure_rate(minimum), it.failure_rate_threshold)),
            slow_call_rate: rates.and_then(|it| rate(tally.slow_rate(minimum), it.slow_call_rate_threshold)),
            window: rates.map(|_| {
                let Tally { calls, failed, slow } = tally;
                Calls { calls, failed, slow, minimum }
            }),
        }
    }
}
