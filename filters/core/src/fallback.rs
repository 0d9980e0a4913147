//! The pattern `fallback`: which of a policy's entries answers a request instead.
//!
//! It keeps no state and calls nobody: what answers is in the configuration, or is another route of this Envoy with a guard of
//! its own.

mod accept;
#[cfg(test)]
mod accept_tests;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use accept::{Accept, Takes, Type};

use crate::answer::{Reason, Reasons, Template};
use crate::outcome::{Status, is_grpc_type};
use std::ops::RangeInclusive;
use std::time::Duration;

/// At most so many entries: each has a bit in [`Entries`].
pub const MAX_ENTRIES: usize = 32;
/// At most so many places to fill in in a body: with [`SHOWN_ID`] they bound what becomes of it.
pub const MAX_PLACES: usize = 64;
/// What of a request's id is shown, in bytes: it is the client's to choose where Envoy lets it.
const SHOWN_ID: usize = 256;

/// The entries of a policy, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Fallbacks {
    entries: Box<[Fallback]>,
    /// For what reasons any of them answers.
    on: Reasons,
    /// Whether any of them needs to know more of a request than whether it is gRPC's.
    reads_request: bool,
}

/// One entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fallback {
    /// The reasons it answers.
    pub on: Reasons,
    /// The statuses of the failed answers that it replaces; `None` where they make no difference.
    pub statuses: Option<Statuses>,
    /// The requests it answers.
    pub when: When,
    /// What it does.
    pub strategy: Strategy,
}

/// Statuses of failed answers; one of these is enough.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Statuses {
    /// HTTP statuses.
    pub http: Vec<RangeInclusive<u16>>,
    /// gRPC statuses (`google.rpc.Code`).
    pub grpc: Vec<u16>,
}

/// What a request must have. Every part that is not empty must hold, and one of its items is enough.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct When {
    /// Methods.
    pub methods: Vec<String>,
    /// Headers, name in lower case and the whole value.
    pub headers: Vec<(String, String)>,
    /// Media types that the caller takes.
    pub accept: Vec<Type>,
}

/// What an entry does. (A cache of good answers is going to be another.)
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Strategy {
    /// Answers with what is written there.
    Static(Static),
    /// Sends the request elsewhere.
    Reroute(Reroute),
    /// Fails loudly.
    Fail(Fail),
}

/// A fixed answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Static {
    /// HTTP status.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: Box<[(String, String)]>,
    /// The body.
    pub body: Body,
}

/// The body of a fixed answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// None.
    None,
    /// These bytes.
    Bytes(Vec<u8>),
    /// A text with places to fill in.
    Template(Template),
}

/// Another cluster of this Envoy, to which the operator's routes lead whoever has its name in a header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reroute {
    /// The cluster's name.
    pub cluster: String,
    /// The policy that guards it, by its index in the document.
    pub guard: usize,
}

/// A failure that nobody can overlook.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fail {
    /// HTTP status.
    pub status: u16,
    /// What `Retry-After` says, in seconds.
    pub retry_after: Option<u64>,
}

/// Why a request is to be answered instead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cause {
    /// The reason.
    pub reason: Reason,
    /// When a refused request may come back, in seconds.
    pub retry_after: Option<u64>,
    /// The status of the failed answer.
    pub status: Status,
}

impl Cause {
    /// A request was refused.
    #[must_use]
    pub const fn refusal(reason: Reason, retry_after: Option<u64>) -> Self {
        Self { reason, retry_after, status: Status { http: None, grpc: None } }
    }

    /// The same some time later: what is left of the wait, of which one second is always left.
    #[must_use]
    pub fn later(self, gone: Duration) -> Self {
        let retry_after = self.retry_after.map(|seconds| seconds.saturating_sub(gone.as_secs()).max(1));
        Self { retry_after, ..self }
    }

    /// A request's time was over before its upstream had answered. Its status is that of the answer that it gets without a fallback.
    #[must_use]
    pub const fn timed_out(is_grpc: bool) -> Self {
        const REASON: Reason = Reason::Timeout;
        let status = if is_grpc {
            Status { http: None, grpc: Some(REASON.grpc_status() as u16) }
        } else {
            Status { http: Some(REASON.status()), grpc: None }
        };
        Self::failure(REASON, status)
    }

    /// An answer, or the want of one, is a failure.
    #[must_use]
    pub const fn failure(reason: Reason, status: Status) -> Self {
        Self { reason, retry_after: None, status }
    }
}

/// Some of a policy's entries, by their places.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Entries(u32);

impl Entries {
    /// All of them.
    pub const ALL: Self = Self(u32::MAX);

    /// Takes one more in.
    pub const fn insert(&mut self, place: usize) {
        self.0 |= bit(place);
    }

    /// Whether one is among them.
    #[must_use]
    pub const fn contains(self, place: usize) -> bool {
        self.0 & bit(place) != 0
    }
}

const fn bit(place: usize) -> u32 {
    if place < MAX_ENTRIES { 1 << place } else { 0 }
}

/// What of a request decides over its fallback, or is shown in it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Caller {
    /// Whether its answer must be gRPC's.
    pub is_grpc: bool,
    /// Whether it is a HEAD; `None` where its method was not looked at.
    pub is_head: Option<bool>,
    /// Its `x-request-id`; where it is not UTF-8 with replacement characters.
    pub request_id: Box<str>,
    /// The entries whose `when` it meets.
    meets: Entries,
    /// Those that it meets only because it takes any type.
    meets_by_wildcard: Entries,
}

