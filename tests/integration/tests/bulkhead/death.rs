//! A worker's VM dies and holds permits and waits for some: what was its own comes back by lease, and to those who wait.

use crate::*;
use resilience_test_harness::config::{connection_manager, virtual_host};

/// How long what a dead VM held stays counted after its last sign of life.
const LEASE: Duration = Duration::from_secs(5);
/// How often a VM shows one.
const TICK: Duration = Duration::from_millis(500);

/// Our filter with the trap, where a stream may be idle for so long.
async fn trappable(bulkhead: Value, idle: &str) -> Shop {
    let upstream = Upstream::start().await;
    let filters = [trappable_filter(&document(&[compartment("shop", bulkhead)]))];
    let mut manager = connection_manager(&[virtual_host("all", &[patient_route()])], &filters);
    manager["stream_idle_timeout"] = idle.into();
    let edge = Edge::start(bootstrap(&[listener("edge", manager)], upstream.addr())).await;
    Shop::of(upstream, edge).await
}

async fn hold_by(shop: &mut Shop, worker: usize) -> Pending {
    let reached = shop.upstream.requests();
    let request = self::shop().header("x-behave", "hang");
    let pending = shop.clients.worker(worker).start(request).await.unwrap();
    shop.upstream.wait_requests(reached + 1).await;
    pending
}

async fn wait_by(shop: &mut Shop, worker: usize, of: u64) -> Pending {
    let request = self::shop().header("x-behave", "hang");
    let pending = shop.clients.worker(worker).start(request).await.unwrap();
    shop.waiting("shop", of).await;
    pending
}

/// Waits until so many got to the upstream, however long the lease takes.
async fn reach(shop: &Shop, requests: usize) {
    eventually("a request at the upstream", LEASE + PATIENCE, async || {
        (shop.upstream.requests_to("/shop") == requests).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn permits_of_a_dead_vm_come_back_after_the_lease_and_no_others() {
    let mut shop = trappable(limit(4), "300s").await;
    let doomed = [hold_by(&mut shop, 0).await, hold_by(&mut shop, 0).await];
    let mut held = vec![hold_by(&mut shop, 1).await, hold_by(&mut shop, 2).await];
    shop.full_for_all("shop").await;
    let before = Instant::now();
    kill(&shop.edge, shop.clients.worker(0)).await;
    let after = Instant::now();
    for _ in 0..2 {
        let reached = shop.upstream.requests();
        loop {
            let asked = Instant::now();
            let pending = shop.start(self::shop().header("x-behave", "hang")).await;
            eventually("an answer or a call", PATIENCE, async || {
                (pending.is_over() || shop.upstream.requests() > reached).then_some(())
            })
            .await;
            if shop.upstream.requests() > reached {
                assert!(asked - before >= LEASE - TICK, "a permit after {:?}", asked - before);
                held.push(pending);
                break;
            }
            refused(pending).await;
            assert!(after.elapsed() < LEASE + PATIENCE, "no permit after {:?}", after.elapsed());
        }
    }
    shop.full_for_all("shop").await;
    shop.in_flight("shop", 4).await;
    // What was lost is not given back once more when it ends.
    for pending in doomed {
        pending.abandon();
    }
    shop.upstream.wait_in_flight(4).await;
    shop.full_for_all("shop").await;
    shop.upstream.release();
    for pending in held {
        served(pending).await;
    }
    shop.in_flight("shop", 0).await;
    // The worker takes part again.
    let mut held = Vec::new();
    for worker in 0..WORKERS {
        held.push(hold_by(&mut shop, worker).await);
    }
    shop.full_for_all("shop").await;
    shop.upstream.release();
    for pending in held {
        served(pending).await;
    }
    shop.in_flight("shop", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_get_the_permits_of_a_dead_vm_and_its_own_waiters_are_forgotten() {
    let mut shop = trappable(patient(2, 10), "16s").await;
    let lost = [hold_by(&mut shop, 0).await, hold_by(&mut shop, 0).await];
    // Its own would be first.
    let paused = [wait_by(&mut shop, 0, 1).await, wait_by(&mut shop, 0, 2).await];
    let living = [wait_by(&mut shop, 1, 3).await, wait_by(&mut shop, 2, 4).await];
    let third = wait_by(&mut shop, 3, 5).await;
    let before = Instant::now();
    kill(&shop.edge, shop.clients.worker(0)).await;
    reach(&shop, 4).await;
    assert!(before.elapsed() >= LEASE - TICK, "permits after {:?}", before.elapsed());
    shop.in_flight("shop", 2).await;
    shop.waiting("shop", 1).await;
    shop.upstream.release();
    reach(&shop, 5).await;
    shop.upstream.release();
    for pending in living.into_iter().chain([third]) {
        served(pending).await;
    }
    // Nobody resumes what the dead VM had paused: Envoy ends it, and it never gets to the upstream.
    for pending in paused {
        assert_ne!(pending.headers().await.expect("an answer").finish().await.status, 200);
    }
    drop(lost);
    assert_eq!(shop.upstream.requests_to("/shop"), 5);
    shop.in_flight("shop", 0).await;
    shop.waiting("shop", 0).await;
    // The worker that died waits and is served again.
    let held = [hold_by(&mut shop, 0).await, hold_by(&mut shop, 1).await];
    let again = wait_by(&mut shop, 0, 1).await;
    shop.upstream.release();
    reach(&shop, 8).await;
    shop.upstream.release();
    for pending in held.into_iter().chain([again]) {
        served(pending).await;
    }
    shop.in_flight("shop", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_stopped_keeps_every_permit() {
    let mut shop = trappable(limit(4), "300s").await;
    let mut held = Vec::new();
    for worker in 0..WORKERS {
        held.push(hold_by(&mut shop, worker).await);
    }
    shop.edge.envoy.pause();
    tokio::time::sleep(LEASE + TICK).await;
    shop.edge.envoy.resume();
    // Whoever takes the silence for death shows it within a few ticks.
    let resumed = Instant::now();
    while resumed.elapsed() < 4 * TICK {
        shop.full_for_all("shop").await;
    }
    shop.upstream.release();
    for pending in held {
        served(pending).await;
    }
    shop.empty("shop").await;
}
