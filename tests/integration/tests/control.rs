//! Operators force breakers at run time, over a listener of their own that shares the breakers of the one with the traffic.

use resilience_integration_tests::*;
use resilience_test_harness::config::{self, cluster, route};
use resilience_test_harness::*;
use serde_json::{Value, json};
use std::time::Duration;

/// Policies of every kind that an operator may meet; their own waits are longer than any test.
fn policies() -> Value {
    let patient = "10m";
    let once = json!({
        "consecutive_failures": 1,
        "wait_duration_in_open_state": patient,
        "permitted_number_of_calls_in_half_open_state": 1,
    });
    let twice = json!({"consecutive_failures": 2, "wait_duration_in_open_state": patient});
    let mut keyed = policy("keyed", once.clone());
    keyed["key"] = "upstream_cluster".into();
    let rates = json!({
        "failure_rate_threshold": 50, "sliding_window_size": 4, "minimum_number_of_calls": 4,
        "wait_duration_in_open_state": patient,
    });
    document(&[
        policy("once", once),
        policy("twice", twice),
        policy("rates", rates),
        keyed,
        policy("fixed", json!({"mode": "forced_open", "consecutive_failures": 1})),
        json!({"name": "watched", "match": [{"path": {"prefix": "/watched"}}]}),
    ])
}

fn body(answer: &Answer) -> Value {
    assert_eq!(answer.header("content-type"), "application/json", "{answer:?}");
    serde_json::from_str(&answer.text()).unwrap()
}

struct Stage {
    upstream: Upstream,
    edge: Edge,
    clients: Clients,
    control: Clients,
}

impl Stage {
    async fn new() -> Self {
        let upstream = Upstream::start().await;
        let document = policies();
        let routes = [route("a", "/keyed/a", "a"), route("b", "/keyed/b", "b"), patient_route()];
        let listeners = [routed_listener("edge", &routes, &[filter(&document)]), control_listener(&document)];
        let clusters = ["a", "b", UPSTREAM].map(|name| cluster(name, &[upstream.addr()]));
        let edge = Edge::start(config::bootstrap(&listeners, &clusters)).await;
        let clients = edge.clients(Protocol::Http1).await;
        let control = edge.clients_of("control", Protocol::Http1).await;
        Self { upstream, edge, clients, control }
    }

    /// What an operator is told of an order that fails. Envoy ends a connection on which it answered 400.
    async fn order(&self, path: &str) -> (u16, Value) {
        let address = self.edge.envoy.addr("control").await;
        let answer = send_once(address, Protocol::Http1, Request::post(path, "")).await.unwrap();
        (answer.status, body(&answer))
    }

    /// An order that is carried out on so many breakers, whichever worker hears it.
    async fn obeyed(&mut self, path: &str, state: &str, breakers: u64) {
        let policy = path.split('/').nth(2).unwrap().to_owned();
        let expected = json!({"policy": policy, "state": state, "breakers": breakers});
        let answer = self.control.send(Request::post(path, "")).await;
        assert_eq!((answer.status, body(&answer)), (200, expected), "{path}");
    }

    /// Every worker refuses, and nothing reaches the upstream. Returns the longest `Retry-After`.
    async fn refused_by_all(&mut self, path: &str) -> u64 {
        let before = self.upstream.requests();
        let mut longest = 0;
        for worker in 0..WORKERS {
            let answer = self.clients.worker(worker).send(Request::get(path)).await.unwrap();
            assert_eq!(answer.status, 503, "worker {worker}: {answer:?}");
            assert!(answer.header("x-resilience").contains("reason=circuit_open"), "{answer:?}");
            longest = longest.max(answer.header("retry-after").parse().unwrap());
        }
        assert_eq!(self.upstream.requests(), before);
        longest
    }

    /// Every worker lets this answer of the upstream through.
    async fn answered_by_all(&mut self, path: &str, status: u16) {
        let before = self.upstream.requests();
        for _ in 0..WORKERS {
            assert_eq!(self.clients.get(path, &format!("status={status}")).await, status, "{path}");
        }
        assert_eq!(self.upstream.requests(), before + WORKERS);
    }

    async fn forced(&self, policy: &str, to: &str) -> u64 {
        self.edge.transitions(policy, to, "forced").await
    }

