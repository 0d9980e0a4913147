//! `circuit_breaker`.

use super::decode::{Errors, Object, duration, integer, word};
use super::json::Node;
use super::policy::{MODES, Mode};
use crate::breaker::{FailuresInWindow, Settings};
use std::ops::RangeInclusive;
use std::time::Duration;

/// A failure costs eight bytes of shared state, a probe twelve: these keep a policy's value within some ten kilobytes.
const FAILURES: RangeInclusive<u32> = 1..=1000;
const PERMITTED: RangeInclusive<u32> = 1..=1000;
const CONSECUTIVE: RangeInclusive<u32> = 1..=1_000_000;
const SPAN: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(7 * 24 * 3600);

const TRIGGERS: &str = "at least one trigger: \"consecutive_failures\" or \"failures_in_window\"";
/// Resilience4j's default.
const DEFAULT_WAIT: Duration = Duration::from_secs(60);
/// Resilience4j's default.
const DEFAULT_PERMITTED: u32 = 10;
/// Resilience4j's default is no bound at all, which lets one probe that never answers keep the breaker half-open for ever.
const DEFAULT_STAY: Duration = Duration::from_secs(60);

pub(super) fn decode(node: &Node, errors: &mut Errors) -> Option<(Mode, Settings)> {
    read(node, true, errors)
}

/// As [`decode`], for a section that a policy is going to complete.
pub(super) fn check_partial(node: &Node, errors: &mut Errors) {
    let _ = read(node, false, errors);
}

fn read(node: &Node, complete: bool, errors: &mut Errors) -> Option<(Mode, Settings)> {
    let mut object = Object::new(node, errors)?;
    let mode = object.get("mode").map(|node| word(node, &MODES, errors));
    let consecutive = object.get("consecutive_failures").map(|node| integer(node, CONSECUTIVE, errors));
    let in_window = object.get("failures_in_window").map(|node| failures_in_window(node, errors));
    let wait = object.get("wait_duration_in_open_state").map(|node| duration(node, &SPAN, errors));
    let permitted = object
        .get("permitted_number_of_calls_in_half_open_state")
        .map(|node| integer(node, PERMITTED, errors));
    let stay = object.get("max_wait_duration_in_half_open_state").map(|node| duration(node, &SPAN, errors));
    let all_known = object.finish(errors);
    // An unknown key may be a trigger that is misspelt, and is told as that.
    if complete && all_known && consecutive.is_none() && in_window.is_none() {
        errors.expected(node, TRIGGERS);
    }
    let settings = Settings {
        consecutive_failures: consecutive.flatten(),
        failures_in_window: in_window.flatten(),
        wait_duration_in_open_state: wait.unwrap_or(Some(DEFAULT_WAIT))?,
        permitted_number_of_calls_in_half_open_state: permitted.unwrap_or(Some(DEFAULT_PERMITTED))?,
        max_wait_duration_in_half_open_state: stay.unwrap_or(Some(DEFAULT_STAY))?,
    };
    Some((mode.unwrap_or(Some(Mode::Enforce))?, settings))
}

fn failures_in_window(node: &Node, errors: &mut Errors) -> Option<FailuresInWindow> {
    let mut object = Object::new(node, errors)?;
    let failures = object.require("failures", "how many failures trip", errors);
    let failures = failures.and_then(|node| integer(node, FAILURES, errors));
    let window = object.require("window", "a duration such as \"10s\"", errors);
    let window = window.and_then(|node| duration(node, &SPAN, errors));
    object.finish(errors);
    Some(FailuresInWindow { failures: u16::try_from(failures?).ok()?, window: window? })
}
