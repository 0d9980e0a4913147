//! Bulkheads: what they mean and what they inherit.

use super::mode::SOFTENED;
use super::tests::errors;
use super::*;
use crate::bulkhead::{Class, ClassSource, Priority, Queue, Settings};
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// One policy with these keys, and a document around it.
fn parse(keys: &str, around: &str) -> Policy {
    let policy = format!(r#"{{"name": "p", "match": [{{"any": true}}], {keys}}}"#);
    let document = format!(r#"{{"policies": [{policy}]{around}}}"#);
    let parsed = Document::parse(document.as_bytes());
    parsed.unwrap_or_else(|messages| panic!("{document}: {messages:?}")).policies.swap_remove(0)
}

fn bulkhead(keys: &str) -> Bulkhead {
    parse(&format!(r#""bulkhead": {keys}"#), "").bulkhead.unwrap()
}

/// What comes of these keys of a policy under defaults.
fn merged(keys: &str, defaults: &str) -> Settings {
    parse(keys, &format!(r#", "defaults": {{"bulkhead": {defaults}}}"#)).bulkhead.unwrap().settings
}

fn class(name: &str, limit: u32) -> Class {
    Class { name: name.to_owned(), limit }
}

/// Three classes, and whatever else `priority` says.
pub(super) fn with_priority(calls: &str, priority: &str) -> String {
    format!(r#""bulkhead": {{"max_concurrent_calls": {calls}, "priority": {{{priority}}}}}"#)
}

pub(super) const TWO: &str =
    r#""default": "low", "classes": [{"name": "high", "max_share": 100}, {"name": "low", "max_share": 50}]"#;

#[test]
fn the_example_of_the_interface_is_taken() {
    let settings = bulkhead(
        r#"{"max_concurrent_calls": 50, "max_wait_duration": "250ms", "max_queue": 100,
            "priority": {"header": "X-Priority", "default": "normal", "classes": [
                {"name": "critical", "max_share": 100}, {"name": "normal", "max_share": 80},
                {"name": "batch", "max_share": 40}]}}"#,
    )
    .settings;
    let expected = Settings {
        max_concurrent_calls: 50,
        queue: Some(Queue { max_wait_duration: Duration::from_millis(250), max_queue: 100 }),
        priority: Some(Priority {
            source: Some(ClassSource::Header("x-priority".to_owned())),
            default: 1,
            classes: vec![class("critical", 50), class("normal", 40), class("batch", 20)],
        }),
    };
    assert_eq!(settings, expected);
}

#[test]
fn what_is_not_said_has_its_default() {
    let alone = bulkhead(r#"{"max_concurrent_calls": 30}"#);
    assert_eq!(alone.settings, Settings { max_concurrent_calls: 30, queue: None, priority: None });
    assert_eq!(alone.mode, PatternMode::Enforce);
    assert_eq!(bulkhead(r#"{"max_concurrent_calls": 30, "max_wait_duration": "0s"}"#).settings.queue, None);
    for (calls, queue) in [(30, 30), (2048, 2048), (2049, 2048), (1_000_000, 2048)] {
        let keys = format!(r#"{{"max_concurrent_calls": {calls}, "max_wait_duration": "1ms"}}"#);
        assert_eq!(bulkhead(&keys).settings.queue.unwrap().max_queue, queue);
    }
    let silent = parse(&with_priority("10", TWO), "").bulkhead.unwrap().settings.priority.unwrap();
    assert_eq!((silent.source, silent.default), (None, 1));
    assert_eq!(parse(r#""mode": "enforce""#, "").bulkhead, None);
}

#[test]
fn a_share_is_rounded_down_and_at_least_one() {
    for (calls, share, limit) in [
        ("1000", "33.3", 333),
        ("1000", "66.6", 666),
        ("1000", "0.1", 1),
        ("10", "29", 2),
        ("10", "99.999999", 9),
        ("10", "100", 10),
        ("10", "100.0", 10),
        ("10", "0", 1),
        ("10", "-0", 1),
        ("1", "1e-300", 1),
        ("1000000", "100", 1_000_000),
        ("1000000", "99.9999", 999_999),
        ("1000000", "8.3", 83_000),
        ("100", "57", 57),
    ] {
        let classes = format!(r#""default": "a", "classes": [{{"name": "a", "max_share": {share}}}]"#);
        let settings = parse(&with_priority(calls, &classes), "").bulkhead.unwrap().settings;
        assert_eq!(settings.priority.unwrap().classes, [class("a", limit)], "{share} % of {calls}");
    }
}

#[test]
fn every_range_includes_its_ends_and_nothing_beyond() {
    let calls = |value: &str| format!(r#"{{"max_concurrent_calls": {value}}}"#);
    let wait = |value: &str| format!(r#"{{"max_concurrent_calls": 1, "max_wait_duration": {value}}}"#);
    let queue = |value: &str| {
        format!(r#"{{"max_concurrent_calls": 1, "max_wait_duration": "1s", "max_queue": {value}}}"#)
    };
    for fits in [
        calls("1"),
        calls("1000000"),
        wait("\"0s\""),
        wait("\"1ns\""),
        wait("\"10m\""),
        queue("0"),
        queue("2048"),
    ] {
        bulkhead(&fits);
    }
    let no_count =
        ["-1", "1.5", "1.0", "1e2", "\"1\"", "true", "[]", "null", "18446744073709551617", "4294967297"];
    let refused = [calls("0"), calls("1000001"), wait("\"10m1ns\""), wait("1"), wait("\"\""), queue("4097")];
    let refused =
        refused.into_iter().chain(no_count.into_iter().flat_map(|it| [calls(it), wait(it), queue(it)]));
    for keys in refused {
        let document =
            format!(r#"{{"policies": [{{"name": "p", "match": [{{"any": true}}], "bulkhead": {keys}}}]}}"#);
        assert_eq!(errors(&document).len(), 1, "{keys}");
    }
}

#[test]
fn a_policys_class_goes_before_the_default() {
    let default = |keys: &str| {
        let policy = parse(keys, &format!(r#", "defaults": {{{}}}"#, with_priority("10", TWO)));
        policy.bulkhead.unwrap().settings.priority.unwrap().default
    };
    assert_eq!(default(r#""mode": "enforce""#), 1);
    assert_eq!(default(r#""class": "high""#), 0);
    assert_eq!(default(r#""class": "low", "bulkhead": {"priority": {"default": "high"}}"#), 1);
}

#[test]
fn metadata_can_tell_the_class() {
    let keys = with_priority("10", &format!(r#"{TWO}, "metadata": {{"namespace": "shop", "key": "class"}}"#));
    let source = parse(&keys, "").bulkhead.unwrap().settings.priority.unwrap().source;
    let expected = ClassSource::Metadata { namespace: "shop".to_owned(), key: "class".to_owned() };
    assert_eq!(source, Some(expected));
}

#[test]
fn defaults_merge_key_by_key_under_a_policy() {
    let defaults = format!(
        r#"{{"max_concurrent_calls": 20, "max_wait_duration": "1s", "max_queue": 7,
             "priority": {{"header": "x-priority", {TWO}}}}}"#
    );
    let whole = merged(r#""mode": "enforce""#, &defaults);
    assert_eq!((whole.max_concurrent_calls, whole.queue.unwrap().max_queue), (20, 7));
    let wider = merged(r#""bulkhead": {"max_concurrent_calls": 40, "max_queue": 9}"#, &defaults);
    let queue = Queue { max_wait_duration: Duration::from_secs(1), max_queue: 9 };
    assert_eq!((wider.max_concurrent_calls, wider.queue), (40, Some(queue)));
    // The inherited shares are shares of the policy's own limit.
    assert_eq!(wider.priority.unwrap().classes, [class("high", 40), class("low", 20)]);

    let own = r#""bulkhead": {"priority": {"default": "b", "classes": [{"name": "a", "max_share": 90}, {"name": "b", "max_share": 10}]}}"#;
    let priority = merged(own, &defaults).priority.unwrap();
    assert_eq!(priority.classes, [class("a", 18), class("b", 2)]);
    assert_eq!((priority.source, priority.default), (Some(ClassSource::Header("x-priority".to_owned())), 1));
    // Defaults may leave the limit to the policies.
    assert_eq!(
        merged(
            r#""bulkhead": {"max_concurrent_calls": 3}"#,
            r#"{"max_queue": 2, "max_wait_duration": "1s"}"#
        )
        .max_concurrent_calls,
        3
    );
}

#[test]
fn what_a_policy_says_itself_replaces_what_it_would_contradict() {
    let by_header =
        format!(r#"{{"max_concurrent_calls": 20, "priority": {{"header": "x-priority", {TWO}}}}}"#);
    let by_metadata = r#""bulkhead": {"priority": {"metadata": {"namespace": "n", "key": "k"}}}"#;
    let source = merged(by_metadata, &by_header).priority.unwrap().source;
    assert!(matches!(source, Some(ClassSource::Metadata { .. })), "{source:?}");
    let by_metadata =
        by_header.replace(r#""header": "x-priority""#, r#""metadata": {"namespace": "n", "key": "k"}"#);
    let source =
        merged(r#""bulkhead": {"priority": {"header": "x-class"}}"#, &by_metadata).priority.unwrap().source;
    assert_eq!(source, Some(ClassSource::Header("x-class".to_owned())));
    let part = merged(r#""bulkhead": {"priority": {"metadata": {"key": "l"}}}"#, &by_metadata)
        .priority
        .unwrap()
        .source;
    assert_eq!(part, Some(ClassSource::Metadata { namespace: "n".to_owned(), key: "l".to_owned() }));
    // A policy that switches waiting off has no queue either.
    let waits = r#"{"max_concurrent_calls": 20, "max_wait_duration": "1s", "max_queue": 7}"#;
    assert_eq!(merged(r#""bulkhead": {"max_wait_duration": "0ms"}"#, waits).queue, None);
}

#[test]
fn null_switches_an_inherited_bulkhead_off() {
    let defaults = r#", "defaults": {"bulkhead": {"max_concurrent_calls": 9}}"#;
    assert!(parse(r#""mode": "enforce""#, defaults).bulkhead.is_some());
    assert_eq!(parse(r#""bulkhead": null"#, defaults).bulkhead, None);
    assert_eq!(parse(r#""bulkhead": null"#, "").bulkhead, None);
}

#[test]
fn a_policy_only_softens_its_bulkhead() {
    for (outer, inner, expected) in SOFTENED {
        let keys =
            format!(r#""mode": "{outer}", "bulkhead": {{"mode": "{inner}", "max_concurrent_calls": 1}}"#);
        assert_eq!(parse(&keys, "").bulkhead.unwrap().mode, expected, "{outer} {inner}");
    }
}
