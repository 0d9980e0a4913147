//! Documents that nobody would write.

use super::tests::errors;
use super::*;
use proptest::prelude::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn deep_nesting_is_an_error_and_no_overflow() {
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        for document in [open.repeat(100_000), format!("{}1{}", open.repeat(100_000), close.repeat(100_000))]
        {
            let messages = errors(&document);
            assert!(messages.len() == 1 && messages[0].contains("recursion limit"), "{messages:?}");
        }
    }
    // As deep as the parser goes: every walk over the document must get as far.
    let deep = format!("{}{}", "[".repeat(120), "]".repeat(120));
    let body = format!(
        r#"{{"policies": [{{"name": "p", "match": [{{"any": true}}],
        "fallback": [{{"static": {{"status": 200, "json": {deep}}}}}]}}]}}"#
    );
    assert!(Document::parse(body.as_bytes()).is_ok());
    assert_eq!(errors(&format!(r#"{{"policies": [], "x": {deep}, "exempt": [{deep}]}}"#)).len(), 2);
}

#[test]
fn numbers_of_any_size_are_told_or_refused() {
    for number in ["1e400", "-1e400"] {
        let messages = errors(&format!(r#"{{"policies": {number}}}"#));
        assert!(messages[0].starts_with("document: not JSON: number out of range"), "{messages:?}");
    }
    let many_digits = "9".repeat(300);
    for number in
        ["1e308", "-0", "0.1", "123456789012345678901234567890", "-9223372036854775809", &many_digits]
    {
        let messages = errors(&format!(r#"{{"policies": {number}}}"#));
        assert!(messages[0].starts_with("policies: found "), "{messages:?}");
        assert!(messages[0].len() < 200, "{messages:?}");
    }
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    for document in [
        b"\xff".as_slice(),
        b"{\"policies\": [\"\xff\"]}",
        b"{\"\xc3\": 1}",
        b"{\"policies\": \"\xed\xa0\x80\"}",
        b"{\"policies\": \"\\ud800\"}",
        b"\0",
        b"{\"policies\": []}\0",
        b"{\"a\nb\": 1}",
    ] {
        let messages = Document::parse(document).unwrap_err();
        assert!(messages.len() == 1 && messages[0].starts_with("document: not JSON: "), "{messages:?}");
    }
}

/// What a terminal or a reader of logs may take for the end of a line, or worse.
fn acts_on_a_log(letter: char) -> bool {
    letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}')
}

#[test]
fn no_key_and_no_value_can_forge_a_line_of_the_log() {
    let letters =
        ["\\n", "\\r", "\\u0000", "\\u001b[2J", "\u{7f}", "\u{85}", "\u{9b}2J", "\u{2028}", "\u{2029}"];
    for letter in letters {
        let forged = format!("a{letter}[critical] all is lost");
        let messages = errors(&format!(
            r#"{{"policies": [{{"name": "{forged}", "{forged}": 1, "match": [{{"host": "{forged} "}}],
                "fallback": [{{"static": {{"status": 200, "headers": {{"{forged}": "1", "b": "{forged}"}}}}}}]}}],
              "{forged}": {{"{forged}": 1}}, "namespace": ["{forged}"]}}"#
        ));
        assert!(messages.len() >= 6, "{messages:?}");
        for message in messages {
            assert!(!message.contains(acts_on_a_log), "{message:?}");
        }
    }
}

