//! Bulkheads in a real Envoy: one limit for all workers, which never leaks. The upstream counts what is in flight.

mod breaker;
mod compartments;
mod death;
mod endings;
mod load;
mod long;
mod modes;
mod priorities;
mod traffic;
mod update;
mod waiting;
mod waiting_ends;

use resilience_integration_tests::*;
use resilience_test_harness::*;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const IN_FLIGHT: &str = "resilience_bulkhead_in_flight";
const WAITING: &str = "resilience_bulkhead_waiting";
const LIMIT: &str = "resilience_bulkhead_limit";
const WAITED: &str = "resilience_bulkhead_wait_milliseconds_count";
const REJECTIONS: &str = "resilience_rejections_total";
const SHADOW: &str = "resilience_shadow_decisions_total";

/// Longer than any test takes, and than the harness waits for an answer: who is answered did not wait for the end of this.
const FOR_EVER: &str = "5m";

/// A policy over `/<name>` and all below it.
fn compartment(name: &str, bulkhead: Value) -> Value {
    json!({"name": name, "match": [{"path": {"prefix": format!("/{name}")}}], "bulkhead": bulkhead})
}

/// Without waiting.
fn limit(calls: u32) -> Value {
    json!({"max_concurrent_calls": calls})
}

/// With waiting for as long as it takes.
fn patient(calls: u32, queue: u32) -> Value {
    json!({"max_concurrent_calls": calls, "max_wait_duration": FOR_EVER, "max_queue": queue})
}

/// An upstream, an edge with policies before it, and a client on every worker.
struct Shop {
    upstream: Upstream,
    edge: Edge,
    /// Over HTTP/2, so that what waits or hangs takes no connection.
    clients: Clients,
}

impl Shop {
    async fn open(bulkhead: Value) -> Self {
        Self::with(&[compartment("shop", bulkhead)]).await
    }

    async fn with(policies: &[Value]) -> Self {
        let upstream = Upstream::start().await;
        let filter = filter(&document(policies));
        let edge = Edge::routed(upstream.addr(), &[patient_route()], &[filter]).await;
        Self::of(upstream, edge).await
    }

    async fn of(upstream: Upstream, edge: Edge) -> Self {
        let clients = edge.clients(Protocol::Http2).await;
        Self { upstream, edge, clients }
    }

    /// Sends a request by way of the next worker.
    async fn start(&mut self, request: Request) -> Pending {
        self.clients.next_worker().start(request).await.expect("a connection")
    }

    async fn ask(&mut self, request: Request) -> Answer {
        self.start(request).await.headers().await.expect("an answer").finish().await
    }

    /// A request that the upstream has in hand until it is released.
    async fn hold(&mut self, request: Request) -> Pending {
        let reached = self.upstream.requests();
        let pending = self.start(request.header("x-behave", "hang")).await;
        self.upstream.wait_requests(reached + 1).await;
        pending
    }

    /// A request that waits: the gauge shows that it is one of so many.
    async fn wait(&mut self, request: Request, of: u64) -> Pending {
        let pending = self.start(request).await;
        self.waiting("shop", of).await;
        pending
    }

    /// Sends until one is let in, and returns its answer: a permit comes free a little after a client knows.
    async fn ask_when_free(&mut self, policy: &str, request: &Request) -> Answer {
        let started = Instant::now();
        loop {
            let answer = self.ask(request.clone()).await;
            if !answer.header("x-resilience").contains("bulkhead_full") {
                return answer;
            }
            assert_full(&answer, policy);
            assert!(started.elapsed() < PATIENCE, "no permit comes free for {request:?}");
        }
    }

    /// As [`Self::hold`], for a permit that comes free soon.
    async fn hold_when_free(&mut self, policy: &str, request: &Request) -> Pending {
        let reached = self.upstream.requests();
        let started = Instant::now();
        loop {
            let pending = self.start(request.clone().header("x-behave", "hang")).await;
            eventually("an answer or a call", PATIENCE, async || {
                (pending.is_over() || self.upstream.requests() > reached).then_some(())
            })
            .await;
            if self.upstream.requests() > reached {
                return pending;
            }
            assert_full(&pending.headers().await.expect("an answer").finish().await, policy);
            assert!(started.elapsed() < PATIENCE, "no permit comes free for {request:?}");
        }
    }

    /// Every worker refuses, and nothing reaches the upstream.
    async fn full_for_all(&mut self, policy: &str) {
        let before = self.upstream.requests();
        for worker in 0..WORKERS {
            let request = Request::get(&format!("/{policy}/more"));
            assert_full(&self.clients.worker(worker).send(request).await.expect("an answer"), policy);
        }
        assert_eq!(self.upstream.requests(), before);
    }

    async fn in_flight(&self, policy: &str, expected: u64) {
        wait_gauge(&self.edge, IN_FLIGHT, policy, expected).await;
    }

    async fn waiting(&self, policy: &str, expected: u64) {
        wait_gauge(&self.edge, WAITING, policy, expected).await;
    }

    /// Nothing is in flight and nothing waits, by the shared count.
    async fn empty(&self, policy: &str) {
        self.in_flight(policy, 0).await;
        self.waiting(policy, 0).await;
        assert_eq!(traps(&self.edge.envoy), Vec::<String>::new());
    }

    /// Refusals of a policy for want of a permit, by class.
    async fn refused(&self, policy: &str, class: &str) -> u64 {
        let labels = [("policy", policy), ("reason", "bulkhead_full"), ("class", class)];
        self.edge.count(REJECTIONS, &labels).await
    }
}

/// Waits until a gauge is there and shows this.
async fn wait_gauge(edge: &Edge, metric: &str, policy: &str, expected: u64) {
    let mut last = None;
    let waited = tokio::time::timeout(PATIENCE, async {
        while last != Some(expected) {
            last = edge.gauge(metric, policy).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "{metric} of {policy} is {last:?}, not {expected}");
}

/// The plain refusal for want of a permit.
fn assert_full(answer: &Answer, policy: &str) {
    let marker = format!("{policy};reason=bulkhead_full;source=none");
    assert_eq!((answer.status, answer.header("x-resilience")), (503, marker), "{answer:?}");
}

async fn served(pending: Pending) {
    let answer = pending.headers().await.expect("an answer").finish().await;
    assert_eq!((answer.status, answer.text().as_str(), answer.broken.as_deref()), (200, "upstream\n", None));
    assert_eq!(answer.header("x-resilience"), "");
}

async fn refused(pending: Pending) {
    assert_full(&pending.headers().await.expect("an answer").finish().await, "shop");
}

fn shop() -> Request {
    Request::get("/shop")
}
