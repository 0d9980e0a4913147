//! An answer that failed is written over where it stands: its headers, and every piece of its body.

use crate::*;

/// What an upstream says that fails, over HTTP/1 with a length.
const LONG: [(&str, &str); 3] = [(":status", "503"), ("content-length", "6"), ("content-type", "text/html")];
/// The same in chunks.
const CHUNKED: [(&str, &str); 2] = [(":status", "503"), ("transfer-encoding", "chunked")];
/// Over HTTP/2 without a length.
const BARE: [(&str, &str); 1] = [(":status", "503")];

#[test]
fn every_shape_of_a_body_becomes_ours() {
    for (method, answered, pieces, trailers, length, expected) in [
        // First, middle and last; over HTTP/1 the last is empty, over HTTP/2 it need not be.
        ("GET", &LONG[..], vec!["bro", "k", "en", ""], vec![], Some("4"), vec!["ours", ""]),
        ("GET", &LONG, vec!["bro", "ken"], vec![], Some("4"), vec!["ours", ""]),
        ("GET", &LONG, vec!["broken"], vec![], Some("4"), vec!["ours"]),
        ("GET", &CHUNKED, vec!["bro", "ken", ""], vec![], None, vec!["ours", ""]),
        ("GET", &BARE, vec!["broken"], vec![], None, vec!["ours"]),
        ("GET", &BARE, vec!["", "broken", ""], vec![], None, vec!["ours", ""]),
        ("GET", &BARE, vec!["", "", "broken"], vec![], None, vec!["ours"]),
        // Nothing but an empty last piece: a chunked end.
        ("GET", &CHUNKED, vec![""], vec![], None, vec!["ours"]),
        ("GET", &CHUNKED, vec!["", ""], vec![], None, vec!["ours"]),
        // With trailers, which would tell of a body that is not there any more.
        ("GET", &LONG, vec!["bro", "ken"], vec![("x-sum", "1")], Some("4"), vec!["ours"]),
        ("GET", &CHUNKED, vec!["broken"], vec![("x-sum", "1"), ("x-sum", "2")], None, vec!["ours"]),
        // Trailers behind no body at all: nothing of ours can be put in.
        ("GET", &BARE, vec![], vec![("x-sum", "1")], None, vec![]),
        ("GET", &CHUNKED, vec![], vec![("x-sum", "1")], None, vec![]),
        ("POST", &LONG, vec!["broken", ""], vec![], Some("4"), vec!["ours", ""]),
    ] {
        for entry in [OURS, OURS_KNOWING] {
            let (pieces, trailers) = (pieces.clone(), trailers.clone());
            let shop = shop(entry);
            let given = Given { headers: answered.to_vec(), pieces, trailers };
            let about = format!("{method} {answered:?} {:?} {:?}, {entry}", given.pieces, given.trailers);
            if entry == OURS && answered.len() == BARE.len() {
                // It may turn out to be empty, and nobody knows whether anything may be put there then.
                assert_eq!(served(&shop, method, &given).reply().body, b"ours", "{about}");
                continue;
            }
            let came = served(&shop, method, &given).on();
            assert_eq!(came.header(":status").as_deref(), Some("200"), "{about}");
            assert_eq!(came.header("content-length").as_deref(), length, "{about}");
            assert_eq!(came.header("x-a").as_deref(), Some("1"), "{about}");
            assert_eq!(came.header("x-resilience").as_deref(), Some(MARK), "{about}");
            let came_in: Vec<_> =
                came.pieces.iter().map(|piece| std::str::from_utf8(piece).unwrap()).collect();
            assert_eq!(came_in, expected, "{about}");
            assert!(came.trailers.is_none_or(|trailers| trailers.is_empty()), "{about}");
            assert_eq!(
                (fallbacks(&shop, "upstream_failure", "static"), shop.metric(FAILED)),
                (1, 1),
                "{about}"
            );
        }
    }
}

