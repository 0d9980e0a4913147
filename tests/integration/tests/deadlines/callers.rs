//! A caller's deadline shortens what a request may take.

use crate::*;

fn sections() -> Value {
    json!({
        "timeout": {"total": "30s", "per_try": "200ms", "deadline_header": OWN},
        "retry": {"max_retries": 3, "non_idempotent": "always"},
        "retry_budget": null,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_leaves_room_for_one_attempt_and_is_kept() {
    const DEADLINE: Duration = ms(300);
    for header in [EXPECTED, OWN, GRPC] {
        let mut stage = stage(true, &sections()).await;
        let took = at_least_once_within(DEADLINE, async || {
            let before = stage.upstream.requests();
            let (answer, took) = timed(&mut stage, hanging(within(header, 300))).await;
            assert!(timed_out(&answer), "{answer:?}");
            assert_eq!(stage.upstream.requests() - before, 1, "{header}: one attempt");
            assert!(took >= ms(190), "an attempt may take 200 ms, and took {took:?}");
            took
        })
        .await;
        println!("{header}: a deadline of 300 ms, per_try 200 ms: one attempt, answered after {took:?}");
        assert_eq!(exceeded(&stage.edge).await, 0);
        assert_eq!(traps(&stage.edge.envoy), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_of_several_deadlines_counts() {
    let mut stage = stage(true, &json!({"timeout": {"deadline_header": OWN}})).await;
    for (expected, own) in [(200, 30_000), (30_000, 200)] {
        let took = at_least_once_within(ms(5000), async || {
            let request =
                Request::get("/shop").header(EXPECTED, expected.to_string()).header(OWN, own.to_string());
            let (answer, took) = timed(&mut stage, hanging(request)).await;
            assert_eq!(answer.status, 504);
            took
        })
        .await;
        assert!(took >= ms(180), "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_total_that_is_shorter_than_the_deadline_counts() {
    let mut stage = stage(true, &json!({"timeout": {"total": "300ms", "deadline_header": OWN}})).await;
    for header in [EXPECTED, OWN, GRPC] {
        let (answer, took) = timed(&mut stage, hanging(within(header, 30_000))).await;
        assert!(timed_out(&answer), "{answer:?}");
        assert!((ms(290)..ms(10_000)).contains(&took), "{took:?}");
    }
}

/// Values that are no deadline say nothing, and never harm.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_deadline_is_none() {
    let mut stage = stage(true, &json!({"timeout": {"total": "10s", "deadline_header": OWN}})).await;
    for value in ["", "soon", "-1", "1e3", "0x10", "1.5", "99999999999999999999999", " ", "5 5", "m", "5x"] {
        for header in [EXPECTED, OWN, GRPC] {
            let request = Request::get("/shop").header(header, value);
            assert_eq!(stage.ask(request).await.status, 200, "{header}: {value:?}");
        }
    }
    assert_eq!(exceeded(&stage.edge).await, 0);
    assert_eq!(traps(&stage.edge.envoy), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_deadline_changes_nothing() {
    let mut stage = stage(false, &sections()).await;
    for header in [EXPECTED, OWN, GRPC] {
        // Longer than the deadline would be, and shorter than an attempt may take.
        let request = within(header, 1).header("x-behave", "delay=60ms");
        let (answer, attempts) = stage.attempts(request).await;
        assert_eq!((answer.status, attempts), (200, 1), "{header}");
    }
    assert_eq!(exceeded(&stage.edge).await, 0);
}
