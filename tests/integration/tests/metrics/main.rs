//! What Prometheus sees: the names, types and labels that the interface promises, and numbers that are what clients saw.

mod bounded;
mod death;
mod generation;
mod outages;
mod play;
mod scenario;

use resilience_integration_tests::*;
use resilience_test_harness::config::direct_response;
use resilience_test_harness::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A VM's tick; the state gauge is at most two of them late.
const TICK: Duration = Duration::from_millis(500);
/// Longer than any test takes.
const FOR_EVER: &str = "10m";

const TRANSITIONS: &str = "resilience_circuit_breaker_transitions_total";

/// Names without what they all begin with, as [`Series`] has them.
const CALLS: &str = "calls_total";
const REJECTIONS: &str = "rejections_total";
const PROBES: &str = "circuit_breaker_probes_total";
const OPEN: &str = "circuit_breaker_open_milliseconds_total";
const RECOVERY: &str = "circuit_breaker_recovery_milliseconds";
const WAITED: &str = "bulkhead_wait_milliseconds";
const RETRIES: &str = "retries_total";
const BALANCE: &str = "retry_budget_balance";
const SHADOW: &str = "shadow_decisions_total";

/// Upstream clusters of three names: the paths to them, what their keys are called in labels, and they themselves. The second
/// one would end the label, the value or the line, and is no ASCII; for the third there is no key.
const KEYS: [(&str, &str, &str); 3] = [
    ("/keyed/a", "outbound|80|v1|shop.prod.svc", "outbound|80|v1|shop.prod.svc"),
    ("/keyed/b", r#"b_policy_shut_reason_"x"\__{}_,"#, "b;policy=shut;reason=\"x\"\\ \u{fc}{}=,"),
    ("/keyed/c", "", "c"),
];

fn calls_of<'a>(policy: &'a str, outcome: &'a str, slow: bool) -> [(&'a str, &'a str); 3] {
    [("policy", policy), ("outcome", outcome), ("slow", if slow { "true" } else { "false" })]
}

/// Waits until so much time has passed since something has happened for certain.
async fn pass_since(moment: Moment, wait: Duration) {
    let rest = wait.saturating_sub(moment.elapsed());
    pass(Instant::now(), rest).await;
}

