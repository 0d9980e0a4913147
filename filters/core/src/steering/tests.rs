//! What is read of a request's headers, and who is believed.

use super::*;
use crate::config::Document;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// The policy `p` with these keys.
pub(super) fn policy(keys: &str) -> Policy {
    let document = format!(r#"{{"policies": [{{"name": "p", "match": [{{"any": true}}], {keys}}}]}}"#);
    Document::parse(document.as_bytes()).unwrap().policies.swap_remove(0)
}

pub(super) fn said(policy: &Policy, trusted: bool, headers: &[(&str, &str)]) -> Said {
    let headers = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    Said::read(policy, trusted, headers)
}

const ALL: &str =
    r#""timeout": {"total": "1s", "deadline_header": "x-deadline"}, "retry": {"max_retries": 3}"#;

const fn millis(count: u64) -> Option<Duration> {
    Some(Duration::from_millis(count))
}

#[test]
fn methods_are_told_apart_by_case() {
    let policy = policy(ALL);
    for (method, idempotent) in [
        ("GET", true),
        ("HEAD", true),
        ("PUT", true),
        ("DELETE", true),
        ("OPTIONS", true),
        ("TRACE", true),
        ("POST", false),
        ("PATCH", false),
        ("CONNECT", false),
        ("get", false),
        ("", false),
    ] {
        assert_eq!(said(&policy, false, &[(":method", method)]).is_idempotent, idempotent, "{method}");
    }
    assert!(!said(&policy, false, &[]).is_idempotent);
}

#[test]
fn a_key_is_one_that_says_something() {
    let usual = policy(ALL);
    let own = policy(r#""retry": {"idempotency_key": "X-Request-Key"}"#);
    let has_key = |policy: &Policy, headers: &[(&str, &str)]| said(policy, false, headers).has_key;
    assert!(has_key(&usual, &[("idempotency-key", "7")]));
    assert!(!has_key(&usual, &[("idempotency-key", "")]) && !has_key(&usual, &[("x-request-key", "7")]));
    assert!(has_key(&usual, &[("idempotency-key", ""), ("idempotency-key", "7")]));
    assert!(has_key(&own, &[("x-request-key", "7")]) && !has_key(&own, &[("idempotency-key", "7")]));
}

#[test]
fn the_caller_is_grpc_by_its_content_type() {
    let policy = policy(ALL);
    assert!(said(&policy, false, &[("content-type", "application/grpc+proto")]).is_grpc);
    assert!(!said(&policy, false, &[("content-type", "application/grpc-web")]).is_grpc);
    assert!(!said(&policy, false, &[]).is_grpc);
}

#[test]
fn the_first_class_counts() {
    let policy = policy(
        r#""bulkhead": {"max_concurrent_calls": 5, "priority": {"header": "x-class", "default": "low",
            "classes": [{"name": "high", "max_share": 100}, {"name": "low", "max_share": 50}]}}"#,
    );
    let class = |headers: &[(&str, &str)]| said(&policy, false, headers).class;
    assert_eq!(class(&[("x-class", "high"), ("x-class", "low")]), Some(b"high".to_vec()));
    assert_eq!(class(&[("x-other", "high")]), None);
}

#[test]
fn who_is_not_trusted_is_not_believed() {
    let policy = policy(ALL);
    let headers = [
        ("x-envoy-max-retries", "1"),
        ("x-envoy-upstream-rq-timeout-ms", "10"),
        ("x-envoy-upstream-rq-per-try-timeout-ms", "10"),
        ("x-envoy-expected-rq-timeout-ms", "10"),
        ("grpc-timeout", "10m"),
        ("x-deadline", "10"),
        ("x-envoy-attempt-count", "2"),
        ("grpc-previous-rpc-attempts", "1"),
    ];
    let stranger = said(&policy, false, &headers);
    assert_eq!((stranger.max_retries, stranger.patience, stranger.per_try), (None, None, None));
    assert!(!stranger.is_retry && stranger.has_grpc_timeout && stranger.has_deadline_header);
    assert_eq!(stranger.steering.len(), 6);
    let trusted = said(&policy, true, &headers);
    assert_eq!((trusted.max_retries, trusted.patience, trusted.per_try), (Some(1), millis(10), millis(10)));
    assert!(trusted.is_retry && trusted.has_grpc_timeout && trusted.has_deadline_header);
    assert_eq!(trusted.steering, stranger.steering);
}

#[test]
fn the_shortest_patience_counts() {
    let policy = policy(ALL);
    let names = ["x-envoy-expected-rq-timeout-ms", "grpc-timeout", "x-deadline"];
    for short in names {
        let value = |name| match (name, name == short) {
            ("grpc-timeout", true) => "50m",
            ("grpc-timeout", false) => "1S",
            (_, true) => "50",
            (_, false) => "1000",
        };
        let headers = names.map(|name| (name, value(name)));
        assert_eq!(said(&policy, true, &headers).patience, millis(50), "{short}");
        assert_eq!(said(&policy, true, &[(short, value(short))]).patience, millis(50), "{short} alone");
    }
}

