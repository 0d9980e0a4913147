//! Classes of requests: the highest is shed last.

use crate::*;
use resilience_test_harness::config::route;

/// Ten permits: 10 for gold, 8 for silver, 4 for bulk.
fn classes(calls: u32) -> Value {
    json!({
        "max_concurrent_calls": calls,
        "priority": {
            "header": "x-class",
            "default": "bulk",
            "classes": [
                {"name": "gold", "max_share": 100},
                {"name": "silver", "max_share": 80},
                {"name": "bulk", "max_share": 40},
            ],
        },
    })
}

fn with_queue(mut bulkhead: Value, queue: u32) -> Value {
    bulkhead["max_wait_duration"] = FOR_EVER.into();
    bulkhead["max_queue"] = queue.into();
    bulkhead
}

fn of(class: &str) -> Request {
    Request::get(&format!("/shop/{class}")).header("x-class", class)
}

/// Every worker refuses a class.
async fn full_for(shop: &mut Shop, class: &str) {
    for _ in 0..WORKERS {
        assert_full(&shop.ask(of(class)).await, "shop");
    }
}

async fn finish(shop: &Shop, held: Vec<Pending>) {
    shop.upstream.release();
    for pending in held {
        served(pending).await;
    }
    shop.empty("shop").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_has_its_share_and_no_more() {
    let mut shop = Shop::open(classes(10)).await;
    let mut held = Vec::new();
    for (class, until) in [("bulk", 4), ("silver", 8), ("gold", 10)] {
        while held.len() < until {
            held.push(shop.hold(of(class)).await);
        }
        full_for(&mut shop, class).await;
    }
    for class in ["bulk", "silver"] {
        full_for(&mut shop, class).await;
    }
    for (class, times) in [("gold", 1), ("silver", 2), ("bulk", 2)] {
        assert_eq!(shop.refused("shop", class).await, times * WORKERS as u64, "{class}");
    }
    assert_eq!(shop.edge.count(REJECTIONS, &[]).await, 5 * WORKERS as u64);
    assert_eq!(shop.upstream.requests(), 10);
    finish(&shop, held).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_is_of_all_that_is_in_flight() {
    let mut shop = Shop::open(classes(10)).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(shop.hold(of("gold")).await);
    }
    full_for(&mut shop, "bulk").await;
    held.push(shop.hold(of("silver")).await);
    finish(&shop, held).await;

    // However small, a share is one.
    let mut shop = Shop::open(classes(1)).await;
    let held = vec![shop.hold(of("bulk")).await];
    full_for(&mut shop, "gold").await;
    finish(&shop, held).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_class_of_a_request() {
    let by_metadata = |name: &str, class: &str| {
        let mut route = route(UPSTREAM, &format!("/metadata/{name}"), UPSTREAM);
        route["metadata"] = json!({"filter_metadata": {"shop": {"class": class}}});
        route
    };
    let mut metadata = compartment("metadata", classes(2));
    let priority = metadata["bulkhead"]["priority"].as_object_mut().unwrap();
    priority.remove("header");
    priority.insert("metadata".to_owned(), json!({"namespace": "shop", "key": "class"}));
    let mut vip = compartment("vip", classes(2));
    vip["class"] = "gold".into();
    let mut fixed = compartment("fixed", classes(2));
    fixed["bulkhead"]["priority"].as_object_mut().unwrap().remove("header");
    fixed["class"] = "silver".into();
    let policies = [compartment("header", classes(2)), metadata, vip, fixed, compartment("plain", limit(1))];
    let upstream = Upstream::start().await;
    let routes = [by_metadata("gold", "gold"), by_metadata("odd", "odd"), patient_route()];
    let edge = Edge::routed(upstream.addr(), &routes, &[filter(&document(&policies))]).await;
    let mut shop = Shop::of(upstream, edge).await;
    // Of two permits gold has both, silver and bulk have one: a class shows in whether a second is let in, and in the label
    // of what is not.
    let rows = [
        ("/header", Some("gold"), "gold"),
        ("/header", Some("silver"), "silver"),
        ("/header", Some("odd"), "bulk"),
        ("/header", Some("GOLD"), "bulk"),
        ("/header", Some(""), "bulk"),
        ("/header", None, "bulk"),
        ("/metadata/gold", None, "gold"),
        ("/metadata/gold", Some("bulk"), "gold"),
        ("/metadata/odd", Some("gold"), "bulk"),
        ("/metadata", Some("gold"), "bulk"),
        ("/vip", None, "gold"),
        ("/vip", Some("odd"), "gold"),
        ("/vip", Some("silver"), "silver"),
        ("/fixed", Some("gold"), "silver"),
        ("/plain", Some("gold"), "_"),
    ];
    for (path, header, class) in rows {
        let policy = path.split('/').nth(1).unwrap();
        let row = format!("{path} {header:?}");
        let ask = || {
            let request = Request::get(path);
            match header {
                Some(value) => request.header("x-class", value),
                None => request,
            }
        };
        let mut held = vec![shop.hold_when_free(policy, &ask()).await];
        if class == "gold" {
            held.push(shop.hold_when_free(policy, &ask()).await);
        }
        let before = shop.refused(policy, class).await;
        assert_full(&shop.ask(ask()).await, policy);
        assert_eq!(shop.refused(policy, class).await, before + 1, "{row}");
        shop.upstream.release();
        for pending in held {
            served(pending).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_are_served_by_class() {
    let mut shop = Shop::open(with_queue(classes(1), 20)).await;
    let mut all = vec![shop.hold(of("bulk")).await];
    let arrivals = ["bulk/1", "silver/1", "gold/1", "bulk/2", "gold/2", "silver/2"];
    for (waiting, name) in (1..).zip(arrivals) {
        let (class, _) = name.split_once('/').unwrap();
        let request = Request::get(&format!("/shop/{name}")).header("x-class", class);
        all.push(shop.wait(request, waiting).await);
    }
    finish(&shop, all).await;
    let order: Vec<String> = shop.upstream.received().into_iter().skip(1).map(|it| it.path).collect();
    let expected = ["gold/1", "gold/2", "silver/1", "silver/2", "bulk/1", "bulk/2"];
    assert_eq!(order, expected.map(|name| format!("/shop/{name}")));
    shop.edge.wait_count(WAITED, &[("policy", "shop")], 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_waits_is_not_let_in_over_its_share() {
    // Of five, bulk has two. Three come back; what bulk may not take is left, and gold takes it.
    let mut shop = Shop::open(with_queue(classes(5), 20)).await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(shop.hold(of("gold")).await);
    }
    let mut waiting = vec![shop.wait(of("bulk"), 1).await, shop.wait(of("bulk"), 2).await];
    for in_flight in (2..5).rev() {
        shop.upstream.release_one();
        shop.in_flight("shop", in_flight).await;
    }
    assert_eq!(shop.upstream.requests_to("/shop/bulk"), 0);
    held.push(shop.hold(of("gold")).await);
    shop.waiting("shop", 2).await;
    assert_eq!(shop.upstream.requests_to("/shop/bulk"), 0);
    for _ in 0..2 {
        shop.upstream.release_one();
    }
    // One in flight, and the first of those who wait.
    served(waiting.remove(0)).await;
    held.append(&mut waiting);
    finish(&shop, held).await;
    assert_eq!(shop.upstream.requests_to("/shop/bulk"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_evicts_the_youngest_of_the_lowest_class_below() {
    let mut shop = Shop::open(with_queue(classes(1), 2)).await;
    let held = shop.hold(of("gold")).await;
    let old_bulk = shop.wait(of("bulk"), 1).await;
    let young_bulk = shop.wait(of("bulk"), 2).await;
    let silver = shop.start(of("silver")).await;
    refused(young_bulk).await;
    let first_gold = shop.start(of("gold")).await;
    refused(old_bulk).await;
    // Only equals and higher ones wait: whoever comes is refused, at once.
    full_for(&mut shop, "bulk").await;
    full_for(&mut shop, "silver").await;
    let second_gold = shop.start(of("gold")).await;
    refused(silver).await;
    full_for(&mut shop, "gold").await;
    shop.waiting("shop", 2).await;
    for (class, times) in [("gold", 4), ("silver", 5), ("bulk", 6)] {
        assert_eq!(shop.refused("shop", class).await, times, "{class}");
    }
    shop.upstream.release();
    for pending in [held, first_gold, second_gold] {
        served(pending).await;
    }
    assert_eq!(shop.upstream.requests(), 3);
    shop.empty("shop").await;
    shop.edge.wait_count(WAITED, &[("policy", "shop")], 5).await;
}
