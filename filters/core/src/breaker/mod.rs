//! The circuit breaker: plain data and pure transitions.
//!
//! Names and the order of states follow Resilience4j; generations follow sony/gobreaker: an outcome that was admitted
//! under an older generation is evidence about a state that is gone, and is dropped.

mod codec;
mod evidence;
#[cfg(test)]
mod half_open_tests;
mod history;
mod phase;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod rates_tests;
mod recovery;
#[cfg(test)]
mod resilience4j_tests;
mod settings;
mod terms;
#[cfg(test)]
mod tests;
mod transition;
mod window;

pub use evidence::Evidence;
pub use history::{History, Lasted, REMEMBERED};
pub use phase::{Closed, HalfOpen, Phase};
pub use settings::{Exceeded, FailuresInWindow, Growth, LONGEST, Percentage, RampUp, Rates, Settings};
pub use terms::{Admission, Command, Outcome, Owner, Probe, Recorded, Ticket};
pub use transition::{Cause, Numbers, State, Transition};
pub use window::{CountWindow, Shape, Tally, TimeWindow, Window};

use crate::planted::{Bug, active};
use crate::time::Timestamp;
use std::time::Duration;

/// No state lasts longer than this. Far beyond [`LONGEST`]: another version of the module may allow more, and another
/// worker's clock reading may be later than the one that judges.
const PLAUSIBLE: Duration = Duration::from_secs(366 * 24 * 3600);
/// No breaker remembers more failures, or permits more probes. Beyond what a configuration may ask for, too, and within
/// what its bytes can say of their own length.
const MOST: u16 = 4096;

/// A circuit breaker's shared state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Breaker {
    phase: Phase,
    generation: u64,
    next_probe: u32,
    /// How many times in succession it has tripped without a time of health between.
    trips: u32,
}

