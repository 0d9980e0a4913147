//! What a mistake looks like to the operator who made it.

use super::Document;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// The messages of a document that must be refused.
pub(super) fn errors(document: &str) -> Vec<String> {
    let messages = Document::parse(document.as_bytes()).unwrap_err();
    assert!(!messages.is_empty(), "refused without a word: {document}");
    messages
}

/// The messages of a policy with a name, a match and these further keys, without what stands before each place.
fn policy_errors(keys: &str) -> Vec<String> {
    let document = format!(r#"{{"policies": [{{"name": "p", "match": [{{"any": true}}], {keys}}}]}}"#);
    let strip = |message: String| match message.strip_prefix("policies[0]") {
        Some(rest) => rest.trim_start_matches('.').to_owned(),
        None => message,
    };
    errors(&document).into_iter().map(strip).collect()
}

/// Each policy's keys with the one message they get.
pub(super) fn each(cases: &[(&str, &str)]) {
    for (keys, message) in cases {
        assert_eq!(policy_errors(keys), [*message], "{keys}");
    }
}

#[test]
fn errors_have_the_form_of_the_interface() {
    let document = r#"{
        "defaults": {"circuit_breaker": {"consecutive_failures": 0}},
        "policies": [{
            "name": "p", "match": [{"any": true}],
            "circuit_breaker": {"consecutive_failurs": 5, "failures_in_window": {"failures": 5, "window": "10s"},
                                "wait_duration_in_open_state": 30}
        }]
    }"#;
    let expected = [
        "defaults.circuit_breaker.consecutive_failures: found 0, expected a whole number from 1 to 1000000",
        r#"policies[0].circuit_breaker.consecutive_failurs: unknown key; did you mean "consecutive_failures"?"#,
        r#"policies[0].circuit_breaker.wait_duration_in_open_state: found 30, expected a duration such as "30s""#,
    ];
    assert_eq!(errors(document), expected);
}

#[test]
fn all_errors_come_at_once_in_the_order_of_the_document() {
    let document = r#"{
        "policies": [
            {"match": [{}], "circuit_breaker": {"mode": "on"}, "name": "A"},
            {"fallback": [{"on": ["never"], "static": {"status": 100, "text": 1}}], "name": "b", "match": []},
            {"name": "b", "match": [{"any": true}]}
        ],
        "zzz": 1,
        "namespace": "",
        "exempt": [{"path": {}}],
        "expose": "yes"
    }"#;
    let expected = [
        r#"policies[0].match[0]: found {}, expected at least one key, or {"any": true}"#,
        r#"policies[0].circuit_breaker: found {"mode":"on"}, expected at least one trigger: "consecutive_failures", "failures_in_window", "failure_rate_threshold" or "slow_call_rate_threshold""#,
        r#"policies[0].circuit_breaker.mode: found "on", expected one of "enforce", "shadow", "disabled", "forced_open""#,
        r#"policies[0].name: found "A", expected a name such as "checkout" ([a-z][a-z0-9_-]{0,63})"#,
        r#"policies[1].fallback[0].on[0]: found "never", expected one of "refusal", "failure", "circuit_open", "bulkhead_full", "dependency_open", "deadline_exceeded", "upstream_failure", "connect_failure", "reset", "timeout""#,
        "policies[1].fallback[0].static.status: found 100, expected a whole number from 200 to 599",
        "policies[1].fallback[0].static.text: found 1, expected a string",
        r#"policies[1].match: found [], expected a list of matches such as [{"route": "checkout"}]"#,
        r#"policies[2].name: found "b", expected a name that is not yet taken by policies[1].name"#,
        r#"zzz: unknown key, expected one of "namespace", "defaults", "policies", "exempt", "trust_caller_headers", "expose", "control", "state", "annotate", "max_metrics""#,
        r#"namespace: found "", expected a string of 1 to 128 bytes"#,
        r#"exempt[0].path: found {}, expected {"exact": "/..."} or {"prefix": "/..."}"#,
        r#"expose: found "yes", expected true or false"#,
    ];
    assert_eq!(errors(document), expected);
}

