//! The module itself is upgraded and rolled back while requests flow. The other version reads and writes the breaker's own
//! section as ours does, and holds the sections of rates and of recovery for those of a stranger.

use super::*;
use std::path::PathBuf;

/// Which module serves, told apart by what `/canary` answers.
#[derive(Debug, Clone, Copy)]
enum Version {
    /// Ours, before the upgrade.
    Before,
    /// The other one.
    Other,
    /// Ours again.
    Back,
}

impl Version {
    const fn number(self) -> u32 {
        match self {
            Self::Before => 2,
            Self::Other => 3,
            Self::Back => 4,
        }
    }

    fn module(self) -> PathBuf {
        match self {
            Self::Before | Self::Back => module(),
            Self::Other => test_module("resilience_other_version"),
        }
    }

    fn document(self) -> Value {
        let patient = "10m";
        let mut document = version(self.number());
        let probing = |name| {
            policy(
                name,
                json!({
                    "consecutive_failures": 1,
                    "wait_duration_in_open_state": "100ms",
                    "permitted_number_of_calls_in_half_open_state": 1,
                    "max_wait_duration_in_half_open_state": patient,
                }),
            )
        };
        // Half of ten failed calls trip.
        let rates = policy(
            "rates",
            json!({
                "failure_rate_threshold": 50,
                "sliding_window_size": 10,
                "minimum_number_of_calls": 10,
                "wait_duration_in_open_state": patient,
            }),
        );
        // The second wait is far longer than the first.
        let growing = policy(
            "growing",
            json!({
                "consecutive_failures": 1,
                "wait_duration_in_open_state": "1s",
                "permitted_number_of_calls_in_half_open_state": 1,
                "wait_duration_growth": {"multiplier": 100, "max": "1h"},
            }),
        );
        let policies = document["policies"].as_array_mut().unwrap();
        policies.extend([probing("later"), rates, growing]);
        document
    }

    fn resource(self, way: Way) -> Value {
        let filter = config::resilience_filter(&self.module(), "resilience", &self.document().to_string());
        match way {
            Way::Listener => config::listener_resource(patient_listener(filter)),
            Way::Extension => config::extension_resource(filter),
        }
    }
}

/// What a refusal of the open breaker says of the rest of its wait, in seconds.
async fn rest_of_wait(clients: &mut Clients, path: &str) -> u64 {
    let answer = clients.send(Request::get(path)).await;
    assert_eq!(answer.status, 503, "{path}: {answer:?}");
    answer.header("retry-after").parse().unwrap()
}

/// Fails so many calls, all of which reach the upstream.
async fn fail(clients: &mut Clients, path: &str, times: usize) {
    for _ in 0..times {
        assert_eq!(clients.get(path, "status=500").await, 500, "{path}");
    }
}

/// A probe in flight, on a connection of its own.
async fn probe(edge: &Edge, upstream: &Upstream, path: &str) -> (Connection, Pending) {
    let before = upstream.in_flight();
    let mut connection = Connection::open(edge.address, Protocol::Http1).await.unwrap();
    let pending = connection.start(Request::get(path).header("x-behave", "hang")).await.unwrap();
    upstream.wait_in_flight(before + 1).await;
    (connection, pending)
}

/// Has `path` fail, and its wait pass.
async fn wait_over(clients: &mut Clients, path: &str) {
    fail(clients, path, 1).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
}

/// What the log says of a policy's breaker.
fn transitions(edge: &Edge, policy: &str) -> Vec<String> {
    let of = |line: &String| {
        let (_, words) = line.split_once(&format!("policy {policy}: circuit breaker "))?;
        Some(words.split_once(" cause=")?.0.to_owned())
    };
    edge.envoy.log_lines().iter().filter_map(of).collect()
}

