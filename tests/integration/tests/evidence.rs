//! What each way a request can end counts as, in a real Envoy. The table below is the page `docs/evidence.md`: one of the
//! tests here compares them, so that neither can change alone.

use resilience_integration_tests::{Calls, Edge, WORKERS, document, envoy, filter, listener, policy};
use resilience_test_harness::config::{
    self, cluster, connection_manager, direct_response, route, typed, virtual_host, with_access_log,
    with_http2,
};
use resilience_test_harness::*;
use serde_json::{Value, json};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

// ------------------------------------------------------------------------------------------------------- the table

/// One way to end.
struct Row {
    /// What happened, in words.
    ending: &'static str,
    /// What Envoy was set up to do: see [`route_of`].
    route: &'static str,
    /// What the client did.
    client: Client,
    /// `%RESPONSE_CODE%`, `%RESPONSE_CODE_DETAILS%` and `%RESPONSE_FLAGS%`. Details that end in `*` may go on.
    status: u16,
    details: &'static str,
    flags: &'static str,
    outcome: Outcome,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Success,
    Failure,
    Ignored,
}

/// What a client does; words are the upstream's `x-behave`.
#[derive(Clone, Copy)]
enum Client {
    /// Sends a GET and waits for its end.
    Get(&'static str),
    /// The same as a gRPC call.
    Grpc(&'static str),
    /// Sends a body and waits.
    Post(&'static str),
    /// Says that a body follows, sends half of it, and waits.
    HalfPost,
    /// The same, and leaves when the upstream has the request.
    HalfPostAndGone,
    /// Leaves when the upstream has the request.
    GoneBeforeHeaders(Protocol),
    /// Leaves when the first piece of the body came.
    GoneInBody(Protocol, &'static str),
}

use Client::{Get, GoneBeforeHeaders, GoneInBody, Grpc, HalfPost, HalfPostAndGone, Post};
use Outcome::{Failure, Ignored, Success};
use Protocol::{Http1, Http2};

const fn row(
    ending: &'static str,
    route: &'static str,
    client: Client,
    seen: (u16, &'static str, &'static str),
    outcome: Outcome,
) -> Row {
    Row { ending, route, client, status: seen.0, details: seen.1, flags: seen.2, outcome }
}

/// In the order of the page.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    // The upstream answers.
    row("the upstream answers 200", "plain", Get("status=200"), (200, "via_upstream", "-"), Success),
    row("the upstream answers 204", "plain", Get("status=204; body="), (204, "via_upstream", "-"), Success),
    row("the upstream answers 301", "plain", Get("status=301"), (301, "via_upstream", "-"), Success),
    row("the upstream answers 404", "plain", Get("status=404"), (404, "via_upstream", "-"), Success),
    row("the upstream answers 429", "plain", Get("status=429"), (429, "via_upstream", "-"), Success),
    row("the upstream answers 500", "plain", Get("status=500"), (500, "via_upstream", "-"), Failure),
    row("the upstream answers 501", "plain", Get("status=501"), (501, "via_upstream", "-"), Failure),
    row("the upstream answers 503", "plain", Get("status=503"), (503, "via_upstream", "-"), Failure),
    row("it fails twice, and Envoy's second retry succeeds", "flaky", Post(""), (200, "via_upstream", "-"), Success),
    row("it fails until Envoy has used up its retries", "retried", Get("status=503"), (503, "via_upstream", "URX"), Failure),
    row("it fails, and the cluster's `max_retries` forbids a retry", "no_retry_left", Get("status=503"), (503, "via_upstream", "UO"), Failure),

    // gRPC.
    row("gRPC: `OK` in trailers", "grpc", Grpc("grpc=0"), (200, "via_upstream", "-"), Success),
    row("gRPC: `NOT_FOUND` in trailers", "grpc", Grpc("grpc=5"), (200, "via_upstream", "-"), Success),
    row("gRPC: `RESOURCE_EXHAUSTED` in trailers", "grpc", Grpc("grpc=8"), (200, "via_upstream", "-"), Success),
    row("gRPC: `UNKNOWN` in trailers", "grpc", Grpc("grpc=2"), (200, "via_upstream", "-"), Failure),
    row("gRPC: `DEADLINE_EXCEEDED` in trailers", "grpc", Grpc("grpc=4"), (200, "via_upstream", "-"), Failure),
    row("gRPC: `INTERNAL` in trailers", "grpc", Grpc("grpc=13"), (200, "via_upstream", "-"), Failure),
    row("gRPC: `UNAVAILABLE` in trailers", "grpc", Grpc("grpc=14"), (200, "via_upstream", "-"), Failure),
    row("gRPC: `DATA_LOSS` in trailers", "grpc", Grpc("grpc=15"), (200, "via_upstream", "-"), Failure),
    row("gRPC: `OK` without a message", "grpc", Grpc("grpc-trailers-only=0"), (200, "via_upstream", "-"), Success),
    row("gRPC: `NOT_FOUND` without a message", "grpc", Grpc("grpc-trailers-only=5"), (200, "via_upstream", "-"), Success),
    row("gRPC: `UNAVAILABLE` without a message", "grpc", Grpc("grpc-trailers-only=14"), (200, "via_upstream", "-"), Failure),

    // The upstream gives no answer, or half of one.
    row("nobody listens", "refused", Get(""), (503, "upstream_reset_before_response_started{remote_connection_failure*", "UF"), Failure),
    row("nobody listens, at every retry", "refused_retried", Get(""), (503, "upstream_reset_before_response_started{remote_connection_failure*", "URX,UF"), Failure),
    row("nobody listens, and the cluster's `max_retries` forbids a retry", "refused_no_retry_left", Get(""), (503, "upstream_reset_before_response_started{remote_connection_failure*", "UO,UF"), Failure),
    row("gRPC: nobody listens", "refused", Grpc(""), (200, "upstream_reset_before_response_started{remote_connection_failure*", "UF"), Failure),
    row("no host of the cluster is healthy", "no_host", Get(""), (503, "no_healthy_upstream", "UH"), Failure),
    row("the upstream closes the connection before headers", "plain", Get("close"), (503, "upstream_reset_before_response_started{connection_termination}", "UC"), Failure),
    row("the upstream resets the connection before headers", "plain", Get("reset"), (503, "upstream_reset_before_response_started{connection_termination}", "UC"), Failure),
    row("the upstream resets the HTTP/2 stream before headers", "h2", Get("reset"), (503, "upstream_reset_before_response_started{remote_reset}", "UR"), Failure),
    row("the upstream answers in no HTTP", "nonsense", Get(""), (502, "upstream_reset_before_response_started{protocol_error}", "UPE"), Failure),
    row("the upstream closes in mid-body, under a content-length", "plain", Get("close-mid-body"), (200, "upstream_reset_after_response_started{protocol_error}", "UPE"), Failure),
    row("the upstream resets in mid-body, under a content-length", "plain", Get("reset-mid-body"), (200, "upstream_reset_after_response_started{protocol_error}", "UPE"), Failure),
    row("the upstream closes in mid-body, chunked", "plain", Get("chunked; close-mid-body"), (200, "upstream_reset_after_response_started{protocol_error}", "UPE"), Failure),
    row("the upstream resets in mid-body, chunked", "plain", Get("chunked; reset-mid-body"), (200, "upstream_reset_after_response_started{protocol_error}", "UPE"), Failure),
    row("the upstream resets the HTTP/2 stream in mid-body", "h2", Get("reset-mid-body"), (200, "upstream_reset_after_response_started{remote_reset}", "UR"), Failure),

    // Time.
    row("the route's timeout", "timeout", Get("hang"), (504, "response_timeout", "UT"), Failure),
    row("gRPC: the route's timeout", "timeout", Grpc("hang"), (200, "response_timeout", "UT"), Failure),
    row("the route's timeout in mid-body", "timeout", Get("hang-mid-body"), (200, "response_timeout", "UT"), Failure),
    row("the timeout of the last try", "per_try", Get("hang"), (504, "upstream_per_try_timeout", "URX,UT"), Failure),
    row("the cluster's `max_stream_duration`", "max_duration", Get("hang"), (504, "upstream_max_stream_duration_reached", "UMSDR"), Failure),
    row("the stream is idle, for the upstream keeps silent", "idle", Get("hang"), (504, "stream_idle_timeout", "SI"), Failure),
    row("gRPC: the stream is idle, for the upstream keeps silent", "idle", Grpc("hang"), (200, "stream_idle_timeout", "SI"), Failure),
    row("the stream is idle in mid-body, and nothing says who keeps silent", "idle", Get("hang-mid-body"), (200, "stream_idle_timeout", "SI"), Ignored),
    row("the stream is idle, for the client does not send its body", "idle", HalfPost, (408, "stream_idle_timeout", "SI"), Ignored),
    row("the route's `max_stream_duration`, with the whole request sent", "deadline", Get("hang"), (504, "max_duration_timeout", "-"), Failure),
    row("gRPC: the route's `max_stream_duration`", "deadline", Grpc("hang"), (200, "max_duration_timeout", "-"), Failure),
    row("the route's `max_stream_duration`, with half of the request sent", "deadline", HalfPost, (408, "max_duration_timeout", "-"), Ignored),
    row("the route's `max_stream_duration` in mid-body", "deadline", Get("hang-mid-body"), (200, "max_duration_timeout", "-"), Ignored),

    // The client leaves.
    row("the HTTP/1.1 client leaves before headers", "plain", GoneBeforeHeaders(Http1), (0, "downstream_remote_disconnect", "DC"), Ignored),
    row("the HTTP/2 client leaves before headers", "plain", GoneBeforeHeaders(Http2), (0, "http2.remote_reset", "DR"), Ignored),
    row("the client leaves in the middle of its own body", "plain", HalfPostAndGone, (0, "downstream_remote_disconnect", "DC"), Ignored),
    row("the HTTP/1.1 client leaves after good headers", "plain", GoneInBody(Http1, "status=200"), (200, "downstream_remote_disconnect", "DC"), Success),
    row("the HTTP/2 client leaves after good headers", "plain", GoneInBody(Http2, "status=200"), (200, "http2.remote_reset", "DR"), Success),
    row("the HTTP/1.1 client leaves after bad headers", "plain", GoneInBody(Http1, "status=500"), (500, "downstream_remote_disconnect", "DC"), Failure),
    row("the HTTP/2 client leaves after bad headers", "plain", GoneInBody(Http2, "status=500"), (500, "http2.remote_reset", "DR"), Failure),

    // Envoy answers itself.
    row("the cluster's limits are reached (`max_pending_requests`)", "overflow", Get(""), (503, "upstream_reset_before_response_started{overflow}", "UO"), Ignored),
    row("gRPC: the cluster's limits are reached (`max_pending_requests`)", "overflow", Grpc(""), (200, "upstream_reset_before_response_started{overflow}", "UO"), Ignored),
    row("the cluster drops load (`drop_overloads`)", "drop", Get(""), (503, "unconditional_drop_overload", "UDO"), Ignored),
    row("no route", "none", Get(""), (404, "route_not_found", "NR"), Ignored),
    row("gRPC: no route", "none", Grpc(""), (200, "route_not_found", "NR"), Ignored),
    row("the route's cluster does not exist", "no_cluster", Get(""), (503, "cluster_not_found", "NC"), Ignored),
    row("a direct response of 200", "direct_200", Get(""), (200, "direct_response", "-"), Ignored),
    row("a direct response of 503", "direct_503", Get(""), (503, "direct_response", "-"), Ignored),
    row("a redirect", "redirect", Get(""), (301, "direct_response", "-"), Ignored),

    // A filter between us and the router answers.
    row("RBAC denies", "rbac", Get(""), (403, "rbac_access_denied_matched_policy[none]", "-"), Ignored),
    row("external authorization denies", "ext_authz", Get(""), (403, "ext_authz_denied", "UAEX"), Ignored),
    row("a local rate limit", "rate_limit", Get(""), (429, "local_rate_limited", "RL"), Ignored),
    row("gRPC: a local rate limit", "rate_limit", Grpc(""), (200, "local_rate_limited", "RL"), Ignored),
    row("fault injection aborts with 503", "fault", Get(""), (503, "fault_filter_abort", "FI"), Ignored),
    row("the buffer filter refuses a large body", "buffer", Post(""), (413, "request_payload_too_large", "-"), Ignored),
    row("a Lua script answers 503", "lua", Get(""), (503, "lua_response", "-"), Ignored),
    row("a filter wants the whole answer, which is larger than Envoy may hold", "lua_body", Get(""), (500, "response_payload_too_large", "-"), Ignored),
];

// --------------------------------------------------------------------------------------------------- Envoy's side

/// What else listens.
struct World {
    upstream: Upstream,
    /// Fails twice before it answers.
    flaky: Upstream,
    /// Allows nothing.
    denying: Upstream,
    /// Answers with more than Envoy's limit for a connection's buffers, one mebibyte.
    large: Upstream,
    nonsense: SocketAddr,
}

impl World {
    async fn new() -> Self {
        let (flaky, denying, large) =
            (Upstream::start().await, Upstream::start().await, Upstream::start().await);
        flaky.script([Behaviour::status(503), Behaviour::status(503)]);
        denying.behave(Behaviour::status(403));
        large.behave(Behaviour::status(200).body(vec![b'.'; 2 << 20]));
        Self { upstream: Upstream::start().await, flaky, denying, large, nonsense: speaks_nonsense().await }
    }

    fn clusters(&self) -> Vec<Value> {
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
fn filters_behind() -> Vec<Value> {
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
fn route_of(kind: &str, prefix: &str) -> Option<Value> {
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

// -------------------------------------------------------------------------------------------------- the client's side

impl Client {
    /// Plays the request up to its end, as far as the client sees one.
    async fn play(self, edge: SocketAddr, upstream: &Upstream, path: &str) -> Result<(), String> {
        let request = |words: &str| {
            let request = Request::get(path);
            if words.is_empty() { request } else { request.header("x-behave", words) }
        };
        let host_path = path.to_owned();
        let half = format!(
            "POST {host_path} HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\nx-behave: hang\r\n\r\nhalf."
        );
        let reached = async || {
            let what = format!("{path} at the upstream");
            eventually(&what, PATIENCE, async || (upstream.requests_to(path) == 1).then_some(())).await;
        };
        match self {
            Get(words) => send_once(edge, Http1, request(words)).await.map(drop),
            Post(words) => {
                let request = Request::post(path, "a body");
                let request = if words.is_empty() { request } else { request.header("x-behave", words) };
                send_once(edge, Http1, request).await.map(drop)
            }
            Grpc(words) => {
                let request = Request::grpc(path);
                let request = if words.is_empty() { request } else { request.header("x-behave", words) };
                send_once(edge, Http2, request).await.map(drop)
            }
            HalfPost => {
                raw_exchange(edge, half.as_bytes()).await;
                Ok(())
            }
            HalfPostAndGone => {
                let mut stream =
                    tokio::net::TcpStream::connect(edge).await.map_err(|error| error.to_string())?;
                stream.write_all(half.as_bytes()).await.map_err(|error| error.to_string())?;
                reached().await;
                Ok(())
            }
            GoneBeforeHeaders(protocol) => {
                let mut connection = Connection::open(edge, protocol).await?;
                let pending = connection.start(request("hang")).await?;
                reached().await;
                pending.abandon();
                Ok(())
            }
            GoneInBody(protocol, words) => {
                let mut connection = Connection::open(edge, protocol).await?;
                let words = format!("{words}; hang-mid-body");
                let mut streaming = connection.start(request(&words)).await?.headers().await?;
                streaming.chunk().await?;
                streaming.abandon();
                Ok(())
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------------------- the tests

/// What came of a row, to be compared and shown.
struct Seen {
    logged: String,
    calls: Calls,
    /// How many workers then refuse: one failure trips these breakers.
    refused: usize,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { logged, calls: Calls { success, failure, ignored }, refused } = self;
        write!(f, "{logged}; success {success}, failure {failure}, ignored {ignored}, refused {refused}")
    }
}

impl Row {
    fn expected(&self) -> Seen {
        let count = |outcome| u64::from(self.outcome == outcome);
        Seen {
            logged: format!("{} {} {}", self.status, self.details, self.flags),
            calls: Calls { success: count(Success), failure: count(Failure), ignored: count(Ignored) },
            refused: if self.outcome == Failure { WORKERS } else { 0 },
        }
    }

    /// As the page has it.
    fn line(&self) -> String {
        let status = if self.status == 0 { "none".to_owned() } else { self.status.to_string() };
        let details = self.details.replace('*', "…");
        let flags = if self.flags == "-" { "none".to_owned() } else { format!("`{}`", self.flags) };
        let outcome = format!("{:?}", self.outcome).to_lowercase();
        format!("| {} | {status} | `{details}` | {flags} | {outcome} |", self.ending)
    }
}

/// What is expected may end in `*`.
fn fits(expected: &str, seen: &str) -> bool {
    match expected.split_once('*') {
        Some((begin, end)) => seen.starts_with(begin) && seen.ends_with(end),
        None => expected == seen,
    }
}

/// The name of a row's policy, and its path without the slash.
fn name_of(index: usize) -> String {
    format!("row{index:03}")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_ending_counts_as_the_table_says() {
    let world = Arc::new(World::new().await);
    let scratch = Scratch::new();
    let rows: Vec<(String, &Row)> = TABLE.iter().enumerate().map(|(at, row)| (name_of(at), row)).collect();
    let breaker = || json!({"consecutive_failures": 1});
    let policies: Vec<Value> = rows.iter().map(|(name, _)| policy(name, breaker())).collect();
    let routes = rows.iter().filter_map(|(name, row)| route_of(row.route, &format!("/{name}")));
    let mut filters = filters_behind();
    filters.insert(0, filter(&document(&policies)));
    let mut manager = connection_manager(&[virtual_host("all", &routes.collect::<Vec<_>>())], &filters);
    manager["route_config"]["validate_clusters"] = false.into();
    let format = "%PATH% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS%";
    let manager = with_access_log(manager, &scratch.file("access.log"), format);
    let bootstrap = config::bootstrap(&[listener("edge", manager)], &world.clusters());
    let envoy = envoy(bootstrap).argument("--file-flush-interval-msec").argument("50").start().await;
    let address = envoy.addr("edge").await;
    let edge = Edge { envoy, address };

    // A bucket has at least one token: a path that is the route's but not the policy's takes it.
    for (name, _) in rows.iter().filter(|(_, row)| row.route == "rate_limit") {
        let first = Request::get(&format!("/{name}-first"));
        assert_eq!(send_once(address, Http1, first).await.unwrap().status, 200);
    }

    // All at once: they meet on all workers, and those that wait for a timer wait together.
    let mut playing = Vec::new();
    for (name, row) in &rows {
        let (world, client, path) = (Arc::clone(&world), row.client, format!("/{name}"));
        playing.push(tokio::spawn(async move { client.play(address, &world.upstream, &path).await }));
    }
    for ((_, row), task) in rows.iter().zip(playing) {
        assert_eq!(task.await.unwrap(), Ok(()), "{}", row.ending);
    }

    let mut clients = edge.clients(Http1).await;
    let mut wrong = Vec::new();
    for (name, row) in &rows {
        let calls = eventually(&format!("a count for: {}", row.ending), PATIENCE, async || {
            let calls = edge.calls(name).await;
            (calls != Calls::default()).then_some(calls)
        })
        .await;
        let logged = eventually(&format!("the log line of: {}", row.ending), PATIENCE, async || {
            let prefix = format!("/{name} ");
            scratch.lines("access.log").iter().find_map(|line| Some(line.strip_prefix(&prefix)?.to_owned()))
        })
        .await;
        let mut refused = 0;
        for worker in 0..WORKERS {
            let answer = clients.worker(worker).send(Request::get(&format!("/{name}"))).await.unwrap();
            refused += usize::from(answer.header("x-resilience").contains("reason=circuit_open"));
        }
        let (expected, seen) = (row.expected(), Seen { logged, calls, refused });
        if !fits(&expected.logged, &seen.logged) || (calls, refused) != (expected.calls, expected.refused) {
            wrong.push(format!("{}\n  expected: {expected}\n  was:      {seen}", row.ending));
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));

    // Each request was counted once: nothing came on top later.
    for (name, row) in &rows {
        let passed = WORKERS - row.expected().refused;
        eventually(&format!("{} calls of {name}: {}", 1 + passed, row.ending), PATIENCE, async || {
            let Calls { success, failure, ignored } = edge.calls(name).await;
            (success + failure + ignored == 1 + passed as u64).then_some(())
        })
        .await;
    }
    assert_eq!(world.flaky.requests(), 3 + WORKERS, "two retries, and those who asked later");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_filter_before_ours_answers_is_no_call_at_all() {
    let upstream = Upstream::start().await;
    let denying = typed(
        "envoy.filters.http.rbac",
        "extensions.filters.http.rbac.v3.RBAC",
        json!({"rules": {"action": "ALLOW", "policies": {}}}),
    );
    let ours = filter(&document(&[policy("shop", json!({"consecutive_failures": 1}))]));
    let host = virtual_host("all", &[route("upstream", "/", "upstream")]);
    let behind = listener("edge", connection_manager(std::slice::from_ref(&host), &[denying, ours.clone()]));
    let open = listener("open", connection_manager(&[host], &[ours]));
    let clusters = [cluster("upstream", &[upstream.addr()])];
    let edge = Edge::start(config::bootstrap(&[behind, open], &clusters)).await;
    let mut denied = edge.clients(Http1).await;
    for _ in 0..2 * WORKERS {
        assert_eq!(denied.get("/shop", "status=503").await, 403);
    }
    // Were the eight on their way to be counted, they would come before this one.
    let mut clients = edge.clients_of("open", Http1).await;
    for _ in 0..WORKERS {
        assert_eq!(clients.get("/shop", "status=200").await, 200);
    }
    edge.wait_calls("shop", Calls { success: 4, ..Calls::default() }).await;
    assert_eq!(upstream.requests(), WORKERS);
}

#[test]
fn the_page_has_the_rows_of_the_table() {
    let page = include_str!("../../../docs/evidence.md");
    let head = |line: &&str| !line.starts_with("| Ending |") && !line.starts_with("|--");
    let documented: Vec<&str> = page.lines().filter(|line| line.starts_with('|')).filter(head).collect();
    let tested: Vec<String> = TABLE.iter().map(Row::line).collect();
    // One by one first: a difference in one line is then shown as that.
    for (documented, tested) in documented.iter().zip(&tested) {
        assert_eq!(documented, tested);
    }
    assert_eq!(documented.len(), tested.len());
}
