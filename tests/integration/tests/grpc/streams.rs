//! Streaming calls: what counts is how they end.

use crate::{SECOND, Shop, assert_refused, assert_told, calls, fragile, recovering};
use resilience_integration_tests::*;
use resilience_test_grpc::{Code, Hold, Plan, ReceiverStream, Status, Streaming, Tick};
use resilience_test_harness::PATIENCE;
use serde_json::json;
use std::time::Instant;
use tokio::time::timeout;

async fn next(stream: &mut Streaming<Tick>) -> Result<Option<Tick>, Status> {
    timeout(PATIENCE, stream.message()).await.expect("a message or the end")
}

/// The number of messages that come before the end, and the end.
async fn rest(stream: &mut Streaming<Tick>) -> (usize, Result<(), Status>) {
    let mut messages = 0;
    loop {
        match next(stream).await {
            Ok(Some(_)) => messages += 1,
            Ok(None) => return (messages, Ok(())),
            Err(status) => return (messages, Err(status)),
        }
    }
}

async fn stream(shop: &mut Shop, plan: Plan) -> Streaming<Tick> {
    shop.client().stream("cart", plan).await.expect("headers").into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_one_failure_however_many_messages_came_before() {
    let breaker = json!({"consecutive_failures": 2, "wait_duration_in_open_state": "10m"});
    let mut shop = Shop::open(&[policy("cart", breaker)]).await;
    for failures in 1..=2 {
        let (messages, end) =
            rest(&mut stream(&mut shop, Plan::messages(5).then(Code::Unavailable)).await).await;
        assert_eq!(messages, 5);
        assert_told(&end.unwrap_err(), Code::Unavailable);
        shop.edge.wait_calls("cart", calls(0, failures, 0)).await;
    }
    shop.refused_by_all("cart").await;
    assert_eq!(shop.server.received("cart"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_well_is_one_success() {
    let mut shop = Shop::open(&[fragile("cart")]).await;
    for (successes, status) in [(1, Code::Ok), (2, Code::NotFound), (3, Code::OutOfRange)] {
        let (messages, end) = rest(&mut stream(&mut shop, Plan::messages(5).then(status)).await).await;
        let code = end.map_or_else(|status| status.code(), |()| Code::Ok);
        assert_eq!((messages, code), (5, status));
        shop.edge.wait_calls("cart", calls(successes, 0, 0)).await;
    }
    shop.succeeds("cart", WORKERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_in_flight_goes_on_when_the_breaker_opens() {
    let mut shop = Shop::open(&[fragile("cart")]).await;
    let (plans, to_send) = tokio::sync::mpsc::channel(1);
    let chat = shop.client().chat("cart", ReceiverStream::new(to_send)).await.expect("headers");
    let mut chat = chat.into_inner();
    plans.send(Plan::messages(1)).await.unwrap();
    assert!(next(&mut chat).await.unwrap().is_some());

    assert_told(&shop.fails("cart", Plan::status(Code::Unavailable)).await, Code::Unavailable);
    shop.refused_by_all("cart").await;
    for _ in 0..3 {
        plans.send(Plan::messages(2)).await.unwrap();
        assert_eq!(next(&mut chat).await.unwrap(), Some(Tick { number: 0 }));
        assert_eq!(next(&mut chat).await.unwrap(), Some(Tick { number: 1 }));
    }
    shop.edge.wait_calls("cart", calls(0, 1, 0)).await;
    drop(plans);
    assert!(matches!(rest(&mut chat).await, (0, Ok(()))));
    // It was a success, and about a state that is gone.
    shop.edge.wait_calls("cart", calls(1, 1, 0)).await;
    shop.refused_by_all("cart").await;
    assert_eq!(shop.server.received("cart"), 2);
}

/// A probe that streams, with all its messages there and its status still to come.
async fn probing(shop: &mut Shop, code: Code) -> Streaming<Tick> {
    assert_told(&shop.fails("cart", Plan::status(Code::Unavailable)).await, Code::Unavailable);
    pass(Instant::now(), SECOND).await;
    let mut probe = stream(shop, Plan::messages(3).held(Hold::Status).then(code)).await;
    for number in 0..3 {
        assert_eq!(next(&mut probe).await.unwrap(), Some(Tick { number }));
    }
    shop.edge.wait_calls("cart", calls(0, 1, 0)).await;
    shop.refused_by_all("cart").await;
    assert_eq!(shop.edge.state("cart").await, Some(1));
    probe
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probes_verdict_is_its_final_status_not_its_headers() {
    let mut shop = Shop::open(&[recovering("cart")]).await;
    let mut probe = probing(&mut shop, Code::Unavailable).await;
    shop.server.release();
    assert_told(&rest(&mut probe).await.1.unwrap_err(), Code::Unavailable);
    shop.edge.wait_calls("cart", calls(0, 2, 0)).await;
    assert_eq!(shop.edge.transitions("cart", "open", "probes").await, 1);
    assert_eq!(shop.edge.transitions("cart", "closed", "probes").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_ends_well_closes_at_its_end() {
    let mut shop = Shop::open(&[recovering("cart")]).await;
    let mut probe = probing(&mut shop, Code::Ok).await;
    shop.server.release();
    assert!(matches!(rest(&mut probe).await, (0, Ok(()))));
    shop.edge.wait_calls("cart", calls(1, 1, 0)).await;
    assert_eq!(shop.edge.transitions("cart", "closed", "probes").await, 1);
    shop.succeeds("cart", WORKERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_the_server_resets_is_a_failure() {
    let mut shop = Shop::open(&["headers", "messages", "status"].map(fragile)).await;
    // Before headers Envoy answers in the server's place, and the client hears that it is not there.
    let plan = Plan { at_once: true, ..Plan::messages(0).then_reset() };
    let status = shop.client().stream("headers", plan).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    // What a reset overtakes is lost: messages, even headers.
    let status = match shop.client().stream("messages", Plan::messages(2).then_reset()).await {
        Ok(answer) => rest(&mut answer.into_inner()).await.1.expect_err("a reset is no end"),
        Err(status) => status,
    };
    assert!(!crate::is_refusal(&status), "{status:?}");
    // Unless it waits until they are there.
    let plan = Plan::messages(2).held(Hold::Status).then_reset();
    let mut cut = shop.client().stream("status", plan).await.expect("headers").into_inner();
    for number in 0..2 {
        assert_eq!(next(&mut cut).await.unwrap(), Some(Tick { number }));
    }
    shop.server.release();
    let status = rest(&mut cut).await.1.expect_err("a reset is no end");
    assert!(!crate::is_refusal(&status), "{status:?}");
    for service in ["headers", "messages", "status"] {
        shop.edge.wait_calls(service, calls(0, 1, 0)).await;
        assert_refused(&shop.fails(service, Plan::messages(1)).await, service);
        assert_eq!(shop.server.received(service), 1);
    }
}
