//! Rules of an operator's own, as far as only a host that is not Envoy can show them.

use resilience_module_tests::shop::{
    End, FAILURES, OrFail, Shop, VIA_UPSTREAM, WAIT, arrive, describe, enter, policy_and, serve,
};
use resilience_module_tests::{FakeStream, Headers, Map, headers, status};

const RULES: &str = r#""outcome": {
    "failure": {"headers": [{"name": "x-degraded", "value": "true"}, {"name": "x-resilience", "value": "hop"}]},
    "ignore": {"grpc_status": ["ABORTED"], "headers": [{"name": "x-synthetic", "value": "1"}]}}"#;

const DEGRADED: [(&str, &str); 2] = [(":status", "200"), ("x-degraded", "true")];

fn shop() -> Shop {
    Shop::with(&policy_and(RULES), 1)
}

/// The headers of an answer of the upstream arrive.
fn answer(stream: &FakeStream, answered: Headers, end: bool) {
    describe(stream, VIA_UPSTREAM, 0);
    stream.set_property(b"upstream\0address", "127.0.0.1:8080").set_response_headers(answered);
    stream.response_headers(end).unwrap();
}

/// A request that is let through and gets this answer.
fn served(shop: &Shop, answered: &[(&str, &str)]) {
    let stream = arrive(shop.vm());
    assert_eq!(enter(&stream).unwrap(), None, "refused before {answered:?}");
    answer(&stream, headers(answered), true);
    stream.finish().unwrap();
}

fn counted(shop: &Shop) -> [u64; 3] {
    ["success", "failure", "ignored"].map(|outcome| {
        shop.metric(&format!("resilience_calls_total;policy=checkout;outcome={outcome};slow=false"))
    })
}

fn refuses(shop: &Shop) -> bool {
    let stream = arrive(shop.vm());
    let refused = enter(&stream).unwrap().is_some();
    stream.finish().unwrap();
    refused
}

#[test]
fn a_failure_by_header_counts_with_the_headers() {
    let shop = shop();
    let open: Vec<_> = (0..FAILURES)
        .map(|_| {
            let stream = arrive(shop.vm());
            assert_eq!(enter(&stream).unwrap(), None);
            answer(&stream, headers(&DEGRADED), false);
            stream
        })
        .collect();
    assert_eq!(counted(&shop), [0, FAILURES as u64, 0], "before any of them ends");
    assert!(refuses(&shop));
    open.iter().for_each(|stream| stream.finish().unwrap());
    assert_eq!(counted(&shop), [0, FAILURES as u64, 0], "once each");
}

#[test]
fn any_line_of_a_header_is_enough() {
    let shop = shop();
    served(&shop, &[("x-degraded", "no"), (":status", "200"), ("x-degraded", "true")]);
    served(&shop, &[("x-degraded", "no"), (":status", "200"), ("x-degraded", "never")]);
    served(&shop, &[(":status", "500"), ("x-synthetic", "0"), ("x-synthetic", "1")]);
    assert_eq!(counted(&shop), [1, 1, 1]);
}

#[test]
fn headers_that_cannot_be_read_leave_the_status() {
    for status in status::FAULTS {
        let shop = shop();
        shop.vm().fail_kind("proxy_get_header_map_pairs", status);
        served(&shop, &DEGRADED);
        served(&shop, &[(":status", "500"), ("x-degraded", "true")]);
        served(&shop, &[(":status", "200"), ("grpc-status", "14")]);
        assert_eq!(counted(&shop), [1, 2, 0], "{status}");
    }
}

