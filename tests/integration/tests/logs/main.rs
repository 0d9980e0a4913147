//! What the log says: a line for each transition and for the first refusal of a burst, whichever worker it comes from, with
//! numbers, thresholds and the request; and nothing for a request.

mod hostile;
mod refusals;
mod transitions;

use resilience_integration_tests::*;
use resilience_test_harness::*;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Longer than any test takes.
const FOR_EVER: &str = "10m";
/// A VM's tick.
const TICK: Duration = Duration::from_millis(500);

/// A breaker that the first failure opens for longer than any test takes.
fn once() -> Value {
    json!({"consecutive_failures": 1, "wait_duration_in_open_state": FOR_EVER})
}

/// A request of this identity.
fn named(path: &str, behaviour: &str, id: &str) -> Request {
    let request = Request::get(path).header("x-request-id", id);
    if behaviour.is_empty() { request } else { request.header("x-behave", behaviour) }
}

/// What the log says of a policy, each line from there on, and how severe it is.
fn said(edge: &Edge, policy: &str) -> Vec<String> {
    let of = |line: &String| {
        let (before, words) = line.split_once(&format!(": policy {policy}"))?;
        let level = before.split_once(']')?.0.trim_start_matches('[').to_owned();
        let words = words.strip_prefix([':', ','])?.trim_start();
        Some(format!("{level} {words}"))
    };
    edge.envoy.log_lines().iter().filter_map(of).collect()
}

/// Waits until the log says this of a policy, and no more.
async fn wait_said(edge: &Edge, policy: &str, expected: &[&str]) {
    let mut last = Vec::new();
    let waited = tokio::time::timeout(PATIENCE, async {
        while last != expected {
            last = said(edge, policy);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "of {policy}:\n{last:#?}\nexpected:\n{expected:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_said_of_requests_that_nothing_comes_of() {
    let upstream = Upstream::start().await;
    let sections = json!({
        "circuit_breaker": {"failure_rate_threshold": 90, "sliding_window_size": 1000},
        "bulkhead": {"max_concurrent_calls": 1000, "max_wait_duration": "1s"},
        "timeout": {"total": "60s"},
        "retry": {"max_retries": 1},
        "retry_budget": {},
        "fallback": [{"static": {"status": 200, "text": "instead"}}],
    });
    let mut document = document(&[guarded("shop", &sections)]);
    document["annotate"] = true.into();
    let edge = Edge::before(upstream.addr(), &document).await;
    // All there is to say at first has been said.
    edge.wait_count("resilience_circuit_breaker_state", &[("policy", "shop")], 0).await;
    edge.wait_count("resilience_vm_starts_total", &[], 1 + WORKERS as u64).await;
    let before = edge.envoy.log_lines();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let ask = |number: usize| {
            let behaviour = if number.is_multiple_of(50) { "status=500" } else { "status=200" };
            named("/shop", behaviour, &number.to_string())
        };
        let answers = burst(edge.address, protocol, 1000, 16, ask).await;
        assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|it| it.status == 200)));
    }
    // Those that failed were tried again.
    assert!(upstream.requests() > 2 * 1000);
    tokio::time::sleep(2 * TICK).await;
    assert_eq!(edge.envoy.log_lines(), before);
}
