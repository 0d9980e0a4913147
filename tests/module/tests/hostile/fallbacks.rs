//! What a client and an upstream may send where failed answers are replaced, and refused requests go elsewhere.

use crate::{hostile_values, with};
use resilience_module_tests::shop::{
    BREAKER, End, OrFail, SERVICE_TIME, Shop, VIA_UPSTREAM, arrive, describe, enter, policies, request, run,
};
use resilience_module_tests::{Action, FakeStream, Headers, Map, headers};

/// A policy that asks for all that a request may be asked for, and replaces whatever fails.
fn replacing() -> Shop {
    let page = r#"{"static": {"status": 200, "json": "%REQUEST_ID%%REASON%"}}"#;
    let when =
        r#"{"methods": ["PUT"], "headers": [{"name": "x-tier", "value": "gold"}], "accept": ["text/html"]}"#;
    let fallback = format!(r#""fallback": [{{"when": {when}, "static": {{"status": 201}}}}, {page}]"#);
    Shop::with(&policies(&[("checkout", &fallback)]), 1)
}

/// Every byte by itself, and what else is hostile.
fn values() -> Vec<Vec<u8>> {
    let bytes = (0..=u8::MAX).map(|byte| vec![b'a', byte, b'z']);
    hostile_values().into_iter().chain(bytes).collect()
}

/// A failed answer with these headers and this body, and what becomes of it.
fn fails(stream: &FakeStream, answered: Headers, pieces: &[&str], about: &str) {
    describe(stream, VIA_UPSTREAM, 0);
    stream.set_response_headers(answered);
    let action = stream.response_headers(pieces.is_empty()).or_fail(about);
    assert_eq!(action == Action::Pause, stream.local_response().is_some(), "{about}");
    for (number, piece) in pieces.iter().enumerate() {
        let last = number + 1 == pieces.len();
        let action = stream.response_body(piece, last).or_fail(about);
        assert!(action == Action::Continue || action == Action::Drop && !last, "{about}: {action:?}");
    }
    stream.finish().or_fail(about);
}

#[test]
fn no_failed_answer_traps_or_leaves_its_bytes_in_ours() {
    const NAMES: [&str; 12] = [
        "content-length",
        "content-type",
        "transfer-encoding",
        "grpc-status",
        "grpc-message",
        "set-cookie",
        "vary",
        "access-control-allow-origin",
        "x-request-id",
        "x-resilience",
        "x-envoy-upstream-service-time",
        "connection",
    ];
    let shop = replacing();
    for name in NAMES {
        for value in values() {
            for pieces in [&["bro", "ken", ""][..], &[]] {
                let about = format!("{name}: {value:.40?}");
                let stream = arrive(shop.vm());
                enter(&stream).unwrap();
                let answered = headers(&[(":status", "503"), ("x-resilience", "far"), SERVICE_TIME]);
                fails(&stream, with(answered, name, &value), pieces, &about);
                let Some(reply) = stream.local_response() else {
                    let came = stream.received();
                    // One that looks as if it was the answer to a HEAD, or is gRPC's, has no body.
                    let has_body = !pieces.is_empty();
                    assert_eq!(came.body().starts_with(b"\"8f14e45f"), has_body, "{about}");
                    assert_eq!(came.header("set-cookie"), None, "{about}");
                    assert_eq!(came.is_well_formed(if has_body { "GET" } else { "HEAD" }), Ok(()), "{about}");
                    continue;
                };
                assert!(reply.header("x-resilience").unwrap().ends_with("source=static"), "{about}");
            }
        }
    }
}

#[test]
fn no_status_of_an_answer_traps() {
    let shop = replacing();
    for value in
        values().into_iter().chain((0..=1000).step_by(9).map(|status: u32| status.to_string().into_bytes()))
    {
        for pieces in [&["bro", "ken", ""][..], &[]] {
            let about = format!("{value:.40?}");
            let stream = arrive(shop.vm());
            enter(&stream).unwrap();
            fails(&stream, vec![(b":status".to_vec(), value.clone())], pieces, &about);
        }
    }
}

/// Names as no codec lets them through.
#[test]
fn no_name_of_a_header_traps() {
    let shop = replacing();
    for name in values() {
        let about = format!("{name:.40?}");
        let stream = arrive(shop.vm());
        let mut request = request("/checkout");
        request.push((name.clone(), b"1".to_vec()));
        stream.set_request_headers(request);
        enter(&stream).or_fail(&about);
        let mut answered = headers(&[(":status", "503"), SERVICE_TIME]);
        answered.push((name, b"1".to_vec()));
        fails(&stream, answered, &["broken"], &about);
        assert!(stream.received().body().starts_with(b"\"8f14e45f"), "{about}");
    }
}

#[test]
fn no_trailer_traps_and_none_is_left() {
    let shop = replacing();
    for value in values() {
        for (name, value) in [(b"x-sum".to_vec(), value.clone()), (value.clone(), b"1".to_vec())] {
            let about = format!("{name:.40?}: {value:.40?}");
            let stream = arrive(shop.vm());
            enter(&stream).unwrap();
            describe(&stream, VIA_UPSTREAM, 0);
            stream.set_response_headers(headers(&[(":status", "503"), SERVICE_TIME]));
            stream.response_headers(false).unwrap();
            stream.response_body("broken", false).unwrap();
            let is_text = std::str::from_utf8(&name).is_ok();
            stream.set_response_trailers(vec![(name, value)]);
            assert_eq!(stream.trailers().or_fail(&about), Action::Continue);
            assert!(stream.received().trailers.unwrap().is_empty() || !is_text, "{about}");
            stream.finish().unwrap();
        }
    }
}

#[test]
fn no_request_traps_that_is_refused_and_sent_elsewhere() {
    const NAMES: [&str; 9] = [
        ":method",
        ":path",
        ":authority",
        "accept",
        "content-type",
        "x-request-id",
        "x-tier",
        "grpc-timeout",
        "x-envoy-max-retries",
    ];
    let own = r#""circuit_breaker": {"mode": "forced_open", "consecutive_failures": 1},
        "fallback": [{"when": {"headers": [{"name": "x-tier", "value": "gold"}]}, "reroute": {"cluster": "backup", "policy": "backup"}},
            {"when": {"accept": ["text/html"]}, "static": {"status": 200, "text": "%REQUEST_ID%"}},
            {"static": {"status": 200, "json": "%REQUEST_ID%"}}]"#;
    let guard = format!(r#"{BREAKER}, "retry_budget": {{}}, "timeout": {{"total": "1s"}}"#);
    let shop = Shop::with(&policies(&[("checkout", own), ("backup", &guard)]), 1);
    for name in NAMES {
        for value in values() {
            for tier in ["gold", "tin"] {
                let about = format!("{name}: {value:.40?}, {tier}");
                let stream = arrive(shop.vm());
                let mut request = request("/checkout");
                request.extend(headers(&[("x-tier", tier), ("accept", "*/*")]));
                stream.set_request_headers(with(request, name, &value));
                run(&stream, End::Status(200)).or_fail(&about);
                let went = stream.header(Map::RequestHeaders, "x-resilience-reroute");
                assert_eq!(went.is_none(), stream.local_response().is_some(), "{about}");
                assert!(went.is_none_or(|cluster| cluster == "backup"), "{about}");
            }
        }
    }
}
