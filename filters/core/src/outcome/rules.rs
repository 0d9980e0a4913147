//! What an operator calls a failure, and what is no evidence to them.

use super::{Status, is_grpc_type, parse_status};
use crate::breaker::Outcome;
use std::borrow::Cow;
use std::ops::RangeInclusive;

/// The rules by which the upstream's answers are judged. What ended without an answer of the upstream is none of their
/// business.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    /// What is a failure.
    pub failure: Criteria,
    /// What is no evidence. Wins over `failure`.
    pub ignore: Criteria,
}

/// What an answer may have that decides over it; one of these is enough. The default's lists are borrowed, so
/// that ten thousand policies without rules of their own allocate none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Criteria {
    /// HTTP statuses.
    pub status: Cow<'static, [RangeInclusive<u16>]>,
    /// gRPC statuses (`google.rpc.Code`).
    pub grpc_status: Cow<'static, [u16]>,
    /// Response headers, name in lower case and the whole value. They are looked for in the headers, not in trailers.
    pub headers: Vec<(String, String)>,
}

impl Criteria {
    /// Met by no answer.
    pub const NONE: Self =
        Self { status: Cow::Borrowed(&[]), grpc_status: Cow::Borrowed(&[]), headers: Vec::new() };
    /// A failure unless an operator says otherwise: 5xx, and gRPC's UNKNOWN, `DEADLINE_EXCEEDED`, INTERNAL, UNAVAILABLE
    /// and `DATA_LOSS`.
    pub const FAILURE: Self = Self {
        status: Cow::Borrowed(&[500..=599]),
        grpc_status: Cow::Borrowed(&[2, 4, 13, 14, 15]),
        headers: Vec::new(),
    };

    fn has_status(&self, status: Status) -> bool {
        status.http.is_some_and(|status| self.status.iter().any(|range| range.contains(&status)))
            || status.grpc.is_some_and(|status| self.grpc_status.contains(&status))
    }

    fn has_header(&self, name: &[u8], value: &[u8]) -> bool {
        self.headers.iter().any(|known| known.0.as_bytes() == name && known.1.as_bytes() == value)
    }
}

/// What has been seen of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Answer {
    /// Its status.
    pub status: Status,
    /// Whether its content type is gRPC's.
    grpc: bool,
    /// Whether Envoy's router says how long the upstream took: only of an answer of the upstream's.
    timed: bool,
    /// Whether it has a header of `failure`.
    failure_header: bool,
    /// Whether it has a header of `ignore`.
    ignore_header: bool,
}

impl Answer {
    /// Whether its content type is gRPC's.
    #[must_use]
    pub const fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// Whether Envoy may have made it itself. Its status need not tell: the connection manager's `local_reply_config` may have
    /// given it another. With the router's `suppress_envoy_headers` any may be Envoy's.
    #[must_use]
    pub const fn may_be_envoys(&self) -> bool {
        !self.timed
    }

    /// Whether it is a gRPC answer whose status has not come.
    #[must_use]
    pub fn lacks_grpc_status(&self) -> bool {
        self.grpc && self.status.grpc.is_none()
    }
}

impl From<Status> for Answer {
    fn from(status: Status) -> Self {
        Self { status, ..Self::default() }
    }
}

/// Whether an outcome can be counted as soon as an answer's headers are there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It can.
    Settled,
    /// It can unless this is gRPC: then the status is still to come.
    SettledUnlessGrpc,
    /// It cannot: the answer began well and may still break off.
    Provisional,
}

impl Rules {
    /// The rules of who has none of their own.
    pub const DEFAULT: Self = Self { failure: Criteria::FAILURE, ignore: Criteria::NONE };

    /// Reads an answer's headers, names in lower case. A header may stand there several times; one of them is enough. Of a
    /// status the first counts.
    #[must_use]
    pub fn read<'a>(&self, headers: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Answer {
        let mut answer = Answer::default();
        let (mut http, mut grpc, mut content_type) = (None, None, None);
        for (name, value) in headers {
            match name {
                b":status" => _ = http.get_or_insert(value),
                b"grpc-status" => _ = grpc.get_or_insert(value),
                b"content-type" => _ = content_type.get_or_insert(value),
                b"x-envoy-upstream-service-time" => answer.timed = true,
                _ => {}
            }
            answer.failure_header |= self.failure.has_header(name, value);
            answer.ignore_header |= self.ignore.has_header(name, value);
        }
        answer.grpc = content_type.is_some_and(is_grpc_type);
        answer.status = Status { http: http.and_then(parse_status), grpc: grpc.and_then(parse_status) };
        answer
    }

    /// What an answer of the upstream proves, as far as it has been seen.
    #[must_use]
    pub fn judge(&self, answer: Answer) -> Outcome {
        if answer.ignore_header || self.ignore.has_status(answer.status) {
            Outcome::Ignored
        } else if answer.failure_header || self.failure.has_status(answer.status) {
            Outcome::Failure
        } else {
            Outcome::Success
        }
    }

    /// What an answer's headers settle. A failure counts at once, unless a status still to come may have it ignored; what is
    /// ignored stays ignored, whatever follows; a success may still be cut off, and only a probe's verdict does not wait
    /// for that.
    #[must_use]
    pub fn standing(&self, answer: Answer, probe: bool) -> Standing {
        let complete = answer.status.grpc.is_some();
        match self.judge(answer) {
            Outcome::Ignored => Standing::Settled,
            Outcome::Failure if complete || self.ignore.grpc_status.is_empty() => Standing::Settled,
            Outcome::Success if !probe => Standing::Provisional,
            Outcome::Success if complete => Standing::Settled,
            _ => Standing::SettledUnlessGrpc,
        }
    }
}
