//! The configuration changes while requests flow: by a replaced listener, whose old self drains beside the new one, and by
//! a discovered filter, which changes under connections that stay.

mod versions;

use resilience_integration_tests::*;
use resilience_test_harness::config;
use resilience_test_harness::*;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const LOADERS: usize = 12;

/// Where the filter's configuration comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Listener,
    Extension,
}

impl Way {
    fn resource(self, document: &Value) -> Value {
        match self {
            Self::Listener => config::listener_resource(patient_listener(filter(document))),
            Self::Extension => config::extension_resource(filter(document)),
        }
    }

    fn bootstrap(self, file: &DynamicFile, upstream: SocketAddr) -> Value {
        match self {
            Self::Listener => config::with_listeners_from(bootstrap(&[], upstream), file.path()),
            Self::Extension => {
                let filter = config::discovered_wasm_filter("resilience", file.path());
                bootstrap(&[patient_listener(filter)], upstream)
            }
        }
    }
}

/// A listener that lets the upstream take all its time.
fn patient_listener(filter: Value) -> Value {
    routed_listener("edge", &[patient_route()], &[filter])
}

/// The configuration before (1) and after (2) the update; later ones are told apart by what `/canary` answers.
fn version(number: u32) -> Value {
    let patient = "60s";
    let mut document = document(&[
        policy("steady", json!({"consecutive_failures": 2})),
        policy("open", json!({"consecutive_failures": 1, "wait_duration_in_open_state": patient})),
        policy(
            "probing",
            json!({
                "consecutive_failures": 1,
                "wait_duration_in_open_state": "100ms",
                "permitted_number_of_calls_in_half_open_state": 1,
                "max_wait_duration_in_half_open_state": patient,
            }),
        ),
        policy(
            "counted",
            json!({
                "failures_in_window": {"failures": if number == 1 { 6 } else { 4 }, "window": patient},
                "wait_duration_in_open_state": patient,
            }),
        ),
    ]);
    if number > 1 {
        document["policies"].as_array_mut().unwrap().push(canary(number));
    }
    document
}

async fn started(bootstrap: Value, drain_seconds: &str) -> Edge {
    Edge::of(envoy(bootstrap).argument("--drain-time-s").argument(drain_seconds)).await
}

/// Clients that never rest: each sends to a healthy upstream and to an open breaker in turn.
struct Load {
    stop: Arc<AtomicBool>,
    healthy: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(address: SocketAddr) -> Self {
        let (stop, healthy) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..LOADERS)
            .map(|number| {
                let protocol = if number % 2 == 0 { Protocol::Http1 } else { Protocol::Http2 };
                tokio::spawn(Self::run(address, protocol, Arc::clone(&stop), Arc::clone(&healthy)))
            })
            .collect();
        Self { stop, healthy, tasks }
    }

    async fn run(address: SocketAddr, protocol: Protocol, stop: Arc<AtomicBool>, healthy: Arc<AtomicUsize>) {
        let mut connection = Connection::open(address, protocol).await.expect("a connection to Envoy");
        while !stop.load(Ordering::Relaxed) {
            let answer = send(&mut connection, address, protocol, "/steady").await;
            assert_eq!((answer.status, answer.text()), (200, "upstream\n".to_owned()));
            healthy.fetch_add(1, Ordering::Relaxed);
            let answer = send(&mut connection, address, protocol, "/open").await;
            assert_eq!(answer.header("x-resilience"), "open;reason=circuit_open;source=none");
        }
    }

    /// Waits for so many more healthy answers.
    async fn more(&self, count: usize) {
        let enough = self.healthy.load(Ordering::Relaxed) + count;
        eventually("more load", PATIENCE, async || {
            assert!(!self.tasks.iter().any(tokio::task::JoinHandle::is_finished), "a client gave up");
            (self.healthy.load(Ordering::Relaxed) >= enough).then_some(())
        })
        .await;
    }

    /// Ends it and returns how many healthy answers there were. Any other answer fails here.
    async fn finish(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("every request got its answer");
        }
        self.healthy.load(Ordering::Relaxed)
    }
}

