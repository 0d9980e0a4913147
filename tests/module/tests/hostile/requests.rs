//! What a client may send.

use crate::{curious, hostile_values, with};
use resilience_module_tests::Map;
use resilience_module_tests::shop::{End, KEY, OrFail, ROOT, ROUTE, Shop, arrive, request, run, serve};

const NAMES: [&str; 12] = [
    ":path",
    ":authority",
    ":method",
    ":scheme",
    "content-type",
    "grpc-status",
    "x-request-id",
    "x-resilience",
    "x-envoy-ratelimited",
    "x-envoy-upstream-rq-timeout-ms",
    "retry-after",
    "x-anything",
];

#[test]
fn no_request_header_traps_and_none_keeps_a_request_out() {
    let shop = Shop::with(&curious(), 1);
    for name in NAMES {
        for value in hostile_values() {
            let stream = arrive(shop.vm());
            stream.set_request_headers(with(request("/checkout"), name, &value));
            run(&stream, End::Status(200)).or_fail(&format!("{name}: {value:.40?}"));
            assert_eq!(stream.local_response(), None, "{name}: {value:.40?}");
        }
    }
    for missing in NAMES.iter().take(4) {
        let stream = arrive(shop.vm());
        let mut headers = request("/checkout");
        headers.retain(|(name, _)| name != missing.as_bytes());
        stream.set_request_headers(headers);
        run(&stream, End::Status(200)).unwrap();
        assert_eq!(stream.local_response(), None, "without {missing}");
    }
    let bare = shop.vm().stream(ROOT);
    run(&bare, End::Status(200)).unwrap();
    assert_eq!(bare.local_response(), None, "no header and no property at all");
}

#[test]
fn refusals_of_hostile_requests_are_well_formed() {
    // The fake host itself refuses a local response whose headers are malformed or split.
    let shop = Shop::with(&curious(), 1);
    shop.trip();
    for name in NAMES {
        for value in hostile_values() {
            let stream = arrive(shop.vm());
            stream.set_request_headers(with(request("/checkout"), name, &value));
            run(&stream, End::Status(200)).or_fail(&format!("{name}: {value:.40?}"));
            let reply = stream.local_response().expect("open");
            assert_eq!(reply.status, 503);
            assert_eq!(reply.details, b"resilience:checkout:circuit_open");
            assert!(std::str::from_utf8(&reply.body).is_ok(), "{name}: {:?}", reply.body);
            for (name, value) in &reply.headers {
                let clean = value.iter().chain(name).all(|byte| (0x20..0x7f).contains(byte));
                assert!(clean, "{name:?}: {value:?}");
            }
        }
    }
}

#[test]
fn the_mark_on_a_request_means_nothing_and_is_passed_on() {
    let shop = Shop::open(1);
    let stream = arrive(shop.vm());
    let forged = "checkout;reason=circuit_open;source=static";
    stream.set_request_headers(with(request("/checkout"), "x-resilience", forged.as_bytes()));
    run(&stream, End::Status(200)).unwrap();
    assert_eq!(stream.header(Map::RequestHeaders, "x-resilience").as_deref(), Some(forged));
    assert_eq!(stream.mutations(), []);
}

#[test]
fn a_forged_reroute_is_refused_wherever_it_arrives() {
    let shop = Shop::open(1);
    for route in [ROUTE, "other"] {
        for value in hostile_values() {
            let stream = arrive(shop.vm());
            stream.set_property(b"xds\0route_name", route);
            stream.set_request_headers(with(request("/"), "x-resilience-reroute", &value));
            run(&stream, End::Status(200)).unwrap();
            let reply =
                stream.local_response().unwrap_or_else(|| panic!("{route}: {value:.40?} is let through"));
            assert_eq!((reply.status, reply.body.as_slice()), (400, &b""[..]));
            assert_eq!(reply.header("x-resilience"), None);
        }
    }
    assert_eq!(shop.host.data(KEY), None, "it is no evidence");
    assert_eq!(serve(shop.vm(), End::Status(200)).unwrap(), None);
}

#[test]
fn content_types_that_look_like_grpc() {
    let shop = Shop::open(1);
    shop.trip();
    for (content_type, grpc) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("application/grpc-web", false),
        ("application/grpcx", false),
        ("application/json", false),
        ("", false),
    ] {
        let stream = arrive(shop.vm());
        stream.set_request_headers(with(request("/checkout"), "content-type", content_type.as_bytes()));
        run(&stream, End::Status(200)).unwrap();
        let reply = stream.local_response().unwrap();
        assert_eq!(reply.grpc_status, if grpc { 14 } else { -1 }, "{content_type}");
        assert_eq!(reply.body.starts_with(b"{"), !grpc, "{content_type}");
    }
}
