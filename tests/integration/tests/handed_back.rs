//! Half-open with every place taken: whoever is turned away changes nothing, and a place that comes back is free for the
//! next request at once, whichever worker gets it.

use resilience_integration_tests::*;
use resilience_test_harness::*;
use serde_json::json;
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_millis(500);

/// A half-open breaker all of whose places are held by requests that hang at the upstream.
struct Full {
    upstream: Upstream,
    edge: Edge,
    clients: Clients,
    probes: Vec<Pending>,
    /// What reached the upstream so far.
    reached: usize,
    /// Probes whose clients left.
    left: u64,
}

impl Full {
    async fn with(permitted: usize) -> Self {
        let upstream = Upstream::start().await;
        let breaker = json!({
            "consecutive_failures": 1,
            "wait_duration_in_open_state": format!("{}ms", WAIT.as_millis()),
            "permitted_number_of_calls_in_half_open_state": permitted,
            // So long that it cannot be what ends the state.
            "max_wait_duration_in_half_open_state": "10m",
        });
        let edge = Edge::before(upstream.addr(), &document(&[policy("shop", breaker)])).await;
        // Over HTTP/2 a client that leaves takes no connection along.
        let mut clients = edge.clients(Protocol::Http2).await;
        assert_eq!(clients.get("/shop", "status=503").await, 503);
        pass(Instant::now(), WAIT).await;
        let mut full = Self { upstream, edge, clients, probes: Vec::new(), reached: 1, left: 0 };
        for probe in 0..permitted {
            full.probe(probe % WORKERS).await;
        }
        full
    }

    /// Sends a request to a worker and waits until the upstream has it.
    async fn probe(&mut self, worker: usize) {
        let hanging = Request::get("/shop").header("x-behave", "hang");
        self.probes.push(self.clients.worker(worker).start(hanging).await.unwrap());
        self.reached += 1;
        self.upstream.wait_requests(self.reached).await;
    }

    /// The client of a probe leaves, and its worker knows.
    async fn leave(&mut self, probe: usize) {
        self.probes.remove(probe).abandon();
        self.left += 1;
        self.edge.wait_calls("shop", Calls { failure: 1, ignored: self.left, ..Calls::default() }).await;
    }

    /// A worker turns many away, one after the other.
    async fn flood(&mut self, worker: usize) {
        for _ in 0..50 {
            let answer = self.clients.worker(worker).send(Request::get("/shop")).await.unwrap();
            assert_refused(&answer);
        }
    }

    async fn flood_all(&mut self) {
        for worker in 0..WORKERS {
            self.flood(worker).await;
        }
        assert_eq!((self.upstream.requests(), self.upstream.in_flight()), (self.reached, self.probes.len()));
    }
}

fn assert_refused(answer: &Answer) {
    let told = (answer.status, answer.header("x-resilience"), answer.header("retry-after"));
    assert_eq!(told, (503, "shop;reason=circuit_open;source=none".to_owned(), "1".to_owned()), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_comes_back_is_free_at_once_for_every_worker() {
    let mut full = Full::with(2).await;
    for (leaving, next) in (0..WORKERS).flat_map(|leaving| (0..WORKERS).map(move |next| (leaving, next))) {
        // All have just seen that there is no place, the one that gets the next request last of all.
        full.flood_all().await;
        full.flood(next).await;
        full.leave(leaving % 2).await;
        full.probe(next).await;
        full.flood(next).await;
    }
    full.flood_all().await;
    assert_eq!(full.edge.state("shop").await, Some(1));
    // It was one stay all along, and its two verdicts end it.
    assert_eq!(full.edge.transitions("shop", "half_open", "wait_over").await, 1);
    full.upstream.release();
    for probe in full.probes {
        assert_eq!(probe.headers().await.unwrap().status, 200);
    }
    let counted = Calls { success: 2, failure: 1, ignored: (WORKERS * WORKERS) as u64 };
    full.edge.wait_calls("shop", counted).await;
    assert_eq!(full.edge.transitions("shop", "closed", "probes").await, 1);
    for _ in 0..WORKERS {
        assert_eq!(full.clients.get("/shop", "status=200").await, 200);
    }
    assert_eq!(traps(&full.edge.envoy), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_refused_requests_does_not_touch_the_decision() {
    const FLOOD: usize = 2000;
    let mut full = Full::with(3).await;
    let address = full.edge.address;
    let flood = || async move {
        for answer in burst(address, Protocol::Http2, FLOOD, 40, |_| Request::get("/shop")).await {
            assert_refused(&answer.unwrap());
        }
    };
    // It writes nothing, so there is nothing that could come between those who must write.
    let changes = full.edge.count("resilience_store_changes_total", &[]).await;
    flood().await;
    // Each VM that comes to use the counter only now counts one to try it.
    let vms = WORKERS as u64 + 2;
    let after = full.edge.count("resilience_store_changes_total", &[]).await;
    assert!((changes..=changes + vms).contains(&after), "{changes} changes, {after} after the flood");
    assert_eq!(full.edge.count("resilience_store_conflicts_total", &[("operation", "admit")]).await, 0);
    assert_eq!(full.edge.count("resilience_store_give_ups_total", &[("operation", "admit")]).await, 0);
    assert_eq!((full.upstream.requests(), full.edge.state("shop").await), (full.reached, Some(1)));

    // One place comes back in the middle of it: exactly one of them gets it.
    let crowd = tokio::spawn(burst(address, Protocol::Http2, FLOOD, 40, |_| {
        Request::get("/shop").header("x-behave", "hang")
    }));
    full.leave(1).await;
    full.upstream.wait_requests(full.reached + 1).await;
    assert_eq!(full.upstream.in_flight(), 3);
    // The one that hangs holds up the rest of its connection's share; all others are turned away.
    let others = (2 * FLOOD - FLOOD / 40) as u64;
    let refused = [("policy", "shop"), ("reason", "circuit_open")];
    eventually("the others to be turned away", PATIENCE, async || {
        (full.edge.count("resilience_rejections_total", &refused).await >= others).then_some(())
    })
    .await;
    assert_eq!((full.upstream.requests(), full.edge.state("shop").await), (full.reached + 1, Some(1)));

    // All three succeed, and the breaker closes for everybody.
    full.upstream.release();
    for probe in full.probes {
        assert_eq!(probe.headers().await.unwrap().status, 200);
    }
    full.edge.wait_count("resilience_circuit_breaker_transitions_total", &[("to", "closed")], 1).await;
    crowd.abort();
    for _ in 0..WORKERS {
        assert_eq!(full.clients.get("/shop", "status=200").await, 200);
    }
    assert_eq!(full.edge.count("resilience_circuit_breaker_transitions_total", &[]).await, 3);
}
