//! Requests that wait: who goes on, when, and how often.

use crate::*;

#[test]
fn a_request_goes_on_when_one_of_another_worker_or_of_its_own_ends() {
    for own in [false, true] {
        let shop = Shop::with(&patient(1), 2);
        let waits_at = if own { shop.vm() } else { &shop.vms[1] };
        let holder = hold(shop.vm());
        let waiter = wait(waits_at);
        assert_eq!(crowd(&shop), (1, 1));
        assert_eq!(deliver(&shop), 0);
        shop.host.advance(Duration::from_millis(70));
        leave(&holder, End::Status(200));
        // Not in the callback of the stream that ended: Envoy might crash.
        assert_eq!((crowd(&shop), went_on(&waiter)), ((1, 0), 0));
        assert_eq!(waits_at.deliver_queues().unwrap(), 1);
        assert_eq!((deliver(&shop), went_on(&waiter)), (0, 1));
        shop.pass(TICK * 2).unwrap();
        assert_eq!((went_on(&waiter), waiter.local_response()), (1, None));
        leave(&waiter, End::Status(200));
        assert_eq!(crowd(&shop), (0, 0));
        assert_eq!(shop.host.histogram(WAITS), [70]);
        assert_eq!(shop.metric("resilience_calls_total;policy=checkout;outcome=success;slow=false"), 2);
        assert_eq!(shop.metric(FULL), 0);
    }
}

#[test]
fn they_go_on_in_the_order_in_which_they_came_whichever_worker_has_them() {
    let shop = Shop::with(&patient(1), 3);
    let mut holder = hold(shop.vm());
    let order = [1, 2, 2, 0, 1, 0, 2];
    let mut waiters: Vec<_> = order.iter().map(|worker| wait(&shop.vms[*worker])).collect();
    // Whoever comes now does not go before them.
    while !waiters.is_empty() {
        leave(&holder, End::Status(200));
        let late = wait(shop.vm());
        assert_eq!(deliver(&shop), 1);
        let next = waiters.remove(0);
        assert_eq!(went_on(&next), 1);
        assert!(waiters.iter().chain([&late]).all(|waiter| went_on(waiter) == 0));
        late.finish().unwrap();
        holder = next;
    }
    leave(&holder, End::Status(200));
    assert_eq!(crowd(&shop), (0, 0));
}

#[test]
fn one_whose_client_leaves_is_forgotten() {
    let shop = Shop::with(&patient(1), 2);
    let holder = hold(shop.vm());
    let [leaver, next] = [wait(&shop.vms[1]), wait(&shop.vms[1])];
    leaver.finish().unwrap();
    assert_eq!(crowd(&shop), (1, 1));
    leave(&holder, End::Status(200));
    assert_eq!(deliver(&shop), 1);
    assert_eq!((went_on(&leaver), went_on(&next)), (0, 1));
    leave(&next, End::Status(200));
    assert_eq!(crowd(&shop), (0, 0));
    assert_eq!(shop.host.histogram(WAITS).len(), 1, "whose client left has no wait to record");
    assert_eq!(shop.metric(FULL), 0);
}

#[test]
fn one_who_leaves_with_a_permit_that_it_has_not_heard_of_passes_it_on() {
    let shop = Shop::with(&patient(1), 2);
    let holder = hold(shop.vm());
    let [leaver, next] = [wait(&shop.vms[1]), wait(shop.vm())];
    leave(&holder, End::Status(200));
    leaver.finish().unwrap();
    assert_eq!(crowd(&shop), (1, 0));
    // One message for each, and the first finds nobody.
    assert_eq!(deliver(&shop), 2);
    assert_eq!((went_on(&leaver), went_on(&next)), (0, 1));
    leave(&next, End::Status(200));
    assert_eq!(crowd(&shop), (0, 0));
}

