//! The build of our module with a trap that tests can pull, to see what happens when a worker's VM dies.

use crate::{Edge, document, patient_route, test_module, traps};
use resilience_test_harness::{Connection, PATIENCE, Request, config};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Instant;

/// How many VMs Envoy has loaded again.
pub const RELOADED: &str = "wasm.resilience.vm_reload_success";

/// Our filter with the trap.
///
/// # Panics
/// If the module is not there.
#[must_use]
pub fn trappable_filter(document: &Value) -> Value {
    config::resilience_filter(&test_module("resilience_trap"), "resilience", &document.to_string())
}

impl Edge {
    /// Our filter with the trap and one policy, before an upstream that may take all its time.
    ///
    /// # Panics
    /// If Envoy does not start.
    pub async fn trappable(upstream: SocketAddr, policy: &Value) -> Self {
        let filter = trappable_filter(&document(std::slice::from_ref(policy)));
        Self::routed(upstream, &[patient_route()], &[filter]).await
    }
}

/// Kills the VM of the worker that serves a connection, by a request to `/kill`. It is there again for the next request,
/// which is to `/other`: no policy of a test should be over these.
///
/// # Panics
/// If it does not die, or does not come back.
pub async fn kill(edge: &Edge, connection: &mut Connection) {
    let reloads = edge.envoy.stat(RELOADED).await.expect("a filter that is reloaded");
    let answer =
        connection.send(Request::get("/kill").header("x-test-trap", "now")).await.expect("an answer");
    assert_eq!((answer.status, answer.header("x-resilience")), (503, String::new()));
    edge.envoy.wait_log("a test pulled the trap").await;
    assert!(!traps(&edge.envoy).is_empty(), "other tests rely on seeing a trap");
    // A VM is loaded again by the first request that needs it, once its back-off is over.
    let started = Instant::now();
    while connection.send(Request::get("/other")).await.expect("an answer").status != 200 {
        assert!(started.elapsed() < PATIENCE, "the worker does not come back");
    }
    assert_eq!(edge.envoy.stat(RELOADED).await, Some(reloads + 1));
}
