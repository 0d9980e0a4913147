//! A request that is not paused and that a tick answers, at each stage of its way.

use crate::scene::{Scene, place};
use resilience_host_contract::{Event, Peer, all_events, listen};
use resilience_test_harness::{Connection, Protocol, Request};

/// More than Envoy, and the kernel on the way, hold for an upstream that does not read.
const LARGE: usize = 32 << 20;

fn seen(events: &[Event]) -> Vec<[String; 4]> {
    let seen = |event: &Event| {
        [
            event.name().to_owned(),
            event.get("details").to_owned(),
            event.flags(),
            event.get("attempts").to_owned(),
        ]
    };
    events.iter().map(seen).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn measure_uploading() {
    let (upstream, address) = listen().await;
    let mut scene = Scene::to(address).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let case = format!("up-{protocol:?}");
        let mut client = Connection::open(scene.edge, protocol).await.unwrap();
        let request = Request::post("/", vec![b'#'; LARGE]).header("x-case", &case);
        let pending = client.start(request).await.unwrap();
        let mut server = Peer::accept(&upstream).await;
        server.until_text("####").await;
        let at = place(&scene.envoy, "probe", &case).await;
        let said =
            scene.at_tick(at.vm, &format!("{case}-tick"), &format!("refuse stream={}", at.stream)).await;
        eprintln!("{case}: {said:?}");
        let answer = pending.headers().await;
        eprintln!("{case}: {answer:?}");
        server.until_closed().await;
        eprintln!("{case}: {:?}", seen(&all_events(&scene.envoy, "probe", &case).await));
    }
    assert!(scene.envoy.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn measure_waiting_for_answer() {
    let mut scene = Scene::new().await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for (what, request) in [("get", Request::get("/")), ("post", Request::post("/", "body"))] {
            for behave in ["hang", "hang-mid-body"] {
                let case = format!("{behave}-{what}-{protocol:?}");
                let mut client = Connection::open(scene.edge, protocol).await.unwrap();
                let request = request.clone().header("x-behave", behave).header("x-case", &case);
                let pending = client.start(request).await.unwrap();
                scene.upstream.wait_in_flight(1).await;
                let at = place(&scene.envoy, "probe", &case).await;
                let mut streaming = None;
                let mut waiting = None;
                if behave == "hang" {
                    waiting = Some(pending)
                } else {
                    let mut s = pending.headers().await.unwrap();
                    s.chunk().await.unwrap();
                    streaming = Some(s)
                }
                let said = scene
                    .at_tick(at.vm, &format!("{case}-tick"), &format!("refuse stream={}", at.stream))
                    .await;
                eprintln!("{case}: {said:?}");
                if let Some(pending) = waiting {
                    let answer = pending.headers().await.unwrap().finish().await;
                    eprintln!("{case}: {answer:?}");
                }
                if let Some(streaming) = streaming {
                    eprintln!("{case}: {:?}", streaming.finish().await);
                }
                scene.upstream.wait_in_flight(0).await;
                eprintln!("{case}: {:?}", seen(&all_events(&scene.envoy, "probe", &case).await));
                assert!(scene.envoy.is_running());
            }
        }
    }
}
