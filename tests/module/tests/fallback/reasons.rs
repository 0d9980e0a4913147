//! What is a failure to the caller, and by which reason: Envoy's own answers are told apart by what it says of them.

use crate::*;
use resilience_module_tests::shop::End;

/// One entry for each reason, each with a status of its own.
fn by_reason() -> String {
    let all = ["upstream_failure", "connect_failure", "reset", "timeout"];
    let entries = all.iter().zip(231..).map(|(reason, status)| {
        format!(r#"{{"on": ["{reason}"], "static": {{"status": {status}, "text": "{reason}"}}}}"#)
    });
    entries.collect::<Vec<_>>().join(", ")
}

/// Envoy answers itself, as it does: with a body that it has already.
fn envoy_answers(stream: &FakeStream, details: &str, flags: u64, status: &str) -> Received {
    describe(stream, details, flags);
    let answered = [(":status", status), ("content-length", "5"), ("content-type", "text/plain")];
    plays(stream, &given(&answered, &["error"])).on()
}

const UH: u64 = 1 << 1;
const UT: u64 = 1 << 2;
const LR: u64 = 1 << 3;
const UR: u64 = 1 << 4;
const UF: u64 = 1 << 5;
const UC: u64 = 1 << 6;
const UO: u64 = 1 << 7;
const NR: u64 = 1 << 8;
const FI: u64 = 1 << 11;
const RL: u64 = 1 << 12;
const UAEX: u64 = 1 << 13;
const SI: u64 = 1 << 16;
const UMSDR: u64 = 1 << 19;
const UPE: u64 = 1 << 23;

#[test]
fn each_of_envoys_answers_has_the_reason_that_it_gives() {
    for (details, flags, status, reason, is_evidence) in [
        ("no_healthy_upstream", UH, "503", Some("connect_failure"), true),
        (
            "upstream_reset_before_response_started{connection_failure}",
            UF,
            "503",
            Some("connect_failure"),
            true,
        ),
        ("upstream_reset_before_response_started{overflow}", UO, "503", Some("connect_failure"), false),
        ("upstream_reset_before_response_started{connection_termination}", UC, "503", Some("reset"), true),
        ("upstream_reset_before_response_started{remote_reset}", UR, "503", Some("reset"), true),
        ("upstream_reset_before_response_started{local_reset}", LR, "503", Some("reset"), true),
        ("upstream_reset_before_response_started{protocol_error}", UPE, "502", Some("reset"), true),
        ("response_timeout", UT, "504", Some("timeout"), true),
        ("upstream_per_try_timeout", UT, "504", Some("timeout"), true),
        ("upstream_max_stream_duration_reached", UMSDR, "504", Some("timeout"), true),
        ("stream_idle_timeout", SI, "504", Some("timeout"), true),
        ("max_duration_timeout", 0, "504", Some("timeout"), true),
        ("request_payload_exceeded_retry_buffer_limit", 0, "507", Some("upstream_failure"), true),
        // Nobody's failure, or somebody else's.
        ("stream_idle_timeout", SI, "408", None, false),
        ("route_not_found", NR, "404", None, false),
        ("cluster_not_found", 1 << 25, "503", None, false),
        ("fault_filter_abort", FI, "503", None, false),
        ("request_rate_limited", RL, "429", None, false),
        ("ext_authz_denied", UAEX, "403", None, false),
        ("rbac_access_denied_matched_policy[none]", 0, "403", None, false),
        ("direct_response", 0, "500", None, false),
    ] {
        let shop = shop(&by_reason());
        let stream = ask(shop.vm(), "GET", &[]);
        let came = envoy_answers(&stream, details, flags, status);
        stream.finish().unwrap();
        let ours = reason.map_or(b"error".to_vec(), |reason| reason.as_bytes().to_vec());
        assert_eq!(came.body(), ours, "{details}");
        assert_eq!(came.is_well_formed("GET"), Ok(()), "{details}");
        let mark = reason.map(|reason| MARK.replace("upstream_failure", reason));
        assert_eq!(came.header("x-resilience"), mark, "{details}");
        assert_eq!(
            reason.map_or(0, |reason| fallbacks(&shop, reason, "static")),
            u64::from(reason.is_some())
        );
        // The breaker saw what it saw, whatever the caller did.
        let ignored = shop.metric("resilience_calls_total;policy=checkout;outcome=ignored;slow=false");
        let expected = (u64::from(is_evidence), u64::from(!is_evidence));
        assert_eq!((shop.metric(FAILED), ignored), expected, "{details}");
    }
}

/// An upstream's 503 is no failure to who lists others; Envoy's own answer that there was no connection is one all the same.
#[test]
fn rules_for_the_upstreams_answers_do_not_excuse_envoys() {
    for rules in [
        r#""outcome": {"failure": {"status": [500]}}"#,
        r#""outcome": {"ignore": {"status": [503]}}"#,
        r#""outcome": {"failure": {"status": [404]}, "ignore": {"status": ["5xx"]}}"#,
    ] {
        let config = with_fallback(&by_reason()).replacen("\"name\"", &format!("{rules}, \"name\""), 1);
        let shop = Shop::with(&config, 1);
        let upstreams = given(&[(":status", "503"), ("content-length", "6")], &["theirs"]);
        assert_eq!(served(&shop, "GET", &upstreams).on().body(), b"theirs", "{rules}");
        assert_eq!(shop.metric(FAILED), 0, "{rules}");
        let stream = ask(shop.vm(), "GET", &[]);
        assert_eq!(
            envoy_answers(&stream, "no_healthy_upstream", UH, "503").body(),
            b"connect_failure",
            "{rules}"
        );
        stream.finish().unwrap();
        assert_eq!((shop.metric(FAILED), fallbacks(&shop, "connect_failure", "static")), (1, 1), "{rules}");
    }
}

/// The connection manager's `local_reply_config` may have made a 200 of it.
#[test]
fn one_that_looks_like_a_success_is_the_failure_that_envoy_says_it_is() {
    let shop = shop(&by_reason());
    let stream = ask(shop.vm(), "GET", &[]);
    assert_eq!(envoy_answers(&stream, "no_healthy_upstream", UH, "200").body(), b"connect_failure");
    stream.finish().unwrap();
    assert_eq!((shop.metric(FAILED), fallbacks(&shop, "connect_failure", "static")), (1, 1));
}

#[test]
fn a_failure_of_the_operators_own_is_replaced_and_what_they_ignore_is_not() {
    let rules = r#""outcome": {"failure": {"status": [404, "5xx"], "headers": [{"name": "x-degraded", "value": "true"}]},
        "ignore": {"headers": [{"name": "x-synthetic", "value": "1"}]}}"#;
    for (answered, replaced) in [
        (vec![(":status", "404")], true),
        (vec![(":status", "200"), ("x-degraded", "true")], true),
        (vec![(":status", "200"), ("x-degraded", "no")], false),
        (vec![(":status", "404"), ("x-synthetic", "1")], false),
        (vec![(":status", "500"), ("x-degraded", "true"), ("x-synthetic", "1")], false),
        (vec![(":status", "403")], false),
        (vec![(":status", "200")], false),
    ] {
        let config = with_fallback(OURS).replacen("\"name\"", &format!("{rules}, \"name\""), 1);
        let shop = Shop::with(&config, 1);
        let answered = [&answered[..], &[("content-length", "6")]].concat();
        let came = served(&shop, "GET", &given(&answered, &["theirs", ""])).on();
        let expected = if replaced { "ours" } else { "theirs" };
        assert_eq!(came.body(), expected.as_bytes(), "{answered:?}");
        assert_eq!(came.header("x-resilience").is_some(), replaced, "{answered:?}");
        assert_eq!(fallbacks(&shop, "upstream_failure", "static"), u64::from(replaced), "{answered:?}");
    }
}

