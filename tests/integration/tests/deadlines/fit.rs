//! Retries are fitted: all attempts and the pauses between them are over when the total is.

use crate::*;

#[tokio::test(flavor = "multi_thread")]
async fn attempts_and_pauses_fit_the_total() {
    // Total, per try, and the attempts that fit with the longest pauses between them: 25 ms, 75 ms, 175 ms, 250 ms, ...
    for (total, per_try, attempts) in [
        ("1s", "300ms", 3),
        ("1s", "301ms", 2),
        ("500ms", "300ms", 1),
        ("625ms", "300ms", 2),
        ("624ms", "300ms", 1),
    ] {
        let sections = json!({
            "timeout": {"total": total, "per_try": per_try},
            "retry": {"max_retries": 5},
            "retry_budget": null,
        });
        let mut stage = stage(false, &sections).await;
        let limit = if total == "1s" { ms(1000) } else { ms(total[..3].parse().expect("ms")) };
        let took = at_least_once_within(limit + ms(150), async || {
            let before = stage.upstream.requests();
            let (answer, took) = timed(&mut stage, hanging(Request::get("/shop"))).await;
            assert_eq!(answer.status, 504);
            assert_eq!(stage.upstream.requests() - before, attempts, "total {total}, per_try {per_try}");
            took
        })
        .await;
        println!("total {total}, per_try {per_try}, max_retries 5: {attempts} attempts in {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_denied_for_the_deadline_and_reserves_nothing() {
    let sections = json!({
        "timeout": {"total": "500ms", "per_try": "300ms"},
        "retry": {"max_retries": 5},
        "retry_budget": {"percent_can_retry": 0, "min_retries_per_second": 1, "ttl": "60s"},
    });
    let mut stage = stage(false, &sections).await;
    assert_eq!(stage.attempts_of_failing(Request::get("/shop")).await, 1);
    let labels = [("policy", "shop"), ("reason", "deadline")];
    stage.edge.wait_count("resilience_retries_denied_total", &labels, 1).await;
    let pending = stage.hold(hanging(Request::get("/shop"))).await;
    let labels = [("policy", "shop")];
    stage.edge.wait_count("resilience_retry_budget_balance", &labels, 60).await;
    pending.abandon();
}

/// Without `per_try` an attempt may take all there is, and it is the total that ends the last one.
#[tokio::test(flavor = "multi_thread")]
async fn without_per_try_the_total_ends_whatever_attempt_it_meets() {
    let sections = json!({"timeout": {"total": "2s"}, "retry": {"max_retries": 3}, "retry_budget": null});
    let mut stage = stage(false, &sections).await;
    assert_eq!(stage.attempts_of_failing(Request::get("/shop")).await, 4);
    let request = Request::get("/shop").header("x-id", "one").header("x-behave", "status=503|hang");
    let (answer, took) = timed(&mut stage, request).await;
    assert_eq!((answer.status, stage.upstream.attempts("one")), (504, 2));
    assert!((ms(1990)..ms(10_000)).contains(&took), "{took:?}");
}
