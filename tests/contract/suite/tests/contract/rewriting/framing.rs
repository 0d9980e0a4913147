//! What headers and trailers may say of a body that is ours: where there is one to put in, and where there is none.

use super::scene::{BOTH, Shape, Stage};
use resilience_test_harness::{Method, Protocol, Request};

const H1: Protocol = Protocol::Http1;
const H2: Protocol = Protocol::Http2;

/// Answers whose last piece has no bytes, with none before it.
fn empty() -> [Shape; 3] {
    [
        Shape::new("h1 chunks", H1).header("transfer-encoding", "chunked").pieces([b"0\r\n\r\n"]),
        Shape::new("h2 empty", H2).pieces([b""]),
        Shape::new("h2 empty, length 0", H2).header("content-length", 0).pieces([b""]),
    ]
}

/// Answers that end with their headers.
fn bodiless() -> [Shape; 6] {
    [
        Shape::new("h1 length 0", H1).header("content-length", 0).pieces([]),
        Shape::new("h1 204", H1).status(204).pieces([]),
        Shape::new("h1 304", H1).status(304).header("content-length", 5).pieces([]),
        Shape::new("h2", H2),
        Shape::new("h2 length 0", H2).header("content-length", 0),
        Shape::new("h2 304", H2).status(304).header("content-length", 5),
    ]
}

/// Answers with trailers, behind a body or behind nothing.
fn with_trailers(body: bool) -> [Shape; 2] {
    let (chunk, data): (&[u8], &[u8]) = (b"3\r\nuuu\r\n", b"uuu");
    let h1 = Shape::new("h1 trailers", H1).header("transfer-encoding", "chunked");
    let h2 = Shape::new("h2 trailers", H2).trailer("x-sum", "7");
    let end = b"0\r\nx-sum: 7\r\n\r\n";
    if body { [h1.pieces([chunk, end]), h2.pieces([data])] } else { [h1.pieces([end]), h2.pieces([])] }
}

/// Where the upstream may or may not have said how long its body is, or that it comes in chunks.
const FRAMINGS: [&str; 3] = [
    "h:content-length=4",
    "remove=content-length",
    "remove=content-length,transfer-encoding h:content-length=4",
];

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_last_piece_takes_a_body() {
    for up in BOTH {
        let mut stage = Stage::new(up).await;
        for shape in empty().iter().filter(|shape| shape.protocol == up) {
            for framing in FRAMINGS {
                for down in BOTH {
                    let told = format!("rewrite status=503 {framing} body=ours");
                    let (answer, exchange) = stage.play_well(down, Request::get("/"), shape, &told).await;
                    let what = format!("{} {down:?} {told}", shape.name);
                    assert_eq!((answer.status, answer.text().as_str()), (503, "ours"), "{what}");
                    // Beside a length there are no chunks, whoever said that there were.
                    let chunked = down == H1 && framing == FRAMINGS[1];
                    assert_eq!(answer.headers.contains_key("transfer-encoding"), chunked, "{what}");
                    assert_eq!(exchange.callbacks(), ["headers", "body_end"], "{what}");
                }
            }
        }
    }
}

/// Without a length it is well-formed; with one it is a promise that nothing keeps.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_ends_with_its_headers_takes_no_body() {
    for up in BOTH {
        let mut stage = Stage::new(up).await;
        for shape in bodiless().iter().filter(|shape| shape.protocol == up) {
            for down in BOTH {
                let told = "rewrite status=503 remove=content-length early body=ours";
                let (answer, exchange) = stage.play_well(down, Request::get("/"), shape, told).await;
                let what = format!("{} {down:?}", shape.name);
                assert_eq!((answer.status, answer.text().as_str()), (503, ""), "{what}");
                let length = if down == H1 { "0" } else { "" };
                assert_eq!(answer.header("content-length"), length, "{what}");
                assert_eq!(exchange.callbacks(), ["headers"], "{what}");
                assert_eq!(exchange.events[1].get("bodiless"), "yes", "{what}");
                // A body cannot be written before its callback.
                assert_eq!(exchange.said(), ["ok|ok|E2"], "{what}");
                let told = "rewrite status=503 h:content-length=4 body=ours";
                stage.play_ill(down, Method::GET, shape, told).await;
            }
        }
    }
}

