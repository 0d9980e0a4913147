//! A request that cannot be in time is refused before anything else is asked.

use crate::*;

/// What a caller would have as the router's timeout.
const ROUTERS: &str = "x-envoy-upstream-rq-timeout-ms";

fn sections() -> Value {
    json!({
        "timeout": {"deadline_header": OWN, "margin": "50ms"},
        "circuit_breaker": {"consecutive_failures": 1, "wait_duration_in_open_state": "10m"},
        "bulkhead": {"max_concurrent_calls": 1},
        "retry": {"max_retries": 3, "non_idempotent": "always"},
        "retry_budget": {"percent_can_retry": 0, "min_retries_per_second": 1, "ttl": "60s"},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_in_time_is_refused_at_once() {
    let mut stage = stage(true, &sections()).await;
    let mut refused = 0;
    for (header, too_little) in [(EXPECTED, &[1, 49, 50][..]), (OWN, &[0, 1, 49, 50])] {
        for &milliseconds in too_little {
            let answer = stage.ask(within(header, milliseconds)).await;
            assert_exceeded(&answer);
            assert_eq!(answer.header("content-type"), "application/problem+json");
            assert_eq!(
                (answer.header("retry-after"), answer.header("x-envoy-ratelimited")),
                ("".into(), "true".into())
            );
            let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
            assert_eq!((&body["status"], &body["detail"]), (&json!(504), &json!("deadline_exceeded")));
            refused += 1;
        }
    }
    for milliseconds in [0, 50] {
        let answer = stage.ask(within(GRPC, milliseconds)).await;
        let said = (answer.status, answer.header("grpc-status"), answer.header("grpc-message"));
        assert_eq!(said, (200, "4".into(), "deadline_exceeded".into()), "{answer:?}");
        assert_eq!(answer.header("x-resilience"), "shop;reason=deadline_exceeded;source=none");
        assert!(answer.body.is_empty());
        refused += 1;
    }
    let head = Request::new(Method::HEAD, "/shop").header(OWN, "0");
    let answer = stage.ask(head).await;
    assert_exceeded(&answer);
    assert!(answer.body.is_empty());
    refused += 1;
    assert_eq!((stage.upstream.requests(), exceeded(&stage.edge).await), (0, refused));
    assert_eq!(stage.edge.count(REJECTIONS, &[]).await, refused, "and for no other reason");
    // No evidence, no permit, no retry.
    assert_eq!(stage.edge.calls("shop").await, Calls::default());
    assert_eq!(stage.edge.count("resilience_circuit_breaker_transitions_total", &[]).await, 0);
    assert_eq!(stage.ask(within(OWN, 30_000)).await.status, 200);
    let labels = [("policy", "shop")];
    stage.edge.wait_count("resilience_bulkhead_in_flight", &labels, 0).await;
    stage.edge.wait_count("resilience_retry_budget_balance", &labels, 60).await;
}

/// That is how Envoys write it to each other.
#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_of_zero_is_none() {
    let mut stage = stage(true, &sections()).await;
    for header in [EXPECTED, ROUTERS] {
        assert_eq!(stage.ask(within(header, 0)).await.status, 200, "{header}");
        stage.edge.wait_count("resilience_bulkhead_in_flight", &[("policy", "shop")], 0).await;
    }
    assert_eq!(exceeded(&stage.edge).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_asked_before_the_breaker_and_takes_no_probe() {
    let mut sections = sections();
    sections["circuit_breaker"]["wait_duration_in_open_state"] = "300ms".into();
    sections["circuit_breaker"]["permitted_number_of_calls_in_half_open_state"] = 1.into();
    sections["circuit_breaker"]["max_wait_duration_in_half_open_state"] = "10m".into();
    sections["retry"] = Value::Null;
    let mut stage = stage(true, &sections).await;
    assert_eq!(stage.attempts_of_failing(Request::get("/shop")).await, 1);
    pass(Instant::now(), ms(300)).await;
    for _ in 0..2 * WORKERS {
        assert_exceeded(&stage.ask(within(OWN, 1)).await);
    }
    // Were one of them the probe, this would be refused.
    assert_eq!(stage.ask(within(OWN, 30_000)).await.status, 200);
    eventually("a closed breaker", PATIENCE, async || {
        (stage.edge.state("shop").await == Some(0)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fallback_answers_where_it_is_for_this_reason() {
    let mut sections = json!({"timeout": {"deadline_header": OWN}});
    for (on, answers) in [
        (json!(["deadline_exceeded"]), true),
        (json!(["refusal"]), true),
        (json!(["circuit_open", "bulkhead_full"]), false),
    ] {
        sections["fallback"] = json!([{"on": on, "static": {"status": 202, "text": "%POLICY% %REASON%"}}]);
        let mut stage = stage(true, &sections).await;
        let answer = stage.ask(within(OWN, 0)).await;
        if answers {
            assert_eq!((answer.status, answer.text()), (202, "shop deadline_exceeded".into()), "{on}");
            assert_eq!(answer.header("x-resilience"), "shop;reason=deadline_exceeded;source=static");
            let labels = [("policy", "shop"), ("reason", "deadline_exceeded"), ("source", "static")];
            assert_eq!(stage.edge.count("resilience_fallbacks_total", &labels).await, 1);
        } else {
            assert_exceeded(&answer);
        }
        assert_eq!(exceeded(&stage.edge).await, 1);
        assert_eq!(stage.upstream.requests(), 0);
    }
}

/// The margin is for the way back of a caller's deadline, and none of the operator's own business.
#[tokio::test(flavor = "multi_thread")]
async fn a_margin_shortens_callers_deadlines_only() {
    let sections = json!({"timeout": {"total": "10s", "margin": "30s", "deadline_header": OWN}});
    let mut stage = stage(true, &sections).await;
    assert_eq!(stage.ask(Request::get("/shop")).await.status, 200);
    assert_exceeded(&stage.ask(within(OWN, 29_999)).await);
    assert_eq!(stage.ask(within(OWN, 40_000)).await.status, 200);
    // What a caller has the router do is no deadline of its own.
    assert_eq!(stage.ask(within(ROUTERS, 20_000)).await.status, 200);
}
