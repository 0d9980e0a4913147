//! What a request is, read from the host piece by piece.

use crate::calls::{self, Level, Map, Pairs, log};
use resilience_core::answer::Reasons;
use resilience_core::bulkhead::ClassSource;
use resilience_core::config::Policy;
use resilience_core::fallback::{Caller, Fallbacks};
use resilience_core::matcher::Facts;
use resilience_core::outcome::is_grpc_type;
use resilience_core::refusals;
use resilience_core::steering::Said;

/// The request of the current stream; only in its request headers callback.
pub(crate) struct CurrentRequest;

impl Facts for CurrentRequest {
    fn metadata(&mut self, namespace: &str, key: &str) -> Option<Vec<u8>> {
        property(format!("xds\0route_metadata\0filter_metadata\0{namespace}\0{key}").as_bytes())
    }

    fn route(&mut self) -> Option<Vec<u8>> {
        property(b"xds\0route_name")
    }

    fn host(&mut self) -> Option<Vec<u8>> {
        header(Map::RequestHeaders, ":authority")
    }

    fn path(&mut self) -> Option<Vec<u8>> {
        header(Map::RequestHeaders, ":path")
    }

    fn method(&mut self) -> Option<Vec<u8>> {
        header(Map::RequestHeaders, ":method")
    }
}

/// The upstream cluster of the route; `None` where the route names none.
pub(crate) fn cluster() -> Option<Vec<u8>> {
    property(b"xds\0cluster_name")
}

/// What a request says of its class.
pub(crate) fn named_class(source: &ClassSource) -> Option<Vec<u8>> {
    match source {
        ClassSource::Header(name) => header(Map::RequestHeaders, name),
        ClassSource::Metadata { namespace, key } => CurrentRequest.metadata(namespace, key),
    }
}

/// What a request's headers say.
#[derive(Debug, Default)]
pub(crate) struct Read {
    /// Of its time and its retries; `None` where they cannot be read, or nobody asks.
    pub(crate) said: Option<Said>,
    /// Of who asks, where a failed answer may be replaced.
    pub(crate) caller: Option<Caller>,
}

/// Reads all headers of a request at once, if its policy needs more of them than a few, if it has a deadline to pass on, or if
/// its method matters.
pub(crate) fn read(policy: &Policy, trusted: bool, has_deadline: bool, method_matters: bool) -> Read {
    let fallback = &policy.fallback;
    let replaces = fallback.answers(Reasons::FAILURES);
    let heeds = policy.heeds_headers() || has_deadline;
    if !(heeds || replaces && (method_matters || fallback.reads_request())) {
        return Read::default();
    }
    let Some(headers) = request_headers() else { return Read::default() };
    Read {
        said: heeds.then(|| Said::read(policy, trusted, headers.iter())),
        caller: replaces.then(|| fallback.caller(headers.iter())),
    }
}

/// Who asks, where that was not read with everything else. `is_grpc` is what is known of that.
pub(crate) fn caller(fallback: &Fallbacks, is_grpc: Option<bool>) -> Caller {
    let headers = if fallback.reads_request() { request_headers() } else { None };
    match headers {
        Some(headers) => fallback.caller(headers.iter()),
        None => fallback.stranger(is_grpc.unwrap_or_else(is_grpc_request)),
    }
}

/// The identity of a request whose headers can be read.
pub(crate) fn request_id() -> Option<String> {
    header(Map::RequestHeaders, "x-request-id").map(|id| refusals::request_id(&id))
}

fn is_grpc_request() -> bool {
    is_grpc(header(Map::RequestHeaders, "content-type"))
}

fn request_headers() -> Option<Pairs> {
    readable(calls::header_pairs(Map::RequestHeaders).map(Some), "the request's headers")
}

/// Whether a content type, if there is one, is gRPC's.
pub(crate) fn is_grpc(content_type: Option<Vec<u8>>) -> bool {
    content_type.is_some_and(|value| is_grpc_type(&value))
}

/// A header; one that cannot be read is taken as absent.
pub(crate) fn header(map: Map, name: &str) -> Option<Vec<u8>> {
    readable(calls::header(map, name), name)
}

/// A property; one that cannot be read is taken as absent.
pub(crate) fn property(path: &[u8]) -> Option<Vec<u8>> {
    readable(calls::property(path), "a property")
}

fn readable<T>(result: calls::Result<Option<T>>, what: &str) -> Option<T> {
    result.unwrap_or_else(|status| {
        log(Level::Debug, &format!("{what} could not be read: {status}"));
        None
    })
}
