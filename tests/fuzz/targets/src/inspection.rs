//! Any request of an operator, over any bytes in shared data.

use crate::input::Input;
use resilience_core::config::Document;
use resilience_core::inspect::{Clock, Inspection, answer};
use resilience_core::store::Versioned;
use resilience_core::worker::Worker;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Policies of every kind; their names are `a` to `d`.
const DOCUMENT: &[u8] = br#"{"namespace": "n", "policies": [
    {"name": "a", "match": [{"any": true}], "circuit_breaker": {"consecutive_failures": 2, "failures_in_window":
        {"failures": 3, "window": "10s"}, "ramp_up": {"duration": "10s", "initial": 20}}, "retry_budget": {}},
    {"name": "b", "match": [{"any": true}], "key": "upstream_cluster", "max_keys": 3, "circuit_breaker":
        {"failure_rate_threshold": 50, "sliding_window_type": "time", "sliding_window_size": 10}},
    {"name": "c", "match": [{"any": true}], "mode": "shadow", "circuit_breaker": {"slow_call_rate_threshold": 10},
        "bulkhead": {"max_concurrent_calls": 5, "max_wait_duration": "1s"}},
    {"name": "d", "match": [{"any": true}], "circuit_breaker": {"consecutive_failures": 2, "mode": "forced_open"}}]}"#;
const PLACES: [&str; 6] = ["a", "b", "b#keys", "b#key/x", "c", "#members"];
/// The path of a request that is worth asking after any other.
const PATHS: [&str; 6] = ["/policies", "/policies/", "/dependencies", "/ready", "/live", ""];
/// No reply is longer, in bytes: every policy and key, with as many changes as are remembered, and names of clusters.
const LONGEST: usize = 64 * 1024;

static POLICIES: LazyLock<Document> = LazyLock::new(|| Document::parse(DOCUMENT).expect("a document"));

/// Asks what the bytes say, and then everything that can be asked.
///
/// # Panics
/// If an answer is no JSON, is not of the statuses that there are, or is longer than its bound.
pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let now = input.timestamp();
    let wall = (input.u8() > 0).then(|| input.u64());
    let method: &[u8] = input.choice(&[b"GET", b"HEAD", b"POST", b""]);
    let beginning = input.choice(&PATHS);
    let len = usize::from(input.u8());
    let path = [beginning.as_bytes(), &input.bytes(len)].concat();
    let values: BTreeMap<_, _> =
        PLACES.iter().map(|place| (format!("resilience/n/{place}").into_bytes(), input.value())).collect();
    let clock = Clock { now, wall };
    ask(method, &path, &values, clock);
    PATHS.iter().for_each(|path| ask(b"GET", path.as_bytes(), &values, clock));
}

fn ask(method: &[u8], path: &[u8], values: &BTreeMap<Vec<u8>, Vec<u8>>, clock: Clock) {
    let policies = &POLICIES.policies;
    let guards = policies.iter().map(|policy| (policy.name.as_str(), policy.shared(0)));
    let worker = Worker::new("n", 1, guards);
    let mut read = |key: &[u8]| {
        let found = values.get(key).filter(|value| !value.is_empty());
        Ok(found.map(|bytes| Versioned { bytes: bytes.clone(), version: 1 }))
    };
    let reply = answer(
        method,
        path,
        Inspection { namespace: "n", policies, worker: &worker, read: &mut read, clock },
    );
    assert!([200, 400, 404, 405, 503].contains(&reply.status), "{}", reply.status);
    assert!(reply.body.len() <= LONGEST, "{} bytes", reply.body.len());
    let body: serde_json::Value = serde_json::from_slice(&reply.body).expect("JSON");
    assert!(body.is_object(), "{body}");
}
