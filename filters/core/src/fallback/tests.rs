//! Which entry answers, rule by rule.

use super::*;
use crate::config::Document;
use std::sync::Arc;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

type Headers<'a> = [(&'a str, &'a str)];

const GET: (&str, &str) = (":method", "GET");
const HTML: (&str, &str) = ("accept", "text/html,*/*;q=0.8");
const JSON: (&str, &str) = ("accept", "application/json");
const ANY: (&str, &str) = ("accept", "*/*");

/// A fallback with these entries, of which each answers with its place as a status: 400 the first, 401 the second. A policy
/// named `guard` stands beside it.
fn fallback(entries: &[&str]) -> Arc<Fallbacks> {
    let entries: Vec<_> = (400..)
        .zip(entries)
        .map(|(status, keys)| {
            let comma = if keys.is_empty() { "" } else { ", " };
            if keys.contains("reroute") {
                format!("{{{keys}}}")
            } else {
                format!(r#"{{{keys}{comma}"fail": {{"status": {status}}}}}"#)
            }
        })
        .collect();
    parse(&entries.join(","))
}

fn parse(entries: &str) -> Arc<Fallbacks> {
    let document = format!(
        r#"{{"policies": [{{"name": "p", "match": [{{"any": true}}], "fallback": [{entries}]}},
                          {{"name": "guard", "match": [{{"any": true}}]}}]}}"#
    );
    let parsed = Document::parse(document.as_bytes());
    parsed.unwrap_or_else(|messages| panic!("{entries}: {messages:?}")).policies.swap_remove(0).fallback
}