/// Nor does one whose headers are followed by its trailers, of which the headers do not tell: a length of ours is safe only
/// where the upstream's own was above 0.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_headers_and_trailers_takes_no_body() {
    for up in BOTH {
        let mut stage = Stage::new(up).await;
        for shape in with_trailers(false).iter().filter(|shape| shape.protocol == up) {
            for down in BOTH {
                for (kept, trailers) in [("", "7"), ("no-trailers", "")] {
                    let told = format!("rewrite status=503 remove=content-length body=ours {kept}");
                    let (answer, exchange) = stage.play_well(down, Request::get("/"), shape, &told).await;
                    let what = format!("{} {down:?} {told}", shape.name);
                    assert_eq!((answer.status, answer.text().as_str()), (503, ""), "{what}");
                    assert_eq!(answer.trailer("x-sum"), trailers, "{what}");
                    assert_eq!(exchange.callbacks(), ["headers", "trailers"], "{what}");
                    assert_eq!(exchange.events[1].get("bodiless"), "no", "{what}");
                    assert!(exchange.said()[1].starts_with("E2"), "{what}");
                }
                let told = "rewrite status=503 h:content-length=4 body=ours";
                stage.play_ill(down, Method::GET, shape, told).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_behind_a_body_stay_or_go() {
    for up in BOTH {
        let mut stage = Stage::new(up).await;
        for shape in with_trailers(true).iter().filter(|shape| shape.protocol == up) {
            for framing in FRAMINGS {
                for down in BOTH {
                    for kept in ["", "no-trailers"] {
                        let told = format!("rewrite status=503 {framing} body=ours {kept}");
                        let (answer, exchange) = stage.play_well(down, Request::get("/"), shape, &told).await;
                        let what = format!("{} {down:?} {told}", shape.name);
                        assert_eq!((answer.status, answer.text().as_str()), (503, "ours"), "{what}");
                        // In HTTP/1.1 there are trailers only behind chunks.
                        let goes = !kept.is_empty() || (down == H1 && framing != FRAMINGS[1]);
                        assert_eq!(answer.trailer("x-sum"), if goes { "" } else { "7" }, "{what}");
                        assert_eq!(answer.trailers.is_empty(), goes, "{what}");
                        assert_eq!(exchange.callbacks(), ["headers", "body", "trailers"], "{what}");
                    }
                }
            }
        }
    }
}

/// An upstream's answer with a body, in each protocol.
fn with_body() -> [Shape; 2] {
    [
        Shape::new("h1 length 3", H1).header("content-length", 3).pieces([b"uuu"]),
        Shape::new("h2 length 3", H2).header("content-length", 3).pieces([b"uuu"]),
    ]
}

/// With the length removed, Envoy writes what the status allows.
#[tokio::test(flavor = "multi_thread")]
async fn a_status_may_become_one_without_a_body() {
    for up in BOTH {
        let mut stage = Stage::new(up).await;
        let shapes: Vec<Shape> = with_body().into_iter().chain(bodiless()).chain(empty()).collect();
        for shape in shapes.iter().filter(|shape| shape.protocol == up) {
            for status in [200, 204, 205, 304, 503] {
                for down in BOTH {
                    let told = format!("rewrite status={status} remove=content-length body=");
                    let (answer, _) = stage.play_well(down, Request::get("/"), shape, &told).await;
                    let what = format!("{} {down:?} {told}", shape.name);
                    assert_eq!((answer.status, answer.body.len()), (status, 0), "{what}");
                    let framed = ["content-length", "transfer-encoding"].map(|name| answer.header(name));
                    let expected = match (down, status) {
                        (H2, _) | (H1, 204 | 304) => ["", ""],
                        (H1, _) if bodiless().iter().any(|other| other.name == shape.name) => ["0", ""],
                        (H1, _) => ["", "chunked"],
                    };
                    assert_eq!(framed, expected, "{what}");
                }
            }
        }
    }
}

/// Envoy writes what it is given: nothing may be put in where the status or the method has no body, and the
/// upstream's own length may not stay where its body does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_where_there_must_be_none_and_a_length_that_is_not_ours_break_the_answer() {
    for up in BOTH {
        let mut stage = Stage::new(up).await;
        for shape in with_body().iter().filter(|shape| shape.protocol == up) {
            for down in BOTH {
                stage.play_ill(down, Method::GET, shape, "rewrite status=503 body=").await;
            }
            for status in [204, 304] {
                let told = format!("rewrite status={status} remove=content-length body=ours");
                stage.play_ill(H1, Method::GET, shape, &told).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_head_may_have_any_length_and_no_body() {
    let length_3 = |protocol| Shape::new("length 3", protocol).header("content-length", 3);
    for (shape, down) in
        [length_3(H1).pieces([]), length_3(H2)].into_iter().flat_map(|s| BOTH.map(|down| (s.clone(), down)))
    {
        let mut stage = Stage::new(shape.protocol).await;
        let head = || Request::new(Method::HEAD, "/");
        for (framing, length) in [("h:content-length=4", "4"), ("remove=content-length", "")] {
            let told = format!("rewrite status=503 {framing} body=ours");
            let (answer, exchange) = stage.play_well(down, head(), &shape, &told).await;
            assert_eq!((answer.status, answer.header("content-length")), (503, length.to_owned()));
            assert_eq!((answer.body.len(), exchange.callbacks()), (0, vec!["headers"]));
        }
    }
    // Nothing in HTTP/2 keeps an upstream from ending such an answer with an empty frame: then there is a callback.
    let mut stage = Stage::new(H2).await;
    for down in BOTH {
        let told = "rewrite status=503 remove=content-length body=ours";
        stage.play_ill(down, Method::HEAD, &empty()[1], told).await;
        let told = "rewrite status=503 remove=content-length body=";
        let (answer, exchange) =
            stage.play_well(down, Request::new(Method::HEAD, "/"), &empty()[1], told).await;
        assert_eq!((answer.status, exchange.callbacks()), (503, vec!["headers", "body_end"]));
    }
}
