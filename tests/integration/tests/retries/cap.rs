//! A budget without `retry`: the route's own retry policy is in charge, and capped.

use crate::*;

async fn stage(route: Value, budget: Value) -> Stage {
    let document = shop(&json!({"retry_budget": budget}));
    Stage::routed(&[route], &[filter(&document)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_has_its_own_retries_while_there_is_enough() {
    let mut stage = stage(retrying_route(2), json!({})).await;
    for _ in 0..2 * WORKERS {
        assert_eq!(stage.attempts_of_failing(get("one")).await, 3);
    }
    wait_granted(&stage.edge, "shop", 4 * WORKERS).await;
    assert_eq!(retries(&stage.edge, "denied").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_routes_retries_in_an_outage_are_bounded() {
    let stage = stage(retrying_route(2), json!({})).await;
    stage.upstream.behave(Behaviour::status(503));
    let mut running =
        Flow { requests: 1000, connections: 50, per_second: None }.start(stage.edge.address, get);
    let seen = Bound::DEFAULT.holds(&mut running, &stage.upstream).await;
    let Watch { requests, attempts, elapsed, .. } = seen;
    println!("a route's own two retries, capped: {requests} requests, {attempts} attempts in {elapsed:?}");
    assert_eq!(requests, 1000);
    assert!(attempts > 1200, "{attempts} attempts: nobody had a retry");
    wait_granted(&stage.edge, "shop", attempts - requests).await;
    assert!(retries(&stage.edge, "denied").await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_retries_are_ten_whatever_the_route_says() {
    let budget = json!({"percent_can_retry": 0, "min_retries_per_second": 1, "ttl": "10s"});
    let bound = Bound { percent: 0, floor: 10, ttl: 10 * SECOND };
    for retries in [1, 2, 3] {
        let stage = stage(retrying_route(retries), budget.clone()).await;
        stage.upstream.behave(Behaviour::status(503));
        let mut running =
            Flow { requests: 60, connections: 4, per_second: None }.start(stage.edge.address, get);
        let Watch { requests, attempts, .. } = bound.holds(&mut running, &stage.upstream).await;
        let made = attempts - requests;
        println!("a floor of 10, a route with {retries} retries: {made} retries of 60 requests");
        assert!(made >= 8, "{made} retries");
        assert_eq!(requests, 60);
    }
}

/// Nobody tells the filter how often a route retries, which is more often than usual here.
#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_retries_often_is_bounded_from_its_first_request() {
    let stage = stage(retrying_route(9), json!({})).await;
    stage.upstream.behave(Behaviour::status(503));
    let mut running =
        Flow { requests: 1000, connections: 50, per_second: None }.start(stage.edge.address, get);
    running.watch(|_| ()).await;
    let (requests, made) = stage.upstream.distinct_and_repeated();
    let most = Bound::DEFAULT.retries(requests, running.elapsed());
    println!("a route's own nine retries, capped: {requests} requests, {made} retries, at most {most}");
    assert!(made <= most, "{made} retries, at most {most}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_without_a_retry_policy_never_retries() {
    let mut stage = stage(patient_route(), json!({})).await;
    for _ in 0..2 * WORKERS {
        assert_eq!(stage.attempts_of_failing(get("one")).await, 1);
    }
    stage.edge.wait_calls("shop", Calls { failure: 2 * WORKERS as u64, ..Calls::default() }).await;
    assert_eq!(retries(&stage.edge, "granted").await, 0);
    wait_balance(&stage.edge, "shop", 100 + 2 * WORKERS as u64 / 5).await;
}

/// The route's words stay its own: nothing of ours widens them.
#[tokio::test(flavor = "multi_thread")]
async fn a_cap_widens_nothing() {
    let mut route = retrying_route(2);
    route["route"]["retry_policy"]["retry_on"] = "gateway-error".into();
    let mut stage = stage(route, json!({})).await;
    for (behaviour, attempts) in [("status=500", 1), ("status=409", 1), ("status=503", 3)] {
        assert_eq!(stage.attempts(get("one").header("x-behave", behaviour)).await.1, attempts, "{behaviour}");
    }
}

/// What may do harm is not repeated, whoever would repeat it.
#[tokio::test(flavor = "multi_thread")]
async fn a_route_does_not_repeat_what_may_do_harm() {
    let mut stage = stage(retrying_route(2), json!({})).await;
    let post = || Request::post("/shop", "a body");
    assert_eq!(stage.attempts_of_failing(post()).await, 1);
    assert_eq!(stage.attempts_of_failing(post().header("idempotency-key", "order-7")).await, 3);
}