/// Sends on a connection that Envoy may have asked to close after the answer before; nothing else is forgiven.
async fn send(connection: &mut Connection, address: SocketAddr, protocol: Protocol, path: &str) -> Answer {
    loop {
        match connection.start(Request::get(path)).await {
            Ok(pending) => return pending.headers().await.expect("an answer").finish().await,
            Err(_) => *connection = Connection::open(address, protocol).await.expect("a connection to Envoy"),
        }
    }
}

/// Before an update: a breaker that is open, three failures of six counted, and a breaker whose wait is over.
async fn prepare(clients: &mut Clients) {
    assert_eq!(clients.get("/open", "status=500").await, 500);
    for _ in 0..3 {
        assert_eq!(clients.get("/counted", "status=500").await, 500);
    }
    assert_eq!(clients.get("/probing", "status=500").await, 500);
    tokio::time::sleep(Duration::from_millis(150)).await;
}

async fn an_update_under_load(way: Way) {
    let upstream = Upstream::start().await;
    let scratch = Scratch::new();
    let mut file = DynamicFile::new(scratch.file("discovered.json"), &[way.resource(&version(1))]);
    // While a listener drains, Envoy asks ever more of its connections to close: here hardly any, for old ones are to stay.
    let edge = started(way.bootstrap(&file, upstream.addr()), "86400").await;
    let mut kept = edge.clients(Protocol::Http1).await;

    // Before: beside what is prepared, a probe in flight.
    prepare(&mut kept).await;
    let mut prober = Connection::open(edge.address, Protocol::Http1).await.unwrap();
    let probe = prober.start(Request::get("/probing").header("x-behave", "hang")).await.unwrap();
    upstream.wait_in_flight(1).await;
    assert_eq!(kept.get("/probing", "status=200").await, 503);
    upstream.reset_counts();

    let load = Load::start(edge.address);
    load.more(300).await;
    file.replace(&[way.resource(&version(2))]);
    serves(edge.address, 2).await;
    load.more(300).await;
    let mut fresh = edge.clients(Protocol::Http1).await;

    // Connections that were there before still get answers: of the old configuration where they belong to the old
    // listener, of the new one where only the filter changed.
    for _ in 0..WORKERS {
        let canary = kept.send(Request::get("/canary")).await;
        let new = way == Way::Extension;
        assert_eq!((canary.status, canary.text() == "2"), (200, new));
    }
    for clients in [&mut kept, &mut fresh] {
        for _ in 0..WORKERS {
            assert_eq!(clients.get("/open", "status=200").await, 503);
            assert_eq!(clients.get("/probing", "status=200").await, 503);
        }
    }
    assert_eq!(upstream.requests_to("/open"), 0);

    // Three failures from before and one from after are the four of the new configuration.
    assert_eq!(edge.transitions("counted", "open", "failures_in_window").await, 0);
    assert_eq!(fresh.get("/counted", "status=500").await, 500);
    assert_eq!(edge.transitions("counted", "open", "failures_in_window").await, 1);
    for clients in [&mut kept, &mut fresh] {
        assert_eq!(clients.get("/counted", "status=200").await, 503);
    }
    assert_eq!(upstream.requests_to("/counted"), 1);

    // The probe of before decides for all.
    assert_eq!(upstream.requests_to("/probing"), 0);
    upstream.release();
    assert_eq!(probe.headers().await.unwrap().status, 200);
    assert_eq!(edge.transitions("probing", "closed", "probes").await, 1);
    for clients in [&mut kept, &mut fresh] {
        for _ in 0..WORKERS {
            assert_eq!(clients.get("/probing", "status=200").await, 200);
        }
    }

    load.more(300).await;
    let healthy = load.finish().await;
    assert_eq!(upstream.requests_to("/steady"), healthy);
    edge.wait_calls("steady", Calls { success: healthy as u64, ..Calls::default() }).await;
    assert_eq!(edge.calls("counted").await, Calls { failure: 4, ..Calls::default() });
    assert_eq!(
        edge.calls("probing").await,
        Calls { success: 1 + 2 * WORKERS as u64, failure: 1, ignored: 0 }
    );
    // open, counted and probing opened once each; probing was half-open and closed. Nothing was reset on the way.
    assert_eq!(edge.count("resilience_circuit_breaker_transitions_total", &[]).await, 5);
    for (policy, state) in [("steady", 0), ("open", 2), ("probing", 0), ("counted", 2)] {
        assert_eq!(edge.state(policy).await, Some(state), "{policy}");
    }
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_listener_fails_no_request_and_keeps_what_was_counted() {
    an_update_under_load(Way::Listener).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discovered_filter_fails_no_request_and_keeps_what_was_counted() {
    an_update_under_load(Way::Extension).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_in_a_row_fail_no_request() {
    for way in [Way::Extension, Way::Listener] {
        let upstream = Upstream::start().await;
        let scratch = Scratch::new();
        let mut file = DynamicFile::new(scratch.file("discovered.json"), &[way.resource(&version(1))]);
        let edge = Edge::start(way.bootstrap(&file, upstream.addr())).await;
        assert_eq!(edge.clients(Protocol::Http1).await.get("/open", "status=500").await, 500);
        let load = Load::start(edge.address);
        for number in 2..=6 {
            file.replace(&[way.resource(&version(number))]);
            serves(edge.address, number).await;
            load.more(30).await;
        }
        let healthy = load.finish().await;
        assert_eq!((upstream.requests_to("/steady"), upstream.requests_to("/open")), (healthy, 1), "{way:?}");
        assert_eq!(edge.count("resilience_circuit_breaker_transitions_total", &[]).await, 1, "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_drains_resets_nothing_and_gives_back_what_it_held() {
    let upstream = Upstream::start().await;
    let scratch = Scratch::new();
    let way = Way::Listener;
    let mut file = DynamicFile::new(scratch.file("discovered.json"), &[way.resource(&version(1))]);
    let edge = started(way.bootstrap(&file, upstream.addr()), "1").await;
    let mut kept = edge.clients(Protocol::Http1).await;
    prepare(&mut kept).await;
    let probe = kept.next_worker().start(Request::get("/probing").header("x-behave", "hang")).await.unwrap();
    upstream.wait_in_flight(1).await;

    file.replace(&[way.resource(&version(2))]);
    serves(edge.address, 2).await;
    let mut fresh = edge.clients(Protocol::Http1).await;
    assert_eq!(fresh.get("/probing", "status=200").await, 503);
    // The old listener ends, and with it its connections, the probe on one of them, and its root contexts.
    edge.envoy.wait_stat("listener_manager.total_listeners_draining", |draining| draining == 0).await;
    assert!(probe.headers().await.is_err());
    upstream.wait_in_flight(0).await;
    edge.wait_calls("probing", Calls { failure: 1, ignored: 1, ..Calls::default() }).await;

    upstream.reset_counts();
    for _ in 0..WORKERS {
        assert_eq!(fresh.get("/open", "status=200").await, 503);
    }
    assert_eq!(fresh.get("/counted", "status=200").await, 200);
    assert_eq!(fresh.get("/counted", "status=500").await, 500);
    assert_eq!(edge.transitions("counted", "open", "failures_in_window").await, 1);
    // The place of the probe that ended with its connection is free at once, not after a lease.
    assert_eq!(fresh.get("/probing", "status=200").await, 200);
    assert_eq!(edge.transitions("probing", "closed", "probes").await, 1);
    assert_eq!((upstream.requests_to("/open"), upstream.requests_to("/probing")), (0, 1));
    assert_eq!(edge.count("resilience_circuit_breaker_transitions_total", &[]).await, 5);
    assert!(!edge.envoy.log_lines().iter().any(|line| line.contains("gave back")));

    // Somebody still keeps the gauge: the new configuration has a leader of its own.
    edge.wait_count("resilience_circuit_breaker_state", &[("policy", "canary")], 2).await;
}
