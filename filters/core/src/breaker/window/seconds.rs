//! A window over time: whole seconds of the wall clock.

use super::{Outcome, Tally};
use crate::codec::{Reader, put_list};
use crate::planted::{Bug, active};
use crate::time::Timestamp;
use std::collections::VecDeque;
use std::time::Duration;

/// How many seconds another worker's clock reading may be later than the one that judges.
const AHEAD: u64 = 60;

/// The calls of the latest second with any, and of the seconds before it.
///
/// The window is as long as that many whole seconds, of which the last is under way: it spans up to one second less, as in
/// Resilience4j. After a gap of that length nothing is left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimeWindow {
    seconds: u16,
    offset: u32,
    /// The number of the latest second in the window.
    latest: u64,
    /// The seconds up to the latest, oldest first, at most as many as the window is long.
    buckets: VecDeque<Tally>,
}

impl TimeWindow {
    /// `seconds` is at least 1.
    pub(super) const fn new(seconds: u16, offset: u32) -> Self {
        Self { seconds, offset, latest: 0, buckets: VecDeque::new() }
    }

    pub(super) const fn seconds(&self) -> u16 {
        self.seconds
    }

    pub(super) const fn offset(&self) -> u32 {
        self.offset
    }

    /// How many seconds it keeps.
    fn kept(&self) -> usize {
        usize::from(self.seconds).saturating_add(usize::from(active(Bug::SecondTooMany)))
    }

    fn second(&self, now: Timestamp) -> u64 {
        Duration::from_nanos(now.as_nanos().saturating_add(u64::from(self.offset))).as_secs()
    }

    pub(super) fn record(&mut self, outcome: Outcome, now: Timestamp) {
        if outcome == Outcome::Ignored {
            return;
        }
        let second = self.second(now);
        self.advance(second);
        // Workers take their time before they win the write: a call can be of an earlier second than the latest.
        let back = usize::try_from(self.latest.saturating_sub(second)).unwrap_or(usize::MAX);
        while self.buckets.len() <= back && self.buckets.len() < self.kept() {
            self.buckets.push_front(Tally::default());
        }
        let index = self.buckets.len().checked_sub(back).and_then(|index| index.checked_sub(1));
        if let Some(bucket) = index.and_then(|index| self.buckets.get_mut(index)) {
            bucket.add(outcome);
        }
        self.trim();
    }

    /// Moves on to `second`, if that is later.
    fn advance(&mut self, second: u64) {
        let seconds = u64::try_from(self.kept()).unwrap_or(u64::MAX);
        let steps = second.saturating_sub(self.latest);
        if self.buckets.is_empty() || steps >= seconds {
            self.buckets.clear();
            self.buckets.push_back(Tally::default());
            self.latest = self.latest.max(second);
            return;
        }
        for _ in 0..steps {
            self.buckets.push_back(Tally::default());
        }
        self.latest = self.latest.max(second);
        self.trim();
    }

    /// Lets go of seconds that have left the window, and of empty ones at its beginning.
    fn trim(&mut self) {
        let excess = self.buckets.len().saturating_sub(self.kept());
        self.buckets.drain(..excess);
        while self.buckets.front().is_some_and(|bucket| bucket.calls == 0) && self.buckets.len() > 1 {
            self.buckets.pop_front();
        }
    }

    pub(super) fn resized(&self, seconds: u16) -> Self {
        let mut other = Self { seconds, ..self.clone() };
        other.trim();
        other
    }

    /// The calls of the window that ends with the second of `now`, or with the latest if that is later.
    pub(super) fn tally(&self, now: Timestamp) -> Tally {
        let passed = self.second(now).saturating_sub(self.latest);
        let left = self.kept().saturating_sub(usize::try_from(passed).unwrap_or(usize::MAX));
        self.buckets.iter().rev().take(left).fold(Tally::default(), |sum, bucket| sum.plus(*bucket))
    }

    /// Whether a call at `now` can have a place in it: one that ends far ahead would be blind until then.
    pub(super) fn is_plausible(&self, now: Timestamp) -> bool {
        self.latest.saturating_sub(self.second(now)) <= AHEAD
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.seconds.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.latest.to_le_bytes());
        let buckets: Vec<_> = self.buckets.iter().copied().collect();
        put_list(out, &buckets, |out, bucket| bucket.encode(out));
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Self> {
        let window = Self {
            seconds: input.u16()?,
            offset: input.u32()?,
            latest: input.u64()?,
            buckets: input.list(Tally::decode)?.into(),
        };
        window.is_sound().then_some(window)
    }

    fn is_sound(&self) -> bool {
        let begins = self.buckets.len() < 2 || self.buckets.front().is_some_and(|first| first.calls > 0);
        let aligned = Duration::from_nanos(u64::from(self.offset)).as_secs() == 0;
        self.seconds > 0 && self.buckets.len() <= self.kept() && begins && aligned
    }
}