#[test]
fn a_status_still_to_come_may_have_a_failure_ignored() {
    for (trailer, expected) in [("10", [0, 0, 1]), ("0", [0, 1, 0]), ("14", [0, 1, 0])] {
        let shop = shop();
        let stream = arrive(shop.vm());
        enter(&stream).unwrap();
        answer(&stream, headers(&[(":status", "503"), ("content-type", "application/grpc")]), false);
        assert_eq!(counted(&shop), [0, 0, 0], "nobody knows yet");
        stream.set_response_trailers(headers(&[("grpc-status", trailer)]));
        stream.trailers().unwrap();
        assert_eq!(counted(&shop), expected, "{trailer}");
        stream.finish().unwrap();
        assert_eq!(counted(&shop), expected, "{trailer}, once");
    }
    // One that is not gRPC has no status to come, and one that ends without it is the failure it seemed.
    let shop = shop();
    let stream = arrive(shop.vm());
    enter(&stream).unwrap();
    answer(&stream, headers(&[(":status", "503"), ("content-type", "text/plain")]), false);
    assert_eq!(counted(&shop), [0, 1, 0]);
    served(&shop, &[(":status", "503"), ("content-type", "application/grpc")]);
    assert_eq!(counted(&shop), [0, 2, 0]);
}

#[test]
fn an_ignored_answer_stays_ignored_when_its_body_breaks_off() {
    let shop = shop();
    let stream = arrive(shop.vm());
    enter(&stream).unwrap();
    answer(&stream, headers(&[(":status", "200"), ("x-synthetic", "1")]), false);
    assert_eq!(counted(&shop), [0, 0, 1]);
    describe(&stream, "upstream_reset_after_response_started{connection_termination}", 1 << 6);
    stream.finish().unwrap();
    assert_eq!(counted(&shop), [0, 0, 1]);
}

#[test]
fn an_ignored_probe_makes_room_with_its_headers() {
    let shop = shop();
    shop.trip();
    shop.host.advance(WAIT + WAIT);
    let probe = arrive(shop.vm());
    assert_eq!(enter(&probe).unwrap(), None);
    assert!(refuses(&shop), "its place is the only one");
    answer(&probe, headers(&[(":status", "200"), ("x-synthetic", "1")]), false);
    assert_eq!(serve(shop.vm(), End::Status(200)).unwrap(), None, "the place is free again");
    assert_eq!(serve(shop.vm(), End::Status(200)).unwrap(), None, "that one closed it");
    probe.finish().unwrap();
    assert_eq!(counted(&shop), [2, FAILURES as u64, 1]);
}

#[test]
fn the_mark_of_the_hop_behind_is_read_before_it_is_taken_off() {
    let config = policy_and(RULES).replacen("\"policies\"", "\"expose\": false, \"policies\"", 1);
    let shop = Shop::with(&config, 1);
    let stream = arrive(shop.vm());
    enter(&stream).unwrap();
    answer(&stream, headers(&[(":status", "200"), ("x-resilience", "hop")]), true);
    assert_eq!(stream.header(Map::ResponseHeaders, "x-resilience"), None);
    stream.finish().unwrap();
    assert_eq!(counted(&shop), [0, 1, 0]);
}

#[test]
fn no_header_of_any_size_or_shape_traps() {
    let long = "x".repeat(60 * 1024);
    let shop = shop();
    for name in ["x-degraded", ":status", "grpc-status", "content-type", "", &long] {
        for value in [b"".as_slice(), b"\xff\xfe", b"tr\0ue", long.as_bytes(), b"true\r\nx: 1"] {
            let stream = arrive(shop.vm());
            enter(&stream).unwrap();
            let mut answered = headers(&[("x-other", "true")]);
            answered.extend((0..200).map(|n| (format!("x-{n}").into_bytes(), b"true".to_vec())));
            answered.push((name.as_bytes().to_vec(), value.to_vec()));
            describe(&stream, VIA_UPSTREAM, 0);
            stream.set_response_headers(answered);
            stream.response_headers(true).or_fail(&format!("{name:.20}: {value:.20?}"));
            stream.finish().unwrap();
        }
    }
    assert_eq!(counted(&shop)[1..], [0, 0]);
}
