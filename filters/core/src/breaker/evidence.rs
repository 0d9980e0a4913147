//! What a closed breaker remembers.
//!
//! Evidence has no settings in it, so that two configurations that serve side by side feed and read the same memory:
//! each asks its own question of it, and neither can reset the other's.

use super::settings::Exceeded;
use super::window::{Shape, Tally, Window};
use super::{Cause, FailuresInWindow, Numbers, Outcome, Settings};
use crate::codec::{Reader, put_list};
use crate::planted::{Bug, active};
use crate::time::Timestamp;
use std::time::Duration;

/// The run of failures with no success between, the moments of the latest failures, and the latest calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Evidence {
    consecutive: u32,
    /// How many moments are kept: the most that any configuration has asked for since the breaker closed.
    capacity: u16,
    /// The moments of the latest failures, oldest first.
    failures: Vec<Timestamp>,
    /// The latest calls, once a configuration with a rate has asked for them. Kept apart in shared data, see `codec`.
    pub(super) window: Option<Window>,
}

impl Evidence {
    /// Nothing seen.
    pub const EMPTY: Self = Self { consecutive: 0, capacity: 0, failures: Vec::new(), window: None };

    /// The shape of the window; none where no window is kept.
    #[must_use]
    pub fn shape(&self) -> Option<Shape> {
        self.window.as_ref().map(Window::shape)
    }

    /// How many failures there were with no success between.
    #[must_use]
    pub const fn consecutive(&self) -> u32 {
        self.consecutive
    }

    /// How many of the failures that are remembered came within a span before `now`.
    #[must_use]
    pub fn failures_within(&self, span: Duration, now: Timestamp) -> usize {
        self.failures.iter().filter(|at| now.since(**at) <= span).count()
    }

    /// Whether one more success that is not slow would change nothing, save for who asks for a window and finds none.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.consecutive == 0 && self.window.as_ref().is_none_or(Window::is_saturated)
    }

    /// Whether the last call failed, or half of what trips the breaker is there. Healthy traffic is seldom near.
    pub(super) fn is_near(&self, settings: &Settings, now: Timestamp) -> bool {
        let in_window = || {
            let trigger = settings.failures_in_window?;
            let half = usize::from(trigger.failures).div_ceil(2).checked_sub(1)?;
            let oldest = self.failures.iter().rev().nth(half)?;
            Some(now.since(*oldest) <= trigger.window)
        };
        self.consecutive > 0
            || in_window().unwrap_or(false)
            || settings.rates.is_some_and(|rates| rates.is_near(self.tally(now)))
    }

    /// How many failures' moments are kept.
    pub(super) const fn capacity(&self) -> u16 {
        self.capacity
    }

    /// The calls in the window at `now`; none where no window is kept.
    #[must_use]
    pub fn tally(&self, now: Timestamp) -> Tally {
        self.window.as_ref().map_or_else(Tally::default, |window| window.tally(now))
    }

    pub(super) fn record(&mut self, outcome: Outcome, now: Timestamp, settings: &Settings) {
        if outcome == Outcome::Ignored {
            return;
        }
        if let Some(rates) = settings.rates {
            self.window.get_or_insert_with(|| Window::new(rates.window));
        }
        if let Some(window) = &mut self.window {
            window.record(outcome, now);
        }
        if outcome.is_failure() {
            self.consecutive = self.consecutive.saturating_add(1);
            self.remember(now, settings.failures_in_window);
        } else {
            self.consecutive = 0;
        }
    }

    fn remember(&mut self, now: Timestamp, window: Option<FailuresInWindow>) {
        if active(Bug::ResetByConfiguration) && window.is_some_and(|window| window.failures != self.capacity)
        {
            self.failures.clear();
        }
        self.capacity = self.capacity.max(window.map_or(0, |window| window.failures));
        // Workers take their time before they win the write, so moments can arrive a little out of order.
        let place = self.failures.partition_point(|earlier| *earlier <= now);
        self.failures.insert(place, now);
        let excess = self.failures.len().saturating_sub(usize::from(self.capacity));
        self.failures.drain(..excess);
    }

    /// The first trigger that is met, after `outcome` was recorded.
    pub(super) fn tripped(
        &self,
        settings: &Settings,
        outcome: Outcome,
        now: Timestamp,
    ) -> Option<(Cause, Numbers)> {
        // Only a failure meets a count of failures: under another configuration's stricter limit, what is remembered may be
        // past it already, and a good answer is no reason to open. A rate is looked at after every call, as in Resilience4j.
        let counted =
            || self.consecutive_failures(settings).or_else(|| self.failures_in_window(settings, now));
        let by_count = if outcome.is_failure() { counted() } else { None };
        by_count.or_else(|| self.rate(settings, now))
    }

    fn consecutive_failures(&self, settings: &Settings) -> Option<(Cause, Numbers)> {
        let limit = settings.consecutive_failures.filter(|limit| self.consecutive >= *limit)?;
        Some((Cause::ConsecutiveFailures, Numbers::Count { count: self.consecutive, limit }))
    }

    fn failures_in_window(&self, settings: &Settings, now: Timestamp) -> Option<(Cause, Numbers)> {
        let trigger = settings.failures_in_window?;
        let earlier = usize::from(trigger.failures).checked_sub(1)?;
        let oldest = self.failures.iter().rev().nth(earlier)?;
        // An outcome that won its write late has a `now` before the newest failure: the span ends at whichever is later.
        let latest = self.failures.last().map_or(now, |newest| now.max(*newest));
        let limit = u32::from(trigger.failures);
        (latest.since(*oldest) <= trigger.window)
            .then_some((Cause::FailuresInWindow, Numbers::Count { count: limit, limit }))
    }

    fn rate(&self, settings: &Settings, now: Timestamp) -> Option<(Cause, Numbers)> {
        let rates = settings.rates?;
        let tally = self.tally(now);
        let exceeded = rates.exceeded(tally, rates.minimum_in_closed())?;
        let cause = match exceeded {
            Exceeded::Failures(_) => Cause::FailureRate,
            Exceeded::SlowCalls(_) => Cause::SlowCallRate,
        };
        Some((cause, Numbers::Rate { exceeded, tally }))
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.consecutive.to_le_bytes());
        out.extend_from_slice(&self.capacity.to_le_bytes());
        put_list(out, &self.failures, |out, at| out.extend_from_slice(&at.as_nanos().to_le_bytes()));
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Self> {
        let evidence = Self {
            consecutive: input.u32()?,
            capacity: input.u16()?,
            failures: input.list(Reader::timestamp)?,
            window: None,
        };
        let sound =
            evidence.failures.len() <= usize::from(evidence.capacity) && evidence.failures.is_sorted();
        sound.then_some(evidence)
    }
}
