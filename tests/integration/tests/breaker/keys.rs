//! One policy over several upstream clusters: each has a breaker of its own, as long as there are keys.

use crate::assert_refused;
use resilience_integration_tests::*;
use resilience_test_harness::config::{self, cluster, route};
use resilience_test_harness::*;
use serde_json::{Value, json};

/// A name as a mesh gives it to its clusters: the label of a metric has to hold it.
const RED: &str = "outbound|8080||red.shop.svc.cluster.local";
const COLOURS: [&str; 3] = ["blue", "green", RED];

/// A cluster of each colour, with an upstream of its own.
struct Clusters(Vec<Upstream>);

impl Clusters {
    async fn start() -> Self {
        let mut upstreams = Vec::new();
        for _ in COLOURS {
            upstreams.push(Upstream::start().await);
        }
        Self(upstreams)
    }

    fn requests(&self) -> [usize; 3] {
        std::array::from_fn(|colour| self.0[colour].requests())
    }

    fn bootstrap(&self, listeners: &[Value]) -> Value {
        let clusters: Vec<_> =
            COLOURS.iter().zip(&self.0).map(|(name, upstream)| cluster(name, &[upstream.addr()])).collect();
        config::bootstrap(listeners, &clusters)
    }
}

/// The requests that ask for a colour go there.
fn by_header() -> Vec<Value> {
    let to = |colour: &&str| {
        let mut route = route(colour, "/", colour);
        route["match"]["headers"] = json!([{"name": "x-colour", "string_match": {"exact": colour}}]);
        route
    };
    COLOURS.iter().map(to).collect()
}

/// A policy over everything, whose breakers open at the second failure in a row.
fn keyed(max_keys: u64) -> Value {
    json!({
        "name": "shop",
        "match": [{"any": true}],
        "key": "upstream_cluster",
        "max_keys": max_keys,
        "circuit_breaker": {"consecutive_failures": 2},
    })
}

fn to(colour: &str, status: u16) -> Request {
    Request::get("/").header("x-colour", colour).header("x-behave", format!("status={status}"))
}

async fn state(edge: &Edge, key: &str) -> Option<f64> {
    let labels = [("policy", "shop"), ("key", key)];
    edge.envoy.prometheus().await.get("resilience_circuit_breaker_state", &labels)
}