impl Fallbacks {
    /// At most [`MAX_ENTRIES`]; more are left out.
    #[must_use]
    pub fn new(mut entries: Vec<Fallback>) -> Self {
        entries.truncate(MAX_ENTRIES);
        let on = entries.iter().fold(Reasons::NONE, |all, entry| all.with(entry.on));
        let reads_request = entries.iter().any(Fallback::reads_request);
        Self { entries: entries.into_boxed_slice(), on, reads_request }
    }

    /// The entries, in order.
    #[must_use]
    pub const fn entries(&self) -> &[Fallback] {
        &self.entries
    }

    /// Says which policy guards where an entry leads: it may stand behind those who name it.
    pub(crate) fn set_guard(&mut self, place: usize, guard: usize) {
        let entry = self.entries.get_mut(place);
        if let Some(Fallback { strategy: Strategy::Reroute(to), .. }) = entry {
            to.guard = guard;
        }
    }

    /// Whether any of them answers for one of these reasons.
    #[must_use]
    pub const fn answers(&self, reasons: Reasons) -> bool {
        !self.on.among(reasons).is_empty()
    }

    /// Whether every caller gets something better than a failure, in place of a refusal: by the first entry that asks nothing of
    /// the request, with none before it that fails some. Where that sends it elsewhere, the policy that guards there has its own
    /// say.
    #[must_use]
    pub fn spares_everybody(&self, refusal: Reason) -> bool {
        let mut entries = self.entries.iter().filter(|entry| entry.is_for(&Cause::refusal(refusal, None)));
        let first = entries.find(|entry| entry.strategy.fails() || entry.when == When::default());
        first.is_some_and(|entry| !entry.strategy.fails())
    }

    /// Whether they need to know more of a request than whether it is gRPC's.
    #[must_use]
    pub const fn reads_request(&self) -> bool {
        self.reads_request
    }

    /// Reads a request's headers, names in lower case. Of a header that stands there more than once the first counts, but for
    /// `Accept`, whose values are one list, and for those of `when`, of which one is enough.
    #[must_use]
    pub fn caller<'a>(&self, headers: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone) -> Caller {
        let all =
            |name: &'a [u8]| headers.clone().filter(move |(known, _)| *known == name).map(|(_, value)| value);
        let first = |name| all(name).next();
        let method = first(b":method").unwrap_or_default();
        let mut caller = Caller {
            is_grpc: first(b"content-type").is_some_and(is_grpc_type),
            is_head: Some(method == b"HEAD"),
            ..Caller::default()
        };
        if !self.reads_request {
            caller.meets = Entries::ALL;
            return caller;
        }
        caller.request_id = shown(first(b"x-request-id").unwrap_or_default());
        let asks_for_types = self.entries.iter().any(|entry| !entry.when.accept.is_empty());
        let accept = if asks_for_types { Accept::read(all(b"accept")) } else { Accept::default() };
        for (place, entry) in self.entries.iter().enumerate() {
            let When { methods, headers: wanted, accept: types } = &entry.when;
            let has_method = methods.is_empty() || methods.iter().any(|known| known.as_bytes() == method);
            let has = |(name, value): &(String, String)| {
                headers.clone().any(|header| header == (name.as_bytes(), value.as_bytes()))
            };
            let has_header = wanted.is_empty() || wanted.iter().any(has);
            if !has_method || !has_header {
                continue;
            }
            let takes = types.iter().map(|known| accept.takes(known)).max();
            match takes.unwrap_or(Takes::Named) {
                Takes::Named => caller.meets.insert(place),
                Takes::Any => caller.meets_by_wildcard.insert(place),
                Takes::Not => {}
            }
        }
        caller
    }

    /// A request of which no more is known than whether it is gRPC's: no `when` is met.
    #[must_use]
    pub fn stranger(&self, is_grpc: bool) -> Caller {
        let mut caller = Caller { is_grpc, ..Caller::default() };
        let free = self.entries.iter().enumerate().filter(|(_, entry)| entry.when == When::default());
        free.for_each(|(place, _)| caller.meets.insert(place));
        caller
    }

    /// The first entry that applies and is not among those that were `tried`. Who takes any type gets one that asks for a type
    /// only where no other applies: else an entry for browsers would answer every client that does not care.
    #[must_use]
    pub fn pick(&self, cause: &Cause, caller: &Caller, tried: Entries) -> Option<(usize, &Fallback)> {
        let first = |met: Entries| {
            let mut entries = self.entries.iter().enumerate();
            entries
                .find(|(place, entry)| met.contains(*place) && !tried.contains(*place) && entry.is_for(cause))
        };
        first(caller.meets).or_else(|| first(caller.meets_by_wildcard))
    }
}

impl Fallback {
    fn is_for(&self, cause: &Cause) -> bool {
        self.on.contains(cause.reason) && self.statuses.as_ref().is_none_or(|it| it.contain(cause.status))
    }

    fn reads_request(&self) -> bool {
        let shows_id = match &self.strategy {
            Strategy::Static(Static { body: Body::Template(template), .. }) => template.shows_request_id(),
            Strategy::Static(_) | Strategy::Reroute(_) | Strategy::Fail(_) => false,
        };
        shows_id || self.when != When::default()
    }
}

impl Strategy {
    /// Whether the caller gets a failure.
    const fn fails(&self) -> bool {
        match self {
            Self::Static(answer) => answer.status >= 400,
            Self::Reroute(_) => false,
            Self::Fail(_) => true,
        }
    }
}

impl Statuses {
    fn contain(&self, status: Status) -> bool {
        status.http.is_some_and(|status| self.http.iter().any(|range| range.contains(&status)))
            || status.grpc.is_some_and(|status| self.grpc.contains(&status))
    }
}

fn shown(id: &[u8]) -> Box<str> {
    let id = id.get(..SHOWN_ID).unwrap_or(id);
    String::from_utf8_lossy(id).into_owned().into_boxed_str()
}
