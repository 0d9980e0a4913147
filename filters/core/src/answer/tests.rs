//! What a refused caller gets, header by header.

use super::*;
use crate::config::Document;
use crate::outcome::Status;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const REFUSAL: Refusal = Refusal { reason: Reason::CircuitOpen, retry_after: Some(17) };

/// Who asks.
#[derive(Default)]
struct Asker {
    grpc: bool,
    id: Vec<u8>,
}

/// What a refused caller gets.
fn refuse(policy: &Policy, expose: bool, refusal: Refusal, asker: &Asker) -> Reply {
    let Refusal { reason, retry_after } = refusal;
    get(policy, expose, Cause::refusal(reason, retry_after), asker)
}

fn timed_out(policy: &Policy, expose: bool, grpc: bool) -> Reply {
    let cause = Cause::failure(Reason::Timeout, Status::default());
    get(policy, expose, cause, &Asker { grpc, ..Asker::default() })
}

fn get(policy: &Policy, expose: bool, cause: Cause, asker: &Asker) -> Reply {
    let content_type: &[u8] = if asker.grpc { b"application/grpc" } else { b"text/plain" };
    let headers: [(&[u8], &[u8]); 2] = [(b"content-type", content_type), (b"x-request-id", &asker.id)];
    let caller = policy.fallback.caller(headers.into_iter());
    match instead(policy, expose, &cause, &caller, Entries::default()) {
        Instead::Answer(reply) => reply,
        Instead::Nothing => plain(policy, expose, &cause, &caller),
        other => panic!("not answered: {other:?}"),
    }
}

