//! What the way a request ended proves about the upstream.
//!
//! Two words of Envoy tell it apart: `%RESPONSE_CODE_DETAILS%` says whether the answer is the upstream's, and
//! `%RESPONSE_FLAGS%` says why Envoy answered itself. Flags are matched by their bit, which Envoy keeps stable
//! (`StreamInfo::CoreResponseFlag`).

#[cfg(test)]
mod failure_tests;
#[cfg(test)]
mod properties;
mod rules;
#[cfg(test)]
mod rules_tests;
#[cfg(test)]
mod tests;

pub use rules::{Answer, Criteria, Rules, Standing};

use crate::answer::Reason;
use crate::breaker::Outcome;
use std::time::Duration;

/// The details of an answer that came from the upstream.
const VIA_UPSTREAM: &[u8] = b"via_upstream";
/// The details of a stream that lasted longer than it may. No flag tells of it.
const MAX_DURATION: &[u8] = b"max_duration_timeout";
/// The details of an answer that did not come within the router's timeout.
const RESPONSE_TIMEOUT: &[u8] = b"response_timeout";
/// The details of an answer in place of the upstream's failure, which was going to be retried when more body came than can
/// be sent twice. No flag tells of it.
const RETRY_GIVEN_UP: &[u8] = b"request_payload_exceeded_retry_buffer_limit";

/// No healthy upstream (`UH`), upstream timeout (`UT`), local reset (`LR`), remote reset (`UR`), connection failure (`UF`),
/// connection termination (`UC`), maximum stream duration (`UMSDR`), upstream protocol error (`UPE`).
const UPSTREAM_FAILED: u64 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 19 | 1 << 23;
/// No healthy upstream, or no connection.
const NOT_CONNECTED: u64 = 1 << 1 | 1 << 5;
/// Upstream timeout, maximum stream duration.
const TIMED_OUT: u64 = 1 << 2 | 1 << 19;
/// Envoy's own limits for a cluster (`UO`), and what a load balancer has it drop (`DO`, `UDO`).
const OVERFLOW: u64 = 1 << 7 | 1 << 27 | 1 << 29;
/// The client left: closed its connection (`DC`), or reset its stream as HTTP/2 clients do (`DR`).
const CLIENT_LEFT: u64 = 1 << 14 | 1 << 28;
/// Nothing moved on the stream for too long (`SI`).
const STREAM_IDLE: u64 = 1 << 16;

const GATEWAY_TIMEOUT: u16 = 504;
/// What Envoy makes of [`GATEWAY_TIMEOUT`] for a gRPC caller: `DEADLINE_EXCEEDED` for [`MAX_DURATION`], else UNAVAILABLE.
const GRPC_GATEWAY_TIMEOUT: [u16; 2] = [4, 14];

/// The status of an answer, as far as it is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Status {
    /// `:status`.
    pub http: Option<u16>,
    /// `grpc-status`, from headers or trailers.
    pub grpc: Option<u16>,
}

impl Status {
    /// Envoy's answer where it has the whole request and the upstream keeps silent. While the client's own part is
    /// missing the answer is 408, or UNKNOWN for gRPC; only [`MAX_DURATION`] makes no difference for gRPC.
    fn is_gateway_timeout(&self) -> bool {
        self.http == Some(GATEWAY_TIMEOUT)
            || self.grpc.is_some_and(|status| GRPC_GATEWAY_TIMEOUT.contains(&status))
    }
}

/// What Envoy says of a stream.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StreamInfo {
    /// `response.code_details`.
    pub details: Vec<u8>,
    /// `response.flags`. Worth reading only where the answer is not the upstream's.
    pub flags: u64,
    /// How long the request waited for a permit. Envoy's clocks of a stream ran meanwhile.
    pub waited: Duration,
    /// Whether the wait was taken off the time that its upstream had.
    pub hurried: bool,
    /// How long it was with the upstream then. Worth finding out only where it waited.
    pub called: Duration,
}

/// Whether details say that the answer is the upstream's and that nothing went wrong since.
#[must_use]
pub fn is_via_upstream(details: &[u8]) -> bool {
    details == VIA_UPSTREAM
}

