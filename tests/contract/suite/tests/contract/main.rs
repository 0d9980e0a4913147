//! Facts about the host that the filters stand on, asserted on a real Envoy with four workers.
//!
//! Each was first measured. When a new Envoy version breaks one of these, what relies on it must change.

mod annotating;
mod answering;
mod bodies;
mod draining;
mod early;
mod endings;
mod headers;
mod ids;
mod leaving;
mod metrics;
mod queues;
mod reading;
mod replies;
mod rerouting;
mod retries;
mod rewriting;
mod scene;
mod shared_data;
mod timeouts;
mod timers;
mod tracing;
mod traps;
mod tries;
mod tunnels;
mod updates;
mod vms;
mod waiting;

use resilience_host_contract::{envoy, probe};
use resilience_test_harness::Envoy;
use resilience_test_harness::config::{cluster, route};
use std::net::SocketAddr;

/// Whether the Envoy under test is at least this version, for a fact that changed with it.
fn since(major: u32, minor: u32) -> bool {
    Envoy::version() >= (major, minor)
}

/// An Envoy whose edge has one probe, with `more` in its document, before a route to `upstream`; `/bad` leads to a
/// cluster without hosts.
async fn with_probe(more: &str, upstream: SocketAddr) -> (Envoy, SocketAddr) {
    let routes = [route("bad", "/bad", "none"), route("all", "/", "up")];
    let clusters = [cluster("up", &[upstream]), cluster("none", &[])];
    let envoy = envoy(&[probe("probe", "vm", more)], &routes, &clusters).start().await;
    let edge = envoy.addr("edge").await;
    (envoy, edge)
}