impl Breaker {
    /// A closed breaker. `generation` must be one that no ticket in flight can carry.
    #[must_use]
    pub const fn closed(generation: u64) -> Self {
        Self { phase: Phase::Closed(Closed::FRESH), generation, next_probe: 0, trips: 0 }
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

    /// How many times in succession it has tripped without a time of health between; 0 where waits do not grow.
    #[must_use]
    pub const fn trips(&self) -> u32 {
        self.trips
    }

    /// Whether this is a state that some configuration can have led to. Bytes can be well-formed and still keep a breaker
    /// from ever coming back.
    #[must_use]
    pub fn is_plausible(&self, now: Timestamp) -> bool {
        match &self.phase {
            Phase::Closed(closed) => closed.is_plausible(now),
            Phase::Open { until } => until.since(now) <= PLAUSIBLE,
            Phase::HalfOpen(probing) => probing.until.since(now) <= PLAUSIBLE && probing.is_sound(),
        }
    }

    /// Whether one of the next calls may well be the one that changes it: it is not closed, or not far from a trip.
    #[must_use]
    pub fn is_near_a_change(&self, settings: &Settings, now: Timestamp) -> bool {
        match &self.phase {
            Phase::Closed(closed) => settings.trips_at_once() || closed.evidence.is_near(settings, now),
            Phase::Open { .. } | Phase::HalfOpen(_) => true,
        }
    }

    /// The last moment of a half-open stay in which every place is taken.
    #[must_use]
    pub fn full_until(&self) -> Option<Timestamp> {
        match &self.phase {
            Phase::HalfOpen(probing) => (probing.taken() >= probing.permitted).then_some(probing.until),
            Phase::Closed(_) | Phase::Open { .. } => None,
        }
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
            Phase::HalfOpen(probing) => {
                let asked = settings.permitted_number_of_calls_in_half_open_state;
                let permitted = if active(Bug::PermittedByAsker) { asked } else { probing.permitted };
                if probing.taken() >= permitted {
                    return Admission::Refused { wait: None };
                }
                let probe = Probe { owner, id: self.next_probe };
                self.next_probe = self.next_probe.wrapping_add(1);
                probing.probes.push(probe);
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
            Phase::Closed(closed) => {
                if (!closed.is_held(now) || active(Bug::HeldTrips))
                    && let Some((cause, numbers)) = closed.record(outcome, now, settings)
                {
                    self.open(settings, now, cause, numbers, transitions);
                }
                Recorded::Counted
            }
            Phase::Open { .. } => Recorded::Stale,
            Phase::HalfOpen(probing) => {
                if !probing.give_back(ticket.probe) {
                    return Recorded::Reclaimed;
                }
                probing.answers.add(outcome);
                self.judge(settings, outcome, now, transitions);
                Recorded::Counted
            }
        }
    }

    /// The verdict over the probes, if `outcome`, just counted, makes one possible.
    fn judge(
        &mut self,
        settings: &Settings,
        outcome: Outcome,
        now: Timestamp,
        transitions: &mut Vec<Transition>,
    ) {
        let Phase::HalfOpen(probing) = &self.phase else { return };
        let tally = probing.answers;
        let failed = Numbers::Probes(tally);
        if outcome.is_failure() && settings.first_failed_probe_reopens() {
            return self.open(settings, now, Cause::Probes, failed, transitions);
        }
        // As in Resilience4j nothing is decided before enough have answered, not even what is certain already.
        if outcome == Outcome::Ignored || tally.calls < probing.deciding {
            return;
        }
        let past = match settings.rates {
            Some(rates) => rates.exceeded(tally, 0).map(|exceeded| Numbers::Rate { exceeded, tally }),
            None => (tally.failed > 0).then_some(failed),
        };
        match past {
            Some(numbers) => self.open(settings, now, Cause::Probes, numbers, transitions),
            None => self.close(settings, now, Numbers::Probes(tally), transitions),
        }
    }

    /// Gives a window the shape that the newest configuration asks for; `alone` says that no other is in use, so that one
    /// without a rate can let the window go.
    pub fn adopt(&mut self, settings: &Settings, alone: bool) {
        let Phase::Closed(closed) = &mut self.phase else { return };
        match (settings.rates, &mut closed.evidence.window) {
            (Some(rates), Some(window)) => window.reshape(rates.window),
            (None, window) if alone => *window = None,
            _ => {}
        }
    }

    /// Does what an operator says.
    pub fn force(&mut self, command: Command, now: Timestamp, transitions: &mut Vec<Transition>) {
        let phase = match command {
            Command::Open(span) => Phase::Open { until: now.after(span) },
            Command::Close(span) => {
                Phase::Closed(Closed { held_until: Some(now.after(span)), ..Closed::FRESH })
            }
            Command::Reset => Phase::Closed(Closed::FRESH),
        };
        if !matches!(command, Command::Open(_)) {
            self.trips = 0;
        }
        self.enter(now, phase, Cause::Forced, Numbers::None, transitions);
    }

    /// Gives back every probe whose owner `is_dead`; returns how many.
    pub fn reclaim(&mut self, mut is_dead: impl FnMut(Owner) -> bool) -> usize {
        let Phase::HalfOpen(HalfOpen { probes, .. }) = &mut self.phase else { return 0 };
        let before = probes.len();
        probes.retain(|probe| !is_dead(probe.owner));
        before.saturating_sub(probes.len())
    }

    /// Applies what time alone decides: the end of the bounded stay in half-open. The new wait begins when the stay
    /// ended, however late anybody looks.
    pub fn settle(&mut self, settings: &Settings, now: Timestamp, transitions: &mut Vec<Transition>) {
        if let Phase::HalfOpen(HalfOpen { until, .. }) = self.phase
            && now > until
            && !active(Bug::EndlessStay)
        {
            self.open(settings, until, Cause::HalfOpenTimeout, Numbers::None, transitions);
        }
    }

    fn open(
        &mut self,
        settings: &Settings,
        at: Timestamp,
        cause: Cause,
        numbers: Numbers,
        transitions: &mut Vec<Transition>,
    ) {
        self.trips = match &self.phase {
            _ if settings.wait_duration_growth.is_none() => 0,
            Phase::Closed(closed) if closed.starts_over(settings, at) => 1,
            _ => self.trips.saturating_add(1),
        };
        let wait = settings.wait(self.trips, recovery::chance(self.generation, at));
        self.enter(at, Phase::Open { until: at.after(wait) }, cause, numbers, transitions);
    }

    fn half_open(&mut self, settings: &Settings, now: Timestamp, transitions: &mut Vec<Transition>) {
        let phase = Phase::HalfOpen(HalfOpen {
            until: now.after(settings.max_wait_duration_in_half_open_state),
            permitted: settings.permitted_number_of_calls_in_half_open_state,
            deciding: settings.probes_that_decide(),
            answers: Tally::default(),
            probes: Vec::new(),
        });
        self.enter(now, phase, Cause::WaitOver, Numbers::None, transitions);
    }

    fn close(
        &mut self,
        settings: &Settings,
        now: Timestamp,
        numbers: Numbers,
        transitions: &mut Vec<Transition>,
    ) {
        let asked = settings.ramp_up.is_some() || settings.wait_duration_growth.is_some();
        let phase = Phase::Closed(Closed { since: asked.then_some(now), ..Closed::FRESH });
        self.enter(now, phase, Cause::Probes, numbers, transitions);
    }

    fn enter(
        &mut self,
        at: Timestamp,
        phase: Phase,
        cause: Cause,
        numbers: Numbers,
        transitions: &mut Vec<Transition>,
    ) {
        self.generation = self.generation.wrapping_add(1);
        transitions.push(Transition {
            at,
            from: self.phase.state(),
            to: phase.state(),
            cause,
            generation: self.generation,
            numbers,
        });
        self.phase = phase;
    }
}
