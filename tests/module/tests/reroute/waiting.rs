//! Requests that wait: in the queue of the guard, and in that of their own policy before.

use crate::*;
use resilience_module_tests::shop::{ROOT, TICK};

const WAITS: &str = "resilience_bulkhead_wait_milliseconds;policy=backup";

/// A request that is held back.
#[track_caller]
fn wait(vm: &FakeVm) -> FakeStream {
    let stream = arrive(vm);
    assert_eq!(stream.request_headers(false).unwrap(), Action::Pause);
    assert_eq!((stream.local_response(), sent_to(&stream)), (None, None), "it waits");
    stream
}

/// The guard lets one request in, and another wait for it.
fn patient(entries: &str) -> Shop {
    shop(entries, &[("backup", &format!("{BREAKER}, {PATIENT}"))])
}

#[test]
fn one_that_waits_at_the_guard_goes_when_it_is_let_in() {
    let shop = patient(&format!("{REROUTE}, {STATIC}"));
    let holder = hold(&shop, "backup");
    let waiter = wait(shop.vm());
    assert_eq!((crowd(&shop, "backup"), fallbacks(&shop, "circuit_open", "reroute")), ((1, 1), 0));
    assert_eq!(waiter.request_body(true).unwrap(), Action::Pause, "its body waits with it");
    shop.host.advance(Duration::from_millis(70));
    leave(&holder, End::Status(200));
    assert_eq!(waiter.continued(), [0; 0]);
    deliver(&shop);
    assert_eq!((waiter.continued(), sent_to(&waiter).as_deref()), (vec![0], Some("backup")));
    assert_eq!((crowd(&shop, "backup"), fallbacks(&shop, "circuit_open", "reroute")), ((1, 0), 0));
    assert_eq!(shop.metric(WAITS), 1, "one wait was measured");
    assert_eq!(leave(arrives(&waiter), End::Status(200)).as_deref(), Some(MARK));
    assert_eq!((crowd(&shop, "backup"), calls(&shop, "backup")), ((0, 0), [2, 0, 0]));
    assert_eq!(fallbacks(&shop, "circuit_open", "reroute"), 1);
}

#[test]
fn one_that_the_guard_does_not_let_in_at_last_is_answered_by_the_next_entry() {
    for (entries, source) in [(format!("{REROUTE}, {STATIC}"), "static"), (REROUTE.to_owned(), "none")] {
        let shop = patient(&entries);
        let holder = hold(&shop, "backup");
        let waiter = wait(shop.vm());
        shop.pass(PATIENCE).unwrap();
        let reply = refused(&waiter);
        assert_eq!(reply.callback, "proxy_on_tick");
        assert_eq!(
            reply.header("x-resilience"),
            Some(format!("checkout;reason=circuit_open;source={source}"))
        );
        assert_eq!((rejections(&shop, "backup", "bulkhead_full"), crowd(&shop, "backup")), (1, (1, 0)));
        assert_eq!(waiter.continued(), [0; 0]);
        leave(&holder, End::Status(200));
        assert_eq!(crowd(&shop, "backup"), (0, 0));
    }
}

/// What it waited for is open when it is its turn: another guard may still help.
#[test]
fn a_guard_whose_breaker_opened_meanwhile_passes_it_on() {
    let shop = shop(
        &format!("{REROUTE}, {SECOND}"),
        &[("backup", &format!("{BREAKER}, {}", PATIENT.replace(": 1", ": 3"))), ("spare", PATIENT)],
    );
    let holders: Vec<_> = (0..FAILURES).map(|_| hold(&shop, "backup")).collect();
    let [one, two] = [wait(shop.vm()), wait(shop.vm())];
    holders.iter().for_each(|stream| drop(leave(stream, End::Status(500))));
    deliver(&shop);
    assert_eq!(sent_to(&one).as_deref(), Some("spare"));
    assert_eq!((one.continued(), two.continued()), (vec![0], vec![]), "the other waits there");
    assert_eq!((crowd(&shop, "backup"), crowd(&shop, "spare")), ((0, 0), (1, 1)));
    assert_eq!(rejections(&shop, "backup", "circuit_open"), 2);
    leave(arrives(&one), End::Status(200));
    deliver(&shop);
    assert_eq!((two.continued(), sent_to(&two).as_deref()), (vec![0], Some("spare")));
    leave(arrives(&two), End::Status(200));
    assert_eq!((crowd(&shop, "backup"), crowd(&shop, "spare")), ((0, 0), (0, 0)));
    assert_eq!(fallbacks(&shop, "circuit_open", "reroute"), 2);
}

