//! What a mistake in a bulkhead looks like to the operator who made it.

use super::bulkhead_tests::{TWO, with_priority};
use super::tests::{each, errors};
use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// The message of a bulkhead of ten calls with these further keys.
fn refused(keys: &str, message: &str) {
    each(&[(
        &format!(r#""bulkhead": {{"max_concurrent_calls": 10, {keys}}}"#),
        &format!("bulkhead{message}"),
    )]);
}

#[test]
fn mistakes_are_told() {
    each(&[
        (r#""bulkhead": 5"#, "bulkhead: found 5, expected an object"),
        (
            r#""bulkhead": {}"#,
            r#"bulkhead: missing key "max_concurrent_calls", expected how many calls may be in flight"#,
        ),
        (
            r#""bulkhead": {"max_concurrent_calls": 0}"#,
            "bulkhead.max_concurrent_calls: found 0, expected a whole number from 1 to 1000000",
        ),
    ]);
    refused(
        r#""max_wait": "1s""#,
        r#".max_wait: unknown key, expected one of "mode", "max_concurrent_calls", "max_wait_duration", "max_queue", "priority""#,
    );
    refused(r#""max_queu": 1"#, r#".max_queu: unknown key; did you mean "max_queue"?"#);
    refused(
        r#""mode": "forced_open""#,
        r#".mode: found "forced_open", expected one of "enforce", "shadow", "disabled""#,
    );
    refused(
        r#""max_wait_duration": 250"#,
        r#".max_wait_duration: found 250, expected a duration such as "30s""#,
    );
    refused(
        r#""max_wait_duration": "11m""#,
        r#".max_wait_duration: found "11m", expected a duration from "0s" to "10m""#,
    );
    refused(
        r#""max_wait_duration": "1s", "max_queue": 2049"#,
        ".max_queue: found 2049, expected a whole number from 0 to 2048",
    );
    let alone = r#".max_queue: found 5, expected a "max_wait_duration" above "0s" beside it"#;
    refused(r#""max_queue": 5"#, alone);
    refused(r#""max_queue": 5, "max_wait_duration": "0h0s""#, alone);
}

#[test]
fn mistakes_in_priorities_are_told() {
    let said = |keys: &str, message: &str| {
        refused(&format!(r#""priority": {{{keys}}}"#), &format!(".priority{message}"))
    };
    let list = "a list of 1 to 16 classes, from the highest to the lowest";
    let name = r#"a name such as "critical" ([a-z][a-z0-9_-]{0,63})"#;
    let classes =
        |items: &str, message: &str| said(&format!(r#""default": "a", "classes": {items}"#), message);
    refused(r#""priority": null"#, ".priority: found null, expected an object");
    said(r#""default": "a""#, &format!(r#": missing key "classes", expected {list}"#));
    said(
        r#""classes": [{"name": "a", "max_share": 1}]"#,
        r#": missing key "default", expected the name of one of the classes"#,
    );
    classes("[]", &format!(".classes: found [], expected {list}"));
    classes(r#""a""#, &format!(r#".classes: found "a", expected {list}"#));
    classes("[1]", ".classes[0]: found 1, expected an object");
    classes(r#"[{"max_share": 1}]"#, &format!(r#".classes[0]: missing key "name", expected {name}"#));
    classes(
        r#"[{"name": "A", "max_share": 1}]"#,
        &format!(r#".classes[0].name: found "A", expected {name}"#),
    );
    classes(
        r#"[{"name": "a"}]"#,
        r#".classes[0]: missing key "max_share", expected a percentage from 0 to 100"#,
    );
    for share in ["100.1", "-1", "\"50%\"", "null", "1e300"] {
        let number = share.replace("1e300", "1e+300");
        classes(
            &format!(r#"[{{"name": "a", "max_share": {share}}}]"#),
            &format!(".classes[0].max_share: found {number}, expected a percentage from 0 to 100"),
        );
    }
    classes(
        r#"[{"name": "a", "max_share": 1}, {"name": "b", "max_share": 1}, {"name": "a", "max_share": 2}]"#,
        r#".classes[2].name: found "a", expected a name that is not yet taken by policies[0].bulkhead.priority.classes[0].name"#,
    );
    classes(
        r#"[{"name": "b", "max_share": 1}, {"name": "c", "max_share": 1}]"#,
        r#".default: found "a", expected one of "b", "c""#,
    );
    said(
        &format!(r#"{TWO}, "header": "x y""#),
        r#".header: found "x y", expected the name of a header such as "x-priority" (a token, RFC 9110)"#,
    );
    said(
        &format!(r#"{TWO}, "metadata": {{"namespace": "n"}}"#),
        r#".metadata: missing key "key", expected a string"#,
    );
    said(
        &format!(r#"{TWO}, "header": "x", "metadata": {{"namespace": "n", "key": "k"}}"#),
        r#".metadata: a second source of the class, expected one of "header", "metadata""#,
    );
    let many: Vec<_> = (0..17).map(|n| format!(r#"{{"name": "a{n}", "max_share": 1}}"#)).collect();
    let document = format!(
        r#"{{"policies": [{{"name": "p", "match": [{{"any": true}}], {}}}]}}"#,
        with_priority("1", &format!(r#""default": "a0", "classes": [{}]"#, many.join(",")))
    );
    let messages = errors(&document);
    assert!(messages.len() == 1 && messages[0].ends_with(&format!("..., expected {list}")), "{messages:?}");
    assert!(Document::parse(document.replace(&format!(",{}", many[16]), "").as_bytes()).is_ok());
}

#[test]
fn mistakes_in_a_class_are_told() {
    let without = r#"class: found "high", expected a "bulkhead" with "priority" beside it"#;
    each(&[
        (r#""class": "high""#, without),
        (r#""class": "high", "bulkhead": null"#, without),
        (r#""class": "high", "bulkhead": {"max_concurrent_calls": 1}"#, without),
        // It may be the misspelt one that is meant.
        (
            r#""class": "high", "bulkhead": {"max_concurrent_calls": 1, "prioritiy": {}}"#,
            r#"bulkhead.prioritiy: unknown key; did you mean "priority"?"#,
        ),
        (
            &format!(r#""class": "middle", {}"#, with_priority("1", TWO)),
            r#"class: found "middle", expected one of "high", "low""#,
        ),
        (
            &format!(r#""class": 1, {}"#, with_priority("1", TWO)),
            r#"class: found 1, expected one of "high", "low""#,
        ),
    ]);
    // Neither hides the other.
    let both = with_priority("1", &TWO.replace(r#""default": "low""#, r#""default": "nothing""#));
    let document =
        format!(r#"{{"policies": [{{"name": "p", "match": [{{"any": true}}], "class": "no", {both}}}]}}"#);
    let expected = [
        r#"policies[0].class: found "no", expected one of "high", "low""#,
        r#"policies[0].bulkhead.priority.default: found "nothing", expected one of "high", "low""#,
    ];
    assert_eq!(errors(&document), expected);
}

#[test]
fn all_mistakes_come_at_once_in_the_order_of_the_document() {
    let document = r#"{
        "defaults": {"bulkhead": {"max_queue": -1, "priority": {"classes": [{"name": "a", "max_share": 101}]}, "typo": 1}},
        "policies": [{
            "name": "p", "match": [{"any": true}],
            "bulkhead": {"priority": {"classes": [{"max_share": "all", "name": "B", "x": 1}], "default": "c", "header": ":path"},
                         "max_queue": 1.5, "mode": "on", "max_wait_duration": 1}
        }]
    }"#;
    let places: Vec<_> = errors(document)
        .iter()
        .map(|message| message.split(": ").next().unwrap_or_default().to_owned())
        .collect();
    let expected = [
        "defaults.bulkhead.max_queue",
        "defaults.bulkhead.priority",
        "defaults.bulkhead.priority.classes[0].max_share",
        "defaults.bulkhead.typo",
        "policies[0].bulkhead",
        "policies[0].bulkhead.priority.classes[0].max_share",
        "policies[0].bulkhead.priority.classes[0].name",
        "policies[0].bulkhead.priority.classes[0].x",
        "policies[0].bulkhead.priority.header",
        "policies[0].bulkhead.max_queue",
        "policies[0].bulkhead.mode",
        "policies[0].bulkhead.max_wait_duration",
    ];
    assert_eq!(places, expected);
}

#[test]
fn a_mistake_in_defaults_shows_even_if_no_policy_inherits_it() {
    let defaults = |bulkhead: &str| format!(r#"{{"policies": [], "defaults": {{"bulkhead": {bulkhead}}}}}"#);
    assert_eq!(
        errors(&defaults(r#"{"max_concurrent_calls": 0}"#)),
        ["defaults.bulkhead.max_concurrent_calls: found 0, expected a whole number from 1 to 1000000"]
    );
    assert_eq!(errors(&defaults("null")), ["defaults.bulkhead: found null, expected an object"]);
    assert_eq!(
        errors(&defaults(&format!(
            r#"{{"priority": {{{}}}}}"#,
            TWO.replace(r#""default": "low""#, r#""default": "lowest""#)
        ))),
        [r#"defaults.bulkhead.priority.default: found "lowest", expected one of "high", "low""#]
    );
    // What policies complete is no mistake yet; what one inherits is told where it stands.
    let incomplete = defaults(r#"{"max_queue": 5}"#);
    assert!(Document::parse(incomplete.as_bytes()).is_ok());
    let inherited = incomplete.replace(
        r#""policies": []"#,
        r#""policies": [{"name": "p", "match": [{"any": true}], "bulkhead": {"max_concurrent_calls": 1}}]"#,
    );
    assert_eq!(
        errors(&inherited),
        [r#"defaults.bulkhead.max_queue: found 5, expected a "max_wait_duration" above "0s" beside it"#]
    );
}
