//! How waits grow while an upstream stays ill, and how traffic comes back once it is well.

use crate::{SECOND, Shop, assert_refused};
use resilience_integration_tests::{WORKERS, pass, policy};
use resilience_test_harness::*;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Opens at the first failure for 2 s, then 4 s, then 5 s, and closes by one probe.
fn growing(reset_after: &str) -> Value {
    json!({
        "consecutive_failures": 1,
        "permitted_number_of_calls_in_half_open_state": 1,
        "wait_duration_in_open_state": "2s",
        "wait_duration_growth": {"multiplier": 2, "max": "5s", "reset_after": reset_after},
    })
}

/// Fails the one request that the upstream is to get, and holds the wait that begins then against the one expected.
async fn opens_for(shop: &mut Shop, wait: Duration) {
    let before = Instant::now();
    let opened = shop.trip().await;
    let answer = shop.ask().await;
    assert_refused(&answer, "shop");
    // The time that has passed makes the rest shorter, and nothing makes it longer.
    let least = wait.saturating_sub(before.elapsed()).as_millis().div_ceil(1000).max(1);
    let seconds = answer.header("retry-after").parse::<u128>().expect("a number of seconds");
    assert!(
        (least..=wait.as_millis().div_ceil(1000)).contains(&seconds),
        "Retry-After {seconds} of {wait:?}"
    );
    pass(opened, wait).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_grows_from_trip_to_trip_up_to_its_cap() {
    let mut shop = Shop::open(growing("10m")).await;
    opens_for(&mut shop, 2 * SECOND).await;
    opens_for(&mut shop, 4 * SECOND).await;
    // The upstream is well for a moment, which is not the time of health that is asked for.
    shop.answered(&[200]).await;
    assert_eq!(shop.transitions("closed", "probes").await, 1);
    opens_for(&mut shop, 5 * SECOND).await;
    shop.answered(&[200]).await;
    assert_eq!(shop.transitions("open", "consecutive_failures").await, 2);
    assert_eq!(shop.transitions("open", "probes").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_of_health_lets_the_wait_start_over() {
    let mut shop = Shop::open(growing("1s")).await;
    opens_for(&mut shop, 2 * SECOND).await;
    opens_for(&mut shop, 4 * SECOND).await;
    shop.answered(&[200]).await;
    assert_eq!(shop.transitions("closed", "probes").await, 1);
    pass(Instant::now(), SECOND).await;
    opens_for(&mut shop, 2 * SECOND).await;
    shop.answered(&[200]).await;
    assert_eq!(shop.transitions("closed", "probes").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_it_closed_only_a_share_gets_in() {
    const ASKED: usize = 800;
    let ramp = |duration: &str| {
        json!({
            "consecutive_failures": 1,
            "permitted_number_of_calls_in_half_open_state": 1,
            "wait_duration_in_open_state": "1s",
            "ramp_up": {"duration": duration, "initial": 25},
        })
    };
    let mut shop = Shop::with(&[policy("shop", ramp("1h")), policy("brief", ramp("1s"))]).await;
    // What has never been open has no ramp.
    shop.answered(&[200; 2 * WORKERS]).await;
    assert_eq!(shop.clients.get("/brief", "status=503").await, 503);
    let opened = shop.trip().await;
    pass(opened, SECOND).await;
    shop.answered(&[200]).await;
    assert_eq!(shop.clients.get("/brief", "status=200").await, 200);
    let closed = Instant::now();
    for policy in ["shop", "brief"] {
        assert_eq!(shop.edge.transitions(policy, "closed", "probes").await, 1);
    }

    shop.upstream.reset_counts();
    let answers = burst(shop.edge.address, Protocol::Http1, ASKED, 16, |_| Request::get("/shop")).await;
    let (let_in, turned_away): (Vec<_>, Vec<_>) =
        answers.into_iter().map(Result::unwrap).partition(|answer| answer.status == 200);
    assert_eq!(shop.upstream.requests(), let_in.len());
    // A quarter, to which an hour's ramp adds next to nothing meanwhile.
    assert!((ASKED / 5..ASKED / 3).contains(&let_in.len()), "{} of {ASKED} let in", let_in.len());
    for answer in &turned_away {
        assert_refused(answer, "shop");
        assert_eq!(answer.header("retry-after"), "1");
    }
    let refused = [("policy", "shop"), ("reason", "circuit_open"), ("class", "_")];
    shop.edge.wait_count("resilience_rejections_total", &refused, turned_away.len() as u64).await;
    // It is closed all the same, and a failure of one that got in opens it.
    assert_eq!(shop.edge.state("shop").await, Some(0));
    let failed = eventually("a request that is let in", PATIENCE, async || {
        let request = Request::get("/shop").header("x-behave", "status=500");
        Some(send_once(shop.edge.address, Protocol::Http1, request).await.unwrap())
            .filter(|answer| answer.status == 500)
    });
    assert_eq!(failed.await.text(), "upstream\n");
    shop.refused_by_all().await;
    assert_eq!(shop.transitions("open", "consecutive_failures").await, 2);

    pass(closed, SECOND).await;
    for _ in 0..8 * WORKERS {
        assert_eq!(shop.clients.get("/brief", "status=200").await, 200);
    }
}
