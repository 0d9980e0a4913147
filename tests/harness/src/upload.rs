//! What a client sends as a body.

use hyper::body::{Body, Bytes, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A request's body, in one piece that may not be all of it.
#[derive(Debug)]
pub(crate) struct Upload {
    rest: Option<Bytes>,
    whole: bool,
}

impl Upload {
    pub(crate) fn new(body: Bytes, whole: bool) -> Self {
        Self { rest: Some(body), whole }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.rest.take().filter(|rest| !rest.is_empty()) {
            Some(rest) => Poll::Ready(Some(Ok(Frame::data(rest)))),
            None if self.whole => Poll::Ready(None),
            // Nothing wakes it: it is dropped with the request.
            None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.whole && self.rest.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        let known = self.rest.as_ref().map_or(0, Bytes::len) as u64;
        if self.whole { SizeHint::with_exact(known) } else { SizeHint::new() }
    }
}