    /// The log lines that tell of forced transitions of a policy.
    fn warnings(&self, policy: &str) -> Vec<String> {
        let words = [
            "circuit breaker".to_owned(),
            format!("policy {policy}"),
            "cause=forced".to_owned(),
            "[warning]".to_owned(),
        ];
        let lines = self.edge.envoy.log_lines();
        lines.into_iter().filter(|line| words.iter().all(|word| line.contains(word))).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_that_is_forced_open_refuses_for_the_time_and_then_probes() {
    let mut stage = Stage::new().await;
    stage.answered_by_all("/once", 200).await;
    stage.obeyed("/breakers/once/open?for=1h", "open", 1).await;
    // The rest of what the operator said, not of the policy's own ten minutes.
    let rest = stage.refused_by_all("/once").await;
    assert!((3000..=3600).contains(&rest), "{rest}");
    assert_eq!(stage.edge.state("once").await, Some(2));
    // The last word holds.
    stage.obeyed("/breakers/once/open?for=2s", "open", 1).await;
    let answer = stage.clients.send(Request::get("/once").header("x-behave", "status=200")).await;
    if answer.status == 503 {
        assert!(["1", "2"].contains(&answer.header("retry-after").as_str()), "{answer:?}");
    }
    let over = async || {
        let answer = send_once(stage.edge.address, Protocol::Http1, Request::get("/once")).await.unwrap();
        (answer.status == 200).then_some(())
    };
    eventually("the end of what was forced", PATIENCE, over).await;
    stage.answered_by_all("/once", 200).await;
    assert_eq!(stage.edge.transitions("once", "half_open", "wait_over").await, 1);
    assert_eq!(stage.edge.transitions("once", "closed", "probes").await, 1);
    assert_eq!((stage.forced("once", "open").await, stage.warnings("once").len()), (2, 2));
    assert_eq!(traps(&stage.edge.envoy), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_that_is_forced_closed_counts_nothing_for_the_time() {
    let mut stage = Stage::new().await;
    for (path, order) in [("/twice", "/breakers/twice/closed"), ("/rates", "/breakers/rates/closed")] {
        let policy = &path[1..];
        // One failure short of the trip.
        let (short, trips) = if policy == "twice" { (1, 2) } else { (3, 4) };
        for _ in 0..short {
            assert_eq!(stage.clients.get(path, "status=500").await, 500);
        }
        stage.obeyed(&format!("{order}?for=1h"), "closed", 1).await;
        for _ in 0..4 {
            stage.answered_by_all(path, 500).await;
        }
        stage.obeyed(&format!("{order}?for=1s"), "closed", 1).await;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        // Neither what was counted before nor what failed meanwhile is remembered.
        for _ in 0..trips {
            assert_eq!(stage.clients.get(path, "status=500").await, 500, "{path}");
        }
        assert_eq!(stage.edge.state(policy).await, Some(2), "{path}");
        stage.refused_by_all(path).await;
        let failures = short + 4 * WORKERS as u64 + trips;
        assert_eq!(stage.edge.calls(policy).await, Calls { failure: failures, ..Calls::default() });
        assert_eq!((stage.forced(policy, "closed").await, stage.warnings(policy).len()), (2, 2));
    }
    // What is forced closed may be open before.
    stage.obeyed("/breakers/twice/closed?for=1h", "closed", 1).await;
    stage.answered_by_all("/twice", 500).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_closes_with_nothing_remembered() {
    let mut stage = Stage::new().await;
    for _ in 0..2 {
        assert_eq!(stage.clients.get("/twice", "status=500").await, 500);
    }
    stage.refused_by_all("/twice").await;
    stage.obeyed("/breakers/twice/reset", "closed", 1).await;
    stage.answered_by_all("/twice", 200).await;
    // Of one that is closed, too: the failure before it is forgotten, the next two count.
    assert_eq!(stage.clients.get("/twice", "status=500").await, 500);
    stage.obeyed("/breakers/twice/reset", "closed", 1).await;
    assert_eq!(stage.clients.get("/twice", "status=500").await, 500);
    assert_eq!(stage.edge.transitions("twice", "open", "consecutive_failures").await, 1);
    assert_eq!(stage.clients.get("/twice", "status=500").await, 500);
    stage.refused_by_all("/twice").await;
    assert_eq!(stage.edge.transitions("twice", "open", "consecutive_failures").await, 2);
    assert_eq!((stage.forced("twice", "closed").await, stage.warnings("twice").len()), (2, 2));

    // The outcome of a call from before it is dropped, like any that is late.
    let mut slow = Connection::open(stage.edge.address, Protocol::Http1).await.unwrap();
    stage.obeyed("/breakers/once/reset", "closed", 1).await;
    let late = slow.start(Request::get("/once").header("x-behave", "hang;status=500")).await.unwrap();
    stage.upstream.wait_in_flight(1).await;
    stage.obeyed("/breakers/once/reset", "closed", 1).await;
    stage.upstream.release();
    assert_eq!(late.headers().await.unwrap().status, 500);
    stage.answered_by_all("/once", 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_upstream_cluster_is_forced_by_itself_or_with_all() {
    let mut stage = Stage::new().await;
    // No key is known before its first request.
    assert_eq!(stage.order("/breakers/keyed/reset?key=a").await.0, 404);
    for path in ["/keyed/a", "/keyed/b"] {
        stage.answered_by_all(path, 200).await;
    }
    stage.obeyed("/breakers/keyed/open?for=1h&key=a", "open", 1).await;
    stage.refused_by_all("/keyed/a").await;
    stage.answered_by_all("/keyed/b", 200).await;
    assert!(stage.warnings("keyed")[0].contains("key a"), "{:?}", stage.warnings("keyed"));
    // Both keys and the breaker of those that have none.
    stage.obeyed("/breakers/keyed/open?for=1h", "open", 3).await;
    for path in ["/keyed/a", "/keyed/b"] {
        stage.refused_by_all(path).await;
    }
    stage.obeyed("/breakers/keyed/reset?key=b", "closed", 1).await;
    stage.refused_by_all("/keyed/a").await;
    stage.answered_by_all("/keyed/b", 200).await;
    assert_eq!((stage.forced("keyed", "open").await, stage.forced("keyed", "closed").await), (4, 1));
    let gauge = |key| [("policy", "keyed"), ("key", key)];
    for (key, state) in [("a", 2), ("b", 0), ("_", 2)] {
        stage.edge.wait_count("resilience_circuit_breaker_state", &gauge(key), state).await;
    }
    assert_eq!(stage.order("/breakers/keyed/reset?key=c").await.0, 404);
    assert_eq!(stage.order("/breakers/once/reset?key=a").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_said_and_changes_nothing() {
    let mut stage = Stage::new().await;
    for (path, status, word) in [
        ("/breakers/other/open?for=30s", 404, "no such breaker"),
        ("/", 404, "no such breaker"),
        ("/breakers/once/half_open", 404, "no such breaker"),
        ("/breakers/once/open", 400, "for=<duration>"),
        ("/breakers/once/open?for=30", 400, "for=<duration>"),
        ("/breakers/once/closed?for=25h", 400, "for=<duration>"),
        ("/breakers/once/reset?for=30s", 400, "unknown parameter"),
        ("/breakers/fixed/open?for=30s", 409, "no breaker whose state"),
        ("/breakers/watched/reset", 409, "no breaker whose state"),
    ] {
        let (answered, body) = stage.order(path).await;
        assert_eq!(answered, status, "{path}: {body}");
        assert!(body["error"].as_str().unwrap().contains(word), "{path}: {body}");
    }
    let answer = stage.control.send(Request::get("/breakers/once/open?for=30s")).await;
    assert_eq!((answer.status, answer.header("allow").as_str()), (405, "POST"));
    for path in ["/once", "/watched"] {
        stage.answered_by_all(path, 200).await;
    }
    assert_eq!(stage.edge.count("resilience_circuit_breaker_transitions_total", &[]).await, 0);
    assert_eq!(stage.edge.count("resilience_store_give_ups_total", &[]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_on_the_data_listener_are_ordinary_requests() {
    let mut stage = Stage::new().await;
    for path in ["/breakers/once/open?for=1h", "/breakers/once/reset"] {
        for _ in 0..WORKERS {
            let answer = stage.clients.send(Request::post(path, "")).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "upstream\n"), "{path}");
        }
    }
    assert_eq!(stage.upstream.requests(), 2 * WORKERS);
    stage.answered_by_all("/once", 200).await;
    assert_eq!(stage.edge.count("resilience_circuit_breaker_transitions_total", &[]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn those_that_keep_house_do_not_notice() {
    let mut stage = Stage::new().await;
    // A leader of the data listener shows what nobody has touched.
    stage.edge.wait_count("resilience_circuit_breaker_state", &[("policy", "fixed")], 2).await;
    let mut slow = Connection::open(stage.edge.address, Protocol::Http1).await.unwrap();
    assert_eq!(stage.clients.get("/once", "status=500").await, 500);
    stage.obeyed("/breakers/once/open?for=1s", "open", 1).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let probe = slow.start(Request::get("/once").header("x-behave", "hang")).await.unwrap();
    stage.upstream.wait_in_flight(1).await;
    // Longer than the lease of a worker that nobody hears of, with orders for another policy all the while.
    for _ in 0..12 {
        stage.obeyed("/breakers/twice/open?for=1h", "open", 1).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // The probe still has its place, and the gauges are kept.
    stage.refused_by_all("/once").await;
    for (policy, state) in [("once", 1), ("twice", 2), ("rates", 0), ("fixed", 2)] {
        assert_eq!(stage.edge.state(policy).await, Some(state), "{policy}");
    }
    stage.upstream.release();
    assert_eq!(probe.headers().await.unwrap().status, 200);
    assert_eq!(stage.edge.transitions("once", "closed", "probes").await, 1);
    assert!(!stage.edge.envoy.log_lines().iter().any(|line| line.contains("gave back")));
    assert_eq!(traps(&stage.edge.envoy), Vec::<String>::new());
}
