//! What callers make of an answer who ask for headers only, speak gRPC, or retry.

use crate::{Open, fragile, fragile_with, headers};
use resilience_integration_tests::*;
use resilience_test_harness::config::{self, cluster, connection_manager, route, virtual_host};
use resilience_test_harness::*;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn head_gets_headers_only_and_the_connection_stays_usable() {
    let fallback = json!([{"static": {"status": 200, "text": "Sold out"}}]);
    let mut open = Open::all_of(document(&[fragile("plain"), fragile_with("text", fallback)])).await;
    for (path, status) in [("/plain", 503), ("/text", 200)] {
        for worker in 0..WORKERS {
            let connection = open.clients.worker(worker);
            let local = connection.local;
            let head = connection.send(Request::new(Method::HEAD, path)).await.unwrap();
            assert_eq!((head.status, head.text()), (status, String::new()), "{path}");
            // Had a body been sent after all, it would be taken for the next answer.
            let get = connection.send(Request::get(path)).await.unwrap();
            assert_eq!((get.status, connection.local), (status, local), "{path}");
            assert!(!get.body.is_empty());
            assert_eq!(headers(&head), headers(&get), "{path}");
            assert_eq!(connection.send(Request::new(Method::HEAD, "/free")).await.unwrap().status, 200);
        }
    }
    assert_eq!(open.upstream.requests(), open.upstream.requests_to("/free"));
    assert_eq!(open.upstream.requests(), 2 * WORKERS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_caller_gets_a_status_and_never_the_body() {
    let fallback = json!([{"static": {"status": 202, "headers": {"x-shop": "closed"}, "json": {"a": 1}}}]);
    let mut open = Open::all_of(document(&[fragile("plain"), fragile_with("json", fallback)])).await;
    open.clients = open.edge.clients(Protocol::Http2).await;
    for (name, source) in [("plain", "none"), ("json", "static")] {
        for content_type in ["application/grpc", "application/grpc+proto"] {
            let call = Request::post(&format!("/{name}/shop.Cart/Add"), &[0; 5][..]);
            let call = call.header("content-type", content_type).header("te", "trailers");
            let answer = open.ask(call).await;
            assert_eq!(answer.status, 200, "{name}");
            assert_eq!(answer.header("content-type"), "application/grpc", "{name}");
            assert_eq!(answer.header("grpc-status"), "14", "{name}");
            assert_eq!(answer.header("grpc-message"), "circuit_open", "{name}");
            assert!(answer.body.is_empty() && answer.trailers.is_empty(), "{name}: {answer:?}");
            let marker = format!("{name};reason=circuit_open;source={source}");
            assert_eq!(answer.header("x-resilience"), marker);
            assert_eq!(answer.header("x-envoy-ratelimited"), "true", "{name}");
        }
        // gRPC-Web is not gRPC: its caller understands HTTP.
        let web = Request::post(&format!("/{name}/shop.Cart/Add"), &[0; 5][..])
            .header("content-type", "application/grpc-web+proto");
        let answer = open.ask(web).await;
        assert_eq!(answer.header("grpc-status"), "", "{name}");
        assert!(!answer.body.is_empty(), "{name}");
    }
    assert_eq!(open.upstream.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_in_front_does_not_retry_unless_the_operator_wants_it_to() {
    let mut eager = fragile("eager");
    eager["discourage_retries"] = false.into();
    let mut eager_fallback =
        fragile_with("eager-fallback", json!([{"static": {"status": 503, "text": "down"}}]));
    eager_fallback["discourage_retries"] = false.into();
    let policies = [
        fragile("plain"),
        fragile_with("fallback", json!([{"static": {"status": 503, "text": "down"}}])),
        eager,
        eager_fallback,
    ];
    let open = Open::all_of(document(&policies)).await;
    let mut retried = route("front", "/", "inner");
    retried["route"]["retry_policy"] = json!({
        "retry_on": "5xx,unavailable",
        "num_retries": 3,
        "retry_back_off": {"base_interval": "0.001s"},
    });
    let manager = connection_manager(&[virtual_host("all", &[retried])], &[]);
    let inner = config::with_http2(cluster("inner", &[open.edge.address]));
    let front = Edge::start(config::bootstrap(&[listener("edge", manager)], &[inner])).await;
    let (mut plain, mut grpc) = (front.clients(Protocol::Http1).await, front.clients(Protocol::Http2).await);

    for (name, attempts) in [("plain", 1), ("fallback", 1), ("eager", 4), ("eager-fallback", 4)] {
        let refused = [("policy", name), ("reason", "circuit_open")];
        let answer = plain.send(Request::get(&format!("/{name}"))).await;
        assert_eq!(answer.status, 503, "{name}");
        assert_eq!(answer.headers.contains_key("x-envoy-ratelimited"), attempts == 1, "{name}");
        let count = async || open.edge.count("resilience_rejections_total", &refused).await;
        assert_eq!(count().await, attempts, "{name}");
        let answer = grpc.send(Request::grpc(&format!("/{name}/shop.Cart/Add"))).await;
        assert_eq!(answer.header("grpc-status"), "14", "{name}");
        assert_eq!(count().await, 2 * attempts, "{name} by gRPC");
    }
    assert_eq!(open.upstream.requests(), 0);
}
