//! Envoy's side: the upstreams, the clusters, and the routes and filters that make each ending happen.

use resilience_test_harness::config::{cluster, direct_response, route, typed, with_http2};
use resilience_test_harness::*;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What else listens.
#[derive(Debug)]
pub struct World {
    /// Does as it is told by each request.
    pub upstream: Upstream,
    /// Fails twice before it answers.
    pub flaky: Upstream,
    /// Allows nothing.
    denying: Upstream,
    /// Answers with more than Envoy's limit for a connection's buffers, one mebibyte.
    large: Upstream,
    nonsense: SocketAddr,
}

impl World {
    /// All that is needed to play every row.
    pub async fn new() -> Self {
        let (flaky, denying, large) =
            (Upstream::start().await, Upstream::start().await, Upstream::start().await);
        flaky.script([Behaviour::status(503), Behaviour::status(503)]);
        denying.behave(Behaviour::status(403));
        large.behave(Behaviour::status(200).body(vec![b'.'; 2 << 20]));
        Self { upstream: Upstream::start().await, flaky, denying, large, nonsense: speaks_nonsense().await }
    }

    /// Envoy's clusters for it.
    #[must_use]
    pub fn clusters(&self) -> Vec<Value> {
        let upstream = [self.upstream.addr()];
        let nobody = [refused_address()];
        let limited = |mut cluster: Value, limit: &str| {
            cluster["circuit_breakers"]["thresholds"][0][limit] = 0.into();
            cluster
        };
        let mut durable = cluster("max_duration", &upstream);
        durable["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"max_stream_duration": "0.3s"},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        });
        let mut drop = cluster("drop", &upstream);
        drop["load_assignment"]["policy"] = json!({"drop_overloads": [
            {"category": "all", "drop_percentage": every()},
        ]});
        vec![
            cluster("upstream", &upstream),
            with_http2(cluster("h2", &upstream)),
            cluster("flaky", &[self.flaky.addr()]),
            limited(cluster("no_retry_left", &upstream), "max_retries"),
            cluster("refused", &nobody),
            limited(cluster("refused_no_retry_left", &nobody), "max_retries"),
            cluster("no_host", &[]),
            cluster("nonsense", &[self.nonsense]),
            durable,
            limited(cluster("overflow", &upstream), "max_pending_requests"),
            drop,
            cluster("denying", &[self.denying.addr()]),
            cluster("large", &[self.large.addr()]),
        ]
    }
}

/// A server that answers whatever it is asked with what is no HTTP.
async fn speaks_nonsense() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                if stream.read(&mut request).await.is_ok() {
                    let _ = stream.write_all(b"220 mail.example ESMTP\r\n").await;
                    // Envoy closes; until then there is nothing to add.
                    let _ = stream.read(&mut request).await;
                }
            });
        }
    });
    address
}

/// The filters between ours and the router. Each is off except on the routes that switch it on.
pub fn filters_behind() -> Vec<Value> {
    let http = |name: &str, message: &str, config: Value| {
        let mut filter = typed(
            &format!("envoy.filters.http.{name}"),
            &format!("extensions.filters.http.{message}"),
            config,
        );
        filter["disabled"] = true.into();
        filter
    };
    let denying = json!({"uri": "http://denying", "cluster": "denying", "timeout": "10s"});
    vec![
        http("rbac", "rbac.v3.RBAC", json!({})),
        http("ext_authz", "ext_authz.v3.ExtAuthz", json!({"http_service": {"server_uri": denying}})),
        http("local_ratelimit", "local_ratelimit.v3.LocalRateLimit", json!({"stat_prefix": "limit"})),
        http("fault", "fault.v3.HTTPFault", json!({})),
        http("buffer", "buffer.v3.Buffer", json!({"max_request_bytes": 1000})),
        http("lua", "lua.v3.Lua", json!({})),
    ]
}

/// Switches a filter on by giving it a configuration of the route's own.
fn switched_on(mut route: Value, filter: &str, message: &str, mut own: Value) -> Value {
    own["@type"] = format!("type.googleapis.com/envoy.extensions.filters.http.{message}").into();
    route["typed_per_filter_config"] = json!({format!("envoy.filters.http.{filter}"): own});
    route
}

