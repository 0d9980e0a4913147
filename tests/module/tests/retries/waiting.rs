//! A request that waits in a bulkhead pays, is granted retries and is told of its time when it is let in, not before.

use crate::*;

/// One at a time, the others wait for up to 10 s, a second each at most.
fn patient() -> String {
    shop_of(
        r#""retry": {"max_retries": 2}, "timeout": {"total": "1s", "per_try": "200ms"},
           "bulkhead": {"max_concurrent_calls": 1, "max_wait_duration": "10s", "max_queue": 10}"#,
    )
}

fn crowd(shop: &Shop) -> (u32, u32) {
    let state = state(shop);
    (state.bulkhead.in_flight(), state.bulkhead.waiting())
}

fn wait(vm: &FakeVm, is_whole: bool) -> FakeStream {
    let stream = arrive(vm);
    assert_eq!(stream.request_headers(is_whole).unwrap(), Action::Pause);
    assert!(stream.local_response().is_none(), "refused");
    stream
}

#[test]
fn a_waiter_has_its_retries_when_it_is_let_in_and_the_rest_of_its_time() {
    let config = patient();
    let shop = Shop::with(&config, 2);
    let holder = hold(shop.vm());
    let waiter = wait(&shop.vms[1], true);
    assert_eq!((balance(&shop, &config), written(&waiter).len()), ((FLOOR, 2), 0));
    shop.host.advance(Duration::from_millis(150));
    leave(&holder, 1, End::Status(200));
    assert_eq!(deliver(&shop), 1);
    assert_eq!((went_on(&waiter), balance(&shop, &config)), (1, (FLOOR, 2)));
    assert_eq!(told(&waiter), Some(2));
    assert_eq!(steering(&waiter, "x-envoy-upstream-rq-timeout-ms").as_deref(), Some("850"));
    assert_eq!(steering(&waiter, "x-envoy-upstream-rq-per-try-timeout-ms").as_deref(), Some("200"));
    leave(&waiter, 3, End::Status(200));
    assert_eq!((balance(&shop, &config), crowd(&shop)), ((FLOOR - 2, 0), (0, 0)));
}

#[test]
fn what_does_not_fit_any_more_after_a_wait_is_not_granted() {
    let config = patient();
    let shop = Shop::with(&config, 1);
    let holder = hold(shop.vm());
    let waiter = wait(shop.vm(), true);
    shop.host.advance(Duration::from_millis(500));
    leave(&holder, 1, End::Status(200));
    deliver(&shop);
    // 500 ms are left: two attempts of 200 ms and the wait between them.
    assert_eq!((told(&waiter), balance(&shop, &config)), (Some(1), (FLOOR, 1)));
    leave(&waiter, 1, End::Status(200));
    assert_eq!(balance(&shop, &config), (FLOOR, 0));
}

#[test]
fn one_whose_time_ends_while_it_waits_is_refused_and_has_paid_nothing() {
    let config = patient();
    let shop = Shop::with(&config, 2);
    let holder = hold(shop.vm());
    let waiter = wait(&shop.vms[1], true);
    assert!(shop.vms[1].tick_period(ROOT).unwrap() <= 500);
    shop.pass(Duration::from_millis(1000)).unwrap();
    let reply = refused(&waiter);
    assert_eq!((reply.status, reply.header("retry-after")), (504, None));
    assert_eq!(reply.header("x-resilience").unwrap(), "checkout;reason=deadline_exceeded;source=none");
    assert_eq!((balance(&shop, &config), crowd(&shop)), ((FLOOR, 2), (1, 0)));
    let late = "resilience_rejections_total;policy=checkout;reason=deadline_exceeded;class=_";
    assert_eq!(shop.metric(late), 1);
    leave(&holder, 1, End::Status(200));
    while deliver(&shop) > 0 {}
    assert_eq!((balance(&shop, &config), crowd(&shop)), ((FLOOR, 0), (0, 0)));
}

/// A host that goes on with a body while its headers are held would let the request go on with it.
#[test]
fn the_body_of_a_waiter_waits_with_it() {
    for ends_by in ["body", "trailers"] {
        let shop = Shop::with(&patient(), 1);
        let holder = hold(shop.vm());
        let waiter = wait(shop.vm(), false);
        assert_eq!(waiter.request_body(false).unwrap(), Action::Pause, "{ends_by}");
        let last = if ends_by == "body" { waiter.request_body(true) } else { waiter.request_trailers() };
        assert_eq!((last.unwrap(), went_on(&waiter)), (Action::Pause, 0), "{ends_by}");
        leave(&holder, 1, End::Status(200));
        deliver(&shop);
        assert_eq!(went_on(&waiter), 1, "{ends_by}");
        // It is there as a whole: the router's own clock runs.
        shop.pass(Duration::from_secs(3)).unwrap();
        assert_eq!(waiter.local_response(), None, "{ends_by}");
        leave(&waiter, 1, End::Status(200));
    }
}

#[test]
fn a_waiter_that_is_not_there_as_a_whole_when_it_is_let_in_is_bounded_by_us() {
    let config = patient();
    let shop = Shop::with(&config, 1);
    let holder = hold(shop.vm());
    let waiter = wait(shop.vm(), false);
    shop.host.advance(Duration::from_millis(400));
    leave(&holder, 1, End::Status(200));
    deliver(&shop);
    assert_eq!(went_on(&waiter), 1);
    assert_eq!(attempted(&waiter, 1).request_body(false).unwrap(), Action::Continue);
    shop.pass(Duration::from_millis(599)).unwrap();
    assert_eq!(waiter.local_response(), None);
    shop.pass(Duration::from_millis(1)).unwrap();
    assert_eq!(refused(&waiter).status, 504);
    assert_eq!((balance(&shop, &config), crowd(&shop)), ((FLOOR, 0), (0, 0)));
}

#[test]
fn every_order_of_the_ends_of_a_wait_leaves_nothing_kept() {
    for leaves in [false, true] {
        for (first, second) in [(true, false), (false, true)] {
            let config = patient();
            let shop = Shop::with(&config, 2);
            let holder = hold(shop.vm());
            let waiter = wait(&shop.vms[1], true);
            if first {
                leave(&holder, 1, End::Status(200));
            }
            if leaves {
                waiter.finish().unwrap();
            } else {
                deliver(&shop);
            }
            if second {
                leave(&holder, 1, End::Status(200));
            }
            while deliver(&shop) > 0 {}
            if !leaves {
                assert_eq!(went_on(&waiter), 1);
                leave(&waiter, 1, End::Status(200));
            }
            assert_eq!((balance(&shop, &config), crowd(&shop)), ((FLOOR, 0), (0, 0)));
            assert_eq!(shop.metric(LEASE_ENDED), 0);
        }
    }
}
