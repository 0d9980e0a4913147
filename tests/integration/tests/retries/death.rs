//! A worker's VM dies and had retries reserved: nobody knows whether Envoy makes them, so they count as made.

use crate::*;

/// How long what a dead VM held stays counted after its last sign of life, and how often a VM shows one.
const LEASE: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_vm_had_reserved_counts_as_used_and_comes_back_with_its_window() {
    // All that it had comes back at most 19 s after its lease.
    let budget = json!({"percent_can_retry": 0, "min_retries_per_second": 2, "ttl": "10s"});
    let policy = guarded("shop", &json!({"retry": {"max_retries": 3}, "retry_budget": budget}));
    let upstream = Upstream::start().await;
    let edge = Edge::trappable(upstream.addr(), &policy).await;
    let mut stage = Stage::of(upstream, edge).await;
    wait_balance(&stage.edge, "shop", 20).await;
    let mut doomed = Vec::new();
    for number in 0..2 {
        let reached = stage.upstream.requests();
        let hanging = get(number).header("x-behave", "hang");
        doomed.push(stage.clients.worker(0).start(hanging).await.unwrap());
        stage.upstream.wait_requests(reached + 1).await;
    }
    // Three, and then a quarter of a half: two.
    wait_balance(&stage.edge, "shop", 15).await;
    let before = Instant::now();
    kill(&stage.edge, stage.clients.worker(0)).await;
    // The others go on, and the worker itself.
    for worker in 0..WORKERS {
        let before = stage.upstream.requests();
        let failing = get(format!("after-{worker}")).header("x-behave", "status=503");
        assert_eq!(stage.clients.worker(worker).send(failing).await.unwrap().status, 503);
        assert!(stage.upstream.requests() - before > 1, "worker {worker} is granted nothing");
    }
    let (_, made) = stage.upstream.distinct_and_repeated();
    wait_balance(&stage.edge, "shop", 15 - made as u64).await;
    // Only if they are taken for used can all be back: reservations would stay for ever.
    eventually("all retries", 3 * PATIENCE, async || {
        (stage.edge.gauge(BALANCE, "shop").await == Some(20)).then_some(())
    })
    .await;
    let least = LEASE - TICK + 9 * SECOND;
    assert!(
        before.elapsed() >= least,
        "given back after {:?}, as if they had not been used",
        before.elapsed()
    );
    // What the dead one had is not settled once more when it ends.
    for pending in doomed {
        pending.abandon();
    }
    stage.upstream.wait_in_flight(0).await;
    assert!(stage.attempts_of_failing(get("last")).await > 1);
    wait_granted(&stage.edge, "shop", stage.upstream.distinct_and_repeated().1).await;
}
