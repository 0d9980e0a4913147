//! An Envoy in which a request can end in every way that the table knows.

use resilience_host_contract::{hide_exports, probe, probe_module};
use resilience_test_harness::config::{
    bootstrap, cluster, connection_manager, direct_response, listener, route, typed, virtual_host,
    wasm_filter, with_access_log, with_http2,
};
use resilience_test_harness::{Envoy, Scratch, refused_address};
use serde_json::{Value, json};
use std::net::SocketAddr;

pub(super) const ACCESS_LOG: &str = "access.log";

/// Two probes look at each request: `full` exports every callback and obeys commands, `bare` has neither log nor done.
pub(super) async fn start(upstream: SocketAddr, scratch: &Scratch) -> Envoy {
    let full = std::fs::read(probe_module()).unwrap();
    let bare = scratch.file("bare.wasm");
    std::fs::write(&bare, hide_exports(&full, &["proxy_on_log", "proxy_on_done"])).unwrap();
    let filters = [
        deny("early", "x-deny-early"),
        wasm_filter("bare", &bare, "bare", "bare", "name=bare deaf"),
        probe("full", "full", ""),
        deny("late", "x-deny"),
        typed(
            LIMIT,
            "extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
            json!({"stat_prefix": "off"}),
        ),
        typed(
            "envoy.filters.http.fault",
            "extensions.filters.http.fault.v3.HTTPFault",
            json!({"abort": {"header_abort": {}, "percentage": {"numerator": 100}}}),
        ),
    ];
    let mut manager = connection_manager(&[virtual_host("all", &routes())], &filters);
    // One of the routes leads to a cluster that does not exist.
    manager["route_config"]["validate_clusters"] = json!(false);
    let format = "%REQ(X-CASE)%\t%RESPONSE_CODE%\t%RESPONSE_FLAGS%\t%RESPONSE_CODE_DETAILS%";
    let manager = with_access_log(manager, &scratch.file(ACCESS_LOG), format);
    let flush = ["--file-flush-interval-msec", "20"];
    let builder = Envoy::builder(bootstrap(&[listener("edge", manager)], &clusters(upstream)));
    builder.argument(flush[0]).argument(flush[1]).start().await
}

const LIMIT: &str = "envoy.filters.http.local_ratelimit";

fn routes() -> Vec<Value> {
    let once = json!({"retry_on": "retriable-4xx", "num_retries": 1, "per_try_timeout": "0.1s"});
    let twice = json!({"retry_on": "5xx", "num_retries": 1, "per_try_timeout": "0.1s"});
    let mut limited = route("limited", "/limited", "up");
    limited["typed_per_filter_config"][LIMIT] = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "limited",
        "token_bucket": {"max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "3600s"},
        "filter_enabled": {"default_value": {"numerator": 100}},
        "filter_enforced": {"default_value": {"numerator": 100}},
    });
    vec![
        limited,
        direct_response("direct", "/direct", 503, "direct"),
        json!({"name": "redirect", "match": {"prefix": "/redirect"}, "redirect": {"path_redirect": "/"}}),
        with(route("timeout", "/timeout", "up"), json!({"timeout": "0.2s"})),
        with(route("timeout2", "/h2-timeout", "up2"), json!({"timeout": "0.2s"})),
        with(route("try", "/try-once", "up"), json!({"timeout": "10s", "retry_policy": once})),
        with(route("tries", "/try-twice", "up"), json!({"timeout": "10s", "retry_policy": twice})),
        with(route("idle", "/idle", "up"), json!({"timeout": "0s", "idle_timeout": "0.2s"})),
        with(
            route("duration", "/duration", "up"),
            json!({"timeout": "0s", "max_stream_duration": {"max_stream_duration": "0.2s"}}),
        ),
        with(
            route("retry", "/retry-up", "up"),
            json!({"retry_policy": {"retry_on": "5xx", "num_retries": 2}}),
        ),
        with(
            route("retry-refused", "/retry-refused", "refused"),
            json!({"retry_policy": {"retry_on": "5xx", "num_retries": 1}}),
        ),
        with(
            route("retry-limited", "/retry-limited", "no-retries"),
            json!({"retry_policy": {"retry_on": "5xx", "num_retries": 1}}),
        ),
        route("refused", "/refused", "refused"),
        route("empty", "/empty", "empty"),
        route("pending", "/pending", "no-pending"),
        route("requests", "/requests", "no-requests"),
        route("connections", "/connections", "one-connection"),
        route("absent", "/absent", "absent"),
        route("up2", "/h2", "up2"),
        route("up", "/up", "up"),
    ]
}

fn clusters(upstream: SocketAddr) -> Vec<Value> {
    let limited = |name: &str, limits: Value| {
        let mut cluster = cluster(name, &[upstream]);
        cluster["circuit_breakers"]["thresholds"] = json!([limits]);
        cluster
    };
    vec![
        cluster("up", &[upstream]),
        with_http2(cluster("up2", &[upstream])),
        cluster("refused", &[refused_address()]),
        cluster("empty", &[]),
        limited("no-pending", json!({"max_pending_requests": 0})),
        limited("no-requests", json!({"max_requests": 0})),
        limited("one-connection", json!({"max_connections": 1, "max_pending_requests": 1})),
        limited("no-retries", json!({"max_retries": 0})),
    ]
}

fn with(mut route: Value, action: Value) -> Value {
    for (key, value) in action.as_object().unwrap() {
        route["route"][key] = value.clone();
    }
    route
}

/// Refuses what carries a header.
fn deny(name: &str, header: &str) -> Value {
    let policy = json!({
        "permissions": [{"header": {"name": header, "present_match": true}}],
        "principals": [{"any": true}],
    });
    let rules = json!({"rules": {"action": "DENY", "policies": {"named": policy}}});
    typed(name, "extensions.filters.http.rbac.v3.RBAC", rules)
}