#[test]
fn to_envoy_no_time_is_no_timeout_and_to_others_it_is_over() {
    let policy = policy(ALL);
    let patience = |name, value| said(&policy, true, &[(name, value)]).patience;
    assert_eq!(patience("x-envoy-expected-rq-timeout-ms", "0"), None);
    let timeout = |value| said(&policy, true, &[("x-envoy-upstream-rq-timeout-ms", value)]);
    assert_eq!(timeout("0").timeout, None);
    let ours = timeout("8");
    assert_eq!((ours.timeout, ours.patience), (millis(8), None), "a word to the router is no deadline");
    assert_eq!(said(&policy, true, &[("x-envoy-upstream-rq-per-try-timeout-ms", "0")]).per_try, None);
    assert_eq!(patience("grpc-timeout", "0m"), millis(0));
    assert_eq!(patience("x-deadline", "0"), millis(0));
}

#[test]
fn what_is_not_a_number_says_nothing() {
    let policy = policy(ALL);
    for value in ["", "-1", "x", "1.5", "\u{ff}", "99999999999999"] {
        let headers = [
            ("x-envoy-max-retries", value),
            ("x-envoy-upstream-rq-timeout-ms", value),
            ("x-envoy-attempt-count", value),
            ("grpc-previous-rpc-attempts", value),
            ("grpc-timeout", value),
            ("x-deadline", value),
        ];
        let said = said(&policy, true, &headers);
        assert_eq!((said.max_retries, said.patience, said.is_retry), (None, None, false), "{value:?}");
    }
    assert_eq!(said(&policy, true, &[("x-envoy-max-retries", "4000000000")]).max_retries, Some(u8::MAX));
    let headers = [(b"x-envoy-max-retries".as_slice(), b"\xff\xfe".as_slice())];
    assert_eq!(Said::read(&policy, true, headers.into_iter()).max_retries, None);
}

#[test]
fn a_repetition_is_known_by_either_count() {
    let policy = policy(ALL);
    for (name, value, is_retry) in [
        ("x-envoy-attempt-count", "1", false),
        ("x-envoy-attempt-count", "2", true),
        ("grpc-previous-rpc-attempts", "0", false),
        ("grpc-previous-rpc-attempts", "1", true),
    ] {
        assert_eq!(said(&policy, true, &[(name, value)]).is_retry, is_retry, "{name} {value}");
    }
    let both = [("x-envoy-attempt-count", "3"), ("grpc-previous-rpc-attempts", "0")];
    assert!(said(&policy, true, &both).is_retry);
}

#[test]
fn of_a_header_that_is_there_twice_the_first_counts() {
    let policy = policy(ALL);
    let twice = [("x-envoy-max-retries", "2"), ("x-envoy-max-retries", "9")];
    let said = said(&policy, true, &twice);
    assert_eq!((said.max_retries, said.steering), (Some(2), vec!["x-envoy-max-retries"]));
}

#[test]
fn every_header_that_steers_is_known_and_no_other() {
    let policy = policy(ALL);
    let names = [
        "x-envoy-max-retries",
        "x-envoy-retry-on",
        "x-envoy-retry-grpc-on",
        "x-envoy-retriable-status-codes",
        "x-envoy-retriable-header-names",
        "x-envoy-hedge-on-per-try-timeout",
        "x-envoy-upstream-rq-timeout-ms",
        "x-envoy-upstream-rq-per-try-timeout-ms",
        "x-envoy-upstream-rq-per-try-idle-timeout-ms",
        "x-envoy-upstream-stream-duration-ms",
        "x-envoy-upstream-rq-timeout-alt-response",
        "x-envoy-expected-rq-timeout-ms",
        "x-envoy-attempt-count",
        "grpc-previous-rpc-attempts",
    ];
    for name in names {
        assert_eq!(said(&policy, false, &[(name, "1")]).steering, [name]);
    }
    assert_eq!(STEERING.len(), names.len());
    for name in
        ["x-envoy-", "x-envoy-retry", "x-envoy-upstream-service-time", "grpc-encoding", "x-max-retries"]
    {
        assert_eq!(said(&policy, true, &[(name, "1")]), said(&policy, true, &[]), "{name}");
    }
    // Nobody's deadline but of a policy with a header for it.
    let other = super::tests::policy(r#""timeout": {"total": "1s"}"#);
    assert!(!said(&other, true, &[("x-deadline", "1")]).has_deadline_header);
}
