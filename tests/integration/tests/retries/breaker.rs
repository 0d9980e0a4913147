//! Retries beside a breaker: what was retried is one outcome, and nothing is retried while the breaker asks or refuses.

use crate::*;

fn guarded_shop(failures: u32, wait: &str) -> Value {
    shop(&json!({
        "retry": {"max_retries": 3},
        "retry_budget": null,
        "circuit_breaker": {
            "consecutive_failures": failures,
            "wait_duration_in_open_state": wait,
            "permitted_number_of_calls_in_half_open_state": 2,
            "max_wait_duration_in_half_open_state": "10m",
        },
    }))
}

async fn opened(stage: &Stage, cause: &str, times: u64) {
    let labels = [("policy", "shop"), ("to", "open"), ("cause", cause)];
    stage.edge.wait_count("resilience_circuit_breaker_transitions_total", &labels, times).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_is_not_retried_and_nothing_passes_while_open() {
    const WAIT: Duration = Duration::from_secs(1);
    let mut stage = Stage::open(&guarded_shop(2, "1s")).await;
    // Four attempts are one failure.
    for failures in 1..=2 {
        assert_eq!(stage.attempts_of_failing(get(failures)).await, 4);
        stage.edge.wait_calls("shop", Calls { failure: failures, ..Calls::default() }).await;
    }
    opened(&stage, "consecutive_failures", 1).await;
    let mut probes = 0;
    for round in 1..=3 {
        let since = Instant::now();
        for _ in 0..WORKERS {
            let (answer, attempts) = stage.attempts(get("refused")).await;
            if since.elapsed() < WAIT / 2 {
                assert_eq!(answer.header("x-resilience"), "shop;reason=circuit_open;source=none");
                assert_eq!(attempts, 0);
            }
        }
        pass(Instant::now(), WAIT).await;
        assert_eq!(stage.attempts_of_failing(get("probe")).await, 1, "a probe asks once");
        probes += 1;
        opened(&stage, "probes", round).await;
    }
    let denied = [("policy", "shop"), ("reason", "breaker")];
    stage.edge.wait_count(DENIED, &denied, probes).await;
    // Healthy again, and what fails is retried again.
    pass(Instant::now(), WAIT).await;
    for _ in 0..2 {
        assert_eq!(stage.attempts(get("well")).await.1, 1);
    }
    let closed = [("policy", "shop"), ("to", "closed"), ("cause", "probes")];
    stage.edge.wait_count("resilience_circuit_breaker_transitions_total", &closed, 1).await;
    assert_eq!(stage.attempts_of_failing(get("again")).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_admitted_before_may_retry_within_its_grant() {
    let mut stage = Stage::open(&guarded_shop(1, "10m")).await;
    let told = "hang; status=503|status=503";
    let early = stage.hold(get("early").header("x-behave", told)).await;
    assert_eq!(stage.attempts_of_failing(get("tripping")).await, 4);
    opened(&stage, "consecutive_failures", 1).await;
    for _ in 0..WORKERS {
        let answer = stage.ask(get("late")).await;
        assert_eq!(answer.header("x-resilience"), "shop;reason=circuit_open;source=none");
    }
    stage.upstream.release();
    assert_eq!(early.headers().await.expect("an answer").finish().await.status, 503);
    println!("admitted just before the breaker opened: {} attempts", stage.upstream.attempts("early"));
    assert_eq!(stage.upstream.attempts("early"), 4);
    assert_eq!(stage.upstream.attempts("late"), 0);
}

/// A breaker that only watches changes nothing about retries.
#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_in_shadow_forbids_no_retries() {
    let mut document = guarded_shop(1, "300ms");
    document["policies"][0]["circuit_breaker"]["mode"] = "shadow".into();
    let mut stage = Stage::open(&document).await;
    for _ in 0..2 * WORKERS {
        assert_eq!(stage.attempts_of_failing(get("one")).await, 4);
    }
    pass(Instant::now(), Duration::from_millis(300)).await;
    assert_eq!(stage.attempts_of_failing(get("one")).await, 4);
}
