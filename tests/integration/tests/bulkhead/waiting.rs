//! Requests that wait for a permit: who is next, whichever worker it is on.

use crate::*;

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_served_in_order_of_arrival() {
    let mut shop = Shop::open(patient(1, 20)).await;
    let first = shop.hold(shop_at(0)).await;
    let mut waiting = Vec::new();
    // Twice by each worker, and the second time in another order.
    for (number, worker) in (1..).zip([0, 1, 2, 3, 2, 0, 3, 1]) {
        waiting.push(shop.clients.worker(worker).start(shop_at(number)).await.unwrap());
        shop.waiting("shop", number).await;
    }
    assert_eq!(shop.upstream.requests(), 1);
    shop.in_flight("shop", 1).await;

    shop.upstream.release();
    served(first).await;
    let waited = waiting.len();
    for pending in waiting {
        served(pending).await;
    }
    let order: Vec<String> = shop.upstream.received().into_iter().map(|it| it.path).collect();
    let expected: Vec<String> = (0..=waited).map(|number| format!("/shop/{number}")).collect();
    assert_eq!(order, expected);
    assert_eq!(shop.upstream.max_in_flight(), 1);
    shop.edge.wait_count(WAITED, &[("policy", "shop")], waited as u64).await;
    assert_eq!(shop.edge.count(REJECTIONS, &[]).await, 0);
    shop.empty("shop").await;
}

fn shop_at(number: u64) -> Request {
    Request::get(&format!("/shop/{number}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_wakes_the_next_one_wherever_it_is() {
    // Were they found only by the ticks of their workers, twice a second, so many would take minutes.
    const MANY: usize = 400;
    let mut shop = Shop::open(patient(1, 1000)).await;
    let mut all = vec![shop.hold(self::shop()).await];
    for _ in 0..MANY {
        all.push(shop.start(self::shop()).await);
    }
    shop.waiting("shop", MANY as u64).await;
    shop.upstream.release();
    let served = async {
        for pending in all {
            served(pending).await;
        }
    };
    tokio::time::timeout(PATIENCE, served).await.expect("nobody waits for a tick");
    assert_eq!((shop.upstream.requests(), shop.upstream.max_in_flight()), (1 + MANY, 1));
    shop.empty("shop").await;
    shop.edge.wait_count(WAITED, &[("policy", "shop")], MANY as u64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_permits_that_come_back_serve_as_many() {
    let mut shop = Shop::open(patient(3, 20)).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(shop.hold(self::shop()).await);
    }
    let mut waiting = Vec::new();
    for number in 1..=6 {
        waiting.push(shop.wait(self::shop().header("x-behave", "hang"), number).await);
    }
    // Whoever comes now does not go before those who wait, although for a moment there are permits.
    for reached in [6, 9] {
        shop.upstream.release();
        shop.upstream.wait_requests(reached).await;
        shop.in_flight("shop", 3).await;
    }
    assert_eq!(shop.upstream.requests(), 9);
    shop.waiting("shop", 0).await;
    shop.upstream.release();
    for pending in held.into_iter().chain(waiting) {
        served(pending).await;
    }
    assert_eq!(shop.upstream.max_in_flight(), 3);
    shop.empty("shop").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_client_left_is_passed_over() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut shop = Shop::open(patient(1, 20)).await;
        let first = shop.hold(self::shop()).await;
        let mut leaver = shop.edge.clients(protocol).await;
        let mut leaving = Vec::new();
        for worker in 0..WORKERS {
            leaving.push(leaver.worker(worker).start(Request::get("/shop/left")).await.unwrap());
            shop.waiting("shop", worker as u64 + 1).await;
        }
        let last = shop.wait(self::shop(), 5).await;
        for pending in leaving.drain(..2) {
            pending.abandon();
        }
        shop.waiting("shop", 3).await;
        for pending in leaving {
            pending.disconnect();
        }
        shop.waiting("shop", 1).await;
        shop.upstream.release();
        served(first).await;
        served(last).await;
        assert_eq!(shop.upstream.requests_to("/shop/left"), 0);
        shop.empty("shop").await;
        // Whose client left has no wait to record.
        shop.edge.wait_count(WAITED, &[("policy", "shop")], 1).await;
        assert_eq!(shop.edge.count(REJECTIONS, &[]).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_leaves_when_it_is_served_keeps_nothing() {
    // The client leaves about when the permit comes: whichever is first, the one behind is served.
    let mut shop = Shop::open(patient(1, 20)).await;
    for round in 0..30 {
        let first = shop.start(Request::get("/shop/first").header("x-behave", "delay=20ms")).await;
        eventually("the first of a round", PATIENCE, async || {
            (shop.upstream.requests_to("/shop/first") == round + 1).then_some(())
        })
        .await;
        let leaving = shop.start(Request::get("/shop/left").header("x-behave", "hang")).await;
        let last = shop.start(self::shop()).await;
        served(first).await;
        if round % 3 == 0 {
            tokio::time::sleep(Duration::from_millis(round as u64 % 4)).await;
        }
        leaving.abandon();
        served(last).await;
    }
    shop.empty("shop").await;
    let held = shop.hold(self::shop()).await;
    let waiting = shop.wait(self::shop(), 1).await;
    shop.upstream.release();
    served(held).await;
    served(waiting).await;
    shop.empty("shop").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_arrives_during_the_wait_goes_along() {
    let mut shop = Shop::open(patient(1, 20)).await;
    let first = shop.hold(self::shop()).await;
    let post = shop.wait(Request::post("/shop", vec![b'.'; 300_000]), 1).await;
    let call = shop.wait(Request::grpc("/shop").header("x-behave", "grpc-trailers-only=0"), 2).await;
    shop.upstream.release();
    served(first).await;
    served(post).await;
    assert_eq!(call.headers().await.unwrap().finish().await.header("grpc-status"), "0");
    let received = shop.upstream.received();
    assert_eq!(received[1].headers["content-length"], "300000");
    shop.empty("shop").await;
}
