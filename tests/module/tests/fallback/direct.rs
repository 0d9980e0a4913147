//! An answer that ends with its headers has no body that ours could be put into: ours is sent past it.

use crate::*;

const EMPTY: [(&str, &str); 2] = [(":status", "503"), ("content-length", "0")];

#[test]
fn an_answer_without_a_body_is_replaced_by_a_reply() {
    for (method, entry) in [("GET", OURS), ("GET", OURS_KNOWING), ("POST", OURS), ("HEAD", OURS)] {
        let shop = shop(entry);
        let given = given(&[&EMPTY[..], &[("set-cookie", "a=b"), ("vary", "accept")]].concat(), &[]);
        let reply = served(&shop, method, &given).reply();
        assert_eq!((reply.status, reply.body.as_slice(), reply.grpc_status), (200, &b"ours"[..], -1));
        assert_eq!(reply.details, b"resilience:checkout:upstream_failure");
        assert_eq!(reply.callback, "proxy_on_response_headers");
        assert_eq!(names(&reply.headers), ["content-type", "x-a", "x-resilience"]);
        assert_eq!(reply.header("x-resilience").as_deref(), Some(MARK));
        assert_eq!((fallbacks(&shop, "upstream_failure", "static"), shop.metric(FAILED)), (1, 1), "{method}");
    }
}

#[test]
fn what_others_say_goes_before_our_mark_there_too() {
    let answered = [&EMPTY[..], &[("x-resilience", "far;reason=reset;source=fail")]].concat();
    let reply = served(&shop(OURS), "GET", &given(&answered, &[])).reply();
    assert_eq!(values(&reply.headers, "x-resilience"), [format!("far;reason=reset;source=fail, {MARK}")]);
    let silent = with_fallback(OURS).replacen("\"policies\"", "\"expose\": false, \"policies\"", 1);
    let reply = served(&Shop::with(&silent, 1), "GET", &given(&answered, &[])).reply();
    assert_eq!(names(&reply.headers), ["content-type", "x-a"]);
}

/// The body that Envoy was about to send by itself still comes through the filters, to nobody.
#[test]
fn what_still_comes_of_the_answer_that_was_thrown_away_is_left_alone() {
    let shop = shop(OURS);
    let stream = ask(shop.vm(), "POST", &[("content-type", "application/grpc")]);
    answers(&stream, &given(&[(":status", "503"), ("content-type", "text/plain")], &["no healthy", ""]))
        .reply();
    let before = stream.calls().len();
    for (piece, last) in [("no healthy", false), ("upstream", true)] {
        assert_eq!(stream.response_body(piece, last).unwrap(), Action::Continue);
    }
    stream.set_response_trailers(headers(&[("x-sum", "1")]));
    assert_eq!(stream.trailers().unwrap(), Action::Continue);
    assert_eq!(stream.calls().len(), before);
    stream.finish().unwrap();
    assert_eq!((fallbacks(&shop, "upstream_failure", "static"), shop.metric(FAILED)), (1, 1));
}

#[test]
fn a_reply_that_the_host_does_not_send_leaves_the_answer_as_it_was() {
    for status in status::FAULTS {
        let shop = shop(OURS);
        let stream = ask(shop.vm(), "GET", &[]);
        shop.vm().fail_kind("proxy_send_local_response", status);
        let came = answers(&stream, &given(&EMPTY, &[])).on();
        stream.finish().unwrap();
        assert_eq!(came.header(":status").as_deref(), Some("503"));
        assert_eq!(shop.metric(FAILED), 1);
        assert_eq!(fallbacks(&shop, "upstream_failure", "static"), 0, "nobody got it");
    }
}
