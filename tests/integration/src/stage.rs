//! What most tests of retries and deadlines stand on.

use crate::{Clients, Edge, believing_listener, bootstrap, filter, patient_route, routed_listener};
use resilience_test_harness::config::direct_response;
use resilience_test_harness::{Answer, Pending, Protocol, Request, Upstream};
use serde_json::{Value, json};

/// A policy over `/<name>` and all below it, with these sections.
///
/// # Panics
/// If `sections` is no object.
#[must_use]
pub fn guarded(name: &str, sections: &Value) -> Value {
    let mut policy = sections.clone();
    policy["name"] = name.into();
    policy["match"] = json!([{"path": {"prefix": format!("/{name}")}}]);
    policy
}

/// The listener for operators, as in the bundle: the same policies and vm_id, and a VM of its own.
#[must_use]
pub fn control_listener(document: &Value) -> Value {
    let mut document = document.clone();
    document["control"] = true.into();
    let mut filter = filter(&document);
    filter["typed_config"]["config"]["vm_config"]["configuration"] =
        json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "control"});
    routed_listener("control", &[direct_response("lost", "/", 404, "")], &[filter])
}

/// An upstream, an edge before it, and a client on every worker.
#[derive(Debug)]
pub struct Stage {
    /// Counts what reaches it.
    pub upstream: Upstream,
    /// The Envoy under test.
    pub edge: Edge,
    /// Over HTTP/2, so that what waits or hangs takes no connection.
    pub clients: Clients,
}

impl Stage {
    /// A document before an upstream that may take all its time. Envoy holds callers to be strangers.
    ///
    /// # Panics
    /// If Envoy does not start.
    pub async fn open(document: &Value) -> Self {
        Self::routed(&[patient_route()], &[filter(document)]).await
    }

    /// The same with these routes and filters.
    ///
    /// # Panics
    /// If Envoy does not start.
    pub async fn routed(routes: &[Value], filters: &[Value]) -> Self {
        let upstream = Upstream::start().await;
        let edge = Edge::routed(upstream.addr(), routes, filters).await;
        Self::of(upstream, edge).await
    }

    /// The same where Envoy itself believes callers: see [`believing_listener`].
    ///
    /// # Panics
    /// If Envoy does not start.
    pub async fn believing(routes: &[Value], document: &Value) -> Self {
        let upstream = Upstream::start().await;
        let listener = believing_listener("edge", routes, &[filter(document)]);
        let edge = Edge::start(bootstrap(&[listener], upstream.addr())).await;
        Self::of(upstream, edge).await
    }

    /// An upstream and an edge that were there before.
    ///
    /// # Panics
    /// If there is a worker that gets no connection.
    pub async fn of(upstream: Upstream, edge: Edge) -> Self {
        let clients = edge.clients(Protocol::Http2).await;
        Self { upstream, edge, clients }
    }

    /// Sends a request by way of the next worker.
    ///
    /// # Panics
    /// If it cannot be sent.
    pub async fn start(&mut self, request: Request) -> Pending {
        self.clients.next_worker().start(request).await.expect("a connection")
    }

    /// The same, and waits for its answer.
    ///
    /// # Panics
    /// If there is none.
    pub async fn ask(&mut self, request: Request) -> Answer {
        self.start(request).await.headers().await.expect("an answer").finish().await
    }

    /// The same, and says how often the upstream got it too; nothing else may be on its way.
    ///
    /// # Panics
    /// If there is no answer.
    pub async fn attempts(&mut self, request: Request) -> (Answer, usize) {
        let before = self.upstream.requests();
        let answer = self.ask(request).await;
        (answer, self.upstream.requests() - before)
    }

    /// The same of a request that the upstream answers with 503 each time.
    ///
    /// # Panics
    /// If the answer is any other.
    pub async fn attempts_of_failing(&mut self, request: Request) -> usize {
        let (answer, attempts) = self.attempts(request.header("x-behave", "status=503")).await;
        assert_eq!((answer.status, answer.header("x-resilience")), (503, String::new()), "{answer:?}");
        attempts
    }

    /// A request that the upstream has in hand until it is released.
    ///
    /// # Panics
    /// If it does not get there.
    pub async fn hold(&mut self, request: Request) -> Pending {
        let reached = self.upstream.requests();
        let pending = self.start(request).await;
        self.upstream.wait_requests(reached + 1).await;
        pending
    }
}
