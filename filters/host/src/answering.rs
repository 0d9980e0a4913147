//! Answers of ours: sent instead of the upstream's, or written over one that failed.

use crate::calls::{self, Level, LocalResponse, Map, log};
use crate::stream::Action;
use resilience_core::answer::{MARKER, Reply, Rewrite, marks};

/// What the callback of a piece of an answer's body tells the host to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u32)]
pub enum BodyAction {
    /// Pass it on.
    #[default]
    Continue = 0,
    /// Drop it (the ABI's `StopIterationNoBuffer`): filters in front see nothing of it.
    Drop = 3,
}

/// A body of ours on its way.
#[derive(Debug)]
pub(crate) enum Body {
    /// It has still to be put in the place of the upstream's.
    Due {
        body: Vec<u8>,
        /// Whether also in the place of an empty one.
        fills_empty: bool,
    },
    /// It was.
    Sent,
}

impl Body {
    /// A piece of the failed answer's body came, of `size` bytes.
    pub(crate) fn next(&mut self, size: usize, is_last: bool) -> BodyAction {
        if let Self::Due { body, fills_empty } = self
            && !body.is_empty()
            && (size > 0 || (is_last && *fills_empty))
        {
            if put(body) {
                *self = Self::Sent;
                return BodyAction::Continue;
            }
            // Theirs is not empty: ours may also go where the rest of it is.
            *fills_empty = true;
        } else if is_last && size > 0 {
            put(&[]);
        }
        // The last one must go on even where the host did not take what was to be in it: else the answer never ends.
        if is_last { BodyAction::Continue } else { BodyAction::Drop }
    }
}

/// Puts bytes in the place of a piece; whether the host took them.
fn put(bytes: &[u8]) -> bool {
    let put = calls::replace_response_body(bytes);
    if let Err(status) = put {
        log(Level::Warn, &format!("a body could not be replaced: {status}"));
    }
    put.is_ok()
}

/// Sends a reply. If the host does not take it the request, or the answer, goes on: to pause it would hang it.
pub(crate) fn send(reply: &Reply) -> Action {
    let sent = calls::send_local_response(&LocalResponse {
        status: reply.status,
        details: &reply.details,
        headers: &reply.headers,
        body: &reply.body,
        grpc_status: reply.grpc_status,
    });
    match sent {
        Ok(()) => Action::Pause,
        Err(status) => {
            log(Level::Warn, &format!("a reply could not be sent, the stream goes on: {status}"));
            Action::Continue
        }
    }
}

/// Writes over the headers of an answer, and returns what its body is to be.
pub(crate) fn rewrite(rewrite: Rewrite) -> Body {
    for name in &rewrite.remove {
        told(calls::remove_header(Map::ResponseHeaders, name));
    }
    for (name, value) in &rewrite.set {
        told(calls::replace_header(Map::ResponseHeaders, name, value.as_bytes()));
    }
    Body::Due { body: rewrite.body, fills_empty: rewrite.fills_empty }
}

/// Removes all trailers of an answer: they tell of a body that is not there any more.
pub(crate) fn drop_trailers() {
    let Ok(trailers) = calls::header_pairs(Map::ResponseTrailers) else { return };
    for name in trailers.iter().filter_map(|(name, _)| std::str::from_utf8(name).ok()) {
        told(calls::remove_header(Map::ResponseTrailers, name));
    }
}

/// Says of an answer what its way says of it, behind what others have said who are further away.
pub(crate) fn mark(mark: &str) {
    let headers = calls::header_pairs(Map::ResponseHeaders);
    let marks = headers.map_or_else(|_| mark.to_owned(), |headers| marks(headers.iter(), Some(mark)));
    told(calls::replace_header(Map::ResponseHeaders, MARKER, marks.as_bytes()));
}

fn told(written: calls::Result<()>) {
    if let Err(status) = written {
        log(Level::Warn, &format!("an answer's header could not be changed: {status}"));
    }
}
