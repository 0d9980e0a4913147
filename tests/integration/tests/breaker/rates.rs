//! Rates: what share of the latest calls trips, counted over all workers.

use crate::{SECOND, Shop, calls};
use resilience_integration_tests::{WORKERS, pass, policy};
use resilience_test_harness::*;
use serde_json::{Value, json};
use std::time::Instant;

/// A failure rate of half of the calls, with what else is asked for.
fn half(with: Value) -> Value {
    let mut breaker = json!({"failure_rate_threshold": 50});
    breaker.as_object_mut().unwrap().append(&mut with.as_object().unwrap().clone());
    breaker
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_that_completes_the_minimum_trips_at_exactly_the_threshold() {
    let mut shop = Shop::open(half(json!({"sliding_window_size": 10, "minimum_number_of_calls": 6}))).await;
    // All of three fail, then three of five: with fewer calls than six there is no rate.
    shop.counted(&[503, 503, 503, 200, 200]).await;
    assert_ne!(shop.edge.state("shop").await, Some(2));
    shop.counted(&[200]).await;
    shop.refused_by_all().await;
    assert_eq!(shop.edge.state("shop").await, Some(2));
    assert_eq!(shop.transitions("open", "failure_rate_threshold").await, 1);
    assert_eq!(shop.edge.calls("shop").await, calls(3, 3, 0));
    shop.logged(
        "policy shop: circuit breaker closed -> open cause=failure_rate_threshold \
         failure_rate=50 threshold=50 calls=6 failed=3 slow=0 generation=",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_below_the_threshold_does_not_trip_until_a_failure_reaches_it() {
    let mut shop = Shop::open(half(json!({"sliding_window_size": 10, "minimum_number_of_calls": 6}))).await;
    // The first calls are successes: they count as well as those after a failure.
    shop.counted(&[200, 200, 200, 200, 503, 503, 503]).await;
    assert_ne!(shop.edge.state("shop").await, Some(2));
    // What proves nothing is no call.
    let (_connection, pending) = shop.held("hang").await;
    pending.abandon();
    shop.edge.wait_calls("shop", calls(4, 3, 1)).await;
    shop.counted(&[503]).await;
    shop.refused_by_all().await;
    assert_eq!(shop.transitions("open", "failure_rate_threshold").await, 1);
    shop.logged("failure_rate=50 threshold=50 calls=8 failed=4 slow=0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_of_calls_forgets_the_oldest() {
    let mut shop = Shop::open(json!({
        "failure_rate_threshold": 75,
        "sliding_window_size": 4,
        "minimum_number_of_calls": 4,
    }))
    .await;
    // Were nothing forgotten, there would be nine calls at the end, and five of them failures.
    shop.counted(&[503, 503, 200, 200, 200, 200, 503, 503]).await;
    assert_ne!(shop.edge.state("shop").await, Some(2));
    shop.counted(&[503]).await;
    shop.refused_by_all().await;
    shop.logged("failure_rate=75 threshold=75 calls=4 failed=3 slow=0");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_call_that_trips_is_exact_however_many_workers_count() {
    const MINIMUM: usize = 3000;
    let mut shop = Shop::open(half(json!({
        "sliding_window_size": MINIMUM,
        "minimum_number_of_calls": MINIMUM,
    })))
    .await;
    // Exactly half of all calls fail, whatever the order in which they end.
    let status = |number| if number % 2 == 0 { 503 } else { 200 };
    let request =
        move |number| Request::get("/shop").header("x-behave", format!("status={}", status(number)));
    let answers = burst(shop.edge.address, Protocol::Http1, MINIMUM - 1, 32, request).await;
    for (number, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.unwrap().text(), "upstream\n", "call {number} was to reach the upstream");
    }
    shop.edge.wait_calls("shop", calls(1499, 1500, 0)).await;
    assert_ne!(shop.edge.state("shop").await, Some(2));
    shop.counted(&[200]).await;
    shop.refused_by_all().await;
    assert_eq!(shop.upstream.requests(), MINIMUM);
    shop.logged("failure_rate=50 threshold=50 calls=3000 failed=1500 slow=0");
    let refused = [("policy", "shop"), ("reason", "circuit_open"), ("class", "_")];
    assert_eq!(shop.edge.count("resilience_rejections_total", &refused).await, WORKERS as u64);
    assert_eq!(shop.edge.count("resilience_circuit_breaker_transitions_total", &[]).await, 1);
    assert_eq!(shop.edge.count("resilience_store_give_ups_total", &[]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_failure_counts_in_both_rates() {
    let mut shop = Shop::open(json!({
        "failure_rate_threshold": 60,
        "slow_call_rate_threshold": 50,
        "slow_call_duration_threshold": "2s",
        "sliding_window_size": 4,
        "minimum_number_of_calls": 4,
    }))
    .await;
    let slow = [shop.held("hang; status=503").await, shop.held("hang").await];
    pass(Instant::now(), 2 * SECOND).await;
    shop.upstream.release();
    for (_connection, pending) in slow {
        pending.headers().await.unwrap().finish().await;
    }
    shop.edge.wait_calls("shop", calls(1, 1, 0)).await;
    shop.counted(&[503]).await;
    assert_ne!(shop.edge.state("shop").await, Some(2));
    shop.counted(&[200]).await;
    shop.refused_by_all().await;
    for outcome in ["success", "failure"] {
        for slow in ["true", "false"] {
            let labels = [("policy", "shop"), ("outcome", outcome), ("slow", slow)];
            assert_eq!(shop.edge.count("resilience_calls_total", &labels).await, 1, "{labels:?}");
        }
    }
    assert_eq!(shop.transitions("open", "slow_call_rate_threshold").await, 1);
    shop.logged(
        "closed -> open cause=slow_call_rate_threshold \
         slow_call_rate=50 threshold=50 calls=4 failed=2 slow=2 generation=",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_body_is_not_slow() {
    let mut shop = Shop::open(json!({
        "slow_call_rate_threshold": 100,
        "slow_call_duration_threshold": "2s",
        "sliding_window_size": 1,
        "minimum_number_of_calls": 1,
    }))
    .await;
    let (_connection, pending) = shop.held("hang-mid-body").await;
    let streaming = pending.headers().await.unwrap();
    pass(Instant::now(), 2 * SECOND).await;
    shop.upstream.release();
    assert_eq!(streaming.finish().await.text(), "upstream\n");
    shop.edge.wait_calls("shop", calls(1, 0, 0)).await;
    let slow = [("policy", "shop"), ("slow", "true")];
    assert_eq!(shop.edge.count("resilience_calls_total", &slow).await, 0);
    shop.answered(&[200; WORKERS]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_of_time_forgets_what_is_older() {
    let over = |seconds: u64| {
        half(json!({
            "sliding_window_type": "time",
            "sliding_window_size": seconds,
            "minimum_number_of_calls": 4,
        }))
    };
    // The other window gets the same calls, so that it is the time and nothing else that makes the difference.
    let mut shop = Shop::with(&[policy("shop", over(2)), policy("long", over(600))]).await;
    for _ in 0..3 {
        shop.answered(&[503]).await;
        assert_eq!(shop.clients.get("/long", "status=503").await, 503);
    }
    // Two whole seconds later the second in which they ended is out, wherever in it that was.
    pass(Instant::now(), 2 * SECOND).await;
    shop.answered(&[503]).await;
    assert_eq!(shop.clients.get("/long", "status=503").await, 503);
    assert_eq!(shop.edge.transitions("long", "open", "failure_rate_threshold").await, 1);
    shop.logged("policy long: circuit breaker closed -> open cause=failure_rate_threshold failure_rate=100 threshold=50 calls=4 failed=4 slow=0");
    for _ in 0..WORKERS {
        shop.answered(&[200]).await;
        assert_eq!(shop.clients.get("/long", "status=200").await, 503);
    }
    assert_eq!(
        shop.edge.count("resilience_circuit_breaker_transitions_total", &[("policy", "shop")]).await,
        0
    );
    assert_eq!(shop.upstream.requests_to("/long"), 4);
}

/// Opened by two failures, so that the windows may ask for more calls than a test makes.
fn probing(minimum: u64, permitted: u64) -> Value {
    json!({
        "failure_rate_threshold": 60,
        "consecutive_failures": 2,
        "sliding_window_size": 100,
        "minimum_number_of_calls": minimum,
        "wait_duration_in_open_state": "1s",
        "permitted_number_of_calls_in_half_open_state": permitted,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_probes_decide_as_the_minimum_asks_for() {
    let mut shop = Shop::open(probing(3, 5)).await;
    shop.answered(&[503]).await;
    let opened = shop.trip().await;
    pass(opened, SECOND).await;
    // Two failures in a row, where a failure rate decides, are no verdict before there are three answers.
    shop.counted(&[503, 503]).await;
    assert_eq!(shop.edge.state("shop").await, Some(1));
    shop.counted(&[200]).await;
    let reopened = Instant::now();
    shop.refused_by_all().await;
    assert_eq!(shop.transitions("open", "probes").await, 1);
    shop.logged("half_open -> open cause=probes failure_rate=66.666664 threshold=60 calls=3 failed=2 slow=0");
    pass(reopened, SECOND).await;
    // One of three is below the threshold.
    shop.counted(&[503, 200]).await;
    assert_eq!(shop.edge.state("shop").await, Some(1));
    shop.counted(&[200]).await;
    assert_eq!(shop.edge.state("shop").await, Some(0));
    assert_eq!(shop.transitions("closed", "probes").await, 1);
    shop.logged("half_open -> closed cause=probes calls=3 failed=1 slow=0");
    shop.answered(&[200; 2 * WORKERS]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_probes_decide_than_are_permitted() {
    let mut shop = Shop::open(probing(100, 2)).await;
    shop.answered(&[503]).await;
    let opened = shop.trip().await;
    pass(opened, SECOND).await;
    shop.counted(&[503]).await;
    assert_eq!(shop.edge.state("shop").await, Some(1));
    shop.counted(&[200]).await;
    assert_eq!(shop.edge.state("shop").await, Some(0));
    assert_eq!(shop.transitions("closed", "probes").await, 1);
    shop.answered(&[200; 2 * WORKERS]).await;
}