/// The policy `checkout` with these further keys.
fn policy(keys: &str) -> Policy {
    let document = format!(r#"{{"policies": [{{"name": "checkout", "match": [{{"any": true}}]{keys}}}]}}"#);
    Document::parse(document.as_bytes()).unwrap().policies.swap_remove(0)
}

fn with_static(entry: &str) -> Policy {
    policy(&format!(r#", "fallback": [{{"static": {entry}}}]"#))
}

fn answer(policy: &Policy) -> Reply {
    refuse(policy, true, REFUSAL, &Asker::default())
}

fn grpc(policy: &Policy, expose: bool) -> Reply {
    refuse(policy, expose, REFUSAL, &Asker { grpc: true, ..Asker::default() })
}

/// All values of a header.
fn header<'r>(reply: &'r Reply, name: &str) -> Vec<&'r str> {
    reply.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
}

fn names(reply: &Reply) -> Vec<&str> {
    reply.headers.iter().map(|(name, _)| name.as_str()).collect()
}

fn body(reply: &Reply) -> &str {
    std::str::from_utf8(&reply.body).unwrap()
}

#[test]
fn a_plain_refusal_is_problem_details() {
    let reply = answer(&policy(""));
    assert_eq!((reply.status, reply.grpc_status, reply.source), (503, None, Source::None));
    assert_eq!(reply.details, "resilience:checkout:circuit_open");
    let expected = [
        ("content-type", "application/problem+json"),
        ("x-envoy-ratelimited", "true"),
        ("retry-after", "17"),
        ("x-resilience", "checkout;reason=circuit_open;source=none"),
    ];
    let headers: Vec<_> = reply.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(headers, expected);
    let problem: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    let expected =
        serde_json::json!({"title": "Service Unavailable", "status": 503, "detail": "circuit_open"});
    assert_eq!(problem, expected);
}

#[test]
fn unexposed_it_tells_outsiders_nothing() {
    let reply = refuse(&policy(""), false, REFUSAL, &Asker::default());
    assert_eq!(names(&reply), ["content-type", "x-envoy-ratelimited", "retry-after"]);
    let problem: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(problem, serde_json::json!({"title": "Service Unavailable", "status": 503}));
    assert_eq!(reply.details, "resilience:checkout:circuit_open", "the access log is not an outsider");
}

#[test]
fn unexposed_a_body_with_places_keeps_the_policy_and_the_reason_to_itself() {
    let policy = with_static(r#"{"status": 503, "text": "<%POLICY%|%REASON%|%RETRY_AFTER%|%REQUEST_ID%>"}"#);
    let caller = Asker { id: b"id".to_vec(), ..Asker::default() };
    let reply = refuse(&policy, false, REFUSAL, &caller);
    assert_eq!(body(&reply), "<||17|id>");
    assert_eq!(header(&reply, "x-resilience"), [""; 0]);
}

#[test]
fn retry_after_is_the_rest_of_the_wait_rounded_up_and_at_least_one() {
    for (wait, expected) in [
        (Duration::ZERO, 1),
        (Duration::from_nanos(1), 1),
        (Duration::from_millis(999), 1),
        (Duration::from_secs(1), 1),
        (Duration::new(1, 1), 2),
        (Duration::from_millis(1999), 2),
        (Duration::from_secs(30), 30),
        (Duration::new(29, 999_999_999), 30),
        (Duration::MAX, u64::MAX),
    ] {
        assert_eq!(retry_after(wait), expected, "{wait:?}");
    }
}

#[test]
fn without_a_wait_there_is_no_retry_after() {
    let forced = Refusal { retry_after: None, ..REFUSAL };
    for policy in [policy(""), with_static(r#"{"status": 503}"#)] {
        let reply = refuse(&policy, true, forced, &Asker::default());
        assert_eq!(header(&reply, "retry-after"), [""; 0]);
    }
}

#[test]
fn a_static_answer_tells_when_to_retry_and_not_to_retry_by_its_status() {
    for (status, tells, discourages) in [
        (200, false, false),
        (202, false, false),
        (404, false, false),
        (428, false, false),
        (429, true, true),
        (430, false, false),
        (499, false, false),
        (500, false, true),
        (502, false, true),
        (503, true, true),
        (504, false, true),
        (599, false, true),
    ] {
        let reply = answer(&with_static(&format!(r#"{{"status": {status}}}"#)));
        assert_eq!((reply.status, reply.source), (status, Source::Static));
        assert_eq!(header(&reply, "retry-after") == ["17"], tells, "{status}");
        assert_eq!(header(&reply, "x-envoy-ratelimited") == ["true"], discourages, "{status}");
        assert_eq!(header(&reply, "x-resilience"), ["checkout;reason=circuit_open;source=static"]);
        assert_eq!(reply.details, "resilience:checkout:circuit_open");
    }
}

#[test]
fn a_retry_after_of_the_operator_stands() {
    let reply = answer(&with_static(r#"{"status": 503, "headers": {"Retry-After": "99"}}"#));
    assert_eq!(header(&reply, "retry-after"), ["99"]);
}

#[test]
fn discouraging_can_be_left_out() {
    for fallback in ["", r#", "fallback": [{"static": {"status": 503}}]"#] {
        let policy = policy(&format!(r#", "discourage_retries": false{fallback}"#));
        for reply in [answer(&policy), grpc(&policy, true)] {
            assert_eq!(header(&reply, "x-envoy-ratelimited"), [""; 0]);
            assert_eq!(header(&reply, "retry-after"), ["17"]);
        }
    }
}

#[test]
fn bodies_come_with_their_type_unless_the_operator_says_it() {
    for (keys, content_type, expected) in [
        ("", None, ""),
        (r#", "text": "Später.""#, Some("text/plain; charset=utf-8"), "Später."),
        (r#", "json": {"a": [1, null, 1.5, "x"]}"#, Some("application/json"), r#"{"a":[1,null,1.5,"x"]}"#),
        (r#", "json": "text""#, Some("application/json"), r#""text""#),
        (r#", "json": null"#, Some("application/json"), "null"),
        (r#", "base64": "aGk=""#, Some("application/octet-stream"), "hi"),
        (r#", "base64": """#, Some("application/octet-stream"), ""),
        (r#", "text": "a", "headers": {"Content-Type": "text/html"}"#, Some("text/html"), "a"),
        (
            r#", "json": 1, "headers": {"content-type": "application/hal+json"}"#,
            Some("application/hal+json"),
            "1",
        ),
        (r#", "headers": {"content-type": "text/css"}"#, Some("text/css"), ""),
    ] {
        let reply = answer(&with_static(&format!(r#"{{"status": 200{keys}}}"#)));
        assert_eq!(header(&reply, "content-type"), content_type.into_iter().collect::<Vec<_>>(), "{keys}");
        assert_eq!(body(&reply), expected, "{keys}");
    }
}

#[test]
fn base64_may_hold_any_bytes_and_no_places() {
    let reply = answer(&with_static(r#"{"status": 200, "base64": "AP+A"}"#));
    assert_eq!(reply.body, [0x00, 0xFF, 0x80]);
    // "%POLICY%"
    let reply = answer(&with_static(r#"{"status": 200, "base64": "JVBPTElDWSU="}"#));
    assert_eq!(body(&reply), "%POLICY%");
}

#[test]
fn headers_keep_their_order_and_lose_their_case() {
    let reply =
        answer(&with_static(r#"{"status": 200, "headers": {"X-B": "1", "x-A": "2 %POLICY%", "X-c": ""}}"#));
    let expected =
        [("x-b", "1"), ("x-a", "2 %POLICY%"), ("x-c", "")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(reply.headers[..3], expected);
}

#[test]
fn places_are_filled_in() {
    let text = "%POLICY%: %REASON%, %RETRY_AFTER% s, %REQUEST_ID%; %POLICY%%POLICY% 100% %NOPE% %POLICY";
    let caller = Asker { id: b"id-1".to_vec(), ..Asker::default() };
    let policy = with_static(&format!(r#"{{"status": 200, "text": "{text}"}}"#));
    let reply = refuse(&policy, true, REFUSAL, &caller);
    let expected = "checkout: circuit_open, 17 s, id-1; checkoutcheckout 100% %NOPE% %POLICY";
    assert_eq!(body(&reply), expected);

    let forced = Refusal { retry_after: None, ..REFUSAL };
    let reply = refuse(&with_static(r#"{"status": 200, "text": "[%RETRY_AFTER%]"}"#), true, forced, &caller);
    assert_eq!(body(&reply), "[]");
}

#[test]
fn the_request_is_read_only_where_that_makes_a_difference() {
    for policy in [policy(""), with_static(r#"{"status": 200, "text": "%POLICY%"}"#)] {
        assert!(!policy.fallback.reads_request());
    }
    assert!(with_static(r#"{"status": 200, "text": "%REQUEST_ID%"}"#).fallback.reads_request());
}

#[test]
fn what_a_client_sends_cannot_break_out_of_the_body() {
    let hostile: [(&[u8], &str, &str, &str); 5] = [
        (br#"","x":"y"#, r#"\",\"x\":\"y"#, "&quot;,&quot;x&quot;:&quot;y", r#"","x":"y"#),
        (b"<script>'&", "<script>'&", "&lt;script&gt;&#39;&amp;", "<script>'&"),
        (b"a\\\n\x01\x00", r"a\\\n\u0001\u0000", "a\\\n\x01\x00", "a\\\n\x01\x00"),
        (b"\xff\xfeok", "\u{FFFD}\u{FFFD}ok", "\u{FFFD}\u{FFFD}ok", "\u{FFFD}\u{FFFD}ok"),
        // What looks like a place is not filled in again.
        (b"%POLICY%", "%POLICY%", "%POLICY%", "%POLICY%"),
    ];
    for (id, json, markup, plain) in hostile {
        for (content_type, expected) in [
            ("application/json", json),
            ("Application/Problem+JSON ; charset=utf-8", json),
            ("text/html; charset=utf-8", markup),
            ("application/xhtml+xml", markup),
            ("text/xml", markup),
            ("image/svg+xml", markup),
            ("text/plain", plain),
            ("", plain),
        ] {
            let entry = format!(
                r#"{{"status": 200, "headers": {{"content-type": "{content_type}"}}, "text": "<\"%REQUEST_ID%\">"}}"#
            );
            let caller = Asker { id: id.to_vec(), ..Asker::default() };
            let reply = refuse(&with_static(&entry), true, REFUSAL, &caller);
            assert_eq!(body(&reply), format!("<\"{expected}\">"), "{content_type}");
        }
        // A json body stays JSON, whatever type the operator gives it, and is no markup where it is taken for that.
        let entry = r#"{"status": 200, "headers": {"content-type": "text/html"}, "json": {"%REQUEST_ID%": "a%REQUEST_ID%"}}"#;
        let caller = Asker { id: id.to_vec(), ..Asker::default() };
        let reply = refuse(&with_static(entry), true, REFUSAL, &caller);
        let parsed: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(parsed, serde_json::json!({markup: format!("a{markup}")}));
    }
}

#[test]
fn a_long_request_id_is_cut() {
    let caller = Asker { id: vec![b'"'; 60_000], ..Asker::default() };
    let reply = refuse(&with_static(r#"{"status": 200, "json": "%REQUEST_ID%"}"#), true, REFUSAL, &caller);
    assert_eq!(reply.body.len(), 2 + 2 * 256);
}

#[test]
fn grpc_gets_a_status_and_a_short_message_and_never_the_body() {
    let entry = r#"{"status": 202, "headers": {"content-type": "application/json", "x-mine": "1"}, "json": {"a": 1}}"#;
    for (policy, source, mine) in
        [(policy(""), "none", [].as_slice()), (with_static(entry), "static", &["1"])]
    {
        let reply = grpc(&policy, true);
        assert_eq!((reply.grpc_status, body(&reply)), (Some(14), "circuit_open"));
        assert_eq!(reply.status, 503, "what Envoy's gRPC-Web filter makes 14 of");
        assert_eq!(header(&reply, "content-type"), [""; 0], "Envoy writes application/grpc");
        assert_eq!(header(&reply, "x-mine"), mine);
        assert_eq!(header(&reply, "x-envoy-ratelimited"), ["true"]);
        assert_eq!(header(&reply, "x-resilience"), [format!("checkout;reason=circuit_open;source={source}")]);
        assert_eq!(reply.details, "resilience:checkout:circuit_open");

        let reply = grpc(&policy, false);
        assert_eq!((reply.grpc_status, body(&reply)), (Some(14), "unavailable"));
        assert_eq!(header(&reply, "x-resilience"), [""; 0]);
    }
    assert_eq!(header(&grpc(&policy(""), true), "retry-after"), ["17"]);
}

#[test]
fn the_first_entry_that_applies_answers() {
    let fallback = r#", "fallback": [
        {"on": ["circuit_open"], "static": {"status": 201}},
        {"static": {"status": 202}}]"#;
    assert_eq!(answer(&policy(fallback)).status, 201);
    let group = r#", "fallback": [{"on": ["refusal"], "static": {"status": 203}}]"#;
    assert_eq!(answer(&policy(group)).status, 203);
    assert_eq!(answer(&policy(r#", "fallback": []"#)).source, Source::None);
}

#[test]
fn a_forged_header_gets_an_empty_400() {
    let reply = forged();
    assert_eq!((reply.status, reply.body.len(), reply.headers.len()), (400, 0, 0));
    assert!(reply.details.starts_with("resilience:"));
}

#[test]
fn a_deadline_and_a_timeout_are_a_504_that_does_not_say_when_to_come_back() {
    let late = Refusal { reason: Reason::DeadlineExceeded, retry_after: None };
    let plain = refuse(&policy(""), true, late, &Asker::default());
    for (reply, reason) in [(plain, "deadline_exceeded"), (timed_out(&policy(""), true, false), "timeout")] {
        assert_eq!((reply.status, reply.grpc_status), (504, None));
        let expected = format!(r#"{{"title":"Gateway Timeout","status":504,"detail":"{reason}"}}"#);
        assert_eq!(body(&reply), expected);
        assert_eq!(names(&reply), ["content-type", "x-envoy-ratelimited", "x-resilience"]);
        assert_eq!(header(&reply, "x-resilience"), [format!("checkout;reason={reason};source=none")]);
        assert_eq!(reply.details, format!("resilience:checkout:{reason}"));
    }
    let grpc = refuse(&policy(""), true, late, &Asker { grpc: true, ..Asker::default() });
    for (reply, reason) in [(grpc, "deadline_exceeded"), (timed_out(&policy(""), true, true), "timeout")] {
        assert_eq!((reply.status, reply.grpc_status, body(&reply)), (504, Some(4), reason));
        assert_eq!(names(&reply), ["x-envoy-ratelimited", "x-resilience"]);
    }
    let hidden = timed_out(&policy(r#", "discourage_retries": false"#), false, false);
    assert_eq!(names(&hidden), ["content-type"]);
    assert_eq!(body(&hidden), r#"{"title":"Gateway Timeout","status":504}"#);
}
