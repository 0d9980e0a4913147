//! A gRPC caller gets a status, never the body; a status that comes behind messages is not touched.

use crate::*;

const CALL: [(&str, &str); 1] = [("content-type", "application/grpc")];
/// What a caller gets of [`OURS`].
const UNAVAILABLE: [(&str, &str); 4] = [
    (":status", "200"),
    ("content-type", "application/grpc"),
    ("grpc-status", "14"),
    ("grpc-message", "upstream_failure"),
];

/// A status alone, as gRPC servers fail.
fn status(code: &str) -> Given<'_> {
    given(
        &[
            (":status", "200"),
            ("content-type", "application/grpc"),
            ("grpc-status", code),
            ("grpc-message", "no"),
            ("x-own", "1"),
        ],
        &[],
    )
}

#[test]
fn a_status_alone_is_written_over() {
    for entry in [
        OURS,
        OURS_KNOWING,
        r#"{"fail": {"status": 502}}"#,
        r#"{"grpc_status": ["INTERNAL"], "static": {"status": 404}}"#,
    ] {
        let shop = shop(entry);
        let stream = ask(shop.vm(), "POST", &CALL);
        let came = answers(&stream, &status("13")).on();
        for (name, value) in UNAVAILABLE {
            assert_eq!(came.header(name).as_deref(), Some(value), "{entry}");
        }
        assert_eq!((came.header("x-own"), came.header("content-length")), (None, None));
        let source = if entry.contains("fail") { "fail" } else { "static" };
        assert_eq!(came.header("x-resilience"), Some(MARK.replace("static", source)));
        // A proxy in front of us is not to repeat it.
        assert_eq!(came.header("x-envoy-ratelimited").as_deref(), Some("true"));
        assert!(came.ended);
        stream.finish().unwrap();
        assert_eq!((fallbacks(&shop, "upstream_failure", source), shop.metric(FAILED)), (1, 1));
    }
}

#[test]
fn anything_else_is_replaced_by_a_reply_that_envoy_makes_grpcs() {
    for (answered, pieces) in [
        (
            vec![(":status", "503"), ("content-type", "text/plain"), ("content-length", "6")],
            vec!["broken", ""],
        ),
        (vec![(":status", "503"), ("content-length", "0")], vec![]),
        // A failure in HTTP's terms, whatever status is to come.
        (vec![(":status", "503"), ("content-type", "application/grpc")], vec!["message", ""]),
    ] {
        let shop = shop(OURS);
        let stream = ask(shop.vm(), "POST", &CALL);
        let reply = answers(&stream, &given(&answered, &pieces)).reply();
        stream.finish().unwrap();
        assert_eq!((reply.grpc_status, reply.body.as_slice()), (14, &b"upstream_failure"[..]));
        assert_eq!(names(&reply.headers), ["x-a", "x-envoy-ratelimited", "x-resilience"], "{answered:?}");
    }
}

#[test]
fn an_answer_in_grpc_tells_as_well_who_asked() {
    // A browser's call, which a filter in front of us has turned into gRPC: nobody looked at what it says of itself.
    let stream = ask(shop(OURS).vm(), "GET", &[]);
    let came = answers(&stream, &status("14")).on();
    assert_eq!(came.header("grpc-message").as_deref(), Some("upstream_failure"));
    stream.finish().unwrap();
}

#[test]
fn a_failure_that_comes_in_trailers_is_not_touched() {
    for entry in [OURS, OURS_KNOWING] {
        let shop = shop(entry);
        let stream = ask(shop.vm(), "POST", &CALL);
        let given = Given {
            trailers: vec![("grpc-status", "14"), ("x-sum", "1")],
            ..given(&[(":status", "200"), ("content-type", "application/grpc")], &["message"])
        };
        let came = answers(&stream, &given).on();
        stream.finish().unwrap();
        assert_eq!((came.body(), came.header("x-resilience")), (b"message".to_vec(), None));
        assert_eq!(came.trailers, Some(headers(&[("grpc-status", "14"), ("x-sum", "1")])));
        assert_eq!((shop.metric(FAILED), fallbacks(&shop, "upstream_failure", "static")), (1, 0));
    }
}

/// Its status may still have it ignored.
#[test]
fn an_answer_whose_status_is_to_come_is_not_touched_either_where_that_may_be_no_evidence() {
    let rules = r#""outcome": {"ignore": {"grpc_status": ["ABORTED"]}}"#;
    let config = with_fallback(OURS).replacen("\"name\"", &format!("{rules}, \"name\""), 1);
    let shop = Shop::with(&config, 1);
    let stream = ask(shop.vm(), "POST", &CALL);
    let given = Given {
        trailers: vec![("grpc-status", "10")],
        ..given(&[(":status", "503"), ("content-type", "application/grpc")], &["message"])
    };
    assert_eq!(answers(&stream, &given).on().body(), b"message");
    stream.finish().unwrap();
    assert_eq!((shop.metric(FAILED), fallbacks(&shop, "upstream_failure", "static")), (0, 0));
}

#[test]
fn a_timeout_has_the_status_of_a_timeout() {
    let shop = shop(OURS);
    let stream = ask(shop.vm(), "POST", &CALL);
    describe(&stream, "response_timeout", 1 << 2);
    let answered = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "14")];
    let came = plays(&stream, &given(&answered, &[])).on();
    stream.finish().unwrap();
    assert_eq!(came.header("grpc-status").as_deref(), Some("4"));
    assert_eq!(came.header("grpc-message").as_deref(), Some("timeout"));
    assert_eq!(fallbacks(&shop, "timeout", "static"), 1);
}
