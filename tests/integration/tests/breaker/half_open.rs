//! The probes of a half-open breaker, and what ends its state.

use crate::{SECOND, Shop, assert_refused, calls};
use resilience_integration_tests::{Edge, WORKERS, document, filter, pass, plain_route, policy};
use resilience_test_harness::config;
use resilience_test_harness::*;
use serde_json::json;
use std::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_requests_at_once_are_one_probe() {
    exactly_the_permitted_reach_the_upstream(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_requests_at_once_are_seven_probes() {
    exactly_the_permitted_reach_the_upstream(7).await;
}

async fn exactly_the_permitted_reach_the_upstream(permitted: u64) {
    const CROWD: u64 = 200;
    let mut shop = Shop::open(json!({
        "consecutive_failures": 1,
        "wait_duration_in_open_state": "1s",
        "permitted_number_of_calls_in_half_open_state": permitted,
    }))
    .await;
    let opened = shop.trip().await;
    pass(opened, SECOND).await;
    let address = shop.edge.address;
    let crowd = tokio::spawn(async move {
        let request = |_| Request::get("/shop/crowd").header("x-behave", "hang");
        burst(address, Protocol::Http1, CROWD as usize, CROWD as usize, request).await
    });
    // The probes hang at the upstream until everybody else has been turned away: none of them makes room.
    let refused = [("policy", "shop"), ("reason", "circuit_open")];
    shop.edge.wait_count("resilience_rejections_total", &refused, CROWD - permitted).await;
    shop.upstream.wait_in_flight(permitted as usize).await;
    assert_eq!(shop.upstream.requests_to("/shop/crowd") as u64, permitted);
    assert_eq!(shop.edge.state("shop").await, Some(1));
    shop.upstream.release();
    let answers = crowd.await.unwrap();
    let (let_in, turned_away): (Vec<_>, Vec<_>) =
        answers.into_iter().map(Result::unwrap).partition(|answer| answer.status == 200);
    assert_eq!(let_in.len() as u64, permitted);
    for answer in turned_away {
        assert_refused(&answer, "shop");
        assert_eq!(answer.header("retry-after"), "1");
    }
    assert_eq!(shop.upstream.requests_to("/shop/crowd") as u64, permitted);
    shop.edge.wait_calls("shop", calls(permitted, 1, 0)).await;
    assert_eq!(shop.edge.state("shop").await, Some(0));
    assert_eq!(shop.transitions("half_open", "wait_over").await, 1);
    assert_eq!(shop.transitions("closed", "probes").await, 1);
    shop.answered(&[200; 2 * WORKERS]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_last_permitted_success_closes() {
    let mut shop = Shop::open(json!({
        "consecutive_failures": 1,
        "wait_duration_in_open_state": "1s",
        "permitted_number_of_calls_in_half_open_state": 3,
    }))
    .await;
    let opened = shop.trip().await;
    pass(opened, SECOND).await;
    for successes in 1..=2 {
        // 4xx is an answer like any other.
        shop.answered(&[404]).await;
        shop.edge.wait_calls("shop", calls(successes, 1, 0)).await;
        assert_eq!(shop.edge.state("shop").await, Some(1));
    }
    // The third and last place is taken: were the breaker closed, the others would pass.
    let (_connection, pending) = shop.held("hang").await;
    shop.refused_by_all().await;
    shop.upstream.release();
    assert_eq!(pending.headers().await.unwrap().status, 200);
    shop.edge.wait_calls("shop", calls(3, 1, 0)).await;
    assert_eq!(shop.edge.state("shop").await, Some(0));
    assert_eq!(shop.transitions("closed", "probes").await, 1);
    shop.answered(&[200; WORKERS]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_failed_probe_reopens_for_a_wait_of_its_own() {
    let mut shop = Shop::open(json!({
        "consecutive_failures": 2,
        "wait_duration_in_open_state": "2s",
        "permitted_number_of_calls_in_half_open_state": 3,
    }))
    .await;
    shop.answered(&[503]).await;
    let opened = shop.trip().await;
    pass(opened, 2 * SECOND).await;
    shop.answered(&[200]).await;
    // The probe takes its time, so that a wait counted from the half-open state's beginning would be noticed.
    pass(opened, 3 * SECOND).await;
    let reopened = shop.trip().await;
    shop.refused_by_all().await;
    pass(opened, 4 * SECOND).await;
    // On a machine that was busy meanwhile the new wait may be near its end as well.
    if reopened.elapsed() < 3 * SECOND / 2 {
        shop.refused_by_all().await;
    }
    assert_eq!(shop.transitions("open", "probes").await, 1);
    pass(reopened, 2 * SECOND).await;
    shop.answered(&[200, 200, 200]).await;
    shop.edge.wait_count("resilience_circuit_breaker_transitions_total", &[("to", "closed")], 1).await;
    assert_eq!(shop.transitions("half_open", "wait_over").await, 2);
    shop.answered(&[200; WORKERS]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_whose_client_left_makes_room_for_another() {
    let mut shop = Shop::open(json!({
        "consecutive_failures": 1,
        "wait_duration_in_open_state": "1s",
        "permitted_number_of_calls_in_half_open_state": 1,
        // So long that it cannot be what ends the state.
        "max_wait_duration_in_half_open_state": "10m",
    }))
    .await;
    let opened = shop.trip().await;
    pass(opened, SECOND).await;
    let (_connection, pending) = shop.held("hang").await;
    shop.refused_by_all().await;
    pending.abandon();
    shop.edge.wait_calls("shop", calls(0, 1, 1)).await;
    // Over HTTP/2 the connection stays and only the stream is reset.
    let mut clients = shop.edge.clients(Protocol::Http2).await;
    for left in 2..=1 + WORKERS {
        let hanging = Request::get("/shop").header("x-behave", "hang");
        let pending = clients.worker(left - 2).start(hanging).await.unwrap();
        shop.upstream.wait_requests(left + 1).await;
        shop.refused_by_all().await;
        pending.abandon();
        shop.edge.wait_calls("shop", calls(0, 1, left as u64)).await;
    }
    assert_eq!(shop.edge.state("shop").await, Some(1));
    shop.answered(&[200]).await;
    shop.edge.wait_calls("shop", calls(1, 1, 1 + WORKERS as u64)).await;
    assert_eq!(shop.edge.state("shop").await, Some(0));
    assert_eq!(shop.transitions("half_open", "wait_over").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_proved_nothing_makes_room_for_another() {
    let upstream = Upstream::start().await;
    let breaker = json!({
        "consecutive_failures": 1,
        "wait_duration_in_open_state": "1s",
        "permitted_number_of_calls_in_half_open_state": 1,
        "max_wait_duration_in_half_open_state": "10m",
    });
    let fault = config::typed(
        "envoy.filters.http.fault",
        "extensions.filters.http.fault.v3.HTTPFault",
        json!({"abort": {"header_abort": {}, "percentage": {"numerator": 100}}}),
    );
    let ours = filter(&document(&[policy("shop", breaker)]));
    let edge = Edge::routed(upstream.addr(), &[plain_route()], &[ours, fault]).await;
    let clients = edge.clients(Protocol::Http1).await;
    let mut shop = Shop { upstream, edge, clients };
    let opened = shop.trip().await;
    pass(opened, SECOND).await;
    for ignored in 1..=WORKERS as u64 {
        let aborted = Request::get("/shop").header("x-envoy-fault-abort-request", "503");
        let answer = shop.clients.send(aborted).await;
        assert_eq!((answer.status, answer.text().as_str()), (503, "fault filter abort"));
        shop.edge.wait_calls("shop", calls(0, 1, ignored)).await;
    }
    assert_eq!((shop.upstream.requests(), shop.edge.state("shop").await), (1, Some(1)));
    shop.answered(&[200]).await;
    shop.edge.wait_calls("shop", calls(1, 1, WORKERS as u64)).await;
    assert_eq!(shop.edge.state("shop").await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probes_verdict_falls_with_its_headers() {
    let mut shop = Shop::open(json!({
        "consecutive_failures": 1,
        "wait_duration_in_open_state": "1s",
        "permitted_number_of_calls_in_half_open_state": 1,
    }))
    .await;
    let opened = shop.trip().await;
    pass(opened, SECOND).await;
    let mut connection = Connection::open(shop.edge.address, Protocol::Http1).await.unwrap();
    let slow = Request::get("/shop").header("x-behave", "hang-mid-body");
    let streaming = connection.start(slow).await.unwrap().headers().await.unwrap();
    // Its body is still on the way, and everybody may come in again.
    shop.edge.wait_calls("shop", calls(1, 1, 0)).await;
    assert_eq!(shop.edge.state("shop").await, Some(0));
    shop.answered(&[200; WORKERS]).await;
    shop.upstream.release();
    assert_eq!(streaming.finish().await.text(), "upstream\n");
    // Judged once.
    shop.edge.wait_calls("shop", calls(1 + WORKERS as u64, 1, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_never_answers_does_not_keep_the_breaker_half_open() {
    let mut shop = Shop::open(json!({
        "consecutive_failures": 1,
        "wait_duration_in_open_state": "1s",
        "permitted_number_of_calls_in_half_open_state": 1,
        "max_wait_duration_in_half_open_state": "1s",
    }))
    .await;
    let opened = shop.trip().await;
    pass(opened, SECOND).await;
    let (_connection, pending) = shop.held("hang; status=503").await;
    // Nobody asks: housekeeping finds it out.
    let cause = [("policy", "shop"), ("to", "open"), ("cause", "half_open_timeout")];
    shop.edge.wait_count("resilience_circuit_breaker_transitions_total", &cause, 1).await;
    let reopened = Instant::now();
    pass(reopened, SECOND).await;
    shop.answered(&[200]).await;
    shop.edge.wait_calls("shop", calls(1, 1, 0)).await;
    assert_eq!(shop.edge.state("shop").await, Some(0));
    // It does answer at last, badly: that is about a state that is gone.
    assert!(!pending.is_over());
    shop.upstream.release();
    assert_eq!(pending.headers().await.unwrap().status, 503);
    shop.edge.wait_calls("shop", calls(1, 2, 0)).await;
    shop.answered(&[200; WORKERS]).await;
    assert_eq!(shop.transitions("open", "half_open_timeout").await, 1);
    assert_eq!(shop.transitions("open", "consecutive_failures").await, 1);
}
