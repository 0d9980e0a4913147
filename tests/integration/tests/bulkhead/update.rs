//! The configuration changes while requests are in flight and wait: each configuration holds to its own limit, over one
//! count.

use crate::*;
use resilience_test_harness::config;

/// A limit, and a version that shows in what `/canary` answers.
fn version(number: u32, bulkhead: Value) -> Value {
    document(&[compartment("shop", bulkhead), canary(number)])
}

fn as_listener(document: &Value) -> Value {
    config::listener_resource(routed_listener("edge", &[patient_route()], &[filter(document)]))
}

/// Lets some end, and waits until that is counted.
async fn release(shop: &Shop, times: usize, left: u64) {
    for _ in 0..times {
        shop.upstream.release_one();
    }
    shop.in_flight("shop", left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_limit_holds_for_what_was_in_flight_before() {
    let upstream = Upstream::start().await;
    let scratch = Scratch::new();
    let resource = |number, calls| config::extension_resource(filter(&version(number, limit(calls))));
    let mut file = DynamicFile::new(scratch.file("discovered.json"), &[resource(1, 10)]);
    let filter = config::discovered_wasm_filter("resilience", file.path());
    let edge = Edge::routed(upstream.addr(), &[patient_route()], &[filter]).await;
    let mut shop = Shop::of(upstream, edge).await;
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(shop.hold(self::shop()).await);
    }
    wait_gauge(&shop.edge, LIMIT, "shop", 10).await;

    file.replace(&[resource(2, 5)]);
    serves(shop.edge.address, 2).await;
    shop.full_for_all("shop").await;
    wait_gauge(&shop.edge, LIMIT, "shop", 5).await;
    shop.in_flight("shop", 8).await;
    release(&shop, 3, 5).await;
    shop.full_for_all("shop").await;
    release(&shop, 1, 4).await;
    held.push(shop.hold(self::shop()).await);
    shop.full_for_all("shop").await;

    file.replace(&[resource(3, 10)]);
    serves(shop.edge.address, 3).await;
    for _ in 0..5 {
        held.push(shop.hold(self::shop()).await);
    }
    shop.full_for_all("shop").await;
    wait_gauge(&shop.edge, LIMIT, "shop", 10).await;
    shop.in_flight("shop", 10).await;
    shop.upstream.release();
    for pending in held {
        served(pending).await;
    }
    shop.empty("shop").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_served_whatever_configurations_came_since() {
    let upstream = Upstream::start().await;
    let scratch = Scratch::new();
    let resource = |number| config::extension_resource(filter(&version(number, patient(1, 100))));
    let mut file = DynamicFile::new(scratch.file("discovered.json"), &[resource(1)]);
    let filter = config::discovered_wasm_filter("resilience", file.path());
    let edge = Edge::routed(upstream.addr(), &[patient_route()], &[filter]).await;
    let mut shop = Shop::of(upstream, edge).await;
    let mut all = vec![shop.hold(Request::get("/shop/0")).await];
    for number in 1..=3 {
        if number > 1 {
            file.replace(&[resource(number)]);
            serves(shop.edge.address, number).await;
        }
        for _ in 0..WORKERS {
            let waiting = all.len() as u64;
            all.push(shop.wait(Request::get(&format!("/shop/{waiting}")), waiting).await);
        }
    }
    shop.upstream.release();
    let count = all.len();
    for pending in all {
        served(pending).await;
    }
    let order: Vec<String> = shop.upstream.received().into_iter().map(|it| it.path).collect();
    let expected: Vec<String> = (0..count).map(|number| format!("/shop/{number}")).collect();
    assert_eq!(order.into_iter().filter(|path| path != "/canary").collect::<Vec<_>>(), expected);
    assert_eq!(shop.upstream.max_in_flight(), 1);
    shop.empty("shop").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_and_new_share_one_count_and_one_queue() {
    let upstream = Upstream::start().await;
    let scratch = Scratch::new();
    let mut file = DynamicFile::new(scratch.file("lds.json"), &[as_listener(&version(1, limit(10)))]);
    let bootstrap = config::with_listeners_from(bootstrap(&[], upstream.addr()), file.path());
    // While a listener drains, Envoy asks ever more of its connections to close: here hardly any.
    let edge = Edge::of(envoy(bootstrap).argument("--drain-time-s").argument("86400")).await;
    let mut old = Shop::of(upstream, edge).await;
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(old.hold(self::shop()).await);
    }
    file.replace(&[as_listener(&version(2, patient(5, 10)))]);
    serves(old.edge.address, 2).await;
    let mut new = old.edge.clients(Protocol::Http2).await;

    // The old one lets in up to its ten. By the new one there are too many in flight, and who asks it waits.
    for _ in 0..2 {
        held.push(old.hold(self::shop()).await);
    }
    old.full_for_all("shop").await;
    let mut waiting = Vec::new();
    for worker in 0..WORKERS {
        waiting.push(new.worker(worker).start(self::shop().header("x-behave", "hang")).await.unwrap());
        old.waiting("shop", worker as u64 + 1).await;
    }
    let reached = old.upstream.requests();
    release(&old, 5, 5).await;
    assert_eq!(old.upstream.requests(), reached);
    // What ends on the connections of the old one makes room for those who wait at the new one.
    for number in 1..=WORKERS {
        old.upstream.release_one();
        old.upstream.wait_requests(reached + number).await;
    }
    old.waiting("shop", 0).await;
    old.in_flight("shop", 5).await;
    old.upstream.release();
    for pending in held.into_iter().chain(waiting) {
        served(pending).await;
    }
    old.empty("shop").await;
    wait_gauge(&old.edge, LIMIT, "shop", 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_drains_gives_back_what_it_held() {
    let upstream = Upstream::start().await;
    let scratch = Scratch::new();
    let mut file = DynamicFile::new(scratch.file("lds.json"), &[as_listener(&version(1, patient(3, 10)))]);
    let bootstrap = config::with_listeners_from(bootstrap(&[], upstream.addr()), file.path());
    let edge = Edge::of(envoy(bootstrap).argument("--drain-time-s").argument("1")).await;
    let mut shop = Shop::of(upstream, edge).await;
    let mut gone = Vec::new();
    for _ in 0..3 {
        gone.push(shop.hold(self::shop()).await);
    }
    for number in 1..=2 {
        gone.push(shop.wait(self::shop(), number).await);
    }
    file.replace(&[as_listener(&version(2, limit(3)))]);
    serves(shop.edge.address, 2).await;
    shop.clients = shop.edge.clients(Protocol::Http2).await;
    // The old listener ends, and with it its connections, what is on them, and its root contexts.
    shop.edge.envoy.wait_stat("listener_manager.total_listeners_draining", |draining| draining == 0).await;
    for pending in gone {
        assert!(pending.headers().await.is_err());
    }
    shop.upstream.wait_in_flight(0).await;
    shop.empty("shop").await;
    assert_eq!(shop.upstream.requests_to("/shop"), 3, "who waited was let in with its connection gone");
    let held = [shop.hold(self::shop()).await, shop.hold(self::shop()).await, shop.hold(self::shop()).await];
    shop.full_for_all("shop").await;
    shop.upstream.release();
    for pending in held {
        served(pending).await;
    }
    shop.empty("shop").await;
}
