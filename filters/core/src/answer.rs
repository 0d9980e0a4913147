//! The answers we make: plain refusals, and those of the fallback.

use crate::annotation::Decided;
use crate::config::Policy;
use crate::fallback::{Body, Caller, Cause, Entries, Fail, Reroute, Static, Strategy};
use serde::Serialize;
use std::fmt;
use std::time::Duration;

mod reason;
mod replacement;
#[cfg(test)]
mod replacement_tests;
mod template;
#[cfg(test)]
mod tests;

pub use reason::{Reason, Reasons};
pub use replacement::{Failed, Replacement, Rewrite, replace};
pub use template::{Escape, Template};

/// The header that tells of us.
pub const MARKER: &str = "x-resilience";

/// What made an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// Nothing but the refusal itself.
    None,
    /// A fixed answer.
    Static,
    /// Another route of this Envoy.
    Reroute,
    /// A loud failure.
    Fail,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Static => "static",
            Self::Reroute => "reroute",
            Self::Fail => "fail",
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

/// What an answer says of a policy: an item of RFC 9651 with parameters.
#[must_use]
pub fn marker(policy: &str, reason: Reason, source: Source) -> String {
    format!("{policy};reason={reason};source={source}")
}

/// What an answer with these headers says of policies, those further away first, and then `own`: one list.
#[must_use]
pub fn marks<'a>(headers: impl Iterator<Item = (&'a [u8], &'a [u8])>, own: Option<&str>) -> String {
    // What no header may have is not written into one.
    let is_text = |value: &[u8]| value.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control());
    let theirs = headers.filter(|(name, value)| *name == MARKER.as_bytes() && is_text(value));
    let mut marks: Vec<_> = theirs.map(|(_, value)| String::from_utf8_lossy(value)).collect();
    marks.extend(own.map(Into::into));
    marks.join(", ")
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

/// What a policy does about a request, or an answer, that failed.
#[derive(PartialEq, Eq, Debug)]
pub enum Instead<'a> {
    /// This is the answer.
    Answer(Reply),
    /// The request goes elsewhere, if the guard there lets it in.
    Reroute {
        /// Which entry says so.
        place: usize,
        /// Where.
        to: &'a Reroute,
    },
    /// An entry applies, and the policy only looks on.
    Shadowed,
    /// No entry applies.
    Nothing,
}

/// What the first entry says that applies and was not `tried`. With `expose` false outsiders learn neither the policy nor the
/// reason.
#[must_use]
pub fn instead<'a>(
    policy: &'a Policy,
    expose: bool,
    cause: &Cause,
    caller: &Caller,
    tried: Entries,
) -> Instead<'a> {
    let Some((place, entry)) = policy.fallback.pick(cause, caller, tried) else { return Instead::Nothing };
    if policy.shadow {
        return Instead::Shadowed;
    }
    let reply = match &entry.strategy {
        Strategy::Reroute(to) => return Instead::Reroute { place, to },
        Strategy::Static(answer) => from_static(policy, answer, expose, cause, caller),
        Strategy::Fail(fail) => loud(policy, *fail, expose, cause, caller),
    };
    Instead::Answer(reply)
}

/// What a request gets whose time was over before its upstream had answered.
#[derive(PartialEq, Eq, Debug)]
pub struct TimedOut {
    /// The answer.
    pub reply: Reply,
    /// Whether a policy that only looks on would have had another.
    pub shadowed: bool,
}

impl TimedOut {
    /// What became of the request.
    #[must_use]
    pub fn decided(&self) -> Decided {
        if self.reply.source == Source::None { Decided::TimedOut } else { Decided::Fallback }
    }
}

/// Answers a request of `policy` whose time is over. `own` is the policy that sent it there, if another did, and then `arrived`
/// tells whether it got there: a guard has no say in what did not, and one that only looks on has none at all.
#[must_use]
pub fn timed_out(
    policy: &Policy,
    own: Option<&Policy>,
    arrived: bool,
    expose: bool,
    caller: &Caller,
) -> TimedOut {
    let cause = Cause::timed_out(caller.is_grpc);
    let instead =
        if arrived { instead(policy, expose, &cause, caller, Entries::default()) } else { Instead::Nothing };
    let shadowed = instead == Instead::Shadowed;
    if let Instead::Answer(reply) = instead {
        return TimedOut { reply, shadowed };
    }
    let is_heard = arrived && !policy.shadow;
    let policy = own.filter(|_| !is_heard).unwrap_or(policy);
    TimedOut { reply: plain(policy, expose, &cause, caller), shadowed }
}

/// The answer where no fallback applies: to a refused request, or to one whose time was over.
#[must_use]
pub fn plain(policy: &Policy, expose: bool, cause: &Cause, caller: &Caller) -> Reply {
    let reply = problem(expose, cause.reason.status(), cause.reason, Source::None);
    finish(reply, policy, expose, cause, caller, cause.retry_after)
}

