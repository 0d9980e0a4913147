//! The body of an upstream's answer, replaced piece by piece under headers that were rewritten.

use super::scene::{BOTH, Shape, Stage};
use resilience_host_contract::all_events;
use resilience_test_harness::{Connection, Protocol, Request};

fn sizes() -> [(&'static str, Vec<Vec<u8>>); 3] {
    [
        ("1 byte", vec![b"u".to_vec()]),
        ("5 pieces", vec![b"uuu".to_vec(); 5]),
        ("1 MB", vec![vec![b'u'; 1 << 20]]),
    ]
}

/// What we rely on: ours in place of the first piece, nothing of what follows (3 drops it), an empty last piece. However long either
/// body is, and whatever a connection may hold.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_piece_is_replaced_and_the_others_are_dropped() {
    for up in BOTH {
        let mut stage = Stage::new(up).await;
        for (size, pieces) in sizes() {
            let shapes = Shape::of_every_framing(size, &pieces);
            for shape in shapes.iter().filter(|shape| shape.protocol == up) {
                for (ours, length, framing) in [
                    ("body=", 0, "remove=content-length"),
                    ("body=ours", 4, "h:content-length=4"),
                    ("fill=200000", 200_000, "remove=content-length"),
                    ("fill=200000", 200_000, "h:content-length=200000"),
                ] {
                    let told = format!("rewrite status=503 h:content-type=text/ours {framing} {ours}");
                    for down in BOTH {
                        let what = format!("{} {down:?} {told}", shape.name);
                        let (answer, exchange) = stage.play_well(down, Request::get("/"), shape, &told).await;
                        let head = (answer.status, answer.header("content-type"));
                        assert_eq!(head, (503, "text/ours".to_owned()), "{what}");
                        assert_eq!(answer.body.len(), length, "{what}");
                        assert!(!answer.body.contains(&b'u') || ours == "body=ours", "{what}");
                        // As it was set, or as the protocol has it without.
                        let chunked = framing.starts_with("remove") && down == Protocol::Http1;
                        let set = framing.strip_prefix("h:content-length=").unwrap_or_default();
                        assert_eq!(answer.header("content-length"), set, "{what}");
                        assert_eq!(answer.headers.contains_key("transfer-encoding"), chunked, "{what}");
                        assert!(exchange.said().iter().all(|said| said.split('|').all(|one| one == "ok")));
                        assert_eq!(exchange.end(), "503 via_upstream -", "{what}");
                        assert!(exchange.callbacks().len() > pieces.len(), "{what}");
                    }
                }
            }
        }
    }
}

/// In HTTP/1.1 the end is always told with an empty piece, in HTTP/2 with the last frame.
#[tokio::test(flavor = "multi_thread")]
async fn pieces_come_as_they_were_sent() {
    for up in BOTH {
        let mut stage = Stage::new(up).await;
        for shape in Shape::of_every_framing("", &sizes()[1].1).iter().filter(|shape| shape.protocol == up) {
            let told = "rewrite remove=content-length body=ours";
            let (_, exchange) = stage.play_well(Protocol::Http1, Request::get("/"), shape, told).await;
            let before_the_end = if shape.name.starts_with("h2 with a length") { 4 } else { 5 };
            let expected = [vec!["headers"], vec!["body"; before_the_end], vec!["body_end"]].concat();
            assert_eq!(exchange.callbacks(), expected, "{}", shape.name);
            // The headers, the first piece, the last.
            assert_eq!(exchange.said().len(), 3, "{}", shape.name);
        }
    }
}

/// A client of HTTP/2 gets no frame for a piece that was dropped, and none for one that was emptied.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_dropped_is_no_empty_frame() {
    for up in BOTH {
        let mut stage = Stage::new(up).await;
        for middle in ["3", "0"] {
            let shape =
                &Shape::of_every_framing("", &sizes()[1].1)[if up == Protocol::Http1 { 0 } else { 2 }];
            let told = format!("rewrite remove=content-length body=ours middle={middle}");
            let mut client = Connection::open(stage.edge, Protocol::Http2).await.unwrap();
            let (pending, case) = stage.start(&mut client, Request::get("/"), &told).await;
            stage.answer(shape, &case).await;
            let mut answer = pending.headers().await.unwrap();
            let mut frames = Vec::new();
            while let Some(frame) = answer.chunk().await.unwrap() {
                frames.push(frame.len());
            }
            assert_eq!(frames, [4, 0], "{up:?} {middle}");
        }
    }
}

/// Why pieces are not held back (1): what a connection may hold is all that Envoy keeps.
#[tokio::test(flavor = "multi_thread")]
async fn held_back_pieces_break_an_answer_that_outgrows_the_buffer() {
    for up in BOTH {
        let mut stage = Stage::new(up).await;
        let shape = &Shape::of_every_framing("", &sizes()[2].1)[if up == Protocol::Http1 { 0 } else { 2 }];
        let told = "rewrite status=503 remove=content-length body=ours middle=1";
        let mut client = Connection::open(stage.edge, Protocol::Http1).await.unwrap();
        let exchange = stage.play(&mut client, Request::get("/"), shape, told).await;
        assert_eq!(exchange.end(), "503 response_payload_too_large -", "{up:?}");
        assert!(exchange.answer.unwrap().broken.is_some(), "{up:?}");
    }
}

/// An answer that is whole for the client is not over for Envoy before the upstream's is.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_request_of_http1_waits_for_the_end_of_the_upstreams_answer() {
    let mut stage = Stage::new(Protocol::Http1).await;
    let pieces = [&b"uuu"[..], b"uuu"];
    let shape = Shape::new("two pieces", Protocol::Http1).header("content-length", 6).pieces(pieces);
    let mut client = Connection::open(stage.edge, Protocol::Http1).await.unwrap();
    let told = "rewrite h:content-length=4 body=ours";
    let (pending, case) = stage.start(&mut client, Request::get("/"), told).await;
    stage.begin(&shape, &case).await;
    let answer = pending.headers().await.unwrap().finish().await;
    assert_eq!((answer.text().as_str(), answer.broken), ("ours", None));
    let next = Request::get("/").header("x-case", "next");
    let next = client.start(next).await.unwrap();
    stage.finish(&shape).await;
    all_events(&stage.envoy, "probe", &case).await;
    stage.origin.request().await;
    stage.origin.head(200, &[("content-length", "0")], false).await;
    assert_eq!(next.headers().await.unwrap().status, 200);
    all_events(&stage.envoy, "probe", "next").await;
    let lines = stage.envoy.log_lines();
    let at = |case: &str, event: &str| {
        let fields = format!("\tcase={case}\tevent={event}\t");
        lines.iter().position(|line| line.contains(&fields)).expect("an event")
    };
    assert!(at(&case, "log") < at("next", "request_headers"));
}