#[test]
fn one_whose_client_leaves_is_forgotten_by_the_guard() {
    let shop = patient(REROUTE);
    let holder = hold(&shop, "backup");
    let [leaver, stays] = [wait(shop.vm()), wait(shop.vm())];
    assert_eq!(crowd(&shop, "backup"), (1, 2));
    leaver.finish().unwrap();
    assert_eq!(crowd(&shop, "backup"), (1, 1));
    leave(&holder, End::Status(200));
    // It leaves with a permit that it has not heard of: nobody else waits.
    assert_eq!(crowd(&shop, "backup"), (1, 0));
    stays.finish().unwrap();
    deliver(&shop);
    assert_eq!((crowd(&shop, "backup"), calls(&shop, "backup")), ((0, 0), [1, 0, 0]));
    assert_eq!(fallbacks(&shop, "circuit_open", "reroute"), 0, "neither went there");
}

#[test]
fn one_that_somebody_else_answers_waits_for_nothing() {
    let shop = patient(REROUTE);
    let holder = hold(&shop, "backup");
    let waiter = wait(shop.vm());
    // Envoy gives up: the stream was idle for too long.
    assert_eq!(leave(&waiter, End::ConnectFailure), None);
    assert_eq!(crowd(&shop, "backup"), (1, 0));
    leave(&holder, End::Status(200));
    assert_eq!(crowd(&shop, "backup"), (0, 0));
}

/// The end of a wait is as good a reason to go elsewhere as any other refusal.
#[test]
fn one_that_has_waited_in_vain_for_its_own_policy_goes_elsewhere() {
    for guard in [FULL, PATIENT] {
        let shop = shop_of(PATIENT, REROUTE, &[("backup", guard)]);
        let holder = hold(&shop, "checkout");
        let waiter = wait(shop.vm());
        assert_eq!((crowd(&shop, "checkout"), crowd(&shop, "backup")), ((1, 1), (0, 0)));
        shop.pass(PATIENCE).unwrap();
        assert_eq!((waiter.continued(), sent_to(&waiter).as_deref()), (vec![0], Some("backup")));
        assert_eq!((crowd(&shop, "checkout"), crowd(&shop, "backup")), ((1, 0), (1, 0)));
        let mark = leave(arrives(&waiter), End::Status(200));
        assert_eq!(mark, Some(MARK.replace("circuit_open", "bulkhead_full")));
        assert_eq!(
            (rejections(&shop, "checkout", "bulkhead_full"), fallbacks(&shop, "bulkhead_full", "reroute")),
            (1, 1)
        );
        leave(&holder, End::Status(200));
        assert_eq!((crowd(&shop, "checkout"), crowd(&shop, "backup")), ((0, 0), (0, 0)));
        assert_eq!((calls(&shop, "checkout"), calls(&shop, "backup")), ([1, 0, 0], [1, 0, 0]));
    }
}

