//! What fallbacks mean as they are written.

use super::Document;
use super::tests::errors;
use crate::answer::{Reason, Reasons};
use crate::fallback::{Body, Fail, Fallback, Fallbacks, Statuses, Strategy, Type, When};
use std::sync::Arc;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// The fallback of a policy, the first of two: the second is `guard`.
fn fallback(entries: &str) -> Arc<Fallbacks> {
    let document = format!(
        r#"{{"policies": [{{"name": "p", "match": [{{"any": true}}], "fallback": [{entries}]}},
                          {{"name": "guard", "match": [{{"any": true}}]}}]}}"#
    );
    let parsed = Document::parse(document.as_bytes());
    parsed.unwrap_or_else(|messages| panic!("{entries}: {messages:?}")).policies.swap_remove(0).fallback
}

/// Its only entry.
fn entry(keys: &str) -> Fallback {
    fallback(&format!("{{{keys}}}")).entries()[0].clone()
}

const FIXED: &str = r#""static": {"status": 200}"#;
const LOUD: &str = r#""fail": {"status": 503}"#;
const REROUTE: &str = r#""reroute": {"cluster": "backup", "policy": "guard"}"#;

#[test]
fn each_reason_is_named_by_itself_and_in_its_group() {
    for reason in Reason::ALL {
        assert_eq!(entry(&format!(r#""on": ["{reason}"], {FIXED}"#)).on, Reasons::from(reason));
    }
    let refusals = entry(&format!(r#""on": ["refusal"], {FIXED}"#)).on;
    let failures = entry(&format!(r#""on": ["failure"], {FIXED}"#)).on;
    for reason in Reason::ALL {
        assert_eq!(
            (refusals.contains(reason), failures.contains(reason)),
            (reason.is_refusal(), !reason.is_refusal())
        );
    }
    // Twice does no harm.
    let some = entry(&format!(r#""on": ["refusal", "circuit_open", "timeout", "timeout"], {FIXED}"#)).on;
    assert_eq!(some, Reasons::REFUSALS.with(Reasons::from(Reason::Timeout)));
}

#[test]
fn an_entry_answers_all_that_it_can_unless_it_is_said() {
    for keys in [FIXED, LOUD] {
        assert_eq!(entry(keys).on, Reasons::ALL, "{keys}");
        assert_eq!(entry(&format!(r#""status": [503], {keys}"#)).on, Reasons::FAILURES, "{keys}");
        assert_eq!(entry(&format!(r#""grpc_status": ["INTERNAL"], {keys}"#)).on, Reasons::FAILURES, "{keys}");
    }
    assert_eq!(entry(REROUTE).on, Reasons::REFUSALS);
    // A refusal beside a status is said in vain, but a failure is there.
    let mixed = entry(&format!(r#""on": ["refusal", "reset"], "status": [503], {FIXED}"#));
    assert_eq!(mixed.on, Reasons::from(Reason::Reset));
}

#[test]
fn statuses_are_read_as_outcome_reads_them() {
    assert_eq!(entry(FIXED).statuses, None);
    let found = entry(&format!(r#""status": ["5xx", 429, 429], "grpc_status": ["UNKNOWN", "OK"], {FIXED}"#));
    assert_eq!(found.statuses, Some(Statuses { http: vec![429..=429, 500..=599], grpc: vec![0, 2] }));
    let http = entry(&format!(r#""status": [503], {FIXED}"#)).statuses;
    assert_eq!(http, Some(Statuses { http: vec![503..=503], grpc: vec![] }));
    let grpc = entry(&format!(r#""grpc_status": ["DATA_LOSS"], {FIXED}"#)).statuses;
    assert_eq!(grpc, Some(Statuses { http: vec![], grpc: vec![15] }));
}

#[test]
fn conditions_are_read_in_the_case_that_matters() {
    assert_eq!(entry(FIXED).when, When::default());
    let found = entry(&format!(
        r#""when": {{"methods": ["GET", "M-SEARCH"], "headers": [{{"name": "X-Beta", "value": "Yes"}}],
                     "accept": ["Text/HTML", "application/vnd.shop+json"]}}, {FIXED}"#
    ));
    let expected = When {
        methods: vec!["GET".to_owned(), "M-SEARCH".to_owned()],
        headers: vec![("x-beta".to_owned(), "Yes".to_owned())],
        accept: vec![Type::parse("text/html").unwrap(), Type::parse("application/vnd.shop+json").unwrap()],
    };
    assert_eq!(found.when, expected);
}

#[test]
fn a_loud_failure_says_when_to_come_back_in_whole_seconds() {
    let fail = |keys: &str| entry(&format!(r#""fail": {{{keys}}}"#)).strategy;
    assert_eq!(fail(r#""status": 400"#), Strategy::Fail(Fail { status: 400, retry_after: None }));
    for (written, seconds) in
        [("1s", 1), ("1s1ns", 2), ("1500ms", 2), ("30s", 30), ("23h59m59s1ms", 86_400), ("24h", 86_400)]
    {
        let found = fail(&format!(r#""status": 599, "retry_after": "{written}""#));
        assert_eq!(found, Strategy::Fail(Fail { status: 599, retry_after: Some(seconds) }), "{written}");
    }
}

#[test]
fn what_has_no_content_has_no_body() {
    for status in [204, 205, 304] {
        let found =
            entry(&format!(r#""static": {{"status": {status}, "headers": {{"x-a": "1"}}}}"#)).strategy;
        let Strategy::Static(answer) = found else { panic!("{found:?}") };
        assert_eq!((answer.status, answer.body, answer.headers.len()), (status, Body::None, 1));
    }
}

#[test]
fn an_entry_that_never_has_its_turn_is_no_error() {
    let fallback = fallback(&format!("{{{FIXED}}}, {{{LOUD}}}, {{{REROUTE}}}"));
    assert_eq!(fallback.entries().len(), 3);
    assert!(
        Document::parse(br#"{"policies": [{"name": "p", "match": [{"any": true}], "fallback": []}]}"#)
            .is_ok()
    );
}

#[test]
fn a_list_has_an_end() {
    let entries = |count: usize| vec![r#"{"static": {"status": 200}}"#; count].join(",");
    let document = |count: usize| {
        format!(
            r#"{{"policies": [{{"name": "p", "match": [{{"any": true}}], "fallback": [{}]}}]}}"#,
            entries(count)
        )
    };
    assert!(Document::parse(document(32).as_bytes()).is_ok());
    let messages = errors(&document(33));
    assert!(messages[0].starts_with("policies[0].fallback: found ["), "{messages:?}");
    assert!(messages[0].ends_with(", expected at most 32 fallbacks") && messages.len() == 1, "{messages:?}");

    let types = |count: usize| {
        let types: Vec<_> = (0..count).map(|n| format!("\"a/b{n}\"")).collect();
        format!(
            r#"{{"policies": [{{"name": "p", "match": [{{"any": true}}],
                "fallback": [{{"when": {{"accept": [{}]}}, "static": {{"status": 200}}}}]}}]}}"#,
            types.join(",")
        )
    };
    assert!(Document::parse(types(16).as_bytes()).is_ok());
    let messages = errors(&types(17));
    assert!(
        messages[0].ends_with(", expected at most 16 media types") && messages.len() == 1,
        "{messages:?}"
    );
}

#[test]
fn a_body_has_a_size_and_so_have_all_of_them() {
    const MOST: usize = 256 * 1024;
    let text =
        |length: usize| format!(r#"{{"static": {{"status": 200, "text": "{}"}}}}"#, "x".repeat(length));
    let policy =
        |name: &str, entries: &str| format!(r#"{{"name": "{name}", "match": [{{"any": true}}]{entries}}}"#);
    let own =
        |name: &str, entries: &[String]| policy(name, &format!(r#", "fallback": [{}]"#, entries.join(",")));
    let document =
        |policies: &[String], around: &str| format!(r#"{{"policies": [{}]{around}}}"#, policies.join(","));

    let alone = |entry: String| document(&[own("p", &[entry])], "");
    assert!(Document::parse(alone(text(MOST)).as_bytes()).is_ok());
    assert_eq!(
        errors(&alone(text(MOST + 1))),
        ["policies[0].fallback[0].static.text: a body of 262145 bytes, expected at most 262144"]
    );
    // As JSON is sent, and base64 decoded.
    let json =
        |length: usize| format!(r#"{{"static": {{"status": 200, "json":    "{}"   }}}}"#, "x".repeat(length));
    assert!(Document::parse(alone(json(MOST - 2)).as_bytes()).is_ok());
    assert_eq!(
        errors(&alone(json(MOST - 1))),
        ["policies[0].fallback[0].static.json: a body of 262145 bytes, expected at most 262144"]
    );
    let base64 = format!(r#"{{"static": {{"status": 200, "base64": "{}"}}}}"#, "AAAA".repeat(87_382));
    assert_eq!(
        errors(&alone(base64)),
        ["policies[0].fallback[0].static.base64: a body of 262146 bytes, expected at most 262144"]
    );

    // Four mebibytes together: here with what policies inherit, which counts once.
    let inherited = format!(r#", "defaults": {{"fallback": [{}]}}"#, text(MOST));
    let heirs: Vec<_> = (0..20).map(|n| policy(&format!("h{n}"), "")).collect();
    let mut policies = heirs;
    policies.push(own("a", &vec![text(MOST); 14]));
    policies.push(own("b", &[text(MOST)]));
    assert!(Document::parse(document(&policies, &inherited).as_bytes()).is_ok());
    policies.push(own("c", &[r#"{"fail": {"status": 500}}"#.to_owned(), text(1)]));
    policies.push(own("d", &[text(1)]));
    let expected = [
        "policies[22].fallback[1]: the bodies of this document are 4194305 bytes with this one, expected at most 4194304",
    ];
    assert_eq!(errors(&document(&policies, &inherited)), expected);
}

#[test]
fn places_to_fill_in_are_counted() {
    let policy = |count: usize| {
        let text = "%REQUEST_ID%".repeat(count);
        format!(
            r#"{{"policies": [{{"name": "p", "match": [{{"any": true}}], "fallback": [{{"static": {{"status": 200, "json": "{text}"}}}}]}}]}}"#
        )
    };
    assert!(Document::parse(policy(64).as_bytes()).is_ok());
    assert_eq!(
        errors(&policy(65)),
        ["policies[0].fallback[0].static.json: 65 places to fill in, expected at most 64"]
    );
}
