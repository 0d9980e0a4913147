//! What Prometheus sees: the names, types and labels that the interface promises, and numbers that are what clients saw.

use resilience_integration_tests::*;
use resilience_test_harness::config::direct_response;
use resilience_test_harness::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A VM's tick; the state gauge is at most two of them late.
const TICK: Duration = Duration::from_millis(500);

/// As [`Edge::before`], with an upstream that may take all its time, and a path that Envoy answers itself.
async fn edge(upstream: SocketAddr, policies: &[Value]) -> Edge {
    let own = direct_response("own", "/mixed/own", 500, "Envoy's own");
    Edge::routed(upstream, &[own, patient_route()], &[filter(&document(policies))]).await
}

/// The samples of one of our metrics, as `label=value,...` and number.
fn samples(metrics: &Metrics, name: &str) -> BTreeMap<String, u64> {
    let line = |labels: &BTreeMap<String, String>| {
        labels.iter().map(|(label, value)| format!("{label}={value}")).collect::<Vec<_>>().join(",")
    };
    metrics.of(name).map(|(labels, value)| (line(labels), value as u64)).collect()
}

fn expected(samples: &[(&str, u64)]) -> BTreeMap<String, u64> {
    samples.iter().map(|(labels, value)| ((*labels).to_owned(), *value)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn names_types_and_labels_are_those_of_the_interface() {
    let upstream = Upstream::start().await;
    let fragile = |wait: &str| {
        json!({
            "consecutive_failures": 1,
            "wait_duration_in_open_state": wait,
            "permitted_number_of_calls_in_half_open_state": 1,
            "max_wait_duration_in_half_open_state": "200ms",
        })
    };
    let mut with_fallback = policy("fallback", fragile("60s"));
    with_fallback["fallback"] = json!([{"on": ["refusal"], "static": {"status": 200, "text": ""}}]);
    let mut shadow = policy("shadow", fragile("60s"));
    shadow["mode"] = "shadow".into();
    let forced = json!({"mode": "forced_open", "consecutive_failures": 1});
    let mut shadow_forced = policy("shadow-forced", forced.clone());
    shadow_forced["mode"] = "shadow".into();
    let policies = [
        policy("plain", fragile("100ms")),
        with_fallback,
        shadow,
        policy("forced", forced),
        shadow_forced,
        policy("window", json!({"failures_in_window": {"failures": 2, "window": "60s"}})),
        policy("idle", fragile("60s")),
        json!({"name": "watched", "match": [{"path": {"prefix": "/watched"}}]}),
    ];
    let edge = edge(upstream.addr(), &policies).await;
    let mut clients = edge.clients(Protocol::Http1).await;
    let wait_is_over = || tokio::time::sleep(Duration::from_millis(150));

    // plain: opens, fails a probe, leaves one unanswered too long, closes by one.
    assert_eq!(clients.get("/plain", "status=500").await, 500);
    assert_eq!(clients.get("/plain", "status=200").await, 503);
    wait_is_over().await;
    assert_eq!(clients.get("/plain", "status=500").await, 500);
    wait_is_over().await;
    let hang = Request::get("/plain").header("x-behave", "hang");
    let mut slow = Connection::open(edge.address, Protocol::Http1).await.unwrap();
    let late = slow.start(hang).await.unwrap();
    upstream.wait_in_flight(1).await;
    let overstayed = [("policy", "plain"), ("to", "open"), ("cause", "half_open_timeout")];
    edge.wait_count("resilience_circuit_breaker_transitions_total", &overstayed, 1).await;
    upstream.release();
    assert_eq!(late.headers().await.unwrap().status, 200);
    wait_is_over().await;
    assert_eq!(clients.get("/plain", "status=200").await, 200);

    assert_eq!(clients.get("/fallback", "status=500").await, 500);
    for _ in 0..3 {
        assert_eq!(clients.get("/fallback", "status=500").await, 200);
    }
    assert_eq!(clients.get("/shadow", "status=500").await, 500);
    for _ in 0..2 {
        assert_eq!(clients.get("/shadow", "status=200").await, 200);
        assert_eq!(clients.get("/shadow-forced", "status=200").await, 200);
    }
    assert_eq!(clients.get("/forced", "status=200").await, 503);
    for _ in 0..2 {
        assert_eq!(clients.get("/window", "status=500").await, 500);
    }
    assert_eq!(clients.get("/watched", "status=500").await, 500);
    edge.wait_count("resilience_circuit_breaker_state", &[("policy", "forced")], 2).await;
    edge.wait_calls("shadow-forced", Calls { success: 2, ..Calls::default() }).await;
    edge.wait_calls("shadow", Calls { success: 2, failure: 1, ignored: 0 }).await;
    edge.wait_calls("plain", Calls { success: 2, failure: 2, ignored: 0 }).await;

    let text = edge.envoy.get("/stats/prometheus").await.body;
    let mut types: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .filter(|(name, _)| name.contains("resilience_") && !name.starts_with("envoy_wasm_"))
        .collect();
    // These are there only if they happened.
    for rare in ["resilience_store_conflicts_total", "resilience_store_give_ups_total"] {
        assert!(types.remove(rare).is_none_or(|kind| kind == "counter"), "{rare}");
    }
    // Not of the interface: how workers tell each other that state has changed.
    assert_eq!(types.remove("resilience_store_changes_total"), Some("counter"));
    let promised = [
        ("resilience_calls_total", "counter"),
        ("resilience_circuit_breaker_state", "gauge"),
        ("resilience_circuit_breaker_transitions_total", "counter"),
        ("resilience_fallbacks_total", "counter"),
        ("resilience_rejections_total", "counter"),
        ("resilience_shadow_decisions_total", "counter"),
    ];
    assert_eq!(types, promised.into_iter().collect());

    let metrics = edge.envoy.prometheus().await;
    let of = |name: &str| samples(&metrics, name);
    assert_eq!(
        of("resilience_calls_total"),
        expected(&[
            ("outcome=failure,policy=fallback,slow=false", 1),
            ("outcome=failure,policy=plain,slow=false", 2),
            ("outcome=failure,policy=shadow,slow=false", 1),
            ("outcome=failure,policy=watched,slow=false", 1),
            ("outcome=failure,policy=window,slow=false", 2),
            ("outcome=success,policy=plain,slow=false", 2),
            ("outcome=success,policy=shadow,slow=false", 2),
            ("outcome=success,policy=shadow-forced,slow=false", 2),
        ])
    );
    assert_eq!(
        of("resilience_circuit_breaker_state"),
        expected(&[
            ("key=_,policy=fallback", 2),
            ("key=_,policy=forced", 2),
            ("key=_,policy=idle", 0),
            ("key=_,policy=plain", 0),
            ("key=_,policy=shadow", 2),
            ("key=_,policy=shadow-forced", 2),
            ("key=_,policy=window", 2),
        ])
    );
    assert_eq!(
        of("resilience_circuit_breaker_transitions_total"),
        expected(&[
            ("cause=consecutive_failures,policy=fallback,to=open", 1),
            ("cause=consecutive_failures,policy=plain,to=open", 1),
            ("cause=consecutive_failures,policy=shadow,to=open", 1),
            ("cause=failures_in_window,policy=window,to=open", 1),
            ("cause=half_open_timeout,policy=plain,to=open", 1),
            ("cause=probes,policy=plain,to=closed", 1),
            ("cause=probes,policy=plain,to=open", 1),
            ("cause=wait_over,policy=plain,to=half_open", 3),
        ])
    );
    assert_eq!(
        of("resilience_rejections_total"),
        expected(&[
            ("class=_,policy=fallback,reason=circuit_open", 3),
            ("class=_,policy=forced,reason=circuit_open", 1),
            ("class=_,policy=plain,reason=circuit_open", 1),
        ])
    );
    let fallbacks = [("policy=fallback,reason=circuit_open,source=static", 3)];
    assert_eq!(of("resilience_fallbacks_total"), expected(&fallbacks));
    let shadows = [("policy=shadow,reason=circuit_open", 2), ("policy=shadow-forced,reason=circuit_open", 2)];
    assert_eq!(of("resilience_shadow_decisions_total"), expected(&shadows));
    let operations = ["admit", "record", "hand_back", "heartbeat", "maintain", "force", "keys", "lease"];
    for rare in ["resilience_store_conflicts_total", "resilience_store_give_ups_total"] {
        for labels in of(rare).keys() {
            let operation = labels.strip_prefix("operation=");
            assert!(operation.is_some_and(|name| operations.contains(&name)), "{rare} {labels}");
        }
    }
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
