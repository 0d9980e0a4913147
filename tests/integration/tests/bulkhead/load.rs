//! Many clients at once: the limit holds exactly, and what is abandoned at any moment comes back.

use crate::traffic::{CLIENTS, Ended, Load};
use crate::*;
use std::sync::Arc;

const PERMITS: u32 = 50;
const SEED: u64 = 5;

/// Short enough that some waits end without a permit.
fn waiting() -> Value {
    json!({"max_concurrent_calls": PERMITS, "max_wait_duration": "40ms", "max_queue": 200})
}

/// Plays a load against a bulkhead of 50, watches the shared count meanwhile, and sees that it is whole afterwards.
async fn withstands(bulkhead: Value, load: Load) -> (Ended, Edge) {
    let upstream = Arc::new(Upstream::start().await);
    upstream.only_count();
    let policy = compartment("shop", bulkhead);
    let filter = filter(&document(&[policy]));
    let edge = Edge::routed(upstream.addr(), &[patient_route()], &[filter]).await;
    let ended = {
        let (address, upstream) = (edge.address, Arc::clone(&upstream));
        tokio::spawn(async move { load.run(address, &upstream).await })
    };
    // Those who came first hang: the bulkhead is full, and the upstream has them all at once.
    upstream.wait_in_flight(PERMITS as usize).await;
    let mut highest = 0;
    while !ended.is_finished() {
        upstream.release();
        let shown = edge.gauge(IN_FLIGHT, "shop").await.unwrap_or(0);
        assert!(shown <= PERMITS.into(), "{shown} in flight by the shared count");
        highest = highest.max(shown);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let ended = ended.await.expect("the clients were content");
    assert_eq!(upstream.max_in_flight(), PERMITS as usize);
    assert_eq!(ended.served + ended.refused + ended.abandoned, load.requests);
    assert!(ended.served > load.requests / 50 && ended.refused > CLIENTS / 2, "no real test: {ended:?}");
    assert!(highest > 0, "the count was never seen");
    wait_gauge(&edge, IN_FLIGHT, "shop", 0).await;
    wait_gauge(&edge, WAITING, "shop", 0).await;
    assert_eq!(edge.gauge(LIMIT, "shop").await, Some(PERMITS.into()));
    let labels = [("policy", "shop"), ("reason", "bulkhead_full"), ("class", "_")];
    let (refusals, all) = (edge.count(REJECTIONS, &labels).await, edge.count(REJECTIONS, &[]).await);
    assert_eq!(refusals, all);
    if load.aborts {
        assert!(ended.abandoned > load.requests * 3 / 10, "no real test: {ended:?}");
        assert!(refusals >= ended.refused as u64);
    } else {
        assert_eq!((upstream.requests(), refusals), (ended.served, ended.refused as u64));
    }
    let (none, lost) = (
        Vec::<String>::new(),
        edge.count("resilience_store_give_ups_total", &[("operation", "lease")]).await,
    );
    assert_eq!((traps(&edge.envoy), lost), (none, 0));
    upstream.wait_in_flight(0).await;
    all_permits_are_there(&edge, &upstream).await;
    (ended, edge)
}

/// So many requests can be held at once, and one more is not let in.
async fn all_permits_are_there(edge: &Edge, upstream: &Upstream) {
    let mut clients = edge.clients(Protocol::Http2).await;
    let mut held = Vec::new();
    let before = upstream.requests();
    for number in 0..PERMITS as usize {
        let request = Request::get("/shop").header("x-behave", "hang");
        held.push(clients.worker(number % WORKERS).start(request).await.unwrap());
        upstream.wait_requests(before + number + 1).await;
    }
    for _ in 0..WORKERS {
        assert_full(&clients.send(Request::get("/shop")).await, "shop");
    }
    assert_eq!((upstream.requests(), upstream.in_flight()), (before + held.len(), held.len()));
    upstream.release();
    for pending in held {
        served(pending).await;
    }
    wait_gauge(edge, IN_FLIGHT, "shop", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_exact() {
    withstands(limit(PERMITS), Load { requests: 100_000, aborts: false, seed: SEED }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_exact_where_requests_wait() {
    let (ended, edge) = withstands(waiting(), Load { requests: 20_000, aborts: false, seed: SEED }).await;
    // Envoy shows a histogram some seconds later.
    let waited = eventually("those that waited", PATIENCE, async || {
        let waited = edge.count(WAITED, &[("policy", "shop")]).await;
        (waited > CLIENTS as u64 / 2).then_some(waited)
    })
    .await;
    assert!(waited <= (ended.served + ended.refused) as u64 + 4, "{waited}");
}

#[tokio::test(flavor = "multi_thread")]
async fn aborts_never_leak() {
    withstands(limit(PERMITS), Load { requests: 40_000, aborts: true, seed: SEED }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aborts_of_those_who_wait_never_leak() {
    withstands(waiting(), Load { requests: 20_000, aborts: true, seed: SEED }).await;
}
