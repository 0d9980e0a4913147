//! Going elsewhere: the guard is asked, the header is written, and the answer says where it comes from.

use crate::*;

#[test]
fn a_refused_request_is_the_guards_from_then_on() {
    let shop = shop(REROUTE, &[("backup", &format!("{BREAKER}, {FULL}"))]);
    let stream = goes(shop.vm());
    assert_eq!(sent_to(&stream).as_deref(), Some("backup"));
    assert_eq!(crowd(&shop, "backup"), (1, 0));
    assert_eq!(
        (rejections(&shop, "checkout", "circuit_open"), fallbacks(&shop, "circuit_open", "reroute")),
        (1, 0),
        "nobody knows yet where it goes"
    );
    assert_eq!(leave(&stream, End::Status(200)).as_deref(), Some(MARK));
    assert_eq!(fallbacks(&shop, "circuit_open", "reroute"), 1);
    assert_eq!((calls(&shop, "backup"), calls(&shop, "checkout")), ([1, 0, 0], [0, 0, 0]));
    assert_eq!(
        (crowd(&shop, "backup"), shop.metric("resilience_stale_routes_total;policy=backup")),
        ((0, 0), 0)
    );
    // What it proves is about where it went.
    (0..FAILURES).for_each(|_| drop(leave(&goes(shop.vm()), End::Status(500))));
    assert_eq!(calls(&shop, "backup"), [1, FAILURES as u64, 0]);
    let reply = run_refused(&shop);
    assert_eq!(reply.header("x-resilience").unwrap(), "checkout;reason=circuit_open;source=none");
    assert_eq!(rejections(&shop, "backup", "circuit_open"), 1, "the guard's own breaker has opened");
    let theirs = enter(&arrive_on(shop.vm(), "backup")).unwrap().expect("open");
    assert_eq!(theirs.header("x-resilience").unwrap(), "backup;reason=circuit_open;source=none");
}

/// A request that goes nowhere.
#[track_caller]
fn run_refused(shop: &Shop) -> LocalResponse {
    let stream = arrive(shop.vm());
    enter(&stream).unwrap();
    refused(&stream)
}

#[test]
fn every_refusal_may_lead_elsewhere() {
    let needs = r#""when_open": ["needed"]"#;
    let late = r#""timeout": {"total": "1s"}"#;
    for (patterns, reason) in [
        (FORCED, "circuit_open"),
        (FULL, "bulkhead_full"),
        (needs, "dependency_open"),
        (late, "deadline_exceeded"),
    ] {
        let config = document(patterns, REROUTE, &[("backup", FULL), ("needed", BREAKER)]);
        let config = config.replacen("\"namespace\"", "\"trust_caller_headers\": true, \"namespace\"", 1);
        let shop = Shop::with(&config, 1);
        trip(&shop, "needed");
        let _held = (reason == "bulkhead_full").then(|| hold(&shop, "checkout"));
        let stream = arrive(shop.vm());
        let mut request = stream.headers(Map::RequestHeaders);
        request.extend(headers(&[("x-envoy-expected-rq-timeout-ms", "0"), ("grpc-timeout", "1n")]));
        stream.set_request_headers(request);
        assert_eq!(enter(&stream).unwrap(), None, "{reason}");
        assert_eq!(sent_to(&stream).as_deref(), Some("backup"), "{reason}");
        let mark = leave(arrives(&stream), End::Status(200));
        assert_eq!(mark, Some(MARK.replace("circuit_open", reason)));
        assert_eq!((rejections(&shop, "checkout", reason), fallbacks(&shop, reason, "reroute")), (1, 1));
    }
}