/// As [`Edge::before`], with an upstream that may take all its time, and a path that Envoy answers itself.
async fn edge(upstream: SocketAddr, policies: &[Value]) -> Edge {
    let own = direct_response("own", "/mixed/own", 500, "Envoy's own");
    Edge::routed(upstream, &[own, patient_route()], &[filter(&document(policies))]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gauge_follows_each_transition_and_time_itself() {
    let upstream = Upstream::start().await;
    let breaker = json!({
        "consecutive_failures": 1,
        "wait_duration_in_open_state": "200ms",
        "permitted_number_of_calls_in_half_open_state": 1,
        "max_wait_duration_in_half_open_state": "1s",
    });
    let edge = edge(upstream.addr(), &[policy("p", breaker)]).await;
    let mut clients = edge.clients(Protocol::Http1).await;
    let state = async || edge.state("p").await;
    // Nothing has happened yet, and that shows.
    let started = Instant::now();
    while state().await != Some(0) {
        assert!(started.elapsed() < PATIENCE, "no gauge");
    }
    for worker in 0..WORKERS {
        let ask = |words: &str| Request::get("/p").header("x-behave", words);
        assert_eq!(clients.worker(worker).send(ask("status=500")).await.unwrap().status, 500);
        assert_eq!(state().await, Some(2), "worker {worker}");
        tokio::time::sleep(Duration::from_millis(250)).await;
        // A wait that is over ends with the next request, not by itself.
        assert_eq!(state().await, Some(2), "worker {worker}");
        let probe = clients.worker(worker).start(ask("hang")).await.unwrap();
        upstream.wait_in_flight(1).await;
        assert_eq!(state().await, Some(1), "worker {worker}");
        upstream.release();
        // Read to its end: a connection whose answer is dropped half read is closed.
        assert_eq!(probe.headers().await.unwrap().finish().await.status, 200);
        assert_eq!(state().await, Some(0), "worker {worker}");
        upstream.wait_in_flight(0).await;
    }
    // The bounded stay ends although nobody asks.
    assert_eq!(clients.get("/p", "status=500").await, 500);
    tokio::time::sleep(Duration::from_millis(250)).await;
    let began = Instant::now();
    let _probe = clients.worker(0).start(Request::get("/p").header("x-behave", "hang")).await.unwrap();
    upstream.wait_in_flight(1).await;
    assert_eq!(state().await, Some(1));
    edge.wait_count("resilience_circuit_breaker_state", &[("policy", "p")], 2).await;
    let stayed = began.elapsed();
    let stay = Duration::from_secs(1);
    // One tick more than it may take, for a machine that is busy with other tests.
    assert!((stay..stay + 3 * TICK).contains(&stayed), "half-open for {stayed:?}");
    assert_eq!(edge.transitions("p", "open", "half_open_timeout").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_what_clients_saw() {
    let upstream = Upstream::start().await;
    let mut tripping = policy(
        "tripping",
        json!({"failures_in_window": {"failures": 50, "window": "60s"}, "wait_duration_in_open_state": "60s"}),
    );
    tripping["fallback"] = json!([{"on": ["refusal"], "static": {"status": 200, "text": "fallback"}}]);
    let policies = [
        policy("mixed", json!({"consecutive_failures": 1_000_000})),
        policy("row", json!({"consecutive_failures": 1500, "wait_duration_in_open_state": "60s"})),
        tripping,
    ];
    let edge = edge(upstream.addr(), &policies).await;
    let ask = |path: &str, words: &str| Request::get(path).header("x-behave", words);

    // Every outcome, by two protocols, over connections that all workers share.
    let mut seen: BTreeMap<u16, u64> = BTreeMap::new();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let answers = burst(edge.address, protocol, 800, 32, |number| match number % 4 {
            0 => ask("/mixed", "status=200"),
            1 => ask("/mixed", "status=503"),
            2 => ask("/mixed", "status=404"),
            _ => ask("/mixed/own", "status=200"),
        });
        for answer in answers.await {
            *seen.entry(answer.unwrap().status).or_default() += 1;
        }
    }
    assert_eq!(seen, [(200, 400), (404, 400), (500, 400), (503, 400)].into());
    assert_eq!(upstream.requests_to("/mixed"), 1200);
    edge.wait_calls("mixed", Calls { success: 800, failure: 400, ignored: 400 }).await;

    // Failures of all workers at once: whoever writes last must not undo what another has written.
    let answers = burst(edge.address, Protocol::Http1, 1499, 32, |_| ask("/row", "status=500")).await;
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer.status == 500)));
    edge.wait_calls("row", Calls { failure: 1499, ..Calls::default() }).await;
    assert_eq!(edge.count("resilience_circuit_breaker_transitions_total", &[]).await, 0);
    assert_eq!(
        send_once(edge.address, Protocol::Http1, ask("/row", "status=500")).await.unwrap().status,
        500
    );
    assert_eq!(edge.transitions("row", "open", "consecutive_failures").await, 1);

    // A trip in the midst of it: each request is either a call or a refusal, and each refusal is a fallback here.
    let answers = burst(edge.address, Protocol::Http1, 600, 32, |_| ask("/tripping", "status=500")).await;
    let answers: Vec<Answer> = answers.into_iter().map(Result::unwrap).collect();
    let fallbacks = answers.iter().filter(|answer| answer.text() == "fallback").count();
    let failures = answers.iter().filter(|answer| answer.status == 500).count();
    assert_eq!(fallbacks + failures, 600);
    // All connections but one may have had a call in flight when the fiftieth failed.
    assert!((50..50 + 32).contains(&failures), "{failures} failures");
    assert_eq!(upstream.requests_to("/tripping"), failures);
    let refused = [("policy", "tripping"), ("reason", "circuit_open"), ("class", "_")];
    assert_eq!(edge.count("resilience_rejections_total", &refused).await, fallbacks as u64);
    let fallen = [("policy", "tripping"), ("reason", "circuit_open"), ("source", "static")];
    assert_eq!(edge.count("resilience_fallbacks_total", &fallen).await, fallbacks as u64);
    edge.wait_calls("tripping", Calls { failure: failures as u64, ..Calls::default() }).await;
    assert_eq!(edge.transitions("tripping", "open", "failures_in_window").await, 1);

    let policies: BTreeSet<String> = edge
        .envoy
        .prometheus()
        .await
        .of("resilience_calls_total")
        .map(|(labels, _)| labels["policy"].clone())
        .collect();
    assert_eq!(policies, ["mixed", "row", "tripping"].map(str::to_owned).into());
    assert_eq!(edge.count("resilience_store_give_ups_total", &[]).await, 0);
}
