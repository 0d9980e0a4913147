//! An upstream that breaks off behind headers that were rewritten.

use super::scene::{BOTH, Shape, Stage, ended};
use crate::since;
use resilience_host_contract::all_events;
use resilience_test_harness::{Connection, Protocol, Request};

fn shapes(protocol: Protocol) -> Vec<(Shape, bool)> {
    let shape = Shape::new("", protocol);
    let shape = match protocol {
        Protocol::Http1 => shape.header("content-length", 100),
        Protocol::Http2 => shape,
    };
    // The last piece is not sent.
    let some = shape.clone().pieces([b"uuu", b"uuu", b""]);
    vec![(some, true), (shape.pieces([b""]), false)]
}

/// What the client has of ours is not taken back, and nothing comes in the place of what is missing.
#[tokio::test(flavor = "multi_thread")]
async fn the_client_sees_the_break_unless_it_has_all_that_was_promised() {
    for up in BOTH {
        let mut stage = Stage::new(up).await;
        for ((shape, began), down) in
            shapes(up).into_iter().flat_map(|each| BOTH.map(|down| (each.clone(), down)))
        {
            for framing in ["remove=content-length", "h:content-length=4"] {
                let what = format!("{up:?} {began} {down:?} {framing}");
                let mut client = Connection::open(stage.edge, down).await.unwrap();
                let told = format!("rewrite status=503 {framing} body=ours");
                let (pending, case) = stage.start(&mut client, Request::get("/"), &told).await;
                stage.begin(&shape, &case).await;
                let answer = pending.headers().await.unwrap();
                stage.origin.reset().await;
                let answer = answer.finish().await;
                let ours = if began { "ours" } else { "" };
                assert_eq!((answer.status, answer.text().as_str()), (503, ours), "{what}");
                let whole = began && framing.starts_with("h:");
                // Before 1.37 Envoy resets the client's HTTP/2 stream without an error, which is no end but looks like one.
                let told_of = if down == Protocol::Http1 { !whole } else { since(1, 37) };
                assert_eq!(answer.broken.is_some(), told_of, "{what}: {:?}", answer.broken);
                let events = all_events(&stage.envoy, "probe", &case).await;
                let reason = if up == Protocol::Http1 { "protocol_error} UPE" } else { "remote_reset} UR" };
                let expected = format!("503 upstream_reset_after_response_started{{{reason}");
                assert_eq!(ended(&events), expected, "{what}");
            }
        }
    }
}
