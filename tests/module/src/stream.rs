//! One request: what a test puts into it, its callbacks, and what the module did to it.

use crate::headers::{Headers, Map, Mutation, find, headers};
use crate::output::{Action, LocalResponse, Result};
use crate::received::Received;
use crate::record::{Call, Counts};
use crate::state::Context;
use crate::vm::{FakeVm, words};

/// One request on its way through the module. Dropping it tells the module nothing, as when a worker dies.
pub struct FakeStream {
    vm: FakeVm,
    id: u32,
}

impl Drop for FakeStream {
    fn drop(&mut self) {
        // One that was never deleted stays: its callbacks could still act on it, as on a stream of a stopped worker.
        let inner = &mut *self.vm.inner();
        if inner.context(self.id).gone {
            inner.store.data_mut().contexts.remove(&self.id);
        }
    }
}

impl FakeStream {
    pub(crate) fn new(vm: FakeVm, id: u32) -> Self {
        Self { vm, id }
    }

    /// Its context id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    fn with<T>(&self, work: impl FnOnce(&mut Context) -> T) -> T {
        work(self.vm.inner().context(self.id))
    }

    /// What the client sends.
    pub fn set_request_headers(&self, headers: Headers) -> &Self {
        self.with(|context| context.request.headers = headers);
        self
    }

    /// What the upstream, or Envoy in its place, answers.
    pub fn set_response_headers(&self, headers: Headers) -> &Self {
        self.with(|context| context.response.headers = headers);
        self
    }

    /// How the answer ends.
    pub fn set_response_trailers(&self, headers: Headers) -> &Self {
        self.with(|context| context.response_trailers.headers = headers);
        self
    }

    /// A property, its path with NUL between the segments.
    pub fn set_property(&self, path: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &Self {
        self.with(|context| context.properties.insert(path.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    /// Takes a property away.
    pub fn remove_property(&self, path: impl AsRef<[u8]>) -> &Self {
        self.with(|context| context.properties.remove(path.as_ref()));
        self
    }

    fn headers_callback(&self, map: Map, callback: &str, end: Option<bool>) -> Result<Action> {
        let inner = &mut *self.vm.inner();
        if map == Map::RequestHeaders {
            inner.create(self.id)?;
        }
        let headers = inner.context(self.id).map(map);
        headers.open = true;
        let count = headers.headers.len() as u32;
        let action = match end {
            Some(end) => inner.decide(callback, self.id, &[self.id, count, u32::from(end)]),
            None => inner.decide(callback, self.id, &[self.id, count]),
        };
        // Envoy takes the map away when the stream moves on, and keeps it while the module holds it.
        let context = inner.context(self.id);
        if matches!(action, Ok(Action::Continue)) && context.local_responses.is_empty() {
            context.map(map).open = false;
            let passed = context.map(map).headers.clone();
            context.received.pass(map, passed, end == Some(true));
        }
        action
    }

    /// The request's headers arrive.
    ///
    /// # Errors
    /// If the module traps.
    pub fn request_headers(&self, end: bool) -> Result<Action> {
        self.headers_callback(Map::RequestHeaders, "proxy_on_request_headers", Some(end))
    }

    /// A part of the request's body arrives; `end` where nothing follows it.
    ///
    /// # Errors
    /// If the module traps.
    pub fn request_body(&self, end: bool) -> Result<Action> {
        self.vm.inner().decide("proxy_on_request_body", self.id, &[self.id, 1, u32::from(end)])
    }

    /// The request's trailers arrive: it is there as a whole.
    ///
    /// # Errors
    /// If the module traps.
    pub fn request_trailers(&self) -> Result<Action> {
        self.headers_callback(Map::RequestTrailers, "proxy_on_request_trailers", None)
    }

    /// The response's headers arrive.
    ///
    /// # Errors
    /// If the module traps.
    pub fn response_headers(&self, end: bool) -> Result<Action> {
        self.headers_callback(Map::ResponseHeaders, "proxy_on_response_headers", Some(end))
    }

    /// A piece of the response's body arrives; `end` where nothing follows it.
    ///
    /// # Errors
    /// If the module traps.
    pub fn response_body(&self, piece: impl AsRef<[u8]>, end: bool) -> Result<Action> {
        let (action, piece) = self.show(piece.as_ref(), end)?;
        self.with(|context| {
            // What Envoy would have answered goes on through the filters, and nowhere.
            if action == Action::Continue && context.local_responses.is_empty() {
                context.received.pass_piece(piece, end);
            }
        });
        Ok(action)
    }

    /// Shows the module a piece of a body; what it wants, and what it has made of the piece.
    fn show(&self, piece: &[u8], end: bool) -> Result<(Action, Vec<u8>)> {
        let inner = &mut *self.vm.inner();
        inner.context(self.id).piece = Some(piece.to_vec());
        let arguments = [self.id, piece.len() as u32, u32::from(end)];
        let decided = inner.decide("proxy_on_response_body", self.id, &arguments);
        let piece = inner.context(self.id).piece.take().unwrap_or_default();
        let action = match decided? {
            // The ABI's `StopIterationNoBuffer`, which means more of a body than of headers.
            Action::Other(3) => Action::Drop,
            action => action,
        };
        Ok((action, piece))
    }

    /// What has gone on to the client of an answer that is no local response.
    #[must_use]
    pub fn received(&self) -> Received {
        self.with(|context| context.received.clone())
    }

    /// The response's trailers arrive.
    ///
    /// # Errors
    /// If the module traps.
    pub fn trailers(&self) -> Result<Action> {
        self.headers_callback(Map::ResponseTrailers, "proxy_on_response_trailers", None)
    }

    /// The module's own reply comes back through its response callbacks, as Envoy's local replies do.
    ///
    /// # Errors
    /// If the module traps.
    ///
    /// # Panics
    /// If there is none, or the module changes its body.
    pub fn deliver_local_response(&self) -> Result<Action> {
        let reply = self.local_response().expect("a local response");
        let mut headers = headers(&[(":status", &reply.status.to_string())]);
        if !reply.body.is_empty() {
            headers.extend(self::headers(&[
                ("content-length", &reply.body.len().to_string()),
                ("content-type", "text/plain"),
            ]));
        }
        for (name, value) in reply.headers {
            headers.retain(|(other, _)| *other != name || name == b":status");
            headers.push((name, value));
        }
        self.set_response_headers(headers);
        let ends = reply.body.is_empty();
        let action = self.response_headers(ends)?;
        if !ends {
            assert_eq!(self.show(&reply.body, true)?, (Action::Continue, reply.body));
        }
        Ok(action)
    }

    /// The log callback, where every header map can be read.
    ///
    /// # Errors
    /// If the module traps.
    pub fn log(&self) -> Result<()> {
        let inner = &mut *self.vm.inner();
        // Envoy logs requests whose headers never came this far, and creates the context for it.
        inner.create(self.id)?;
        inner.context(self.id).logging = true;
        let outcome = inner.call("proxy_on_log", self.id, &words(&[self.id]));
        inner.context(self.id).logging = false;
        outcome.map(drop)
    }

    /// The done callback.
    ///
    /// # Errors
    /// If the module traps.
    pub fn done(&self) -> Result<()> {
        self.vm.inner().call("proxy_on_done", self.id, &words(&[self.id])).map(drop)
    }

    /// The delete callback; the module cannot come back to the context afterwards.
    ///
    /// # Errors
    /// If the module traps.
    pub fn delete(&self) -> Result<()> {
        let inner = &mut *self.vm.inner();
        let outcome = inner.call("proxy_on_delete", self.id, &words(&[self.id]));
        inner.context(self.id).gone = true;
        outcome.map(drop)
    }

    /// Log, done and delete, in Envoy's order.
    ///
    /// # Errors
    /// If the module traps.
    pub fn finish(&self) -> Result<()> {
        self.log()?;
        self.done()?;
        self.delete()
    }

    /// The reply that the module made, if it made one.
    #[must_use]
    pub fn local_response(&self) -> Option<LocalResponse> {
        self.with(|context| context.local_responses.first().cloned())
    }

    /// The changes of header maps so far.
    #[must_use]
    pub fn mutations(&self) -> Vec<Mutation> {
        self.with(|context| context.mutations.clone())
    }

    /// The properties that the module set, in order.
    #[must_use]
    pub fn properties_set(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.with(|context| context.properties_set.clone())
    }

    /// The last value that the module set for a property, as text.
    #[must_use]
    pub fn property_set(&self, path: impl AsRef<[u8]>) -> Option<String> {
        let set = self.properties_set();
        let (_, value) = set.iter().rev().find(|(other, _)| other == path.as_ref())?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    /// A header map as it is now.
    #[must_use]
    pub fn headers(&self, map: Map) -> Headers {
        self.with(|context| context.map(map).headers.clone())
    }

    /// A header as it is now, as text.
    #[must_use]
    pub fn header(&self, map: Map, name: &str) -> Option<String> {
        find(&self.headers(map), name)
    }

    /// The directions in which the module continued the stream (0 request, 1 response).
    #[must_use]
    pub fn continued(&self) -> Vec<u32> {
        self.with(|context| context.continued.clone())
    }

    /// The host calls made for this stream, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        let inner = self.vm.inner();
        inner.store.data().calls.iter().filter(|call| call.context == self.id).cloned().collect()
    }

    /// The same by kind.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts::of(&self.calls())
    }
}
