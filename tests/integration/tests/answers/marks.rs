//! Headers of ours: who may see them, who may send them, and that nothing else is touched.

use crate::{Open, fragile, fragile_with, headers, json_body};
use resilience_integration_tests::*;
use resilience_test_harness::*;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_exposes_nothing_tells_outsiders_nothing() {
    let mut document = document(&[
        fragile("plain"),
        fragile_with("text", json!([{"static": {"status": 200, "text": "Sold out"}}])),
        fragile_with(
            "places",
            json!([{"static": {"status": 503, "text": "%POLICY%%REASON%, %RETRY_AFTER%"}}]),
        ),
    ]);
    document["expose"] = false.into();
    let mut open = Open::all_of(document).await;
    let plain = open.ask(Request::get("/plain")).await;
    assert_eq!(
        headers(&plain),
        [
            format!("content-length: {}", plain.body.len()),
            "content-type: application/problem+json".to_owned(),
            "x-envoy-ratelimited: true".to_owned(),
        ]
    );
    assert!(plain.headers.contains_key("retry-after"));
    assert_eq!(json_body(&plain), json!({"title": "Service Unavailable", "status": 503}));
    let text = open.ask(Request::get("/text")).await;
    assert_eq!(headers(&text), ["content-length: 8", "content-type: text/plain; charset=utf-8"]);

    let places = open.ask(Request::get("/places")).await;
    assert_eq!(places.text(), format!(", {}", places.header("retry-after")));

    // What upstreams of ours say is for us alone, too, whether the policy is theirs or there is none.
    for path in ["/free", "/"] {
        let answer = open
            .ask(
                Request::get(path)
                    .header("x-behave", "header=x-resilience:a;header=x-resilience:b;header=x-o:p"),
            )
            .await;
        assert_eq!((answer.status, answer.header("x-o")), (200, "p".to_owned()));
        assert!(!answer.headers.contains_key("x-resilience"), "{answer:?}");
    }
    open.clients = open.edge.clients(Protocol::Http2).await;
    for name in ["plain", "text"] {
        let answer = open.ask(Request::grpc(&format!("/{name}/shop.Cart/Add"))).await;
        assert_eq!((answer.status, answer.header("grpc-status")), (200, "14".to_owned()));
        let message = answer.header("grpc-message");
        assert!(!message.is_empty() && !message.contains("circuit") && !message.contains(name), "{message}");
        assert!(answer.body.is_empty() && !answer.headers.contains_key("x-resilience"), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_exchange_is_passed_on_untouched() {
    let upstream = Upstream::start().await;
    let mut exposing = document(&[fragile("plain")]);
    exposing["exempt"] = json!([{"path": {"prefix": "/health"}}]);
    let edge = Edge::before(upstream.addr(), &exposing).await;
    let mut clients = edge.clients(Protocol::Http1).await;
    for path in ["/plain", "/free", "/health"] {
        for _ in 0..WORKERS {
            let request = Request::get(path)
                .header("x-resilience", "anything;at=all")
                .header("x-behave", "status=404;header=x-resilience:far;header=x-resilience:near");
            let answer = clients.send(request).await;
            assert_eq!((answer.status, answer.text()), (404, "upstream\n".to_owned()));
            let marks: Vec<_> = answer.headers.get_all("x-resilience").iter().collect();
            assert_eq!(marks, ["far", "near"], "{path}");
        }
    }
    assert_eq!(upstream.requests(), 3 * WORKERS);
    for request in upstream.received() {
        let marks: Vec<_> = request.headers.get_all("x-resilience").iter().collect();
        assert_eq!(marks, ["anything;at=all"]);
        let foreign = request.headers.keys().find(|name| name.as_str().contains("reroute"));
        assert_eq!(foreign, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reroute_that_arrives_from_outside_is_refused() {
    let mut documented = document(&[
        fragile("plain"),
        fragile_with("text", json!([{"static": {"status": 200, "text": "Sold out"}}])),
    ]);
    documented["exempt"] = json!([{"path": {"prefix": "/health"}}]);
    let mut open = Open::all_of(documented).await;
    let refused = open.edge.count("resilience_rejections_total", &[]).await;
    for path in ["/plain", "/text", "/free", "/health"] {
        for value in ["elsewhere", ""] {
            // Envoy closes a connection of HTTP/1.1 after any answer of 400, so each request has one of its own.
            let forged = |_| Request::get(path).header("x-resilience-reroute", value);
            for answer in burst(open.edge.address, Protocol::Http1, 16, 16, forged).await {
                let answer = answer.unwrap();
                assert_eq!((answer.status, answer.text()), (400, String::new()), "{path} {value:?}");
                assert_eq!(headers(&answer), ["connection: close", "content-length: 0"]);
            }
        }
    }
    assert_eq!(open.upstream.requests(), 0);
    assert_eq!(open.edge.count("resilience_rejections_total", &[]).await, refused);
    open.clients = open.edge.clients(Protocol::Http2).await;
    let forged = Request::grpc("/free").header("x-resilience-reroute", "elsewhere");
    assert!(open.ask(forged).await.body.is_empty());
    assert_eq!(open.upstream.requests(), 0);
    assert_eq!(open.ask(Request::get("/free")).await.status, 200);
}
