//! Time that a request waits in a bulkhead is time of its own.

use crate::*;

fn sections(timeout: &Value) -> Value {
    json!({
        "timeout": timeout,
        "bulkhead": {"max_concurrent_calls": 1, "max_wait_duration": "5m", "max_queue": 10},
        "retry": {"max_retries": 1},
        "retry_budget": null,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_refused_when_its_time_is_over() {
    let timeout = json!({"total": "60s", "deadline_header": OWN});
    let mut stage = stage(true, &sections(&timeout)).await;
    let held = stage.hold(hanging(Request::get("/shop"))).await;
    for refused in 1..=WORKERS as u64 {
        let took = at_least_once_within(ms(600), async || {
            let (answer, took) = timed(&mut stage, within(OWN, 400)).await;
            assert_exceeded(&answer);
            assert_eq!(answer.header("retry-after"), "");
            assert!(took >= ms(380), "{took:?}");
            took
        })
        .await;
        println!("a deadline of 400 ms, in the queue: refused after {took:?}");
        assert!(exceeded(&stage.edge).await >= refused);
    }
    assert_eq!(stage.upstream.requests(), 1);
    let labels = [("policy", "shop"), ("reason", "bulkhead_full")];
    assert_eq!(stage.edge.count(REJECTIONS, &labels).await, 0);
    stage.edge.wait_count("resilience_bulkhead_waiting", &[("policy", "shop")], 0).await;
    stage.upstream.release();
    assert_eq!(held.headers().await.expect("an answer").finish().await.status, 200);
    assert_eq!(stage.ask(Request::get("/shop")).await.status, 200);
    stage.edge.wait_count("resilience_bulkhead_in_flight", &[("policy", "shop")], 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_wait_the_rest_is_what_there_is() {
    const WAITED: Duration = ms(1000);
    let timeout = json!({"total": "3s", "deadline_header": OWN});
    let mut stage = stage(true, &sections(&timeout)).await;
    let held = stage.hold(hanging(Request::get("/shop"))).await;
    let started = Instant::now();
    let waiting = stage.start(hanging(within(OWN, 60_000))).await;
    stage.edge.wait_count("resilience_bulkhead_waiting", &[("policy", "shop")], 1).await;
    pass(Instant::now(), WAITED).await;
    stage.upstream.release();
    stage.upstream.wait_requests(2).await;
    let received = stage.upstream.received().pop().expect("the second");
    for name in [OWN, EXPECTED] {
        let told = milliseconds(&received, name).expect("the rest");
        println!("total 3 s, waited 1 s: {name} says {told}");
        assert!((1..=2000).contains(&told), "{name}: {told}");
    }
    assert_eq!(held.headers().await.expect("an answer").finish().await.status, 200);
    assert_eq!(waiting.headers().await.expect("an answer").finish().await.status, 504);
    // All of it, the wait too, took what the total says.
    let took = started.elapsed();
    assert!((ms(2980)..ms(15_000)).contains(&took), "{took:?}");
}

/// What a wait leaves may be enough for one attempt and not for two.
#[tokio::test(flavor = "multi_thread")]
async fn retries_are_fitted_into_what_a_wait_has_left() {
    let timeout = json!({"total": "2500ms", "per_try": "1s"});
    let mut stage = stage(false, &sections(&timeout)).await;
    // With all the time there is a second attempt.
    let request = Request::get("/shop").header("x-id", "alone").header("x-behave", "status=503");
    assert_eq!(stage.ask(request).await.status, 503);
    assert_eq!(stage.upstream.attempts("alone"), 2);
    let held = stage.hold(Request::get("/shop").header("x-behave", "delay=800ms")).await;
    let request = Request::get("/shop").header("x-id", "late").header("x-behave", "status=503");
    let late = stage.start(request).await;
    assert_eq!(held.headers().await.expect("an answer").finish().await.status, 200);
    assert_eq!(late.headers().await.expect("an answer").finish().await.status, 503);
    assert_eq!(stage.upstream.attempts("late"), 1, "1.7 s are too short for two attempts of 1 s");
}