fn caller(fallback: &Fallbacks, headers: &Headers<'_>) -> Caller {
    fallback.caller(headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
}

/// The place of the entry that answers a request with these headers.
fn picked(fallback: &Fallbacks, headers: &Headers<'_>, cause: &Cause) -> Option<usize> {
    fallback.pick(cause, &caller(fallback, headers), Entries::default()).map(|(place, _)| place)
}

const fn failed(http: u16) -> Cause {
    Cause::failure(Reason::UpstreamFailure, Status { http: Some(http), grpc: None })
}

const fn failed_grpc(grpc: u16) -> Cause {
    Cause::failure(Reason::UpstreamFailure, Status { http: Some(200), grpc: Some(grpc) })
}

const OPEN: Cause = Cause::refusal(Reason::CircuitOpen, Some(3));

#[test]
fn the_first_that_applies_answers_and_may_be_none() {
    let all = fallback(&["", "", ""]);
    assert_eq!(picked(&all, &[GET], &OPEN), Some(0));
    let none = fallback(&[]);
    assert_eq!(picked(&none, &[GET], &OPEN), None);
    assert!(none.entries().is_empty() && !none.reads_request() && !none.answers(Reasons::ALL));
}

#[test]
fn each_reason_is_answered_by_who_names_it() {
    for reason in Reason::ALL {
        let cause = Cause { reason, retry_after: None, status: Status { http: Some(503), grpc: None } };
        for other in Reason::ALL {
            let (one, group) =
                (format!(r#""on": ["{other}"]"#), if other.is_refusal() { "refusal" } else { "failure" });
            assert_eq!(picked(&fallback(&[&one]), &[], &cause).is_some(), reason == other, "{one}: {reason}");
            let group = format!(r#""on": ["{group}"]"#);
            let expected = reason.is_refusal() == other.is_refusal();
            assert_eq!(picked(&fallback(&[&group]), &[], &cause).is_some(), expected, "{group}: {reason}");
        }
        assert_eq!(picked(&fallback(&[""]), &[], &cause), Some(0));
    }
}

#[test]
fn what_any_entry_answers_is_known_beforehand() {
    let some = fallback(&[r#""on": ["bulkhead_full"]"#, r#""on": ["timeout", "reset"]"#]);
    for reason in Reason::ALL {
        let expected = matches!(reason, Reason::BulkheadFull | Reason::Timeout | Reason::Reset);
        assert_eq!(some.answers(reason.into()), expected, "{reason}");
    }
    assert!(some.answers(Reasons::FAILURES) && some.answers(Reasons::REFUSALS));
    // A status is that of an answer, so nothing else is answered.
    assert!(!fallback(&[r#""status": [503]"#]).answers(Reasons::REFUSALS));
    assert!(!fallback(&[r#""reroute": {"cluster": "c", "policy": "guard"}"#]).answers(Reasons::FAILURES));
}

#[test]
fn a_status_is_compared_with_the_failed_answers_either_one() {
    let http = fallback(&[r#""status": [503, "4xx"]"#]);
    for (status, expected) in
        [(503, true), (400, true), (499, true), (502, false), (500, false), (200, false)]
    {
        assert_eq!(picked(&http, &[], &failed(status)).is_some(), expected, "{status}");
    }
    assert_eq!(picked(&http, &[], &failed_grpc(14)), None);
    let grpc = fallback(&[r#""grpc_status": ["UNAVAILABLE", "INTERNAL"]"#]);
    for (status, expected) in [(14, true), (13, true), (2, false), (0, false)] {
        assert_eq!(picked(&grpc, &[], &failed_grpc(status)).is_some(), expected, "{status}");
    }
    assert_eq!(picked(&grpc, &[], &failed(503)), None);
    let either = fallback(&[r#""status": [503], "grpc_status": ["UNAVAILABLE"]"#]);
    assert_eq!(picked(&either, &[], &failed(503)), Some(0));
    assert_eq!(picked(&either, &[], &failed_grpc(14)), Some(0));
    assert_eq!(picked(&either, &[], &failed_grpc(13)), None);
    // Nothing is known of the answer, or there is none.
    let unknown = Cause::failure(Reason::UpstreamFailure, Status { http: None, grpc: None });
    for cause in [unknown, OPEN] {
        assert_eq!([&http, &grpc, &either].map(|them| picked(them, &[], &cause)), [None; 3]);
    }
}

#[test]
fn a_method_is_one_of_those_that_are_named() {
    let reads = fallback(&[r#""when": {"methods": ["GET", "HEAD"]}"#, ""]);
    for (method, expected) in [("GET", 0), ("HEAD", 0), ("POST", 1), ("get", 1), ("GE", 1), ("", 1)] {
        assert_eq!(picked(&reads, &[(":method", method)], &OPEN), Some(expected), "{method}");
    }
    assert_eq!(picked(&reads, &[], &OPEN), Some(1));
}

#[test]
fn a_header_has_the_whole_value_in_one_of_its_lines() {
    let beta = fallback(&[
        r#""when": {"headers": [{"name": "X-Beta", "value": "yes"}, {"name": "x-team", "value": "a, b"}]}"#,
        "",
    ]);
    for (headers, expected) in [
        ([("x-beta", "yes")].as_slice(), 0),
        (&[("x-team", "a, b")], 0),
        (&[("x-beta", "no"), ("x-beta", "yes")], 0),
        (&[("x-beta", "no"), ("x-team", "a, b")], 0),
        (&[("x-beta", "no")], 1),
        (&[("x-beta", "Yes")], 1),
        (&[("x-beta", "yes, no")], 1),
        (&[("x-beta", "")], 1),
        (&[("x-team", "a"), ("x-team", "b")], 1),
        (&[("x-team", "yes"), ("x-beta", "a, b")], 1),
        (&[], 1),
    ] {
        assert_eq!(picked(&beta, headers, &OPEN), Some(expected), "{headers:?}");
    }
}

#[test]
fn each_part_of_a_condition_must_hold() {
    let strict = fallback(&[
        r#""when": {"methods": ["GET"], "headers": [{"name": "x-a", "value": "1"}], "accept": ["text/html"]}, "on": ["circuit_open"]"#,
    ]);
    let all = [GET, ("x-a", "1"), HTML];
    assert_eq!(picked(&strict, &all, &OPEN), Some(0));
    assert_eq!(picked(&strict, &all, &Cause::refusal(Reason::BulkheadFull, None)), None);
    for missing in 0..all.len() {
        let mut headers = all.to_vec();
        headers.remove(missing);
        // Who does not say what it accepts takes anything.
        let expected = (missing == 2).then_some(0);
        assert_eq!(picked(&strict, &headers, &OPEN), expected, "{headers:?}");
    }
    assert_eq!(picked(&strict, &[GET, ("x-a", "1"), JSON], &OPEN), None);
}

#[test]
fn a_page_is_for_browsers_and_not_for_everybody() {
    let page = r#""when": {"accept": ["text/html"]}"#;
    let both = fallback(&[page, ""]);
    for (accept, expected) in [(HTML, 0), (("accept", "text/*"), 0), (ANY, 1), (JSON, 1), (GET, 1)] {
        assert_eq!(picked(&both, &[accept], &OPEN), Some(expected), "{accept:?}");
    }
    // Where nothing else applies, who takes anything gets it: the first of its kind.
    let typed = fallback(&[page, r#""when": {"accept": ["application/json", "application/hal+json"]}"#]);
    for (accept, expected) in [
        (HTML, Some(0)),
        (ANY, Some(0)),
        (GET, Some(0)),
        (JSON, Some(1)),
        (("accept", "application/hal+json, */*"), Some(1)),
        (("accept", "text/html;q=0, */*"), Some(1)),
        (("accept", "image/png"), None),
        (("accept", "*/*;q=0"), None),
    ] {
        assert_eq!(picked(&typed, &[accept], &OPEN), expected, "{accept:?}");
    }
    // The other that applies may be for another reason.
    let by_reason = fallback(&[page, r#""on": ["timeout"]"#]);
    assert_eq!(picked(&by_reason, &[ANY], &OPEN), Some(0));
    // Of several types the best counts.
    let many = fallback(&["", r#""when": {"accept": ["image/png", "text/html"]}"#]);
    assert_eq!(caller(&many, &[HTML]).meets, Entries(0b11));
}

#[test]
fn what_was_tried_has_no_second_turn() {
    let list = fallback(&["", r#""when": {"accept": ["text/html"]}"#, ""]);
    let caller = caller(&list, &[ANY]);
    let mut tried = Entries::default();
    for expected in [Some(0), Some(2), Some(1), None] {
        let found = list.pick(&OPEN, &caller, tried).map(|(place, _)| place);
        assert_eq!(found, expected);
        found.into_iter().for_each(|place| tried.insert(place));
    }
    assert_eq!(list.pick(&OPEN, &caller, Entries::ALL), None);
}

#[test]
fn of_a_stranger_no_condition_is_met() {
    let list = fallback(&[
        r#""when": {"methods": ["GET"]}"#,
        r#""when": {"accept": ["a/b"]}"#,
        r#""on": ["timeout"]"#,
        "",
    ]);
    for is_grpc in [false, true] {
        let stranger = list.stranger(is_grpc);
        assert_eq!((stranger.is_grpc, stranger.is_head, &*stranger.request_id), (is_grpc, None, ""));
        assert_eq!(list.pick(&OPEN, &stranger, Entries::default()).map(|(place, _)| place), Some(3));
        assert_eq!(stranger.meets, Entries(0b1100));
    }
}

#[test]
fn a_request_is_read_for_its_condition_or_its_id_only() {
    let body = |text: &str| parse(&format!(r#"{{"static": {{"status": 200, "text": "{text}"}}}}"#));
    assert!(!body("%POLICY% %REASON% %RETRY_AFTER%").reads_request());
    assert!(body("%REQUEST_ID%").reads_request());
    assert!(!fallback(&[r#""on": ["timeout"], "status": [500]"#]).reads_request());
    assert!(fallback(&["", r#""when": {"methods": ["GET"]}"#]).reads_request());

    let headers =
        [GET, ("x-request-id", "id-1"), ("x-request-id", "id-2"), ("content-type", "application/grpc+proto")];
    let unread = caller(&body("%POLICY%"), &headers);
    assert_eq!((&*unread.request_id, unread.is_grpc, unread.is_head), ("", true, Some(false)));
    let read = caller(&body("%REQUEST_ID%"), &headers);
    assert_eq!((&*read.request_id, read.is_grpc, read.is_head), ("id-1", true, Some(false)));
    let head =
        caller(&body("%REQUEST_ID%"), &[(":method", "HEAD"), ("content-type", "application/grpc-web")]);
    assert_eq!((&*head.request_id, head.is_grpc, head.is_head), ("", false, Some(true)));
}

#[test]
fn of_a_long_id_the_beginning_is_shown() {
    let list = parse(r#"{"static": {"status": 200, "text": "%REQUEST_ID%"}}"#);
    let id =
        |bytes: &[u8]| list.caller([(b"x-request-id".as_slice(), bytes)].into_iter()).request_id.to_string();
    assert_eq!(id(&[b'a'; 256]), "a".repeat(256));
    assert_eq!(id(&[b'a'; 257]), "a".repeat(256));
    assert_eq!(id(&[b'a'; 60_000]), "a".repeat(256));
    assert_eq!(id(b"\xffok"), "\u{FFFD}ok");
    // Cut in the middle of a letter.
    let id = id(&["a".repeat(255).as_bytes(), "é".as_bytes()].concat());
    assert_eq!(id, format!("{}\u{FFFD}", "a".repeat(255)));
}

#[test]
fn the_last_entry_has_its_turn_too() {
    let mut entries = vec![r#""on": ["reset"]"#; MAX_ENTRIES];
    entries[MAX_ENTRIES - 1] = r#""when": {"methods": ["GET"]}, "on": ["circuit_open"]"#;
    let list = fallback(&entries);
    assert_eq!(picked(&list, &[GET], &OPEN), Some(31));
    let mut tried = Entries::default();
    tried.insert(31);
    assert_eq!(list.pick(&OPEN, &caller(&list, &[GET]), tried), None);
    // There is no place behind it.
    tried.insert(32);
    assert!(!tried.contains(32) && !tried.contains(0) && !Entries::ALL.contains(MAX_ENTRIES));
    let too_many = Fallbacks::new(vec![list.entries()[0].clone(); 40]);
    assert_eq!(too_many.entries().len(), MAX_ENTRIES);
}
