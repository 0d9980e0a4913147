//! Versions of a configuration that can be told apart.

use crate::policy;
use resilience_test_harness::{PATIENCE, Protocol, Request, burst, eventually};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// A policy whose answer to `/canary` is the version of the configuration that has it.
#[must_use]
pub fn canary(version: u32) -> Value {
    let mut canary = policy("canary", json!({"mode": "forced_open", "consecutive_failures": 1}));
    canary["fallback"] = json!([{"static": {"status": 200, "text": version.to_string()}}]);
    canary
}

/// Waits until new connections get a version, whatever worker they come to.
///
/// # Panics
/// If they do not.
pub async fn serves(address: SocketAddr, version: u32) {
    eventually("the new configuration on every worker", PATIENCE, async || {
        let answers = burst(address, Protocol::Http1, 24, 24, |_| Request::get("/canary")).await;
        answers
            .iter()
            .all(|answer| answer.as_ref().is_ok_and(|it| it.text() == version.to_string()))
            .then_some(())
    })
    .await;
}
