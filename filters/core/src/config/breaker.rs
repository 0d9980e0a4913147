//! `circuit_breaker`.

use super::decode::{Errors, Object, duration, integer, number, percentage, word};
use super::duration::display;
use super::json::Node;
use super::mode::{MODES, Mode};
use crate::breaker::{FailuresInWindow, Growth, LONGEST, Percentage, RampUp, Rates, Settings, Shape};
use std::ops::RangeInclusive;
use std::time::Duration;

/// A failure costs eight bytes of shared state, a probe twelve: these keep a policy's value within some ten kilobytes.
const FAILURES: RangeInclusive<u32> = 1..=1000;
const PERMITTED: RangeInclusive<u32> = 1..=1000;
const CONSECUTIVE: RangeInclusive<u32> = 1..=1_000_000;
/// A call costs two bits of shared state.
const CALLS: RangeInclusive<u32> = 1..=10_000;
/// A second with calls costs twelve bytes of shared state.
const SECONDS: RangeInclusive<u32> = 1..=3600;
const MINIMUM: RangeInclusive<u32> = 1..=1_000_000;
const MULTIPLIER: RangeInclusive<f64> = 1.0..=100.0;
const SPAN: RangeInclusive<Duration> = Duration::from_millis(1)..=LONGEST;
const SLOW: RangeInclusive<Duration> = Duration::from_micros(1)..=LONGEST;

const TRIGGERS: &str = "at least one trigger: \"consecutive_failures\", \"failures_in_window\", \
                        \"failure_rate_threshold\" or \"slow_call_rate_threshold\"";

// Resilience4j's defaults.
const DEFAULT_WAIT: Duration = Duration::from_secs(60);
const DEFAULT_PERMITTED: u32 = 10;
const DEFAULT_SLOW: Duration = Duration::from_secs(60);
const DEFAULT_SIZE: u32 = 100;
const DEFAULT_MINIMUM: u32 = 100;
/// Of its `IntervalFunction`.
const DEFAULT_MULTIPLIER: f64 = 1.5;

