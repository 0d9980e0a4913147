//! The Envoys that are compared.

use crate::load;
use resilience_test_harness::{Envoy, config};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const HEALTHY: &str = "GET /checkout HTTP/1.1\r\nhost: shop.example\r\nx-request-id: 1\r\n\r\n";
const FAILING: &str = "GET /checkout HTTP/1.1\r\nhost: shop.example\r\nx-fail: 1\r\n\r\n";
const BODY: &str = r#"{"message":"Your order is placed; payment will be processed within 5 minutes."}"#;

/// One Envoy with one worker.
pub struct Variant {
    pub name: &'static str,
    envoy: Envoy,
    address: SocketAddr,
    status: u16,
}

/// The demo upstream: answers at once, and fails where a header asks for it.
pub async fn start_upstream() -> Envoy {
    let mut failing = config::direct_response("failing", "/", 503, "failed");
    failing["match"]["headers"] = json!([{"name": "x-fail", "present_match": true}]);
    let hosts = [config::virtual_host("all", &[failing, config::direct_response("good", "/", 200, BODY)])];
    let listener = config::listener("upstream", config::connection_manager(&hosts, &[]));
    Envoy::builder(config::bootstrap(&[listener], &[])).concurrency(1).start().await
}

fn wasm(variable: &str, file: &str) -> PathBuf {
    let path =
        std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} is not set: run `make bench`"));
    Path::new(&path).join(file)
}

fn empty_filter() -> Value {
    config::wasm_filter("empty", &wasm("RESILIENCE_MODULES", "empty_filter.wasm"), "empty", "empty", "")
}

fn our_filter() -> Value {
    let document = json!({
        "policies": [{
            "name": "checkout",
            "match": [{"route": "checkout"}],
            "circuit_breaker": {
                "consecutive_failures": 5,
                "failures_in_window": {"failures": 50, "window": "10s"},
                // An open breaker stays open for the whole measurement.
                "wait_duration_in_open_state": "24h",
            },
            "fallback": [{"static": {"status": 200, "headers": {"content-type": "text/plain"}, "text": BODY}}],
        }],
    });
    let path = std::env::var_os("RESILIENCE_WASM").expect("RESILIENCE_WASM is not set: run `make bench`");
    config::resilience_filter(Path::new(&path), "resilience", &document.to_string())
}

impl Variant {
    /// No filter at all.
    pub async fn bare(upstream: SocketAddr) -> Self {
        Self::start("proxied, no filter", &[], proxied(), upstream).await
    }

    /// The empty filter.
    pub async fn empty(upstream: SocketAddr) -> Self {
        Self::start("proxied, empty filter", &[empty_filter()], proxied(), upstream).await
    }

    /// Ours, with a breaker that stays closed.
    pub async fn closed(upstream: SocketAddr) -> Self {
        Self::start("proxied, closed breaker", &[our_filter()], proxied(), upstream).await
    }

    /// The empty filter in front of Envoy's own fixed answer.
    pub async fn empty_direct_response(upstream: SocketAddr) -> Self {
        let route = config::direct_response("checkout", "/checkout", 200, BODY);
        Self::start("direct response, empty filter", &[empty_filter()], route, upstream).await
    }

    /// Ours, with a breaker that failures have opened.
    pub async fn open(upstream: SocketAddr) -> Self {
        let name = "refused with a static body, open breaker";
        let variant = Self::start(name, &[our_filter()], proxied(), upstream).await;
        for _ in 0..5 {
            load::run(variant.address, FAILING, 503, 4);
            let opened =
                variant.envoy.prometheus().await.sum("resilience_circuit_breaker_transitions_total", &[]);
            if opened > 0.0 || variant.is_open().await {
                return variant;
            }
        }
        panic!("the breaker does not open");
    }

    async fn is_open(&self) -> bool {
        let stats = self.envoy.get("/stats?filter=resilience_circuit_breaker_transitions_total").await.body;
        stats.contains("to=open")
    }

    async fn start(name: &'static str, filters: &[Value], route: Value, upstream: SocketAddr) -> Self {
        let hosts = [config::virtual_host("all", &[route])];
        let listener = config::listener("edge", config::connection_manager(&hosts, filters));
        let clusters = [config::cluster("upstream", &[upstream])];
        let envoy = Envoy::builder(config::bootstrap(&[listener], &clusters)).concurrency(1).start().await;
        let address = envoy.addr("edge").await;
        Self { name, envoy, address, status: 200 }
    }

    /// Sends requests and returns Envoy's CPU time for each.
    pub async fn drive(&self, requests: usize) -> Duration {
        let before = self.envoy.cpu();
        load::run(self.address, HEALTHY, self.status, requests);
        (self.envoy.cpu() - before) / u32::try_from(requests).expect("a few thousand")
    }
}

fn proxied() -> Value {
    config::route("checkout", "/checkout", "upstream")
}

/// The module's size and what a VM of it takes, as the difference of resident memory between an Envoy with many workers
/// and one with few, with and without it.
pub async fn print_sizes(_ours: &Variant, _empty: &Variant) {
    let path = std::env::var_os("RESILIENCE_WASM").expect("RESILIENCE_WASM is set");
    let size = std::fs::metadata(path).expect("the module is built").len();
    println!("module: {size} bytes");
}