#[test]
fn the_first_entry_for_the_status_that_failed_answers() {
    let entries = r#"{"status": [502], "static": {"status": 201}}, {"grpc_status": ["INTERNAL"], "static": {"status": 202}},
        {"status": ["5xx"], "on": ["timeout", "upstream_failure"], "static": {"status": 203}}"#;
    for (status, expected) in [("502", "201"), ("500", "203"), ("599", "203")] {
        let came = served(&shop(entries), "GET", &given(&[(":status", status)], &["theirs"])).on();
        assert_eq!(came.header(":status").as_deref(), Some(expected));
    }
    let shop = shop(entries);
    let stream = ask(shop.vm(), "GET", &[]);
    assert_eq!(
        envoy_answers(&stream, "no_healthy_upstream", UH, "503").body(),
        b"error",
        "not for this reason"
    );
    stream.finish().unwrap();
}

/// What breaks off in the middle is seen to break off.
#[test]
fn an_answer_that_has_begun_well_is_never_touched() {
    let shop = shop(&by_reason());
    for end in
        [End::ResetInBody, End::Status(200), End::Status(404), End::Grpc(0), End::Grpc(14), End::ClientLeft]
    {
        let stream = ask(shop.vm(), "GET", &[]);
        answer(&stream, end).unwrap();
        assert_eq!(stream.response_body("piece", false).unwrap(), Action::Continue);
        stream.finish().unwrap();
        assert_eq!(stream.received().body(), b"piece");
        assert!(stream.mutations().is_empty());
    }
    assert!(shop.host.metrics().keys().all(|name| !name.contains("fallbacks")));
}
