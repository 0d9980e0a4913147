//! Who waited in vain may go elsewhere, and may wait there again.

use super::*;

const WAITING: &str = "resilience_bulkhead_waiting";

/// One at a time, and who comes next waits for so long.
fn narrow(wait: &str) -> Value {
    json!({"bulkhead": {"max_concurrent_calls": 1, "max_wait_duration": wait, "max_queue": 20}})
}

async fn start(scene: &mut Scene, request: Request) -> Pending {
    scene.http2.next_worker().start(request).await.expect("a connection")
}

async fn finish(pending: Pending) -> Answer {
    pending.headers().await.expect("an answer").finish().await
}

/// A rerouted request that the spare upstream has in hand.
async fn hold_elsewhere(scene: &mut Scene) -> Pending {
    let before = scene.spare.requests();
    let pending = start(scene, told(Request::get("/shop"), "hang")).await;
    scene.spare.wait_requests(before + 1).await;
    pending
}

async fn waiting(scene: &Scene, policy: &str, expected: u64) {
    eventually(&format!("{expected} that wait by {policy}"), PATIENCE, async || {
        (scene.edge.gauge(WAITING, policy).await == Some(expected)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_at_the_end_of_a_wait_goes_elsewhere() {
    let shop = with(fragile("shop", 1000, json!([elsewhere()])), narrow("200ms"));
    let mut scene = Scene::open(&document(&[shop, guard(json!({}))])).await;
    let held = scene.hold("/shop").await;
    let mut pending = Vec::new();
    for _ in 0..2 * WORKERS {
        pending.push(start(&mut scene, Request::post("/shop", vec![b'.'; 100_000])).await);
    }
    for pending in pending {
        let answer = finish(pending).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "upstream\n"));
        assert_eq!(marked(&answer), [mark("shop", "bulkhead_full", "reroute")]);
    }
    assert_eq!((scene.world.upstream.requests(), scene.spare.requests()), (1, 2 * WORKERS));
    scene.world.upstream.release();
    assert_eq!(marked(&finish(held).await), Vec::<String>::new());
    let times = 2 * WORKERS as u64;
    assert_eq!(scene.refused("shop", "bulkhead_full").await, times);
    assert_eq!(scene.fallbacks("shop", "bulkhead_full", "reroute").await, times);
    scene.edge.wait_calls("guard", calls(times, 0, 0)).await;
    scene.edge.wait_calls("shop", calls(1, 0, 0)).await;
    scene.empty("shop").await;
    waiting(&scene, "shop", 0).await;
    scene.sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn so_does_one_that_the_breaker_refuses_by_then() {
    let shop = with(fragile("shop", 1, json!([elsewhere()])), narrow(FOR_EVER));
    let mut scene = Scene::open(&document(&[shop, guard(json!({}))])).await;
    let failing = start(&mut scene, told(Request::get("/shop"), "status=500; hang")).await;
    scene.world.upstream.wait_in_flight(1).await;
    let mut pending = Vec::new();
    for number in 1..=WORKERS as u64 {
        pending.push(start(&mut scene, Request::get("/shop")).await);
        waiting(&scene, "shop", number).await;
    }
    scene.world.upstream.release();
    assert_eq!(finish(failing).await.status, 500);
    for pending in pending {
        let answer = finish(pending).await;
        assert_eq!((answer.status, marked(&answer)), (200, vec![mark("shop", "circuit_open", "reroute")]));
    }
    assert_eq!((scene.world.upstream.requests(), scene.spare.requests()), (1, WORKERS));
    scene.empty("shop").await;
    scene.sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_sent_elsewhere_waits_there_for_its_turn() {
    let policies = [shut("shop", json!([elsewhere()])), guard(narrow(FOR_EVER))];
    let mut scene = Scene::open(&document(&policies)).await;
    let mut all = vec![hold_elsewhere(&mut scene).await];
    for number in 1..=2 * WORKERS as u64 {
        all.push(start(&mut scene, Request::get("/shop")).await);
        waiting(&scene, "guard", number).await;
    }
    // Who leaves meanwhile makes room for the others, and takes nothing along.
    for gone in all.drain(1..=2) {
        gone.abandon();
    }
    waiting(&scene, "guard", 2 * WORKERS as u64 - 2).await;
    assert_eq!(scene.spare.requests(), 1);
    scene.spare.release();
    for pending in all {
        let answer = finish(pending).await;
        assert_eq!((answer.status, marked(&answer)), (200, vec![mark("shop", "circuit_open", "reroute")]));
    }
    assert_eq!((scene.spare.requests(), scene.spare.max_in_flight()), (2 * WORKERS - 1, 1));
    scene.empty("guard").await;
    // What waited and left was sent nowhere.
    assert_eq!(scene.fallbacks("shop", "circuit_open", "reroute").await, 2 * WORKERS as u64 - 1);
    assert_eq!(scene.refused("shop", "circuit_open").await, 2 * WORKERS as u64 + 1);
    scene.sound();
}

/// What the caller is told is why it was refused first.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_in_vain_there_too_is_answered_by_the_next_entry() {
    let text = json!({"static": {"status": 503, "text": "%REASON%"}});
    let shop = with(fragile("shop", 1000, json!([elsewhere(), text])), narrow("150ms"));
    let mut scene = Scene::open(&document(&[shop, guard(narrow("150ms"))])).await;
    let held = scene.hold("/shop").await;
    let there = hold_elsewhere(&mut scene).await;
    let mut pending = Vec::new();
    for _ in 0..WORKERS {
        pending.push(start(&mut scene, Request::get("/shop")).await);
    }
    for pending in pending {
        let answer = finish(pending).await;
        assert_eq!((answer.status, answer.text().as_str()), (503, "bulkhead_full"));
        assert_eq!(marked(&answer), [mark("shop", "bulkhead_full", "static")]);
        assert_eq!(answer.header("retry-after"), "1");
    }
    let times = WORKERS as u64;
    assert_eq!((scene.world.upstream.requests(), scene.spare.requests()), (1, 1));
    assert_eq!(scene.refused("shop", "bulkhead_full").await, times + 1);
    assert_eq!(scene.refused("guard", "bulkhead_full").await, times);
    assert_eq!(scene.fallbacks("shop", "bulkhead_full", "static").await, times);
    scene.world.upstream.release();
    scene.spare.release();
    assert_eq!((finish(held).await.status, finish(there).await.status), (200, 200));
    assert_eq!(scene.fallbacks("shop", "bulkhead_full", "reroute").await, 1);
    for policy in ["shop", "guard"] {
        scene.empty(policy).await;
        waiting(&scene, policy, 0).await;
    }
    scene.sound();
}
