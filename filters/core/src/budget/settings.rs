//! What an operator says of a retry budget.

use std::time::Duration;

/// A request pays this much, so that a share of a retry can be told in whole numbers (Finagle's `ScaleFactor`).
pub(super) const DEPOSIT: i64 = 1000;
/// A window has so many slices (Finagle's `TokenBucket`).
pub(super) const SLICES: u32 = 10;
/// A whole share in millionths of a percent.
const WHOLE: i64 = 100_000_000;

/// How many retries a policy's requests may have, by the rules of Finagle's `RetryBudget`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// What a request pays.
    pub(super) deposit: i64,
    /// What a retry costs.
    pub(super) cost: i64,
    /// Retries that nobody need have paid for, at once and again as they leave the window.
    pub(super) floor: i64,
    /// How many retries there can be at once; `None` where only what was paid bounds them.
    pub(super) max_balance: Option<i64>,
    /// How long a slice of the window lasts at least.
    pub(super) slice: Duration,
}

impl Settings {
    /// `percent` is `percent_can_retry` in millionths of a percent, 0 to 100 percent. `ttl` is how long what a request pays
    /// counts.
    #[must_use]
    pub fn new(percent: u32, min_retries_per_second: u32, ttl: Duration, max_balance: Option<u32>) -> Self {
        // Rounded down, as Finagle does: the true share is never below the one that was asked for.
        let cost = WHOLE.saturating_mul(DEPOSIT).checked_div(i64::from(percent));
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        Self {
            deposit: if cost.is_some() { DEPOSIT } else { 0 },
            cost: cost.unwrap_or(1),
            floor: i64::from(min_retries_per_second).saturating_mul(seconds),
            max_balance: max_balance.map(i64::from),
            slice: ttl.checked_div(SLICES).unwrap_or(ttl),
        }
    }

    /// What the count never goes beyond.
    pub(super) fn cap(&self) -> Option<i64> {
        self.max_balance.map(|most| most.saturating_mul(self.cost))
    }

    /// How many retries there are before anybody has paid.
    #[must_use]
    pub fn at_birth(&self) -> i64 {
        self.floor.min(self.max_balance.unwrap_or(i64::MAX))
    }
}
