//! The Envoys that are compared.

use crate::load;
use resilience_test_harness::{Envoy, PATIENCE, config, eventually};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A request that is answered well.
pub const HEALTHY: &str = "GET /checkout HTTP/1.1\r\nhost: shop.example\r\nx-request-id: 1\r\n\r\n";
/// One that fails, with a body.
pub const FAILING: &str = "GET /checkout HTTP/1.1\r\nhost: shop.example\r\nx-fail: 1\r\n\r\n";
/// One that fails without.
pub const FAILING_EMPTY: &str = "GET /checkout HTTP/1.1\r\nhost: shop.example\r\nx-fail-empty: 1\r\n\r\n";
/// What a good answer says, and a fallback's.
pub const BODY: &str = "Your order is placed; payment will be processed within 5 minutes.";
/// How many failures open a breaker that no run here opens.
pub const NEVER: u32 = 1_000_000;
/// Timeouts and retries that no request here needs.
const TOTAL: &str = "15s";
const PER_TRY: &str = "5s";
const RETRIES: u8 = 1;
/// How many failures open the breaker: one for each connection of the load.
const FAILURES: usize = load::CONNECTIONS;

/// One Envoy under load.
pub struct Variant {
    pub name: &'static str,
    request: String,
    /// What every answer says.
    status: u16,
    envoy: Envoy,
    address: SocketAddr,
}

/// The demo upstream: answers at once, and fails where a header asks for it, with a body or without.
pub async fn start_upstream() -> Envoy {
    let where_asked = |mut route: Value, header: &str| {
        route["match"]["headers"] = json!([{"name": header, "present_match": true}]);
        route
    };
    let mut empty = config::direct_response("failing without a body", "/", 503, "");
    empty["direct_response"].as_object_mut().expect("an answer").remove("body");
    let routes = [
        where_asked(config::direct_response("failing", "/", 503, "failed"), "x-fail"),
        where_asked(empty, "x-fail-empty"),
        config::direct_response("good", "/", 200, BODY),
    ];
    let hosts = [config::virtual_host("all", &routes)];
    let listener = config::listener("upstream", config::connection_manager(&hosts, &[]));
    Envoy::builder(config::bootstrap(&[listener], &[])).concurrency(1).start().await
}

/// The path in an environment variable that the Makefile sets.
pub fn path_in(variable: &str) -> PathBuf {
    std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} is not set: run `make bench`")).into()
}

/// The module that ships.
pub fn module() -> PathBuf {
    path_in("RESILIENCE_WASM")
}

/// A filter that does nothing.
pub fn empty_filter() -> Value {
    let module = path_in("RESILIENCE_MODULES").join("empty_filter.wasm");
    config::wasm_filter("empty", &module, "empty", "empty", "")
}

/// Ours, with a breaker on the route that counts failures.
pub fn our_filter() -> Value {
    our_filter_of(&module())
}

/// The same by another build of the module.
pub fn our_filter_of(module: &Path) -> Value {
    config::resilience_filter(module, "resilience", &document(&failures(), &Value::Null, &json!({})))
}

/// Ours, with a breaker on the route that counts rates over a window of this type.
pub fn rates_filter(window: &str) -> Value {
    with_triggers(&json!({
        "failure_rate_threshold": 50,
        "slow_call_rate_threshold": 80,
        "slow_call_duration_threshold": "2s",
        "sliding_window_type": window,
        "sliding_window_size": if window == "time" { 10 } else { 100 },
    }))
}

/// Ours, with a breaker that counts failures, a bulkhead that is wide enough and a fallback.
pub fn bulkhead_filter() -> Value {
    bulkhead_filter_of(&module())
}

/// The same by another build of the module.
pub fn bulkhead_filter_of(module: &Path) -> Value {
    config::resilience_filter(module, "resilience", &document(&failures(), &wide(), &json!({})))
}

