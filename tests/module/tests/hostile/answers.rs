//! What an upstream may answer, and what Envoy may say of a stream.

use crate::{curious, hostile_values, with};
use resilience_module_tests::shop::{
    CONFIG, End, FAILURES, OrFail, Shop, VIA_UPSTREAM, answer, arrive, config_and, describe, enter, serve,
};
use resilience_module_tests::{Headers, Map, headers};

#[test]
fn the_mark_on_an_answer_is_passed_on_unless_nothing_is_exposed() {
    for (config, kept) in [(CONFIG.to_owned(), true), (config_and(r#""expose": false"#), false)] {
        let shop = Shop::with(&config, 1);
        let stream = arrive(shop.vm());
        enter(&stream).unwrap();
        describe(&stream, VIA_UPSTREAM, 0);
        stream.set_response_headers(headers(&[
            (":status", "200"),
            ("x-resilience", "a"),
            ("x-resilience", "b"),
        ]));
        stream.response_headers(true).unwrap();
        assert_eq!(stream.header(Map::ResponseHeaders, "x-resilience").is_some(), kept);
        stream.finish().unwrap();
    }
}

#[test]
fn no_answer_of_the_upstream_traps() {
    let shop = Shop::open(1);
    for name in [":status", "grpc-status", "content-type", "x-resilience", "grpc-message"] {
        for value in hostile_values() {
            let stream = arrive(shop.vm());
            enter(&stream).unwrap();
            describe(&stream, VIA_UPSTREAM, 0);
            stream.set_response_headers(with(headers(&[(":status", "200")]), name, &value));
            stream.response_headers(false).or_fail(&format!("{name}: {value:.40?}"));
            stream.set_response_trailers(with(Headers::new(), name, &value));
            stream.trailers().or_fail(&format!("{name} in trailers: {value:.40?}"));
            stream.finish().unwrap();
        }
    }
    assert_eq!(serve(shop.vm(), End::Status(200)).unwrap(), None, "none of it was a failure");
}

#[test]
fn no_property_traps() {
    let shop = Shop::with(&curious(), 1);
    let paths: [&[u8]; 6] = [
        b"xds\0route_name",
        b"xds\0route_metadata\0filter_metadata\0shop\0policy",
        b"response\0code_details",
        b"response\0flags",
        b"upstream\0address",
        b"response\0code",
    ];
    let lengths = [0, 1, 3, 7, 9, 16].map(|len| vec![0xff; len]);
    for path in paths {
        for value in hostile_values().iter().chain(&lengths) {
            let stream = arrive(shop.vm());
            stream.set_property(path, value);
            let name = String::from_utf8_lossy(path);
            let about = format!("{name}: {value:.40?}");
            assert_eq!(enter(&stream).or_fail(&about), None);
            // As the upstream's answer, which then is told otherwise by what Envoy says.
            answer(&stream, End::Status(200)).or_fail(&about);
            stream.set_property(path, value);
            stream.finish().or_fail(&about);
        }
    }
    for path in paths {
        let stream = arrive(shop.vm());
        enter(&stream).unwrap();
        answer(&stream, End::Status(500)).unwrap();
        stream.remove_property(path);
        stream.finish().unwrap();
        serve(shop.vm(), End::Status(200)).unwrap();
    }
}

#[test]
fn a_flag_of_the_wrong_length_is_no_evidence() {
    let shop = Shop::open(1);
    for len in [0, 1, 7, 9, 4096] {
        for _ in 0..FAILURES {
            let stream = arrive(shop.vm());
            enter(&stream).unwrap();
            describe(&stream, "something_of_envoys_own", 0);
            stream.set_property(b"response\0flags", vec![0xff; len]);
            stream.set_response_headers(headers(&[(":status", "503")]));
            stream.response_headers(true).unwrap();
            stream.finish().unwrap();
        }
    }
    assert_eq!(serve(shop.vm(), End::Status(200)).unwrap(), None);
}
