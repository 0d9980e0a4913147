//! What was admitted in one state and ends in another is no evidence there.

use crate::{SECOND, Shop, calls};
use resilience_integration_tests::{WORKERS, pass};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_admitted_before_a_transition_is_no_evidence_after_it() {
    let mut shop = Shop::open(json!({
        "consecutive_failures": 2,
        "wait_duration_in_open_state": "1s",
        "permitted_number_of_calls_in_half_open_state": 1,
    }))
    .await;
    let mut good = Vec::new();
    for _ in 0..WORKERS {
        good.push(shop.held("hang").await);
    }
    shop.answered(&[503]).await;
    let opened = shop.trip().await;
    // While it is open: no success from before closes it.
    shop.upstream.release();
    for (_connection, pending) in good {
        assert_eq!(pending.headers().await.unwrap().finish().await.status, 200);
    }
    shop.edge.wait_calls("shop", calls(4, 2, 0)).await;
    if opened.elapsed() < SECOND / 2 {
        shop.refused_by_all().await;
    }
    pass(opened, SECOND).await;
    shop.answered(&[200]).await;
    shop.edge.wait_calls("shop", calls(5, 2, 0)).await;
    assert_eq!(shop.edge.state("shop").await, Some(0));

    // While it is half-open, and after it closed: no failure from before counts.
    let mut bad = Vec::new();
    for _ in 0..WORKERS {
        bad.push(shop.held("hang; status=503").await);
    }
    shop.answered(&[503]).await;
    let opened = shop.trip().await;
    pass(opened, SECOND).await;
    shop.answered(&[200]).await;
    shop.edge.wait_calls("shop", calls(6, 4, 0)).await;
    shop.answered(&[503]).await;
    shop.upstream.release();
    for (_connection, pending) in bad {
        assert_eq!(pending.headers().await.unwrap().status, 503);
    }
    shop.edge.wait_calls("shop", calls(6, 9, 0)).await;
    assert_eq!(shop.edge.state("shop").await, Some(0));
    shop.answered(&[503]).await;
    shop.refused_by_all().await;
    assert_eq!(shop.transitions("open", "consecutive_failures").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_from_before_does_not_end_a_run_of_failures_after() {
    let mut shop = Shop::open(json!({
        "consecutive_failures": 2,
        "wait_duration_in_open_state": "1s",
        "permitted_number_of_calls_in_half_open_state": 1,
    }))
    .await;
    let (_connection, pending) = shop.held("hang").await;
    shop.answered(&[503]).await;
    let opened = shop.trip().await;
    pass(opened, SECOND).await;
    shop.answered(&[200]).await;
    shop.edge.wait_calls("shop", calls(1, 2, 0)).await;
    shop.answered(&[503]).await;
    shop.upstream.release();
    assert_eq!(pending.headers().await.unwrap().finish().await.status, 200);
    shop.edge.wait_calls("shop", calls(2, 3, 0)).await;
    shop.answered(&[503]).await;
    shop.refused_by_all().await;
}
