//! A budget without `retry`: the route's own retry policy is in charge, and capped.

use crate::*;

/// What a route is taken for that has not shown yet how often it retries.
const USUAL: usize = 3;

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

const IN_FLIGHT: usize = 50;
/// All fail, once so many as can be in flight are.
const TOGETHER: &str = "hang; status=503|status=503";

/// One flow after the other under one bound.
struct Flows {
    stage: Stage,
    bound: Bound,
    started: Instant,
    sent: usize,
}

impl Flows {
    /// Sends so many requests, holds every moment to `most(what the bound allows)`, and returns what was made and allowed at
    /// the end, from the first flow on.
    async fn play(
        &mut self,
        requests: usize,
        behaviour: &'static str,
        most: impl Fn(usize) -> usize,
    ) -> (usize, usize) {
        let Self { stage: Stage { upstream, edge, .. }, bound, started, sent } = self;
        let (before, reached) = (*sent, upstream.requests());
        let mut running = Flow { requests, connections: IN_FLIGHT, per_second: None }
            .start(edge.address, move |number| get(before + number).header("x-behave", behaviour));
        if behaviour == TOGETHER {
            upstream.wait_requests(reached + requests).await;
            upstream.release();
        }
        let mut last = (0, 0);
        running
            .watch(|running| {
                // In this order: what the upstream has got was sent before, and paid.
                let (_, made) = upstream.distinct_and_repeated();
                let plain = bound.retries(before + running.sent(), started.elapsed());
                let most = most(plain);
                assert!(made <= most, "{made} retries, at most {most}, by the bound {plain}");
                last = (made, plain);
            })
            .await;
        *sent += requests;
        // Whoever comes next finds all of it settled.
        wait_granted(edge, "shop", last.0).await;
        last
    }
}

/// Nobody tells the filter how often a route retries, which is more often than usual here. What is in flight before one of
/// them has shown it may go beyond the bound, and that once.
#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_retries_often_goes_beyond_the_bound_once_and_pays_for_it() {
    const RETRIES: usize = 9;
    let bound = Bound { percent: 20, floor: 120, ttl: 60 * SECOND };
    let stage = stage(retrying_route(9), json!({"min_retries_per_second": 2, "ttl": "60s"})).await;
    let mut flows = Flows { stage, bound, started: Instant::now(), sent: 0 };

    let beyond = (RETRIES - USUAL) * IN_FLIGHT;
    let (lesson, plain) = flows.play(IN_FLIGHT, TOGETHER, |plain| plain + beyond).await;
    println!("a route's own nine retries: {lesson} for the first {IN_FLIGHT} requests, {plain} by the bound");
    assert!(lesson > plain, "{lesson} retries: no real test");

    // Nobody adds to it: those who come pay it off, and then live by the bound.
    let (made, plain) = flows.play(2500, "status=503", |plain| plain.max(lesson)).await;
    println!("2500 failed requests later: {made} retries, {plain} by the bound");
    assert!(lesson < made && made <= plain, "{made} retries");

    // Nor does it come again when there is enough for all to have what is usual.
    let (before, _) = flows.play(IN_FLIGHT * USUAL * 5, "status=200", |plain| plain).await;
    assert_eq!(before, made, "what succeeds is not retried");
    let (made, plain) = flows.play(IN_FLIGHT, TOGETHER, |plain| plain).await;
    println!("the next {IN_FLIGHT} at once: {} retries, {made} in all, {plain} by the bound", made - before);
    assert!(made >= before + IN_FLIGHT, "{made} retries: no real test");
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

/// What `retry` says of them is heeded also where its own retries are not wanted.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_says_what_its_route_may_repeat() {
    let post = || Request::post("/shop", "a body");
    for mode in ["disabled", "shadow"] {
        for (retry, plain, with_key, with_own) in [
            (json!({}), 1, 3, 1),
            (json!({"non_idempotent": "always"}), 3, 3, 3),
            (json!({"non_idempotent": "never"}), 1, 1, 1),
            (json!({"idempotency_key": "x-request-key"}), 1, 1, 3),
        ] {
            let mut sections = json!({"retry": retry, "retry_budget": {}});
            sections["retry"]["mode"] = mode.into();
            let mut stage = Stage::routed(&[retrying_route(2)], &[filter(&shop(&sections))]).await;
            for (request, expected) in [
                (post(), plain),
                (post().header("idempotency-key", "order-7"), with_key),
                (post().header("x-request-key", "order-7"), with_own),
            ] {
                assert_eq!(
                    stage.attempts_of_failing(request.clone()).await,
                    expected,
                    "{sections}: {request:?}"
                );
            }
        }
    }
}
