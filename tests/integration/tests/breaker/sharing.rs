//! Whose state it is: policies, listeners, namespaces and VMs.

use crate::{Shop, assert_refused};
use resilience_integration_tests::{Edge, WORKERS, bootstrap, document, filter, plain_listener, policy};
use resilience_test_harness::config;
use resilience_test_harness::*;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn two_policies_share_nothing() {
    let breaker = || json!({"consecutive_failures": 2});
    let mut shop = Shop::with(&[policy("shop", breaker()), policy("search", breaker())]).await;
    // One failure each, twice: a shared count would be at four.
    assert_eq!(shop.clients.get("/shop", "status=503").await, 503);
    assert_eq!(shop.clients.get("/search", "status=503").await, 503);
    assert_eq!(shop.upstream.requests(), 2);
    shop.answered(&[503]).await;
    shop.refused_by_all().await;
    for _ in 0..WORKERS {
        assert_eq!(shop.clients.get("/search", "status=200").await, 200);
        // No policy's at all.
        assert_eq!(shop.clients.get("/shopping", "status=503").await, 503);
    }
    assert_eq!((shop.upstream.requests_to("/search"), shop.upstream.requests_to("/shopping")), (5, 4));
    assert_ne!(shop.edge.state("search").await, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_share_what_has_the_same_namespace_and_vm() {
    let upstream = Upstream::start().await;
    let shop = || policy("shop", json!({"consecutive_failures": 2}));
    let here = document(&[shop()]);
    let named = json!({"namespace": "default", "policies": [shop(), policy("more", json!({"consecutive_failures": 9}))]});
    let elsewhere = json!({"namespace": "elsewhere", "policies": [shop()]});
    let other_vm =
        config::resilience_filter(&resilience_integration_tests::module(), "other", &here.to_string());
    let listeners = [
        plain_listener("edge", filter(&here)),
        plain_listener("twin", filter(&here)),
        plain_listener("sibling", filter(&named)),
        plain_listener("stranger", filter(&elsewhere)),
        plain_listener("apart", other_vm),
    ];
    let edge = Edge::start(bootstrap(&listeners, upstream.addr())).await;
    let mut edges = edge.clients(Protocol::Http1).await;
    let mut twins = edge.clients_of("twin", Protocol::Http1).await;
    let mut siblings = edge.clients_of("sibling", Protocol::Http1).await;
    let mut strangers = edge.clients_of("stranger", Protocol::Http1).await;
    let mut aparts = edge.clients_of("apart", Protocol::Http1).await;
    // One failure on each of two listeners trips the breaker of both, and of the third that shares it.
    assert_eq!(edges.get("/shop", "status=503").await, 503);
    assert_eq!(strangers.get("/shop", "status=503").await, 503);
    assert_eq!(aparts.get("/shop", "status=503").await, 503);
    assert_eq!(siblings.get("/shop", "status=503").await, 503);
    assert_eq!(upstream.requests(), 4);
    for clients in [&mut edges, &mut twins, &mut siblings] {
        for _ in 0..WORKERS {
            assert_refused(&clients.send(Request::get("/shop")).await, "shop");
        }
    }
    assert_eq!(upstream.requests(), 4);
    for clients in [&mut strangers, &mut aparts] {
        for _ in 0..WORKERS {
            assert_eq!(clients.get("/shop", "status=200").await, 200);
        }
    }
    assert_eq!(upstream.requests(), 4 + 2 * WORKERS);
}
