//! Waits that end without a permit, and what is asked again after one that ends with it.

use crate::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_is_over_ends_in_a_refusal() {
    const WAIT: Duration = Duration::from_millis(300);
    let bulkhead = json!({"max_concurrent_calls": 1, "max_wait_duration": "300ms", "max_queue": 20});
    let mut shop = Shop::open(bulkhead).await;
    let held = shop.hold(self::shop()).await;
    for worker in 0..WORKERS {
        let asked = Instant::now();
        let answer = shop.clients.worker(worker).send(self::shop()).await.unwrap();
        assert!(asked.elapsed() >= WAIT, "refused after {:?}", asked.elapsed());
        assert_full(&answer, "shop");
        assert_eq!(
            (answer.header("retry-after"), answer.header("x-envoy-ratelimited")),
            ("1".into(), "true".into())
        );
    }
    // Waits of many ends are over each at its own: none keeps the others.
    let mut waiting = Vec::new();
    for _ in 0..3 * WORKERS {
        waiting.push(shop.start(self::shop()).await);
        tokio::time::sleep(WAIT / 30).await;
    }
    for pending in waiting {
        refused(pending).await;
    }
    assert_eq!((shop.upstream.requests(), shop.refused("shop", "_").await), (1, 4 * WORKERS as u64));
    shop.upstream.release();
    served(held).await;
    shop.empty("shop").await;
    shop.edge.wait_count(WAITED, &[("policy", "shop")], 4 * WORKERS as u64).await;
    // Envoy keeps a histogram in buckets: a sum is about what it was.
    let metrics = shop.edge.envoy.prometheus().await;
    let sum = metrics.sum("resilience_bulkhead_wait_milliseconds_sum", &[("policy", "shop")]);
    assert!(sum >= 4.0 * WORKERS as f64 * 250.0, "{sum} ms in all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_at_once() {
    let mut shop = Shop::open(patient(1, 2)).await;
    let held = shop.hold(self::shop()).await;
    let first = shop.wait(self::shop(), 1).await;
    let second = shop.wait(self::shop(), 2).await;
    // Who would wait is not answered while the harness has patience.
    shop.full_for_all("shop").await;
    shop.upstream.release();
    for pending in [held, first, second] {
        served(pending).await;
    }
    assert_eq!((shop.upstream.requests(), shop.refused("shop", "_").await), (3, WORKERS as u64));
    shop.empty("shop").await;
    shop.edge.wait_count(WAITED, &[("policy", "shop")], 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_waiting_nobody_waits() {
    let no_wait = json!({"max_concurrent_calls": 1, "max_wait_duration": "0s"});
    for bulkhead in [no_wait, limit(1)] {
        let mut shop = Shop::open(bulkhead).await;
        let held = shop.hold(self::shop()).await;
        shop.full_for_all("shop").await;
        shop.upstream.release();
        served(held).await;
        shop.empty("shop").await;
        assert_eq!(shop.edge.count(WAITED, &[]).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_as_long_as_the_limit_unless_told() {
    let mut shop = Shop::open(json!({"max_concurrent_calls": 2, "max_wait_duration": FOR_EVER})).await;
    let mut all = vec![shop.hold(self::shop()).await, shop.hold(self::shop()).await];
    all.push(shop.wait(self::shop(), 1).await);
    all.push(shop.wait(self::shop(), 2).await);
    shop.full_for_all("shop").await;
    shop.upstream.release();
    for pending in all {
        served(pending).await;
    }
    shop.empty("shop").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_wait_the_breaker_is_asked_again() {
    let mut policy = compartment("shop", patient(1, 10));
    policy["circuit_breaker"] = json!({"consecutive_failures": 1, "wait_duration_in_open_state": "10m"});
    let mut shop = Shop::with(&[policy]).await;
    let failing = shop.start(self::shop().header("x-behave", "status=500; hang")).await;
    shop.upstream.wait_in_flight(1).await;
    let mut waiting = Vec::new();
    for number in 1..=WORKERS as u64 {
        waiting.push(shop.wait(self::shop(), number).await);
    }
    shop.upstream.release();
    assert_eq!(failing.headers().await.unwrap().finish().await.status, 500);
    for pending in waiting {
        let answer = pending.headers().await.unwrap().finish().await;
        let marker = "shop;reason=circuit_open;source=none".to_owned();
        assert_eq!((answer.status, answer.header("x-resilience")), (503, marker));
    }
    assert_eq!(shop.upstream.requests(), 1);
    // They did not keep the permits they were given.
    shop.empty("shop").await;
    let rejected =
        async |reason| shop.edge.count(REJECTIONS, &[("policy", "shop"), ("reason", reason)]).await;
    assert_eq!((rejected("circuit_open").await, rejected("bulkhead_full").await), (WORKERS as u64, 0));
    shop.edge.wait_count(WAITED, &[("policy", "shop")], WORKERS as u64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_that_ran_out_in_the_queue_is_not_the_upstreams_failure() {
    const WHOLE: Duration = Duration::from_secs(8);
    let mut policy = compartment("shop", patient(1, 10));
    policy["circuit_breaker"] = json!({"consecutive_failures": 1, "wait_duration_in_open_state": "10m"});
    let mut route = patient_route();
    route["route"]["max_stream_duration"] = json!({"max_stream_duration": "8s"});
    let upstream = Upstream::start().await;
    let edge = Edge::routed(upstream.addr(), &[route], &[filter(&document(&[policy]))]).await;
    let mut shop = Shop::of(upstream, edge).await;

    let first = shop.hold(self::shop()).await;
    let asked = Instant::now();
    let second = shop.wait(self::shop().header("x-behave", "hang"), 1).await;
    pass(asked, WHOLE * 5 / 8).await;
    shop.upstream.release_one();
    served(first).await;
    // It waited for longer than it was with the upstream then.
    assert_eq!(second.headers().await.unwrap().finish().await.status, 504);
    shop.edge.wait_calls("shop", Calls { success: 1, ignored: 1, ..Calls::default() }).await;
    shop.empty("shop").await;
    // Of one that did not wait it is.
    assert_eq!(shop.ask(self::shop().header("x-behave", "hang")).await.status, 504);
    shop.edge.wait_calls("shop", Calls { success: 1, ignored: 1, failure: 1 }).await;
    assert_eq!(shop.edge.state("shop").await, Some(2));
}