#[test]
fn a_key_that_is_no_word_is_quoted_in_its_path() {
    for (key, place) in [
        ("a b", r#"["a b"]"#),
        ("", r#"[""]"#),
        ("a.b", r#"["a.b"]"#),
        ("0]: fine", r#"["0]: fine"]"#),
        (r#"\""#, r#"["\""]"#),
        ("é", r#"["é"]"#),
        ("a-b_9", "a-b_9"),
    ] {
        let messages = errors(&format!(r#"{{"policies": [], "{key}": 1}}"#));
        assert!(messages[0].starts_with(&format!("{place}: unknown key")), "{messages:?}");
    }
}

#[test]
fn a_message_is_short_whatever_it_is_about() {
    let long = "n".repeat(100_000);
    let messages = errors(&format!(
        r#"{{"policies": [{{"name": "{long}", "match": [{{"any": true}}], "{long}": 1}}, {{"name": "{long}", "match": []}}],
          "exempt": [{{"{long}": 1, "{long}": 2}}], "namespace": "{long}"}}"#
    ));
    assert!(messages.len() >= 7, "{}", messages.len());
    assert!(messages.iter().all(|message| message.len() < 400), "{messages:?}");
    // Every value knows its place: many beneath a long key must not each hold all of it.
    let many = vec!["0"; 100_000].join(",");
    assert_eq!(errors(&format!(r#"{{"policies": [], "{long}": [{many}]}}"#)).len(), 1);
}

#[test]
fn a_long_key_is_compared_with_nothing() {
    // A distance to each known key would take a table of the product of their lengths.
    let messages = errors(&format!(r#"{{"policies": [], "{}": 1}}"#, "policies".repeat(500_000)));
    assert!(messages[0].contains(": unknown key, expected one of"));
}

#[test]
fn many_keys_in_one_object_take_their_time_once() {
    let keys: Vec<_> = (0..50_000).map(|n| format!(r#""k{n}": 1"#)).collect();
    assert_eq!(errors(&format!(r#"{{"policies": [], {}}}"#, keys.join(","))).len(), 50_000);
    let twice = vec![r#""k": 1"#; 50_000];
    let messages = errors(&format!(r#"{{"policies": [], {}}}"#, twice.join(",")));
    assert_eq!(messages.iter().filter(|message| message.ends_with("duplicate key")).count(), 49_999);
}

#[test]
fn metadata_is_looked_at_by_a_few_pairs_at_most() {
    let document = |pairs: usize| {
        let matches: Vec<_> = (0..pairs)
            .map(|n| format!(r#"{{"metadata": {{"namespace": "n", "key": "k{n}", "value": "v"}}}}"#))
            .collect();
        // The same pair with another value costs nothing more.
        let again = r#"{"metadata": {"namespace": "n", "key": "k0", "value": "w"}}"#;
        format!(r#"{{"policies": [{{"name": "p", "match": [{}, {again}]}}]}}"#, matches.join(","))
    };
    assert!(Document::parse(document(16).as_bytes()).is_ok());
    let messages = Document::parse(document(17).as_bytes()).unwrap_err();
    assert_eq!(
        messages,
        [
            r#"policies[0].match[16].metadata: found {"namespace":"n","key":"k16","value":"v"}, expected at most 16 pairs of namespace and key in a document"#
        ]
    );
}

/// JSON of any shape, with keys that the document knows among its keys.
fn json() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        any::<i64>().prop_map(|value| value.to_string()),
        (-1e300..1e300_f64).prop_map(|value| format!("{value:e}")),
        prop::sample::select(vec![
            "1s",
            "enforce",
            "any",
            "5xx",
            "UNAVAILABLE",
            "never",
            "/",
            "GET",
            "*.a",
            "refusal",
            "timeout",
            "text/html",
            "p",
            "",
            "\\u0000",
            "é\\n"
        ])
        .prop_map(|text| format!("\"{text}\"")),
    ];
    let key = prop::sample::select(vec![
        "policies",
        "defaults",
        "exempt",
        "expose",
        "name",
        "match",
        "mode",
        "outcome",
        "failure",
        "ignore",
        "value",
        "circuit_breaker",
        "bulkhead",
        "max_concurrent_calls",
        "max_wait_duration",
        "max_queue",
        "priority",
        "header",
        "default",
        "classes",
        "max_share",
        "class",
        "timeout",
        "total",
        "per_try",
        "deadline_header",
        "retry",
        "retry_on",
        "idempotency_key",
        "non_idempotent",
        "retry_budget",
        "percent_can_retry",
        "ttl",
        "namespace",
        "key",
        "fallback",
        "consecutive_failures",
        "failures_in_window",
        "failures",
        "window",
        "static",
        "status",
        "headers",
        "text",
        "json",
        "base64",
        "on",
        "grpc_status",
        "when",
        "accept",
        "reroute",
        "cluster",
        "policy",
        "fail",
        "retry_after",
        "when_open",
        "any",
        "host",
        "path",
        "exact",
        "prefix",
        "methods",
        "metadata",
        "x",
        "",
    ]);
    scalar.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec((key.clone(), inner), 0..6).prop_map(|entries| {
                let entries: Vec<_> =
                    entries.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
                format!("{{{}}}", entries.join(","))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_is_a_document_or_has_errors_of_one_line_each(policies in json(), defaults in json(), whole in json()) {
        let nested = format!(r#"{{"policies": [{policies}], "defaults": {defaults}, "exempt": [{policies}]}}"#);
        for document in [nested, whole] {
            if let Err(messages) = Document::parse(document.as_bytes()) {
                prop_assert!(!messages.is_empty(), "{}", document);
                let sound = |message: &String| message.contains(": ") && !message.contains(acts_on_a_log);
                prop_assert!(messages.iter().all(sound), "{:?}", messages);
            }
        }
    }

    #[test]
    fn any_bytes_are_no_trap(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        prop_assert!(Document::parse(&bytes).is_err());
    }
}

#[test]
fn errors_before_among_and_behind_the_policies_stand_in_the_order_of_the_document() {
    let messages = errors(
        r#"{"expose": 1, "policies": [{"name": "A", "match": []}, {"name": "B", "match": [{"x": 1}]}],
            "namespace": 2, "policies": [], "x": 3}"#,
    );
    let places: Vec<_> = messages.iter().filter_map(|message| message.split(": ").next()).collect();
    let expected = [
        "expose",
        "policies[0].name",
        "policies[0].match",
        "policies[1].name",
        "policies[1].match[0]",
        "policies[1].match[0].x",
        "namespace",
        "policies",
        "x",
    ];
    assert_eq!(places, expected);
}

#[test]
fn what_breaks_off_within_the_policies_is_no_json_whatever_came_before() {
    for rest in ["1e999", r#""\ud800""#, "[", "{}]} x"] {
        let messages = errors(&format!(r#"{{"expose": 1, "policies": [{{"name": "A"}}, {rest}"#));
        assert_eq!(messages.len(), 1, "{messages:?}");
        assert!(messages[0].starts_with("document: not JSON: "), "{messages:?}");
        assert!(messages[0].contains(" at line 1 column "), "{messages:?}");
    }
}