/// Resilience4j's default is no bound at all, which lets one probe that never answers keep the breaker half-open for ever.
const DEFAULT_STAY: Duration = Duration::from_secs(60);
const DEFAULT_MAX_WAIT: Duration = Duration::from_secs(3600);
const DEFAULT_RESET_AFTER: Duration = Duration::from_secs(600);
const DEFAULT_INITIAL: f32 = 10.0;

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
    let failure_rate = object.get("failure_rate_threshold").map(|node| threshold(node, errors));
    let slow_rate = object.get("slow_call_rate_threshold").map(|node| threshold(node, errors));
    let slow = object.get("slow_call_duration_threshold").map(|node| duration(node, &SLOW, errors));
    let shape = shape(&mut object, errors);
    let minimum = object.get("minimum_number_of_calls").map(|node| integer(node, MINIMUM, errors));
    let wait = object.get("wait_duration_in_open_state").map(|node| duration(node, &SPAN, errors));
    let growth = object.get("wait_duration_growth");
    let permitted = object
        .get("permitted_number_of_calls_in_half_open_state")
        .map(|node| integer(node, PERMITTED, errors));
    let stay = object.get("max_wait_duration_in_half_open_state").map(|node| duration(node, &SPAN, errors));
    let ramp = object.get("ramp_up").map(|node| ramp_up(node, errors));
    let all_known = object.finish(errors);
    let any_trigger =
        consecutive.is_some() || in_window.is_some() || failure_rate.is_some() || slow_rate.is_some();
    // An unknown key may be a trigger that is misspelt, and is told as that.
    if complete && all_known && !any_trigger {
        errors.expected(node, TRIGGERS);
    }
    let wait = wait.unwrap_or(Some(DEFAULT_WAIT));
    // What a policy is going to complete may get another wait.
    let least = if complete { wait } else { None };
    let growth = growth.map(|node| wait_duration_growth(node, least, errors));
    let slow_default = slow_rate.is_some().then_some(DEFAULT_SLOW);
    let rates = Rates {
        failure_rate_threshold: failure_rate.flatten(),
        slow_call_rate_threshold: slow_rate.flatten(),
        window: shape?,
        minimum_number_of_calls: minimum.unwrap_or(Some(DEFAULT_MINIMUM))?,
    };
    let any_rate = rates.failure_rate_threshold.is_some() || rates.slow_call_rate_threshold.is_some();
    let settings = Settings {
        consecutive_failures: consecutive.flatten(),
        failures_in_window: in_window.flatten(),
        rates: any_rate.then_some(rates),
        slow_call_duration_threshold: slow.flatten().or(slow_default),
        wait_duration_in_open_state: wait?,
        wait_duration_growth: growth.flatten(),
        permitted_number_of_calls_in_half_open_state: permitted.unwrap_or(Some(DEFAULT_PERMITTED))?,
        max_wait_duration_in_half_open_state: stay.unwrap_or(Some(DEFAULT_STAY))?,
        ramp_up: ramp.flatten(),
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

/// Resilience4j refuses a threshold of zero, too: any call would reach it.
fn threshold(node: &Node, errors: &mut Errors) -> Option<Percentage> {
    let found = percentage(node, errors)?;
    if found.get() <= 0.0 {
        errors.expected(node, "a percentage above 0");
        return None;
    }
    Some(found)
}

/// `sliding_window_type` and `sliding_window_size`.
fn shape(object: &mut Object<'_>, errors: &mut Errors) -> Option<Shape> {
    const TYPES: [(&str, bool); 2] = [("count", false), ("time", true)];
    let by_time = object.get("sliding_window_type").map(|node| word(node, &TYPES, errors));
    let size = object.get("sliding_window_size");
    let by_time = by_time.unwrap_or(Some(false))?;
    let range = if by_time { SECONDS } else { CALLS };
    let size = size.map_or(Some(DEFAULT_SIZE), |node| integer(node, range, errors))?;
    let size = u16::try_from(size).ok()?;
    Some(if by_time { Shape::Time { seconds: size, offset: 0 } } else { Shape::Count(size) })
}

fn wait_duration_growth(node: &Node, least: Option<Duration>, errors: &mut Errors) -> Option<Growth> {
    let mut object = Object::new(node, errors)?;
    let multiplier = object.get("multiplier").map(|node| number(node, MULTIPLIER, errors));
    let max_node = object.get("max");
    let max = max_node.map(|node| duration(node, &SPAN, errors));
    let jitter = object.get("jitter").map(|node| percentage(node, errors));
    let reset_after = object.get("reset_after").map(|node| duration(node, &SPAN, errors));
    object.finish(errors);
    let least = least.unwrap_or_default();
    let max = max.unwrap_or_else(|| Some(DEFAULT_MAX_WAIT.max(least)))?;
    if let Some(node) = max_node.filter(|_| max < least) {
        let expected = format!("at least \"{}\", the wait_duration_in_open_state", display(least));
        errors.expected(node, expected);
        return None;
    }
    Some(Growth {
        multiplier_thousandths: thousandths(multiplier.unwrap_or(Some(DEFAULT_MULTIPLIER))?),
        max,
        jitter: jitter.unwrap_or_else(|| Percentage::new(0.0))?,
        reset_after: reset_after.unwrap_or(Some(DEFAULT_RESET_AFTER))?,
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the multiplier's range fits, and a cast of a float saturates"
)]
fn thousandths(multiplier: f64) -> u32 {
    (multiplier * 1000.0).round() as u32
}

fn ramp_up(node: &Node, errors: &mut Errors) -> Option<RampUp> {
    let mut object = Object::new(node, errors)?;
    let span = object.require("duration", "a duration such as \"30s\"", errors);
    let span = span.and_then(|node| duration(node, &SPAN, errors));
    let initial = object.get("initial").map(|node| percentage(node, errors));
    object.finish(errors);
    Some(RampUp { duration: span?, initial: initial.unwrap_or_else(|| Percentage::new(DEFAULT_INITIAL))? })
}
