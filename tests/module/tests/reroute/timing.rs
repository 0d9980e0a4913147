//! The time that a request has where it is sent to, and what the guard writes.

use crate::*;
use resilience_module_tests::shop::ROOT;

fn timeout(stream: &FakeStream) -> Option<String> {
    stream.header(Map::RequestHeaders, "x-envoy-upstream-rq-timeout-ms")
}

#[test]
fn the_time_it_has_already_shortens_what_the_guard_gives_it() {
    let total = |total: &str| format!(r#", "timeout": {{"total": "{total}"}}"#);
    for (own, guard, expected) in [
        (total("1s"), total("5s"), Some("1000")),
        (total("5s"), total("1s"), Some("1000")),
        (String::new(), total("5s"), Some("5000")),
        (r#", "timeout": {"total": "1s", "mode": "shadow"}"#.to_owned(), total("5s"), Some("5000")),
        // Also where the guard itself bounds no time.
        (total("1s"), String::new(), Some("1000")),
        (String::new(), String::new(), None),
    ] {
        let shop = shop_of(&format!("{FORCED}{own}"), REROUTE, &[("backup", &format!("{BREAKER}{guard}"))]);
        let stream = goes(shop.vm());
        assert_eq!(timeout(&stream).as_deref(), expected, "{own} {guard}");
        assert_eq!(leave(&stream, End::Status(200)).as_deref(), Some(MARK));
    }
}

#[test]
fn what_is_left_after_a_wait_is_what_it_has() {
    let own = format!(r#"{}, "timeout": {{"total": "1s"}}"#, PATIENT.replace("10s", "400ms"));
    let guard = format!(r#"{PATIENT}, "timeout": {{"total": "5s"}}"#);
    let shop = shop_of(&own, &format!("{REROUTE}, {STATIC}"), &[("backup", &guard)]);
    let holder = hold(&shop, "checkout");
    let waits = || {
        let stream = arrive(shop.vm());
        assert_eq!(stream.request_headers(true).unwrap(), Action::Pause);
        stream
    };
    let [goes_on, late] = [waits(), waits()];
    shop.host.advance(Duration::from_millis(400));
    shop.vm().tick(ROOT).unwrap();
    assert_eq!((sent_to(&goes_on).as_deref(), timeout(&goes_on).as_deref()), (Some("backup"), Some("600")));
    // The other waits there, for as long as it has still.
    assert_eq!(crowd(&shop, "backup"), (1, 1));
    shop.host.advance(Duration::from_millis(600));
    shop.vm().tick(ROOT).unwrap();
    let reply = refused(&late);
    assert_eq!(reply.header("x-resilience").unwrap(), "checkout;reason=bulkhead_full;source=static");
    assert_eq!(rejections(&shop, "backup", "deadline_exceeded"), 1, "the guard's own reason is another");
    leave(arrives(&goes_on), End::Status(200));
    holder.finish().unwrap();
    assert_eq!((crowd(&shop, "checkout"), crowd(&shop, "backup")), ((0, 0), (0, 0)));
}

/// Who cannot be served in time may be served later: by a queue's ingress for one, which has time of its own.
#[test]
fn one_that_was_too_late_has_the_guards_own_time() {
    let guard = r#""timeout": {"total": "5s"}"#;
    let config = document(
        r#""timeout": {"total": "1s", "deadline_header": "x-patience"}"#,
        REROUTE,
        &[("backup", guard)],
    );
    let shop =
        Shop::with(&config.replacen("\"namespace\"", "\"trust_caller_headers\": true, \"namespace\"", 1), 1);
    let stream = arrive(shop.vm());
    let mut request = stream.headers(Map::RequestHeaders);
    request.extend(headers(&[("x-patience", "1")]));
    stream.set_request_headers(request);
    assert_eq!(enter(&stream).unwrap(), None);
    assert_eq!((sent_to(&stream).as_deref(), timeout(&stream).as_deref()), (Some("backup"), Some("5000")));
    assert_eq!(
        leave(arrives(&stream), End::Status(200)),
        Some(MARK.replace("circuit_open", "deadline_exceeded"))
    );
}

#[test]
fn the_guard_is_in_charge_of_its_retries() {
    let guard = format!(r#"{BREAKER}, "retry": {{"max_retries": 2, "retry_on": ["5xx"]}}"#);
    let shop = shop_of(
        r#""circuit_breaker": {"mode": "forced_open", "consecutive_failures": 3}, "retry": {"max_retries": 7}"#,
        REROUTE,
        &[("backup", &guard)],
    );
    let stream = goes(shop.vm());
    assert_eq!(stream.header(Map::RequestHeaders, "x-envoy-max-retries").as_deref(), Some("2"));
    stream.set_property(b"upstream\0request_attempt_count", 2_u64.to_le_bytes());
    leave(&stream, End::Status(200));
    let granted =
        |policy: &str| shop.metric(&format!("resilience_retries_total;policy={policy};decision=granted"));
    assert_eq!((granted("backup"), granted("checkout")), (1, 0));
}

/// An upload that does not end is answered by the guard's fallback, and says which way it went.
#[test]
fn our_own_timeout_of_one_that_went_elsewhere_is_the_guards() {
    for (fallback, source, status) in [
        ("", "none", 504),
        (r#", "fallback": [{"on": ["timeout"], "static": {"status": 202}}]"#, "static", 202),
    ] {
        let shop =
            shop(REROUTE, &[("backup", &format!(r#"{BREAKER}, "timeout": {{"total": "300ms"}}{fallback}"#))]);
        let stream = arrive(shop.vm());
        assert_eq!(stream.request_headers(false).unwrap(), Action::Continue);
        arrives(&stream);
        shop.host.advance(Duration::from_millis(300));
        shop.vm().tick(ROOT).unwrap();
        let reply = stream.local_response().expect("its time is over");
        assert_eq!(reply.status, status);
        assert_eq!(
            reply.header("x-resilience"),
            Some(format!("{MARK}, backup;reason=timeout;source={source}"))
        );
        assert_eq!(reply.details, b"resilience:backup:timeout");
        stream.deliver_local_response().unwrap();
        stream.finish().unwrap();
        assert_eq!((calls(&shop, "backup"), calls(&shop, "checkout")), ([0, 0, 1], [0, 0, 0]));
    }
}

/// A wait is part of what a request takes, wherever it was.
#[test]
fn the_guards_time_runs_from_when_the_request_came() {
    let own = PATIENT.replace("10s", "400ms");
    let shop = shop_of(&own, REROUTE, &[("backup", r#""timeout": {"total": "1s"}"#)]);
    let holder = hold(&shop, "checkout");
    let waiter = arrive(shop.vm());
    assert_eq!(waiter.request_headers(true).unwrap(), Action::Pause);
    shop.host.advance(Duration::from_millis(400));
    shop.vm().tick(ROOT).unwrap();
    assert_eq!(timeout(&waiter).as_deref(), Some("600"));
    leave(arrives(&waiter), End::Status(200));
    holder.finish().unwrap();
}

/// A deadline is passed on to whom the request is sent.
#[test]
fn a_deadline_that_it_brings_along_is_passed_on() {
    let own = format!(r#"{FORCED}, "timeout": {{"total": "1s"}}"#);
    let config = document(&own, REROUTE, &[("backup", BREAKER)]);
    let shop =
        Shop::with(&config.replacen("\"namespace\"", "\"trust_caller_headers\": true, \"namespace\"", 1), 1);
    let stream = arrive(shop.vm());
    let mut request = stream.headers(Map::RequestHeaders);
    request.extend(headers(&[("grpc-timeout", "9S")]));
    stream.set_request_headers(request);
    assert_eq!(enter(&stream).unwrap(), None);
    assert_eq!(timeout(&stream).as_deref(), Some("1000"));
    assert_eq!(stream.header(Map::RequestHeaders, "grpc-timeout").as_deref(), Some("1000m"));
    leave(arrives(&stream), End::Status(200));
}

/// A guard in shadow mode answers nobody, nor does one for what never got to it: the caller's own policy does.
#[test]
fn our_own_timeout_is_that_of_its_own_policy_where_the_guard_has_no_say() {
    const SHADOWED: &str = "resilience_shadow_decisions_total;policy=backup;reason=timeout";
    let own = format!(r#"{FORCED}, "timeout": {{"total": "300ms"}}"#);
    let page = r#""fallback": [{"static": {"status": 202}}]"#;
    for (guard, cluster, mark, shadowed) in [
        (format!(r#""mode": "shadow", {BREAKER}, {page}"#), "backup", format!("{MARK}, checkout"), 1),
        (format!(r#""mode": "shadow", {BREAKER}"#), "backup", format!("{MARK}, checkout"), 0),
        (format!("{BREAKER}, {page}"), "payments", "checkout".to_owned(), 0),
    ] {
        let shop = shop_of(&own, REROUTE, &[("backup", &guard)]);
        let stream = arrive(shop.vm());
        assert_eq!(stream.request_headers(false).unwrap(), Action::Continue);
        stream.set_property(b"xds\0cluster_name", cluster);
        shop.host.advance(Duration::from_millis(300));
        shop.vm().tick(ROOT).unwrap();
        let reply = stream.local_response().expect("its time is over");
        assert_eq!(reply.status, 504);
        assert_eq!(reply.header("x-resilience"), Some(format!("{mark};reason=timeout;source=none")));
        assert_eq!(reply.details, b"resilience:checkout:timeout");
        stream.deliver_local_response().unwrap();
        stream.finish().unwrap();
        assert_eq!(shop.metric(SHADOWED), shadowed, "{guard}");
    }
}
