//! Two Envoys in a row, both with retries and a budget.

use crate::*;
use resilience_test_harness::config::cluster;

const REQUESTS: usize = 1000;

/// The outer one, the inner one behind it, and the upstream.
struct Chain {
    outer: Edge,
    inner: Edge,
    upstream: Upstream,
}

/// What both say, and what the inner one says beside that.
async fn chain(trust: bool, more: &Value) -> Chain {
    let upstream = Upstream::start().await;
    let mut sections = json!({"retry": {"max_retries": 3}});
    let outer = filter(&shop(&sections));
    for (name, section) in more.as_object().into_iter().flatten() {
        sections[name] = section.clone();
    }
    let mut document = shop(&sections);
    document["trust_caller_headers"] = trust.into();
    let listener = believing_listener("edge", &[patient_route()], &[filter(&document)]);
    let inner = Edge::start(bootstrap(&[listener], upstream.addr())).await;
    let mut listener = routed_listener("edge", &[patient_route()], &[outer]);
    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    manager["route_config"]["virtual_hosts"][0]["include_request_attempt_count"] = true.into();
    let clusters = [cluster(UPSTREAM, &[inner.address])];
    let outer = Edge::start(resilience_test_harness::config::bootstrap(&[listener], &clusters)).await;
    Chain { outer, inner, upstream }
}

impl Chain {
    /// How often the outer one called the inner one.
    async fn between(&self) -> usize {
        let calls = self.outer.envoy.stat("cluster.upstream.upstream_rq_total").await.expect("calls");
        usize::try_from(calls).expect("a few")
    }

    /// A total outage from a cold start: requests, calls between the two, attempts at the end, and the time.
    async fn outage(&self) -> (usize, usize, usize, Duration) {
        self.upstream.only_count();
        self.upstream.behave(Behaviour::status(503));
        let flow = Flow { requests: REQUESTS, connections: 50, per_second: None };
        let mut running = flow.start(self.outer.address, get);
        running.watch(|_| ()).await;
        assert_eq!(running.answers().get(&503), Some(&REQUESTS));
        let (elapsed, between) = (running.elapsed(), self.between().await);
        assert!(between <= Bound::DEFAULT.attempts(REQUESTS, elapsed), "{between} calls in {elapsed:?}");
        (running.sent(), between, self.upstream.requests(), elapsed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn budgets_in_a_row_multiply_shares_and_not_retries() {
    let chain = chain(false, &json!({})).await;
    let (requests, between, attempts, elapsed) = chain.outage().await;
    let most = Bound::DEFAULT.attempts(Bound::DEFAULT.attempts(requests, elapsed), elapsed);
    println!(
        "two in a row: {requests} requests, {between} between them, {attempts} attempts; at most {most}, not {}",
        requests * 16
    );
    assert!(attempts <= most, "{attempts} attempts in {elapsed:?}, at most {most}");
    assert!(attempts > between && between > requests, "somebody does not retry");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inner_one_that_trusts_the_outer_does_not_retry_its_retries() {
    let chain = chain(true, &json!({})).await;
    let (requests, between, attempts, elapsed) = chain.outage().await;
    // The outer one's retries pay nothing, and take from what the first attempts paid.
    let outer = Bound::DEFAULT.attempts(requests, elapsed);
    let most = outer + Bound::DEFAULT.retries(requests, elapsed);
    println!(
        "two in a row, with trust: {requests} requests, {between} between them, {attempts} attempts; at most {most}"
    );
    assert!(attempts <= most, "{attempts} attempts in {elapsed:?}, at most {most}");
    let denied = [("policy", "shop"), ("reason", "caller_retry")];
    let retried = (between - requests) as u64;
    chain.inner.wait_count(DENIED, &denied, retried).await;
    // One request alone: each of the outer's four attempts asks once, and only the first of them asks again.
    let chain = self::chain(true, &json!({})).await;
    chain.upstream.behave(Behaviour::status(503));
    let request = get("alone");
    send_once(chain.outer.address, Protocol::Http1, request).await.expect("an answer");
    assert_eq!((chain.between().await, chain.upstream.requests()), (4, 4 + 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_outer_one_does_not_retry_what_the_inner_one_refuses() {
    let breaker = json!({"circuit_breaker": {"mode": "forced_open", "consecutive_failures": 1}});
    let chain = chain(true, &breaker).await;
    for number in 1..=2 * WORKERS {
        let answer = send_once(chain.outer.address, Protocol::Http1, get(number)).await.expect("an answer");
        assert_eq!(answer.header("x-resilience"), "shop;reason=circuit_open;source=none");
        assert_eq!((chain.between().await, chain.upstream.requests()), (number, 0));
    }
}