#[test]
fn a_full_queue_refuses_at_once() {
    let shop = Shop::with(&patient(1).replace(r#""max_queue": 100"#, r#""max_queue": 1"#), 2);
    let holder = hold(shop.vm());
    let waiter = wait(&shop.vms[1]);
    assert!(serve(shop.vm(), End::Status(200)).unwrap().is_some());
    assert_eq!((shop.metric(FULL), crowd(&shop)), (1, (1, 1)));
    assert_eq!(shop.host.histogram(WAITS).len(), 0);
    leave(&holder, End::Status(200));
    deliver(&shop);
    leave(&waiter, End::Status(200));
    assert_eq!(crowd(&shop), (0, 0));
}

#[test]
fn the_breaker_is_asked_again_after_the_wait() {
    let fallback = r#""fallback": [{"static": {"status": 202, "text": "later"}}], "name""#;
    let shop = Shop::with(&patient(3).replace("\"name\"", fallback), 2);
    let failing: Vec<_> = (0..3).map(|_| hold(shop.vm())).collect();
    let waiters: Vec<_> = (0..3).map(|_| wait(&shop.vms[1])).collect();
    failing.iter().for_each(|stream| answer(stream, End::Status(500)).unwrap());
    failing.iter().for_each(|stream| stream.finish().unwrap());
    // Whoever is served gives its permit back.
    while deliver(&shop) > 0 {}
    for waiter in &waiters {
        assert_eq!(went_on(waiter), 0);
        let reply = refused(waiter);
        assert_eq!((reply.status, reply.callback.as_str()), (202, "proxy_on_queue_ready"));
        assert_eq!(reply.header("x-resilience").unwrap(), "checkout;reason=circuit_open;source=static");
    }
    assert_eq!(crowd(&shop), (0, 0));
    assert_eq!((shop.metric(OPEN), shop.metric(FULL)), (3, 0));
    let answered = "resilience_fallbacks_total;policy=checkout;reason=circuit_open;source=static";
    assert_eq!((shop.metric(answered), shop.host.histogram(WAITS).len()), (3, 3));
    assert_eq!(shop.metric("resilience_calls_total;policy=checkout;outcome=ignored;slow=false"), 0);
}

#[test]
fn a_probe_does_not_wait_and_is_handed_back() {
    let shop = Shop::with(&patient(3), 2);
    let failing: Vec<_> = (0..3).map(|_| hold(shop.vm())).collect();
    failing.iter().for_each(|stream| answer(stream, End::Status(500)).unwrap());
    shop.pass(WAIT + TICK).unwrap();
    for vm in &shop.vms {
        let reply = serve(vm, End::Status(200)).unwrap().expect("no permit for the probe");
        assert!(reply.header("x-resilience").unwrap().contains("bulkhead_full"));
    }
    assert_eq!((crowd(&shop), shop.metric(FULL)), ((3, 0), 2));
    failing[0].finish().unwrap();
    assert_eq!(serve(&shop.vms[1], End::Status(200)).unwrap(), None, "the probe is still to be had");
    assert_eq!(serve(shop.vm(), End::Status(200)).unwrap(), None, "closed");
    failing[1..].iter().for_each(|stream| stream.finish().unwrap());
    assert_eq!(crowd(&shop), (0, 0));
}

#[test]
fn what_was_held_by_a_worker_that_died_serves_those_who_wait() {
    let shop = Shop::with(&patient(2), 2);
    shop.pass(TICK).unwrap();
    let lost = [hold(shop.vm()), hold(shop.vm())];
    let of_the_dead = wait(shop.vm());
    let waiters = [wait(&shop.vms[1]), wait(&shop.vms[1])];
    let survivor = shop.only(1);
    survivor.pass(Duration::from_secs(7)).unwrap();
    deliver(&survivor);
    assert_eq!(crowd(&shop), (2, 0));
    waiters.iter().for_each(|waiter| assert_eq!(went_on(waiter), 1));
    // It was only away, after all: what it gives back is not its own any more.
    lost.iter().for_each(|stream| leave(stream, End::Status(200)));
    of_the_dead.finish().unwrap();
    assert_eq!((crowd(&shop), shop.metric(LEASE_ENDED)), ((2, 0), 2));
    waiters.iter().for_each(|waiter| leave(waiter, End::Status(200)));
    assert_eq!(crowd(&shop), (0, 0));
}

#[test]
fn a_root_that_ends_takes_its_waiters_out() {
    let shop = Shop::with(&patient(1), 2);
    let holder = hold(shop.vm());
    let [orphan, next] = [wait(&shop.vms[1]), wait(shop.vm())];
    shop.vms[1].delete_root(ROOT).unwrap();
    assert_eq!(crowd(&shop), (1, 1));
    leave(&holder, End::Status(200));
    deliver(&shop.only(0));
    assert_eq!(went_on(&next), 1);
    orphan.finish().unwrap();
    leave(&next, End::Status(200));
    assert_eq!(crowd(&shop), (0, 0));
}
