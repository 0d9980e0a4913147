//! What an update takes out of service leaves nothing behind: no breaker that is shown open for ever, and no timer that
//! wakes workers for a configuration that is gone.

use resilience_integration_tests::*;
use resilience_test_harness::config::{self, cluster, connection_manager, route, virtual_host};
use resilience_test_harness::*;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

/// Housekeeping is done twice a second; this is a few times.
const A_FEW_TICKS: Duration = Duration::from_secs(5);

/// Where the filter's configuration comes from.
#[derive(Debug, Clone, Copy)]
enum Way {
    Listener,
    Extension,
}

impl Way {
    fn listener(filter: Value) -> Value {
        let host = virtual_host("all", &[route(UPSTREAM, "/", UPSTREAM)]);
        listener("edge", connection_manager(&[host], &[filter]))
    }

    fn resource(self, document: &Value) -> Value {
        match self {
            Self::Listener => config::listener_resource(Self::listener(filter(document))),
            Self::Extension => config::extension_resource(filter(document)),
        }
    }

    fn bootstrap(self, file: &DynamicFile, upstream: SocketAddr) -> Value {
        let clusters = [cluster(UPSTREAM, &[upstream])];
        match self {
            Self::Listener => config::with_listeners_from(config::bootstrap(&[], &clusters), file.path()),
            Self::Extension => {
                let filter = config::discovered_wasm_filter("resilience", file.path());
                config::bootstrap(&[Self::listener(filter)], &clusters)
            }
        }
    }
}

/// A replaced listener goes after one second instead of ten minutes.
async fn started(bootstrap: Value) -> Edge {
    let envoy = envoy(bootstrap).argument("--drain-time-s").argument("1").start().await;
    let address = envoy.addr("edge").await;
    Edge { envoy, address }
}

/// A policy that only says which version of the document a worker has.
fn canary(number: usize) -> Value {
    let mut canary = policy("canary", json!({"mode": "forced_open", "consecutive_failures": 1}));
    canary["fallback"] = json!([{"static": {"status": 200, "text": number.to_string()}}]);
    canary
}

async fn serves(address: SocketAddr, number: usize) {
    eventually("the new configuration on every worker", PATIENCE, async || {
        let answers = burst(address, Protocol::Http1, 24, 24, |_| Request::get("/canary")).await;
        answers
            .iter()
            .all(|answer| answer.as_ref().is_ok_and(|it| it.text() == number.to_string()))
            .then_some(())
    })
    .await;
}

