//! Requests and answers of every kind, played to whatever the module makes of them. What would hang in an Envoy fails the test.

use crate::*;
use resilience_module_tests::Failure;

/// What comes back.
#[derive(Clone, Copy, Debug)]
pub(super) enum Back {
    Fine,
    Broken,
    Empty,
    Grpc,
    Trailers,
    Unconnected,
    Nothing,
}

pub(super) const BACK: [Back; 7] =
    [Back::Fine, Back::Broken, Back::Empty, Back::Grpc, Back::Trailers, Back::Unconnected, Back::Nothing];

/// A request somewhere between its first callback and its last.
pub(super) struct Open {
    pub(super) stream: FakeStream,
    pub(super) first: Action,
}

pub(super) fn come(vm: &FakeVm, policy: &str, whole: bool) -> Result<Open, Failure> {
    let stream = arrive_on(vm, policy);
    if !whole {
        let mut request = stream.headers(Map::RequestHeaders);
        request.extend(headers(&[("content-type", "application/grpc")]));
        stream.set_request_headers(request);
    }
    let first = stream.request_headers(whole)?;
    Ok(Open { stream, first })
}

/// The answer and the end of a request, wherever it is by then. An error is a trap, or what no host survives.
pub(super) fn end(Open { stream, first }: Open, back: Back) -> Result<(), Failure> {
    if stream.local_response().is_some() {
        stream.deliver_local_response()?;
        return stream.finish();
    }
    if first == Action::Continue || !stream.continued().is_empty() {
        if sent_to(&stream).is_some() {
            arrives(&stream);
        }
        stream.request_body(true)?;
        comes_back(&stream, back)?;
    }
    stream.finish()
}

pub(super) fn comes_back(stream: &FakeStream, back: Back) -> Result<(), Failure> {
    let (status, more, pieces): (_, &[(&str, &str)], &[&str]) = match back {
        Back::Fine => ("200", &[("content-length", "4")], &["fi", "ne"]),
        Back::Broken => (
            "503",
            &[("content-length", "6"), ("set-cookie", "a=b"), ("x-resilience", "far")],
            &["bro", "ken", ""],
        ),
        Back::Empty => ("502", &[("content-length", "0")], &[]),
        Back::Grpc => ("200", &[("content-type", "application/grpc"), ("grpc-status", "14")], &[]),
        Back::Trailers => ("500", &[("transfer-encoding", "chunked")], &["bro", "ken"]),
        Back::Unconnected => ("503", &[("content-length", "5")], &["error"]),
        Back::Nothing => return Ok(()),
    };
    match back {
        Back::Unconnected => describe(stream, "no_healthy_upstream", 1 << 1),
        _ => describe(stream, VIA_UPSTREAM, 0),
    }
    let mut answered = headers(&[(":status", status)]);
    answered.extend(headers(more));
    if !matches!(back, Back::Unconnected) {
        answered.extend(headers(&[SERVICE_TIME]));
    }
    stream.set_response_headers(answered);
    let action = stream.response_headers(pieces.is_empty())?;
    let replied = stream.local_response().is_some();
    assert_eq!(action, if replied { Action::Pause } else { Action::Continue }, "it hangs after its headers");
    let trailers = matches!(back, Back::Trailers);
    for (number, piece) in pieces.iter().enumerate() {
        let last = !trailers && number + 1 == pieces.len();
        let action = stream.response_body(piece, last)?;
        assert!(
            action == Action::Continue || action == Action::Drop && !last,
            "it hangs in its body: {action:?}"
        );
    }
    if trailers {
        stream.set_response_trailers(headers(&[("x-sum", "1"), ("grpc-status", "14")]));
        assert_eq!(stream.trailers()?, Action::Continue, "it hangs after its trailers");
    }
    Ok(())
}
