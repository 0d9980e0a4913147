//! Which statuses of a unary call are failures, wherever in the answer they are.

use crate::{Shop, assert_refused, assert_told, calls, fragile};
use resilience_integration_tests::*;
use resilience_test_grpc::{Code, Plan};
use serde_json::{Value, json};

const FAILURES: [Code; 5] =
    [Code::Unknown, Code::DeadlineExceeded, Code::Internal, Code::Unavailable, Code::DataLoss];

type Form = (&'static str, fn(Code) -> Plan);

/// How a status without a message is said.
const FORMS: [Form; 2] = [("in-trailers", Plan::status), ("in-headers", Plan::status_at_once)];

#[tokio::test(flavor = "multi_thread")]
async fn five_statuses_are_failures_and_all_others_successes() {
    let all = || FORMS.into_iter().flat_map(|form| (1..=16).map(move |code| (form, Code::from(code))));
    let service = |form: &str, code: Code| format!("{form}-{}", i32::from(code));
    let policies: Vec<Value> = all().map(|((form, _), code)| fragile(&service(form, code))).collect();
    let mut shop = Shop::open(&policies).await;
    for ((form, plan), code) in all() {
        let service = service(form, code);
        let failure = FAILURES.contains(&code);
        for call in 0..WORKERS {
            let status = shop.fails(&service, plan(code)).await;
            if failure && call > 0 {
                assert_refused(&status, &service);
            } else {
                assert_told(&status, code);
            }
        }
        let expected = if failure { calls(0, 1, 0) } else { calls(WORKERS as u64, 0, 0) };
        shop.edge.wait_calls(&service, expected).await;
        assert_eq!(shop.server.received(&service), if failure { 1 } else { WORKERS }, "{service}");
        let opened = shop.edge.transitions(&service, "open", "consecutive_failures").await;
        assert_eq!(opened, u64::from(failure), "{service}");
    }
    assert!(traps(&shop.edge.envoy).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_in_a_row_open_whatever_each_of_them_is() {
    let breaker = json!({"consecutive_failures": 3, "wait_duration_in_open_state": "10m"});
    let mut shop = Shop::open(&[policy("cart", breaker)]).await;
    let failing = [Plan::status(Code::Unavailable), Plan::status_at_once(Code::Internal)];
    for plan in failing {
        assert_told(&shop.fails("cart", plan).await, plan.code.into());
    }
    // It asks for patience, but it is an answer: the run ends, and another begins.
    assert_told(
        &shop.fails("cart", Plan::status_at_once(Code::ResourceExhausted)).await,
        Code::ResourceExhausted,
    );
    shop.edge.wait_calls("cart", calls(1, 2, 0)).await;
    for plan in failing {
        assert_told(&shop.fails("cart", plan).await, plan.code.into());
    }
    shop.succeeds("cart", 1).await;
    shop.edge.wait_calls("cart", calls(2, 4, 0)).await;
    for plan in failing {
        assert_told(&shop.fails("cart", plan).await, plan.code.into());
    }
    assert_told(&shop.fails("cart", Plan::messages(1).then(Code::DataLoss)).await, Code::DataLoss);
    shop.refused_by_all("cart").await;
    assert_eq!(shop.server.received("cart"), 9);
    shop.edge.wait_calls("cart", calls(2, 7, 0)).await;
    assert_eq!(shop.edge.state("cart").await, Some(2));
}
