//! Retries beside a bulkhead: they happen behind the permit of their request, and who waits is granted when it is let in.

use crate::*;

const WAITING: &str = "resilience_bulkhead_waiting";

fn narrow(budget: Value) -> Value {
    shop(&json!({
        "retry": {"max_retries": 3},
        "retry_budget": budget,
        "bulkhead": {"max_concurrent_calls": 1, "max_wait_duration": "5m", "max_queue": 100},
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_take_no_permit_of_their_own() {
    const REQUESTS: usize = 3 * WORKERS;
    let mut stage = Stage::open(&narrow(Value::Null)).await;
    let mut pending = Vec::new();
    for number in 0..REQUESTS {
        pending.push(stage.start(get(number).header("x-behave", "status=503")).await);
    }
    for pending in pending {
        assert_eq!(pending.headers().await.expect("an answer").finish().await.status, 503);
    }
    assert_eq!(stage.upstream.requests(), 4 * REQUESTS);
    assert_eq!(stage.upstream.max_in_flight(), 1, "one at a time");
    // The attempts of one come one after the other.
    let ids: Vec<_> = stage.upstream.received().iter().map(|it| it.headers["x-id"].clone()).collect();
    assert_eq!(ids.chunk_by(|a, b| a == b).count(), REQUESTS, "{ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_reserves_nothing_before_it_is_let_in() {
    let mut stage = Stage::open(&narrow(fixed(4))).await;
    let first = stage.hold(get("first").header("x-behave", "hang; status=503|status=503")).await;
    // A quarter of four: one is reserved.
    wait_balance(&stage.edge, "shop", 3).await;
    let mut waiting = Vec::new();
    for number in 1..=2 * WORKERS {
        waiting.push(stage.start(get(number).header("x-behave", "status=503")).await);
        stage.edge.wait_count(WAITING, &[("policy", "shop")], number as u64).await;
    }
    wait_balance(&stage.edge, "shop", 3).await;
    stage.upstream.release();
    for pending in waiting.into_iter().chain([first]) {
        assert_eq!(pending.headers().await.expect("an answer").finish().await.status, 503);
    }
    assert_eq!(stage.upstream.distinct_and_repeated(), (1 + 2 * WORKERS, 4));
    // Who came in first had what there was: one each, until there was none.
    for id in ["first", "1", "2", "3"] {
        assert_eq!(stage.upstream.attempts(id), 2, "{id}");
    }
    wait_balance(&stage.edge, "shop", 0).await;
    wait_granted(&stage.edge, "shop", 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_paid_is_paid_by_those_who_were_let_in() {
    // Half of a retry each, and none to begin with: had the refused paid, there would be twenty.
    let budget = json!({"percent_can_retry": 50, "min_retries_per_second": 0, "ttl": "60s"});
    let mut document = narrow(budget);
    document["policies"][0]["bulkhead"] = json!({"max_concurrent_calls": 1});
    let mut stage = Stage::open(&document).await;
    let held = stage.hold(get("held").header("x-behave", "hang")).await;
    for _ in 0..10 * WORKERS {
        let refused = stage.ask(get("refused")).await;
        assert_eq!(refused.header("x-resilience"), "shop;reason=bulkhead_full;source=none");
    }
    stage.upstream.release();
    assert_eq!(held.headers().await.expect("an answer").finish().await.status, 200);
    stage.edge.wait_count("resilience_bulkhead_in_flight", &[("policy", "shop")], 0).await;
    wait_balance(&stage.edge, "shop", 0).await;
    assert_eq!(stage.attempts_of_failing(get("second")).await, 2, "two have paid for one");
}
