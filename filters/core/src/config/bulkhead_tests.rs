//! Bulkheads: what they mean, what they inherit and what is refused.

use super::tests::{each, errors};
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
fn with_priority(calls: &str, priority: &str) -> String {
    format!(r#""bulkhead": {{"max_concurrent_calls": {calls}, "priority": {{{priority}}}}}"#)
}

const TWO: &str =
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
    assert_eq!(alone.mode, BulkheadMode::Enforce);
    assert_eq!(bulkhead(r#"{"max_concurrent_calls": 30, "max_wait_duration": "0s"}"#).settings.queue, None);
    for (calls, queue) in [(30, 30), (4096, 4096), (4097, 4096), (1_000_000, 4096)] {
        let keys = format!(r#"{{"max_concurrent_calls": {calls}, "max_wait_duration": "1ms"}}"#);
        assert_eq!(bulkhead(&keys).settings.queue.unwrap().max_queue, queue);
    }
    let silent = parse(&with_priority("10", TWO), "").bulkhead.unwrap().settings.priority.unwrap();
    assert_eq!((silent.source, silent.default), (None, 1));
    assert_eq!(parse(r#""mode": "enforce""#, "").bulkhead, None);
}