/// A frame without a body and without an end is what some floods are made of: none is passed on.
#[test]
fn an_answer_of_ours_without_a_body_leaves_nothing_of_theirs() {
    for (status, length) in [(200, Some("0")), (503, Some("0")), (204, None), (304, None), (205, Some("0"))] {
        let entry = format!(r#"{{"static": {{"status": {status}}}}}"#);
        for (answered, pieces, trailers, expected) in [
            (&LONG[..], vec!["bro", "k", "en", ""], vec![], vec![""]),
            (&LONG, vec!["broken"], vec![], vec![""]),
            (&CHUNKED, vec!["bro", "ken", ""], vec![], vec![""]),
            (&CHUNKED, vec![""], vec![], vec![""]),
            (&BARE, vec!["", "broken"], vec![], vec![""]),
            (&BARE, vec!["bro", "ken"], vec![("x-sum", "1")], vec![]),
        ] {
            let shop = shop(&entry);
            let about = format!("{status} for {answered:?} {pieces:?}");
            let came = served(&shop, "GET", &Given { headers: answered.to_vec(), pieces, trailers }).on();
            assert_eq!(came.header(":status"), Some(status.to_string()), "{about}");
            // It is told only where the failed answer told of bytes.
            let length = length.filter(|_| answered.len() == LONG.len());
            assert_eq!(came.header("content-length").as_deref(), length, "{about}");
            assert_eq!(
                came.pieces,
                expected.iter().map(|piece| piece.as_bytes()).collect::<Vec<_>>(),
                "{about}"
            );
        }
        // One that ends with its headers has nothing to be replaced by a reply for.
        let shop = shop(&entry);
        let came = served(&shop, "GET", &given(&[(":status", "500"), ("content-length", "0")], &[])).on();
        assert_eq!(came.header(":status"), Some(status.to_string()));
        assert_eq!(came.header("content-length").as_deref(), length);
    }
}

#[test]
fn nothing_follows_the_headers_after_a_head() {
    for (knows, answered, pieces, length) in [
        // Over HTTP/1, and nearly always over HTTP/2, it ends with them.
        (true, &LONG[..], vec![], Some("4")),
        (false, &LONG, vec![], Some("4")),
        (true, &BARE, vec![], Some("4")),
        // An HTTP/2 upstream may still say so in a frame of its own.
        (true, &LONG, vec![""], Some("4")),
        (false, &LONG, vec![""], Some("4")),
        (true, &BARE, vec![""], Some("4")),
    ] {
        let shop = shop(if knows { OURS_KNOWING } else { OURS });
        let about = format!("{answered:?} {pieces:?}, knows: {knows}");
        let came = served(&shop, "HEAD", &given(answered, &pieces)).on();
        assert_eq!(came.header(":status").as_deref(), Some("200"), "{about}");
        assert_eq!(came.header("content-length").as_deref(), length, "{about}");
        assert_eq!(came.body(), b"", "{about}");
        assert_eq!(fallbacks(&shop, "upstream_failure", "static"), 1, "{about}");
    }
}

/// Over HTTP/2 the want of a body may be said in a frame of its own. Whether the caller asked for a body is not always known, and
/// after a HEAD one would break the connection: a reply is right for both.
#[test]
fn an_empty_body_is_filled_where_the_caller_is_known_to_wait_for_one() {
    let came = served(&shop(OURS_KNOWING), "GET", &given(&BARE, &[""])).on();
    assert_eq!((came.body(), came.header("content-length")), (b"ours".to_vec(), None));
    for method in ["GET", "HEAD"] {
        let reply = served(&shop(OURS), method, &given(&BARE, &[""])).reply();
        assert_eq!((reply.status, reply.body), (200, b"ours".to_vec()), "{method}");
    }
}

#[test]
fn of_the_failed_answers_headers_only_what_still_holds_is_kept() {
    let answered = [
        (":status", "500"),
        ("access-control-allow-origin", "https://shop.example"),
        ("access-control-expose-headers", "x-a"),
        ("age", "1"),
        ("cache-control", "max-age=60"),
        ("content-encoding", "br"),
        ("content-language", "de"),
        ("content-length", "6"),
        ("content-range", "bytes 0-5/6"),
        ("content-type", "text/html"),
        ("etag", "\"1\""),
        ("last-modified", "Sat, 21 Nov 2026 14:28:21 GMT"),
        ("link", "</next>; rel=next"),
        ("location", "/elsewhere"),
        ("retry-after", "9"),
        ("set-cookie", "session=1"),
        ("set-cookie", "basket=2"),
        ("vary", "accept, origin"),
        ("www-authenticate", "Basic"),
        ("x-a", "theirs"),
        ("x-a", "theirs, too"),
        ("x-envoy-attempt-count", "3"),
        ("x-envoy-ratelimited", "true"),
        ("x-envoy-upstream-service-time", "7"),
        ("x-own", "1"),
        ("x-request-id", "8f14e45f"),
    ];
    let came = served(&shop(OURS), "GET", &given(&answered, &["broken"])).on();
    let answered = came.headers.clone().unwrap();
    assert_eq!(
        names(&answered),
        [
            ":status",
            "access-control-allow-origin",
            "access-control-expose-headers",
            "content-length",
            "content-type",
            "vary",
            "x-a",
            "x-envoy-attempt-count",
            "x-envoy-upstream-service-time",
            "x-request-id",
            "x-resilience",
        ]
    );
    assert_eq!(values(&answered, "x-a"), ["1"]);
    assert_eq!(values(&answered, "content-type"), ["text/plain; charset=utf-8"]);
    assert_eq!(values(&answered, "vary"), ["accept, origin"]);
}

#[test]
fn what_those_say_who_are_further_away_stands_before_ours() {
    let answered = [
        (":status", "503"),
        ("content-length", "6"),
        SERVICE_TIME,
        ("x-resilience", "far;reason=reset;source=fail"),
        ("x-resilience", "near;reason=circuit_open;source=none"),
    ];
    let joined = format!("far;reason=reset;source=fail, near;reason=circuit_open;source=none, {MARK}");
    let came = served(&shop(OURS), "GET", &given(&answered, &["broken"])).on();
    assert_eq!(values(&came.headers.unwrap(), "x-resilience"), [joined]);
    // Nothing of it where outsiders are told nothing, and the rest is ours all the same.
    let silent = with_fallback(r#"{"static": {"status": 200, "text": "<%POLICY%|%REASON%|%REQUEST_ID%>"}}"#)
        .replacen("\"policies\"", "\"expose\": false, \"policies\"", 1);
    let shop = Shop::with(&silent, 1);
    let came = served(&shop, "GET", &given(&answered, &["broken"])).on();
    assert_eq!(came.body(), b"<||8f14e45f-ceea-467f-9575-e2a1d6e3a1b2>");
    let kept = [":status", "content-length", "content-type", SERVICE_TIME.0];
    assert_eq!(names(&came.headers.unwrap()), kept);
}

#[test]
fn a_loud_failure_takes_its_place_as_a_problem() {
    let entry = r#"{"fail": {"status": 502, "retry_after": "1500ms"}}"#;
    for (more, retried) in [("", true), (r#", "discourage_retries": false"#, false)] {
        let config = with_fallback(entry).replacen(
            "\"fallback\"",
            &format!(
                "{}\"fallback\"",
                more.trim_start_matches(", ").to_owned() + if more.is_empty() { "" } else { ", " }
            ),
            1,
        );
        let shop = Shop::with(&config, 1);
        let came = served(&shop, "GET", &given(&LONG, &["broken"])).on();
        assert_eq!(came.body(), br#"{"title":"Bad Gateway","status":502,"detail":"upstream_failure"}"#);
        for (name, value) in [
            (":status", Some("502")),
            ("content-type", Some("application/problem+json")),
            ("retry-after", Some("2")),
            ("x-envoy-ratelimited", retried.then_some("true")),
            ("x-resilience", Some("checkout;reason=upstream_failure;source=fail")),
        ] {
            assert_eq!(came.header(name).as_deref(), value, "{name}");
        }
        assert_eq!(fallbacks(&shop, "upstream_failure", "fail"), 1);
    }
}

#[test]
fn what_is_written_into_it_is_written_for_its_type() {
    let entry = r#"{"static": {"status": 503, "json": {"id": "%REQUEST_ID%", "why": "%POLICY%: %REASON%%RETRY_AFTER%"}}}"#;
    let shop = shop(entry);
    let stream = arrive(shop.vm());
    let mut request = asking("GET", &[]);
    request.retain(|(name, _)| name != b"x-request-id");
    request.push((b"x-request-id".to_vec(), [&b"a\"\\\xff\x01"[..], &[b'x'; 300]].concat()));
    stream.set_request_headers(request);
    enter(&stream).unwrap();
    let came = answers(&stream, &given(&LONG, &["broken"])).on();
    stream.finish().unwrap();
    let shown = format!(r#"a\"\\{}\u0001{}"#, '\u{fffd}', "x".repeat(256 - 5));
    assert_eq!(
        String::from_utf8(came.body()).unwrap(),
        format!(r#"{{"id":"{shown}","why":"checkout: upstream_failure"}}"#)
    );
    assert_eq!(came.is_well_formed("GET"), Ok(()));
    // Only the entry itself says when to come back.
    assert_eq!(
        (came.header("retry-after"), came.header("x-envoy-ratelimited").as_deref()),
        (None, Some("true"))
    );
}

/// A host that does not take a body is asked again with the next piece; the answer ends in any case.
#[test]
fn a_body_that_the_host_does_not_take_comes_with_the_next_piece_and_the_answer_ends() {
    for status in status::FAULTS {
        let play = |taken_from: usize, pieces: &[&str]| {
            let shop = shop(OURS);
            let stream = ask(shop.vm(), "GET", &[]);
            describe(&stream, VIA_UPSTREAM, 0);
            stream.set_response_headers(headers(&[LONG.as_slice(), &[SERVICE_TIME]].concat()));
            assert_eq!(stream.response_headers(false).unwrap(), Action::Continue);
            shop.vm().fail_kind("proxy_set_buffer_bytes", status);
            for (number, piece) in pieces.iter().enumerate() {
                if number == taken_from {
                    shop.vm().clear_faults();
                }
                let last = number + 1 == pieces.len();
                let action = stream.response_body(piece, last).unwrap();
                let expected = if last || number == taken_from { Action::Continue } else { Action::Drop };
                assert_eq!(action, expected, "{status}, piece {number}");
            }
            stream.finish().unwrap();
            stream.received()
        };
        assert_eq!(play(1, &["bro", "ken", ""]).is_well_formed("GET"), Ok(()));
        // There was something to take the place of, if no more is.
        assert_eq!(play(2, &["bro", "ken", ""]).body(), b"ours");
        assert!(play(9, &["bro", "ken", ""]).ended);
        assert!(play(9, &["bro", "ken"]).ended);
    }
}
