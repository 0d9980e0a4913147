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

/// An attempt that may last as long as the whole may do so whatever the route says of attempts.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_has_all_the_time_is_not_cut_short_by_its_route() {
    let mut route = route_of("60s");
    route["route"]["retry_policy"] = json!({"retry_on": "connect-failure", "per_try_timeout": "0.2s"});
    for (timeout, of_caller, status) in [
        // A policy that does not say what an attempt may take leaves that to the route.
        (json!({"total": "40s"}), None, 504),
        (json!({"total": "40s", "per_try": "40s"}), None, 200),
        (json!({"total": "60s", "per_try": "50s"}), Some(40_000), 200),
    ] {
        let document = shop(true, &json!({"timeout": timeout}));
        let mut stage = Stage::believing(std::slice::from_ref(&route), &document).await;
        for _ in 0..WORKERS {
            let request = match of_caller {
                Some(milliseconds) => within(EXPECTED, milliseconds),
                None => Request::get("/shop"),
            };
            let (answer, attempts) = stage.attempts(request.header("x-behave", "delay=1000ms")).await;
            assert_eq!((answer.status, attempts), (status, 1), "{timeout}");
        }
    }
}
