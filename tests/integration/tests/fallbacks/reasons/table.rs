//! Each way to fail, and each way to answer instead.

use crate::FOR_EVER;
use resilience_integration_tests::Calls;
use serde_json::{Value, json};

/// A way to fail.
pub struct Situation {
    /// Its name.
    pub name: &'static str,
    pub reason: &'static str,
    /// Of the policy, beside its breaker.
    pub sections: fn() -> Value,
    /// Which of the routes, as in the table of endings.
    pub route: &'static str,
    /// What was done before.
    pub prepared: Prepared,
    /// The request, with words for the upstream.
    pub asked: Asked,
    /// Without a fallback: the status, and `%RESPONSE_CODE_DETAILS%`, where what ends in `*` may go on.
    pub plain: (u16, &'static str),
    /// What one such request counts as.
    pub counts: Calls,
}

/// What was done before a request is refused.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Prepared {
    Nothing,
    /// A failure, which opened the breaker.
    Tripped,
    /// The same, and then a probe that is still there.
    Probing,
    /// A request that is still there.
    Held,
}

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// With words for the upstream.
    Told(&'static str),
    /// By whoever does not wait long enough.
    Hurried,
    /// With a body that has no end.
    Unfinished,
    /// The same by a gRPC caller only.
    GrpcOnly(&'static str),
    /// The same by callers without a body only: where one takes its time to come, either of two clocks may be the first.
    WithoutBody(&'static str),
}

/// Whether the upstream is not asked.
pub fn is_refusal(reason: &str) -> bool {
    ["circuit_open", "bulkhead_full", "dependency_open", "deadline_exceeded"].contains(&reason)
}

const OURS: &str = "ours";
const NOTHING: Calls = Calls { success: 0, failure: 0, ignored: 0 };
const FAILURE: Calls = Calls { failure: 1, ..NOTHING };
const IGNORED: Calls = Calls { ignored: 1, ..NOTHING };

const fn refused(
    name: &'static str,
    reason: &'static str,
    sections: fn() -> Value,
    prepared: Prepared,
) -> Situation {
    let plain = (503, OURS);
    let asked = Asked::Told("");
    Situation { name, reason, sections, route: "plain", prepared, asked, plain, counts: NOTHING }
}

const fn failed(
    name: &'static str,
    reason: &'static str,
    route: &'static str,
    words: &'static str,
    plain: (u16, &'static str),
) -> Situation {
    let prepared = Prepared::Nothing;
    let asked = Asked::Told(words);
    Situation { name, reason, sections: none, route, prepared, asked, plain, counts: FAILURE }
}

fn none() -> Value {
    json!({})
}

fn tripping() -> Value {
    json!({"circuit_breaker": {"consecutive_failures": 1, "wait_duration_in_open_state": FOR_EVER}})
}

fn probing() -> Value {
    json!({"circuit_breaker": {
        "consecutive_failures": 1,
        "wait_duration_in_open_state": "50ms",
        "permitted_number_of_calls_in_half_open_state": 1,
        "max_wait_duration_in_half_open_state": FOR_EVER,
    }})
}

/// Every situation.
#[rustfmt::skip]
pub const SITUATIONS: &[Situation] = &[
    refused("open", "circuit_open", tripping, Prepared::Tripped),
    refused("probed", "circuit_open", probing, Prepared::Probing),
    refused("forced", "circuit_open", || json!({"circuit_breaker": {"mode": "forced_open", "consecutive_failures": 1}}), Prepared::Nothing),
    refused("full", "bulkhead_full", || json!({"bulkhead": {"max_concurrent_calls": 1}}), Prepared::Held),
    refused("queued", "bulkhead_full", || json!({"bulkhead": {"max_concurrent_calls": 1, "max_wait_duration": "200ms", "max_queue": 10}}), Prepared::Held),
    refused("needing", "dependency_open", || json!({"when_open": ["down"]}), Prepared::Nothing),
    Situation {
        asked: Asked::Hurried,
        plain: (504, OURS),
        ..refused("hurried", "deadline_exceeded", || json!({"timeout": {"deadline_header": "x-deadline-ms", "margin": "60s"}}), Prepared::Nothing)
    },
    failed("answered", "upstream_failure", "plain", "status=500", (500, "via_upstream")),
    failed("retried", "upstream_failure", "retried", "status=503", (503, "via_upstream")),
    failed("tried-once", "upstream_failure", "no_retry_left", "status=503", (503, "via_upstream")),
    Situation {
        asked: Asked::GrpcOnly("grpc-trailers-only=13"),
        ..failed("told", "upstream_failure", "grpc", "", (200, "via_upstream"))
    },
    failed("refused", "connect_failure", "refused", "", (503, "upstream_reset_before_response_started{remote_connection_failure*")),
    failed("no-retry", "connect_failure", "refused_no_retry_left", "", (503, "upstream_reset_before_response_started{remote_connection_failure*")),
    failed("no-host", "connect_failure", "no_host", "", (503, "no_healthy_upstream")),
    Situation { counts: IGNORED, ..failed("overflow", "connect_failure", "overflow", "", (503, "upstream_reset_before_response_started{overflow}")) },
    Situation { counts: IGNORED, ..failed("dropped", "connect_failure", "drop", "", (503, "unconditional_drop_overload")) },
    failed("closed", "reset", "plain", "close", (503, "upstream_reset_before_response_started{connection_termination}")),
    failed("reset", "reset", "h2", "reset", (503, "upstream_reset_before_response_started{remote_reset}")),
    failed("nonsense", "reset", "nonsense", "", (502, "upstream_reset_before_response_started{protocol_error}")),
    failed("route-timeout", "timeout", "timeout", "hang", (504, "response_timeout")),
    failed("try-timeout", "timeout", "per_try", "hang", (504, "upstream_per_try_timeout")),
    failed("duration", "timeout", "max_duration", "hang", (504, "upstream_max_stream_duration_reached")),
    failed("idle", "timeout", "idle", "hang", (504, "stream_idle_timeout")),
    failed("deadline", "timeout", "deadline", "hang", (504, "max_duration_timeout")),
    Situation {
        sections: || json!({"timeout": {"total": "1s"}}),
        asked: Asked::WithoutBody("hang"),
        ..failed("total", "timeout", "plain", "", (504, "response_timeout"))
    },
    Situation {
        sections: || json!({"timeout": {"total": "1s"}}),
        asked: Asked::Unfinished,
        counts: IGNORED,
        ..failed("upload", "timeout", "plain", "", (504, OURS))
    },
];

/// A way to answer instead.
pub struct Answering {
    pub name: &'static str,
    /// What the marker says.
    pub source: &'static str,
    /// The entry without its conditions.
    pub entry: fn() -> Value,
    /// Of the answer: the status, and headers that are always there.
    pub status: u16,
    pub headers: &'static [&'static str],
    /// What `Retry-After` says, or whether it says what the refusal does.
    pub again: Again,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Again {
    Never,
    AsTheRefusal,
    Seconds(u64),
}

const TEXT: &str = "content-type: text/plain; charset=utf-8";
const JSON: &str = "content-type: application/json";
pub const PROBLEM: &str = "content-type: application/problem+json";
pub const RATELIMITED: &str = "x-envoy-ratelimited: true";

/// Every answer but none and that of another route.
pub const ANSWERS: &[Answering] = &[
    Answering {
        name: "page",
        source: "static",
        entry: || json!({"static": {"status": 200, "headers": {"X-Shop": "closed"}, "text": "%POLICY%: %REASON%"}}),
        status: 200,
        headers: &[TEXT, "x-shop: closed"],
        again: Again::Never,
    },
    Answering {
        name: "busy",
        source: "static",
        entry: || json!({"static": {"status": 503, "json": {"reason": "%REASON%", "again": "%RETRY_AFTER%"}}}),
        status: 503,
        headers: &[JSON, RATELIMITED],
        again: Again::AsTheRefusal,
    },
    Answering {
        name: "empty",
        source: "static",
        entry: || json!({"static": {"status": 204}}),
        status: 204,
        headers: &[],
        again: Again::Never,
    },
    Answering {
        name: "loud",
        source: "fail",
        entry: || json!({"fail": {"status": 502}}),
        status: 502,
        headers: &[PROBLEM, RATELIMITED],
        again: Again::AsTheRefusal,
    },
    Answering {
        name: "later",
        source: "fail",
        entry: || json!({"fail": {"status": 429, "retry_after": "1m30s1ms"}}),
        status: 429,
        headers: &[PROBLEM, RATELIMITED],
        again: Again::Seconds(91),
    },
];
