//! What a request is, read from the host piece by piece.

use crate::calls::{self, Level, Map, log};
use resilience_core::answer::Caller;
use resilience_core::bulkhead::ClassSource;
use resilience_core::config::Policy;
use resilience_core::matcher::Facts;
use resilience_core::outcome::is_grpc_type;
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

impl Caller for CurrentRequest {
    fn is_grpc(&mut self) -> bool {
        is_grpc(header(Map::RequestHeaders, "content-type"))
    }

    fn request_id(&mut self) -> Vec<u8> {
        header(Map::RequestHeaders, "x-request-id").unwrap_or_default()
    }
}

/// What a request says of its class.
pub(crate) fn named_class(source: &ClassSource) -> Option<Vec<u8>> {
    match source {
        ClassSource::Header(name) => header(Map::RequestHeaders, name),
        ClassSource::Metadata { namespace, key } => CurrentRequest.metadata(namespace, key),
    }
}

/// What a request's headers say of its time and its retries: all of them in one read. `None` where they cannot be read.
pub(crate) fn said(policy: &Policy, trusted: bool) -> Option<Said> {
    let headers = calls::header_pairs(Map::RequestHeaders);
    let headers = readable(headers.map(Some), "the request's headers")?;
    Some(Said::read(policy, trusted, headers.iter()))
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
