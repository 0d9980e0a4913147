//! Requests that are a caller's retries already.

use crate::*;

/// Three retries; whoever calls is believed or not.
fn document(trust: bool, budget: Value) -> Value {
    let mut document = shop(&json!({
        "retry": {"max_retries": 3, "non_idempotent": "always", "retry_on": ["5xx", "unavailable"]},
        "retry_budget": budget,
    }));
    document["trust_caller_headers"] = trust.into();
    document
}

const HINTS: [&str; 2] = ["x-envoy-attempt-count", "grpc-previous-rpc-attempts"];

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_retry_is_not_retried_again() {
    let mut stage = Stage::believing(&[patient_route()], &document(true, Value::Null)).await;
    let attempt = HINTS[0];
    let previous = HINTS[1];
    let cases: [(&[(&str, &str)], usize); 11] = [
        (&[], 4),
        (&[(attempt, "1")], 4),
        (&[(attempt, "2")], 1),
        (&[(attempt, "4000000000")], 1),
        (&[(previous, "0")], 4),
        (&[(previous, "1")], 1),
        (&[(previous, "9")], 1),
        (&[(attempt, "1"), (previous, "1")], 1),
        (&[(attempt, "2"), (previous, "0")], 1),
        // What is no number says nothing.
        (&[(attempt, "two"), (previous, "-1")], 4),
        (&[(attempt, "")], 4),
    ];
    let mut denied = 0;
    for (headers, expected) in cases {
        let with =
            |request: Request| headers.iter().fold(request, |it, (name, value)| it.header(name, value));
        assert_eq!(stage.attempts_of_failing(with(Request::get("/shop"))).await, expected, "{headers:?}");
        let call = with(Request::grpc("/shop/Cart/Add")).header("x-behave", "grpc-trailers-only=14");
        assert_eq!(stage.attempts(call).await.1, expected, "gRPC: {headers:?}");
        denied += if expected == 1 { 2 } else { 0 };
    }
    stage.edge.wait_count(DENIED, &[("policy", "shop"), ("reason", "caller_retry")], denied).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_retry_takes_one_out_of_the_budget_and_pays_nothing() {
    let mut stage = Stage::believing(&[patient_route()], &document(true, fixed(20))).await;
    let again = || Request::get("/shop").header(HINTS[0], "2");
    wait_balance(&stage.edge, "shop", 20).await;
    for left in (15..20).rev() {
        assert_eq!(stage.ask(again()).await.status, 200);
        wait_balance(&stage.edge, "shop", left).await;
    }
    assert_eq!(retries(&stage.edge, "granted").await, 0, "it is not we who retried");
    for _ in 0..20 {
        assert_eq!(stage.attempts_of_failing(again()).await, 1);
    }
    wait_balance(&stage.edge, "shop", 0).await;
    // Where nothing is left it is let by all the same.
    assert_eq!(stage.ask(again()).await.status, 200);
    assert_eq!(stage.attempts_of_failing(Request::get("/shop")).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_strangers_say_of_attempts_changes_nothing() {
    // Whether Envoy itself would believe them or not.
    let believed = Stage::believing(&[patient_route()], &document(false, Value::Null)).await;
    let strange = Stage::open(&document(false, Value::Null)).await;
    for mut stage in [believed, strange] {
        for value in ["2", "1", "0", "9", "nonsense"] {
            let hinted = |request: Request| HINTS.iter().fold(request, |it, name| it.header(name, value));
            assert_eq!(stage.attempts_of_failing(hinted(Request::get("/shop"))).await, 4, "{value}");
            let call = hinted(Request::grpc("/shop/Cart/Add")).header("x-behave", "grpc-trailers-only=14");
            assert_eq!(stage.attempts(call).await.1, 4, "{value}");
        }
        for received in stage.upstream.received() {
            for name in HINTS {
                assert!(!received.headers.contains_key(name), "{received:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_caller_may_ask_for_fewer_retries_and_for_no_more() {
    let mut stage = Stage::believing(&[patient_route()], &document(true, Value::Null)).await;
    for (asked, attempts) in [("0", 1), ("1", 2), ("2", 3), ("3", 4), ("4", 4), ("90", 4), ("many", 4)] {
        let request = Request::get("/shop").header("x-envoy-max-retries", asked);
        assert_eq!(stage.attempts_of_failing(request).await, attempts, "asked for {asked}");
    }
    // The grant is what it may have at most, also of a budget.
    let mut stage = Stage::believing(&[patient_route()], &document(true, fixed(4))).await;
    let request = || Request::get("/shop").header("x-envoy-max-retries", "3");
    let attempts = stage.attempts_of_failing(request()).await;
    assert_eq!(attempts, 2, "a quarter of four is one");
}