fn every() -> Value {
    json!({"numerator": 100, "denominator": "HUNDRED"})
}

/// A timer of the route. Some of these are to run out after headers came, which takes a while on a busy machine.
const ENOUGH: &str = "2s";

/// The route of a row's path; `None` where there is to be none.
pub fn route_of(kind: &str, prefix: &str) -> Option<Value> {
    let to = |cluster: &str| route(kind, prefix, cluster);
    let with = |mut route: Value, key: &str, value: Value| {
        route["route"][key] = value;
        route
    };
    let retries =
        |on: &str| json!({"retry_on": on, "num_retries": 2, "retry_back_off": {"base_interval": "0.001s"}});
    Some(match kind {
        "none" => return None,
        "plain" => with(to("upstream"), "timeout", "0s".into()),
        "h2" | "refused" | "no_host" | "nonsense" | "max_duration" | "overflow" | "drop" => to(kind),
        "grpc" => to("h2"),
        "flaky" => with(to("flaky"), "retry_policy", retries("5xx")),
        "retried" => with(to("upstream"), "retry_policy", retries("5xx")),
        "no_retry_left" => with(to("no_retry_left"), "retry_policy", retries("5xx")),
        "refused_retried" => with(to("refused"), "retry_policy", retries("connect-failure")),
        "refused_no_retry_left" => {
            with(to("refused_no_retry_left"), "retry_policy", retries("connect-failure"))
        }
        "timeout" => with(to("upstream"), "timeout", ENOUGH.into()),
        "per_try" => {
            let mut policy = retries("5xx");
            policy["per_try_timeout"] = "0.2s".into();
            with(to("upstream"), "retry_policy", policy)
        }
        "idle" => with(with(to("upstream"), "timeout", "0s".into()), "idle_timeout", ENOUGH.into()),
        "deadline" => with(to("upstream"), "max_stream_duration", json!({"max_stream_duration": ENOUGH})),
        "no_cluster" => to("nowhere"),
        "direct_200" => direct_response(kind, prefix, 200, "here"),
        "direct_503" => direct_response(kind, prefix, 503, "not now"),
        "redirect" => json!({
            "name": kind,
            "match": {"prefix": prefix},
            "redirect": {"host_redirect": "elsewhere.example"},
        }),
        "rbac" => {
            let nobody = json!({"rbac": {"rules": {"action": "ALLOW", "policies": {}}}});
            switched_on(to("upstream"), kind, "rbac.v3.RBACPerRoute", nobody)
        }
        "ext_authz" => {
            let asked = json!({"check_settings": {}});
            switched_on(to("upstream"), kind, "ext_authz.v3.ExtAuthzPerRoute", asked)
        }
        "rate_limit" => {
            let limit = json!({
                "stat_prefix": "limit",
                "token_bucket": {"max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "3600s"},
                "filter_enabled": {"default_value": every()},
                "filter_enforced": {"default_value": every()},
            });
            switched_on(to("upstream"), "local_ratelimit", "local_ratelimit.v3.LocalRateLimit", limit)
        }
        "fault" => {
            let abort = json!({"abort": {"http_status": 503, "percentage": every()}});
            switched_on(to("upstream"), kind, "fault.v3.HTTPFault", abort)
        }
        "buffer" => {
            let small = json!({"buffer": {"max_request_bytes": 4}});
            switched_on(to("upstream"), kind, "buffer.v3.BufferPerRoute", small)
        }
        "lua" | "lua_body" => {
            let (cluster, script) = if kind == "lua" {
                (
                    "upstream",
                    "function envoy_on_request(handle) handle:respond({[':status'] = '503'}, '') end",
                )
            } else {
                ("large", "function envoy_on_response(handle) handle:body() end")
            };
            let script = json!({"source_code": {"inline_string": script}});
            switched_on(to(cluster), "lua", "lua.v3.LuaPerRoute", script)
        }
        _ => panic!("no such route: {kind}"),
    })
}
