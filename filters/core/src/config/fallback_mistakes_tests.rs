//! What a mistake in a fallback looks like to the operator who made it.

use super::tests::{each, errors};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// The one message of a policy with these entries; the place is told within them.
fn refused(entries: &str, message: &str) {
    each(&[(&format!(r#""fallback": [{entries}]"#), &format!("fallback{message}"))]);
}

/// The one message of an entry with a fixed answer and these further keys.
fn beside_static(keys: &str, message: &str) {
    refused(&format!(r#"{{{keys}, "static": {{"status": 200}}}}"#), &format!("[0]{message}"));
}

#[test]
fn mistakes_in_a_fixed_answer() {
    let header = "fallback[0].static.headers";
    let reserved = "a header that Envoy or this filter writes, expected another";
    each(&[
        (r#""fallback": {}"#, "fallback: found {}, expected a list of fallbacks"),
        (
            r#""fallback": [{"static": {"status": 200, "text": "a", "json": 1}}]"#,
            r#"fallback[0].static.json: a second body, expected one of "text", "json", "base64""#,
        ),
        (
            r#""fallback": [{"static": {"status": 200, "base64": "a"}}]"#,
            r#"fallback[0].static.base64: found "a", expected base64 such as "aGk=" (RFC 4648, padded)"#,
        ),
        (
            r#""fallback": [{"static": {}}]"#,
            r#"fallback[0].static: missing key "status", expected an HTTP status from 200 to 599"#,
        ),
        (
            r#""fallback": [{"static": {"status": 200, "headers": {"a": 1}}}]"#,
            &format!("{header}.a: found 1, expected a header value"),
        ),
        (
            r#""fallback": [{"static": {"status": 200, "headers": {"a b": "1"}}}]"#,
            &format!(r#"{header}["a b"]: found no header name, expected a token (RFC 9110)"#),
        ),
        (
            r#""fallback": [{"static": {"status": 200, "headers": {":status": "1"}}}]"#,
            &format!(r#"{header}[":status"]: found no header name, expected a token (RFC 9110)"#),
        ),
        (
            r#""fallback": [{"static": {"status": 200, "headers": {"a": "1\r\nb: 2"}}}]"#,
            &format!(r#"{header}.a: found "1\r\nb: 2", expected a header value without control characters"#),
        ),
        (
            r#""fallback": [{"static": {"status": 200, "headers": {"X-Resilience": "1"}}}]"#,
            &format!("{header}.X-Resilience: {reserved}"),
        ),
        (
            r#""fallback": [{"static": {"status": 200, "headers": {"content-length": "1"}}}]"#,
            &format!("{header}.content-length: {reserved}"),
        ),
    ]);
}

#[test]
fn an_entry_answers_in_exactly_one_way() {
    let ways = r#""static", "reroute", "fail""#;
    refused("{}", &format!("[0]: found {{}}, expected exactly one of {ways}"));
    refused(
        r#"{"on": ["timeout"]}"#,
        &format!(r#"[0]: found {{"on":["timeout"]}}, expected exactly one of {ways}"#),
    );
    refused("5", "[0]: found 5, expected an object");
    // One that is misspelt is told as that, and not missed as well.
    refused(r#"{"statik": {"status": 200}}"#, r#"[0].statik: unknown key; did you mean "static"?"#);
    let second = format!("a second way to answer, expected only one of {ways}");
    let (fixed, reroute, fail) = (
        r#""static": {"status": 200}"#,
        r#""reroute": {"cluster": "b", "policy": "q"}"#,
        r#""fail": {"status": 500}"#,
    );
    refused(&format!("{{{fail}, {fixed}}}"), &format!("[0].fail: {second}"));
    let document = |entry: &str| {
        format!(
            r#"{{"policies": [{{"name": "p", "match": [{{"any": true}}], "fallback": [{{{entry}}}]}},
                {{"name": "q", "match": [{{"any": true}}]}}]}}"#
        )
    };
    let place = "policies[0].fallback[0]";
    assert_eq!(errors(&document(&format!("{fixed}, {reroute}"))), [format!("{place}.reroute: {second}")]);
    assert_eq!(errors(&document(&format!("{fail}, {reroute}"))), [format!("{place}.fail: {second}")]);
    // What is wrong within them is told all the same.
    let both = r#""static": {"status": 100}, "fail": {"status": 399}"#;
    let expected = [
        format!("{place}.static.status: found 100, expected a whole number from 200 to 599"),
        format!("{place}.fail: {second}"),
        format!("{place}.fail.status: found 399, expected a whole number from 400 to 599"),
    ];
    assert_eq!(errors(&document(both)), expected);
}

#[test]
fn reasons_are_words_and_not_none() {
    beside_static(r#""on": []"#, ".on: found [], expected a list of reasons");
    beside_static(r#""on": "timeout""#, r#".on: found "timeout", expected a list of reasons"#);
    let words = r#"expected one of "refusal", "failure", "circuit_open", "bulkhead_full", "dependency_open", "deadline_exceeded", "upstream_failure", "connect_failure", "reset", "timeout""#;
    for word in ["\"timeouts\"", "\"Timeout\"", "\"all\"", "\"\"", "5", "null"] {
        beside_static(&format!(r#""on": ["reset", {word}]"#), &format!(".on[1]: found {word}, {words}"));
    }
}

#[test]
fn a_status_belongs_to_a_failed_answer() {
    for (key, list, expected) in [
        ("status", "[]", r#"a list of statuses such as [429, "5xx"]"#),
        ("status", "503", r#"a list of statuses such as [429, "5xx"]"#),
        ("grpc_status", "[]", r#"a list of gRPC statuses such as ["UNAVAILABLE"]"#),
    ] {
        beside_static(&format!(r#""{key}": {list}"#), &format!(".{key}: found {list}, expected {expected}"));
    }
    beside_static(
        r#""status": [503, 99]"#,
        r#".status[1]: found 99, expected a status from 100 to 599, or a class from "1xx" to "5xx""#,
    );
    for (on, keys) in [
        (r#"["refusal"]"#, r#""status": [503]"#),
        (r#"["circuit_open","bulkhead_full"]"#, r#""grpc_status": ["INTERNAL"]"#),
        (r#"["dependency_open"]"#, r#""status": [503], "grpc_status": ["INTERNAL"]"#),
    ] {
        let message = format!(
            r#".on: found {on}, expected a failure among them: a refused request has no answer, so no "status" or "grpc_status""#
        );
        beside_static(&format!(r#""on": {on}, {keys}"#), &message);
    }
}

#[test]
fn a_condition_names_what_a_request_must_have() {
    beside_static(r#""when": []"#, ".when: found [], expected an object");
    beside_static(
        r#""when": {}"#,
        r#".when: found {}, expected at least one of "methods", "headers", "accept""#,
    );
    beside_static(r#""when": {"method": ["GET"]}"#, r#".when.method: unknown key; did you mean "methods"?"#);
    for (key, value, expected) in [
        ("methods", "[]", "a list of HTTP methods"),
        ("methods", r#""GET""#, "a list of HTTP methods"),
        ("headers", "[]", r#"a list of headers such as [{"name": "x-degraded", "value": "true"}]"#),
        ("headers", r#"{"a":"b"}"#, r#"a list of headers such as [{"name": "x-degraded", "value": "true"}]"#),
        ("accept", "[]", r#"a list of media types such as ["text/html"]"#),
        ("accept", r#""text/html""#, r#"a list of media types such as ["text/html"]"#),
    ] {
        let message = format!(".when.{key}: found {value}, expected {expected}");
        beside_static(&format!(r#""when": {{"{key}": {value}}}"#), &message);
    }
    beside_static(
        r#""when": {"methods": ["GET", "get"]}"#,
        r#".when.methods[1]: found "get", expected an HTTP method such as "GET""#,
    );
    beside_static(
        r#""when": {"headers": [{"name": "a b", "value": "1"}]}"#,
        r#".when.headers[0].name: found "a b", expected the name of a header such as "x-degraded" (a token, RFC 9110)"#,
    );
    for media in [
        "text",
        "text/",
        "/html",
        "*/*",
        "text/*",
        "text/html; q=1",
        "text/html, a/b",
        " text/html",
        "é/é",
        "",
    ] {
        let message = format!(
            r#".when.accept[0]: found "{media}", expected a media type such as "text/html", without wildcards and parameters"#
        );
        beside_static(&format!(r#""when": {{"accept": ["{media}"]}}"#), &message);
    }
    beside_static(
        r#""when": {"accept": [1]}"#,
        r#".when.accept[0]: found 1, expected a media type such as "text/html""#,
    );
}

#[test]
fn a_fixed_answer_has_no_body_where_its_status_has_none() {
    for status in [204, 205, 304] {
        for (kind, value) in [("text", r#""""#), ("json", "null"), ("base64", r#""aGk=""#)] {
            refused(
                &format!(r#"{{"static": {{"status": {status}, "{kind}": {value}}}}}"#),
                &format!("[0].static.{kind}: a body, expected none with the status {status}"),
            );
        }
    }
}

#[test]
fn a_loud_failure_has_the_status_of_one() {
    let fail = |keys: &str, message: &str| {
        refused(&format!(r#"{{"fail": {{{keys}}}}}"#), &format!("[0].fail{message}"))
    };
    refused(r#"{"fail": 503}"#, "[0].fail: found 503, expected an object");
    fail("", r#": missing key "status", expected an HTTP status from 400 to 599"#);
    for status in ["399", "600", "\"5xx\"", "null"] {
        fail(
            &format!(r#""status": {status}"#),
            &format!(".status: found {status}, expected a whole number from 400 to 599"),
        );
    }
    fail(
        r#""status": 503, "retry": "5s""#,
        r#".retry: unknown key, expected one of "status", "retry_after""#,
    );
    fail(r#""status": 503, "retryafter": "5s""#, r#".retryafter: unknown key; did you mean "retry_after"?"#);
    fail(r#""status": 503, "retry_after": 5"#, r#".retry_after: found 5, expected a duration such as "30s""#);
    for wait in ["0s", "999ms", "24h1ns", "25h"] {
        fail(
            &format!(r#""status": 503, "retry_after": "{wait}""#),
            &format!(r#".retry_after: found "{wait}", expected a duration from "1s" to "24h""#),
        );
    }
}

#[test]
fn a_reroute_leads_to_a_cluster_that_a_policy_guards() {
    let reroute = |keys: &str, message: &str| {
        refused(&format!(r#"{{"reroute": {{{keys}}}}}"#), &format!("[0].reroute{message}"))
    };
    let expected = "the name of a cluster, of 1 to 255 visible ASCII letters";
    refused(r#"{"reroute": "b"}"#, r#"[0].reroute: found "b", expected an object"#);
    reroute(r#""cluster": "b""#, r#": missing key "policy", expected the name of the policy that guards it"#);
    reroute(
        r#""cluster": "b", "policy": 1"#,
        ".policy: found 1, expected the name of the policy that guards it",
    );
    let document = |cluster: &str| {
        format!(
            r#"{{"policies": [{{"name": "p", "match": [{{"any": true}}],
                "fallback": [{{"reroute": {{{cluster}"policy": "q"}}}}]}}, {{"name": "q", "match": [{{"any": true}}]}}]}}"#
        )
    };
    let place = "policies[0].fallback[0].reroute";
    assert_eq!(errors(&document("")), [format!(r#"{place}: missing key "cluster", expected {expected}"#)]);
    let long = "c".repeat(256);
    for (cluster, shown) in [
        ("", r#""""#.to_owned()),
        ("a b", r#""a b""#.to_owned()),
        ("é", r#""é""#.to_owned()),
        (r"a\nb", r#""a\nb""#.to_owned()),
        (&long, format!("\"{}...", "c".repeat(79))),
    ] {
        let message = format!("{place}.cluster: found {shown}, expected {expected}");
        assert_eq!(errors(&document(&format!(r#""cluster": "{cluster}", "#))), [message]);
    }
    assert!(
        super::Document::parse(document(&format!(r#""cluster": "{}", "#, "c".repeat(255))).as_bytes())
            .is_ok()
    );
}

#[test]
fn what_was_sent_is_not_sent_elsewhere() {
    let document = |keys: &str| {
        format!(
            r#"{{"policies": [{{"name": "p", "match": [{{"any": true}}],
                "fallback": [{{{keys}"reroute": {{"cluster": "b", "policy": "q"}}}}]}},
                {{"name": "q", "match": [{{"any": true}}]}}]}}"#
        )
    };
    let late = r#"exists only after the request was sent, and "reroute" takes what was not"#;
    let words = r#"expected one of "refusal", "circuit_open", "bulkhead_full", "dependency_open", "deadline_exceeded""#;
    for word in ["failure", "upstream_failure", "connect_failure", "reset", "timeout"] {
        let message = format!(r#"policies[0].fallback[0].on[1]: found "{word}", which {late}, {words}"#);
        assert_eq!(errors(&document(&format!(r#""on": ["refusal", "{word}"], "#))), [message]);
    }
    let messages =
        errors(&document(r#""on": ["failure", "timeout"], "status": ["5xx"], "grpc_status": ["UNKNOWN"], "#));
    let expected = [
        format!(r#"policies[0].fallback[0].on[0]: found "failure", which {late}, {words}"#),
        format!(r#"policies[0].fallback[0].on[1]: found "timeout", which {late}, {words}"#),
        format!(
            "policies[0].fallback[0].status: the status of an answer {late}, expected no such key beside it"
        ),
        format!(
            "policies[0].fallback[0].grpc_status: the status of an answer {late}, expected no such key beside it"
        ),
    ];
    assert_eq!(messages, expected);
    // It is told even if the reasons are refusals, which would be another mistake without the reroute.
    let messages = errors(&document(r#""on": ["refusal"], "status": [503], "#));
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert!(
        super::Document::parse(document(r#""on": ["circuit_open", "deadline_exceeded"], "#).as_bytes())
            .is_ok()
    );
}
