//! Host calls that fail: nothing traps, nobody goes past the limit, and nothing is left behind.

use crate::*;

const GAVE_UP: &str = "resilience_store_give_ups_total;operation=";

/// A breaker that no test here trips, so that only the bulkhead refuses.
pub(super) fn never_open(config: String) -> String {
    config.replace("\"consecutive_failures\": 3", "\"consecutive_failures\": 1000000")
}

/// The ways in which a call fails. No host forgets a value: what is not found was never written, and that is no failure.
pub(super) fn faults(function: &str) -> impl Iterator<Item = u32> {
    let forgets = function == "proxy_get_shared_data";
    status::FAULTS.into_iter().filter(move |status| !forgets || *status != status::NOT_FOUND)
}

fn gave_up(shop: &Shop, operation: &str) -> u64 {
    shop.metric(&format!("{GAVE_UP}{operation}"))
}

#[test]
fn a_permit_that_the_store_does_not_give_is_none() {
    let shop = Shop::with(&strict(5), 1);
    for (round, status) in status::FAULTS.into_iter().enumerate() {
        shop.vm().fail_kind("proxy_set_shared_data", status);
        let reply = serve(shop.vm(), End::Status(200)).unwrap().expect("none goes past the bulkhead");
        assert!(reply.header("x-resilience").unwrap().contains("bulkhead_full"), "{status}");
        shop.vm().clear_faults();
        assert_eq!(gave_up(&shop, "admit"), round as u64 + 1);
        assert_eq!(serve(shop.vm(), End::Status(200)).unwrap(), None, "{status}");
        assert_eq!(crowd(&shop), (0, 0), "{status}");
    }
}

#[test]
fn where_requests_wait_it_is_tried_again() {
    let shop = Shop::with(&patient(1), 1);
    let holder = hold(shop.vm());
    shop.vm().cas_conflicts(usize::MAX);
    let waiter = wait(shop.vm());
    assert_eq!(shop.vm().tick_period(ROOT), Some(10));
    for _ in 0..20 {
        shop.host.advance(Duration::from_millis(10));
        shop.vm().tick(ROOT).unwrap();
    }
    assert_eq!((crowd(&shop), went_on(&waiter)), ((1, 0), 0));
    shop.vm().clear_faults();
    shop.host.advance(Duration::from_millis(10));
    shop.vm().tick(ROOT).unwrap();
    assert_eq!((crowd(&shop), went_on(&waiter)), ((1, 1), 0));
    leave(&holder, End::Status(200));
    deliver(&shop);
    assert_eq!(went_on(&waiter), 1);
    leave(&waiter, End::Status(200));

    // It may find a permit at once, or wait in vain.
    for well in [true, false] {
        shop.vm().cas_conflicts(usize::MAX);
        let waiter = wait(shop.vm());
        if well {
            shop.vm().clear_faults();
        }
        shop.pass(PATIENCE).unwrap();
        shop.vm().clear_faults();
        if well {
            assert_eq!(went_on(&waiter), 1);
            leave(&waiter, End::Status(200));
        } else {
            assert!(String::from_utf8_lossy(&refused(&waiter).details).contains("bulkhead_full"));
        }
        assert_eq!(crowd(&shop), (0, 0));
    }
}

#[test]
fn a_permit_that_the_store_does_not_take_back_is_kept_until_it_does() {
    for end in [End::Status(200), End::Status(500), End::ClientLeft] {
        let shop = Shop::with(&never_open(patient(1)), 2);
        let holder = hold(shop.vm());
        let waiter = wait(&shop.vms[1]);
        shop.vm().cas_conflicts(usize::MAX);
        leave(&holder, end);
        shop.pass(TICK * 4).unwrap();
        deliver(&shop);
        assert_eq!((crowd(&shop), went_on(&waiter)), ((1, 1), 0), "{end:?}");
        assert!(gave_up(&shop, "release") > 0);
        shop.vm().clear_faults();
        shop.pass(TICK).unwrap();
        deliver(&shop);
        assert_eq!((crowd(&shop), went_on(&waiter)), ((1, 0), 1), "{end:?}");
        leave(&waiter, End::Status(200));
        assert_eq!((crowd(&shop), shop.metric(LEASE_ENDED)), ((0, 0), 0), "{end:?}");
    }
}

#[test]
fn a_place_that_the_store_does_not_take_back_is_kept_until_it_does() {
    let shop = Shop::with(&patient(1), 1);
    let holder = hold(shop.vm());
    let leaver = wait(shop.vm());
    shop.vm().cas_conflicts(usize::MAX);
    leaver.finish().unwrap();
    assert_eq!(crowd(&shop), (1, 1));
    shop.vm().clear_faults();
    // Any callback takes the next try.
    let next = wait(shop.vm());
    assert_eq!(crowd(&shop), (1, 1));
    // The wait is over while the store takes nothing.
    shop.vm().cas_conflicts(usize::MAX);
    shop.pass(PATIENCE).unwrap();
    assert!(String::from_utf8_lossy(&refused(&next).details).contains("bulkhead_full"));
    shop.vm().clear_faults();
    shop.pass(TICK).unwrap();
    assert_eq!(crowd(&shop), (1, 0));
    leave(&holder, End::Status(200));
    assert_eq!(crowd(&shop), (0, 0));
}

