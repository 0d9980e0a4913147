//! Timeouts, retries and their budget: what they mean and what they inherit.

use super::mode::SOFTENED;
use super::tests::errors;
use super::*;
use crate::budget;
use crate::retry::{NonIdempotent, Safety, Settings};
use crate::timeout;
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// One policy with these keys, and a document around it.
fn parse(keys: &str, around: &str) -> Policy {
    let policy = format!(r#"{{"name": "p", "match": [{{"any": true}}]{keys}}}"#);
    let document = format!(r#"{{"policies": [{policy}]{around}}}"#);
    let parsed = Document::parse(document.as_bytes());
    parsed.unwrap_or_else(|messages| panic!("{document}: {messages:?}")).policies.swap_remove(0)
}

fn timeout(keys: &str) -> timeout::Settings {
    parse(&format!(r#", "timeout": {keys}"#), "").timeout.unwrap().settings
}

fn retry(keys: &str) -> Retry {
    parse(&format!(r#", "retry": {keys}"#), "").retry.unwrap()
}

fn budget(keys: &str) -> budget::Settings {
    parse(&format!(r#", "retry_budget": {keys}"#), "").retry_budget.unwrap().settings
}

fn default_budget() -> budget::Settings {
    budget::Settings::new(20_000_000, 10, Duration::from_secs(10), None)
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn what_is_not_said_has_its_default() {
    let margin = Duration::from_millis(10);
    let nothing = timeout::Settings { total: None, per_try: None, deadline_header: None, margin };
    assert_eq!(timeout("{}"), nothing);
    let unsaid = Settings { max_retries: 1, retry_on: "5xx".to_owned(), retry_grpc_on: String::new() };
    let safety = Safety { idempotency_key: "idempotency-key".into(), non_idempotent: NonIdempotent::WithKey };
    assert_eq!(retry("{}"), Retry { settings: unsaid, safety, mode: PatternMode::Enforce });
    assert_eq!(budget("{}"), default_budget());
    let silent = parse("", "");
    assert_eq!((silent.timeout, silent.retry, silent.retry_budget), (None, None, None));
}

#[test]
fn what_is_said_is_taken() {
    let said = timeout(
        r#"{"total": "1m30s", "per_try": "250ms", "deadline_header": "X-Deadline-Ms", "margin": "1500us"}"#,
    );
    let expected = timeout::Settings {
        total: Some(90 * SECOND),
        per_try: Some(Duration::from_millis(250)),
        deadline_header: Some("x-deadline-ms".to_owned()),
        margin: Duration::from_micros(1500),
    };
    assert_eq!(said, expected);
    let said = retry(r#"{"max_retries": 3, "idempotency_key": "X-Key", "non_idempotent": "with_key"}"#);
    assert_eq!((said.settings.max_retries, said.safety.idempotency_key.as_ref()), (3, "x-key"));
    for (word, expected) in [("never", NonIdempotent::Never), ("always", NonIdempotent::Always)] {
        let said = retry(&format!(r#"{{"non_idempotent": "{word}"}}"#));
        assert_eq!(said.safety.non_idempotent, expected);
    }
    let said = budget(
        r#"{"percent_can_retry": 12.5, "min_retries_per_second": 3, "ttl": "2s500ms", "max_balance": 50}"#,
    );
    assert_eq!(said, budget::Settings::new(12_500_000, 3, Duration::from_millis(2500), Some(50)));
    let trusts = r#"{"policies": [], "trust_caller_headers": true}"#;
    assert!(Document::parse(trusts.as_bytes()).unwrap().trust_caller_headers);
}

#[test]
fn each_word_goes_into_the_header_that_envoy_reads_it_from() {
    let headers = |words: &str| {
        let settings = retry(&format!(r#"{{"retry_on": {words}}}"#)).settings;
        (settings.retry_on, settings.retry_grpc_on)
    };
    let http = [
        "5xx",
        "gateway-error",
        "reset",
        "reset-before-request",
        "connect-failure",
        "envoy-ratelimited",
        "retriable-4xx",
        "refused-stream",
        "retriable-status-codes",
        "retriable-headers",
        "http3-post-connect-failure",
    ];
    let grpc = ["cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"];
    for word in http {
        assert_eq!(headers(&format!(r#"["{word}"]"#)), (word.to_owned(), String::new()));
    }
    for word in grpc {
        assert_eq!(headers(&format!(r#"["{word}"]"#)), (String::new(), word.to_owned()));
    }
    let mixed = headers(r#"["reset", "unavailable", "5xx", "reset", "internal", "unavailable"]"#);
    assert_eq!(mixed, ("reset,5xx".to_owned(), "unavailable,internal".to_owned()));
}

#[test]
fn every_range_includes_its_ends_and_nothing_beyond() {
    let spans = (["\"1ms\"", "\"24h\"", "\"1000us\""], ["\"0s\"", "\"24h1ms\"", "\"1ns\"", "\"1s1us\"", "5"]);
    let margins = (["\"0s\"", "\"1m\"", "\"1ns\""], ["\"1m1ns\"", "0"]);
    let ttls = (["\"1s\"", "\"60s\"", "\"1s500ms\""], ["\"999ms\"", "\"1m1ns\"", "10"]);
    let mut cases: Vec<(String, bool)> = Vec::new();
    let mut add = |section: &str, key: &str, fits: &[&str], not: &[&str]| {
        let case = |value: &&str| format!(r#", "{section}": {{"{key}": {value}}}"#);
        cases.extend(fits.iter().map(|value| (case(value), true)));
        cases.extend(not.iter().map(|value| (case(value), false)));
    };
    add("timeout", "total", &spans.0, &spans.1);
    add("timeout", "per_try", &spans.0, &spans.1);
    add("timeout", "margin", &margins.0, &margins.1);
    add("retry_budget", "ttl", &ttls.0, &ttls.1);
    let no_count = ["-1", "1.5", "1.0", "1e2", "\"1\"", "true", "[]", "null", "4294967297"];
    for (section, key, fits, not) in [
        ("retry", "max_retries", ["1", "10"], ["0", "11"]),
        ("retry_budget", "min_retries_per_second", ["0", "10000"], ["-1", "10001"]),
        ("retry_budget", "max_balance", ["1", "1000000"], ["0", "1000001"]),
    ] {
        add(section, key, &fits, &not);
        add(section, key, &[], &no_count);
    }
    add("retry_budget", "percent_can_retry", &["0", "-0", "1e-9", "100", "100.0"], &["-1", "100.1", "null"]);
    for (keys, fits) in cases {
        if fits {
            parse(&keys, "");
            continue;
        }
        let document = format!(r#"{{"policies": [{{"name": "p", "match": [{{"any": true}}]{keys}}}]}}"#);
        assert_eq!(errors(&document).len(), 1, "{keys}");
    }
}

#[test]
fn defaults_merge_key_by_key_under_a_policy() {
    let defaults = r#", "defaults": {
        "timeout": {"total": "10s", "per_try": "3s", "margin": "20ms"},
        "retry": {"max_retries": 4, "retry_on": ["5xx", "reset"], "idempotency_key": "x-key"},
        "retry_budget": {"percent_can_retry": 10, "max_balance": 7}}"#;
    let whole = parse("", defaults);
    let settings = whole.timeout.unwrap().settings;
    assert_eq!((settings.total, settings.per_try), (Some(10 * SECOND), Some(3 * SECOND)));
    assert_eq!(whole.retry.unwrap().settings.max_retries, 4);
    assert_eq!(
        whole.retry_budget.unwrap().settings,
        budget::Settings::new(10_000_000, 10, 10 * SECOND, Some(7))
    );
    let own = parse(
        r#", "timeout": {"per_try": "10s"}, "retry": {"retry_on": ["unavailable"]}, "retry_budget": {"ttl": "1s"}"#,
        defaults,
    );
    let settings = own.timeout.unwrap().settings;
    assert_eq!((settings.total, settings.per_try), (Some(10 * SECOND), Some(10 * SECOND)));
    assert_eq!(settings.margin, Duration::from_millis(20));
    let retry = own.retry.unwrap();
    assert_eq!(
        (retry.settings.retry_on.as_str(), retry.settings.retry_grpc_on.as_str()),
        ("", "unavailable")
    );
    assert_eq!((retry.settings.max_retries, retry.safety.idempotency_key.as_ref()), (4, "x-key"));
    let expected = budget::Settings::new(10_000_000, 10, SECOND, Some(7));
    assert_eq!(own.retry_budget.unwrap().settings, expected);
    // A policy for which keys do not count does not inherit one.
    let never = parse(r#", "retry": {"non_idempotent": "never"}"#, defaults).retry.unwrap();
    assert_eq!(never.safety.non_idempotent, NonIdempotent::Never);
    let with_key = r#", "retry": {"non_idempotent": "with_key", "idempotency_key": "x-own"}"#;
    let with_key = parse(with_key, r#", "defaults": {"retry": {"non_idempotent": "always"}}"#).retry.unwrap();
    assert_eq!(with_key.safety.idempotency_key, "x-own");
}

#[test]
fn null_switches_an_inherited_section_off() {
    let defaults =
        r#", "defaults": {"timeout": {"total": "1s"}, "retry": {}, "retry_budget": {"ttl": "2s"}}"#;
    let policy = parse("", defaults);
    assert!(policy.timeout.is_some() && policy.retry.is_some() && policy.retry_budget.is_some());
    assert_eq!(parse(r#", "timeout": null"#, defaults).timeout, None);
    // The budget then caps what the route retries.
    let policy = parse(r#", "retry": null"#, defaults);
    assert!(policy.retry.is_none() && policy.retry_budget.is_some());
    let policy = parse(r#", "retry_budget": null"#, defaults);
    assert!(policy.retry.is_some() && policy.retry_budget.is_none());
    let policy = parse(r#", "timeout": null, "retry": null, "retry_budget": null"#, "");
    assert_eq!((policy.timeout, policy.retry, policy.retry_budget), (None, None, None));
}

#[test]
fn retries_without_a_word_of_a_budget_have_the_default_one() {
    let expected = RetryBudget { settings: default_budget(), mode: PatternMode::Enforce };
    assert_eq!(parse(r#", "retry": {}"#, "").retry_budget, Some(expected));
    assert_eq!(parse("", r#", "defaults": {"retry": {}}"#).retry_budget, Some(expected));
    assert_eq!(parse(r#", "retry": {}, "retry_budget": null"#, "").retry_budget, None);
    let inherited = parse(r#", "retry": {}"#, r#", "defaults": {"retry_budget": {"ttl": "5s"}}"#);
    let settings = budget::Settings::new(20_000_000, 10, 5 * SECOND, None);
    assert_eq!(inherited.retry_budget.map(|budget| budget.settings), Some(settings));
    // It does no more than the retries it is for.
    for (keys, mode) in [
        (r#", "mode": "shadow", "retry": {}"#, PatternMode::Shadow),
        (r#", "retry": {"mode": "shadow"}"#, PatternMode::Shadow),
        (r#", "retry": {"mode": "disabled"}"#, PatternMode::Disabled),
        (r#", "mode": "disabled", "retry": {}"#, PatternMode::Disabled),
    ] {
        assert_eq!(parse(keys, "").retry_budget.map(|budget| budget.mode), Some(mode), "{keys}");
    }
}

#[test]
fn a_policy_only_softens_its_patterns() {
    for (outer, inner, expected) in SOFTENED {
        let section = format!(r#"{{"mode": "{inner}"}}"#);
        let keys = format!(
            r#", "mode": "{outer}", "timeout": {section}, "retry": {section}, "retry_budget": {section}"#
        );
        let policy = parse(&keys, "");
        assert_eq!(policy.timeout.unwrap().mode, expected, "{outer} {inner}");
        assert_eq!(policy.retry.unwrap().mode, expected, "{outer} {inner}");
        assert_eq!(policy.retry_budget.unwrap().mode, expected, "{outer} {inner}");
    }
}

/// The document of the interface without what is yet to come.
#[test]
fn the_example_of_the_interface_is_taken() {
    let document = r#"{
      "namespace": "shopfast",
      "defaults": {
        "outcome": {"ignore": {"status": [429]}},
        "retry_budget": {"percent_can_retry": 20, "min_retries_per_second": 10, "ttl": "10s"}
      },
      "exempt": [{"path": {"prefix": "/health"}}],
      "policies": [
        {
          "name": "checkout",
          "match": [{"route": "checkout"}],
          "outcome": {"failure": {"status": ["5xx"], "grpc_status": ["UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN"]}},
          "circuit_breaker": {
            "failures_in_window": {"failures": 5, "window": "10s"},
            "failure_rate_threshold": 50, "slow_call_rate_threshold": 80, "slow_call_duration_threshold": "2s",
            "sliding_window_type": "time", "sliding_window_size": 10, "minimum_number_of_calls": 20,
            "wait_duration_in_open_state": "30s",
            "wait_duration_growth": {"multiplier": 2, "max": "5m", "jitter": 20, "reset_after": "10m"},
            "permitted_number_of_calls_in_half_open_state": 1, "max_wait_duration_in_half_open_state": "15s"
          },
          "bulkhead": {
            "max_concurrent_calls": 50, "max_wait_duration": "250ms", "max_queue": 100,
            "priority": {
              "header": "x-priority", "default": "normal",
              "classes": [{"name": "critical", "max_share": 100}, {"name": "normal", "max_share": 80}, {"name": "batch", "max_share": 40}]
            }
          },
          "timeout": {"total": "10s", "per_try": "3s", "margin": "20ms"},
          "retry": {"max_retries": 2, "retry_on": ["5xx", "reset", "connect-failure"], "idempotency_key": "idempotency-key"},
          "fallback": [{"on": ["refusal"], "static": {"status": 202, "json": {"status": "PAYMENT_DEFERRED"}}}]
        },
        {
          "name": "catalogue", "match": [{"route": "catalogue"}],
          "circuit_breaker": {"failure_rate_threshold": 50, "minimum_number_of_calls": 20},
          "bulkhead": {"max_concurrent_calls": 30},
          "fallback": [{"static": {"status": 200, "json": {"items": [], "degraded": true}}}]
        },
        {"name": "email-secondary", "match": [{"route": "email-secondary"}], "circuit_breaker": {"consecutive_failures": 3}}
      ]
    }"#;
    let document = Document::parse(document.as_bytes()).unwrap();
    let checkout = &document.policies[0];
    let expected = timeout::Settings {
        total: Some(10 * SECOND),
        per_try: Some(3 * SECOND),
        deadline_header: None,
        margin: Duration::from_millis(20),
    };
    assert_eq!(checkout.timeout.as_ref().map(|timeout| &timeout.settings), Some(&expected));
    let expected = Settings {
        max_retries: 2,
        retry_on: "5xx,reset,connect-failure".to_owned(),
        retry_grpc_on: String::new(),
    };
    assert_eq!(checkout.retry.as_ref().map(|retry| &retry.settings), Some(&expected));
    for policy in &document.policies {
        let budget = policy.retry_budget.map(|budget| budget.settings);
        assert_eq!(budget, Some(default_budget()), "{}", policy.name);
    }
    assert!(!document.trust_caller_headers);
}