#[test]
fn a_guard_that_refuses_leaves_the_request_to_the_next_entry() {
    let guards = [("backup", FULL), ("spare", BREAKER)];
    for (entries, expected) in [
        (format!("{REROUTE}, {STATIC}"), "checkout;reason=circuit_open;source=static"),
        (format!(r#"{REROUTE}, {{"fail": {{"status": 500}}}}"#), "checkout;reason=circuit_open;source=fail"),
        (REROUTE.to_owned(), "checkout;reason=circuit_open;source=none"),
        (format!("{REROUTE}, {REROUTE}, {SECOND}"), "checkout;reason=circuit_open;source=none"),
    ] {
        let shop = shop(&entries, &guards);
        trip(&shop, "spare");
        let held = hold(&shop, "backup");
        let reply = run_refused(&shop);
        assert_eq!(reply.header("x-resilience").as_deref(), Some(expected), "{entries}");
        assert_eq!(reply.details, b"resilience:checkout:circuit_open");
        let tries = entries.matches("\"backup\", ").count() as u64;
        assert_eq!(rejections(&shop, "backup", "bulkhead_full"), tries, "each is the guard's own refusal");
        assert_eq!(
            (rejections(&shop, "checkout", "circuit_open"), fallbacks(&shop, "circuit_open", "reroute")),
            (1, 0)
        );
        assert_eq!(crowd(&shop, "backup"), (1, 0));
        held.finish().unwrap();
        // It lets in again, and so the first entry applies again.
        assert_eq!(leave(&goes(shop.vm()), End::Status(200)).as_deref(), Some(MARK), "{entries}");
    }
}

#[test]
fn of_several_the_first_whose_guard_lets_in_is_taken() {
    let shop = shop(
        &format!("{STATIC_FOR_OTHERS}, {REROUTE}, {SECOND}, {STATIC}"),
        &[("backup", FULL), ("spare", FULL)],
    );
    let first = goes(shop.vm());
    let second = goes(shop.vm());
    assert_eq!([&first, &second].map(|stream| sent_to(stream).unwrap()), ["backup", "spare"]);
    assert_eq!(run_refused(&shop).body, b"ours");
    assert_eq!((crowd(&shop, "backup"), crowd(&shop, "spare")), ((1, 0), (1, 0)));
    assert_eq!(
        (rejections(&shop, "backup", "bulkhead_full"), rejections(&shop, "spare", "bulkhead_full")),
        (2, 1)
    );
    [first, second]
        .iter()
        .for_each(|stream| assert_eq!(leave(stream, End::Status(200)).as_deref(), Some(MARK)));
    assert_eq!(
        (fallbacks(&shop, "circuit_open", "reroute"), fallbacks(&shop, "circuit_open", "static")),
        (2, 1)
    );
    assert_eq!((crowd(&shop, "backup"), crowd(&shop, "spare")), ((0, 0), (0, 0)));
}

const STATIC_FOR_OTHERS: &str = r#"{"when": {"methods": ["PUT"]}, "static": {"status": 201}}"#;

/// A request that the guard refuses is not sent elsewhere by the guard in turn, and one that it lets in has its answer replaced.
#[test]
fn of_the_guards_fallback_only_what_is_for_failures_applies() {
    let guard =
        format!(r#"{BREAKER}, "fallback": [{SECOND}, {{"static": {{"status": 203, "text": "theirs"}}}}]"#);
    let shop = shop(REROUTE, &[("backup", &guard), ("spare", FULL)]);
    let stream = goes(shop.vm());
    describe(&stream, VIA_UPSTREAM, 0);
    let far = [(":status", "503"), ("content-length", "6"), ("x-resilience", "far"), SERVICE_TIME];
    stream.set_response_headers(headers(&far));
    assert_eq!(stream.response_headers(false).unwrap(), Action::Continue);
    stream.response_body("broken", true).unwrap();
    stream.finish().unwrap();
    let came = stream.received();
    assert_eq!((came.header(":status").as_deref(), came.body()), (Some("203"), b"theirs".to_vec()));
    let marks = format!("far, {MARK}, backup;reason=upstream_failure;source=static");
    assert_eq!(came.header("x-resilience"), Some(marks));
    assert_eq!((calls(&shop, "backup"), calls(&shop, "checkout")), ([0, 1, 0], [0, 0, 0]));
    let of_guard = "resilience_fallbacks_total;policy=backup;reason=upstream_failure;source=static";
    assert_eq!((shop.metric(of_guard), fallbacks(&shop, "circuit_open", "reroute")), (1, 1));
    // An answer without a body, by a reply.
    let stream = goes(shop.vm());
    describe(&stream, VIA_UPSTREAM, 0);
    stream.set_response_headers(headers(&[(":status", "503"), ("content-length", "0"), SERVICE_TIME]));
    assert_eq!(stream.response_headers(true).unwrap(), Action::Pause);
    let marks = format!("{MARK}, backup;reason=upstream_failure;source=static");
    assert_eq!(stream.local_response().unwrap().header("x-resilience"), Some(marks));
    stream.finish().unwrap();
    // Once its breaker is open it refuses, and the request has no other way.
    leave(&goes(shop.vm()), End::Status(500));
    assert_eq!(
        run_refused(&shop).header("x-resilience").unwrap(),
        "checkout;reason=circuit_open;source=none"
    );
    assert_eq!(shop.metric("resilience_fallbacks_total;policy=backup;reason=circuit_open;source=reroute"), 0);
}

#[test]
fn the_mark_of_the_way_stands_behind_what_the_answer_says() {
    for (config_expose, expected) in [(true, Some(format!("far;a=1, near, {MARK}"))), (false, None)] {
        let config = document(FORCED, REROUTE, &[("backup", "")]);
        let expose = format!("\"expose\": {config_expose}, \"namespace\"");
        let shop = Shop::with(&config.replacen("\"namespace\"", &expose, 1), 1);
        let stream = goes(shop.vm());
        describe(&stream, VIA_UPSTREAM, 0);
        stream.set_response_headers(headers(&[
            (":status", "200"),
            ("x-resilience", "far;a=1"),
            ("x-resilience", "near"),
        ]));
        stream.response_headers(true).unwrap();
        let marks: Vec<_> = stream
            .headers(Map::ResponseHeaders)
            .into_iter()
            .filter(|(name, _)| name == b"x-resilience")
            .collect();
        assert!(marks.len() <= 1, "{marks:?}");
        assert_eq!(stream.header(Map::ResponseHeaders, "x-resilience"), expected);
        stream.finish().unwrap();
    }
}

#[test]
fn one_that_does_not_come_where_it_was_sent_is_not_marked_and_no_evidence() {
    const STALE: &str = "resilience_stale_routes_total;policy=backup";
    let shop = shop(REROUTE, &[("backup", BREAKER)]);
    let warnings = || {
        shop.vm().logs().iter().filter(|line| line.message.contains("x-resilience-reroute: backup")).count()
    };
    let astray = |cluster: Option<&str>, end: End| {
        let stream = goes(shop.vm());
        match cluster {
            Some(cluster) => stream.set_property(b"xds\0cluster_name", cluster),
            None => stream.remove_property(b"xds\0cluster_name"),
        };
        assert_eq!(leave(&stream, end), None, "{cluster:?}");
    };
    for (number, cluster) in
        [Some("payments"), None, Some(""), Some("backup2"), Some("payments")].into_iter().enumerate()
    {
        astray(cluster, End::Status(500));
        assert_eq!(
            (shop.metric(STALE), calls(&shop, "backup")),
            (number as u64 + 1, [0, 0, number as u64 + 1])
        );
    }
    assert_eq!(warnings(), 1, "it is said once");
    assert_eq!(
        leave(&goes(shop.vm()), End::Status(200)).as_deref(),
        Some(MARK),
        "the guard's breaker is closed"
    );
    // Nor is the verdict of a probe.
    trip(&shop, "backup");
    shop.host.advance(WAIT + WAIT);
    astray(Some("payments"), End::Status(200));
    assert_eq!(leave(&goes(shop.vm()), End::Status(200)).as_deref(), Some(MARK), "the place is free again");
    assert_eq!(serve_on(&shop, "backup"), None, "that one has closed it");
}

/// The answer of another place than the guard's is no business of the guard's fallback.
#[test]
fn a_failure_of_where_it_was_not_sent_is_not_replaced() {
    let guard = format!(r#"{BREAKER}, "fallback": [{STATIC}]"#);
    for (cluster, body) in [("payments", "broken"), ("backup", "ours")] {
        let shop = shop(REROUTE, &[("backup", &guard)]);
        let stream = goes(shop.vm());
        stream.set_property(b"xds\0cluster_name", cluster);
        describe(&stream, VIA_UPSTREAM, 0);
        stream.set_response_headers(headers(&[(":status", "503"), ("content-length", "6"), SERVICE_TIME]));
        stream.response_headers(false).unwrap();
        stream.response_body("broken", true).unwrap();
        stream.finish().unwrap();
        let came = stream.received();
        assert_eq!(came.body(), body.as_bytes());
        assert_eq!(came.header("x-resilience").is_some(), cluster == "backup");
        assert_eq!(fallbacks(&shop, "circuit_open", "reroute"), u64::from(cluster == "backup"));
    }
}

/// It was sent there all the same.
#[test]
fn one_whose_client_leaves_before_the_answer_is_counted_by_where_its_route_leads() {
    for (cluster, counted) in [(Some("backup"), 1), (Some("payments"), 0), (None, 0)] {
        let shop = shop(REROUTE, &[("backup", &format!("{BREAKER}, {FULL}"))]);
        let stream = goes(shop.vm());
        match cluster {
            Some(cluster) => stream.set_property(b"xds\0cluster_name", cluster),
            None => stream.remove_property(b"xds\0cluster_name"),
        };
        leave(&stream, End::ClientLeft);
        assert_eq!(fallbacks(&shop, "circuit_open", "reroute"), counted, "{cluster:?}");
        assert_eq!((crowd(&shop, "backup"), calls(&shop, "backup")), ((0, 0), [0, 0, 1]));
    }
}

fn serve_on(shop: &Shop, policy: &str) -> Option<LocalResponse> {
    let stream = arrive_on(shop.vm(), policy);
    run(&stream, End::Status(200)).unwrap();
    stream.local_response()
}

/// A guard has one breaker for each cluster: that of the cluster it is sent to is asked.
#[test]
fn a_guard_by_cluster_guards_the_cluster_that_is_named() {
    let guard = format!(r#""key": "upstream_cluster", {BREAKER}"#);
    let to_other = r#"{"reroute": {"cluster": "other", "policy": "backup"}}"#;
    let shop = shop(&format!("{REROUTE}, {to_other}"), &[("backup", &guard)]);
    (0..FAILURES).for_each(|_| drop(leave(&goes(shop.vm()), End::Status(500))));
    let stream = goes(shop.vm());
    assert_eq!(sent_to(&stream).as_deref(), Some("other"), "that of backup is open");
    leave(&stream, End::Status(200));
    assert_eq!(
        (rejections(&shop, "backup", "circuit_open"), fallbacks(&shop, "circuit_open", "reroute")),
        (1, 4)
    );
}
