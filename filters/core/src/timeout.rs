//! Timeouts, and the deadline that a caller may bring along.

#[cfg(test)]
mod tests;

use crate::time::Timestamp;
use std::time::Duration;

/// Whatever a caller says beyond this is no deadline. It also keeps a `grpc-timeout` in milliseconds within its 8 digits.
pub const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Envoy's own back-off: before its n-th retry it waits for a random time below `(2^n - 1) * BASE`, and below `MOST`.
const BACK_OFF_BASE: Duration = Duration::from_millis(25);
const BACK_OFF_MOST: Duration = Duration::from_millis(250);

/// A request that is there whole within so much of its headers took no time to speak of.
const AT_ONCE: Duration = Duration::from_millis(5);

/// How long a request may take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// From its headers to the end of its answer, all attempts and waits included.
    pub total: Option<Duration>,
    /// Each attempt.
    pub per_try: Option<Duration>,
    /// A header, in lower case, in which a caller says how many milliseconds it will wait.
    pub deadline_header: Option<String>,
    /// How much earlier than a caller's deadline the answer must be there: the way back takes its time.
    pub margin: Duration,
}

/// What time a request has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Allowance {
    /// When its answer must be there.
    pub deadline: Option<Timestamp>,
    /// How long an attempt may take.
    pub per_try: Option<Duration>,
}

impl Settings {
    /// What time a request has that comes at `now`, from a caller that will wait for `patience`.
    #[must_use]
    pub fn allow(&self, patience: Option<Duration>, now: Timestamp) -> Allowance {
        let patience = patience.map(|patience| patience.saturating_sub(self.margin));
        let total = self.total.into_iter().chain(patience).min();
        Allowance { deadline: total.map(|total| now.after(total)), per_try: self.per_try }
    }
}

impl Allowance {
    /// Whether the answer can not be there in time any more.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// What is left of the time.
    #[must_use]
    pub fn rest(&self, now: Timestamp) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.since(now))
    }

    /// How many of the `wanted` retries fit: all attempts and the longest back-off between them.
    #[must_use]
    pub fn fitting(&self, wanted: u8, now: Timestamp) -> u8 {
        let (Some(rest), Some(per_try)) = (self.rest(now), self.per_try) else { return wanted };
        let mut needed = per_try;
        for retry in 1..=wanted {
            needed = needed.saturating_add(back_off(retry)).saturating_add(per_try);
            if needed > rest {
                return retry.saturating_sub(1);
            }
        }
        wanted
    }
}

/// Whether a request that began at `began`, and is there whole now, came at once: then the router's clock, which starts when
/// it has the whole request, is as good as one that started with its headers.
#[must_use]
pub fn came_at_once(began: Timestamp, now: Timestamp) -> bool {
    now.since(began) < AT_ONCE
}

/// How long Envoy waits at most before a retry, counted from 1.
fn back_off(retry: u8) -> Duration {
    let steps = 1_u32.checked_shl(retry.into()).map_or(u32::MAX, |steps| steps.saturating_sub(1));
    BACK_OFF_BASE.saturating_mul(steps).min(BACK_OFF_MOST)
}

/// A caller's `grpc-timeout`: up to 8 digits and a unit. `None` for anything else, and for what is too long to matter.
#[must_use]
pub fn parse_grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.len() > 8 {
        return None;
    }
    let count = number(digits)?;
    let whole = match unit {
        b'H' => Duration::from_secs(count.checked_mul(3600)?),
        b'M' => Duration::from_secs(count.checked_mul(60)?),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    };
    (whole <= LONGEST).then_some(whole)
}

/// A caller's deadline in milliseconds. `None` for anything else, and for what is too long to matter.
#[must_use]
pub fn parse_millis(value: &[u8]) -> Option<Duration> {
    Some(Duration::from_millis(number(value)?)).filter(|whole| *whole <= LONGEST)
}

/// Digits, and nothing else.
fn number(digits: &[u8]) -> Option<u64> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}
