//! Another window in a new configuration: it takes over what has been counted, and what drains beside it does not undo that.

use crate::{assert_refused, calls};
use resilience_integration_tests::*;
use resilience_test_harness::config;
use resilience_test_harness::*;
use serde_json::{Value, json};

/// A document with this window, and whether it is the new one.
fn resource(window: Value, new: bool) -> Value {
    let mut breaker = json!({"failure_rate_threshold": 50});
    breaker.as_object_mut().unwrap().append(&mut window.as_object().unwrap().clone());
    let mut policies = vec![policy("shop", breaker)];
    if new {
        policies.push(policy("canary", json!({"mode": "forced_open", "consecutive_failures": 1})));
    }
    config::listener_resource(plain_listener("edge", filter(&document(&policies))))
}

/// Sends to one worker after the other, each counted before the next.
async fn counted(edge: &Edge, clients: &mut Clients, statuses: &[u16]) {
    for status in statuses {
        let mut expected = edge.calls("shop").await;
        *if *status < 500 { &mut expected.success } else { &mut expected.failure } += 1;
        let request = Request::get("/shop").header("x-behave", format!("status={status}"));
        assert_eq!(clients.send(request).await.text(), "upstream\n");
        edge.wait_calls("shop", expected).await;
    }
}

/// Replaces `before` by `after`; returns clients of the old listener, which drains, and of the new one.
async fn replaced(edge: &Edge, file: &mut DynamicFile, after: Value) -> Clients {
    file.replace(&[resource(after, true)]);
    eventually("the new listener on every worker", PATIENCE, async || {
        let answers = burst(edge.address, Protocol::Http1, 24, 24, |_| Request::get("/canary")).await;
        answers
            .iter()
            .all(|it| it.as_ref().is_ok_and(|it| it.header("x-resilience").starts_with("canary;")))
            .then_some(())
    })
    .await;
    edge.clients(Protocol::Http1).await
}

async fn before(window: Value) -> (Upstream, Scratch, DynamicFile, Edge) {
    let upstream = Upstream::start().await;
    let scratch = Scratch::new();
    let file = DynamicFile::new(scratch.file("discovered.json"), &[resource(window, false)]);
    let bootstrap = config::with_listeners_from(bootstrap(&[], upstream.addr()), file.path());
    let edge = Edge::of(envoy(bootstrap).argument("--drain-time-s").argument("600")).await;
    (upstream, scratch, file, edge)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shorter_window_of_calls_begins_with_the_latest_of_the_longer() {
    let long = json!({"sliding_window_size": 100, "minimum_number_of_calls": 20});
    let (upstream, _scratch, mut file, edge) = before(long).await;
    let mut old = edge.clients(Protocol::Http1).await;
    counted(&edge, &mut old, &[503, 503, 503, 200, 200, 200, 200, 503, 503, 503]).await;
    let short = json!({"sliding_window_size": 8, "minimum_number_of_calls": 8});
    let mut new = replaced(&edge, &mut file, short).await;
    // The last eight: the old listener's failure pushes out the first of the four successes, and trips nothing there.
    counted(&edge, &mut new, &[200]).await;
    assert_eq!(edge.count("resilience_circuit_breaker_transitions_total", &[]).await, 0);
    counted(&edge, &mut old, &[503]).await;
    assert_eq!(edge.count("resilience_circuit_breaker_transitions_total", &[]).await, 0);
    counted(&edge, &mut new, &[200]).await;
    let opened = "closed -> open cause=failure_rate_threshold failure_rate=50 threshold=50 calls=8 failed=4";
    assert_eq!(edge.envoy.log_lines().iter().filter(|line| line.contains(opened)).count(), 1);
    upstream.reset_counts();
    for clients in [&mut old, &mut new] {
        for _ in 0..WORKERS {
            assert_refused(&clients.send(Request::get("/shop")).await, "shop");
        }
    }
    assert_eq!(upstream.requests(), 0);
    assert_eq!(edge.calls("shop").await, calls(6, 7, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_longer_window_of_time_keeps_the_seconds_of_the_shorter() {
    let over = |seconds: u64, minimum: u64| {
        json!({
            "sliding_window_type": "time",
            "sliding_window_size": seconds,
            "minimum_number_of_calls": minimum,
        })
    };
    let (_upstream, _scratch, mut file, edge) = before(over(600, 20)).await;
    let mut old = edge.clients(Protocol::Http1).await;
    counted(&edge, &mut old, &[503, 503, 503]).await;
    let mut new = replaced(&edge, &mut file, over(1200, 4)).await;
    counted(&edge, &mut old, &[200]).await;
    assert_eq!(edge.count("resilience_circuit_breaker_transitions_total", &[]).await, 0);
    counted(&edge, &mut new, &[200]).await;
    let opened = "closed -> open cause=failure_rate_threshold failure_rate=60 threshold=50 calls=5 failed=3";
    assert_eq!(edge.envoy.log_lines().iter().filter(|line| line.contains(opened)).count(), 1);
    for _ in 0..WORKERS {
        assert_refused(&old.send(Request::get("/shop")).await, "shop");
    }
}
