//! A worker's VM dies in mid-flight, or the whole process is stopped: what it held comes back when, and only when, nobody
//! else can bring it back.

use resilience_integration_tests::*;
use resilience_test_harness::*;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long what a dead VM held stays counted after its last sign of life.
const LEASE: Duration = Duration::from_secs(5);
/// How often a VM shows one.
const TICK: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread")]
async fn probes_of_a_dead_vm_are_given_up_after_the_lease_and_no_others() {
    let upstream = Upstream::start().await;
    let breaker = json!({
        "consecutive_failures": 1,
        "wait_duration_in_open_state": "100ms",
        "permitted_number_of_calls_in_half_open_state": 3,
        "max_wait_duration_in_half_open_state": "60s",
    });
    let edge = Edge::trappable(upstream.addr(), &policy("p", breaker)).await;
    let mut clients = edge.clients(Protocol::Http2).await;
    assert_eq!(clients.get("/p", "status=500").await, 500);
    tokio::time::sleep(Duration::from_millis(150)).await;

    // Two probes in the hands of the worker that will die, one in those of another.
    let hang = || Request::get("/p").header("x-behave", "hang");
    let mut doomed = Vec::new();
    for _ in 0..2 {
        doomed.push(clients.worker(0).start(hang()).await.unwrap());
    }
    let living = clients.worker(1).start(hang()).await.unwrap();
    upstream.wait_in_flight(3).await;
    for _ in 0..WORKERS {
        assert_eq!(clients.get("/p", "status=200").await, 503);
    }
    let before = Instant::now();
    kill(&edge, clients.worker(0)).await;
    let after = Instant::now();

    // Nobody gets their places before the lease is over; then two do, on whatever worker, and not a third.
    let gave_back = "policy p: gave back 2 probes of workers";
    upstream.reset_counts();
    let mut admitted = Vec::new();
    while admitted.len() < 2 {
        let asked = Instant::now();
        let pending = clients.next_worker().start(hang()).await.unwrap();
        eventually("an answer or a call", PATIENCE, async || {
            (pending.is_over() || upstream.requests() > admitted.len()).then_some(())
        })
        .await;
        if upstream.requests() > admitted.len() {
            assert!(asked - before >= LEASE - TICK, "a place after {:?}", asked - before);
            admitted.push(pending);
        } else {
            assert_eq!(pending.headers().await.unwrap().status, 503);
            // The watch, and then the sweep, run on ticks.
            assert!(after.elapsed() < LEASE + 4 * TICK, "no place after {:?}", after.elapsed());
        }
    }
    assert_eq!(edge.envoy.log_lines().iter().filter(|line| line.contains("gave back")).count(), 1);
    edge.envoy.wait_log(gave_back).await;
    for _ in 0..WORKERS {
        assert_eq!(clients.get("/p", "status=200").await, 503);
    }
    assert_eq!(upstream.requests(), 2);
    assert_eq!(edge.state("p").await, Some(1));

    // All answer now. Envoy answers for the calls of the dead VM, and they prove nothing.
    upstream.release();
    for pending in admitted.into_iter().chain([living]) {
        assert_eq!(pending.headers().await.unwrap().status, 200);
    }
    for pending in doomed {
        assert_eq!(pending.headers().await.unwrap().status, 503);
    }
    assert_eq!(edge.state("p").await, Some(0));
    assert_eq!(edge.count("resilience_circuit_breaker_transitions_total", &[]).await, 3);
    assert_eq!(edge.transitions("p", "closed", "probes").await, 1);
    edge.wait_calls("p", Calls { success: 3, failure: 1, ignored: 0 }).await;
    assert_eq!(edge.count("resilience_store_give_ups_total", &[("operation", "lease")]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_counted_before_a_vm_died_still_count() {
    let upstream = Upstream::start().await;
    let breaker = json!({
        "failures_in_window": {"failures": 5, "window": "60s"},
        "wait_duration_in_open_state": "60s",
    });
    let edge = Edge::trappable(upstream.addr(), &policy("p", breaker)).await;
    let mut clients = edge.clients(Protocol::Http1).await;
    // One failure by each worker, each of which then dies and forgets all it knew.
    for worker in 0..WORKERS {
        let fail = Request::get("/p").header("x-behave", "status=500");
        assert_eq!(clients.worker(worker).send(fail).await.unwrap().status, 500);
        kill(&edge, clients.worker(worker)).await;
    }
    assert_eq!(clients.get("/p", "status=200").await, 200);
    assert_eq!(clients.get("/p", "status=500").await, 500);
    assert_eq!(edge.transitions("p", "open", "failures_in_window").await, 1);

    // Open stays open, for those that come back too.
    upstream.reset_counts();
    for worker in 0..WORKERS {
        kill(&edge, clients.worker(worker)).await;
        let answer = clients.worker(worker).send(Request::get("/p")).await.unwrap();
        assert_eq!(answer.header("x-resilience"), "p;reason=circuit_open;source=none");
    }
    assert_eq!(upstream.requests_to("/p"), 0);
    assert_eq!(edge.state("p").await, Some(2));
    assert_eq!(edge.count("resilience_circuit_breaker_transitions_total", &[]).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_workers_notice_nothing() {
    let upstream = Upstream::start().await;
    let edge = Edge::trappable(upstream.addr(), &policy("p", json!({"consecutive_failures": 1}))).await;
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicUsize::new(0));
    let mut load = Vec::new();
    let mut connections = edge.clients(Protocol::Http1).await.into_connections();
    let mut doomed = connections.remove(0);
    for mut connection in connections {
        let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
        load.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let answer = connection.send(Request::get("/p")).await.expect("an answer");
                assert_eq!(answer.status, 200);
                sent.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    for round in 1..=5 {
        let so_far = sent.load(Ordering::Relaxed);
        kill(&edge, &mut doomed).await;
        assert_eq!(edge.envoy.stat(RELOADED).await, Some(round));
        eventually("more load", PATIENCE, async || {
            (sent.load(Ordering::Relaxed) > so_far + 50).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for task in load {
        task.await.expect("every answer was good");
    }
    let sent = sent.load(Ordering::Relaxed);
    assert_eq!(upstream.requests_to("/p"), sent);
    edge.wait_calls("p", Calls { success: sent as u64, ..Calls::default() }).await;
    assert_eq!(edge.envoy.stat("wasm.resilience.vm_reload_failure").await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_stopped_takes_nothing_from_the_living() {
    let upstream = Upstream::start().await;
    let breaker = json!({
        "consecutive_failures": 1,
        "wait_duration_in_open_state": "100ms",
        "permitted_number_of_calls_in_half_open_state": 4,
        "max_wait_duration_in_half_open_state": "120s",
    });
    let edge = Edge::trappable(upstream.addr(), &policy("p", breaker)).await;
    let mut clients = edge.clients(Protocol::Http2).await;
    // VMs that start at different moments tick at different moments: then some have ticked when the process stops and
    // others have not, and whoever wakes first finds these silent for all the time that it remembers.
    for worker in 0..WORKERS {
        kill(&edge, clients.worker(worker)).await;
        tokio::time::sleep(TICK / 5).await;
    }
    assert_eq!(clients.get("/p", "status=500").await, 500);
    tokio::time::sleep(Duration::from_millis(150)).await;
    let mut probes = Vec::new();
    for worker in 0..WORKERS {
        let hang = Request::get("/p").header("x-behave", "hang");
        probes.push(clients.worker(worker).start(hang).await.unwrap());
    }
    upstream.wait_in_flight(4).await;

    // Where in a tick the process stops, and who wakes first, is chance: twice shows more than once.
    for _ in 0..2 {
        edge.envoy.pause();
        // The workers find enough to do to be late for their tick.
        let mut waiting = Vec::new();
        for number in 0..100 * WORKERS {
            waiting.push(clients.worker(number % WORKERS).start(Request::get("/p")).await.unwrap());
        }
        tokio::time::sleep(LEASE + TICK).await;
        edge.envoy.resume();
        // Whoever takes the silence for death shows it within a few ticks; all workers tick twice a second.
        let resumed = Instant::now();
        while resumed.elapsed() < Duration::from_secs(3) {
            assert_eq!(clients.get("/p", "status=200").await, 503);
        }
        for pending in waiting {
            assert_eq!(pending.headers().await.unwrap().status, 503);
        }
        assert_eq!(upstream.requests_to("/p"), 1 + 4);
        assert!(!edge.envoy.log_lines().iter().any(|line| line.contains("gave back")));
    }

    upstream.release();
    for probe in probes {
        assert_eq!(probe.headers().await.unwrap().status, 200);
    }
    assert_eq!(edge.state("p").await, Some(0));
    assert_eq!(edge.transitions("p", "closed", "probes").await, 1);
    assert_eq!(edge.count("resilience_circuit_breaker_transitions_total", &[]).await, 3);
    edge.wait_calls("p", Calls { success: 4, failure: 1, ignored: 0 }).await;
}
