//! A reply from response headers: it takes the place of the whole answer, whatever there is of that.

use super::local::{CAUSES, Stage as Local};
use super::scene::{BOTH, Shape, Stage};
use resilience_test_harness::{Answer, Connection, Method, Protocol, Request, burst};

const H1: Protocol = Protocol::Http1;
const H2: Protocol = Protocol::Http2;

/// Each with whether its end is not there yet when our headers run.
fn shapes(protocol: Protocol) -> Vec<(Shape, bool)> {
    let shape = |name: &str| Shape::new(name, protocol);
    let large = vec![b'u'; 1 << 20];
    match protocol {
        H1 => vec![
            (shape("length 0").header("content-length", 0).pieces([]), false),
            (shape("204").status(204).pieces([]), false),
            (shape("304").status(304).pieces([]), false),
            (shape("length 3").header("content-length", 3).pieces([b"uuu"]), true),
            (shape("chunks").header("transfer-encoding", "chunked").pieces([b"0\r\n\r\n"]), true),
            (shape("1 MB").header("content-length", large.len()).pieces([&large]), true),
        ],
        H2 => vec![
            (shape("headers"), false),
            (shape("304").status(304), false),
            (shape("length 3").header("content-length", 3).pieces([b"uuu"]), true),
            (shape("empty").pieces([b""]), true),
            (shape("trailers").trailer("x-sum", "7").pieces([b"uuu"]), true),
            (shape("trailers alone").trailer("x-sum", "7").pieces([]), true),
            (shape("1 MB").pieces([&large]), true),
        ],
    }
}

const REPLY: &str = "reply status=599 details=mine body=ours h:x-a=b grpc=8";

/// Whether the callback returns that it stops or that it goes on.
const RETURNED: [&str; 2] = ["", "continue"];

fn assert_ours(answer: &Answer, body: &str, what: &str) {
    let found = (answer.status, answer.text(), answer.header("content-length"), answer.header("x-a"));
    assert_eq!(found, (599, body.to_owned(), "4".to_owned(), "b".to_owned()), "{what}");
    assert_eq!(answer.broken, None, "{what}");
}

fn assert_ours_to_grpc(answer: &Answer, what: &str) {
    let found = ["grpc-status", "grpc-message", "content-type", "x-a"].map(|name| answer.header(name));
    assert_eq!(found, ["8", "ours", "application/grpc", "b"], "{what}");
    assert_eq!((answer.status, answer.body.len(), answer.broken.is_none()), (200, 0, true), "{what}");
}

