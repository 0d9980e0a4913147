//! Ten thousand policies in one document: each has a breaker of its own, found by its own kind of pattern, and none costs
//! anything before it is used.

use resilience_integration_tests::*;
use resilience_test_harness::config;
use resilience_test_harness::many::{self, Kind};
use resilience_test_harness::*;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const POLICIES: usize = 10_000;

/// Of each kind the first policy of the document, one from its middle and the last.
fn chosen() -> Vec<usize> {
    let of_kind = |kind| (0..POLICIES).filter(move |index| Kind::of(*index) == kind);
    let places = |kind| {
        let all: Vec<_> = of_kind(kind).collect();
        [all[0], all[all.len() / 2], all[all.len() - 1]]
    };
    Kind::ALL.into_iter().flat_map(places).collect()
}

/// The listener `edge`, with routes for those policies that are matched by their route.
fn edge_listener(document: &Value) -> Value {
    routed_listener("edge", &many::routes(&chosen(), UPSTREAM), &[filter(document)])
}

async fn started(upstream: SocketAddr, document: &Value) -> Edge {
    Edge::start(bootstrap(&[edge_listener(document)], upstream)).await
}

async fn send(clients: &mut Clients, policy: usize, behaviour: &str) -> Answer {
    clients.send(many::request(policy).header("x-behave", behaviour)).await
}

/// Has a policy's upstream fail until the breaker opens.
async fn trip(clients: &mut Clients, policy: usize) {
    for _ in 0..2 {
        let answer = send(clients, policy, "status=500").await;
        assert_eq!((answer.status, answer.text()), (500, "upstream\n".to_owned()), "{}", many::name(policy));
    }
}

async fn is_open(clients: &mut Clients, policy: usize) {
    let name = many::name(policy);
    for _ in 0..WORKERS {
        let answer = send(clients, policy, "status=200").await;
        assert_eq!(answer.status, 503);
        assert_eq!(answer.header("x-resilience"), format!("{name};reason=circuit_open;source=static"));
        let body: Value = serde_json::from_str(&answer.text()).expect("the fallback's JSON");
        assert_eq!((body["service"].as_str(), body["reason"].as_str()), (Some(&*name), Some("circuit_open")));
    }
}

/// A policy in the last part of a leader's round that it shows in its first round: those at the beginning of each part.
const SHOWN_LAST: usize = POLICIES / 1024 * 1024 + 1;

/// How many metrics of policies there are, but for the gauge of the state: a leader shows that for every breaker.
async fn metrics_in_use(edge: &Edge) -> usize {
    let stats = edge.envoy.get("/stats?filter=policy=").await.body;
    stats.lines().filter(|line| !line.contains("resilience_circuit_breaker_state;")).count()
}

/// How many gauges of breakers that nobody has used a leader defines with one tick.
const SHOWN: usize = 64;
const TICK: Duration = Duration::from_millis(500);

