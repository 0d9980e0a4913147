//! Permits come back once, however a request ends and whatever callbacks that takes.

use crate::*;
use resilience_module_tests::orders::{ANSWERS, ENDINGS, orders};

#[test]
fn every_order_of_callbacks_gives_back_one_permit() {
    // Beside one that stays: a permit that came back twice would be its own.
    let shop =
        Shop::with(&strict(10).replace("\"consecutive_failures\": 3", "\"consecutive_failures\": 10000"), 1);
    let stays = hold(shop.vm());
    for order in orders(&[&ANSWERS[..], &ENDINGS].concat()) {
        let names: Vec<_> = order.iter().map(|(name, _)| *name).collect();
        let stream = hold(shop.vm());
        for (name, callback) in &order {
            callback(&stream);
            assert_eq!(crowd(&shop), (2, 0), "{names:?}, after {name}");
        }
        for _ in 0..2 {
            stream.delete().unwrap();
            assert_eq!(crowd(&shop), (1, 0), "{names:?}");
        }
    }
    leave(&stays, End::Status(200));
    assert_eq!((crowd(&shop), shop.metric(LEASE_ENDED)), ((0, 0), 0));
}

#[test]
fn however_a_request_ends_its_permit_comes_back_with_it() {
    let shop =
        Shop::with(&strict(2).replace("\"consecutive_failures\": 3", "\"consecutive_failures\": 10000"), 1);
    let stays = hold(shop.vm());
    for end in [
        End::Status(200),
        End::Status(404),
        End::Status(500),
        End::Grpc(0),
        End::Grpc(14),
        End::ConnectFailure,
        End::ResetInBody,
        End::ClientLeft,
    ] {
        let stream = hold(shop.vm());
        answer(&stream, end).unwrap();
        assert_eq!(crowd(&shop), (2, 0), "{end:?}");
        stream.finish().unwrap();
        assert_eq!(crowd(&shop), (1, 0), "{end:?}");
        // Answered by another filter, before it came to an upstream.
        assert_eq!(serve(shop.vm(), end).unwrap(), None);
    }
    leave(&stays, End::Status(200));
    assert_eq!(crowd(&shop), (0, 0));
}

#[test]
fn a_failure_counts_at_response_headers_and_the_permit_stays_until_the_end() {
    let shop = Shop::with(&strict(5), 2);
    let failing: Vec<_> = (0..3).map(|_| hold(shop.vm())).collect();
    failing.iter().for_each(|stream| answer(stream, End::Status(500)).unwrap());
    let reply = serve(&shop.vms[1], End::Status(200)).unwrap().expect("open");
    assert!(reply.header("x-resilience").unwrap().contains("circuit_open"));
    assert_eq!(crowd(&shop), (3, 0));
    failing.iter().for_each(|stream| stream.finish().unwrap());
    assert_eq!(crowd(&shop), (0, 0));
    assert_eq!(shop.metric("resilience_calls_total;policy=checkout;outcome=failure;slow=false"), 3);
}

#[test]
fn a_stream_of_an_hour_keeps_its_permit() {
    let shop = Shop::with(&strict(1), 2);
    let tunnel = hold(shop.vm());
    tunnel.set_response_headers(headers(&[(":status", "101"), ("upgrade", "websocket")]));
    tunnel.response_headers(false).unwrap();
    for _ in 0..360 {
        shop.pass(Duration::from_secs(10)).unwrap();
        shop.vms.iter().for_each(|vm| drop(vm.take_calls()));
        assert_eq!(crowd(&shop), (1, 0));
    }
    assert!(serve(&shop.vms[1], End::Status(200)).unwrap().is_some());
    tunnel.finish().unwrap();
    assert_eq!((crowd(&shop), shop.metric(LEASE_ENDED)), ((0, 0), 0));
    assert_eq!(serve(&shop.vms[1], End::Status(200)).unwrap(), None);
}

#[test]
fn every_order_of_the_ends_of_a_wait_leaves_nothing_behind() {
    type Step = (&'static str, fn(&Shop, &FakeStream, &FakeStream));
    let steps: [Step; 4] = [
        ("the holder ends", |_, holder, _| leave(holder, End::Status(200))),
        ("messages are read", |shop, _, _| assert!(deliver(shop) <= 1)),
        ("the wait is over", |shop, _, _| shop.pass(PATIENCE).unwrap()),
        ("the waiter ends", |_, _, waiter| waiter.finish().unwrap()),
    ];
    for order in orders(&steps) {
        let names: Vec<_> = order.iter().map(|(name, _)| *name).collect();
        let shop = Shop::with(&patient(2), 2);
        let stays = hold(&shop.vms[1]);
        let [holder, waiter] = [hold(shop.vm()), wait(&shop.vms[1])];
        for (_, step) in &order {
            step(&shop, &holder, &waiter);
            assert!(went_on(&waiter) + usize::from(waiter.local_response().is_some()) <= 1);
        }
        while deliver(&shop) > 0 {}
        assert_eq!(crowd(&shop), (1, 0), "{names:?}");
        leave(&stays, End::Status(200));
        assert_eq!((crowd(&shop), shop.metric(LEASE_ENDED)), ((0, 0), 0), "{names:?}");
    }
}

#[test]
fn headers_that_come_twice_take_one_permit_and_one_place() {
    let shop = Shop::with(&patient(1), 1);
    let holder = hold(shop.vm());
    holder.request_headers(true).unwrap();
    let waiter = wait(shop.vm());
    assert_eq!(waiter.request_headers(true).unwrap(), Action::Pause);
    assert_eq!(crowd(&shop), (1, 1));
    leave(&holder, End::Status(200));
    deliver(&shop);
    leave(&waiter, End::Status(200));
    while deliver(&shop) > 0 {}
    assert_eq!(crowd(&shop), (0, 0));
}