#[test]
fn one_may_wait_twice_and_goes_on_once() {
    let shop = shop_of(PATIENT, &format!("{REROUTE}, {STATIC}"), &[("backup", PATIENT)]);
    let holders = [hold(&shop, "checkout"), hold(&shop, "backup")];
    let [goes_on, refused_twice, leaves] = [wait(shop.vm()), wait(shop.vm()), wait(shop.vm())];
    assert_eq!(crowd(&shop, "checkout"), (1, 3));
    shop.pass(PATIENCE).unwrap();
    assert_eq!((crowd(&shop, "checkout"), crowd(&shop, "backup")), ((1, 0), (1, 3)));
    for stream in [&goes_on, &refused_twice, &leaves] {
        assert_eq!((stream.continued(), stream.local_response(), sent_to(stream)), (vec![], None, None));
        assert_eq!(stream.request_body(true).unwrap(), Action::Pause);
    }
    leaves.finish().unwrap();
    leave(&holders[1], End::Status(200));
    deliver(&shop);
    assert_eq!((goes_on.continued(), sent_to(&goes_on).as_deref()), (vec![0], Some("backup")));
    shop.pass(PATIENCE).unwrap();
    let reply = refused(&refused_twice);
    assert_eq!(reply.header("x-resilience").unwrap(), "checkout;reason=bulkhead_full;source=static");
    leave(arrives(&goes_on), End::Status(200));
    leave(&holders[0], End::Status(200));
    assert_eq!((crowd(&shop, "checkout"), crowd(&shop, "backup")), ((0, 0), (0, 0)));
    assert_eq!(
        (rejections(&shop, "checkout", "bulkhead_full"), rejections(&shop, "backup", "bulkhead_full")),
        (3, 1)
    );
}

/// Envoy's own clock of a stream ran while it waited: most of the time went by in queues, and proves nothing.
#[test]
fn what_went_by_in_the_queue_of_its_own_policy_is_not_the_guards_upstreams_fault() {
    for (after, expected) in [(Duration::from_secs(1), [0, 0, 1]), (PATIENCE + PATIENCE, [0, 1, 0])] {
        let shop = shop_of(PATIENT, REROUTE, &[("backup", BREAKER)]);
        let holder = hold(&shop, "checkout");
        let waiter = wait(shop.vm());
        shop.pass(PATIENCE).unwrap();
        shop.pass(after).unwrap();
        describe(arrives(&waiter), "stream_idle_timeout", 1 << 16);
        waiter.set_response_headers(headers(&[(":status", "504"), ("content-length", "0")]));
        waiter.response_headers(true).unwrap();
        waiter.finish().unwrap();
        assert_eq!(calls(&shop, "backup"), expected, "{after:?}");
        holder.finish().unwrap();
    }
}

#[test]
fn a_worker_that_reads_a_message_may_be_another_than_the_one_that_let_go() {
    let config = document(FORCED, REROUTE, &[("backup", PATIENT)]);
    let shop = Shop::with(&config, 2);
    let holder = hold(&shop, "backup");
    let waiter = wait(&shop.vms[1]);
    leave(&holder, End::Status(200));
    deliver(&shop);
    assert_eq!((waiter.continued(), sent_to(&waiter).as_deref()), (vec![0], Some("backup")));
    leave(arrives(&waiter), End::Status(200));
    assert_eq!(crowd(&shop, "backup"), (0, 0));
    shop.vms.iter().for_each(|vm| vm.tick(ROOT).unwrap());
    shop.pass(TICK).unwrap();
    assert_eq!(shop.metric("resilience_store_give_ups_total;operation=lease"), 0);
}

/// When to come back is what is left of the wait of its own breaker.
#[test]
fn one_that_waited_elsewhere_is_told_what_is_left_of_its_own_wait() {
    let brief = PATIENT.replace("10s", "4s");
    for (entry, status) in [(r#"{"fail": {"status": 503}}"#, 503), (r#"{"static": {"status": 429}}"#, 429)] {
        let shop = shop_of(BREAKER, &format!("{REROUTE}, {entry}"), &[("backup", &brief)]);
        trip(&shop, "checkout");
        let holder = hold(&shop, "backup");
        let waiter = wait(shop.vm());
        shop.pass(Duration::from_secs(4)).unwrap();
        let reply = refused(&waiter);
        assert_eq!((reply.status, reply.header("retry-after").as_deref()), (status, Some("6")));
        holder.finish().unwrap();
    }
}
