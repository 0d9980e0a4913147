//! The rows of the table: how a request ended, how that shows, and what it counts as.

use super::client::Client::{
    self, Get, GoneBeforeHeaders, GoneInBody, GoneInCall, Grpc, HalfPost, HalfPostAndGone, Post,
};
use Outcome::{Failure, Ignored, Success};
use resilience_test_harness::Protocol::{Http1, Http2};

/// One way to end.
#[derive(Debug)]
pub struct Row {
    /// What happened, in words.
    pub ending: &'static str,
    /// What Envoy was set up to do: see [`super::world::route_of`].
    pub route: &'static str,
    /// What the client did.
    pub client: Client,
    /// `%RESPONSE_CODE%`.
    pub status: u16,
    /// `%RESPONSE_CODE_DETAILS%`; what ends in `*` may go on.
    pub details: &'static str,
    /// `%RESPONSE_FLAGS%`.
    pub flags: &'static str,
    /// What it counts as.
    pub outcome: Outcome,
}

/// What a request counts as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The upstream is well.
    Success,
    /// The upstream is not.
    Failure,
    /// It proves nothing of the upstream.
    Ignored,
}

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
pub const TABLE: &[Row] = &[
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
    row("gRPC: the client leaves after good headers, before the status", "grpc", GoneInCall("grpc=0"), (200, "http2.remote_reset", "DR"), Ignored),
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
