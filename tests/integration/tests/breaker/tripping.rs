//! What opens a breaker, and how long it is then open.

use crate::{SECOND, Shop, assert_refused, calls};
use resilience_integration_tests::{Edge, WORKERS, document, filter, pass, plain_route, policy};
use resilience_test_harness::*;
use serde_json::json;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn five_failures_in_the_window_trip_and_the_next_request_does_not_reach_the_upstream() {
    let mut shop = Shop::open(json!({"failures_in_window": {"failures": 5, "window": "10s"}})).await;
    // A success between them changes nothing here.
    shop.answered(&[503, 500, 200, 502, 504]).await;
    assert_ne!(shop.edge.state("shop").await, Some(2));
    shop.answered(&[503]).await;
    shop.refused_by_all().await;
    assert_eq!(shop.upstream.requests(), 6);
    assert_eq!(shop.edge.state("shop").await, Some(2));
    assert_eq!(shop.transitions("open", "failures_in_window").await, 1);
    assert_eq!(shop.edge.calls("shop").await, calls(1, 5, 0));
    let refused = [("policy", "shop"), ("reason", "circuit_open"), ("class", "_")];
    assert_eq!(shop.edge.count("resilience_rejections_total", &refused).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fifth_failure_after_the_window_of_the_first_does_not_trip() {
    let mut shop = Shop::open(json!({"failures_in_window": {"failures": 5, "window": "10s"}})).await;
    let first = shop.trip().await;
    pass(first, 9 * SECOND).await;
    shop.answered(&[503, 503, 503]).await;
    pass(first, 11 * SECOND).await;
    shop.answered(&[503]).await;
    for _ in 0..WORKERS {
        shop.answered(&[200]).await;
    }
    // Now there are five within ten seconds: the first is all that the window has lost.
    shop.answered(&[503]).await;
    shop.refused_by_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_on_any_worker_ends_the_run_of_failures() {
    let mut shop = Shop::open(json!({"consecutive_failures": 3})).await;
    shop.answered(&[503, 503, 200]).await;
    // A success counts when its stream is over, which the client does not see.
    shop.edge.wait_calls("shop", calls(1, 2, 0)).await;
    shop.answered(&[503, 503]).await;
    // Nothing proved is no success.
    let (_connection, pending) = shop.held("hang").await;
    pending.abandon();
    shop.edge.wait_calls("shop", calls(1, 4, 1)).await;
    shop.answered(&[503]).await;
    shop.refused_by_all().await;
    assert_eq!(shop.transitions("open", "consecutive_failures").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_that_come_at_once_on_all_workers_are_all_counted() {
    let mut shop = Shop::open(json!({"failures_in_window": {"failures": 64, "window": "60s"}})).await;
    let failing = |_| Request::get("/shop").header("x-behave", "hang; status=503");
    let address = shop.edge.address;
    let burst = tokio::spawn(async move { burst(address, Protocol::Http1, 63, 63, failing).await });
    shop.upstream.wait_in_flight(63).await;
    shop.upstream.release();
    assert!(burst.await.unwrap().into_iter().all(|answer| answer.unwrap().text() == "upstream\n"));
    shop.edge.wait_calls("shop", calls(0, 63, 0)).await;
    assert_eq!(shop.transitions("open", "failures_in_window").await, 0);
    shop.answered(&[503]).await;
    shop.refused_by_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_its_retries_counts_once() {
    let upstream = Upstream::start().await;
    let mut retried = plain_route();
    retried["route"]["retry_policy"] = json!({
        "retry_on": "5xx",
        "num_retries": 3,
        "retry_back_off": {"base_interval": "0.001s"},
    });
    let filter = filter(&document(&[policy("shop", json!({"consecutive_failures": 5}))]));
    let edge = Edge::routed(upstream.addr(), &[retried], &[filter]).await;
    let mut clients = edge.clients(Protocol::Http1).await;
    for request in 1..=5 {
        assert_eq!(
            clients.send(Request::get("/shop").header("x-behave", "status=503")).await.text(),
            "upstream\n"
        );
        assert_eq!(upstream.requests(), 4 * request);
    }
    for _ in 0..WORKERS {
        assert_refused(&clients.send(Request::get("/shop")).await, "shop");
    }
    assert_eq!(upstream.requests(), 20);
    assert_eq!(edge.calls("shop").await, calls(0, 5, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_the_rest_of_the_wait_rounded_up() {
    const WAIT: Duration = Duration::from_secs(3);
    let mut shop = Shop::open(json!({"consecutive_failures": 1, "wait_duration_in_open_state": "3s"})).await;
    let before = Instant::now();
    let opened = before..shop.trip().await;
    let mut seen = Vec::new();
    // Asked in the middle of each second, so that all three values show.
    for half_seconds in [0, 1, 3, 5] {
        tokio::time::sleep_until((opened.end + half_seconds * SECOND / 2).into()).await;
        let asked = Instant::now();
        let answer = shop.ask().await;
        assert_refused(&answer, "shop");
        let seconds = answer.header("retry-after").parse::<u64>().expect("a number of seconds");
        // What the breaker saw of the clock lies somewhere between what we saw before and after.
        let least = WAIT.saturating_sub(opened.start.elapsed());
        let most = WAIT.saturating_sub(asked - opened.end);
        let allowed = rounded_up(least)..=rounded_up(most);
        assert!(allowed.contains(&seconds), "Retry-After {seconds}, allowed {allowed:?}");
        seen.push(seconds);
    }
    assert!(seen.is_sorted_by(|earlier, later| earlier >= later), "{seen:?}");
    assert_eq!((seen.first(), seen.last()), (Some(&3), Some(&1)), "{seen:?}");
    assert_eq!(shop.upstream.requests(), 1);
    pass(opened.end, WAIT).await;
    shop.answered(&[200]).await;
}

fn rounded_up(wait: Duration) -> u64 {
    wait.as_millis().div_ceil(1000).max(1).try_into().unwrap()
}