fn loud(policy: &Policy, fail: Fail, expose: bool, cause: &Cause, caller: &Caller) -> Reply {
    let reply = problem(expose, fail.status, cause.reason, Source::Fail);
    finish(reply, policy, expose, cause, caller, fail.retry_after.or(cause.retry_after))
}

fn from_static(policy: &Policy, answer: &Static, expose: bool, cause: &Cause, caller: &Caller) -> Reply {
    let body = match &answer.body {
        // A gRPC caller never sees it.
        _ if caller.is_grpc => Vec::new(),
        Body::None => Vec::new(),
        Body::Bytes(bytes) => bytes.clone(),
        Body::Template(template) => template.render(&policy.name, expose, cause, &caller.request_id),
    };
    let reply = Reply {
        status: answer.status,
        details: String::new(),
        headers: answer.headers.to_vec(),
        body,
        grpc_status: None,
        source: Source::Static,
    };
    // Statuses for which RFC 9110 and RFC 6585 give `Retry-After` a meaning here.
    let retry_after = cause.retry_after.filter(|_| matches!(answer.status, 429 | 503));
    finish(reply, policy, expose, cause, caller, retry_after)
}

/// RFC 9457's problem details.
fn problem(expose: bool, status: u16, reason: Reason, source: Source) -> Reply {
    let title = title(status);
    let detail = if expose { format!(r#","detail":"{reason}""#) } else { String::new() };
    Reply {
        status,
        details: String::new(),
        headers: vec![("content-type".to_owned(), "application/problem+json".to_owned())],
        body: format!(r#"{{"title":"{title}","status":{status}{detail}}}"#).into_bytes(),
        grpc_status: None,
        source,
    }
}

/// A status's name, by RFC 9110 where the library still has an older one.
fn title(status: u16) -> &'static str {
    match status {
        413 => "Content Too Large",
        422 => "Unprocessable Content",
        _ => http::StatusCode::from_u16(status).ok().and_then(|it| it.canonical_reason()).unwrap_or("Error"),
    }
}

/// What every answer of ours says beside its own.
fn finish(
    mut reply: Reply,
    policy: &Policy,
    expose: bool,
    cause: &Cause,
    caller: &Caller,
    retry_after: Option<u64>,
) -> Reply {
    let reason = cause.reason;
    if caller.is_grpc {
        to_grpc(&mut reply, expose, reason);
    }
    let discourage = policy.discourage_retries && (reply.is_error() || reply.grpc_status.is_some());
    if discourage {
        // An Envoy in front of us retries a 503 like any other, unless this stops it.
        reply.set_default("x-envoy-ratelimited", || "true".to_owned());
    }
    if let Some(seconds) = retry_after {
        reply.set_default("retry-after", || seconds.to_string());
    }
    if expose {
        reply.headers.push((MARKER.to_owned(), marker(&policy.name, reason, reply.source)));
    }
    reply.details = format!("resilience:{}:{reason}", policy.name);
    reply
}

impl Reply {
    /// JSON for an operator, on one line.
    pub(crate) fn for_operator<T: Serialize>(status: u16, details: &str, body: &T) -> Self {
        let mut body = serde_json::to_vec(body).unwrap_or_default();
        body.push(b'\n');
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Self {
            status,
            details: details.to_owned(),
            headers: vec![header("content-type", "application/json"), header("cache-control", "no-store")],
            body,
            grpc_status: None,
            source: Source::None,
        }
    }

    /// An answer that a well-meaning retry would only repeat.
    fn is_error(&self) -> bool {
        self.status == 429 || (500..=599).contains(&self.status)
    }

    /// Adds a header unless the operator wrote it.
    fn set_default(&mut self, name: &str, value: impl FnOnce() -> String) {
        if !self.headers.iter().any(|(known, _)| known == name) {
            self.headers.push((name.to_owned(), value()));
        }
    }

    /// Says first what others have said who are further away: the marker is a list, the nearest hop last.
    pub fn marked_after(&mut self, earlier: &str) {
        let own = self.headers.iter_mut().find(|(name, _)| name == MARKER);
        match own {
            Some((_, own)) if !earlier.is_empty() => *own = format!("{earlier}, {own}"),
            _ => {}
        }
    }
}

/// A gRPC caller gets a status and a short message, never the body.
///
/// The HTTP status is for callers that became gRPC on the way to us, by Envoy's gRPC-Web filter for one: Envoy answers them
/// in HTTP, and that filter makes the gRPC status of it.
fn to_grpc(reply: &mut Reply, expose: bool, reason: Reason) {
    reply.status = reason.status();
    reply.headers.retain(|(name, _)| name != "content-type");
    reply.grpc_status = Some(reason.grpc_status());
    let message = if expose { reason.name() } else { "unavailable" };
    reply.body = message.as_bytes().to_vec();
}