#[test]
fn no_error_hides_another() {
    let keys = r#""fallback": [{"static": {"status": 200, "headers": {"x-resilience": ""}, "base64": "?"}}],
        "circuit_breaker": {"wait_duration_in_open_state": 30},
        "match": [{"methods": ["get", "post"]}]"#;
    let document = format!(r#"{{"policies": [{{"name": "p", {keys}}}]}}"#);
    let expected = [
        "policies[0].fallback[0].static.headers.x-resilience: a header that Envoy or this filter writes, expected another",
        r#"policies[0].fallback[0].static.base64: found "?", expected base64 such as "aGk=" (RFC 4648, padded)"#,
        r#"policies[0].circuit_breaker: found {"wait_duration_in_open_state":30}, expected at least one trigger: "consecutive_failures", "failures_in_window", "failure_rate_threshold" or "slow_call_rate_threshold""#,
        r#"policies[0].circuit_breaker.wait_duration_in_open_state: found 30, expected a duration such as "30s""#,
        r#"policies[0].match[0].methods[0]: found "get", expected an HTTP method such as "GET""#,
        r#"policies[0].match[0].methods[1]: found "post", expected an HTTP method such as "GET""#,
    ];
    assert_eq!(errors(&document), expected);
}

#[test]
fn what_is_no_document_says_so() {
    for (document, message) in [
        ("[]", "document: found [], expected an object"),
        ("null", "document: found null, expected an object"),
        ("{}", r#"document: missing key "policies", expected a list of policies"#),
        (r#"{"policies": {}}"#, "policies: found {}, expected a list of policies"),
        (r#"{"policies": [1]}"#, "policies[0]: found 1, expected an object"),
        (r#"{"policies": [], "defaults": []}"#, "defaults: found [], expected an object"),
        (
            r#"{"policies": [], "exempt": {}}"#,
            r#"exempt: found {}, expected a list of matches such as [{"route": "checkout"}]"#,
        ),
    ] {
        assert_eq!(errors(document), [message]);
    }
    for text in ["", "{", "{} {}", "{'a': 1}", r#"{"policies": [],}"#, "\u{feff}{}"] {
        let messages = errors(text);
        assert!(messages[0].starts_with("document: not JSON: ") && messages.len() == 1, "{messages:?}");
        assert!(messages[0].contains("line 1 column"), "{messages:?}");
    }
}

#[test]
fn a_key_of_an_issue_to_come_is_an_unknown_key() {
    each(&[(
        r#""fallback": [{"cached": {"max_stale": "5m"}}]"#,
        r#"fallback[0].cached: unknown key, expected one of "on", "status", "grpc_status", "when", "static", "reroute", "fail""#,
    )]);
}

#[test]
fn an_unknown_key_tells_all_that_are_known() {
    each(&[(
        r#""whatever": 1"#,
        r#"whatever: unknown key, expected one of "name", "mode", "match", "outcome", "circuit_breaker", "bulkhead", "class", "timeout", "retry", "retry_budget", "fallback", "when_open", "key", "max_keys", "discourage_retries", "critical""#,
    )]);
    let document = r#"{"policies": [], "defaults": {"when_open": ["checkout"]}}"#;
    assert_eq!(
        errors(document),
        [
            r#"defaults.when_open: unknown key, expected one of "outcome", "circuit_breaker", "bulkhead", "timeout", "retry", "retry_budget", "fallback""#
        ]
    );
}

#[test]
fn an_unknown_key_that_is_near_a_known_one_suggests_it() {
    for (key, suggestion) in [
        ("circuit_braker", Some("circuit_breaker")),
        ("circuitbreaker", Some("circuit_breaker")),
        ("Fallback", Some("fallback")),
        ("fallbakc", Some("fallback")),
        ("discourage_retry", Some("discourage_retries")),
        ("mod", Some("mode")),
        ("timeouts", Some("timeout")),
        ("retries", None),
        ("retrys", Some("retry")),
        ("retry-budget", Some("retry_budget")),
        ("x", None),
        ("", None),
    ] {
        let message = policy_errors(&format!(r#""{key}": 1"#)).swap_remove(0);
        let expected = match suggestion {
            Some(known) => format!(r#": unknown key; did you mean "{known}"?"#),
            None => ": unknown key, expected one of ".to_owned(),
        };
        assert!(message.contains(&expected), "{key}: {message}");
    }
}

#[test]
fn a_key_said_twice_is_an_error_at_the_second() {
    each(&[
        (r#""mode": "shadow", "mode": "shadow""#, "mode: duplicate key"),
        (
            r#""circuit_breaker": {"consecutive_failures": 1, "consecutive_failures": 2}"#,
            "circuit_breaker.consecutive_failures: duplicate key",
        ),
        (
            r#""fallback": [{"static": {"status": 200, "headers": {"a": "1", "a": "2"}}}]"#,
            "fallback[0].static.headers.a: duplicate key",
        ),
        // Names of headers are the same in any case.
        (
            r#""fallback": [{"static": {"status": 200, "headers": {"X-A": "1", "x-a": "2"}}}]"#,
            "fallback[0].static.headers.x-a: duplicate key",
        ),
    ]);
    assert_eq!(errors(r#"{"policies": [], "expose": true, "expose": true}"#), ["expose: duplicate key"]);
}

#[test]
fn a_policy_needs_a_name_and_a_match() {
    assert_eq!(
        errors(r#"{"policies": [{}]}"#),
        [
            r#"policies[0]: missing key "match", expected a list of matches"#,
            r#"policies[0]: missing key "name", expected a name such as "checkout" ([a-z][a-z0-9_-]{0,63})"#,
        ]
    );
    assert_eq!(
        errors(
            r#"{"policies": [{"name": "a", "match": [{"any": true}]}, {"name": "b"}, {"name": "a", "match": [{"any": true}]}, {"name": "a", "match": [{"any": true}]}]}"#
        ),
        [
            r#"policies[1]: missing key "match", expected a list of matches"#,
            r#"policies[2].name: found "a", expected a name that is not yet taken by policies[0].name"#,
            r#"policies[3].name: found "a", expected a name that is not yet taken by policies[0].name"#,
        ]
    );
}

#[test]
fn mistakes_in_a_breaker() {
    each(&[
        (
            r#""circuit_breaker": {}"#,
            r#"circuit_breaker: found {}, expected at least one trigger: "consecutive_failures", "failures_in_window", "failure_rate_threshold" or "slow_call_rate_threshold""#,
        ),
        (
            r#""circuit_breaker": {"mode": "forced_open"}"#,
            r#"circuit_breaker: found {"mode":"forced_open"}, expected at least one trigger: "consecutive_failures", "failures_in_window", "failure_rate_threshold" or "slow_call_rate_threshold""#,
        ),
        (r#""circuit_breaker": 5"#, "circuit_breaker: found 5, expected an object"),
        (
            r#""circuit_breaker": {"failures_in_window": {"failures": 3}}"#,
            r#"circuit_breaker.failures_in_window: missing key "window", expected a duration such as "10s""#,
        ),
        (
            r#""circuit_breaker": {"failures_in_window": {"window": "1s"}}"#,
            r#"circuit_breaker.failures_in_window: missing key "failures", expected how many failures trip"#,
        ),
        (
            r#""circuit_breaker": {"consecutive_failures": null}"#,
            "circuit_breaker.consecutive_failures: found null, expected a whole number from 1 to 1000000",
        ),
        (
            r#""circuit_breaker": {"consecutive_failures": 1, "wait_duration_in_open_state": "5 minutes"}"#,
            r#"circuit_breaker.wait_duration_in_open_state: found "5 minutes", expected a duration such as "30s""#,
        ),
        (
            r#""mode": "forced_open""#,
            r#"mode: found "forced_open", expected one of "enforce", "shadow", "disabled""#,
        ),
    ]);
}

#[test]
fn mistakes_in_a_match() {
    let host = r#"expected a host such as "shop.example" or "*.example.com", without a port"#;
    let path = r#"expected a path that begins with "/", without a query"#;
    for (json, message) in [
        (r#"{"any": false}"#, ".any: found false, expected true".to_owned()),
        (
            r#"{"any": true, "route": "a"}"#,
            r#": found {"any":true,"route":"a"}, expected "any" by itself"#.to_owned(),
        ),
        (r#"{"route": ""}"#, r#".route: found "", expected a route name"#.to_owned()),
        (r#"{"host": "a:80"}"#, format!(r#".host: found "a:80", {host}"#)),
        (r#"{"host": "[::1]:80"}"#, format!(r#".host: found "[::1]:80", {host}"#)),
        (r#"{"host": "*"}"#, format!(r#".host: found "*", {host}"#)),
        (r#"{"host": "*."}"#, format!(r#".host: found "*.", {host}"#)),
        (r#"{"host": "*example.com"}"#, format!(r#".host: found "*example.com", {host}"#)),
        (r#"{"host": "a.*.com"}"#, format!(r#".host: found "a.*.com", {host}"#)),
        (r#"{"host": "http://a"}"#, format!(r#".host: found "http://a", {host}"#)),
        (r#"{"host": ""}"#, format!(r#".host: found "", {host}"#)),
        (r#"{"path": {"exact": "a"}}"#, format!(r#".path.exact: found "a", {path}"#)),
        (r#"{"path": {"prefix": ""}}"#, format!(r#".path.prefix: found "", {path}"#)),
        (r#"{"path": {"prefix": "/a?b"}}"#, format!(r#".path.prefix: found "/a?b", {path}"#)),
        (
            r#"{"path": {"exact": "/", "prefix": "/"}}"#,
            r#".path: found {"exact":"/","prefix":"/"}, expected {"exact": "/..."} or {"prefix": "/..."}"#
                .to_owned(),
        ),
        (
            r#"{"methods": ["get"]}"#,
            r#".methods[0]: found "get", expected an HTTP method such as "GET""#.to_owned(),
        ),
        (r#"{"methods": []}"#, ".methods: found [], expected a list of HTTP methods".to_owned()),
        (
            r#"{"metadata": {"namespace": "a", "key": "b"}}"#,
            r#".metadata: missing key "value", expected a string"#.to_owned(),
        ),
        (
            r#"{"metadata": {"namespace": "a", "key": "b", "value": ""}}"#,
            r#".metadata.value: found "", expected a string"#.to_owned(),
        ),
    ] {
        let document = format!(r#"{{"policies": [{{"name": "p", "match": [{json}]}}], "exempt": [{json}]}}"#);
        let expected = [format!("policies[0].match[0]{message}"), format!("exempt[0]{message}")];
        assert_eq!(errors(&document), expected, "{json}");
    }
}

#[test]
fn a_mistake_in_defaults_is_told_once_however_many_inherit_it() {
    let policies: Vec<_> =
        (0..50).map(|n| format!(r#"{{"name": "p{n}", "match": [{{"any": true}}]}}"#)).collect();
    let document = format!(
        r#"{{"policies": [{}], "defaults": {{
            "circuit_breaker": {{"consecutive_failures": 1, "wait_duration_in_open_state": "0s", "typo": 1}},
            "fallback": [{{"static": {{"status": 1}}}}]}}}}"#,
        policies.join(",")
    );
    let messages = errors(&document);
    assert_eq!(messages.len(), 3, "{messages:?}");
    assert_eq!(
        messages[0],
        r#"defaults.circuit_breaker.wait_duration_in_open_state: found "0s", expected a duration from "1ms" to "168h""#
    );
    assert!(messages[1].starts_with("defaults.circuit_breaker.typo: unknown key"));
    assert_eq!(
        messages[2],
        "defaults.fallback[0].static.status: found 1, expected a whole number from 200 to 599"
    );
    // And if nobody inherits it.
    assert_eq!(errors(&document.replace(&policies.join(","), "")), messages);
}

#[test]
fn only_a_policy_switches_a_section_off() {
    let document = r#"{"policies": [{"name": "p", "match": [{"any": true}]}],
                       "defaults": {"outcome": null, "circuit_breaker": null, "fallback": null}}"#;
    let expected = [
        "defaults.outcome: found null, expected an object",
        "defaults.circuit_breaker: found null, expected an object",
        "defaults.fallback: found null, expected a list of fallbacks",
    ];
    assert_eq!(errors(document), expected);
}

#[test]
fn a_long_value_is_cut_in_its_message() {
    let message = policy_errors(&format!(r#""mode": "{}""#, "é".repeat(1000))).swap_remove(0);
    assert_eq!(
        message,
        format!(r#"mode: found "{}..., expected one of "enforce", "shadow", "disabled""#, "é".repeat(79))
    );
}