/// The same where what is decided is left for access logs.
pub fn annotated_filter() -> Value {
    let document = document(&failures(), &wide(), &json!({}));
    let annotated = document.replacen('{', r#"{"annotate": true, "#, 1);
    config::resilience_filter(&module(), "resilience", &annotated)
}

/// The same with a budget for the retries that the route makes of itself.
pub fn capped_filter() -> Value {
    with(&failures(), &wide(), &json!({"retry_budget": {}}))
}

/// The same where the filter is in charge of retries and of timeouts.
pub fn charged_filter() -> Value {
    charged_filter_of(&module())
}

/// The same by another build of the module.
pub fn charged_filter_of(module: &Path) -> Value {
    let timeout = json!({"total": TOTAL, "per_try": PER_TRY});
    let more = json!({"retry_budget": {}, "retry": {"max_retries": RETRIES}, "timeout": timeout});
    config::resilience_filter(module, "resilience", &document(&failures(), &wide(), &more))
}

fn wide() -> Value {
    json!({"max_concurrent_calls": 1000})
}

/// Ours, with a bulkhead for one call, for which others wait.
pub fn waiting_filter() -> Value {
    with(&failures(), &json!({"max_concurrent_calls": 1, "max_wait_duration": "10s"}), &json!({}))
}

fn failures() -> Value {
    json!({
        "consecutive_failures": FAILURES,
        "failures_in_window": {"failures": 100, "window": "10s"},
    })
}

/// Ours, with a breaker that counts failures and never opens, and this fallback.
pub fn fallback_filter(fallback: &Value) -> Value {
    with(&json!({"consecutive_failures": NEVER}), &Value::Null, &json!({"fallback": fallback}))
}

fn with_triggers(triggers: &Value) -> Value {
    with(triggers, &Value::Null, &json!({}))
}

fn with(triggers: &Value, bulkhead: &Value, more: &Value) -> Value {
    config::resilience_filter(&module(), "resilience", &document(triggers, bulkhead, more))
}

fn document(triggers: &Value, bulkhead: &Value, more: &Value) -> String {
    let mut breaker = triggers.clone();
    // Once open it stays open for the whole measurement.
    breaker["wait_duration_in_open_state"] = json!("24h");
    let mut document = json!({
        "policies": [{
            "name": "checkout",
            "match": [{"route": "checkout"}],
            "circuit_breaker": breaker,
            "bulkhead": bulkhead,
            "fallback": [{"static": {"status": 200, "headers": {"content-type": "text/plain"}, "text": BODY}}],
        }],
    });
    for (section, value) in more.as_object().expect("sections") {
        document["policies"][0][section] = value.clone();
    }
    document.to_string()
}

/// A route to the upstream.
pub fn proxied() -> Value {
    config::route("checkout", "/checkout", "upstream")
}

/// The same, where the route itself retries and has timeouts.
pub fn retried() -> Value {
    let mut route = proxied();
    route["route"]["timeout"] = TOTAL.into();
    route["route"]["retry_policy"] =
        json!({"retry_on": "5xx", "num_retries": RETRIES, "per_try_timeout": PER_TRY});
    route
}

/// Envoy's own fixed answer, the same as the fallback's.
pub fn direct_response() -> Value {
    config::direct_response("checkout", "/checkout", 200, BODY)
}

/// An Envoy with these filters and routes.
pub async fn start(filters: &[Value], routes: &[Value], upstream: SocketAddr, workers: u32) -> Envoy {
    let hosts = [config::virtual_host("all", routes)];
    let listener = config::listener("edge", config::connection_manager(&hosts, filters));
    let clusters = [config::cluster("upstream", &[upstream])];
    Envoy::builder(config::bootstrap(&[listener], &clusters)).concurrency(workers).start().await
}

impl Variant {
    /// A variant with one worker and one route.
    pub async fn new(name: &'static str, filters: &[Value], route: Value, upstream: SocketAddr) -> Self {
        Self::of(name, HEALTHY.to_owned(), start(filters, &[route], upstream, 1).await).await
    }

    /// A running Envoy, and the request to send to it, which gets a 200.
    pub async fn of(name: &'static str, request: String, envoy: Envoy) -> Self {
        let address = envoy.addr("edge").await;
        Self { name, request, status: 200, envoy, address }
    }

    /// The same where it gets another status.
    pub fn answered(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.envoy.pid()
    }

    /// Makes the upstream fail, which the fallback answers, until the breaker is open.
    pub async fn trip(&self) {
        load::run(self.address, FAILING, 200, FAILURES);
        eventually("the breaker to open", PATIENCE, async || {
            let stats = self.envoy.get("/stats?filter=circuit_breaker_transitions_total").await.body;
            stats.contains("to=open").then_some(())
        })
        .await;
    }

    /// Sends requests and returns Envoy's CPU time for each.
    pub fn drive(&self, requests: usize) -> Duration {
        let before = self.envoy.cpu();
        load::run(self.address, &self.request, self.status, requests);
        (self.envoy.cpu() - before) / u32::try_from(requests).expect("a few thousand")
    }
}