/// The gauges come by and by, since `started` at the earliest: never more with one tick than a worker can afford.
async fn comes_by_and_by(edge: &Edge, started: Instant) {
    let mut last = 0;
    for _ in 0..4 {
        let shown = eventually("more gauges", PATIENCE, async || {
            let stats = edge.envoy.get("/stats?filter=resilience_circuit_breaker_state;").await.body;
            Some(stats.lines().count()).filter(|shown| *shown > last)
        })
        .await;
        // One that is late may have another close behind it.
        let ticks = (started.elapsed().as_millis() / TICK.as_millis()) as usize + 2;
        assert!(shown <= SHOWN * ticks, "{shown} with {ticks} ticks at most");
        last = shown;
    }
    let others = edge.envoy.prometheus().await;
    let others = others.names().into_iter().filter(|name| name.starts_with("resilience_"));
    let expected = [
        "resilience_circuit_breaker_state",
        "resilience_configuration_generation",
        "resilience_vm_deaths_total",
        "resilience_vm_starts_total",
    ];
    let others: Vec<_> = others.filter(|name| *name != "resilience_store_conflicts_total").collect();
    assert_eq!(others, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_ten_thousand_policies_trips_its_own_breaker() {
    let upstream = Upstream::start().await;
    let began = Instant::now();
    let edge = started(upstream.addr(), &many::document(POLICIES)).await;
    comes_by_and_by(&edge, began).await;
    assert_eq!(metrics_in_use(&edge).await, 0, "nothing was used yet");

    let mut clients = edge.clients(Protocol::Http1).await;
    let chosen = chosen();
    for policy in &chosen {
        trip(&mut clients, *policy).await;
    }
    assert_eq!(upstream.requests(), 2 * chosen.len());
    for policy in &chosen {
        is_open(&mut clients, *policy).await;
    }
    let metrics = edge.envoy.prometheus().await;
    for policy in &chosen {
        let labels = [("policy", &*many::name(*policy)), ("to", "open")];
        assert_eq!(metrics.sum("resilience_circuit_breaker_transitions_total", &labels), 1.0);
    }
    assert_eq!(upstream.requests(), 2 * chosen.len(), "what is open refuses");

    // Those beside them, found in the same indexes, and what is nobody's.
    for neighbour in chosen.iter().map(|policy| policy + 6).filter(|index| *index < POLICIES) {
        if !matches!(Kind::of(neighbour), Kind::Route | Kind::Metadata) {
            assert_eq!(send(&mut clients, neighbour, "status=200").await.status, 200);
        }
    }
    for path in
        ["/", "/services/service-000040", "/services/", "/pages/service-00003/x", "/api/service-00002"]
    {
        assert_eq!(clients.get(path, "status=200").await, 200, "{path}");
    }
    let labels = [("to", "open")];
    let opened = edge.count("resilience_circuit_breaker_transitions_total", &labels).await;
    assert_eq!(opened, chosen.len() as u64);
    // Of each policy that was asked for: two outcomes, a transition, a rejection, a fallback, the change counter.
    let most = 6 * 2 * chosen.len();
    let used = metrics_in_use(&edge).await;
    assert!((chosen.len()..=most).contains(&used), "{used} metrics");

    // The leader comes to the end of the document, showing some of what nobody has used on its way, and nothing else is new.
    eventually("a breaker near the end of the document", PATIENCE, async || {
        let stats = edge.envoy.get("/stats?filter=resilience_circuit_breaker_state;").await.body;
        let near_the_end = many::name(SHOWN_LAST);
        stats.contains(&format!("policy={near_the_end};")).then_some(())
    })
    .await;
    assert_eq!(edge.count("resilience_circuit_breaker_state", &[]).await, 2 * chosen.len() as u64);
    let used = metrics_in_use(&edge).await;
    assert!(used <= most, "{used} metrics");
    is_open(&mut clients, chosen[0]).await;
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_change_among_ten_thousand_policies_leaves_the_others_as_they_were() {
    let upstream = Upstream::start().await;
    let scratch = Scratch::new();
    let before = many::document(POLICIES);
    let resource = |document: &Value| config::listener_resource(edge_listener(document));
    let mut file = DynamicFile::new(scratch.file("listeners.json"), &[resource(&before)]);
    let edge = Edge::start(config::with_listeners_from(bootstrap(&[], upstream.addr()), file.path())).await;
    let of_kind = |kind| chosen().into_iter().filter(move |index| Kind::of(*index) == kind);
    let open: Vec<_> = Kind::ALL.into_iter().filter_map(|kind| of_kind(kind).nth(1)).collect();
    let mut clients = edge.clients(Protocol::Http1).await;
    for policy in &open {
        trip(&mut clients, *policy).await;
    }

    let changed = of_kind(Kind::Prefix).next_back().expect("there are three");
    let mut after = before.clone();
    after["policies"][changed]["circuit_breaker"]["mode"] = "forced_open".into();
    file.replace(&[resource(&after)]);
    eventually("the new configuration on every worker", PATIENCE, async || {
        let answers = burst(edge.address, Protocol::Http1, 24, 24, |_| many::request(changed)).await;
        answers.iter().all(|answer| answer.as_ref().is_ok_and(|it| it.status == 503)).then_some(())
    })
    .await;

    upstream.reset_counts();
    let mut clients = edge.clients(Protocol::Http1).await;
    for policy in open.iter().chain([&changed]) {
        is_open(&mut clients, *policy).await;
    }
    assert_eq!(upstream.requests(), 0, "what was open is open");
    let opened = edge.count("resilience_circuit_breaker_transitions_total", &[("to", "open")]).await;
    assert_eq!(opened, open.len() as u64, "and nothing opened anew");
    let closed = chosen().into_iter().find(|policy| !open.contains(policy)).expect("most are");
    trip(&mut clients, closed).await;
    is_open(&mut clients, closed).await;
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}
