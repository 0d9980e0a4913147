//! A real Envoy under test: started from a configuration value, between upstreams that count and misbehave as told and
//! clients that do.
//!
//! Nothing here sleeps for a fixed time to let something happen: a test waits for the condition it needs
//! ([`eventually`], [`Envoy::wait_stat`], [`Upstream::wait_requests`]), with a deadline that fails it.

mod admin;
mod behaviour;
pub mod bundle;
mod burst;
mod client;
pub mod config;
mod envoy;
mod exchange;
mod flow;
pub mod many;
mod process;
pub mod prometheus;
mod raw;
mod scratch;
mod terminal;
mod upload;
mod upstream;

pub use admin::{Metrics, Reply};
pub use behaviour::{Behaviour, Fault};
pub use burst::burst;
pub use client::{Answer, Connection, Pending, Protocol, Request, Streaming, send_once};
pub use envoy::{Builder, Envoy, StartFailure, Validation};
pub use flow::{Flow, Running};
pub use process::{monotonic_nanoseconds, pin};
pub use prometheus::Prometheus;
pub use raw::{RawAnswer, Upgraded, raw_exchange};

pub use scratch::{DynamicFile, Scratch};
pub use terminal::Terminal;
pub use upstream::{Received, Upstream, refused_address};

/// The serving values of other crates that appear in this one's interface.
pub use hyper::{HeaderMap, Method, StatusCode, body::Bytes};

use std::time::{Duration, Instant};

/// Long enough for anything that is going to happen on a busy machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `check` gives a value and returns it.
///
/// # Panics
/// With `what` after `deadline`.
pub async fn eventually<T>(what: &str, deadline: Duration, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(started.elapsed() < deadline, "waited {deadline:?} for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
