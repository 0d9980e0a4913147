//! The total is what a request may take, whatever its route says.

use crate::*;

fn route_of(timeout: &str) -> Value {
    let mut route = patient_route();
    route["route"]["timeout"] = timeout.into();
    route
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_upstream_is_answered_at_the_total() {
    const TOTAL: Duration = ms(500);
    // The route's own is replaced, be it none, longer or shorter.
    for of_route in ["0s", "60s", "0.1s"] {
        let document = shop(false, &json!({"timeout": {"total": "500ms"}}));
        let mut stage = Stage::routed(&[route_of(of_route)], &[filter(&document)]).await;
        let took = at_least_once_within(TOTAL + ms(200), async || {
            let (answer, took) = timed(&mut stage, hanging(Request::get("/shop"))).await;
            assert_eq!(answer.status, 504);
            assert!(took >= TOTAL - ms(10), "the route's {of_route}: {took:?}");
            took
        })
        .await;
        println!("total 500 ms, the route's timeout {of_route}: answered after {took:?}");
        let in_time = Request::get("/shop").header("x-behave", "delay=200ms");
        assert_eq!(stage.ask(in_time).await.status, 200, "the route's {of_route}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_has_its_own_time() {
    let document = shop(false, &json!({"timeout": {"per_try": "200ms"}}));
    let mut stage = Stage::routed(&[route_of("60s")], &[filter(&document)]).await;
    let (answer, took) = timed(&mut stage, hanging(Request::get("/shop"))).await;
    assert_eq!(answer.status, 504);
    assert!((ms(190)..ms(20_000)).contains(&took), "{took:?}");
}

/// An answer whose headers are there may take as long as Envoy's own timeout lets it: that is the same for both.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_in_time_is_whole() {
    let mut stage = stage(false, &json!({"timeout": {"total": "20s", "per_try": "10s"}})).await;
    for request in [
        Request::get("/shop"),
        Request::new(Method::HEAD, "/shop"),
        Request::post("/shop", vec![b'.'; 300_000]).header("x-behave", "whole"),
        Request::grpc("/shop/Cart/Add").header("x-behave", "grpc=0"),
    ] {
        let answer = stage.ask(request).await;
        assert_eq!((answer.status, answer.header("x-resilience"), answer.broken), (200, String::new(), None));
    }
    stage.edge.wait_calls("shop", Calls { success: 4, ..Calls::default() }).await;
}
