//! The circuit breaker as real gRPC clients and servers meet it. Each client has its own connection to one worker; the
//! server counts what reached it.

mod agreement;
mod callers;
mod cancelled;
mod refusals;
mod statuses;
mod streams;

use resilience_integration_tests::*;
use resilience_test_grpc::{Client, Plan, Server, Status};
use resilience_test_harness::config::{self, cluster, with_http2};
use serde_json::{Value, json};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// A server, an edge before it, and a client on every worker.
struct Shop {
    server: Server,
    edge: Edge,
    clients: Vec<Client>,
    next: usize,
}

impl Shop {
    async fn open(policies: &[Value]) -> Self {
        Self::of(&document(policies)).await
    }

    async fn of(document: &Value) -> Self {
        Self::routed(&patient_route(), &[filter(document)]).await
    }

    async fn routed(route: &Value, filters: &[Value]) -> Self {
        let server = Server::start().await;
        let listener = routed_listener("edge", std::slice::from_ref(route), filters);
        let upstream = with_http2(cluster(UPSTREAM, &[server.addr()]));
        let edge = Edge::start(config::bootstrap(&[listener], &[upstream])).await;
        let clients = edge.connections_of("edge", Client::connect).await;
        Self { server, edge, clients, next: 0 }
    }

    /// The client of the next worker.
    fn client(&mut self) -> &Client {
        self.next = (self.next + 1) % self.clients.len();
        &self.clients[self.next]
    }

    /// A unary call by way of the next worker that must fail, with the server's status or ours.
    async fn fails(&mut self, service: &str, plan: Plan) -> Status {
        self.client().unary(service, plan).await.expect_err("a status that is not OK")
    }

    /// Unary calls that the server answers with `OK`.
    async fn succeeds(&mut self, service: &str, times: usize) {
        for _ in 0..times {
            let before = self.server.received(service);
            self.client().unary(service, Plan::messages(1)).await.expect("OK");
            assert_eq!(self.server.received(service), before + 1);
        }
    }

    /// Every worker refuses, and nothing reaches the server.
    async fn refused_by_all(&mut self, service: &str) {
        let before = self.server.received(service);
        for _ in 0..WORKERS {
            assert_refused(&self.fails(service, Plan::messages(1)).await, service);
        }
        assert_eq!(self.server.received(service), before);
    }
}

/// A breaker that one failure opens, for longer than any test here takes.
fn fragile(service: &str) -> Value {
    policy(service, json!({"consecutive_failures": 1, "wait_duration_in_open_state": "10m"}))
}

/// A breaker that one failure opens for a second, and one successful probe closes.
fn recovering(service: &str) -> Value {
    let breaker = json!({
        "consecutive_failures": 1,
        "wait_duration_in_open_state": "1s",
        "permitted_number_of_calls_in_half_open_state": 1,
        // So long that it cannot be what ends the state.
        "max_wait_duration_in_half_open_state": "10m",
    });
    policy(service, breaker)
}

/// A header that came with a status, empty where it did not.
fn metadata<'a>(status: &'a Status, name: &str) -> &'a str {
    status.metadata().get(name).map_or("", |value| value.to_str().expect("a header of ours is text"))
}

fn is_refusal(status: &Status) -> bool {
    status.metadata().contains_key("x-resilience")
}

fn assert_refused(status: &Status, policy: &str) {
    let said = (status.code(), status.message(), metadata(status, "x-resilience"));
    let marker = format!("{policy};reason=circuit_open;source=none");
    assert_eq!(said, (resilience_test_grpc::Code::Unavailable, "circuit_open", marker.as_str()));
}

/// The server said it, and nobody else put in a word.
fn assert_told(status: &Status, code: resilience_test_grpc::Code) {
    assert_eq!((status.code(), status.message()), (code, "as told"));
    for name in ["x-resilience", "retry-after", "x-envoy-ratelimited"] {
        assert_eq!(metadata(status, name), "", "{name}");
    }
}

fn calls(success: u64, failure: u64, ignored: u64) -> Calls {
    Calls { success, failure, ignored }
}
