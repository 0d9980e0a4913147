//! Clients that give a call up, by themselves or by a deadline: that proves nothing, unless the status was there.

use crate::{SECOND, Shop, assert_told, calls, fragile, recovering};
use resilience_integration_tests::*;
use resilience_test_grpc::{Client, Code, Hold, Plan};
use resilience_test_harness::{PATIENCE, eventually};
use std::time::Instant;

/// Starts a call that the server has in hand without an answer, and gives it up.
async fn give_up_before_headers(shop: &mut Shop, service: &'static str) {
    let silent = Plan::messages(1).held(Hold::Headers);
    let client = shop.client().clone();
    let call = tokio::spawn(async move { client.unary(service, silent).await });
    shop.server.wait_in_hand(service, 1).await;
    call.abort();
    shop.server.wait_in_hand(service, 0).await;
}

/// Starts a stream, takes its messages, and gives it up before its status.
async fn give_up_before_status(shop: &mut Shop, service: &str) {
    let client: Client = shop.client().clone();
    let plan = Plan::messages(3).held(Hold::Status);
    let mut stream = client.stream(service, plan).await.expect("headers").into_inner();
    for _ in 0..3 {
        stream.message().await.unwrap().expect("a message");
    }
    shop.server.wait_in_hand(service, 1).await;
    drop(stream);
    shop.server.wait_in_hand(service, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_given_up_before_its_headers_proves_nothing() {
    let mut shop = Shop::open(&[fragile("cart")]).await;
    for ignored in 1..=WORKERS as u64 {
        give_up_before_headers(&mut shop, "cart").await;
        shop.edge.wait_calls("cart", calls(0, 0, ignored)).await;
    }
    shop.succeeds("cart", WORKERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_given_up_before_its_status_proves_nothing() {
    let mut shop = Shop::open(&[fragile("cart")]).await;
    for ignored in 1..=WORKERS as u64 {
        give_up_before_status(&mut shop, "cart").await;
        shop.edge.wait_calls("cart", calls(0, 0, ignored)).await;
    }
    shop.succeeds("cart", WORKERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_given_up_before_its_status_makes_room_for_another() {
    let mut shop = Shop::open(&[recovering("cart")]).await;
    assert_told(&shop.fails("cart", Plan::status(Code::Unavailable)).await, Code::Unavailable);
    pass(Instant::now(), SECOND).await;
    for ignored in 1..=WORKERS as u64 {
        give_up_before_status(&mut shop, "cart").await;
        shop.edge.wait_calls("cart", calls(0, 1, ignored)).await;
        assert_eq!(shop.edge.state("cart").await, Some(1));
    }
    give_up_before_headers(&mut shop, "cart").await;
    shop.edge.wait_calls("cart", calls(0, 1, WORKERS as u64 + 1)).await;
    shop.succeeds("cart", 1).await;
    shop.edge.wait_calls("cart", calls(1, 1, WORKERS as u64 + 1)).await;
    assert_eq!(shop.edge.transitions("cart", "closed", "probes").await, 1);
    shop.succeeds("cart", WORKERS).await;
}

/// Client and server keep the same deadline. Whoever is first, the client hears of it and the upstream is not to blame: the
/// one leaves, the other answers `CANCELLED`.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_of_the_callers_is_no_failure() {
    let mut shop = Shop::open(&[fragile("cart")]).await;
    let hasty = shop.client().clone().deadline(SECOND);
    let silent = Plan::messages(1).held(Hold::Headers);
    let call = tokio::spawn(async move { hasty.unary("cart", silent).await });
    eventually("the call at the server", PATIENCE, async || {
        (shop.server.received("cart") == 1).then_some(())
    })
    .await;
    let status = call.await.expect("no panic").unwrap_err();
    assert_eq!(status.code(), Code::Cancelled, "{status:?}");
    shop.server.wait_in_hand("cart", 0).await;
    eventually("the call to be counted", PATIENCE, async || {
        let counted = shop.edge.calls("cart").await;
        assert_eq!(counted.failure, 0);
        (counted.success + counted.ignored == 1).then_some(())
    })
    .await;
    shop.succeeds("cart", WORKERS).await;
}
