//! `retry_budget`.

use super::decode::{Errors, Object, duration, flip, integer, millionths, word};
use super::json::Node;
use super::mode::{Mode, PATTERN_MODES, PatternMode};
use crate::budget::Settings;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The pattern `retry_budget`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetryBudget {
    /// How many retries there may be.
    pub settings: Settings,
    /// What is done about more.
    pub mode: PatternMode,
}

const FLOOR: RangeInclusive<u32> = 0..=10_000;
/// Finagle's.
const TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
const BALANCE: RangeInclusive<u32> = 1..=1_000_000;

// Finagle's defaults.
/// In millionths of a percent.
const DEFAULT_PERCENT: u32 = 20_000_000;
const DEFAULT_FLOOR: u32 = 10;
const DEFAULT_TTL: Duration = Duration::from_secs(10);

impl RetryBudget {
    /// What retries get that nobody set a budget for.
    pub(super) fn unsaid(mode: PatternMode) -> Self {
        Self { settings: Settings::new(DEFAULT_PERCENT, DEFAULT_FLOOR, DEFAULT_TTL, None), mode }
    }

    /// As it is in a policy of the mode `outer`.
    pub(super) fn within(self, outer: Mode) -> Self {
        Self { mode: self.mode.within(outer), ..self }
    }
}

/// A section, whole or a part of one: nothing in it is required.
pub(super) fn decode(node: &Node, errors: &mut Errors) -> Option<RetryBudget> {
    let mut object = Object::new(node, errors)?;
    let mode = object.get("mode").map(|node| word(node, &PATTERN_MODES, errors));
    let percent = object.get("percent_can_retry").map(|node| millionths(node, errors));
    let floor = object.get("min_retries_per_second").map(|node| integer(node, FLOOR, errors));
    let ttl = object.get("ttl").map(|node| duration(node, &TTL, errors));
    let balance = object.get("max_balance").map(|node| integer(node, BALANCE, errors));
    object.finish(errors);
    let settings = Settings::new(
        percent.unwrap_or(Some(DEFAULT_PERCENT))?,
        floor.unwrap_or(Some(DEFAULT_FLOOR))?,
        ttl.unwrap_or(Some(DEFAULT_TTL))?,
        flip(balance)?,
    );
    Some(RetryBudget { settings, mode: mode.unwrap_or(Some(PatternMode::Enforce))? })
}
