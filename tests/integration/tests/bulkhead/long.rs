//! Streams that live longer than a lease keep their permit: it is the worker that has to live, not the request.

use crate::*;
use resilience_test_grpc::{Client, Code, Hold, Plan, Server};
use resilience_test_harness::config::{self, cluster, connection_manager, virtual_host, with_http2};

/// A lease is five seconds long, and what it frees is seen by a tick or two later.
const LONG: Duration = Duration::from_secs(8);

/// Nobody is let in for that long.
async fn full_for_long(shop: &mut Shop) {
    let started = Instant::now();
    while started.elapsed() < LONG {
        shop.full_for_all("shop").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    shop.in_flight("shop", 1).await;
    let lost = [("operation", "lease")];
    assert_eq!(shop.edge.count("resilience_store_give_ups_total", &lost).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_keeps_its_permit() {
    let upstream = Upstream::start().await;
    let filters = [filter(&document(&[compartment("shop", limit(1))]))];
    let mut manager = connection_manager(&[virtual_host("all", &[patient_route()])], &filters);
    manager["upgrade_configs"] = json!([{"upgrade_type": "websocket"}]);
    let edge = Edge::start(bootstrap(&[listener("edge", manager)], upstream.addr())).await;
    let mut shop = Shop::of(upstream, edge).await;
    let mut socket = Upgraded::open(shop.edge.address, "/shop").await.expect("101");
    socket.echo(b"hello").await;
    full_for_long(&mut shop).await;
    socket.echo(b"still there").await;
    let refused = Upgraded::open(shop.edge.address, "/shop").await.expect_err("no permit");
    assert!(refused.contains("shop;reason=bulkhead_full;source=none"), "{refused}");
    drop(socket);
    shop.empty("shop").await;
    served(shop.start(self::shop()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_stream_keeps_its_permit() {
    let server = Server::start().await;
    let listener =
        routed_listener("edge", &[patient_route()], &[filter(&document(&[compartment("shop", limit(1))]))]);
    let clusters = [with_http2(cluster(UPSTREAM, &[server.addr()]))];
    let edge = Edge::start(config::bootstrap(&[listener], &clusters)).await;
    // What is refused does not get to any upstream: this one is never reached.
    let mut shop = Shop::of(Upstream::start().await, edge).await;
    let client = Client::connect(shop.edge.address).await;
    let mut stream =
        client.stream("shop", Plan::messages(2).held(Hold::Status)).await.expect("headers").into_inner();
    for number in 0..2 {
        assert_eq!(stream.message().await.expect("a message").expect("a message").number, number);
    }
    full_for_long(&mut shop).await;
    let refused = client.unary("shop", Plan::messages(1)).await.expect_err("no permit");
    assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, "bulkhead_full"));
    server.release();
    assert_eq!(stream.message().await.expect("OK"), None);
    shop.empty("shop").await;
    client.unary("shop", Plan::messages(1)).await.expect("OK");
    shop.empty("shop").await;
    assert_eq!(server.received("shop"), 2);
}
