//! Guards of every mode, and policies that only look on.

use crate::*;

#[test]
fn a_guard_may_be_of_any_mode() {
    let failing = r#""fallback": [{"static": {"status": 203, "text": "theirs"}}]"#;
    for (guard, lets_in, replaces) in [
        (format!("{BREAKER}, {failing}"), true, true),
        // It only observes.
        (failing.to_owned(), true, true),
        (format!(r#""mode": "shadow", {BREAKER}, {failing}"#), true, false),
        // It is as if it was not there.
        (format!(r#""mode": "disabled", {BREAKER}, {failing}"#), true, false),
        (
            format!(r#""circuit_breaker": {{"mode": "forced_open", "consecutive_failures": 1}}, {failing}"#),
            false,
            false,
        ),
        (
            format!(
                r#""mode": "shadow", "circuit_breaker": {{"mode": "forced_open", "consecutive_failures": 1}}, {failing}"#
            ),
            true,
            false,
        ),
    ] {
        let shop = shop(REROUTE, &[("backup", &guard)]);
        let stream = arrive(shop.vm());
        assert_eq!(enter(&stream).unwrap().is_none(), lets_in, "{guard}");
        if !lets_in {
            refused(&stream);
            continue;
        }
        arrives(&stream);
        describe(&stream, VIA_UPSTREAM, 0);
        stream.set_response_headers(headers(&[(":status", "503"), ("content-length", "6"), SERVICE_TIME]));
        stream.response_headers(false).unwrap();
        stream.response_body("broken", true).unwrap();
        stream.finish().unwrap();
        let came = stream.received();
        let (body, marks) = match replaces {
            true => ("theirs", format!("{MARK}, backup;reason=upstream_failure;source=static")),
            false => ("broken", MARK.to_owned()),
        };
        assert_eq!((came.body(), came.header("x-resilience")), (body.into(), Some(marks)), "{guard}");
    }
}

#[test]
fn a_policy_in_shadow_mode_sends_nobody_elsewhere() {
    let shop = shop_of(&format!(r#""mode": "shadow", {FORCED}, {FULL}"#), REROUTE, &[("backup", FULL)]);
    let streams = [hold(&shop, "checkout"), hold(&shop, "checkout")];
    for stream in &streams {
        assert_eq!(sent_to(stream), None);
        assert_eq!(leave(stream, End::Status(200)), None);
    }
    let shadowed = |reason: &str| {
        shop.metric(&format!("resilience_shadow_decisions_total;policy=checkout;reason={reason}"))
    };
    assert_eq!(
        (shadowed("circuit_open"), shadowed("bulkhead_full"), fallbacks(&shop, "circuit_open", "reroute")),
        (2, 1, 0)
    );
    assert_eq!((rejections(&shop, "backup", "bulkhead_full"), crowd(&shop, "backup")), (0, (0, 0)));
}

#[test]
fn a_guard_that_needs_another_policy_asks_for_it() {
    let guard = format!(r#"{BREAKER}, "when_open": ["needed"]"#);
    let shop = shop(&format!("{REROUTE}, {STATIC}"), &[("backup", &guard), ("needed", BREAKER)]);
    leave(&goes(shop.vm()), End::Status(200));
    trip(&shop, "needed");
    let stream = arrive(shop.vm());
    assert!(enter(&stream).unwrap().is_some());
    assert_eq!(refused(&stream).body, b"ours");
    assert_eq!(rejections(&shop, "backup", "dependency_open"), 1);
}

#[test]
fn who_meets_its_conditions_goes_elsewhere_and_nobody_else() {
    let entry = r#"{"when": {"methods": ["GET"], "headers": [{"name": "x-tier", "value": "gold"}]}, "on": ["circuit_open"], "reroute": {"cluster": "backup", "policy": "backup"}}"#;
    let shop = shop(entry, &[("backup", BREAKER)]);
    for (tier, expected) in
        [(&["gold"][..], true), (&["tin", "gold"], true), (&["tin"], false), (&["Gold"], false), (&[], false)]
    {
        let stream = arrive(shop.vm());
        let mut request = stream.headers(Map::RequestHeaders);
        request.extend(tier.iter().flat_map(|tier| headers(&[("x-tier", tier)])));
        stream.set_request_headers(request);
        enter(&stream).unwrap();
        assert_eq!(sent_to(&stream).is_some(), expected, "{tier:?}");
        stream.finish().unwrap();
    }
}

#[test]
fn a_grpc_call_that_goes_nowhere_is_refused_as_such() {
    let shop = shop(REROUTE, &[("backup", FULL)]);
    let held = hold(&shop, "backup");
    let stream = arrive(shop.vm());
    let mut request = stream.headers(Map::RequestHeaders);
    request.extend(headers(&[("content-type", "application/grpc+proto")]));
    stream.set_request_headers(request);
    assert_eq!(stream.request_headers(false).unwrap(), Action::Pause);
    let reply = refused(&stream);
    assert_eq!((reply.grpc_status, reply.body.as_slice()), (14, &b"circuit_open"[..]));
    held.finish().unwrap();
}