async fn an_upgrade_and_a_rollback_under_load(way: Way) {
    let upstream = Upstream::start().await;
    let scratch = Scratch::new();
    let mut file = DynamicFile::new(scratch.file("discovered.json"), &[Version::Before.resource(way)]);
    let edge = started(way.bootstrap(&file, upstream.addr()), "86400").await;
    serves(edge.address, Version::Before.number()).await;
    let mut clients = edge.clients(Protocol::Http1).await;

    // Ours: an open breaker, a probe in flight, five failures of ten, a breaker that has tripped once.
    fail(&mut clients, "/open", 1).await;
    let mut last = rest_of_wait(&mut clients, "/open").await;
    wait_over(&mut clients, "/probing").await;
    let (_kept, early) = probe(&edge, &upstream, "/probing").await;
    fail(&mut clients, "/rates", 5).await;
    fail(&mut clients, "/growing", 1).await;
    let tripped = std::time::Instant::now();
    let load = Load::start(edge.address);
    load.more(100).await;

    let mut late = None;
    for version in [Version::Other, Version::Back] {
        upstream.reset_counts();
        file.replace(&[version.resource(way)]);
        serves(edge.address, version.number()).await;
        load.more(100).await;
        let mut clients = edge.clients(Protocol::Http1).await;

        // Open until the same moment: the rest goes on falling.
        let began = last;
        eventually("a shorter rest of the wait", PATIENCE, async || {
            last = rest_of_wait(&mut clients, "/open").await;
            assert!(last <= began, "{last} s after {began} s: {version:?}");
            (last < began).then_some(())
        })
        .await;
        assert_eq!(upstream.requests_to("/open"), 0, "{version:?}");

        // The probe in flight keeps its place.
        for _ in 0..WORKERS {
            assert_eq!(clients.get("/probing", "status=200").await, 503, "{version:?}");
        }
        assert_eq!(upstream.requests_to("/probing"), 0, "{version:?}");

        match version {
            Version::Before => {}
            Version::Other => {
                // A fresh window, in which five failures from before would trip with the fifth.
                fail(&mut clients, "/rates", 9).await;
                wait_over(&mut clients, "/later").await;
                late = Some(probe(&edge, &upstream, "/later").await);
            }
            Version::Back => {
                for _ in 0..WORKERS {
                    assert_eq!(clients.get("/later", "status=200").await, 503);
                }
                // The window of before has its five failures still.
                fail(&mut clients, "/rates", 4).await;
                assert_eq!(edge.transitions("rates", "open", "failure_rate_threshold").await, 0);
                fail(&mut clients, "/rates", 1).await;
                assert_eq!(edge.transitions("rates", "open", "failure_rate_threshold").await, 1);
                assert_eq!(clients.get("/rates", "status=200").await, 503);
                // And the wait that has grown by one trip grows from there.
                pass(tripped, Duration::from_secs(1)).await;
                fail(&mut clients, "/growing", 1).await;
                assert!(rest_of_wait(&mut clients, "/growing").await > 50);
            }
        }
    }

    // Each probe decides for all, whichever module let it in. A module that goes takes its counters with it, so the log
    // tells how often.
    let (_connection, late) = late.unwrap();
    upstream.release();
    let mut clients = edge.clients(Protocol::Http1).await;
    for (policy, probe) in [("probing", early), ("later", late)] {
        assert_eq!(probe.headers().await.unwrap().status, 200, "{policy}");
        for _ in 0..WORKERS {
            assert_eq!(clients.get(&format!("/{policy}"), "status=200").await, 200, "{policy}");
        }
        let labels = [("policy", policy), ("key", "_")];
        edge.wait_count("resilience_circuit_breaker_state", &labels, 0).await;
        assert_eq!(
            transitions(&edge, policy),
            ["closed -> open", "open -> half_open", "half_open -> closed"]
        );
    }
    load.more(100).await;
    load.finish().await;
    assert_eq!(transitions(&edge, "open"), ["closed -> open"]);
    assert!(!edge.envoy.log_lines().iter().any(|line| line.contains("gave back")));
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_listener_brings_another_version_and_takes_it_back() {
    an_upgrade_and_a_rollback_under_load(Way::Listener).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discovered_filter_brings_another_version_and_takes_it_back() {
    an_upgrade_and_a_rollback_under_load(Way::Extension).await;
}
