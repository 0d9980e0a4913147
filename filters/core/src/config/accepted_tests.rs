//! What documents mean: defaults, modes, the ends of each range.

use super::tests::errors;
use super::*;
use crate::answer::Reasons;
use crate::breaker::{FailuresInWindow, Settings};
use crate::fallback::{Body, Static, Strategy};
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn parse(document: &str) -> Document {
    Document::parse(document.as_bytes()).unwrap_or_else(|messages| panic!("{document}: {messages:?}"))
}

/// One policy with these further keys, and a document around it.
fn policy_in(keys: &str, around: &str) -> Policy {
    let policy = format!(r#"{{"name": "p", "match": [{{"any": true}}]{keys}}}"#);
    parse(&format!(r#"{{"policies": [{policy}]{around}}}"#)).policies.swap_remove(0)
}

fn policy(keys: &str) -> Policy {
    policy_in(keys, "")
}

/// The statuses of its fixed answers.
fn answers(fallbacks: &Fallbacks) -> Vec<u16> {
    let status = |entry: &crate::fallback::Fallback| match &entry.strategy {
        Strategy::Static(answer) => answer.status,
        other => panic!("{other:?}"),
    };
    fallbacks.entries().iter().map(status).collect()
}

fn settings_in(breaker: &str, defaults: &str) -> Settings {
    let keys = if breaker.is_empty() { String::new() } else { format!(r#", "circuit_breaker": {breaker}"#) };
    let defaults = format!(r#", "defaults": {{"circuit_breaker": {defaults}}}"#);
    policy_in(&keys, &defaults).circuit_breaker.unwrap().settings
}

#[test]
fn what_is_not_said_has_its_default() {
    let document = parse(r#"{"policies": []}"#);
    let expected = Document {
        namespace: "default".to_owned(),
        policies: vec![],
        exempt: vec![],
        trust_caller_headers: false,
        expose: true,
        control: false,
        state: false,
        annotate: false,
        max_metrics: 50_000,
    };
    assert_eq!(document, expected);

    let observing = policy("");
    assert_eq!((observing.disabled, observing.discourage_retries), (false, true));
    assert_eq!((observing.circuit_breaker, observing.fallback), (None, std::sync::Arc::default()));

    let breaker = policy(r#", "circuit_breaker": {"consecutive_failures": 7}"#).circuit_breaker.unwrap();
    let expected = Settings {
        consecutive_failures: Some(7),
        failures_in_window: None,
        rates: None,
        slow_call_duration_threshold: None,
        wait_duration_growth: None,
        ramp_up: None,
        wait_duration_in_open_state: Duration::from_secs(60),
        permitted_number_of_calls_in_half_open_state: 10,
        max_wait_duration_in_half_open_state: Duration::from_secs(60),
    };
    assert_eq!((breaker.settings, breaker.mode), (expected, BreakerMode::Enforce));
}

#[test]
fn what_is_said_is_taken() {
    let document = parse(
        r#"{"namespace": "shop", "expose": false, "exempt": [{"path": {"prefix": "/health"}}], "policies": [{
            "name": "checkout", "mode": "shadow", "discourage_retries": false,
            "match": [{"metadata": {"namespace": "n", "key": "k", "value": "v"}}, {"route": "r"},
                      {"host": "*.Example.COM", "path": {"exact": "/a"}, "methods": ["GET", "M-SEARCH"]}],
            "circuit_breaker": {
                "failures_in_window": {"failures": 5, "window": "1m30s"},
                "wait_duration_in_open_state": "250ms",
                "permitted_number_of_calls_in_half_open_state": 1,
                "max_wait_duration_in_half_open_state": "15s"},
            "fallback": [{"on": ["refusal", "circuit_open"], "static": {"status": 202}}]}]}"#,
    );
    assert_eq!((document.namespace.as_str(), document.expose), ("shop", false));
    assert_eq!(document.exempt[0].path, Some(PathPattern::Prefix("/health".to_owned())));
    let policy = &document.policies[0];
    assert_eq!(
        (policy.name.as_str(), policy.disabled, policy.discourage_retries),
        ("checkout", false, false)
    );
    assert_eq!(policy.matches[0].metadata, Some(("n".to_owned(), "k".to_owned(), "v".to_owned())));
    assert_eq!(policy.matches[1].route, Some("r".to_owned()));
    assert_eq!(policy.matches[2].host, Some(HostPattern::Wildcard(".example.com".to_owned())));
    assert_eq!(policy.matches[2].path, Some(PathPattern::Exact("/a".to_owned())));
    assert_eq!(policy.matches[2].methods, ["GET", "M-SEARCH"]);
    let settings = &policy.circuit_breaker.as_ref().unwrap().settings;
    let window = FailuresInWindow { failures: 5, window: Duration::from_secs(90) };
    assert_eq!((settings.consecutive_failures, settings.failures_in_window), (None, Some(window)));
    assert_eq!(settings.wait_duration_in_open_state, Duration::from_millis(250));
    assert_eq!(settings.permitted_number_of_calls_in_half_open_state, 1);
    assert_eq!(settings.max_wait_duration_in_half_open_state, Duration::from_secs(15));
    let [entry] = policy.fallback.entries() else { panic!("{:?}", policy.fallback) };
    assert_eq!(entry.on, Reasons::REFUSALS);
    let empty = Static { status: 202, headers: Box::default(), body: Body::None };
    assert_eq!(entry.strategy, Strategy::Static(empty));
}

#[test]
fn defaults_merge_key_by_key_under_a_policy() {
    let defaults = r#"{"consecutive_failures": 9, "wait_duration_in_open_state": "5s"}"#;
    let inherited = settings_in("", defaults);
    assert_eq!(inherited.consecutive_failures, Some(9));
    assert_eq!(inherited.wait_duration_in_open_state, Duration::from_secs(5));

    let merged = settings_in(
        r#"{"wait_duration_in_open_state": "7s", "failures_in_window": {"failures": 2, "window": "1s"}}"#,
        defaults,
    );
    assert_eq!(merged.consecutive_failures, Some(9), "from the defaults");
    assert_eq!(merged.wait_duration_in_open_state, Duration::from_secs(7), "the policy's own");
    assert_eq!(merged.failures_in_window.map(|window| window.failures), Some(2));

    // A section of a section merges as well.
    let merged = settings_in(
        r#"{"failures_in_window": {"failures": 3}}"#,
        r#"{"failures_in_window": {"failures": 5, "window": "10s"}}"#,
    );
    let expected = FailuresInWindow { failures: 3, window: Duration::from_secs(10) };
    assert_eq!(merged.failures_in_window, Some(expected));
}

#[test]
fn defaults_need_no_trigger_where_every_policy_brings_one() {
    let settings = settings_in(r#"{"consecutive_failures": 2}"#, r#"{"wait_duration_in_open_state": "5s"}"#);
    assert_eq!(settings.wait_duration_in_open_state, Duration::from_secs(5));
    let incomplete = r#"{"policies": [{"name": "p", "match": [{"any": true}], "circuit_breaker": {}}],
            "defaults": {"circuit_breaker": {"wait_duration_in_open_state": "5s"}}}"#;
    let messages = errors(incomplete);
    assert!(
        messages.len() == 1 && messages[0].starts_with("policies[0].circuit_breaker: found "),
        "{messages:?}"
    );
}

#[test]
fn null_switches_a_section_off() {
    let defaults = r#", "defaults": {"circuit_breaker": {"consecutive_failures": 9},
                                     "fallback": [{"static": {"status": 299}}]}"#;
    let inherits = policy_in("", defaults);
    assert!(inherits.circuit_breaker.is_some());
    assert_eq!(answers(&inherits.fallback), [299]);
    let without_breaker = policy_in(r#", "circuit_breaker": null"#, defaults);
    assert_eq!((without_breaker.circuit_breaker, answers(&without_breaker.fallback)), (None, vec![299]));
    let without_fallback = policy_in(r#", "fallback": null"#, defaults);
    assert!(without_fallback.circuit_breaker.is_some() && answers(&without_fallback.fallback).is_empty());
    // A list is one value: it replaces.
    let own = policy_in(r#", "fallback": [{"static": {"status": 298}}]"#, defaults);
    assert_eq!(answers(&own.fallback), [298]);
    // Without a default there is nothing to switch off, and no harm in saying so.
    assert_eq!(policy(r#", "circuit_breaker": null, "fallback": null"#).circuit_breaker, None);
}

#[test]
fn a_policy_only_softens_its_breaker() {
    use BreakerMode::{Disabled, Enforce, ForcedOpen, Shadow, ShadowForcedOpen};
    for (outer, inner, expected) in [
        ("enforce", "enforce", Some(Enforce)),
        ("enforce", "shadow", Some(Shadow)),
        ("enforce", "disabled", Some(Disabled)),
        ("enforce", "forced_open", Some(ForcedOpen)),
        ("shadow", "enforce", Some(Shadow)),
        ("shadow", "shadow", Some(Shadow)),
        ("shadow", "disabled", Some(Disabled)),
        ("shadow", "forced_open", Some(ShadowForcedOpen)),
    ] {
        let policy = policy(&format!(
            r#", "mode": "{outer}", "circuit_breaker": {{"mode": "{inner}", "consecutive_failures": 1}}"#
        ));
        assert!(!policy.disabled);
        assert_eq!(policy.circuit_breaker.as_ref().map(|breaker| breaker.mode), expected, "{outer} {inner}");
        let shared = matches!(expected, Some(Enforce | Shadow));
        assert_eq!(policy.shared(0).is_some(), shared, "{outer} {inner}");
    }
    for inner in ["enforce", "shadow", "disabled", "forced_open"] {
        let policy = policy(&format!(
            r#", "mode": "disabled", "circuit_breaker": {{"mode": "{inner}", "consecutive_failures": 1}}"#
        ));
        assert!(policy.disabled);
        assert_eq!(policy.shared(0), None, "{inner}");
    }
    let inherited =
        policy_in("", r#", "defaults": {"circuit_breaker": {"mode": "shadow", "consecutive_failures": 1}}"#);
    assert_eq!(inherited.circuit_breaker.unwrap().mode, Shadow);
}

#[test]
fn names_and_namespaces_have_their_rules() {
    let named = |name: &str| {
        let name = serde_json::to_string(name).unwrap();
        Document::parse(
            format!(r#"{{"policies": [{{"name": {name}, "match": [{{"any": true}}]}}]}}"#).as_bytes(),
        )
    };
    let longest = format!("a{}", "z".repeat(63));
    for name in ["a", "a-b_c9", "a-", &longest] {
        assert_eq!(named(name).unwrap().policies[0].name, name);
    }
    let too_long = format!("{longest}z");
    for name in
        ["", "A", "aB", "9a", "-a", "_a", "a.b", "a b", "a/b", "é", "aé", "a\n", "#members", &too_long]
    {
        assert_eq!(named(name).unwrap_err().len(), 1, "{name:?}");
    }
    for (length, fits) in [(1, true), (128, true), (129, false), (0, false)] {
        let document = format!(r#"{{"policies": [], "namespace": "{}"}}"#, "n".repeat(length));
        assert_eq!(Document::parse(document.as_bytes()).is_ok(), fits, "{length}");
    }
}

#[test]
fn every_range_includes_its_ends_and_nothing_beyond() {
    let breaker = |key: &str, value: &str| {
        format!(r#", "circuit_breaker": {{"consecutive_failures": 1, "{key}": {value}}}"#)
            .replace(r#""consecutive_failures": 1, "consecutive_failures""#, r#""consecutive_failures""#)
    };
    let spans = (["\"1ms\"", "\"168h\""], ["\"999us\"", "\"168h1ns\"", "\"0s\"", "1", "\"-1s\""]);
    let window = |value: &str| format!(r#"{{"failures": 1, "window": {value}}}"#);
    let failures = |value: &str| format!(r#"{{"failures": {value}, "window": "1s"}}"#);
    let mut cases: Vec<(String, bool)> = Vec::new();
    for (values, fits) in [(spans.0.as_slice(), true), (&spans.1, false)] {
        for value in values {
            cases.push((breaker("wait_duration_in_open_state", value), fits));
            cases.push((breaker("max_wait_duration_in_half_open_state", value), fits));
            cases.push((breaker("failures_in_window", &window(value)), fits));
        }
    }
    let no_count =
        ["0", "-1", "1.5", "1.0", "1e2", "\"1\"", "true", "[]", "18446744073709551617", "4294967297"];
    for (values, fits) in [(["1", "1000"].as_slice(), true), (&["1001"], false), (&no_count, false)] {
        for value in values {
            cases.push((breaker("permitted_number_of_calls_in_half_open_state", value), fits));
            cases.push((breaker("failures_in_window", &failures(value)), fits));
        }
    }
    for (values, fits) in [(["1", "1000000"].as_slice(), true), (&["1000001"], false), (&no_count, false)] {
        cases.extend(values.iter().map(|value| (breaker("consecutive_failures", value), fits)));
    }
    for (values, fits) in [(["200", "599"].as_slice(), true), (&["199", "600", "65736", "\"5xx\""], false)] {
        let entry = |value: &&str| format!(r#", "fallback": [{{"static": {{"status": {value}}}}}]"#);
        cases.extend(values.iter().map(|value| (entry(value), fits)));
    }
    for (keys, fits) in cases {
        let document = format!(r#"{{"policies": [{{"name": "p", "match": [{{"any": true}}]{keys}}}]}}"#);
        match Document::parse(document.as_bytes()) {
            Ok(_) => assert!(fits, "{keys}"),
            Err(messages) => assert!(!fits && messages.len() == 1, "{keys}: {messages:?}"),
        }
    }
}

#[test]
fn policies_inherit_from_defaults_that_stand_behind_them() {
    let document = parse(
        r#"{"policies": [{"name": "p", "match": [{"any": true}], "circuit_breaker": {"consecutive_failures": 3}}],
            "defaults": {"circuit_breaker": {"wait_duration_in_open_state": "7s"}}}"#,
    );
    let settings = &document.policies[0].circuit_breaker.as_ref().unwrap().settings;
    assert_eq!(settings.consecutive_failures, Some(3));
    assert_eq!(settings.wait_duration_in_open_state, Duration::from_secs(7));
}

#[test]
fn what_is_inherited_whole_is_there_once() {
    let document = parse(
        r#"{"defaults": {"fallback": [{"static": {"status": 200, "text": "inherited"}}],
                         "outcome": {"failure": {"status": [429]}}},
            "policies": [{"name": "a", "match": [{"route": "a"}]}, {"name": "b", "match": [{"route": "b"}]},
                         {"name": "c", "match": [{"route": "c"}], "fallback": [{"static": {"status": 201}}],
                          "outcome": {"ignore": {"status": [404]}}},
                         {"name": "d", "match": [{"route": "d"}], "fallback": null, "outcome": null}]}"#,
    );
    let [a, b, c, d] = [0, 1, 2, 3].map(|index| &document.policies[index].fallback);
    assert!(std::sync::Arc::ptr_eq(a, b));
    assert_eq!([answers(a), answers(c), answers(d)], [vec![200], vec![201], vec![]]);
    let [a, b, c, d] = [0, 1, 2, 3].map(|index| document.policies[index].rules());
    assert!(std::ptr::eq(a, b));
    assert_eq!(a.failure.status.as_ref(), [429..=429]);
    assert_eq!((&c.failure, c.ignore.status.as_ref()), (&a.failure, [404..=404].as_slice()));
    assert_eq!(d, &crate::outcome::Rules::DEFAULT);
}

#[test]
fn a_policy_is_critical_unless_its_fallback_answers_everybody() {
    let fixed = |status: u16, rest: &str| format!(r#"{{"static": {{"status": {status}}}{rest}}}"#);
    let get = r#", "when": {"methods": ["GET"]}"#;
    for (entries, critical) in [
        (String::new(), true),
        (fixed(200, ""), false),
        (fixed(399, ""), false),
        (fixed(400, ""), true),
        (fixed(200, get), true),
        (fixed(200, r#", "on": ["bulkhead_full", "failure"]"#), true),
        (fixed(200, r#", "on": ["circuit_open"]"#), false),
        // It is for failed answers alone.
        (fixed(200, r#", "status": [503]"#), true),
        (format!("{}, {}", fixed(200, get), fixed(202, "")), false),
        (r#"{"reroute": {"cluster": "other", "policy": "other"}}"#.to_owned(), false),
        (r#"{"fail": {"status": 503}}"#.to_owned(), true),
        (format!(r#"{{"fail": {{"status": 503}}{get}}}, {}"#, fixed(200, "")), true),
        (format!(r#"{{"fail": {{"status": 503}}, "on": ["failure"]}}, {}"#, fixed(200, "")), false),
    ] {
        let document = |said: &str| {
            format!(
                r#"{{"policies": [{{"name": "p", "match": [{{"any": true}}]{said}, "fallback": [{entries}]}},
                    {{"name": "other", "match": [{{"route": "r"}}]}}]}}"#
            )
        };
        assert_eq!(parse(&document("")).policies[0].is_critical(), critical, "{entries}");
        for said in [true, false] {
            let document = document(&format!(r#", "critical": {said}"#));
            assert_eq!(parse(&document).policies[0].is_critical(), said, "{entries}");
        }
    }
}
