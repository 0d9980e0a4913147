//! Rates, windows, waits, ramps and keys: what they mean and what is refused.

use super::tests::each;
use super::*;
use crate::breaker::{Growth, Percentage, RampUp, Settings, Shape};
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn policy(keys: &str) -> Policy {
    let document = format!(r#"{{"policies": [{{"name": "p", "match": [{{"any": true}}], {keys}}}]}}"#);
    Document::parse(document.as_bytes()).unwrap_or_else(|messages| panic!("{messages:?}")).policies.remove(0)
}

fn settings(breaker: &str) -> Settings {
    policy(&format!(r#""circuit_breaker": {{{breaker}}}"#)).circuit_breaker.unwrap().settings
}

#[test]
fn what_is_not_said_of_rates_is_resilience4js() {
    let by_failures = settings(r#""failure_rate_threshold": 50"#);
    let rates = by_failures.rates.unwrap();
    assert_eq!(rates.failure_rate_threshold, Percentage::new(50.0));
    assert_eq!(rates.slow_call_rate_threshold, None);
    assert_eq!((rates.window, rates.minimum_number_of_calls), (Shape::Count(100), 100));
    assert_eq!(by_failures.slow_call_duration_threshold, None);
    let by_slowness = settings(r#""slow_call_rate_threshold": 12.5"#);
    assert_eq!(by_slowness.slow_call_duration_threshold, Some(Duration::from_secs(60)));
    assert_eq!((by_slowness.wait_duration_growth, by_slowness.ramp_up), (None, None));
    assert_eq!(settings(r#""consecutive_failures": 1, "sliding_window_size": 5"#).rates, None);
}

#[test]
fn what_is_said_of_rates_is_taken() {
    let said = settings(
        r#""failure_rate_threshold": 83.333336, "slow_call_rate_threshold": 100, "sliding_window_type": "time",
           "sliding_window_size": 3600, "minimum_number_of_calls": 7, "slow_call_duration_threshold": "1us",
           "wait_duration_growth": {"multiplier": 1.25, "max": "2m", "jitter": 20.5, "reset_after": "3m"},
           "ramp_up": {"duration": "30s", "initial": 0}"#,
    );
    let rates = said.rates.unwrap();
    assert_eq!(rates.failure_rate_threshold, Percentage::new(83.333_336));
    assert_eq!(rates.window, Shape::Time { seconds: 3600, offset: 0 });
    assert_eq!(rates.minimum_number_of_calls, 7);
    assert_eq!(said.slow_call_duration_threshold, Some(Duration::from_micros(1)));
    let growth = Growth {
        multiplier_thousandths: 1250,
        max: Duration::from_secs(120),
        jitter: Percentage::new(20.5).unwrap(),
        reset_after: Duration::from_secs(180),
    };
    assert_eq!(said.wait_duration_growth, Some(growth));
    let ramp = RampUp { duration: Duration::from_secs(30), initial: Percentage::new(0.0).unwrap() };
    assert_eq!(said.ramp_up, Some(ramp));
    assert_eq!(
        said.aligned(7).rates.map(|rates| rates.window),
        Some(Shape::Time { seconds: 3600, offset: 7 })
    );
}

#[test]
fn a_minimum_beyond_the_window_is_taken_as_it_is() {
    let rates = settings(r#""failure_rate_threshold": 50, "sliding_window_size": 5"#).rates.unwrap();
    assert_eq!((rates.minimum_number_of_calls, rates.window), (100, Shape::Count(5)));
}

#[test]
fn keys_are_bounded_where_they_are_asked_for() {
    let max_keys = |keys: &str| policy(&format!(r#"{keys} "mode": "enforce""#)).max_keys;
    assert_eq!(max_keys(""), None);
    assert_eq!(max_keys(r#""key": "policy","#), None);
    assert_eq!(max_keys(r#""key": "upstream_cluster","#), Some(64));
    assert_eq!(max_keys(r#""key": "upstream_cluster", "max_keys": 1,"#), Some(1));
}

#[test]
fn mistakes_are_told() {
    let rate = r#""circuit_breaker": {"failure_rate_threshold": 50,"#;
    let cases = [
        (
            r#""circuit_breaker": {"failure_rate_treshold": 50}"#.to_owned(),
            r#"circuit_breaker.failure_rate_treshold: unknown key; did you mean "failure_rate_threshold"?"#,
        ),
        (
            r#""circuit_breaker": {"failure_rate_threshold": 140}"#.to_owned(),
            "circuit_breaker.failure_rate_threshold: found 140, expected a percentage from 0 to 100",
        ),
        (
            r#""circuit_breaker": {"slow_call_rate_threshold": 0}"#.to_owned(),
            "circuit_breaker.slow_call_rate_threshold: found 0, expected a percentage above 0",
        ),
        (
            r#""circuit_breaker": {"failure_rate_threshold": "50%"}"#.to_owned(),
            r#"circuit_breaker.failure_rate_threshold: found "50%", expected a percentage from 0 to 100"#,
        ),
        (
            format!(r#"{rate} "sliding_window_type": "calls"}}"#),
            r#"circuit_breaker.sliding_window_type: found "calls", expected one of "count", "time""#,
        ),
        (
            format!(r#"{rate} "sliding_window_size": 10001}}"#),
            "circuit_breaker.sliding_window_size: found 10001, expected a whole number from 1 to 10000",
        ),
        (
            format!(r#"{rate} "sliding_window_type": "time", "sliding_window_size": 3601}}"#),
            "circuit_breaker.sliding_window_size: found 3601, expected a whole number from 1 to 3600",
        ),
        (
            format!(r#"{rate} "minimum_number_of_calls": 0}}"#),
            "circuit_breaker.minimum_number_of_calls: found 0, expected a whole number from 1 to 1000000",
        ),
        (
            format!(r#"{rate} "wait_duration_growth": {{"multiplier": 0.5}}}}"#),
            "circuit_breaker.wait_duration_growth.multiplier: found 0.5, expected a number from 1 to 100",
        ),
        (
            format!(r#"{rate} "wait_duration_growth": {{"max": "30s"}}}}"#),
            r#"circuit_breaker.wait_duration_growth.max: found "30s", expected at least "1m", the wait_duration_in_open_state"#,
        ),
        (
            format!(r#"{rate} "wait_duration_growth": {{"jitter": 101}}}}"#),
            "circuit_breaker.wait_duration_growth.jitter: found 101, expected a percentage from 0 to 100",
        ),
        (
            format!(r#"{rate} "ramp_up": {{"initial": 20}}}}"#),
            r#"circuit_breaker.ramp_up: missing key "duration", expected a duration such as "30s""#,
        ),
        (
            r#""key": "cluster""#.to_owned(),
            r#"key: found "cluster", expected one of "policy", "upstream_cluster""#,
        ),
        (r#""max_keys": 5"#.to_owned(), r#"max_keys: found 5, expected "key": "upstream_cluster" beside it"#),
        (
            r#""key": "upstream_cluster", "max_keys": 0"#.to_owned(),
            "max_keys: found 0, expected a whole number from 1 to 1024",
        ),
    ];
    each(&cases.each_ref().map(|(keys, message)| (keys.as_str(), *message)));
}
