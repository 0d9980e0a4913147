//! How an answer of ours takes the place of one that failed.
//!
//! To rewrite it where it stands keeps what filters in front of us do to it on its way on, such as CORS and compression. To
//! send another past them is what is left where it has no body that ours could go into.

use super::{Reply, marks};
use crate::fallback::Caller;
use crate::outcome::is_grpc_type;
use std::collections::BTreeSet;

/// What has been seen of a failed answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failed<'a> {
    /// Its headers, names in lower case.
    pub headers: Vec<(&'a [u8], &'a [u8])>,
    /// Whether it ends with them.
    pub ends: bool,
}

/// How it is replaced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Replacement {
    /// It stays, and this is changed.
    InPlace(Rewrite),
    /// It is thrown away, and this is sent.
    Direct(Reply),
}

/// What is changed of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rewrite {
    /// The names of headers that go.
    pub remove: Vec<String>,
    /// Headers that are set.
    pub set: Vec<(String, String)>,
    /// What takes the place of its body.
    pub body: Vec<u8>,
    /// Whether that may also be put where the upstream's body turns out to be empty. After a HEAD nothing may follow the headers,
    /// and over HTTP/2 an upstream may still say so in a frame of its own.
    pub fills_empty: bool,
}

/// What is as true of our answer: Envoy's own, and what lets a browser read it. All else tells of a body, a session or a
/// place that ours has nothing to do with.
const KEPT: [&str; 4] = ["vary", "x-envoy-attempt-count", "x-envoy-upstream-service-time", "x-request-id"];
const KEPT_PREFIX: &str = "access-control-";
const STATUS: &str = ":status";
const CONTENT_LENGTH: &str = "content-length";
const TRANSFER_ENCODING: &str = "transfer-encoding";

/// Puts `reply` in the place of a failed answer. `mark` is what its way has to say of it, if anything.
#[must_use]
pub fn replace(mut reply: Reply, failed: &Failed<'_>, caller: &Caller, mark: Option<&str>) -> Replacement {
    reply.marked_after(&marks(failed.headers.iter().copied(), mark));
    let Some(room) = failed.room_for(&reply, caller) else { return Replacement::Direct(reply) };
    let Reply { status, headers: mut set, body, grpc_status, .. } = reply;
    set.insert(0, (STATUS.to_owned(), grpc_status.map_or(status, |_| 200).to_string()));
    if let Some(status) = grpc_status {
        // What Envoy makes of a local reply by itself.
        set.push(("content-type".to_owned(), "application/grpc".to_owned()));
        set.push(("grpc-status".to_owned(), status.to_string()));
        set.push(("grpc-message".to_owned(), String::from_utf8_lossy(&body).into_owned()));
    }
    if let Some(length) = room.length {
        set.push((CONTENT_LENGTH.to_owned(), length.to_string()));
    }
    let is_set = |name: &str| set.iter().any(|(known, _)| known == name);
    let names: BTreeSet<&str> =
        failed.headers.iter().filter_map(|(name, _)| std::str::from_utf8(name).ok()).collect();
    let remove =
        names.into_iter().filter(|name| !is_kept(name) && !is_set(name)).map(str::to_owned).collect();
    let body = if room.takes_body { body } else { Vec::new() };
    Replacement::InPlace(Rewrite { remove, set, body, fills_empty: room.fills_empty })
}

fn is_kept(name: &str) -> bool {
    KEPT.contains(&name) || name.starts_with(KEPT_PREFIX)
}

/// What an answer in its place may have.
#[derive(Default)]
struct Room {
    /// What it says of its length.
    length: Option<usize>,
    takes_body: bool,
    fills_empty: bool,
}

impl Failed<'_> {
    fn first(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(known, _)| *known == name.as_bytes()).map(|(_, value)| *value)
    }

    /// Whether it tells of bytes that follow, or, after a HEAD, would have followed a GET.
    fn tells_of_bytes(&self) -> bool {
        let length = self.first(CONTENT_LENGTH).and_then(|value| std::str::from_utf8(value).ok());
        length.and_then(|length| length.parse::<u64>().ok()).is_some_and(|length| length > 0)
    }

    /// Whether it answers a HEAD. Where nobody knows, a length without bytes tells: only what answers a HEAD has one, and a 304.
    fn answers_head(&self, caller: &Caller) -> bool {
        let is_unmodified = || self.first(STATUS) == Some(b"304");
        caller.is_head.unwrap_or_else(|| self.ends && self.tells_of_bytes() && !is_unmodified())
    }

    /// Whether only the request's method tells, and nobody knows it, if a body may follow that ours could take the place of: over
    /// HTTP/2 one without a length may turn out to be an empty frame, after a HEAD as after a GET. After the one nothing may be
    /// put there, after the other the caller would miss ours.
    #[must_use]
    pub fn depends_on_method(&self, caller: &Caller) -> bool {
        let is_unclear = !self.ends && !self.tells_of_bytes() && !self.is_chunked();
        is_unclear && !caller.is_grpc && caller.is_head.is_none()
    }

    fn is_chunked(&self) -> bool {
        self.first(TRANSFER_ENCODING).is_some()
    }

    /// Whether `reply` can take its place.
    fn room_for(&self, reply: &Reply, caller: &Caller) -> Option<Room> {
        if reply.grpc_status.is_some() {
            // Only where no messages came is there a status to change, and nothing behind it.
            let is_status_alone = self.ends && self.first("content-type").is_some_and(is_grpc_type);
            return is_status_alone.then(Room::default);
        }
        let length = reply.body.len();
        let says_length = !matches!(reply.status, 204 | 304);
        let told = says_length.then_some(length);
        if self.answers_head(caller) || (self.ends && length == 0) {
            return Some(Room { length: told, ..Room::default() });
        }
        if self.ends || (length > 0 && self.depends_on_method(caller)) {
            return None;
        }
        // A length is told only where bytes come for certain that ours can take the place of: without any, the caller would
        // wait for ever for what it was told.
        Some(Room {
            length: told.filter(|_| self.tells_of_bytes()),
            takes_body: true,
            fills_empty: caller.is_head == Some(false) || self.is_chunked(),
        })
    }
}
