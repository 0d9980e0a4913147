//! The circuit breaker: plain data and pure transitions.
//!
//! Names and the order of states follow Resilience4j; generations follow sony/gobreaker: an outcome that was admitted
//! under an older generation is evidence about a state that is gone, and is dropped.

mod codec;
mod evidence;
#[cfg(test)]
mod half_open_tests;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
mod transition;

pub use evidence::Evidence;
pub use transition::{Cause, State, Transition};

use crate::planted::{Bug, active};
use crate::time::Timestamp;
use std::time::Duration;

/// The longest wait, stay or window that a configuration may ask for.
pub const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
/// No state lasts longer than this. Far beyond [`LONGEST`]: another version of the module may allow more, and another
/// worker's clock reading may be later than the one that judges.
const PLAUSIBLE: Duration = Duration::from_secs(366 * 24 * 3600);
/// No breaker remembers more failures, or permits more probes. Beyond what a configuration may ask for, too, and within
/// what its bytes can say of their own length.
const MOST: u16 = 4096;

/// When a breaker trips and how it comes back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Trip after this many failures with no success between them.
    pub consecutive_failures: Option<u32>,
    /// Trip after this many failures within a span of time.
    pub failures_in_window: Option<FailuresInWindow>,
    /// How long an open breaker refuses before it probes.
    pub wait_duration_in_open_state: Duration,
    /// How many probes a half-open breaker admits in total, over all workers.
    pub permitted_number_of_calls_in_half_open_state: u32,
    /// How long a breaker may stay half-open before it opens again.
    pub max_wait_duration_in_half_open_state: Duration,
}

/// The trigger `failures_in_window`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FailuresInWindow {
    /// How many failures.
    pub failures: u16,
    /// Within what span, its end included.
    pub window: Duration,
}

/// The identity of a worker's VM in what it holds. Never reused while shared state lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Owner(pub u64);

/// A request that was admitted while the breaker was half-open and has not answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    /// Who sent it.
    pub owner: Owner,
    /// Which of the breaker's probes it is. Unique, so that a late release of a reclaimed probe finds nothing.
    pub id: u32,
}

/// Where a breaker is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Traffic flows.
    Closed(Evidence),
    /// Traffic is refused.
    Open {
        /// The last moment of the wait: refusal ends strictly after it, as in Resilience4j.
        until: Timestamp,
    },
    /// A few requests are let through to find out.
    HalfOpen {
        /// The last moment of the bounded stay.
        until: Timestamp,
        /// Probes in total. Fixed when the state was entered, so that two configurations cannot disagree.
        permitted: u32,
        /// How many probes have succeeded.
        succeeded: u32,
        /// The probes that have not answered yet.
        probes: Vec<Probe>,
    },
}

impl Phase {
    /// The phase without its data.
    #[must_use]
    pub const fn state(&self) -> State {
        match self {
            Self::Closed(_) => State::Closed,
            Self::Open { .. } => State::Open,
            Self::HalfOpen { .. } => State::HalfOpen,
        }
    }
}

/// What one request proved about the upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It answered well.
    Success,
    /// It failed.
    Failure,
    /// Nothing was proved.
    Ignored,
}

/// The right to report an outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// The breaker's generation at admission.
    pub generation: u64,
    /// The probe this request is, if the breaker was half-open.
    pub probe: Option<Probe>,
}

/// The answer to a request that wants in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Call the upstream and report what came of it.
    Admitted(Ticket),
    /// Do not call the upstream.
    Refused {
        /// The rest of the wait; `None` where it depends on probes, not on time.
        wait: Option<Duration>,
    },
}

/// What became of a reported outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recorded {
    /// It was taken into account.
    Counted,
    /// It was dropped: the state it was admitted under is gone.
    Stale,
    /// It was dropped: its probe had been given back, so somebody else may have taken the place.
    Reclaimed,
}

/// A circuit breaker's shared state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Breaker {
    phase: Phase,
    generation: u64,
    next_probe: u32,
}

impl Breaker {
    /// A closed breaker. `generation` must be one that no ticket in flight can carry.
    #[must_use]
    pub const fn closed(generation: u64) -> Self {
        Self { phase: Phase::Closed(Evidence::EMPTY), generation, next_probe: 0 }
    }

    /// Where the breaker is.
    #[must_use]
    pub const fn phase(&self) -> &Phase {
        &self.phase
    }

    /// A number that grows with each transition.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether this is a state that some configuration can have led to. Bytes can be well-formed and still keep a breaker
    /// from ever coming back.
    #[must_use]
    pub fn is_plausible(&self, now: Timestamp) -> bool {
        match &self.phase {
            Phase::Closed(evidence) => evidence.capacity() <= MOST,
            Phase::Open { until } => until.since(now) <= PLAUSIBLE,
            Phase::HalfOpen { until, permitted, succeeded, probes } => {
                let left_to_prove = succeeded < permitted && taken(*succeeded, probes) <= *permitted;
                until.since(now) <= PLAUSIBLE && left_to_prove && *permitted <= u32::from(MOST)
            }
        }
    }

    /// The last moment of a half-open stay in which every place is taken.
    #[must_use]
    pub fn full_until(&self) -> Option<Timestamp> {
        match &self.phase {
            Phase::HalfOpen { until, permitted, succeeded, probes } => {
                (taken(*succeeded, probes) >= *permitted).then_some(*until)
            }
            Phase::Closed(_) | Phase::Open { .. } => None,
        }
    }

