//! The circuit breaker in a real Envoy: one for all workers. The upstream counts what reached it.

mod adoption;
mod generations;
mod half_open;
mod keys;
mod modes;
mod rates;
mod recovery;
mod sharing;
mod tripping;

use resilience_integration_tests::{Calls, Clients, Edge, WORKERS, document, policy};
use resilience_test_harness::*;
use serde_json::Value;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// An upstream, an edge with the policy `shop` before it, and a client on every worker.
struct Shop {
    upstream: Upstream,
    edge: Edge,
    clients: Clients,
}

impl Shop {
    async fn open(circuit_breaker: Value) -> Self {
        Self::with(&[policy("shop", circuit_breaker)]).await
    }

    async fn with(policies: &[Value]) -> Self {
        let upstream = Upstream::start().await;
        let edge = Edge::before(upstream.addr(), &document(policies)).await;
        let clients = edge.clients(Protocol::Http1).await;
        Self { upstream, edge, clients }
    }

    async fn ask(&mut self) -> Answer {
        self.clients.send(Request::get("/shop")).await
    }

    /// The answers that the upstream gives, one worker after the other.
    async fn answered(&mut self, statuses: &[u16]) {
        for status in statuses {
            let before = self.upstream.requests();
            assert_eq!(self.clients.get("/shop", &format!("status={status}")).await, *status);
            assert_eq!(self.upstream.requests(), before + 1, "a {status} was to come from the upstream");
        }
    }

    /// As [`Self::answered`], each counted before the next is sent: a success counts only when its stream is over, which
    /// the client does not see.
    async fn counted(&mut self, statuses: &[u16]) {
        for status in statuses {
            let mut expected = self.edge.calls("shop").await;
            let of_its_kind = if *status < 500 { &mut expected.success } else { &mut expected.failure };
            *of_its_kind += 1;
            self.answered(&[*status]).await;
            self.edge.wait_calls("shop", expected).await;
        }
    }

    /// The log has one transition with this.
    fn logged(&self, part: &str) {
        let lines = self.edge.envoy.log_lines();
        let breakers: Vec<_> = lines.iter().filter(|line| line.contains("circuit breaker")).collect();
        let found = breakers.iter().filter(|line| line.contains(part)).count();
        assert_eq!(found, 1, "{part}: {breakers:#?}");
    }

    /// Every worker refuses, and nothing reaches the upstream.
    async fn refused_by_all(&mut self) {
        let before = self.upstream.requests();
        for worker in 0..WORKERS {
            let answer = self.clients.worker(worker).send(Request::get("/shop")).await.unwrap();
            assert_refused(&answer, "shop");
        }
        assert_eq!(self.upstream.requests(), before);
    }

    /// One failure, which opens a breaker of `consecutive_failures: 1`. Returns when the answer was there.
    async fn trip(&mut self) -> Instant {
        self.answered(&[503]).await;
        Instant::now()
    }

    /// A request of its own connection that the upstream has in hand.
    async fn held(&self, behaviour: &str) -> (Connection, Pending) {
        let in_flight = self.upstream.in_flight();
        let mut connection = Connection::open(self.edge.address, Protocol::Http1).await.unwrap();
        let request = Request::get("/shop").header("x-behave", behaviour);
        let pending = connection.start(request).await.unwrap();
        self.upstream.wait_in_flight(in_flight + 1).await;
        (connection, pending)
    }

    async fn transitions(&self, to: &str, cause: &str) -> u64 {
        self.edge.transitions("shop", to, cause).await
    }
}

fn assert_refused(answer: &Answer, policy: &str) {
    let marker = format!("{policy};reason=circuit_open;source=none");
    assert_eq!((answer.status, answer.header("x-resilience")), (503, marker), "{answer:?}");
}

fn calls(success: u64, failure: u64, ignored: u64) -> Calls {
    Calls { success, failure, ignored }
}
