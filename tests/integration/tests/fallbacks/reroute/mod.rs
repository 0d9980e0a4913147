//! Another route of this Envoy takes what is refused: at most once, guarded by a policy of its own, marked and counted.

mod ends;
mod guard;
mod stale;
mod waits;

use crate::*;
use std::time::{Duration, Instant};

/// The policy that guards the spare upstream, with these sections; no request is its own.
fn guard(sections: Value) -> Value {
    with(fragile("guard", 1000, json!([])), sections)
}

fn elsewhere() -> Value {
    json!({"reroute": {"cluster": SPARE, "policy": "guard"}})
}

/// A policy that never lets anybody in.
fn shut(name: &str, fallback: Value) -> Value {
    let forced = json!({"circuit_breaker": {"mode": "forced_open", "consecutive_failures": 1}});
    with(fragile(name, 1, fallback), forced)
}

/// The operator's one route for all clusters.
fn by_cluster_header(manager: &mut Value) {
    let steered = &mut manager["route_config"]["virtual_hosts"][0]["routes"][0];
    *steered = json!({
        "name": "steered",
        "match": {"prefix": "/", "headers": [{"name": STEERING, "present_match": true}]},
        "route": {"cluster_header": STEERING, "timeout": "0s"},
    });
}

fn marked(answer: &Answer) -> Vec<String> {
    all(&answer.headers, "x-resilience")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_takes_the_other_route_whole() {
    let document = document(&[shut("shop", json!([elsewhere()])), guard(json!({}))]);
    for (way, shape) in [("match", (|_| ()) as fn(&mut Value)), ("cluster_header", by_cluster_header)] {
        let mut scene = Scene::shaped(&document, &[], &[], &[], shape).await;
        let mark = mark("shop", "circuit_open", "reroute");
        let mut sent = 0;
        for protocol in [Protocol::Http1, Protocol::Http2] {
            for _ in 0..WORKERS {
                let body = vec![b'.'; 200_000];
                let upload =
                    told(Request::post("/shop/orders", body), "whole; status=201; header=x-resilience:far");
                let answer = scene.ask(protocol, upload.header("x-order", "7")).await.answer;
                assert_eq!((answer.status, answer.text().as_str()), (201, "upstream\n"), "{way}");
                assert_eq!(marked(&answer), [format!("far, {mark}")], "{way}");
                for method in [Method::GET, Method::HEAD, Method::DELETE] {
                    let answer = scene.ask(protocol, Request::new(method.clone(), "/shop/cart")).await.answer;
                    assert_eq!((answer.status, marked(&answer)), (200, vec![mark.clone()]), "{way} {method}");
                }
                sent += 4;
            }
        }
        assert_eq!((scene.world.upstream.requests(), scene.spare.requests() as u64), (0, sent), "{way}");
        for request in scene.spare.received().iter().filter(|request| request.method == Method::POST) {
            assert_eq!(
                (request.path.as_str(), all(&request.headers, "x-order")),
                ("/shop/orders", vec!["7".to_owned()])
            );
            assert_eq!(all(&request.headers, STEERING), [SPARE], "it says once where it goes");
        }
        // Counted as what it is: refused by one, let through by the other.
        assert_eq!(scene.refused("shop", "circuit_open").await, sent);
        assert_eq!(scene.fallbacks("shop", "circuit_open", "reroute").await, sent);
        scene.edge.wait_calls("guard", calls(sent, 0, 0)).await;
        assert_eq!(scene.edge.calls("shop").await, Calls::default());
        assert_eq!(scene.edge.count(REJECTIONS, &[]).await, sent);
        assert_eq!(scene.edge.count(FALLBACKS, &[]).await, sent);
        assert_eq!(scene.edge.count(STALE, &[]).await, 0);
        scene.sound();
    }
}

/// Whoever sends the header has no say in where a request goes, be its path anybody's.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_arrives_with_the_header_is_refused() {
    let text = json!({"static": {"status": 200, "text": "Later."}});
    let policies =
        [shut("shop", json!([elsewhere(), text])), guard(json!({})), fragile("open", 1, json!([text]))];
    let scene = Scene::open(&document(&policies)).await;
    for path in ["/shop", "/open", "/guard", "/none", "/"] {
        for value in [SPARE, "upstream", ""] {
            for (protocol, request) in [
                (Protocol::Http1, Request::get(path)),
                (Protocol::Http2, Request::get(path)),
                (Protocol::Http2, Request::grpc(path)),
            ] {
                // Envoy ends a connection of HTTP/1.1 on which it answered 400.
                let forged = request.header(STEERING, value);
                let answer = send_once(scene.edge.address, protocol, forged).await.unwrap();
                let is_refused = answer.status == 400 || !answer.header("grpc-status").is_empty();
                assert!(is_refused && answer.body.is_empty(), "{path} {value:?}: {answer:?}");
                assert_eq!((marked(&answer), answer.header("location")), (Vec::new(), String::new()));
            }
        }
    }
    assert_eq!((scene.world.upstream.requests(), scene.spare.requests()), (0, 0));
    for metric in [REJECTIONS, FALLBACKS, STALE, "resilience_calls_total"] {
        assert_eq!(scene.edge.count(metric, &[]).await, 0, "{metric}");
    }
    scene.sound();
}

/// The guard lets it in; with its own policy it holds nothing any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_is_refused_and_goes_elsewhere_is_handed_back() {
    let sections = json!({
        "circuit_breaker": {
            "consecutive_failures": 1,
            "wait_duration_in_open_state": "50ms",
            "permitted_number_of_calls_in_half_open_state": 2,
            "max_wait_duration_in_half_open_state": FOR_EVER,
        },
        "bulkhead": {"max_concurrent_calls": 2},
    });
    let full = with(elsewhere(), json!({"on": ["bulkhead_full"]}));
    let shop = with(fragile("shop", 1, json!([full])), sections);
    let mut scene = Scene::open(&document(&[shop, guard(json!({}))])).await;
    let before = scene.hold("/shop").await;
    assert_eq!(scene.get("/shop", "status=500").await.status, 500);
    pass(Instant::now(), Duration::from_millis(50)).await;
    let probe = scene.hold("/shop").await;
    // There is a probe left, and no permit to go with it.
    for _ in 0..WORKERS {
        let answer = scene.ask(Protocol::Http1, Request::get("/shop")).await.answer;
        assert_eq!(marked(&answer), [mark("shop", "bulkhead_full", "reroute")]);
    }
    scene.world.upstream.release();
    for pending in [before, probe] {
        assert_eq!(pending.headers().await.expect("an answer").finish().await.status, 200);
    }
    scene.empty("shop").await;
    // It is still there: it closes the breaker.
    let answer = scene.ask(Protocol::Http1, Request::get("/shop")).await.answer;
    assert_eq!((answer.status, marked(&answer)), (200, Vec::new()));
    assert_eq!(scene.edge.transitions("shop", "closed", "probes").await, 1);
    assert_eq!(scene.spare.requests(), WORKERS);
    scene.sound();
}