/// Nobody guards by it any more, so it is no open breaker to an operator either, whose alert would never end.
async fn a_breaker_that_is_switched_off_is_shown_closed(way: Way) {
    let fragile =
        |name| policy(name, json!({"consecutive_failures": 1, "wait_duration_in_open_state": "10m"}));
    let before = document(&[fragile("breaker-off"), fragile("policy-off"), fragile("stays"), canary(1)]);
    let mut after = before.clone();
    after["policies"][0]["circuit_breaker"]["mode"] = "disabled".into();
    after["policies"][1]["mode"] = "disabled".into();
    after["policies"][3] = canary(2);

    let upstream = Upstream::start().await;
    let scratch = Scratch::new();
    let mut file = DynamicFile::new(scratch.file("discovered.json"), &[way.resource(&before)]);
    let edge = started(way.bootstrap(&file, upstream.addr())).await;
    let mut clients = edge.clients(Protocol::Http1).await;
    for policy in ["breaker-off", "policy-off", "stays"] {
        let path = format!("/{policy}");
        assert_eq!(clients.get(&path, "status=500").await, 500);
        assert_eq!(clients.get(&path, "status=200").await, 503);
        assert_eq!((edge.state(policy).await, upstream.requests_to(&path)), (Some(2), 1), "{policy}");
    }
    drop(clients);

    file.replace(&[way.resource(&after)]);
    serves(edge.address, 2).await;
    edge.envoy.wait_stat("listener_manager.total_listeners_draining", |draining| draining == 0).await;
    for policy in ["breaker-off", "policy-off"] {
        let closed = async || (edge.state(policy).await == Some(0)).then_some(());
        eventually(&format!("{policy} shown closed after a {way:?} update"), A_FEW_TICKS, closed).await;
    }
    upstream.reset_counts();
    let mut clients = edge.clients(Protocol::Http1).await;
    for path in ["/breaker-off", "/policy-off"] {
        // Failures too: nothing opens any more.
        for status in [500, 500, 200] {
            for _ in 0..WORKERS {
                assert_eq!(clients.get(path, &format!("status={status}")).await, status);
            }
        }
        assert_eq!(upstream.requests_to(path), 3 * WORKERS);
    }
    // The one beside them is as it was, and by now somebody has shown them all again.
    edge.wait_count("resilience_circuit_breaker_state", &[("policy", "canary")], 2).await;
    assert_eq!(clients.get("/stays", "status=200").await, 503);
    for (policy, state) in [("breaker-off", 0), ("policy-off", 0), ("stays", 2)] {
        assert_eq!(edge.state(policy).await, Some(state), "{policy}");
    }
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_that_a_replaced_listener_switched_off_is_shown_closed() {
    a_breaker_that_is_switched_off_is_shown_closed(Way::Listener).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_that_a_discovered_filter_switched_off_is_shown_closed() {
    a_breaker_that_is_switched_off_is_shown_closed(Way::Extension).await;
}

/// How often the event loops of all workers turn in three idle seconds.
async fn turns(envoy: &Envoy) -> u64 {
    let so_far = async || {
        // A question makes the workers hand over what they counted, and is answered before they have.
        for _ in 0..2 {
            envoy.get("/stats?filter=dispatcher").await;
        }
        let name = "envoy_listener_manager_worker_dispatcher_loop_duration_us_count";
        envoy.prometheus().await.sum(name, &[]) as u64
    };
    let before = so_far().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    so_far().await - before
}

/// Envoy arms the timer of a root again even when the root is gone, so each update could leave one on every worker.
#[tokio::test(flavor = "multi_thread")]
async fn thirty_updates_leave_no_timer_behind() {
    const UPDATES: usize = 30;
    let version = |number| document(&[policy("steady", json!({"consecutive_failures": 2})), canary(number)]);
    let way = Way::Listener;
    let upstream = Upstream::start().await;
    let scratch = Scratch::new();
    let mut file = DynamicFile::new(scratch.file("discovered.json"), &[way.resource(&version(0))]);
    let mut bootstrap = way.bootstrap(&file, upstream.addr());
    bootstrap["enable_dispatcher_stats"] = true.into();
    bootstrap["stats_flush_on_admin"] = true.into();
    let edge = started(bootstrap).await;
    serves(edge.address, 0).await;
    let before = turns(&edge.envoy).await;

    let mut answered = 0;
    for number in 1..=UPDATES {
        file.replace(&[way.resource(&version(number))]);
        // Whoever comes meanwhile is served, by the old configuration or the new one.
        eventually("the update", PATIENCE, async || {
            let answers = burst(edge.address, Protocol::Http1, 16, 16, |_| Request::get("/steady")).await;
            for answer in answers {
                let answer = answer.expect("an answer");
                assert_eq!((answer.status, answer.text().as_str()), (200, "upstream\n"), "update {number}");
                answered += 1;
            }
            let updates = edge.envoy.stat("listener_manager.listener_modified").await.unwrap_or(0);
            (updates >= number as u64).then_some(())
        })
        .await;
        serves(edge.address, number).await;
    }
    assert_eq!(upstream.requests_to("/steady"), answered);
    edge.envoy.wait_stat("listener_manager.total_listeners_draining", |draining| draining == 0).await;

    // Each timer that was left would be two turns in a second on each of four workers: 720 for thirty in three seconds.
    // Eventually, because what a listener held ends a moment after it, and a worker may hand over late what it counted.
    let mut last = 0;
    let rested = tokio::time::timeout(PATIENCE, async {
        loop {
            last = turns(&edge.envoy).await;
            if last <= before + 240 {
                break;
            }
        }
    });
    assert!(rested.await.is_ok(), "{before} turns before, {last} after {UPDATES} updates");
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}