#[test]
fn a_few_conflicts_change_nothing() {
    let shop = Shop::with(&patient(1), 1);
    let holder = hold(shop.vm());
    shop.vm().cas_conflicts(3);
    let waiter = wait(shop.vm());
    shop.vm().cas_conflicts(3);
    leave(&holder, End::Status(200));
    shop.vm().cas_conflicts(3);
    deliver(&shop);
    assert_eq!(went_on(&waiter), 1);
    leave(&waiter, End::Status(200));
    assert_eq!(crowd(&shop), (0, 0));
    let conflicts =
        |operation| shop.metric(&format!("resilience_store_conflicts_total;operation={operation}"));
    assert_eq!((conflicts("admit"), conflicts("release")), (6, 3));
}

/// Without messages a worker finds on its tick what has become of its own waiters.
#[test]
fn a_message_that_does_not_arrive_is_a_delay() {
    for function in
        ["proxy_register_shared_queue", "proxy_enqueue_shared_queue", "proxy_dequeue_shared_queue"]
    {
        for status in status::FAULTS {
            let shop = Shop::with(&patient(1), 2);
            shop.vms.iter().for_each(|vm| vm.fail_kind(function, status));
            let holder = hold(shop.vm());
            let waiter = wait(&shop.vms[1]);
            leave(&holder, End::Status(200));
            deliver(&shop);
            assert_eq!(went_on(&waiter), 0, "{function} {status}");
            shop.pass(TICK).unwrap();
            assert_eq!(went_on(&waiter), 1, "{function} {status}");
            leave(&waiter, End::Status(200));
            assert_eq!(crowd(&shop), (0, 0), "{function} {status}");
        }
    }
}

/// Nothing is done to another stream in its place, and the permit goes on to the next.
#[test]
fn a_stream_that_cannot_be_reached_gives_back_its_permit() {
    for status in status::FAULTS {
        let shop = Shop::with(&patient(2), 2);
        let holders = [hold(shop.vm()), hold(shop.vm())];
        let waiters = [wait(&shop.vms[1]), wait(&shop.vms[1])];
        let next = wait(shop.vm());
        shop.vms[1].fail_kind("proxy_set_effective_context", status);
        holders.iter().for_each(|holder| leave(holder, End::Status(200)));
        while deliver(&shop) > 0 {}
        for waiter in &waiters {
            assert_eq!((went_on(waiter), waiter.local_response()), (0, None), "{status}");
        }
        assert_eq!((crowd(&shop), went_on(&next)), ((1, 0), 1), "{status}");
        waiters.iter().for_each(|waiter| waiter.finish().unwrap());
        leave(&next, End::Status(200));
        assert_eq!((crowd(&shop), shop.metric(LEASE_ENDED)), ((0, 0), 0), "{status}");
    }
}

#[test]
fn a_stream_that_the_host_does_not_let_go_on_gives_back_its_permit_at_its_end() {
    for status in status::FAULTS {
        let shop = Shop::with(&patient(1), 1);
        let holder = hold(shop.vm());
        let waiter = wait(shop.vm());
        shop.vm().fail_kind("proxy_continue_stream", status);
        leave(&holder, End::Status(200));
        deliver(&shop);
        assert_eq!((crowd(&shop), went_on(&waiter)), ((1, 0), 0), "{status}");
        waiter.finish().unwrap();
        assert_eq!(crowd(&shop), (0, 0), "{status}");
    }
}

/// To hold it for ever would be worse.
#[test]
fn one_whose_refusal_the_host_does_not_send_goes_on() {
    for status in status::FAULTS {
        let shop = Shop::with(&patient(1), 1);
        let holder = hold(shop.vm());
        let waiter = wait(shop.vm());
        shop.vm().fail_kind("proxy_send_local_response", status);
        shop.pass(PATIENCE).unwrap();
        assert_eq!((went_on(&waiter), waiter.local_response()), (1, None), "{status}");
        waiter.finish().unwrap();
        leave(&holder, End::Status(200));
        assert_eq!(crowd(&shop), (0, 0), "{status}");
    }
}

#[test]
fn a_timer_that_the_host_refuses_is_set_the_next_time() {
    for status in status::FAULTS {
        let shop = Shop::with(&patient(1).replace(r#""10s""#, r#""50ms""#), 1);
        let holder = hold(shop.vm());
        shop.vm().fail_kind("proxy_set_tick_period_milliseconds", status);
        let waiter = wait(shop.vm());
        assert_eq!(shop.vm().tick_period(ROOT), Some(500), "{status}");
        shop.host.advance(TICK);
        shop.vm().tick(ROOT).unwrap();
        assert!(String::from_utf8_lossy(&refused(&waiter).details).contains("bulkhead_full"), "{status}");
        shop.vm().clear_faults();
        shop.pass(TICK * 2).unwrap();
        assert_eq!(shop.vm().tick_period(ROOT), Some(500), "{status}");
        leave(&holder, End::Status(200));
        assert_eq!(crowd(&shop), (0, 0), "{status}");
    }
}

// ------------------------------------------------------------------------------------------------- whole lives
