//! A bulkhead beside a breaker, and what callers get from it.

use crate::*;

fn guarded(bulkhead: Value, circuit_breaker: Value) -> Value {
    let mut policy = compartment("shop", bulkhead);
    policy["circuit_breaker"] = circuit_breaker;
    policy
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_never_waits_and_is_handed_back() {
    const WAIT: Duration = Duration::from_millis(300);
    let breaker = json!({
        "consecutive_failures": 1,
        "wait_duration_in_open_state": "300ms",
        "permitted_number_of_calls_in_half_open_state": 1,
        // So long that it cannot be what ends the state.
        "max_wait_duration_in_half_open_state": "10m",
    });
    let mut shop = Shop::with(&[guarded(patient(1, 10), breaker)]).await;
    // The failure shows in the headers; the stream goes on, and keeps the only permit.
    let failing = shop.start(self::shop().header("x-behave", "status=500; hang-mid-body")).await;
    let failing = failing.headers().await.unwrap();
    assert_eq!(
        (failing.status, shop.edge.transitions("shop", "open", "consecutive_failures").await),
        (500, 1)
    );
    pass(Instant::now(), WAIT).await;
    // Were one of the probes kept, the next would be refused by the breaker; were one to wait, it would not be answered.
    for _ in 0..2 {
        shop.full_for_all("shop").await;
    }
    assert_eq!(shop.refused("shop", "_").await, 2 * WORKERS as u64);
    shop.waiting("shop", 0).await;
    assert_eq!(shop.upstream.requests(), 1);
    shop.upstream.release();
    assert_eq!(failing.finish().await.broken, None);
    assert_eq!(shop.ask_when_free("shop", &self::shop()).await.status, 200);
    eventually("a closed breaker", PATIENCE, async || {
        (shop.edge.state("shop").await == Some(0)).then_some(())
    })
    .await;
    assert_eq!(shop.edge.transitions("shop", "closed", "probes").await, 1);
    shop.edge.wait_calls("shop", Calls { success: 1, failure: 1, ignored: 0 }).await;
    shop.empty("shop").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_the_bulkhead_is_no_failure() {
    let breaker = json!({
        "consecutive_failures": 1,
        "failure_rate_threshold": 1,
        "minimum_number_of_calls": 1,
    });
    let mut shop = Shop::with(&[guarded(limit(1), breaker)]).await;
    let held = shop.hold(self::shop()).await;
    for _ in 0..10 {
        shop.full_for_all("shop").await;
    }
    assert_eq!(shop.refused("shop", "_").await, 10 * WORKERS as u64);
    shop.upstream.release();
    served(held).await;
    assert_eq!(shop.ask_when_free("shop", &self::shop()).await.status, 200);
    shop.edge.wait_calls("shop", Calls { success: 2, ..Calls::default() }).await;
    assert_eq!(shop.edge.count("resilience_circuit_breaker_transitions_total", &[]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_breaker_takes_no_permit_and_lets_nobody_wait() {
    let breaker = json!({"consecutive_failures": 1, "wait_duration_in_open_state": "10m"});
    let mut shop = Shop::with(&[guarded(patient(1, 10), breaker)]).await;
    let failing = shop.start(self::shop().header("x-behave", "status=500; hang-mid-body")).await;
    let failing = failing.headers().await.unwrap();
    for _ in 0..2 {
        for _ in 0..WORKERS {
            let answer = shop.ask(self::shop()).await;
            assert_eq!(answer.header("x-resilience"), "shop;reason=circuit_open;source=none");
        }
        shop.upstream.release();
        shop.in_flight("shop", 0).await;
    }
    failing.finish().await;
    assert_eq!(shop.edge.count(WAITED, &[]).await, 0);
    shop.empty("shop").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_callers_get() {
    let mut with_fallback = compartment("fallback", limit(1));
    with_fallback["fallback"] = json!([
        {"on": ["circuit_open"], "static": {"status": 200, "text": "not this"}},
        {"on": ["bulkhead_full"], "static": {"status": 202, "json": {"later": "%REASON%"}}},
    ]);
    let mut other_fallback = compartment("other", limit(1));
    other_fallback["fallback"] = json!([{"on": ["circuit_open"], "static": {"status": 200}}]);
    let mut shop = Shop::with(&[compartment("shop", limit(1)), with_fallback, other_fallback]).await;
    let mut held = Vec::new();
    for policy in ["shop", "fallback", "other"] {
        held.push(shop.hold(Request::get(&format!("/{policy}"))).await);
    }

    let plain = shop.ask(self::shop()).await;
    assert_full(&plain, "shop");
    assert_eq!(plain.header("content-type"), "application/problem+json");
    assert_eq!(
        (plain.header("retry-after"), plain.header("x-envoy-ratelimited")),
        ("1".into(), "true".into())
    );
    let body: Value = serde_json::from_slice(&plain.body).expect("JSON");
    assert_eq!((&body["status"], &body["detail"]), (&json!(503), &json!("bulkhead_full")));
    let head = shop.ask(Request::new(Method::HEAD, "/shop")).await;
    assert_full(&head, "shop");
    assert!(head.body.is_empty());
    let call = shop.ask(Request::grpc("/shop")).await;
    let said = (call.status, call.header("grpc-status"), call.header("grpc-message"));
    assert_eq!(said, (200, "8".into(), "bulkhead_full".into()), "{call:?}");
    assert_eq!(call.header("x-resilience"), "shop;reason=bulkhead_full;source=none");
    assert!(call.body.is_empty());

    let fallback = shop.ask(Request::get("/fallback")).await;
    assert_eq!((fallback.status, fallback.text()), (202, r#"{"later":"bulkhead_full"}"#.to_owned()));
    assert_eq!(fallback.header("x-resilience"), "fallback;reason=bulkhead_full;source=static");
    assert_eq!(fallback.header("retry-after"), "");
    assert_full(&shop.ask(Request::get("/other")).await, "other");
    let labels = [("policy", "fallback"), ("reason", "bulkhead_full"), ("source", "static")];
    assert_eq!(shop.edge.count("resilience_fallbacks_total", &labels).await, 1);
    for (policy, times) in [("shop", 3), ("fallback", 1), ("other", 1)] {
        assert_eq!(shop.refused(policy, "_").await, times, "{policy}");
    }
    shop.upstream.release();
    for pending in held {
        served(pending).await;
    }
}