    /// Whether another success would change nothing.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        matches!(&self.phase, Phase::Closed(evidence) if evidence.consecutive() == 0)
    }

    /// Decides over one request at `now`. Only this ends an open wait, as in Resilience4j.
    pub fn admit(
        &mut self,
        settings: &Settings,
        owner: Owner,
        now: Timestamp,
        transitions: &mut Vec<Transition>,
    ) -> Admission {
        self.settle(settings, now, transitions);
        let over = |until| now > until || (now == until && active(Bug::InclusiveWait));
        if matches!(self.phase, Phase::Open { until } if over(until)) {
            self.half_open(settings, now, transitions);
        }
        let generation = self.generation;
        match &mut self.phase {
            Phase::Closed(_) => Admission::Admitted(Ticket { generation, probe: None }),
            Phase::Open { until } => Admission::Refused { wait: Some(until.since(now)) },
            Phase::HalfOpen { permitted, succeeded, probes, .. } => {
                let asked = settings.permitted_number_of_calls_in_half_open_state;
                let permitted = if active(Bug::PermittedByAsker) { asked } else { *permitted };
                if taken(*succeeded, probes) >= permitted {
                    return Admission::Refused { wait: None };
                }
                let probe = Probe { owner, id: self.next_probe };
                self.next_probe = self.next_probe.wrapping_add(1);
                probes.push(probe);
                Admission::Admitted(Ticket { generation, probe: Some(probe) })
            }
        }
    }

    /// Counts an outcome, or hands a probe back that proved nothing.
    pub fn record(
        &mut self,
        settings: &Settings,
        ticket: &Ticket,
        outcome: Outcome,
        now: Timestamp,
        transitions: &mut Vec<Transition>,
    ) -> Recorded {
        self.settle(settings, now, transitions);
        if ticket.generation != self.generation && !active(Bug::NoGenerationCheck) {
            return Recorded::Stale;
        }
        match &mut self.phase {
            Phase::Closed(evidence) => {
                evidence.record(outcome, now, settings.failures_in_window);
                // Only a failure trips: under another configuration's stricter limit, what is remembered may be past it
                // already, and a good answer is no reason to open.
                if outcome == Outcome::Failure
                    && let Some((cause, count)) = evidence.tripped(settings, now)
                {
                    self.open(settings, now, cause, count, transitions);
                }
                Recorded::Counted
            }
            Phase::Open { .. } => Recorded::Stale,
            Phase::HalfOpen { permitted, succeeded, probes, .. } => {
                let place = probes.iter().position(|probe| Some(*probe) == ticket.probe);
                let any = (active(Bug::ReleasedTwice) && !probes.is_empty()).then_some(0);
                let Some(place) = place.or(any) else {
                    return Recorded::Reclaimed;
                };
                probes.swap_remove(place);
                match outcome {
                    Outcome::Ignored => {}
                    Outcome::Failure => self.open(settings, now, Cause::Probes, 1, transitions),
                    Outcome::Success => {
                        *succeeded = succeeded.saturating_add(1);
                        if *succeeded >= *permitted {
                            let count = *succeeded;
                            self.close(count, transitions);
                        }
                    }
                }
                Recorded::Counted
            }
        }
    }

    /// Gives back every probe whose owner `is_dead`; returns how many.
    pub fn reclaim(&mut self, mut is_dead: impl FnMut(Owner) -> bool) -> usize {
        let Phase::HalfOpen { probes, .. } = &mut self.phase else { return 0 };
        let before = probes.len();
        probes.retain(|probe| !is_dead(probe.owner));
        before.saturating_sub(probes.len())
    }

    /// Applies what time alone decides: the end of the bounded stay in half-open. The new wait begins when the stay
    /// ended, however late anybody looks.
    pub fn settle(&mut self, settings: &Settings, now: Timestamp, transitions: &mut Vec<Transition>) {
        if let Phase::HalfOpen { until, .. } = self.phase
            && now > until
            && !active(Bug::EndlessStay)
        {
            self.open(settings, until, Cause::HalfOpenTimeout, 0, transitions);
        }
    }

    fn open(
        &mut self,
        settings: &Settings,
        at: Timestamp,
        cause: Cause,
        count: u32,
        transitions: &mut Vec<Transition>,
    ) {
        let until = at.after(settings.wait_duration_in_open_state);
        self.enter(Phase::Open { until }, cause, count, transitions);
    }

    fn half_open(&mut self, settings: &Settings, now: Timestamp, transitions: &mut Vec<Transition>) {
        let phase = Phase::HalfOpen {
            until: now.after(settings.max_wait_duration_in_half_open_state),
            permitted: settings.permitted_number_of_calls_in_half_open_state,
            succeeded: 0,
            probes: Vec::new(),
        };
        self.enter(phase, Cause::WaitOver, 0, transitions);
    }

    fn close(&mut self, count: u32, transitions: &mut Vec<Transition>) {
        self.enter(Phase::Closed(Evidence::EMPTY), Cause::Probes, count, transitions);
    }

    fn enter(&mut self, phase: Phase, cause: Cause, count: u32, transitions: &mut Vec<Transition>) {
        self.generation = self.generation.wrapping_add(1);
        transitions.push(Transition {
            from: self.phase.state(),
            to: phase.state(),
            cause,
            generation: self.generation,
            count,
        });
        self.phase = phase;
    }
}

/// How many of the permitted probes are used up: those that answered well and those still out. One that proved nothing
/// or was reclaimed is not.
fn taken(succeeded: u32, probes: &[Probe]) -> u32 {
    succeeded.saturating_add(u32::try_from(probes.len()).unwrap_or(u32::MAX))
}
