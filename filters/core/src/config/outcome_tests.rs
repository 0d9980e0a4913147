//! `outcome` as it is written: what it means, and what a mistake in it looks like.

use super::tests::errors;
use super::*;
use crate::outcome::{Criteria, Rules};
use std::ops::RangeInclusive;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// A document of one policy with these further keys.
fn document(keys: &str, defaults: &str) -> String {
    format!(
        r#"{{"defaults": {{{defaults}}}, "policies": [{{"name": "p", "match": [{{"any": true}}]{keys}}}]}}"#
    )
}

fn rules_in(keys: &str, defaults: &str) -> Rules {
    let document = document(keys, defaults);
    let parsed = Document::parse(document.as_bytes());
    parsed
        .unwrap_or_else(|messages| panic!("{document}: {messages:?}"))
        .policies
        .swap_remove(0)
        .rules()
        .clone()
}

fn rules(outcome: &str) -> Rules {
    rules_in(&format!(r#", "outcome": {outcome}"#), "")
}

fn header(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn without_a_section_the_default_rules() {
    assert_eq!(rules_in("", ""), Rules::DEFAULT);
    for nothing in ["{}", r#"{"failure": {}}"#, r#"{"ignore": {}, "failure": {}}"#] {
        assert_eq!(rules(nothing), Rules::DEFAULT, "{nothing}");
    }
    let same = r#"{
        "failure": {"status": ["5xx"], "headers": [],
                    "grpc_status": ["UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN", "DATA_LOSS"]},
        "ignore": {"status": [], "grpc_status": [], "headers": []}}"#;
    assert_eq!(rules(same), Rules::DEFAULT);
}

#[test]
fn each_key_replaces_its_own_default_only() {
    let degraded = r#"[{"name": "x-degraded", "value": "true"}]"#;
    let headers = vec![header("x-degraded", "true")];
    let failing = |failure| Rules { failure, ignore: Criteria::NONE };
    let ignoring = |ignore| Rules { failure: Criteria::FAILURE, ignore };
    for (outcome, expected) in [
        (
            r#"{"failure": {"status": [429]}}"#.to_owned(),
            failing(Criteria { status: vec![429..=429].into(), ..Criteria::FAILURE }),
        ),
        (
            r#"{"failure": {"grpc_status": ["ABORTED"]}}"#.to_owned(),
            failing(Criteria { grpc_status: vec![10].into(), ..Criteria::FAILURE }),
        ),
        (
            format!(r#"{{"failure": {{"headers": {degraded}}}}}"#),
            failing(Criteria { headers: headers.clone(), ..Criteria::FAILURE }),
        ),
        (
            r#"{"ignore": {"status": [404]}}"#.to_owned(),
            ignoring(Criteria { status: vec![404..=404].into(), ..Criteria::NONE }),
        ),
        (
            r#"{"ignore": {"grpc_status": ["UNAVAILABLE"]}}"#.to_owned(),
            ignoring(Criteria { grpc_status: vec![14].into(), ..Criteria::NONE }),
        ),
        (
            format!(r#"{{"ignore": {{"headers": {degraded}}}}}"#),
            ignoring(Criteria { headers, ..Criteria::NONE }),
        ),
        // An empty list says that there are none.
        (
            r#"{"failure": {"status": []}}"#.to_owned(),
            failing(Criteria { status: vec![].into(), ..Criteria::FAILURE }),
        ),
        (
            r#"{"failure": {"grpc_status": []}}"#.to_owned(),
            failing(Criteria { grpc_status: vec![].into(), ..Criteria::FAILURE }),
        ),
    ] {
        assert_eq!(rules(&outcome), expected, "{outcome}");
    }
}

#[test]
fn neither_order_nor_repetition_changes_what_is_meant() {
    let one = r#"{"failure": {
        "status": [429, "5xx", 404], "grpc_status": ["ABORTED", "OK"],
        "headers": [{"name": "b", "value": "1"}, {"name": "a", "value": "1"}]}}"#;
    let other = r#"{"failure": {
        "headers": [{"value": "1", "name": "A"}, {"name": "b", "value": "1"}, {"name": "B", "value": "1"}],
        "grpc_status": ["OK", "ABORTED", "OK"], "status": ["5xx", 404, 429, 404, "5xx"]}}"#;
    assert_eq!(rules(one), rules(other));
    let expected = vec![header("a", "1"), header("b", "1")];
    assert_eq!(rules(one).failure.headers, expected);
}

