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

/// Policies that trip, refuse, probe, wait and retry.
fn of_every_kind() -> Vec<Value> {
    let breaker = json!({
        "consecutive_failures": 1,
        "wait_duration_in_open_state": "200ms",
        "permitted_number_of_calls_in_half_open_state": 1,
    });
    let bulkhead = json!({"max_concurrent_calls": 1});
    let budget = json!({"percent_can_retry": 0, "min_retries_per_second": 1, "ttl": "60s"});
    let mut shut = breaker.clone();
    shut["wait_duration_in_open_state"] = "10m".into();
    vec![
        policy("probing", breaker),
        policy("shut", shut),
        guarded("full", &json!({"bulkhead": bulkhead})),
        guarded("retried", &json!({"retry": {"max_retries": 1}, "retry_budget": budget})),
    ]
}

/// Trips, refuses, probes and closes; holds and refuses; retries. Each of these once, and all that is left of it in the log.
async fn play(upstream: &Upstream, edge: &Edge, workers: &mut [Connection]) {
    let get = |path: &str, behaviour: &str| Request::get(path).header("x-behave", behaviour);
    let mut status = async |worker: usize, request: Request| {
        let answer = workers[worker].send(request.header("x-request-id", worker.to_string())).await;
        answer.unwrap().status
    };
    assert_eq!(status(0, get("/shut", "status=500")).await, 500);
    assert_eq!(status(1, get("/shut", "status=200")).await, 503);
    assert_eq!(status(0, get("/probing", "status=500")).await, 500);
    let tripped = std::time::Instant::now();
    pass(tripped, std::time::Duration::from_millis(200)).await;
    assert_eq!(status(2, get("/probing", "status=200")).await, 200);
    let before = upstream.requests();
    assert_eq!(status(3, get("/retried", "status=503")).await, 503);
    assert_eq!(upstream.requests(), before + 2);
    let held = workers[0].start(get("/full", "hang")).await.unwrap();
    upstream.wait_in_flight(1).await;
    assert_eq!(workers[1].send(get("/full", "status=200")).await.unwrap().status, 503);
    upstream.release();
    assert_eq!(held.headers().await.unwrap().finish().await.status, 200);
    for words in [
        "policy probing: circuit breaker closed -> open cause=consecutive_failures count=1 limit=1 generation=1 request_id=0",
        "policy shut: refused reason=circuit_open breaker=open",
        "policy probing: circuit breaker open -> half_open cause=wait_over generation=2 request_id=2",
        "policy probing: circuit breaker half_open -> closed cause=probes calls=1 failed=0 slow=0 generation=3 request_id=2",
        "policy full: refused reason=bulkhead_full in_flight=1 waiting=0 limit=1 held_back=0",
    ] {
        let said = || edge.envoy.log_lines().iter().filter(|line| line.contains(words)).count();
        eventually(words, PATIENCE, async || (said() > 0).then_some(())).await;
        assert_eq!(said(), 1, "{words}: {:#?}", edge.envoy.log_lines());
    }
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_stat_the_log_tells_all_the_same() {
    let mut blind = Blind::with(&of_every_kind()).await;
    play(&blind.upstream, &blind.edge, &mut blind.workers).await;
    assert_eq!(blind.edge.envoy.get("/stats").await.body, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_leaves_the_rest_right() {
    let upstream = Upstream::start().await;
    let mut bootstrap =
        bootstrap(&[plain_listener("edge", filter(&document(&of_every_kind())))], upstream.addr());
    let rejected =
        ["resilience_vm_", "resilience_circuit_breaker_recovery", "resilience_calls", "resilience_bulk"];
    let prefixes = rejected.map(|name| json!({"prefix": format!("wasmcustom.{name}")}));
    bootstrap["stats_config"]["stats_matcher"] = json!({"exclusion_list": {"patterns": prefixes}});
    let edge = Edge::start(bootstrap).await;
    let mut workers = edge.clients(Protocol::Http2).await.into_connections();
    play(&upstream, &edge, &mut workers).await;
    let mut expected = Series::default();
    let probing = [("policy", "probing")];
    for (to, cause) in [("open", "consecutive_failures"), ("half_open", "wait_over"), ("closed", "probes")] {
        let labels = [probing[0], ("to", to), ("cause", cause)];
        expected.add("circuit_breaker_transitions_total", &labels, 1);
    }
    let tripped = [("policy", "shut"), ("to", "open"), ("cause", "consecutive_failures")];
    expected.add("circuit_breaker_transitions_total", &tripped, 1);
    for (policy, state) in [("probing", 0), ("shut", 2)] {
        expected.set("circuit_breaker_state", &[("policy", policy), ("key", "_")], state);
    }
    expected.set_within("circuit_breaker_open_milliseconds_total", &probing, 200..=60_000);
    expected.add("circuit_breaker_probes_total", &[probing[0], ("outcome", "success")], 1);
    for (policy, reason) in [("shut", "circuit_open"), ("full", "bulkhead_full")] {
        expected.add("rejections_total", &[("policy", policy), ("reason", reason), ("class", "_")], 1);
    }
    expected.add("retries_total", &[("policy", "retried"), ("decision", "granted")], 1);
    expected.set("retry_budget_balance", &[("policy", "retried")], 59);
    expected.set("configuration_generation", &[("namespace", "default")], 1);
    edge.wait_series(&expected).await;
}

/// The names are then what the module calls them, labels and all.
#[tokio::test(flavor = "multi_thread")]
async fn without_rules_for_labels_the_names_have_them() {
    let upstream = Upstream::start().await;
    let bootstrap =
        bootstrap(&[plain_listener("edge", filter(&document(&of_every_kind())))], upstream.addr());
    let workers = u32::try_from(WORKERS).unwrap();
    let edge = Edge::of(Envoy::builder(bootstrap).concurrency(workers)).await;
    let mut connections = edge.clients(Protocol::Http2).await.into_connections();
    play(&upstream, &edge, &mut connections).await;
    for (name, value) in [
        ("calls_total;policy=probing;outcome=success;slow=false", 1),
        ("circuit_breaker_transitions_total;policy=probing;to=open;cause=consecutive_failures", 1),
        ("circuit_breaker_probes_total;policy=probing;outcome=success", 1),
        ("rejections_total;policy=full;reason=bulkhead_full;class=_", 1),
        ("retry_budget_balance;policy=retried", 59),
        ("configuration_generation;namespace=default", 1),
        ("vm_deaths_total;namespace=default", 0),
        ("vm_starts_total", 1 + WORKERS as u64),
    ] {
        edge.envoy.wait_stat(&format!("wasmcustom.resilience_{name}"), |shown| shown == value).await;
    }
}
