//! What an operator says of a breaker.

use super::window::{Shape, Tally};
use crate::planted::{Bug, active};
use std::time::Duration;

/// The longest wait, stay or window that a configuration may ask for.
pub const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// When a breaker trips and how it comes back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Trip after this many failures with no success between them.
    pub consecutive_failures: Option<u32>,
    /// Trip after this many failures within a span of time.
    pub failures_in_window: Option<FailuresInWindow>,
    /// Trip when a share of the latest calls failed or was slow.
    pub rates: Option<Rates>,
    /// A call whose answer took longer than this is slow; `None` where nothing asks.
    pub slow_call_duration_threshold: Option<Duration>,
    /// How long an open breaker refuses before it probes, the first time.
    pub wait_duration_in_open_state: Duration,
    /// How the wait changes from trip to trip.
    pub wait_duration_growth: Option<Growth>,
    /// How many probes a half-open breaker admits in total, over all workers.
    pub permitted_number_of_calls_in_half_open_state: u32,
    /// How long a breaker may stay half-open before it opens again.
    pub max_wait_duration_in_half_open_state: Duration,
    /// How traffic comes back once the breaker has closed; `None` for all at once.
    pub ramp_up: Option<RampUp>,
}

impl Settings {
    /// Whether a single bad call can trip it.
    pub(super) fn trips_at_once(&self) -> bool {
        self.consecutive_failures == Some(1)
            || self.failures_in_window.is_some_and(|window| window.failures == 1)
            || self.rates.is_some_and(|rates| rates.minimum_in_closed() <= 1)
    }

    /// These settings for a process whose wall clock's whole seconds begin where this many nanoseconds, added to a moment,
    /// make whole ones.
    #[must_use]
    pub const fn aligned(mut self, by: u32) -> Self {
        if let Some(Rates { window: Shape::Time { offset, .. }, .. }) = &mut self.rates {
            *offset = by;
        }
        self
    }

    /// Whether a call that took this long is slow: strictly longer than the threshold, as in Resilience4j.
    #[must_use]
    pub fn is_slow(&self, duration: Duration) -> bool {
        self.slow_call_duration_threshold.is_some_and(|threshold| duration > threshold)
    }

    /// How many probes have to answer for a verdict. With rates it is Resilience4j's rule: the smaller of the configured
    /// minimum and what is permitted.
    pub(super) fn probes_that_decide(&self) -> u32 {
        let permitted = self.permitted_number_of_calls_in_half_open_state;
        if active(Bug::DecidedAtPermitted) {
            return permitted;
        }
        self.rates.map_or(permitted, |rates| rates.minimum_number_of_calls.min(permitted))
    }

    /// Whether one failed probe is enough to open again: where failures trip by their count and not by their rate.
    pub(super) fn first_failed_probe_reopens(&self) -> bool {
        let by_rate = self.rates.is_some_and(|rates| rates.failure_rate_threshold.is_some());
        let by_count = self.consecutive_failures.is_some() || self.failures_in_window.is_some();
        by_count && !by_rate
    }
}

/// The trigger `failures_in_window`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FailuresInWindow {
    /// How many failures.
    pub failures: u16,
    /// Within what span, its end included.
    pub window: Duration,
}

/// The triggers `failure_rate_threshold` and `slow_call_rate_threshold`, at least one of them, and what they look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rates {
    /// Trip when this share of the calls failed, the threshold included.
    pub failure_rate_threshold: Option<Percentage>,
    /// Trip when this share of the calls was slow, the threshold included.
    pub slow_call_rate_threshold: Option<Percentage>,
    /// The latest calls, by number or by time.
    pub window: Shape,
    /// With fewer calls than this there is no rate. Not yet limited by the window: half-open compares it with what is
    /// permitted, as Resilience4j does.
    pub minimum_number_of_calls: u32,
}

/// A rate that is past its threshold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exceeded {
    /// The failure rate; its threshold.
    Failures(Percentage),
    /// The rate of slow calls; its threshold.
    SlowCalls(Percentage),
}

impl Rates {
    /// The first rate that is past its threshold, if there are `minimum` calls.
    pub(super) fn exceeded(&self, tally: Tally, minimum: u32) -> Option<Exceeded> {
        let past = |rate: Option<f32>, threshold: Option<Percentage>| {
            threshold.filter(|threshold| rate.is_some_and(|rate| rate >= threshold.get()))
        };
        past(tally.failure_rate(minimum), self.failure_rate_threshold).map(Exceeded::Failures).or_else(|| {
            past(tally.slow_rate(minimum), self.slow_call_rate_threshold).map(Exceeded::SlowCalls)
        })
    }

    /// Whether half of what trips the breaker is there.
    pub(super) fn is_near(&self, tally: Tally) -> bool {
        let half = |part: u32, rate: Option<f32>, threshold: Option<Percentage>| {
            let threshold = threshold.filter(|_| part > 0);
            threshold.zip(rate).is_some_and(|(threshold, rate)| rate * 2.0 >= threshold.get())
        };
        tally.calls.saturating_mul(2) >= self.minimum_in_closed()
            && (half(tally.failed, tally.failure_rate(0), self.failure_rate_threshold)
                || half(tally.slow, tally.slow_rate(0), self.slow_call_rate_threshold))
    }

    /// The minimum in closed: a window by count cannot hold more than its size.
    #[must_use]
    pub fn minimum_in_closed(&self) -> u32 {
        match self.window {
            Shape::Count(size) => self.minimum_number_of_calls.min(u32::from(size)),
            Shape::Time { .. } => self.minimum_number_of_calls,
        }
    }
}

/// A percentage from 0 to 100, in the precision in which Resilience4j compares rates: 5 of 6 is `83.333336`.
#[derive(Clone, Copy, Debug)]
pub struct Percentage(f32);

impl Percentage {
    /// A percentage; `None` for anything that is not from 0 to 100.
    #[must_use]
    pub fn new(value: f32) -> Option<Self> {
        // The sum makes a positive zero of a negative one, so that equal numbers have equal bits.
        (0.0..=100.0).contains(&value).then_some(Self(value + 0.0))
    }

    /// The number, from 0 to 100.
    #[must_use]
    pub const fn get(self) -> f32 {
        self.0
    }

    /// The share, from 0 to 1.
    #[must_use]
    pub fn share(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

impl PartialEq for Percentage {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Percentage {}

/// `wait_duration_growth`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Growth {
    /// By what the wait is multiplied at each further trip, in thousandths.
    pub multiplier_thousandths: u32,
    /// No wait is longer.
    pub max: Duration,
    /// Each wait is this much longer or shorter, at random.
    pub jitter: Percentage,
    /// After this long in closed the next trip counts as the first.
    pub reset_after: Duration,
}

/// `ramp_up`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RampUp {
    /// From closing to the whole traffic.
    pub duration: Duration,
    /// The share of requests that is let in at first.
    pub initial: Percentage,
}
