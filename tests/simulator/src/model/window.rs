//! The latest calls once more: a list, of which what has left the window is taken off.

use crate::view;
use resilience_core::breaker::{Exceeded, Outcome, Rates, Shape, Tally};

const SECOND: u64 = 1_000_000_000;
/// A window that ends further ahead of whoever reads it is not believed.
const AHEAD: u64 = 60;

/// The latest calls, each with the wall clock's second it ended in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Window {
    shape: Shape,
    latest: u64,
    calls: Vec<(u64, Outcome)>,
}

fn second(offset: u32, now: u64) -> u64 {
    (now + u64::from(offset)) / SECOND
}

impl Window {
    pub fn new(shape: Shape) -> Self {
        Self { shape, latest: 0, calls: Vec::new() }
    }

    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// Whether somebody at `now` believes it.
    pub fn is_believed(&self, now: u64) -> bool {
        match self.shape {
            Shape::Count(_) => true,
            Shape::Time { offset, .. } => self.latest <= second(offset, now) + AHEAD,
        }
    }

    pub fn record(&mut self, outcome: Outcome, now: u64) {
        let at = match self.shape {
            Shape::Count(_) => 0,
            Shape::Time { offset, .. } => second(offset, now),
        };
        self.latest = self.latest.max(at);
        self.calls.push((at, outcome));
        self.forget();
    }

    fn forget(&mut self) {
        match self.shape {
            Shape::Count(size) => {
                let excess = self.calls.len().saturating_sub(usize::from(size));
                self.calls.drain(..excess);
            }
            Shape::Time { seconds, .. } => {
                let latest = self.latest;
                self.calls.retain(|(at, _)| at + u64::from(seconds) > latest);
            }
        }
    }

    /// Another shape, where it is another.
    pub fn reshape(&mut self, shape: Shape) {
        match (&mut self.shape, shape) {
            (Shape::Count(size), Shape::Count(asked)) => *size = asked,
            (Shape::Time { seconds, .. }, Shape::Time { seconds: asked, .. }) => *seconds = asked,
            _ => *self = Self::new(shape),
        }
        self.forget();
    }

    /// Whether a window of this shape would hold the same calls.
    pub const fn has(&self, shape: Shape) -> bool {
        match (self.shape, shape) {
            (Shape::Count(size), Shape::Count(asked)) => size == asked,
            (Shape::Time { seconds, .. }, Shape::Time { seconds: asked, .. }) => seconds == asked,
            _ => false,
        }
    }

    pub fn tally(&self, now: u64) -> Tally {
        let within = |at: u64| match self.shape {
            Shape::Count(_) => true,
            Shape::Time { seconds, offset } => at + u64::from(seconds) > second(offset, now).max(self.latest),
        };
        tally(self.calls.iter().filter(|(at, _)| within(*at)).map(|(_, outcome)| *outcome))
    }

    /// Whether one more good call would change nothing.
    pub fn is_saturated(&self) -> bool {
        let good = |(_, outcome): &(u64, Outcome)| *outcome == Outcome::Success;
        matches!(self.shape, Shape::Count(size) if self.calls.len() == usize::from(size))
            && self.calls.iter().all(good)
    }

    /// What must stand in the store.
    pub fn shown(&self) -> view::Window {
        let marks = |outcome: &Outcome| (failed(*outcome), slow(*outcome));
        match self.shape {
            Shape::Count(size) => view::Window::Count {
                size,
                calls: self.calls.iter().map(|(_, outcome)| marks(outcome)).collect(),
            },
            Shape::Time { seconds, offset } => {
                let mut buckets: Vec<(u64, [u32; 3])> = Vec::new();
                let mut calls = self.calls.clone();
                calls.sort_by_key(|(at, _)| *at);
                for (at, outcome) in calls {
                    if buckets.last().is_none_or(|(second, _)| *second != at) {
                        buckets.push((at, [0; 3]));
                    }
                    if let Some((_, [all, failures, slows])) = buckets.last_mut() {
                        *all += 1;
                        *failures += u32::from(failed(outcome));
                        *slows += u32::from(slow(outcome));
                    }
                }
                view::Window::Time { seconds, offset, latest: self.latest, buckets }
            }
        }
    }
}

pub const fn failed(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Failure | Outcome::SlowFailure)
}

pub const fn slow(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::SlowSuccess | Outcome::SlowFailure)
}

pub fn tally(outcomes: impl Iterator<Item = Outcome>) -> Tally {
    let mut sum = Tally { calls: 0, failed: 0, slow: 0 };
    for outcome in outcomes.filter(|outcome| *outcome != Outcome::Ignored) {
        sum.calls += 1;
        sum.failed += u32::from(failed(outcome));
        sum.slow += u32::from(slow(outcome));
    }
    sum
}

/// The rate that is past its threshold, in the precision in which the thresholds are written.
pub fn exceeded(rates: &Rates, tally: Tally, minimum: u32) -> Option<Exceeded> {
    if tally.calls == 0 || tally.calls < minimum {
        return None;
    }
    let rate = |part: u32| part as f32 * 100.0 / tally.calls as f32;
    if let Some(threshold) = rates.failure_rate_threshold
        && rate(tally.failed) >= threshold.get()
    {
        return Some(Exceeded::Failures(threshold));
    }
    rates
        .slow_call_rate_threshold
        .filter(|threshold| rate(tally.slow) >= threshold.get())
        .map(Exceeded::SlowCalls)
}
