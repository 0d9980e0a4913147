//! A refusal is a gRPC status to the client's library, whatever kind of call is refused.

use crate::{Shop, assert_refused, assert_told, fragile, metadata};
use resilience_integration_tests::*;
use resilience_test_grpc::{Client, Code, Plan, ReceiverStream, Status};
use resilience_test_harness::PATIENCE;
use serde_json::json;

/// What each kind of call on each worker fails with. A chat's client has sent a plan and means to send more.
async fn refusals(shop: &Shop, service: &str) -> Vec<Status> {
    let mut refusals = Vec::new();
    for client in &shop.clients {
        refusals.extend(client.unary(service, Plan::messages(1)).await.err());
        refusals.extend(client.stream(service, Plan::messages(5)).await.err());
        refusals.extend(refused_chat(client, service).await);
    }
    assert_eq!(refusals.len(), 3 * WORKERS);
    refusals
}

async fn refused_chat(client: &Client, service: &str) -> Option<Status> {
    let (plans, stream) = tokio::sync::mpsc::channel(1);
    plans.send(Plan::messages(1)).await.expect("nobody closed it");
    let refusal = client.chat(service, ReceiverStream::new(stream)).await.err();
    // The library lets go of the client's half too: it does not go on sending to nobody.
    tokio::time::timeout(PATIENCE, plans.closed()).await.expect("the call is over");
    refusal
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_call_is_refused_with_a_status() {
    let mut eager = fragile("eager");
    eager["discourage_retries"] = false.into();
    let mut shop = Shop::open(&[fragile("cart"), eager]).await;
    for service in ["cart", "eager"] {
        assert_told(&shop.fails(service, Plan::status(Code::Unavailable)).await, Code::Unavailable);
        for status in refusals(&shop, service).await {
            assert_refused(&status, service);
            let seconds: u64 = metadata(&status, "retry-after").parse().expect("seconds");
            assert!((1..=600).contains(&seconds), "{seconds}");
            let discouraged = if service == "cart" { "true" } else { "" };
            assert_eq!(metadata(&status, "x-envoy-ratelimited"), discouraged);
            // Made by us, not by the library of an HTTP error; and nothing of the HTTP answer is left in it.
            assert!(status.details().is_empty());
            assert_eq!(metadata(&status, "content-length"), "");
        }
        assert_eq!(shop.server.received(service), 1);
        let refused = [("policy", service), ("reason", "circuit_open")];
        let total = 3 * WORKERS as u64;
        assert_eq!(shop.edge.count("resilience_rejections_total", &refused).await, total);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_exposes_nothing_gives_a_status_and_no_reason() {
    let mut document = document(&[fragile("cart")]);
    document["expose"] = false.into();
    let mut shop = Shop::of(&document).await;
    assert_told(&shop.fails("cart", Plan::status_at_once(Code::Internal)).await, Code::Internal);
    for status in refusals(&shop, "cart").await {
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "unavailable"));
        assert_eq!(metadata(&status, "x-envoy-ratelimited"), "true");
        assert!(metadata(&status, "retry-after").parse::<u64>().is_ok());
        let told = format!("{status:?}").to_lowercase();
        for secret in ["cart", "circuit", "resilience", "reason", "open"] {
            assert!(!told.contains(secret), "{secret} in {told}");
        }
    }
    assert_eq!(shop.server.received("cart"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_fallback_is_a_status_too() {
    let mut cart = fragile("cart");
    cart["fallback"] = json!([{"static": {"status": 200, "json": {"items": []}}}]);
    let mut shop = Shop::open(&[cart]).await;
    assert_told(&shop.fails("cart", Plan::status(Code::Unknown)).await, Code::Unknown);
    for status in refusals(&shop, "cart").await {
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "circuit_open"));
        assert_eq!(metadata(&status, "x-resilience"), "cart;reason=circuit_open;source=static");
    }
    assert_eq!(shop.server.received("cart"), 1);
}
