//! The answers we make: plain refusals and static fallbacks.

use crate::config::{Body, Fallback, Policy};
use std::fmt;
use std::time::Duration;

mod template;
#[cfg(test)]
mod tests;

pub use template::{Escape, Template};

/// Why a request is answered without the upstream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// The breaker is open, or half-open with no probe left.
    CircuitOpen,
    /// No permit: the bulkhead is full, the queue is full, or the wait was over.
    BulkheadFull,
    /// The deadline cannot be met.
    DeadlineExceeded,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::CircuitOpen, Self::BulkheadFull, Self::DeadlineExceeded];

    /// The reason's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CircuitOpen => "circuit_open",
            Self::BulkheadFull => "bulkhead_full",
            Self::DeadlineExceeded => "deadline_exceeded",
        }
    }

    /// The status of a refusal that nothing replaces.
    const fn status(self) -> u16 {
        match self {
            Self::CircuitOpen | Self::BulkheadFull => 503,
            Self::DeadlineExceeded => 504,
        }
    }

    /// The status's name.
    const fn title(self) -> &'static str {
        match self {
            Self::CircuitOpen | Self::BulkheadFull => "Service Unavailable",
            Self::DeadlineExceeded => "Gateway Timeout",
        }
    }

    /// The status a gRPC caller gets (`google.rpc.Code`).
    const fn grpc_status(self) -> u8 {
        match self {
            Self::CircuitOpen => 14,
            Self::BulkheadFull => 8,
            Self::DeadlineExceeded => 4,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What made an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// Nothing but the refusal itself.
    None,
    /// A static fallback.
    Static,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Static => "static",
        })
    }
}

/// A request that is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// What `Retry-After` says, in seconds.
    pub retry_after: Option<u64>,
}

/// `Retry-After` for the rest of a wait: whole seconds, rounded up, at least one.
#[must_use]
pub fn retry_after(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// Who asked.
pub trait Caller {
    /// Whether the answer must be gRPC's.
    fn is_grpc(&mut self) -> bool;

    /// The request's `x-request-id`. Asked for only where an answer shows it.
    fn request_id(&mut self) -> Vec<u8>;
}

/// An answer, ready to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// HTTP status. Envoy makes 200 of it for a gRPC caller.
    pub status: u16,
    /// For the access log.
    pub details: String,
    /// Headers, in order.
    pub headers: Vec<(String, String)>,
    /// The body; for a gRPC caller the message.
    pub body: Vec<u8>,
    /// `grpc-status`, for a gRPC caller.
    pub grpc_status: Option<u8>,
    /// What made it.
    pub source: Source,
}

/// The answer to a request that arrives with a header only we may write.
#[must_use]
pub fn forged() -> Reply {
    Reply {
        status: 400,
        details: "resilience:forged_reroute".to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
        grpc_status: None,
        source: Source::None,
    }
}

/// Answers a refused request: by the first fallback that applies, else plainly. With `expose` false outsiders learn
/// neither the policy nor the reason.
#[must_use]
pub fn refuse(policy: &Policy, expose: bool, refusal: Refusal, caller: &mut dyn Caller) -> Reply {
    let fallback = policy.fallback.iter().find(|entry| entry.on.contains(&refusal.reason));
    let mut reply = match fallback {
        Some(entry) => from_static(policy, entry, expose, refusal, caller),
        None => plain(expose, refusal.reason.status(), refusal.reason.title(), refusal.reason.name()),
    };
    let tells = reply.source == Source::None || reply.tells_when_to_retry();
    let reason = refusal.reason;
    if caller.is_grpc() {
        to_grpc(&mut reply, expose, reason.status(), reason.grpc_status(), reason.name());
    }
    let retry_after = refusal.retry_after.filter(|_| tells);
    finish(&mut reply, policy, expose, reason.name(), retry_after);
    reply
}

/// Answers a request whose time was over before its upstream had answered.
#[must_use]
pub fn timed_out(policy: &Policy, expose: bool, is_grpc: bool) -> Reply {
    const REASON: &str = "timeout";
    let mut reply = plain(expose, 504, "Gateway Timeout", REASON);
    if is_grpc {
        to_grpc(&mut reply, expose, 504, 4, REASON);
    }
    finish(&mut reply, policy, expose, REASON, None);
    reply
}

/// What every answer of ours says beside its own.
fn finish(reply: &mut Reply, policy: &Policy, expose: bool, reason: &str, retry_after: Option<u64>) {
    let discourage = policy.discourage_retries && (reply.is_refusal() || reply.grpc_status.is_some());
    if discourage {
        // An Envoy in front of us retries a 503 like any other, unless this stops it.
        reply.set_default("x-envoy-ratelimited", || "true".to_owned());
    }
    if let Some(seconds) = retry_after {
        reply.set_default("retry-after", || seconds.to_string());
    }
    if expose {
        let marker = format!("{};reason={reason};source={}", policy.name, reply.source);
        reply.headers.push(("x-resilience".to_owned(), marker));
    }
    reply.details = format!("resilience:{}:{reason}", policy.name);
}

impl Reply {
    /// An answer that a well-meaning retry would only repeat.
    fn is_refusal(&self) -> bool {
        self.status == 429 || (500..=599).contains(&self.status)
    }

    /// Statuses for which RFC 9110 and RFC 6585 give `Retry-After` a meaning here.
    fn tells_when_to_retry(&self) -> bool {
        matches!(self.status, 429 | 503)
    }

    /// Adds a header unless the operator wrote it.
    fn set_default(&mut self, name: &str, value: impl FnOnce() -> String) {
        if !self.headers.iter().any(|(known, _)| known == name) {
            self.headers.push((name.to_owned(), value()));
        }
    }
}

/// RFC 9457's problem details.
fn plain(expose: bool, status: u16, title: &str, reason: &str) -> Reply {
    let detail = if expose { format!(r#","detail":"{reason}""#) } else { String::new() };
    Reply {
        status,
        details: String::new(),
        headers: vec![("content-type".to_owned(), "application/problem+json".to_owned())],
        body: format!(r#"{{"title":"{title}","status":{status}{detail}}}"#).into_bytes(),
        grpc_status: None,
        source: Source::None,
    }
}

fn from_static(
    policy: &Policy,
    entry: &Fallback,
    expose: bool,
    refusal: Refusal,
    caller: &mut dyn Caller,
) -> Reply {
    let body = match &entry.answer.body {
        Body::None => Vec::new(),
        Body::Bytes(bytes) => bytes.clone(),
        Body::Template(template) => template.render(&policy.name, expose, refusal, caller),
    };
    Reply {
        status: entry.answer.status,
        details: String::new(),
        headers: entry.answer.headers.to_vec(),
        body,
        grpc_status: None,
        source: Source::Static,
    }
}

/// A gRPC caller gets a status and a short message, never the body.
///
/// The HTTP status is for callers that became gRPC on the way to us, by Envoy's gRPC-Web filter for one: Envoy answers them
/// in HTTP, and that filter makes the gRPC status of it.
fn to_grpc(reply: &mut Reply, expose: bool, status: u16, grpc_status: u8, reason: &str) {
    reply.status = status;
    reply.headers.retain(|(name, _)| name != "content-type");
    reply.grpc_status = Some(grpc_status);
    let message = if expose { reason } else { "unavailable" };
    reply.body = message.as_bytes().to_vec();
}
