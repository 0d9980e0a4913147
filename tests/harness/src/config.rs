//! Pieces of an Envoy configuration, as values that a test puts together and may change before it uses them.
//!
//! They hold what nearly every test needs; what one test needs it adds itself (`hcm["stream_idle_timeout"] = ...`).

use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;

const TYPE: &str = "type.googleapis.com/envoy";

/// A bootstrap with an admin on a free port and a runtime layer that the admin can change.
#[must_use]
pub fn bootstrap(listeners: &[Value], clusters: &[Value]) -> Value {
    json!({
        "node": {"id": "test", "cluster": "test"},
        "admin": {"address": address(SocketAddr::from(([127, 0, 0, 1], 0)))},
        "layered_runtime": {"layers": [{"name": "admin", "admin_layer": {}}]},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    })
}

/// Makes a bootstrap take its listeners from a [`crate::DynamicFile`] of [`listener_resource`]s.
#[must_use]
pub fn with_listeners_from(mut bootstrap: Value, file: &Path) -> Value {
    bootstrap["dynamic_resources"]["lds_config"] = watched(file);
    bootstrap
}

/// A listener as a discovery response holds it.
#[must_use]
pub fn listener_resource(mut listener: Value) -> Value {
    listener["@type"] = format!("{TYPE}.config.listener.v3.Listener").into();
    listener
}

/// A listener on a free loopback port. The connection manager speaks HTTP/1.1 and h2c.
#[must_use]
pub fn listener(name: &str, connection_manager: Value) -> Value {
    let manager = typed(
        "envoy.filters.network.http_connection_manager",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        connection_manager,
    );
    json!({
        "name": name,
        "address": address(SocketAddr::from(([127, 0, 0, 1], 0))),
        // Connections are spread by the kernel only where each worker has a socket of its own.
        "enable_reuse_port": true,
        "filter_chains": [{"filters": [manager]}],
    })
}

/// A connection manager with these filters before the router. `virtual_hosts` come from [`virtual_host`].
#[must_use]
pub fn connection_manager(virtual_hosts: &[Value], filters: &[Value]) -> Value {
    let mut filters = filters.to_vec();
    filters.push(router());
    json!({
        "stat_prefix": "edge",
        "codec_type": "AUTO",
        "max_request_headers_kb": 96,
        "generate_request_id": false,
        "http_filters": filters,
        "route_config": {"name": "routes", "virtual_hosts": virtual_hosts},
    })
}

/// Makes a connection manager write an access log; each line is `format` (without a newline).
///
/// Envoy writes the file at most ten seconds late unless the test starts it with `--file-flush-interval-msec`.
#[must_use]
pub fn with_access_log(connection_manager: Value, file: &Path, format: &str) -> Value {
    let format = json!({"text_format_source": {"inline_string": format!("{format}\n")}});
    with_access_log_of(connection_manager, file, format)
}

/// As [`with_access_log`], with the whole of Envoy's `log_format`, such as one of JSON.
#[must_use]
pub fn with_access_log_of(mut connection_manager: Value, file: &Path, log_format: Value) -> Value {
    connection_manager["access_log"] = json!([typed(
        "envoy.access_loggers.file",
        "extensions.access_loggers.file.v3.FileAccessLog",
        json!({"path": file, "log_format": log_format}),
    )]);
    connection_manager
}

/// A virtual host of all domains.
#[must_use]
pub fn virtual_host(name: &str, routes: &[Value]) -> Value {
    json!({"name": name, "domains": ["*"], "routes": routes})
}

/// A named route of a path prefix to a cluster.
#[must_use]
pub fn route(name: &str, prefix: &str, cluster: &str) -> Value {
    json!({"name": name, "match": {"prefix": prefix}, "route": {"cluster": cluster}})
}

/// A named route of a path prefix that Envoy answers itself.
#[must_use]
pub fn direct_response(name: &str, prefix: &str, status: u16, body: &str) -> Value {
    json!({
        "name": name,
        "match": {"prefix": prefix},
        "direct_response": {"status": status, "body": {"inline_string": body}},
    })
}

/// An HTTP/1.1 cluster of these endpoints, with the limits of its circuit breakers out of the way.
#[must_use]
pub fn cluster(name: &str, endpoints: &[SocketAddr]) -> Value {
    let endpoints: Vec<Value> =
        endpoints.iter().map(|endpoint| json!({"endpoint": {"address": address(*endpoint)}})).collect();
    json!({
        "name": name,
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        "circuit_breakers": {"thresholds": [{
            "max_connections": 100_000,
            "max_pending_requests": 100_000,
            "max_requests": 100_000,
            "max_retries": 100_000,
        }]},
    })
}

/// Makes a cluster speak HTTP/2.
#[must_use]
pub fn with_http2(mut cluster: Value) -> Value {
    cluster["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": format!("{TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions"),
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    });
    cluster
}

/// Our filter: V8, reloaded after a trap, configured by a JSON document.
#[must_use]
pub fn resilience_filter(wasm: &Path, vm_id: &str, document: &str) -> Value {
    wasm_filter("resilience", wasm, vm_id, "", document)
}

/// Any proxy-wasm module as a filter that is reloaded after a trap.
#[must_use]
pub fn wasm_filter(name: &str, wasm: &Path, vm_id: &str, root_id: &str, document: &str) -> Value {
    typed(
        name,
        "extensions.filters.http.wasm.v3.Wasm",
        json!({"config": {
            "name": name,
            "root_id": root_id,
            "failure_policy": "FAIL_RELOAD",
            // A test that kills a VM does not want to wait for the second that Envoy leaves between two reloads.
            "reload_config": {"backoff": {"base_interval": "0.02s"}},
            "configuration": {
                "@type": "type.googleapis.com/google.protobuf.StringValue",
                "value": document,
            },
            "vm_config": {
                "vm_id": vm_id,
                "runtime": "envoy.wasm.runtime.v8",
                "code": {"local": {"filename": wasm}},
            },
        }}),
    )
}

/// A filter that takes its configuration from a [`crate::DynamicFile`] of one [`extension_resource`].
#[must_use]
pub fn discovered_wasm_filter(name: &str, file: &Path) -> Value {
    json!({"name": name, "config_discovery": {
        "config_source": watched(file),
        "type_urls": [format!("{TYPE}.extensions.filters.http.wasm.v3.Wasm")],
    }})
}

/// A filter as a discovery response holds it.
#[must_use]
pub fn extension_resource(mut filter: Value) -> Value {
    filter["@type"] = format!("{TYPE}.config.core.v3.TypedExtensionConfig").into();
    filter
}

/// The router, which every chain of filters ends with.
#[must_use]
pub fn router() -> Value {
    typed("envoy.filters.http.router", "extensions.filters.http.router.v3.Router", json!({}))
}

/// A named extension; `message` is its full name without the leading `envoy.`.
#[must_use]
pub fn typed(name: &str, message: &str, mut config: Value) -> Value {
    config["@type"] = format!("{TYPE}.{message}").into();
    json!({"name": name, "typed_config": config})
}

/// A socket address.
#[must_use]
pub fn address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

fn watched(file: &Path) -> Value {
    json!({"path_config_source": {"path": file}, "resource_api_version": "V3"})
}
