//! What a closed breaker remembers.
//!
//! Evidence has no settings in it, so that two configurations that serve side by side feed and read the same memory:
//! each asks its own question of it, and neither can reset the other's.

use super::{Cause, FailuresInWindow, Outcome, Settings};
use crate::codec::{Reader, put_list};
use crate::planted::{Bug, active};
use crate::time::Timestamp;

/// The run of failures with no success between, and the moments of the latest failures.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Evidence {
    consecutive: u32,
    /// How many moments are kept: the most that any configuration has asked for since the breaker closed.
    capacity: u16,
    /// The moments of the latest failures, oldest first.
    failures: Vec<Timestamp>,
}

impl Evidence {
    /// Nothing seen.
    pub const EMPTY: Self = Self { consecutive: 0, capacity: 0, failures: Vec::new() };

    /// Failures since the last success.
    #[must_use]
    pub const fn consecutive(&self) -> u32 {
        self.consecutive
    }

    /// How many failures' moments are kept.
    pub(super) const fn capacity(&self) -> u16 {
        self.capacity
    }

    pub(super) fn record(&mut self, outcome: Outcome, now: Timestamp, window: Option<FailuresInWindow>) {
        match outcome {
            Outcome::Ignored => {}
            Outcome::Success => self.consecutive = 0,
            Outcome::Failure => {
                self.consecutive = self.consecutive.saturating_add(1);
                self.remember(now, window);
            }
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

    pub(super) fn tripped(&self, settings: &Settings, now: Timestamp) -> Option<(Cause, u32)> {
        if settings.consecutive_failures.is_some_and(|limit| self.consecutive >= limit) {
            return Some((Cause::ConsecutiveFailures, self.consecutive));
        }
        let trigger = settings.failures_in_window?;
        let earlier = usize::from(trigger.failures).checked_sub(1)?;
        let oldest = self.failures.iter().rev().nth(earlier)?;
        // An outcome that won its write late has a `now` before the newest failure: the span ends at whichever is later.
        let latest = self.failures.last().map_or(now, |newest| now.max(*newest));
        (latest.since(*oldest) <= trigger.window)
            .then(|| (Cause::FailuresInWindow, u32::from(trigger.failures)))
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.consecutive.to_le_bytes());
        out.extend(self.capacity.to_le_bytes());
        put_list(out, &self.failures, |out, at| out.extend(at.as_nanos().to_le_bytes()));
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Self> {
        let evidence = Self {
            consecutive: input.u32()?,
            capacity: input.u16()?,
            failures: input.list(Reader::timestamp)?,
        };
        let sound =
            evidence.failures.len() <= usize::from(evidence.capacity) && evidence.failures.is_sorted();
        sound.then_some(evidence)
    }
}