fn exhausted(edge: &Edge) -> impl Future<Output = u64> + '_ {
    edge.count("resilience_keys_exhausted_total", &[("policy", "shop")])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_trips_by_itself() {
    let clusters = Clusters::start().await;
    let listener = routed_listener("edge", &by_header(), &[filter(&document(&[keyed(8)]))]);
    let edge = Edge::start(clusters.bootstrap(&[listener])).await;
    let mut clients = edge.clients(Protocol::Http1).await;
    // A failure of each would be a run of three, were they one.
    for colour in COLOURS {
        assert_eq!(clients.send(to(colour, 503)).await.text(), "upstream\n");
    }
    assert_eq!(clients.send(to("blue", 503)).await.text(), "upstream\n");
    for _ in 0..WORKERS {
        assert_refused(&clients.send(to("blue", 200)).await, "shop");
        for colour in ["green", RED] {
            assert_eq!(clients.send(to(colour, 200)).await.status, 200);
        }
    }
    assert_eq!(clusters.requests(), [2, 1 + WORKERS, 1 + WORKERS]);
    assert_eq!(state(&edge, "blue").await, Some(2.0));
    // The others never changed: a tick shows them, and the policy's own, which nobody used.
    for key in ["green", RED, "_"] {
        edge.wait_count("resilience_circuit_breaker_state", &[("key", key)], 0).await;
        eventually("the gauge of a closed breaker", PATIENCE, async || state(&edge, key).await).await;
    }
    assert_eq!(edge.transitions("shop", "open", "consecutive_failures").await, 1);
    let opened = "policy shop, key blue: circuit breaker closed -> open cause=consecutive_failures";
    assert_eq!(edge.envoy.log_lines().iter().filter(|line| line.contains(opened)).count(), 1);
    assert_eq!(exhausted(&edge).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_weighted_route_only_the_ill_cluster_is_refused() {
    const ASKED: usize = 400;
    let clusters = Clusters::start().await;
    clusters.0[0].behave(Behaviour::status(503));
    let mut weighted = route("weighted", "/", "blue");
    weighted["route"] = json!({"weighted_clusters": {"clusters": [
        {"name": "blue", "weight": 50},
        {"name": "green", "weight": 50},
    ]}});
    let listener = routed_listener("edge", &[weighted], &[filter(&document(&[keyed(8)]))]);
    let edge = Edge::start(clusters.bootstrap(&[listener])).await;
    let mut clients = edge.clients(Protocol::Http1).await;
    let mut statuses = (0, 0);
    for _ in 0..ASKED {
        let answer = clients.send(Request::get("/")).await;
        match answer.status {
            200 => statuses.0 += 1,
            503 if answer.text() == "upstream\n" => {}
            _ => {
                assert_refused(&answer, "shop");
                statuses.1 += 1;
            }
        }
    }
    // What Envoy gave to the ill one, two got there, and the rest was refused before it could.
    assert_eq!(clusters.requests(), [2, statuses.0, 0]);
    assert_eq!(2 + statuses.0 + statuses.1, ASKED);
    assert!(statuses.0 > 0 && statuses.1 > 0, "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_without_a_key_share_one_breaker() {
    let clusters = Clusters::start().await;
    let listener = routed_listener("edge", &by_header(), &[filter(&document(&[keyed(1)]))]);
    let edge = Edge::start(clusters.bootstrap(&[listener])).await;
    let mut clients = edge.clients(Protocol::Http1).await;
    // Whoever comes first has the key, on every worker.
    assert_eq!(clients.send(to("blue", 503)).await.text(), "upstream\n");
    assert_eq!(exhausted(&edge).await, 0);
    for colour in ["green", RED] {
        assert_eq!(clients.send(to(colour, 503)).await.text(), "upstream\n");
    }
    for _ in 0..WORKERS {
        for colour in ["green", RED] {
            assert_refused(&clients.send(to(colour, 200)).await, "shop");
        }
        assert_eq!(clients.send(to("blue", 200)).await.status, 200);
    }
    assert_eq!(clusters.requests(), [1 + WORKERS, 1, 1]);
    assert_eq!(exhausted(&edge).await, 2 + 2 * WORKERS as u64);
    assert_eq!(state(&edge, "_").await, Some(2.0));
    eventually("the gauge of a closed breaker", PATIENCE, async || state(&edge, "blue").await).await;
    assert_eq!(state(&edge, "blue").await, Some(0.0));
    for colour in ["green", RED] {
        assert_eq!(state(&edge, colour).await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_keeps_the_keys_and_their_breakers() {
    let clusters = Clusters::start().await;
    let scratch = Scratch::new();
    let old = config::extension_resource(filter(&document(&[keyed(2)])));
    let mut file = DynamicFile::new(scratch.file("discovered.json"), &[old]);
    let discovered = config::discovered_wasm_filter("resilience", file.path());
    let edge = Edge::start(clusters.bootstrap(&[routed_listener("edge", &by_header(), &[discovered])])).await;
    let mut clients = edge.clients(Protocol::Http1).await;
    for colour in ["blue", "green", "blue"] {
        assert_eq!(clients.send(to(colour, 503)).await.text(), "upstream\n");
    }
    let canary = json!({
        "name": "canary",
        "match": [{"path": {"exact": "/canary"}}],
        "circuit_breaker": {"mode": "forced_open", "consecutive_failures": 1},
    });
    file.replace(&[config::extension_resource(filter(&document(&[keyed(2), canary])))]);
    for worker in 0..WORKERS {
        let connection = std::cell::RefCell::new(clients.worker(worker));
        eventually("the new configuration", PATIENCE, async || {
            let asked = Request::get("/canary").header("x-colour", "green");
            let answer = connection.borrow_mut().send(asked).await.unwrap();
            answer.header("x-resilience").starts_with("canary;").then_some(())
        })
        .await;
    }
    clusters.0.iter().for_each(Upstream::reset_counts);
    for _ in 0..WORKERS {
        assert_refused(&clients.send(to("blue", 200)).await, "shop");
    }
    // The table was full before and is now: there is no third key.
    assert_eq!(exhausted(&edge).await, 0);
    assert_eq!(clients.send(to(RED, 503)).await.text(), "upstream\n");
    assert_eq!(exhausted(&edge).await, 1);
    assert_eq!(clusters.requests(), [0, 0, 1]);
    assert_eq!(edge.transitions("shop", "open", "consecutive_failures").await, 1);
    assert_eq!(state(&edge, "blue").await, Some(2.0));
}
