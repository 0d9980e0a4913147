//! A compartment that is full, and the others.

use crate::*;
use resilience_test_harness::config::{self, cluster, route};

const COLOURS: [&str; 2] = ["blue", "green"];

#[tokio::test(flavor = "multi_thread")]
async fn a_full_compartment_leaves_the_others_alone() {
    const CHECKOUT: usize = 5;
    const BROWSERS: usize = 10;
    let mut shop = Shop::with(&[
        compartment("checkout", limit(CHECKOUT as u32)),
        compartment("catalogue", limit(30)),
        compartment("idle", limit(10)),
    ])
    .await;
    let mut held = Vec::new();
    for _ in 0..CHECKOUT {
        held.push(shop.hold(Request::get("/checkout")).await);
    }
    shop.full_for_all("checkout").await;
    shop.in_flight("checkout", CHECKOUT as u64).await;

    for protocol in [Protocol::Http1, Protocol::Http2] {
        let browse = |number| Request::get(&format!("/catalogue/{number}"));
        for answer in burst(shop.edge.address, protocol, 400, BROWSERS, browse).await {
            let answer = answer.expect("an answer");
            assert_eq!((answer.status, answer.header("x-resilience")), (200, String::new()));
        }
        shop.full_for_all("checkout").await;
    }
    assert_eq!(shop.refused("catalogue", "_").await, 0);
    assert_eq!(shop.refused("checkout", "_").await, 3 * WORKERS as u64);
    assert_eq!(shop.edge.count(REJECTIONS, &[]).await, 3 * WORKERS as u64);

    shop.upstream.release();
    for pending in held {
        served(pending).await;
    }
    for (name, limit) in [("checkout", CHECKOUT as u64), ("catalogue", 30), ("idle", 10)] {
        shop.empty(name).await;
        assert_eq!(shop.edge.gauge(LIMIT, name).await, Some(limit), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_cluster_has_a_compartment_of_its_own() {
    let upstream = Upstream::start().await;
    let to = |colour: &&str| {
        let mut route = route(colour, "/", colour);
        route["match"]["headers"] = json!([{"name": "x-colour", "string_match": {"exact": colour}}]);
        route["route"]["timeout"] = "0s".into();
        route
    };
    let routes: Vec<Value> = COLOURS.iter().map(to).collect();
    let clusters: Vec<Value> = COLOURS.iter().map(|colour| cluster(colour, &[upstream.addr()])).collect();
    let mut keyed = compartment("shop", limit(2));
    keyed["key"] = "upstream_cluster".into();
    let listener = routed_listener("edge", &routes, &[filter(&document(&[keyed]))]);
    let edge = Edge::start(config::bootstrap(&[listener], &clusters)).await;
    let mut shop = Shop::of(upstream, edge).await;
    let of = |colour: &str| Request::get("/shop").header("x-colour", colour);
    let mut held = vec![shop.hold(of("blue")).await, shop.hold(of("blue")).await];
    for _ in 0..WORKERS {
        assert_full(&shop.ask(of("blue")).await, "shop");
    }
    held.push(shop.hold(of("green")).await);
    // Sums over the clusters, and the limit of one.
    shop.in_flight("shop", 3).await;
    wait_gauge(&shop.edge, LIMIT, "shop", 2).await;
    held.push(shop.hold(of("green")).await);
    for colour in COLOURS {
        assert_full(&shop.ask(of(colour)).await, "shop");
    }
    shop.upstream.release();
    for pending in held {
        served(pending).await;
    }
    shop.empty("shop").await;
}