/// The outcome as far as an answer tells it. Only what is the upstream's goes by `rules`.
#[must_use]
pub fn of_answer(rules: &Rules, answer: Answer, info: &StreamInfo) -> Outcome {
    if is_via_upstream(&info.details) { rules.judge(answer) } else { of_local_reply(answer.status, info) }
}

/// The outcome at the end of a stream that was not judged before: its answer had begun well, or there was none.
/// `upstream_answered` says whether what began came from the upstream; it is asked only where nothing else tells.
#[must_use]
pub fn of_end(
    rules: &Rules,
    answer: Answer,
    info: &StreamInfo,
    upstream_answered: impl FnOnce() -> bool,
) -> Outcome {
    if is_via_upstream(&info.details) {
        return rules.judge(answer);
    }
    let outcome = of_local_reply(answer.status, info);
    // Good headers prove nothing of a gRPC call: also one that fails begins with them.
    let answered = answer.status.http.is_some() && !answer.lacks_grpc_status();
    let client_left_later = info.flags & CLIENT_LEFT != 0 && answered;
    if outcome == Outcome::Ignored && client_left_later && upstream_answered() {
        // The upstream's headers were good, and that stays proved.
        return rules.judge(answer);
    }
    outcome
}

/// The outcome of a request that we ended ourselves because its time was over. `with_it` is how long the upstream had had the
/// whole request, if it had, and `before` how long it took until then, in our queue and on the way from the client: where that
/// is most of the time, the upstream is not to blame.
#[must_use]
pub fn of_our_timeout(before: Duration, with_it: Option<Duration>) -> Outcome {
    if with_it.is_some_and(|with_it| before <= with_it) { Outcome::Failure } else { Outcome::Ignored }
}

/// Envoy answered itself, or nobody did.
///
/// Overflow (`UO`), by itself no evidence, excuses nothing: Envoy also flags it where a limit forbids the retry of what the
/// upstream has failed.
fn of_local_reply(status: Status, info: &StreamInfo) -> Outcome {
    let out_of_time = info.flags & STREAM_IDLE != 0 || info.details == MAX_DURATION;
    // Where most of the time went by in our queue, that it ran out tells nothing of the upstream.
    let in_queue = info.waited > info.called;
    let blames_upstream = out_of_time && !in_queue && status.is_gateway_timeout();
    if in_queue && info.hurried && info.details == RESPONSE_TIMEOUT {
        return Outcome::Ignored;
    }
    let failed = info.flags & UPSTREAM_FAILED != 0 || info.details == RETRY_GIVEN_UP;
    if failed || blames_upstream { Outcome::Failure } else { Outcome::Ignored }
}

/// Why an answer, of which the headers have come, is a failure to the caller, if it is. What is evidence is another question:
/// that Envoy's own limits were reached, or that time went by in our queue, proves nothing of the upstream, and is no answer to
/// the caller either. What the upstream's answer comes to is known where its headers have `settled` it; Envoy's own says
/// everything with them.
#[must_use]
pub fn failure(rules: &Rules, answer: Answer, settled: bool, info: &StreamInfo) -> Option<Reason> {
    let StreamInfo { details, flags, .. } = info;
    if is_via_upstream(details) {
        let failed = settled && rules.judge(answer).is_failure();
        return failed.then_some(Reason::UpstreamFailure);
    }
    let has = |flag: u64| flags & flag != 0;
    let out_of_time = (has(STREAM_IDLE) || details == MAX_DURATION) && answer.status.is_gateway_timeout();
    if details == RETRY_GIVEN_UP {
        Some(Reason::UpstreamFailure)
    } else if has(TIMED_OUT) || out_of_time {
        Some(Reason::Timeout)
    } else if has(NOT_CONNECTED) {
        Some(Reason::ConnectFailure)
    } else if has(UPSTREAM_FAILED) {
        Some(Reason::Reset)
    } else {
        has(OVERFLOW).then_some(Reason::ConnectFailure)
    }
}

/// Envoy's own rule, by which it also makes a gRPC answer of a local reply: `application/grpc`, by itself or with a message
/// format behind a plus sign. Anything else behind it is not gRPC.
#[must_use]
pub fn is_grpc_type(content_type: &[u8]) -> bool {
    content_type
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
}

/// A status code in decimal, as headers carry it.
#[must_use]
pub fn parse_status(value: &[u8]) -> Option<u16> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}
