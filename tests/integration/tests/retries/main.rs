//! Retries and their budget in a real Envoy with four workers: Envoy makes them, the filter says how many a request may have,
//! and the upstream counts.

mod bound;
mod breaker;
mod callers;
mod cap;
mod chain;
mod death;
mod endings;
mod fairness;
mod forged;
mod lasting;
mod metrics;
mod outage;
mod repair;
mod safety;
mod update;
mod waiting;

use bound::{Bound, Watch};
use resilience_integration_tests::*;
use resilience_test_harness::*;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const RETRIES: &str = "resilience_retries_total";
const DENIED: &str = "resilience_retries_denied_total";
const BALANCE: &str = "resilience_retry_budget_balance";
const SHADOW: &str = "resilience_shadow_decisions_total";

const SECOND: Duration = Duration::from_secs(1);

/// The policy `shop` alone.
fn shop(sections: &Value) -> Value {
    document(&[guarded("shop", sections)])
}

/// A budget of so many retries, which come back after a minute, so that no test sees them again.
fn fixed(retries: u32) -> Value {
    json!({"percent_can_retry": 0, "min_retries_per_second": 1, "ttl": "60s", "max_balance": retries})
}

fn get(id: impl std::fmt::Display) -> Request {
    Request::get("/shop").header("x-id", id.to_string())
}

/// A route with a retry policy of its own.
fn retrying_route(retries: u32) -> Value {
    let mut route = patient_route();
    route["route"]["retry_policy"] = json!({"retry_on": "5xx", "num_retries": retries});
    route
}

/// Retries that were made, or denied, by the metric.
async fn retries(edge: &Edge, decision: &str) -> u64 {
    edge.count(RETRIES, &[("policy", "shop"), ("decision", decision)]).await
}

/// Waits until so many retries were counted: after the end of each request, which clients know a little sooner.
async fn wait_granted(edge: &Edge, policy: &str, times: usize) {
    edge.wait_count(RETRIES, &[("policy", policy), ("decision", "granted")], times as u64).await;
}

/// Waits until the gauge of what is left shows this.
async fn wait_balance(edge: &Edge, policy: &str, expected: u64) {
    let mut last = None;
    let waited = tokio::time::timeout(PATIENCE, async {
        while last != Some(expected) {
            last = edge.gauge(BALANCE, policy).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "{last:?} retries left, not {expected}");
}
