//! The helpers themselves: clients on every worker, and a breaker that all of them share.

use resilience_integration_tests::{Calls, Edge, WORKERS, document, policy};
use resilience_test_harness::*;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn every_worker_knows_at_once_that_the_breaker_is_open() {
    let upstream = Upstream::start().await;
    let breaker = json!({"consecutive_failures": 2});
    let edge = Edge::before(upstream.addr(), &document(&[policy("shop", breaker)])).await;
    let mut clients = edge.clients(Protocol::Http1).await;
    for worker in 0..2 {
        let failing = Request::get("/shop").header("x-behave", "status=503");
        assert_eq!(clients.worker(worker).send(failing).await.unwrap().text(), "upstream\n");
    }
    for worker in 0..WORKERS {
        let answer = clients.worker(worker).send(Request::get("/shop")).await.unwrap();
        assert_eq!(
            (answer.status, answer.header("x-resilience")),
            (503, "shop;reason=circuit_open;source=none".into())
        );
    }
    assert_eq!(upstream.requests(), 2);
    assert_eq!(edge.calls("shop").await, Calls { failure: 2, ..Calls::default() });
    assert_eq!(edge.transitions("shop", "open", "consecutive_failures").await, 1);
    assert_eq!(edge.state("shop").await, Some(2));
    assert_eq!(edge.count("resilience_rejections_total", &[("policy", "shop")]).await, 4);
}