/// An upstream connection of HTTP/1.1 is closed unless the answer ended with its headers; one of HTTP/2 loses the stream.
#[tokio::test(flavor = "multi_thread")]
async fn it_replaces_an_answer_of_any_shape() {
    for up in BOTH {
        let mut stage = Stage::new(up).await;
        for (shape, unfinished) in shapes(up) {
            for returned in RETURNED {
                for (down, grpc) in [(H1, false), (H2, false), (H2, true)] {
                    let what = format!("{up:?} {} {down:?} grpc={grpc} {returned}", shape.name);
                    let request = if grpc { Request::grpc("/") } else { Request::get("/") };
                    let mut client = Connection::open(stage.edge, down).await.unwrap();
                    let told = format!("{REPLY} {returned}");
                    let exchange = stage.play(&mut client, request, &shape, &told).await;
                    let answer = exchange.answer.as_ref().unwrap();
                    if grpc {
                        assert_ours_to_grpc(answer, &what);
                    } else {
                        assert_ours(answer, "ours", &what);
                    }
                    // Not a second time, and nothing of the upstream's body.
                    assert_eq!(exchange.callbacks(), ["headers"], "{what}");
                    let code = if grpc { "200" } else { "599" };
                    assert_eq!(exchange.end(), format!("{code} mine -"), "{what}");
                    let before = stage.origin.connections;
                    stage.another(&mut client, &what).await;
                    let closed = up == H1 && unfinished;
                    assert_eq!(stage.origin.connections != before, closed, "{what}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn to_head_it_is_headers_with_the_length_of_the_body_that_is_not_sent() {
    for up in BOTH {
        let mut stage = Stage::new(up).await;
        let shape = Shape::new("length 3", up).header("content-length", 3);
        let shape = if up == H1 { shape.pieces([]) } else { shape };
        for (down, returned) in BOTH.into_iter().flat_map(|down| RETURNED.map(|returned| (down, returned))) {
            let told = format!("{REPLY} {returned}");
            let head = Request::new(Method::HEAD, "/");
            let (answer, exchange) = stage.play_well(down, head, &shape, &told).await;
            assert_ours(&answer, "", &told);
            assert_eq!((exchange.callbacks(), exchange.end().as_str()), (vec!["headers"], "599 mine -"));
        }
    }
}

/// The details are ours then, the flags still Envoy's. There is one trace of the reply that was replaced: where Envoy gave it
/// while it took the request in, its body may still run through our body callback.
#[tokio::test(flavor = "multi_thread")]
async fn it_replaces_a_reply_of_envoys_own() {
    let mut stage = Local::new(|_| ()).await;
    for cause in CAUSES {
        for returned in RETURNED {
            let told = format!("on-response {REPLY} {returned}; go");
            for (down, method) in [
                (H1, Method::GET),
                (H2, Method::GET),
                (H2, Method::POST),
                (H1, Method::HEAD),
                (H2, Method::HEAD),
            ] {
                let what = format!("{cause:?} {down:?} {method} {returned}");
                let (answer, callbacks, end) = stage.send(down, cause.request(&method), &told).await;
                assert_ours(&answer, if method == Method::HEAD { "" } else { "ours" }, &what);
                let traced = cause.at_once && (down, &method) == (H2, &Method::GET);
                let expected: &[&str] = if traced { &["headers", "body_end"] } else { &["headers"] };
                assert_eq!(callbacks, expected, "{what}");
                assert_eq!(end, ["599", cause.end[0], "mine"], "{what}");
            }
            let (answer, callbacks, end) = stage.send(H2, cause.call(), &told).await;
            assert_ours_to_grpc(&answer, &format!("{cause:?} {returned}"));
            assert_eq!((callbacks, end[2].as_str()), (vec!["headers".to_owned()], "mine"), "{cause:?}");
        }
    }
}

/// Many at once, with every way to answer and every method in turn.
#[tokio::test(flavor = "multi_thread")]
async fn many_in_turn_are_all_well_formed() {
    let mut stage = Local::new(|_| ()).await;
    let in_place = "rewrite status=599 h:content-length=4 h:x-a=b body=ours";
    let in_pieces = "whole;status=500;chunked;body=uuuu";
    for (path, behave) in [
        ("/", in_pieces),
        ("/", "whole;status=500;hang-mid-body;body=uuuu"),
        ("/none", ""),
        ("/direct", ""),
        ("/refused", ""),
    ] {
        for (down, told) in BOTH.into_iter().flat_map(|down| [in_place, REPLY].map(|told| (down, told))) {
            if told == in_place && behave.contains("hang") {
                continue;
            }
            // A client of HTTP/1.1 may have to close behind a POST, and the burst would race with that.
            let methods = [Method::GET, Method::HEAD, if down == H1 { Method::GET } else { Method::POST }];
            let method = |number: usize| methods[number % 3].clone();
            let answers = burst(stage.edge, down, 200, 20, |number| {
                let request = match method(number) {
                    Method::POST => Request::post(path, "body"),
                    other => Request::new(other, path),
                };
                let request = request.header("x-probe", format!("on-response {told}; go"));
                if behave.is_empty() { request } else { request.header("x-behave", behave) }
            });
            for (number, answer) in answers.await.into_iter().enumerate() {
                let what = format!("{path} {behave} {down:?} {told} {number}");
                let body = if method(number) == Method::HEAD { "" } else { "ours" };
                assert_ours(&answer.unwrap_or_else(|error| panic!("{what}: {error}")), body, &what);
            }
            stage.upstream.release();
            assert!(stage.envoy.is_running());
        }
    }
}
