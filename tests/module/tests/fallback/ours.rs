//! Answers that are ours already, and those that are only looked at.

use crate::*;
use resilience_module_tests::shop::{CONFIG, End, FAILURES, ROOT, WAIT, serve};
use std::time::Duration;

const LONG: [(&str, &str); 2] = [(":status", "503"), ("content-length", "6")];

const SHADOWED: &str = "resilience_shadow_decisions_total;policy=checkout;reason=upstream_failure";

fn all_fallbacks(shop: &Shop) -> u64 {
    shop.host
        .metrics()
        .iter()
        .filter(|(name, _)| name.contains("fallbacks"))
        .map(|(_, (_, value))| value)
        .sum()
}

/// Envoy has our own replies come through our own callbacks, with whatever status they have.
#[test]
fn a_reply_of_ours_is_never_replaced() {
    for (entries, status, source) in [
        (r#"{"on": ["failure"], "static": {"status": 200, "text": "ours"}}"#, 503, "none"),
        (r#"{"static": {"status": 500, "text": "ours"}}"#, 500, "static"),
        (r#"{"fail": {"status": 502}}"#, 502, "fail"),
    ] {
        let shop = Shop::with(&policy_and(&format!(r#""fallback": [{entries}]"#)), 1);
        shop.trip_by(|| drop(served(&shop, "GET", &given(&[(":status", "500")], &["broken"]))));
        let before = all_fallbacks(&shop);
        let reply = serve(shop.vm(), End::Status(200)).unwrap().expect("open");
        assert_eq!(reply.status, status);
        assert_eq!(
            reply.header("x-resilience"),
            Some(format!("checkout;reason=circuit_open;source={source}"))
        );
        assert_eq!(all_fallbacks(&shop) - before, u64::from(source != "none"), "{entries}");
        assert_eq!(shop.metric(FAILED), FAILURES as u64, "{entries}");
    }
    // Nor one that says of a request that its sender may not say it.
    let shop = shop(r#"{"static": {"status": 200}}"#);
    let stream = arrive(shop.vm());
    stream.set_request_headers(asking("GET", &[("x-resilience-reroute", "a")]));
    assert_eq!(enter(&stream).unwrap().expect("forged").status, 400);
    stream.deliver_local_response().unwrap();
    stream.finish().unwrap();
    assert_eq!(all_fallbacks(&shop), 0);
}

/// The breaker saw a failure, the caller saw a fallback.
#[test]
fn answers_that_are_replaced_open_a_breaker_and_a_probe_whose_answer_is_replaced_opens_it_again() {
    let shop = Shop::with(&policy_and(&format!(r#""fallback": [{OURS}]"#)), 1);
    let fails = || served(&shop, "GET", &given(&LONG, &["broken"])).on();
    (0..FAILURES).for_each(|_| assert_eq!(fails().body(), b"ours"));
    let reply = serve(shop.vm(), End::Status(200)).unwrap().expect("open");
    assert_eq!((reply.status, reply.body.as_slice()), (200, &b"ours"[..]));
    assert_eq!(reply.header("x-resilience").unwrap(), "checkout;reason=circuit_open;source=static");
    shop.host.advance(WAIT + WAIT);
    assert_eq!(fails().body(), b"ours", "a probe");
    assert!(serve(shop.vm(), End::Status(200)).unwrap().is_some(), "open again");
    assert_eq!((fallbacks(&shop, "upstream_failure", "static"), shop.metric(FAILED)), (4, 4));
    assert_eq!(fallbacks(&shop, "circuit_open", "static"), 2);
}

#[test]
fn a_policy_in_shadow_mode_replaces_nothing_and_counts_what_it_would_have() {
    let config = with_fallback(OURS).replacen("\"name\"", "\"mode\": \"shadow\", \"name\"", 1);
    let shop = Shop::with(&config, 1);
    let answered =
        [(":status", "503"), ("content-length", "6"), ("set-cookie", "a=b"), ("x-resilience", "far")];
    for (pieces, count) in [(&["broken"][..], 1), (&[], 2)] {
        let stream = ask(shop.vm(), "GET", &[]);
        let came = answers(&stream, &given(&answered, pieces)).on();
        assert_eq!(values(&came.headers.clone().unwrap(), "x-resilience"), ["far"]);
        assert_eq!(
            (came.header("set-cookie").as_deref(), came.body()),
            (Some("a=b"), pieces.concat().into_bytes())
        );
        assert!(stream.mutations().is_empty());
        stream.finish().unwrap();
        assert_eq!((shop.metric(SHADOWED), shop.metric(FAILED), all_fallbacks(&shop)), (count, count, 0));
    }
    // What no entry would have answered, and what is no failure, is not counted.
    served(&shop, "GET", &given(&[(":status", "200")], &["fine"]));
    let config = config.replace(OURS, r#"{"status": [500], "static": {"status": 200}}"#);
    let other = Shop::with(&config, 1);
    served(&other, "GET", &given(&LONG, &["broken"]));
    assert_eq!((shop.metric(SHADOWED), other.metric(SHADOWED)), (2, 0));
}

/// A breaker alone in shadow mode is no reason to leave its policy's callers with a failure.
#[test]
fn only_the_mode_of_the_policy_keeps_its_fallback_quiet() {
    for mode in ["shadow", "disabled"] {
        let config = with_fallback(OURS).replacen(
            "\"circuit_breaker\": {",
            &format!("\"circuit_breaker\": {{\"mode\": \"{mode}\","),
            1,
        );
        let shop = Shop::with(&config, 1);
        assert_eq!(served(&shop, "GET", &given(&LONG, &["broken"])).on().body(), b"ours");
        assert_eq!((shop.metric(SHADOWED), fallbacks(&shop, "upstream_failure", "static")), (0, 1), "{mode}");
    }
    // Without any pattern it still answers.
    let breaker = CONFIG.find("\"circuit_breaker\"").map(|at| &CONFIG[at..]).unwrap();
    let shop = Shop::with(&CONFIG.replace(breaker, &format!("\"fallback\": [{OURS}]}}]}}")), 1);
    assert_eq!(served(&shop, "GET", &given(&LONG, &["broken"])).on().body(), b"ours");
    assert_eq!((shop.metric(FAILED), fallbacks(&shop, "upstream_failure", "static")), (1, 1));
}

/// An upload that does not end is ours to answer: with what its policy has for a timeout.
#[test]
fn our_own_timeout_is_answered_by_the_fallback_for_timeouts() {
    let entries = r#"{"status": [503], "static": {"status": 201}},
        {"on": ["timeout"], "status": [504], "static": {"status": 202, "text": "%REASON%"}},
        {"grpc_status": ["DEADLINE_EXCEEDED"], "fail": {"status": 500}}"#;
    let config = with_fallback(entries).replacen("\"name\"", r#""timeout": {"total": "300ms"}, "name""#, 1);
    for (content_type, source, expected) in [
        ("text/plain", "static", (202, -1, &b"timeout"[..])),
        ("application/grpc", "fail", (504, 4, b"timeout")),
    ] {
        let shop = Shop::with(&config, 1);
        let stream = arrive(shop.vm());
        stream.set_request_headers(asking("POST", &[("content-type", content_type)]));
        assert_eq!(stream.request_headers(false).unwrap(), Action::Continue);
        shop.host.advance(Duration::from_millis(300));
        shop.vm().tick(ROOT).unwrap();
        let reply = stream.local_response().expect("its time is over");
        assert_eq!((reply.status, reply.grpc_status, reply.body.as_slice()), expected);
        assert_eq!(reply.header("x-resilience"), Some(format!("checkout;reason=timeout;source={source}")));
        assert_eq!(reply.details, b"resilience:checkout:timeout");
        stream.deliver_local_response().unwrap();
        stream.finish().unwrap();
        assert_eq!((fallbacks(&shop, "timeout", source), all_fallbacks(&shop)), (1, 1));
    }
}

#[test]
fn a_timeout_that_no_entry_is_for_is_answered_plainly() {
    let entries = r#"{"on": ["refusal", "upstream_failure"], "static": {"status": 200}}"#;
    let config = with_fallback(entries).replacen("\"name\"", r#""timeout": {"total": "300ms"}, "name""#, 1);
    let shop = Shop::with(&config, 1);
    let stream = arrive(shop.vm());
    assert_eq!(stream.request_headers(false).unwrap(), Action::Continue);
    shop.host.advance(Duration::from_millis(300));
    shop.vm().tick(ROOT).unwrap();
    let reply = stream.local_response().expect("its time is over");
    assert_eq!(
        (reply.status, reply.header("x-resilience").unwrap().as_str()),
        (504, "checkout;reason=timeout;source=none")
    );
    stream.deliver_local_response().unwrap();
    stream.finish().unwrap();
    assert_eq!(all_fallbacks(&shop), 0);
}

/// To hold a request that cannot be answered would hang it.
#[test]
fn a_refusal_whose_answer_the_host_does_not_send_goes_on_and_is_nobodys_fallback() {
    let forced =
        CONFIG.replacen("\"circuit_breaker\": {", "\"circuit_breaker\": {\"mode\": \"forced_open\",", 1);
    let shop = Shop::with(&forced.replacen("\"name\"", &format!("\"fallback\": [{OURS}], \"name\""), 1), 1);
    for status in status::FAULTS {
        shop.vm().fail_kind("proxy_send_local_response", status);
        let stream = arrive(shop.vm());
        assert_eq!(stream.request_headers(true).unwrap(), Action::Continue, "{status}");
        stream.finish().unwrap();
        shop.vm().clear_faults();
        assert_eq!(all_fallbacks(&shop), 0, "{status}");
    }
    assert!(serve(shop.vm(), End::Status(200)).unwrap().is_some());
    assert_eq!(all_fallbacks(&shop), 1);
}
