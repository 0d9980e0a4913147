//! What the modes of policies and bulkheads make of the limit.

use crate::*;

/// A bulkhead in a mode, or a policy.
fn in_mode(name: &str, mode: &str, mut bulkhead: Value) -> Value {
    let of_policy = name.starts_with("policy");
    if !of_policy {
        bulkhead["mode"] = mode.into();
    }
    let mut policy = compartment(name, bulkhead);
    if of_policy {
        policy["mode"] = mode.into();
    }
    policy
}

async fn shadowed(shop: &Shop, policy: &str) -> u64 {
    shop.edge.count(SHADOW, &[("policy", policy), ("reason", "bulkhead_full")]).await
}

/// Holds some, all of which the upstream gets.
async fn hold_all(shop: &mut Shop, policy: &str, count: usize) -> Vec<Pending> {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(shop.hold(Request::get(&format!("/{policy}"))).await);
    }
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn shadow_counts_what_it_would_have_refused() {
    let policies = [in_mode("shop", "shadow", limit(2)), in_mode("policy", "shadow", limit(2))];
    let mut shop = Shop::with(&policies).await;
    for name in ["shop", "policy"] {
        let held = hold_all(&mut shop, name, 5).await;
        assert_eq!(shadowed(&shop, name).await, 3, "{name}");
        // Those that would have been refused would not be in flight.
        shop.in_flight(name, 2).await;
        assert_eq!(shop.edge.gauge(LIMIT, name).await, Some(2));
        shop.upstream.release();
        for pending in held {
            served(pending).await;
        }
        shop.empty(name).await;
        assert_eq!(shadowed(&shop, name).await, 3, "{name}");
    }
    assert_eq!(shop.edge.count(REJECTIONS, &[]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn shadow_waits_for_nobody() {
    let short = json!({"max_concurrent_calls": 1, "max_wait_duration": "300ms", "max_queue": 10});
    let policies = [
        in_mode("short", "shadow", short),
        in_mode("narrow", "shadow", patient(1, 1)),
        in_mode("served", "shadow", patient(1, 10)),
    ];
    let mut shop = Shop::with(&policies).await;
    // Two go on at once that would have waited, in vain.
    let held = hold_all(&mut shop, "short", 3).await;
    shop.edge.wait_count(SHADOW, &[("policy", "short"), ("reason", "bulkhead_full")], 2).await;
    shop.upstream.release();
    for pending in held {
        served(pending).await;
    }
    shop.empty("short").await;
    // One would have waited, and two would have found the queue full.
    let held = hold_all(&mut shop, "narrow", 4).await;
    assert_eq!(shadowed(&shop, "narrow").await, 2);
    shop.upstream.release();
    for pending in held {
        served(pending).await;
    }
    shop.empty("narrow").await;
    // Each would have had its turn, or it ended before that.
    let held = hold_all(&mut shop, "served", 3).await;
    shop.in_flight("served", 1).await;
    shop.waiting("served", 2).await;
    for left in [1, 0] {
        shop.upstream.release_one();
        shop.waiting("served", left).await;
        shop.in_flight("served", 1).await;
    }
    shop.upstream.release();
    for pending in held {
        served(pending).await;
    }
    shop.empty("served").await;
    for (name, decisions) in [("short", 2), ("narrow", 2), ("served", 0)] {
        assert_eq!(shadowed(&shop, name).await, decisions, "{name}");
    }
    assert_eq!(shop.edge.count(REJECTIONS, &[]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn disabled_knows_no_limit() {
    let policies = [in_mode("shop", "disabled", limit(1)), in_mode("policy", "disabled", limit(1))];
    let mut shop = Shop::with(&policies).await;
    for name in ["shop", "policy"] {
        let held = hold_all(&mut shop, name, 4).await;
        shop.upstream.release();
        for pending in held {
            served(pending).await;
        }
    }
    assert_eq!((shop.edge.count(REJECTIONS, &[]).await, shop.edge.count(SHADOW, &[]).await), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_on_paper_ends_when_it_would_have_ended() {
    // Far shorter than what a worker does by itself from time to time.
    const WAIT: Duration = Duration::from_millis(20);
    let short = json!({"max_concurrent_calls": 1, "max_wait_duration": "20ms", "max_queue": 10});
    let mut shop = Shop::with(&[in_mode("shop", "shadow", short)]).await;
    for round in 1..=8 {
        let first = shop.hold(self::shop()).await;
        let second = shop.hold(self::shop()).await;
        // Its turn comes after its wait, and before anybody looks at all that wait.
        tokio::time::sleep(3 * WAIT).await;
        shop.upstream.release();
        served(first).await;
        served(second).await;
        shop.edge.wait_count(SHADOW, &[("policy", "shop"), ("reason", "bulkhead_full")], round).await;
        // A permit comes free a little after a client knows.
        shop.empty("shop").await;
    }
}
