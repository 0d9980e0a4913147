//! What a mistake in a timeout, a retry or a budget looks like to the operator who made it.

use super::tests::{each, errors};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const HEADER: &str = "expected the name of a header such as";
const SPOKEN_FOR: &str = "expected a header that HTTP, gRPC, Envoy and this filter do not use themselves";

/// The one message of a section with these keys.
fn refused(section: &str, keys: &str, message: &str) {
    each(&[(&format!(r#""{section}": {{{keys}}}"#), &format!("{section}{message}"))]);
}

/// Everything that a policy without these keys says of itself, under these defaults.
fn under(defaults: &str, keys: &str) -> Vec<String> {
    errors(&format!(
        r#"{{"policies": [{{"name": "p", "match": [{{"any": true}}]{keys}}}], "defaults": {{{defaults}}}}}"#
    ))
}

#[test]
fn mistakes_in_timeouts_are_told() {
    let said = |keys: &str, message: &str| refused("timeout", keys, message);
    each(&[(r#""timeout": "5s""#, r#"timeout: found "5s", expected an object"#)]);
    said(r#""totl": "1s""#, r#".totl: unknown key; did you mean "total"?"#);
    said(r#""pertry": "1s""#, r#".pertry: unknown key; did you mean "per_try"?"#);
    said(
        r#""max": "1s""#,
        r#".max: unknown key, expected one of "mode", "total", "per_try", "deadline_header", "margin""#,
    );
    said(
        r#""mode": "forced_open""#,
        r#".mode: found "forced_open", expected one of "enforce", "shadow", "disabled""#,
    );
    for key in ["total", "per_try"] {
        let said = |value: &str, message: &str| {
            said(&format!(r#""{key}": {value}"#), &format!(".{key}: found {value}, expected {message}"));
        };
        said("30", r#"a duration such as "30s""#);
        said("null", r#"a duration such as "30s""#);
        said(r#""0s""#, r#"a duration from "1ms" to "24h""#);
        said(r#""25h""#, r#"a duration from "1ms" to "24h""#);
        said(r#""1500us""#, r#"whole milliseconds such as "250ms""#);
    }
    said(r#""margin": "61s""#, r#".margin: found "61s", expected a duration from "0s" to "1m""#);
    for (name, expected) in [
        (r#""a b""#, format!(r#"{HEADER} "x-deadline-ms" (a token, RFC 9110)"#)),
        (r#"":path""#, format!(r#"{HEADER} "x-deadline-ms" (a token, RFC 9110)"#)),
        ("5", format!(r#"{HEADER} "x-deadline-ms" (a token, RFC 9110)"#)),
        (r#""Content-Length""#, SPOKEN_FOR.to_owned()),
        (r#""host""#, SPOKEN_FOR.to_owned()),
        (r#""TE""#, SPOKEN_FOR.to_owned()),
        (r#""gRPC-Timeout""#, SPOKEN_FOR.to_owned()),
        (r#""X-Envoy-Upstream-Rq-Timeout-Ms""#, SPOKEN_FOR.to_owned()),
        (r#""x-resilience""#, SPOKEN_FOR.to_owned()),
    ] {
        let message = format!(".deadline_header: found {name}, {expected}");
        said(&format!(r#""deadline_header": {name}"#), &message);
    }
}

#[test]
fn an_attempt_is_not_longer_than_the_whole() {
    refused(
        "timeout",
        r#""total": "1s", "per_try": "1s1ms""#,
        r#".per_try: found "1s1ms", expected at most "1s", which is policies[0].timeout.total"#,
    );
    // What is wrong with one of them hides nothing, and says nothing of the other.
    refused(
        "timeout",
        r#""total": 1, "per_try": "1s""#,
        r#".total: found 1, expected a duration such as "30s""#,
    );
    let both = r#""timeout": {"total": "2s", "per_try": "3s"}"#;
    let said =
        r#"defaults.timeout.per_try: found "3s", expected at most "2s", which is defaults.timeout.total"#;
    assert_eq!(under(both, ""), [said]);
    let defaults = r#""timeout": {"total": "10s", "per_try": "3s"}"#;
    assert_eq!(
        under(defaults, r#", "timeout": {"total": "2s"}"#),
        [
            r#"policies[0].timeout.total: found "2s", expected at least "3s", which is defaults.timeout.per_try"#
        ]
    );
    assert_eq!(
        under(defaults, r#", "timeout": {"per_try": "11s"}"#),
        [
            r#"policies[0].timeout.per_try: found "11s", expected at most "10s", which is defaults.timeout.total"#
        ]
    );
    assert_eq!(
        under(defaults, r#", "timeout": {"total": "2s", "per_try": "3s"}"#),
        [
            r#"policies[0].timeout.per_try: found "3s", expected at most "2s", which is policies[0].timeout.total"#
        ]
    );
}

#[test]
fn mistakes_in_retries_are_told() {
    let said = |keys: &str, message: &str| refused("retry", keys, message);
    each(&[(r#""retry": 3"#, "retry: found 3, expected an object")]);
    said(r#""max_retrys": 1"#, r#".max_retrys: unknown key; did you mean "max_retries"?"#);
    said(
        r#""per_try": "1s""#,
        r#".per_try: unknown key, expected one of "mode", "max_retries", "retry_on", "idempotency_key", "non_idempotent""#,
    );
    said(r#""max_retries": 11"#, ".max_retries: found 11, expected a whole number from 1 to 10");
    said(
        r#""non_idempotent": "with-key""#,
        r#".non_idempotent: found "with-key", expected one of "with_key", "never", "always""#,
    );
    said(
        r#""idempotency_key": "a b""#,
        &format!(r#".idempotency_key: found "a b", {HEADER} "idempotency-key" (a token, RFC 9110)"#),
    );
    for word in ["never", "always"] {
        said(
            &format!(r#""idempotency_key": "x-key", "non_idempotent": "{word}""#),
            r#".idempotency_key: found "x-key", expected "non_idempotent": "with_key" beside it"#,
        );
        // To name a key is not yet to say that it counts.
        assert_eq!(
            under(
                &format!(r#""retry": {{"non_idempotent": "{word}"}}"#),
                r#", "retry": {"idempotency_key": "x-key"}"#
            ),
            [
                r#"policies[0].retry.idempotency_key: found "x-key", expected "non_idempotent": "with_key" beside it"#
            ]
        );
    }
}

#[test]
fn a_word_that_envoy_does_not_know_is_told() {
    let list = r#"a list of what is retried such as ["5xx", "reset"]"#;
    let words = r#"one of "5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "envoy-ratelimited", "retriable-4xx", "refused-stream", "retriable-status-codes", "retriable-headers", "http3-post-connect-failure", "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable""#;
    for found in ["[]", r#""5xx""#, "null", "{}"] {
        refused(
            "retry",
            &format!(r#""retry_on": {found}"#),
            &format!(".retry_on: found {found}, expected {list}"),
        );
    }
    // Whoever writes 4xx does not mean 5xx.
    for found in ["\"4xx\"", "\"5x\"", "\"\"", "\"5xx,reset\"", "503", "null", "[]"] {
        let message = format!(".retry_on[1]: found {found}, expected {words}");
        refused("retry", &format!(r#""retry_on": ["reset", {found}]"#), &message);
    }
    for (found, meant) in [
        ("5XX", "5xx"),
        ("gateway_error", "gateway-error"),
        ("conect-failure", "connect-failure"),
        ("resets", "reset"),
        ("UNAVAILABLE", "unavailable"),
        ("DEADLINE_EXCEEDED", "deadline-exceeded"),
        ("canceled", "cancelled"),
        ("retriable-5xx", "retriable-4xx"),
    ] {
        let message = format!(r#".retry_on[0]: found "{found}"; did you mean "{meant}"?"#);
        refused("retry", &format!(r#""retry_on": ["{found}"]"#), &message);
    }
}

#[test]
fn mistakes_in_budgets_are_told() {
    let said = |keys: &str, message: &str| refused("retry_budget", keys, message);
    each(&[(r#""retry_budget": false"#, "retry_budget: found false, expected an object")]);
    said(
        r#""percent_can_retries": 20"#,
        r#".percent_can_retries: unknown key; did you mean "percent_can_retry"?"#,
    );
    said(
        r#""retries": 20"#,
        r#".retries: unknown key, expected one of "mode", "percent_can_retry", "min_retries_per_second", "ttl", "max_balance""#,
    );
    said(r#""percent_can_retry": 140"#, ".percent_can_retry: found 140, expected a percentage from 0 to 100");
    said(
        r#""min_retries_per_second": 0.5"#,
        ".min_retries_per_second: found 0.5, expected a whole number from 0 to 10000",
    );
    said(r#""ttl": "500ms""#, r#".ttl: found "500ms", expected a duration from "1s" to "1m""#);
    said(r#""max_balance": 0"#, ".max_balance: found 0, expected a whole number from 1 to 1000000");
}

#[test]
fn all_mistakes_come_at_once_in_the_order_of_the_document() {
    let document = r#"{
        "trust_caller_headers": "yes",
        "defaults": {"retry_budget": {"percent_can_retry": 140}, "timeout": {"margin": 5}, "retry": null},
        "policies": [
            {"name": "p", "match": [{"any": true}], "retry_budget": {"ttl": "0s", "max_balance": -1},
             "retry": {"retry_on": ["reset", "never"], "max_retries": 0}, "timeout": {"total": "1us", "per_try": "2us"}},
            {"name": "q", "match": [{"any": true}]}
        ]
    }"#;
    let places: Vec<_> =
        errors(document).iter().map(|it| it.split(": ").next().unwrap().to_owned()).collect();
    let expected = [
        "trust_caller_headers",
        "defaults.retry_budget.percent_can_retry",
        "defaults.timeout.margin",
        "defaults.retry",
        "policies[0].retry_budget.ttl",
        "policies[0].retry_budget.max_balance",
        "policies[0].retry.retry_on[1]",
        "policies[0].retry.max_retries",
        "policies[0].timeout.total",
        "policies[0].timeout.per_try",
    ];
    assert_eq!(places, expected);
}

#[test]
fn only_a_policy_switches_a_section_off() {
    let expected = ["timeout", "retry", "retry_budget"]
        .map(|section| format!("defaults.{section}: found null, expected an object"));
    assert_eq!(under(r#""timeout": null, "retry": null, "retry_budget": null"#, ""), expected);
}

/// What is a word becomes a part of a header as it is.
#[test]
fn nothing_but_words_gets_into_a_header() {
    for hostile in
        ["5xx,reset", "5xx ", " 5xx", "5xx\\r\\nx-envoy-max-retries: 9", "reset\\u0000", "\u{e9}", "\u{2028}"]
    {
        let section = format!(r#", "retry": {{"retry_on": ["{hostile}"]}}"#);
        assert!(under("", &section)[0].starts_with("policies[0].retry.retry_on[0]: found "), "{hostile}");
        for (section, key) in [("retry", "idempotency_key"), ("timeout", "deadline_header")] {
            let keys = format!(r#", "{section}": {{"{key}": "x-{hostile}"}}"#);
            let messages = under("", &keys);
            assert!(messages.len() == 1 && !messages[0].contains(char::is_control), "{messages:?}");
            assert!(messages[0].starts_with(&format!("policies[0].{section}.{key}: found ")), "{messages:?}");
        }
    }
}
