//! What an operator leaves out of the stats is none of the breaker's business: it decides exactly all the same.
//!
//! A rejected metric can be written and read without an error and stays at zero, so whoever went by one would see nothing
//! ever change.

use resilience_integration_tests::*;
use resilience_test_harness::config::{self, cluster, connection_manager, route, virtual_host};
use resilience_test_harness::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// An Envoy that keeps no stat at all, and a connection to each of its workers.
struct Blind {
    upstream: Upstream,
    edge: Edge,
    workers: Vec<Connection>,
}

impl Blind {
    async fn with(policies: &[Value]) -> Self {
        let upstream = Upstream::start().await;
        // Stats cannot tell here which worker has a connection; each worker has a Lua of its own, though.
        let lua = "mine = {} \
                   function envoy_on_response(h) h:headers():add('x-worker', tostring(mine)) end";
        let lua = config::typed(
            "envoy.filters.http.lua",
            "extensions.filters.http.lua.v3.Lua",
            json!({"default_source_code": {"inline_string": lua}}),
        );
        let host = virtual_host("all", &[route(UPSTREAM, "/", UPSTREAM)]);
        let filters = [lua, filter(&document(policies))];
        let listener = listener("edge", connection_manager(&[host], &filters));
        let mut bootstrap = config::bootstrap(&[listener], &[cluster(UPSTREAM, &[upstream.addr()])]);
        bootstrap["stats_config"]["stats_matcher"] = json!({"reject_all": true});
        let edge = Edge::start(bootstrap).await;
        let workers = Self::workers(&edge).await;
        assert_eq!(edge.envoy.get("/stats").await.body, "");
        upstream.reset_counts();
        Self { upstream, edge, workers }
    }

    async fn workers(edge: &Edge) -> Vec<Connection> {
        let mut found = BTreeMap::new();
        for _ in 0..200 {
            let mut connection = Connection::open(edge.address, Protocol::Http2).await.unwrap();
            let worker = connection.send(Request::get("/")).await.unwrap().header("x-worker");
            assert!(!worker.is_empty(), "Envoy does not tell its workers apart");
            found.entry(worker).or_insert(connection);
            if found.len() == WORKERS {
                return found.into_values().collect();
            }
        }
        panic!("not every worker gets connections: {:?}", found.keys());
    }

    async fn ask(&mut self, worker: usize, path: &str, status: u16) -> Answer {
        let request = Request::get(path).header("x-behave", format!("status={status}"));
        self.workers[worker].send(request).await.unwrap()
    }

    /// The answer that the upstream gives.
    async fn answered(&mut self, worker: usize, path: &str, status: u16) {
        let answer = self.ask(worker, path, status).await;
        assert_eq!((answer.status, answer.text().as_str()), (status, "upstream\n"), "{path} at {worker}");
    }
}

fn five_in_a_row(name: &str) -> Value {
    policy(name, json!({"consecutive_failures": 5, "wait_duration_in_open_state": "10m"}))
}

/// The worker with the successes sees none of the failures happen, and the other one sees nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn failures_and_successes_in_turn_on_two_workers_never_trip() {
    const POLICIES: usize = 20;
    const ROUNDS: usize = 40;
    let policies: Vec<Value> = (0..POLICIES).map(|number| five_in_a_row(&format!("shop-{number}"))).collect();
    let mut blind = Blind::with(&policies).await;
    for number in 0..POLICIES {
        let path = format!("/shop-{number}");
        let (failing, healthy) = (number % WORKERS, (number + 1) % WORKERS);
        // What this worker saw first is a breaker that no success could change anything about.
        blind.answered(healthy, &path, 200).await;
        for _ in 0..ROUNDS {
            blind.answered(failing, &path, 503).await;
            blind.answered(healthy, &path, 200).await;
        }
    }
    assert_eq!(blind.upstream.requests(), POLICIES * (1 + 2 * ROUNDS));
    assert_eq!(traps(&blind.edge.envoy), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn not_one_request_passes_from_any_worker_once_the_fifth_failure_was_answered() {
    const ROUNDS: usize = 20;
    let policies: Vec<Value> = (0..ROUNDS).map(|round| five_in_a_row(&format!("shop-{round}"))).collect();
    let mut blind = Blind::with(&policies).await;
    for round in 0..ROUNDS {
        let path = format!("/shop-{round}");
        // The other workers have just found the breaker closed, and have no outcome yet that would make them look again.
        let failing = round % WORKERS;
        let mut held = Vec::new();
        for worker in (0..WORKERS).filter(|worker| *worker != failing) {
            let hanging = Request::get(&path).header("x-behave", "hang");
            held.push(blind.workers[worker].start(hanging).await.unwrap());
        }
        blind.upstream.wait_in_flight(held.len()).await;
        for _ in 0..5 {
            blind.answered(failing, &path, 503).await;
        }
        for worker in 0..WORKERS {
            let answer = blind.ask(worker, &path, 200).await;
            let marker = format!("shop-{round};reason=circuit_open;source=none");
            assert_eq!((answer.status, answer.header("x-resilience")), (503, marker), "worker {worker}");
        }
        assert_eq!(blind.upstream.requests_to(&path), held.len() + 5);
        // What was let in before answers well, which is about a state that is gone.
        blind.upstream.release();
        for pending in held {
            assert_eq!(pending.headers().await.unwrap().finish().await.status, 200);
        }
        assert_eq!(blind.ask(failing, &path, 200).await.status, 503);
        blind.upstream.wait_in_flight(0).await;
    }
    assert_eq!(traps(&blind.edge.envoy), Vec::<String>::new());
}
