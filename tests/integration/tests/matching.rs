//! Which policy a request belongs to, told by real routes and requests.

use resilience_integration_tests::*;
use resilience_test_harness::config::route;
use resilience_test_harness::*;
use serde_json::{Value, json};
use std::net::SocketAddr;

/// Routes with names and metadata, as an operator's table has them.
async fn shop(upstream: SocketAddr, document: &Value) -> Edge {
    let gold = json!({"filter_metadata": {"shop": {"policy": "gold", "tier": 1}}});
    let mut by_metadata = route("gold", "/gold", UPSTREAM);
    by_metadata["metadata"] = gold.clone();
    by_metadata.as_object_mut().unwrap().remove("name");
    let mut both = route("checkout", "/both", UPSTREAM);
    both["metadata"] = gold;
    let mut other_value = route("silver", "/silver", UPSTREAM);
    other_value["metadata"] =
        json!({"filter_metadata": {"shop": {"policy": "silver"}, "other": {"policy": "gold"}}});
    let checkout = route("checkout", "/checkout", UPSTREAM);
    let rest = route("rest", "/", UPSTREAM);
    let routes = [by_metadata, both, other_value, checkout, rest];
    Edge::routed(upstream, &routes, &[filter(document)]).await
}

/// Refuses everything, with a marker that names the policy.
fn telltale(name: &str, matches: Value) -> Value {
    json!({"name": name, "match": matches, "circuit_breaker": {"mode": "forced_open", "consecutive_failures": 1}})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_most_specific_pattern_wins_whatever_the_order_of_the_document() {
    let upstream = Upstream::start().await;
    let mut document = document(&[
        telltale("rest", json!([{"any": true}])),
        telltale("puts", json!([{"methods": ["PUT", "PATCH"]}])),
        telltale("wildcard", json!([{"host": "*.example.com"}])),
        telltale("host", json!([{"host": "Api.Example.com"}])),
        telltale("short", json!([{"path": {"prefix": "/a"}}])),
        telltale("long", json!([{"path": {"prefix": "/a/b"}}])),
        telltale("long-puts", json!([{"path": {"prefix": "/a/b"}, "methods": ["PUT"]}])),
        telltale("exact", json!([{"path": {"exact": "/a/b/c"}}])),
        telltale(
            "mail",
            json!([{"host": "shop.example", "path": {"prefix": "/email/"}, "methods": ["POST"]}]),
        ),
        telltale("named", json!([{"route": "nowhere"}, {"route": "checkout"}])),
        telltale("gold", json!([{"metadata": {"namespace": "shop", "key": "policy", "value": "gold"}}])),
        telltale("switched-off", json!([{"path": {"exact": "/off"}}])),
    ]);
    document["policies"][11]["mode"] = "disabled".into();
    document["exempt"] =
        json!([{"path": {"prefix": "/health"}}, {"host": "probe.example", "methods": ["GET"]}]);
    let edge = shop(upstream.addr(), &document).await;

    let cases = [
        ("GET", "test", "/gold/ring", "gold"),
        ("GET", "test", "/both", "gold"),
        ("GET", "test", "/silver", "rest"),
        ("GET", "test", "/checkout/a/b/c", "named"),
        ("GET", "test", "/a/b/c", "exact"),
        ("GET", "test", "/a/b/c?d=/x", "exact"),
        ("GET", "test", "/a/b/c/", "long"),
        ("PUT", "test", "/a/b/x", "long-puts"),
        ("PATCH", "test", "/a/b/x", "long"),
        ("GET", "test", "/a/bc", "short"),
        ("GET", "test", "/a", "short"),
        ("GET", "test", "/a?b", "short"),
        ("GET", "test", "/ab", "rest"),
        ("POST", "shop.example", "/email/welcome", "mail"),
        ("POST", "SHOP.example:8080", "/email/welcome", "mail"),
        ("GET", "shop.example", "/email/welcome", "rest"),
        ("POST", "shop.example", "/email", "rest"),
        ("POST", "other.example", "/email/welcome", "rest"),
        ("GET", "api.example.com", "/", "host"),
        ("GET", "API.example.com:443", "/", "host"),
        ("GET", "api.example.com", "/a/b", "long"),
        ("GET", "www.example.com", "/", "wildcard"),
        ("GET", "a.b.example.com", "/", "wildcard"),
        ("GET", "example.com", "/", "rest"),
        ("PUT", "test", "/x", "puts"),
        ("PUT", "www.example.com", "/x", "wildcard"),
        ("GET", "test", "/", "rest"),
        ("GET", "test", "/healthy", "rest"),
        ("POST", "probe.example", "/", "rest"),
    ];
    let passes = [
        ("GET", "test", "/health"),
        ("GET", "test", "/health/live?full"),
        ("PUT", "api.example.com", "/health"),
        ("GET", "probe.example", "/a/b/c"),
        ("GET", "test", "/off"),
    ];
    let request =
        |method: &str, host: &str, path: &str| Request::new(method.parse().unwrap(), path).authority(host);
    for protocol in [Protocol::Http1, Protocol::Http2] {
        upstream.reset_counts();
        let mut clients = edge.clients(protocol).await;
        for (method, host, path, policy) in cases {
            let answer = clients.send(request(method, host, path)).await;
            let marker = format!("{policy};reason=circuit_open;source=none");
            assert_eq!(answer.header("x-resilience"), marker, "{method} {host} {path}");
            assert_eq!(answer.status, 503);
            assert!(!answer.headers.contains_key("retry-after"), "nobody knows when a forced breaker closes");
        }
        assert_eq!(upstream.requests(), 0);
        for (method, host, path) in passes {
            let answer = clients.send(request(method, host, path)).await;
            assert_eq!((answer.status, answer.header("x-resilience")), (200, String::new()), "{path}");
        }
        assert_eq!(upstream.requests(), passes.len());
    }
    let twice = |policy: &str| 2 * cases.iter().filter(|case| case.3 == policy).count() as u64;
    for policy in document["policies"].as_array().unwrap() {
        let name = policy["name"].as_str().unwrap();
        assert_eq!(
            edge.count("resilience_rejections_total", &[("policy", name)]).await,
            twice(name),
            "{name}"
        );
    }
    assert_eq!(edge.count("resilience_calls_total", &[]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_passes_an_open_breaker_and_is_no_evidence() {
    let upstream = Upstream::start().await;
    let all = json!({
        "name": "all",
        "match": [{"any": true}],
        "circuit_breaker": {"consecutive_failures": 2, "wait_duration_in_open_state": "30s"},
    });
    let mut document = document(&[all]);
    document["exempt"] = json!([{"path": {"prefix": "/health"}}]);
    let edge = shop(upstream.addr(), &document).await;
    let mut clients = edge.clients(Protocol::Http1).await;
    // Failing checks between failures neither trip nor interrupt a row of failures.
    assert_eq!(clients.get("/x", "status=500").await, 500);
    for _ in 0..3 * WORKERS {
        assert_eq!(clients.get("/health", "status=500").await, 500);
        assert_eq!(clients.get("/health", "status=200").await, 200);
    }
    assert_ne!(edge.state("all").await, Some(2));
    assert_eq!(clients.get("/x", "status=500").await, 500);
    assert_eq!(edge.state("all").await, Some(2));
    upstream.reset_counts();
    for _ in 0..WORKERS {
        assert_eq!(clients.get("/x", "status=200").await, 503);
        let health = clients.send(Request::get("/health/ready")).await;
        assert_eq!((health.status, health.text()), (200, "upstream\n".to_owned()));
        assert!(!health.headers.contains_key("x-resilience"));
    }
    assert_eq!((upstream.requests(), upstream.requests_to("/health/ready")), (WORKERS, WORKERS));
    edge.wait_calls("all", Calls { failure: 2, ..Calls::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_pattern_matches_is_not_ours() {
    let upstream = Upstream::start().await;
    let named = json!({
        "name": "named",
        "match": [{"route": "checkout"}],
        "circuit_breaker": {"consecutive_failures": 1, "wait_duration_in_open_state": "30s"},
    });
    let edge = shop(upstream.addr(), &document(&[named])).await;
    let mut clients = edge.clients(Protocol::Http1).await;
    let sent = 5 * WORKERS;
    for _ in 0..sent {
        assert_eq!(clients.get("/other", "status=503").await, 503);
    }
    assert_eq!(upstream.requests(), sent);
    // Not even counted.
    let names: Vec<String> = edge.envoy.prometheus().await.names().into_iter().map(str::to_owned).collect();
    assert!(!names.iter().any(|name| name == "resilience_calls_total"), "{names:?}");
    // The pattern is not dead: its own route trips.
    assert_eq!(clients.get("/checkout", "status=503").await, 503);
    assert_eq!(clients.get("/checkout", "status=200").await, 503);
    assert_eq!(upstream.requests_to("/checkout"), 1);
    assert_eq!(clients.get("/other", "status=200").await, 200);
}