#[test]
fn statuses_are_from_100_to_599_and_classes_of_them() {
    let status = |written: &str| rules(&format!(r#"{{"ignore": {{"status": [{written}]}}}}"#)).ignore.status;
    let expected: [(&str, RangeInclusive<u16>); 7] = [
        ("100", 100..=100),
        ("599", 599..=599),
        ("\"1xx\"", 100..=199),
        ("\"2xx\"", 200..=299),
        ("\"3xx\"", 300..=399),
        ("\"4xx\"", 400..=499),
        ("\"5xx\"", 500..=599),
    ];
    for (written, range) in expected {
        assert_eq!(*status(written), [range], "{written}");
    }
    for wrong in [
        "99", "600", "-1", "0", "65736", "200.5", "5e2", "\"500\"", "\"6xx\"", "\"0xx\"", "\"5XX\"",
        "\"5x\"", "\"\"", "true", "null", "[500]", "{}",
    ] {
        let keys = format!(r#", "outcome": {{"failure": {{"status": [500, {wrong}]}}}}"#);
        let messages = errors(&document(&keys, ""));
        let expected = r#"expected a status from 100 to 599, or a class from "1xx" to "5xx""#;
        assert_eq!(messages.len(), 1, "{messages:?}");
        assert!(messages[0].starts_with("policies[0].outcome.failure.status[1]: found "), "{messages:?}");
        assert!(messages[0].ends_with(expected), "{messages:?}");
    }
}

#[test]
fn all_the_statuses_of_grpc_are_known_by_their_names() {
    let names = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    for (code, name) in (0..).zip(names) {
        let rules = rules(&format!(r#"{{"failure": {{"grpc_status": ["{name}"]}}}}"#));
        assert_eq!(*rules.failure.grpc_status, [code], "{name}");
    }
    let known: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
    for wrong in ["\"unavailable\"", "\"CANCELED\"", "14", "\"14\"", "\"\"", "null"] {
        let keys = format!(r#", "outcome": {{"ignore": {{"grpc_status": [{wrong}]}}}}"#);
        let expected = format!(
            "policies[0].outcome.ignore.grpc_status[0]: found {wrong}, expected one of {}",
            known.join(", ")
        );
        assert_eq!(errors(&document(&keys, "")), [expected]);
    }
}

#[test]
fn headers_are_named_and_valued_as_http_has_them() {
    let read = |name: &str, value: &str| {
        let rules =
            rules(&format!(r#"{{"failure": {{"headers": [{{"name": "{name}", "value": "{value}"}}]}}}}"#));
        rules.failure.headers
    };
    assert_eq!(read("X-Degraded", "True"), [header("x-degraded", "True")]);
    assert_eq!(read("x", ""), [header("x", "")]);
    assert_eq!(read("x!#$%&'*+-.^_`|~9", "a b\\té"), [header("x!#$%&'*+-.^_`|~9", "a b\té")]);
    let name = r#"expected the name of a header such as "x-degraded" (a token, RFC 9110)"#;
    let value = r#"expected the whole value of a header such as "true""#;
    let plain = "without control characters or space around it";
    for (item, message) in [
        (r#"{"name": ":status", "value": "1"}"#, format!(r#".name: found ":status", {name}"#)),
        (r#"{"name": "", "value": "1"}"#, format!(r#".name: found "", {name}"#)),
        (r#"{"name": "a b", "value": "1"}"#, format!(r#".name: found "a b", {name}"#)),
        (r#"{"name": "é", "value": "1"}"#, format!(r#".name: found "é", {name}"#)),
        (r#"{"name": 1, "value": "1"}"#, format!(r#".name: found 1, {name}"#)),
        (r#"{"name": "a", "value": true}"#, format!(r#".value: found true, {value}"#)),
        (r#"{"name": "a", "value": "1\r\nb: 2"}"#, format!(r#".value: found "1\r\nb: 2", {value}, {plain}"#)),
        (r#"{"name": "a", "value": " 1"}"#, format!(r#".value: found " 1", {value}, {plain}"#)),
        (r#"{"name": "a", "value": "1\t"}"#, format!(r#".value: found "1\t", {value}, {plain}"#)),
        (r#"{"name": "a"}"#, format!(r#": missing key "value", {value}"#)),
        (r#"{"value": "a"}"#, format!(r#": missing key "name", {name}"#)),
        (
            r#"{"name": "a", "value": "1", "vale": "2"}"#,
            r#".vale: unknown key; did you mean "value"?"#.to_owned(),
        ),
        (r#""x-degraded: true""#, r#": found "x-degraded: true", expected an object"#.to_owned()),
    ] {
        let keys = format!(r#", "outcome": {{"ignore": {{"headers": [{item}]}}}}"#);
        let expected = format!("policies[0].outcome.ignore.headers[0]{message}");
        assert_eq!(errors(&document(&keys, "")), [expected]);
    }
}

#[test]
fn there_is_a_bound_on_headers() {
    let outcome = |count: usize| {
        let header = |n| format!(r#"{{"name": "x-{n}", "value": "1"}}"#);
        // What is said twice is read once.
        let headers: Vec<_> = (0..count).chain(0..count).map(header).collect();
        format!(r#", "outcome": {{"failure": {{"headers": [{}]}}}}"#, headers.join(","))
    };
    assert_eq!(rules_in(&outcome(16), "").failure.headers.len(), 16);
    let messages = errors(&document(&outcome(17), ""));
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert!(messages[0].starts_with("policies[0].outcome.failure.headers: found [{"), "{messages:?}");
    assert!(messages[0].ends_with("expected at most 16 different headers"), "{messages:?}");
}

#[test]
fn mistakes_come_at_once_in_the_order_of_the_document() {
    let keys = r#", "outcome": {
        "ignored": {},
        "ignore": {"headers": {}, "grpc_statuses": [], "status": 404},
        "failure": {"grpc_status": "OK", "statuss": [], "status": [1, 2]},
        "success": {}}"#;
    let expected = [
        r#"policies[0].outcome.ignored: unknown key; did you mean "ignore"?"#,
        r#"policies[0].outcome.ignore.headers: found {}, expected a list of headers such as [{"name": "x-degraded", "value": "true"}]"#,
        r#"policies[0].outcome.ignore.grpc_statuses: unknown key; did you mean "grpc_status"?"#,
        r#"policies[0].outcome.ignore.status: found 404, expected a list of statuses such as [429, "5xx"]"#,
        r#"policies[0].outcome.failure.grpc_status: found "OK", expected a list of gRPC statuses such as ["UNAVAILABLE"]"#,
        r#"policies[0].outcome.failure.statuss: unknown key; did you mean "status"?"#,
        r#"policies[0].outcome.failure.status[0]: found 1, expected a status from 100 to 599, or a class from "1xx" to "5xx""#,
        r#"policies[0].outcome.failure.status[1]: found 2, expected a status from 100 to 599, or a class from "1xx" to "5xx""#,
        r#"policies[0].outcome.success: unknown key, expected one of "failure", "ignore""#,
    ];
    assert_eq!(errors(&document(keys, "")), expected);
    for (outcome, message) in [
        ("[]", "outcome: found [], expected an object"),
        (r#"{"failure": ["5xx"]}"#, r#"outcome.failure: found ["5xx"], expected an object"#),
        (r#"{"ignore": null}"#, "outcome.ignore: found null, expected an object"),
        (r#"{"ignore": {}, "ignore": {}}"#, "outcome.ignore: duplicate key"),
    ] {
        let keys = format!(r#", "outcome": {outcome}"#);
        assert_eq!(errors(&document(&keys, "")), [format!("policies[0].{message}")]);
    }
}

#[test]
fn defaults_merge_key_by_key_under_a_policy() {
    let defaults = r#""outcome": {
        "failure": {"status": [429, "5xx"], "headers": [{"name": "a", "value": "1"}]},
        "ignore": {"status": [404]}}"#;
    let inherited = rules_in("", defaults);
    assert_eq!(*inherited.failure.status, [429..=429, 500..=599]);
    assert_eq!(inherited.failure.grpc_status, Criteria::FAILURE.grpc_status, "built in");
    assert_eq!((inherited.failure.headers.len(), &*inherited.ignore.status), (1, [404..=404].as_slice()));

    let merged = rules_in(
        r#", "outcome": {"failure": {"status": [500]}, "ignore": {"grpc_status": ["OK"]}}"#,
        defaults,
    );
    assert_eq!(*merged.failure.status, [500..=500], "a list replaces");
    assert_eq!(merged.failure.headers, inherited.failure.headers, "inherited");
    assert_eq!(
        (&*merged.ignore.status, &*merged.ignore.grpc_status),
        ([404..=404].as_slice(), [0].as_slice())
    );

    assert_eq!(rules_in(r#", "outcome": null"#, defaults), Rules::DEFAULT);
    assert_eq!(rules_in(r#", "outcome": {}"#, defaults), inherited);
    assert_eq!(rules_in(r#", "outcome": null"#, ""), Rules::DEFAULT, "nothing to switch off, and no harm");
}

#[test]
fn a_mistake_in_defaults_is_told_once_and_even_if_nobody_inherits_it() {
    let defaults = r#""outcome": {"failure": {"status": [42]}, "ignor": {}}"#;
    let expected = [
        r#"defaults.outcome.failure.status[0]: found 42, expected a status from 100 to 599, or a class from "1xx" to "5xx""#,
        r#"defaults.outcome.ignor: unknown key; did you mean "ignore"?"#,
    ];
    assert_eq!(errors(&document("", defaults)), expected);
    assert_eq!(errors(&document(r#", "outcome": null"#, defaults)), expected);
}
