//! A policy that serves its fallback always, and policies that only watch.

use crate::*;

fn text(text: &str) -> Value {
    json!({"static": {"status": 200, "text": text}})
}

/// A feature that is switched off: what is degraded is so for everybody, and its upstream hears of nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_feature_switch_serves_its_fallback_always() {
    let forced = json!({"circuit_breaker": {"mode": "forced_open", "consecutive_failures": 1}});
    let off = with(fragile("reviews", 1, json!([text("No reviews.")])), forced.clone());
    let moved = with(fragile("mail", 1, json!([{"reroute": {"cluster": SPARE, "policy": "guard"}}])), forced);
    let mut scene = Scene::open(&document(&[off, moved, fragile("guard", 1, json!([]))])).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for _ in 0..2 * WORKERS {
            let Played { case, answer } = scene.ask(protocol, Request::get("/reviews/7")).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "No reviews."));
            assert_eq!(answer.header("x-resilience"), mark("reviews", "circuit_open", "static"));
            assert_eq!(answer.header("retry-after"), "", "nobody knows when");
            assert_eq!(scene.logged(&case).await, "200 resilience:reviews:circuit_open");
            let answer = scene.ask(protocol, Request::post("/mail", "a letter")).await.answer;
            assert_eq!(
                (answer.status, answer.header("x-resilience")),
                (200, mark("mail", "circuit_open", "reroute"))
            );
        }
    }
    let answer = scene.ask(Protocol::Http2, Request::grpc("/reviews/Get")).await.answer;
    assert_eq!(
        (answer.header("grpc-status"), answer.header("grpc-message")),
        ("14".into(), "circuit_open".into())
    );
    let times = 4 * WORKERS as u64;
    assert_eq!((scene.world.upstream.requests(), scene.spare.requests() as u64), (0, times));
    assert_eq!(scene.fallbacks("reviews", "circuit_open", "static").await, times + 1);
    assert_eq!(scene.refused("reviews", "circuit_open").await, times + 1);
    assert_eq!(scene.edge.calls("reviews").await, Calls::default());
    assert_eq!(scene.edge.state("reviews").await, Some(2));
    scene.sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_in_shadow_mode_replaces_nothing_and_counts_what_it_would() {
    let entries = json!([{"on": ["failure"], "status": [500, 503], "static": {"status": 200, "text": "Later."}}, {"on": ["reset", "refusal"], "fail": {"status": 502}}]);
    let sections = json!({
        "mode": "shadow",
        "circuit_breaker": {"consecutive_failures": 6, "wait_duration_in_open_state": FOR_EVER},
        "bulkhead": {"max_concurrent_calls": 1},
    });
    let policies = [
        with(fragile("shop", 1, entries), sections),
        with(fragile("off", 1, json!([text("Later.")])), json!({"mode": "disabled"})),
    ];
    let route = route_of("refused", "/shop/refused").expect("a route");
    let mut scene = Scene::routed(&document(&policies), &[route]).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for (path, words, status) in [
            ("/shop", "status=500; header=etag:x", 500),
            ("/shop", "status=503; body=; header=etag:x", 503),
            // No entry is for it.
            ("/shop", "status=501; header=etag:x", 501),
            ("/shop/refused", "", 503),
            ("/shop", "status=200; header=etag:x", 200),
            ("/off", "status=500; header=etag:x", 500),
        ] {
            let Played { case, answer } = scene.ask(protocol, told(Request::get(path), words)).await;
            let what = format!("{path} {words} over {protocol:?}");
            assert_eq!((answer.status, all(&answer.headers, "x-resilience")), (status, Vec::new()), "{what}");
            assert!(!scene.logged(&case).await.contains("resilience"), "{what}");
            if words.contains("etag") {
                assert_eq!(answer.header("etag"), "x", "{what}");
            }
        }
    }
    let would = async |scene: &Scene, reason| {
        scene.edge.count(SHADOW, &[("policy", "shop"), ("reason", reason)]).await
    };
    assert_eq!((would(&scene, "upstream_failure").await, would(&scene, "connect_failure").await), (4, 2));
    // Two runs of four failures have not opened it; one of six would.
    assert_eq!(would(&scene, "circuit_open").await, 0);
    for _ in 0..6 {
        assert_eq!(scene.get("/shop", "status=501").await.status, 501);
    }
    assert_eq!(scene.edge.transitions("shop", "open", "consecutive_failures").await, 1);
    let (held, more) = (scene.hold("/shop").await, scene.hold("/shop").await);
    assert_eq!(scene.get("/shop", "close").await.header("x-resilience"), "");
    scene.world.upstream.release();
    for pending in [held, more] {
        assert_eq!(pending.headers().await.expect("an answer").finish().await.status, 200);
    }
    assert_eq!((would(&scene, "reset").await, would(&scene, "circuit_open").await), (1, 3));
    assert!(would(&scene, "bulkhead_full").await >= 1);
    for metric in [FALLBACKS, REJECTIONS] {
        assert_eq!(scene.edge.count(metric, &[]).await, 0, "{metric}");
    }
    scene.sound();
}

/// The fallback is the policy's: a pattern that only watches does not keep it from answering.
#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_in_shadow_mode_does_not_keep_failures_from_being_replaced() {
    let sections = json!({"circuit_breaker": {"mode": "shadow", "consecutive_failures": 1, "wait_duration_in_open_state": FOR_EVER}});
    let mut scene =
        Scene::open(&document(&[with(fragile("shop", 1, json!([text("Later.")])), sections)])).await;
    for number in 1..=2 * WORKERS as u64 {
        let answer = scene.get("/shop", "status=500").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "Later."));
        assert_eq!(answer.header("x-resilience"), mark("shop", "upstream_failure", "static"));
        assert_eq!(scene.world.upstream.requests() as u64, number);
    }
    let labels = [("policy", "shop"), ("reason", "circuit_open")];
    scene.edge.wait_count(SHADOW, &labels, 2 * WORKERS as u64 - 1).await;
    assert_eq!(scene.refused("shop", "circuit_open").await, 0);
    scene.sound();
}
