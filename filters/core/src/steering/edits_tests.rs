//! What is written to a request's headers, row by row.

use super::tests::{policy, said};
use super::*;
use crate::budget::Grant;
use crate::testing::ms;
use crate::time::Timestamp;
use crate::timeout::Allowance;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const NOW: Timestamp = Timestamp::from_nanos(1_000_000_000);

/// The changes as `name: value`, and `-name` for one that is removed.
fn shown(edits: &[Edit<'_>]) -> Vec<String> {
    let shown = |edit: &Edit<'_>| match edit {
        Edit::Set(name, value) => format!("{name}: {value}"),
        Edit::Remove(name) => format!("-{name}"),
    };
    edits.iter().map(shown).collect()
}

fn of_grant(keys: &str, grant: Grant) -> Vec<String> {
    let policy = policy(keys);
    let said = said(&policy, false, &[(":method", "GET")]);
    shown(&edits(&policy, false, Some(&said), &Allowance::default(), Some(grant), NOW))
}

const fn granted(retries: u8) -> Grant {
    Grant { retries, ..Grant::NONE }
}

#[test]
fn who_is_in_charge_of_retries_says_what_is_retried_and_how_often() {
    let on = r#""retry": {"max_retries": 3, "retry_on": ["5xx", "unavailable", "reset"]}"#;
    assert_eq!(
        of_grant(on, granted(2)),
        ["x-envoy-retry-on: 5xx,reset", "x-envoy-retry-grpc-on: unavailable", "x-envoy-max-retries: 2"]
    );
    assert_eq!(of_grant(on, granted(0)), ["x-envoy-max-retries: 0"]);
    assert_eq!(
        of_grant(r#""retry": {"retry_on": ["internal"]}"#, granted(1)),
        ["x-envoy-retry-grpc-on: internal", "x-envoy-max-retries: 1"]
    );
    assert_eq!(
        of_grant(r#""retry": {}, "retry_budget": null"#, granted(1)),
        ["x-envoy-retry-on: 5xx", "x-envoy-max-retries: 1"]
    );
}

#[test]
fn a_budget_alone_writes_only_where_it_grants_less_than_the_whole() {
    let budget = r#""retry_budget": {}"#;
    let whole = Grant { uncapped: true, ..granted(3) };
    assert_eq!(of_grant(budget, whole), [""; 0]);
    assert_eq!(of_grant(budget, granted(1)), ["x-envoy-max-retries: 1"]);
    assert_eq!(of_grant(budget, granted(0)), ["x-envoy-max-retries: 0"]);
}

#[test]
fn what_a_believed_caller_asks_for_and_gets_is_not_written_again() {
    let of_asked = |keys: &str, trusted, asked: &str, retries| {
        let policy = policy(keys);
        let said = said(&policy, trusted, &[("x-envoy-max-retries", asked)]);
        shown(&edits(&policy, trusted, Some(&said), &Allowance::default(), Some(granted(retries)), NOW))
    };
    let budget = r#""retry_budget": {}"#;
    assert_eq!(of_asked(budget, true, "2", 2), [""; 0]);
    assert_eq!(of_asked(budget, true, "2", 1), ["x-envoy-max-retries: 1"]);
    assert_eq!(of_asked(budget, true, "300", 255), ["x-envoy-max-retries: 255"]);
    assert_eq!(of_asked(budget, false, "2", 2), ["-x-envoy-max-retries", "x-envoy-max-retries: 2"]);
    assert_eq!(of_asked(r#""retry": {}"#, true, "1", 1), ["x-envoy-retry-on: 5xx", "x-envoy-max-retries: 1"]);
}

#[test]
fn shadow_and_disabled_write_nothing() {
    let paper = Grant { uncapped: true, on_paper: true, ..granted(1) };
    for mode in ["shadow", "disabled"] {
        for keys in [
            format!(r#""retry_budget": {{"mode": "{mode}"}}"#),
            format!(r#""retry": {{"mode": "{mode}"}}, "retry_budget": {{"mode": "{mode}"}}"#),
            format!(r#""mode": "{mode}", "retry": {{}}, "timeout": {{"total": "1s"}}"#),
            format!(r#""timeout": {{"total": "1s", "per_try": "1s", "mode": "{mode}"}}"#),
        ] {
            for grant in [paper, granted(0)] {
                assert_eq!(of_grant(&keys, grant), [""; 0], "{keys}");
            }
            let policy = policy(&keys);
            let said = said(&policy, false, &[("x-envoy-max-retries", "9"), ("grpc-timeout", "1S")]);
            assert_eq!(edits(&policy, false, Some(&said), &Allowance::default(), None, NOW), [], "{keys}");
        }
    }
}

#[test]
fn a_deadline_that_a_request_brought_along_holds_without_a_timeout_of_its_own() {
    let time = Allowance { deadline: Some(ms(1500)), per_try: None };
    let policy = policy(r#""retry_budget": null"#);
    let said = said(&policy, false, &[("grpc-timeout", "9S")]);
    let written = edits(&policy, false, Some(&said), &time, None, NOW);
    assert_eq!(shown(&written), ["x-envoy-upstream-rq-timeout-ms: 500", "grpc-timeout: 500m"]);
}

#[test]
fn retries_in_shadow_mode_leave_the_route_to_its_budget() {
    let keys = r#""retry": {"mode": "shadow"}, "retry_budget": {}"#;
    assert_eq!(of_grant(keys, granted(1)), ["x-envoy-max-retries: 1"]);
    assert_eq!(of_grant(keys, Grant { uncapped: true, ..granted(3) }), [""; 0]);
    let keys = r#""retry": {}, "retry_budget": {"mode": "shadow"}"#;
    assert_eq!(of_grant(keys, granted(1)), ["x-envoy-retry-on: 5xx", "x-envoy-max-retries: 1"]);
}

const TIMEOUT: &str = r#""timeout": {"total": "1s", "per_try": "300ms", "deadline_header": "x-deadline"}"#;

/// The changes of a request of a policy with these keys that has so many milliseconds left.
fn of_time(keys: &str, trusted: bool, headers: &[(&str, &str)], rest: Option<u64>) -> Vec<String> {
    let policy = policy(keys);
    let said = said(&policy, trusted, headers);
    let per_try = policy.timeout.as_ref().and_then(|timeout| timeout.settings.per_try);
    let time = Allowance { deadline: rest.map(|rest| ms(1000 + rest)), per_try };
    shown(&edits(&policy, trusted, Some(&said), &time, None, NOW))
}

#[test]
fn timeouts_are_what_is_left() {
    let whole = "x-envoy-upstream-rq-timeout-ms";
    let each = "x-envoy-upstream-rq-per-try-timeout-ms: 300";
    let bare = r#""timeout": {"total": "1s", "per_try": "300ms"}"#;
    assert_eq!(of_time(bare, false, &[], Some(1000)), [&format!("{whole}: 1000"), each]);
    assert_eq!(of_time(bare, false, &[], Some(301)), [&format!("{whole}: 301"), each]);
    // Envoy takes one that is no shorter than the whole for none, as it would the route's own.
    let all = |millis: u64| {
        [whole, "x-envoy-upstream-rq-per-try-timeout-ms"].map(|name| format!("{name}: {millis}"))
    };
    assert_eq!(of_time(bare, false, &[], Some(300)), all(300));
    assert_eq!(of_time(bare, false, &[], Some(200)), all(200));
    assert_eq!(of_time(bare, false, &[], Some(0)), all(1), "0 would be no timeout at all");
    assert_eq!(of_time(r#""timeout": {"per_try": "300ms"}"#, false, &[], None), [each]);
    assert_eq!(of_time(r#""timeout": {}"#, false, &[], None), [""; 0]);
}

#[test]
fn parts_of_a_millisecond_are_not_promised() {
    let policy = policy(r#""timeout": {"total": "1s"}"#);
    let time = Allowance { deadline: Some(NOW.after(Duration::from_micros(1999))), per_try: None };
    let edits = edits(&policy, false, Some(&Said::default()), &time, None, NOW);
    assert_eq!(shown(&edits), ["x-envoy-upstream-rq-timeout-ms: 1"]);
}

#[test]
fn of_headers_that_cannot_be_read_none_stays_that_a_stranger_might_steer_with() {
    let policy = policy(r#""timeout": {"per_try": "1s", "deadline_header": "x-deadline"}"#);
    let all = |trusted| {
        let time = Allowance { deadline: None, per_try: Some(Duration::from_secs(1)) };
        shown(&edits(&policy, trusted, None, &time, None, NOW))
    };
    let mut expected: Vec<_> = STEERING.iter().map(|name| format!("-{name}")).collect();
    expected.push("x-envoy-upstream-rq-per-try-timeout-ms: 1000".to_owned());
    expected.extend(["-grpc-timeout", "-x-deadline"].map(str::to_owned));
    assert_eq!(all(false), expected);
    assert_eq!(all(true), ["x-envoy-upstream-rq-per-try-timeout-ms: 1000"]);
}

#[test]
fn the_upstream_is_told_what_is_left_in_the_words_of_the_request() {
    let ours = [
        "x-envoy-upstream-rq-timeout-ms: 400",
        "x-envoy-upstream-rq-per-try-timeout-ms: 300",
        "x-deadline: 400",
    ];
    assert_eq!(of_time(TIMEOUT, true, &[], Some(400)), ours, "the policy's own header also where it is not");
    let grpc = [("grpc-timeout", "1S")];
    for trusted in [true, false] {
        assert_eq!(
            of_time(TIMEOUT, trusted, &grpc, Some(400)),
            [ours[0], ours[1], "grpc-timeout: 400m", ours[2]],
            "{trusted}"
        );
    }
    let expected = [("x-envoy-expected-rq-timeout-ms", "900")];
    assert_eq!(
        of_time(TIMEOUT, true, &expected, Some(400)),
        [ours[0], ours[1], ours[2], "x-envoy-expected-rq-timeout-ms: 400"]
    );
    assert_eq!(
        of_time(TIMEOUT, false, &expected, Some(400)),
        ["-x-envoy-expected-rq-timeout-ms", ours[0], ours[1], ours[2]]
    );
}

#[test]
fn without_a_time_of_its_own_a_policy_passes_on_what_it_believes() {
    let keys = r#""timeout": {"deadline_header": "x-deadline"}"#;
    let headers = [("grpc-timeout", "1S"), ("x-deadline", "7"), ("x-envoy-expected-rq-timeout-ms", "900")];
    assert_eq!(of_time(keys, true, &headers, None), [""; 0]);
    assert_eq!(
        of_time(keys, false, &headers, None),
        ["-x-envoy-expected-rq-timeout-ms", "-grpc-timeout", "-x-deadline"]
    );
    assert_eq!(of_time(keys, false, &[], None), [""; 0]);
}

#[test]
fn what_strangers_say_is_removed_where_a_pattern_steers() {
    let headers: Vec<_> = STEERING.into_iter().map(|name| (name, "1")).collect();
    let removed: Vec<_> = STEERING.into_iter().map(|name| format!("-{name}")).collect();
    for keys in [r#""retry": {}, "retry_budget": null"#, r#""retry_budget": {}"#, r#""timeout": {}"#] {
        assert_eq!(of_time(keys, false, &headers, None), removed, "{keys}");
        assert_eq!(of_time(keys, true, &headers, None), [""; 0], "{keys}");
    }
    let keys = r#""circuit_breaker": {"consecutive_failures": 3}"#;
    assert_eq!(of_time(keys, false, &headers, None), [""; 0]);
    // Without `timeout` it is nobody's business how long a caller waits.
    let grpc = [("grpc-timeout", "1S"), ("x-deadline", "7")];
    assert_eq!(of_time(r#""retry": {}"#, false, &grpc, None), [""; 0]);
}

#[test]
fn what_is_removed_stands_before_what_is_set() {
    let policy = policy(r#""retry": {}, "timeout": {"total": "1s"}"#);
    let headers = [("x-envoy-max-retries", "9"), ("x-envoy-upstream-rq-timeout-ms", "1")];
    let said = said(&policy, false, &headers);
    let time = Allowance { deadline: Some(ms(1500)), per_try: None };
    assert_eq!(
        shown(&edits(&policy, false, Some(&said), &time, Some(granted(1)), NOW)),
        [
            "-x-envoy-max-retries",
            "-x-envoy-upstream-rq-timeout-ms",
            "x-envoy-retry-on: 5xx",
            "x-envoy-max-retries: 1",
            "x-envoy-upstream-rq-timeout-ms: 500"
        ]
    );
}
