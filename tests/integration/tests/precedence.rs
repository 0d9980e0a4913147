//! Which of several policies a request belongs to, where their patterns begin with the same thing: a route's name or its
//! metadata, and then more.

use resilience_integration_tests::*;
use resilience_test_harness::config::{self, cluster, connection_manager, route, virtual_host};
use resilience_test_harness::*;
use serde_json::{Value, json};
use std::net::SocketAddr;

/// All paths go by the route `shop` with the metadata `tier: gold`, but for `/other`.
async fn shop(upstream: SocketAddr, policies: &[Value]) -> Edge {
    let mut shop = route("shop", "/", UPSTREAM);
    shop["metadata"] = json!({"filter_metadata": {"shop": {"tier": "gold"}}});
    let host = virtual_host("all", &[route("other", "/other", UPSTREAM), shop]);
    let listener = listener("edge", connection_manager(&[host], &[filter(&document(policies))]));
    Edge::start(config::bootstrap(&[listener], &[cluster(UPSTREAM, &[upstream])])).await
}

/// Refuses everything, with a marker that names the policy.
fn telltale(name: &str, pattern: Value) -> Value {
    json!({"name": name, "match": [pattern], "circuit_breaker": {"mode": "forced_open", "consecutive_failures": 1}})
}

/// A pattern of what is common to all and what is a policy's own.
fn and(common: &Value, own: Value) -> Value {
    let mut pattern = common.clone();
    pattern.as_object_mut().unwrap().append(&mut own.as_object().unwrap().clone());
    pattern
}

/// From the widest to the narrowest, which is also from the worst place in the document to the best.
fn nested(common: &Value) -> Vec<Value> {
    let policies = [
        ("wide", json!({})),
        ("wide-again", json!({})),
        ("puts", json!({"methods": ["PUT"]})),
        ("wildcard", json!({"host": "*.example.com"})),
        ("host", json!({"host": "api.example.com"})),
        ("host-puts", json!({"host": "api.example.com", "methods": ["PUT"]})),
        ("short", json!({"path": {"prefix": "/a"}})),
        ("short-host", json!({"path": {"prefix": "/a"}, "host": "api.example.com"})),
        ("long", json!({"path": {"prefix": "/a/b"}})),
        ("long-wildcard", json!({"path": {"prefix": "/a/b"}, "host": "*.example.com"})),
        ("narrow", json!({"path": {"exact": "/a/b/n"}})),
        ("narrow-again", json!({"path": {"exact": "/a/b/n"}})),
        ("narrow-puts", json!({"path": {"exact": "/a/b/n"}, "methods": ["PUT"]})),
        ("narrow-host", json!({"path": {"exact": "/a/b/n"}, "host": "api.example.com"})),
    ];
    policies.into_iter().map(|(name, own)| telltale(name, and(common, own))).collect()
}

/// Method, host, path, and the policy that the most specific pattern names, with "one" and "again" in document order.
const CASES: [(&str, &str, &str, &str); 20] = [
    ("GET", "test", "/", "wide"),
    ("GET", "test", "/ab", "wide"),
    ("PUT", "test", "/", "puts"),
    ("GET", "www.example.com", "/", "wildcard"),
    ("PUT", "www.example.com", "/", "wildcard"),
    ("GET", "api.example.com", "/", "host"),
    ("PUT", "api.example.com", "/", "host-puts"),
    ("GET", "test", "/a", "short"),
    ("GET", "test", "/a/bc", "short"),
    ("PUT", "test", "/a/x", "short"),
    ("GET", "www.example.com", "/a/x", "short"),
    ("PUT", "api.example.com", "/a/x", "short-host"),
    ("GET", "test", "/a/b", "long"),
    ("GET", "test", "/a/b/x?n=/n", "long"),
    ("PUT", "api.example.com", "/a/b/x", "long-wildcard"),
    ("GET", "test", "/a/b/n", "narrow"),
    ("GET", "test", "/a/b/n?q", "narrow"),
    ("GET", "www.example.com", "/a/b/n", "narrow"),
    ("PUT", "www.example.com", "/a/b/n", "narrow-puts"),
    ("PUT", "api.example.com", "/a/b/n", "narrow-host"),
];

/// The more a pattern says of the path the narrower it is; the host and then the methods decide only between equals; and
/// only what is equal in all of that goes by the document's order.
async fn the_narrower_wins(common: Value, also: &[Value]) {
    let upstream = Upstream::start().await;
    for reversed in [false, true] {
        let mut policies = nested(&common);
        if reversed {
            policies.reverse();
        }
        // Patterns of a later kind have no say, whatever they add.
        policies.splice(0..0, also.iter().cloned());
        let edge = shop(upstream.addr(), &policies).await;
        let mut clients = edge.clients(Protocol::Http1).await;
        for (method, host, path, policy) in CASES {
            let policy = match (policy, reversed) {
                ("wide", true) => "wide-again",
                ("narrow", true) => "narrow-again",
                (policy, _) => policy,
            };
            let answer = clients.send(Request::new(method.parse().unwrap(), path).authority(host)).await;
            let marker = format!("{policy};reason=circuit_open;source=none");
            assert_eq!(answer.header("x-resilience"), marker, "{method} {host}{path} {common} {reversed}");
        }
        // What the common part does not match is nobody's, however exact the path.
        assert_eq!(upstream.requests(), 0);
        assert_eq!(clients.get("/other/a/b/n", "status=200").await, 200);
        upstream.reset_counts();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn among_patterns_of_a_route_the_narrower_wins() {
    the_narrower_wins(json!({"route": "shop"}), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn among_patterns_of_metadata_the_narrower_wins() {
    let metadata = json!({"metadata": {"namespace": "shop", "key": "tier", "value": "gold"}});
    let by_route = telltale(
        "by-route",
        json!({"route": "shop", "path": {"exact": "/a/b/n"}, "host": "api.example.com", "methods": ["PUT"]}),
    );
    the_narrower_wins(metadata, &[by_route]).await;
}

/// A route's name decides between patterns of the same metadata before any path does.
#[tokio::test(flavor = "multi_thread")]
async fn among_patterns_of_metadata_one_with_the_route_wins_over_any_path() {
    let metadata = json!({"metadata": {"namespace": "shop", "key": "tier", "value": "gold"}});
    let upstream = Upstream::start().await;
    let policies = [
        telltale("wide", metadata.clone()),
        telltale("exact", and(&metadata, json!({"path": {"exact": "/n"}, "methods": ["GET"]}))),
        telltale("routed", and(&metadata, json!({"route": "shop"}))),
        telltale("routed-prefix", and(&metadata, json!({"route": "shop", "path": {"prefix": "/n/"}}))),
        telltale("routed-elsewhere", and(&metadata, json!({"route": "other", "path": {"exact": "/n"}}))),
    ];
    let edge = shop(upstream.addr(), &policies).await;
    let mut clients = edge.clients(Protocol::Http1).await;
    for (path, policy) in [("/", "routed"), ("/n", "routed"), ("/n/x", "routed-prefix")] {
        let answer = clients.send(Request::get(path)).await;
        assert_eq!(
            answer.header("x-resilience"),
            format!("{policy};reason=circuit_open;source=none"),
            "{path}"
        );
    }
    assert_eq!(upstream.requests(), 0);
}
