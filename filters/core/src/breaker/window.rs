//! The latest calls, by number or by time, as Resilience4j's `FixedSizeSlidingWindowMetrics` and
//! `SlidingTimeWindowMetrics` keep them.
//!
//! A window says itself what shape it has, so that configurations that serve side by side read the same one.

mod count;
mod seconds;
#[cfg(test)]
mod tests;

pub use count::CountWindow;
pub use seconds::TimeWindow;

use super::Outcome;
use crate::codec::Reader;
use crate::planted::{Bug, active};
use crate::time::Timestamp;

/// What a window looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// That many calls.
    Count(u16),
    /// The present second of the wall clock and those before it.
    Time {
        /// How many seconds in all.
        seconds: u16,
        /// How much is to be added to a moment, in nanoseconds, so that its whole seconds are the wall clock's. A window
        /// keeps the one it was made with.
        offset: u32,
    },
}

impl Shape {
    /// Whether windows of both shapes hold the same calls.
    pub(crate) fn is_like(self, other: Self) -> bool {
        match (self, other) {
            (Self::Count(mine), Self::Count(others)) => mine == others,
            (Self::Time { seconds: mine, .. }, Self::Time { seconds: others, .. }) => mine == others,
            _ => false,
        }
    }
}

/// How many calls there were, and how many of them failed and were slow: a call can be both.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// All of them.
    pub calls: u32,
    /// Those that failed.
    pub failed: u32,
    /// Those that were slow.
    pub slow: u32,
}

impl Tally {
    /// One more call. One that proved nothing is none.
    pub(super) fn add(&mut self, outcome: Outcome) {
        if outcome == Outcome::Ignored {
            return;
        }
        self.calls = self.calls.saturating_add(1);
        self.failed = self.failed.saturating_add(u32::from(outcome.is_failure()));
        let slow = outcome.is_slow() && !(outcome.is_failure() && active(Bug::SlowFailureForgotten));
        self.slow = self.slow.saturating_add(u32::from(slow));
    }

    fn plus(self, other: Self) -> Self {
        Self {
            calls: self.calls.saturating_add(other.calls),
            failed: self.failed.saturating_add(other.failed),
            slow: self.slow.saturating_add(other.slow),
        }
    }

    /// The percentage of failed calls; `None` with fewer calls than `minimum`, and with none.
    #[must_use]
    pub fn failure_rate(&self, minimum: u32) -> Option<f32> {
        self.rate(self.failed, minimum)
    }

    /// The percentage of slow calls; `None` with fewer calls than `minimum`, and with none.
    #[must_use]
    pub fn slow_rate(&self, minimum: u32) -> Option<f32> {
        self.rate(self.slow, minimum)
    }

    /// In single precision and in this order, as Resilience4j's `SnapshotImpl` computes it: thresholds are compared with
    /// what comes out, so the rounding decides.
    fn rate(self, part: u32, minimum: u32) -> Option<f32> {
        (self.calls > 0 && self.calls >= minimum).then(|| percentage(part, self.calls))
    }

    fn is_sound(self) -> bool {
        self.failed <= self.calls && self.slow <= self.calls
    }

    pub(super) fn encode(self, out: &mut Vec<u8>) {
        for number in [self.calls, self.failed, self.slow] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Self> {
        let tally = Self { calls: input.u32()?, failed: input.u32()?, slow: input.u32()? };
        tally.is_sound().then_some(tally)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a Java int becomes a float in the same way")]
fn percentage(part: u32, all: u32) -> f32 {
    part as f32 * 100.0 / all as f32
}

/// The latest calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Window {
    /// By number.
    Count(CountWindow),
    /// By time.
    Time(TimeWindow),
}

impl Window {
    pub(super) fn new(shape: Shape) -> Self {
        match shape {
            Shape::Count(size) => Self::Count(CountWindow::new(size)),
            Shape::Time { seconds, offset } => Self::Time(TimeWindow::new(seconds, offset)),
        }
    }

    pub(super) fn shape(&self) -> Shape {
        match self {
            Self::Count(window) => Shape::Count(window.size()),
            Self::Time(window) => Shape::Time { seconds: window.seconds(), offset: window.offset() },
        }
    }

    /// Takes another shape, and keeps the calls that fit it.
    pub(super) fn reshape(&mut self, shape: Shape) {
        if self.shape().is_like(shape) {
            return;
        }
        *self = match (&*self, shape) {
            (Self::Count(window), Shape::Count(size)) => Self::Count(window.resized(size)),
            (Self::Time(window), Shape::Time { seconds, .. }) => Self::Time(window.resized(seconds)),
            _ => Self::new(shape),
        };
    }

    pub(super) fn record(&mut self, outcome: Outcome, now: Timestamp) {
        match self {
            Self::Count(window) => window.record(outcome),
            Self::Time(window) => window.record(outcome, now),
        }
    }

    /// The calls in the window at `now`.
    #[must_use]
    pub fn tally(&self, now: Timestamp) -> Tally {
        match self {
            Self::Count(window) => window.tally(),
            Self::Time(window) => window.tally(now),
        }
    }

    /// Whether one more success that is not slow would leave the window as it is.
    pub(super) fn is_saturated(&self) -> bool {
        match self {
            Self::Count(window) => {
                window.is_saturated() || (active(Bug::SaturatedTooEarly) && window.tally().failed == 0)
            }
            Self::Time(_) => false,
        }
    }

    pub(super) fn is_plausible(&self, now: Timestamp) -> bool {
        match self {
            Self::Count(_) => true,
            Self::Time(window) => window.is_plausible(now),
        }
    }

    const COUNT: u8 = 1;
    const TIME: u8 = 2;

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Count(window) => {
                out.push(Self::COUNT);
                window.encode(out);
            }
            Self::Time(window) => {
                out.push(Self::TIME);
                window.encode(out);
            }
        }
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Self> {
        match input.u8()? {
            Self::COUNT => CountWindow::decode(input).map(Self::Count),
            Self::TIME => TimeWindow::decode(input).map(Self::Time),
            _ => None,
        }
    }
}
