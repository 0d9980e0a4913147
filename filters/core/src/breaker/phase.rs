//! The states with what belongs to each.

use super::{Cause, Evidence, MOST, Numbers, Outcome, PLAUSIBLE, Probe, Settings, State, Tally};
use crate::planted::{Bug, active};
use crate::time::Timestamp;

/// Where a breaker is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Traffic flows.
    Closed(Closed),
    /// Traffic is refused.
    Open {
        /// The last moment of the wait: refusal ends strictly after it, as in Resilience4j.
        until: Timestamp,
    },
    /// A few requests are let through to find out.
    HalfOpen(HalfOpen),
}

impl Phase {
    /// The phase without its data.
    #[must_use]
    pub const fn state(&self) -> State {
        match self {
            Self::Closed(_) => State::Closed,
            Self::Open { .. } => State::Open,
            Self::HalfOpen(_) => State::HalfOpen,
        }
    }
}

/// Closed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Closed {
    /// What has been seen since.
    pub evidence: Evidence,
    /// When the probes closed it; `None` where it has not been open, or nobody asked.
    pub since: Option<Timestamp>,
    /// The last moment up to which an operator holds it closed.
    pub held_until: Option<Timestamp>,
}

impl Closed {
    pub(super) const FRESH: Self = Self { evidence: Evidence::EMPTY, since: None, held_until: None };

    /// Whether an operator holds it closed at `now`, so that nothing counts.
    #[must_use]
    pub fn is_held(&self, now: Timestamp) -> bool {
        self.held_until.is_some_and(|until| now <= until)
    }

    /// The share of requests that it lets in while it ramps up, from 0 to 1; `None` where it lets in all.
    #[must_use]
    pub fn ramp_share(&self, settings: &Settings, now: Timestamp) -> Option<f64> {
        settings.ramp_up.zip(self.since).and_then(|(ramp, since)| ramp.share(since, now))
    }

    /// Whether a trip at `now` counts as the first.
    pub(super) fn starts_over(&self, settings: &Settings, now: Timestamp) -> bool {
        self.since.is_none_or(|since| settings.starts_over(now.since(since)))
    }

    /// Counts an outcome; returns the trigger that is met, if one is.
    pub(super) fn record(
        &mut self,
        outcome: Outcome,
        now: Timestamp,
        settings: &Settings,
    ) -> Option<(Cause, Numbers)> {
        if outcome == Outcome::Ignored {
            return None;
        }
        self.evidence.record(outcome, now, settings);
        self.evidence.tripped(settings, outcome, now)
    }

    pub(super) fn is_plausible(&self, now: Timestamp) -> bool {
        let held = self.held_until.is_none_or(|until| until.since(now) <= PLAUSIBLE);
        held && self.evidence.capacity() <= MOST
    }
}

/// Half-open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HalfOpen {
    /// The last moment of the bounded stay.
    pub until: Timestamp,
    /// Probes in total. Fixed when the state was entered, so that two configurations cannot disagree.
    pub permitted: u32,
    /// How many answers make a verdict; at most as many as are permitted. Fixed too.
    pub deciding: u32,
    /// The answers so far.
    pub answers: Tally,
    /// The probes that have not answered yet.
    pub probes: Vec<Probe>,
}

impl HalfOpen {
    /// How many of the permitted probes are used up: those that answered and those still out. One that proved nothing or
    /// was reclaimed is not.
    #[must_use]
    pub fn taken(&self) -> u32 {
        self.answers.calls.saturating_add(u32::try_from(self.probes.len()).unwrap_or(u32::MAX))
    }

    /// Takes `probe` off the list; false if it is not there.
    pub(super) fn give_back(&mut self, probe: Option<Probe>) -> bool {
        let place = self.probes.iter().position(|out| Some(*out) == probe);
        let any = (active(Bug::ReleasedTwice) && !self.probes.is_empty()).then_some(0);
        let Some(place) = place.or(any) else { return false };
        self.probes.swap_remove(place);
        true
    }

    pub(super) fn is_sound(&self) -> bool {
        // With as many answers as decide, or more, a verdict would be overdue, and nobody would come to give it.
        let left_to_prove = self.answers.calls < self.deciding && self.deciding <= self.permitted;
        left_to_prove && self.taken() <= self.permitted && self.permitted <= u32::from(MOST)
    }
}
