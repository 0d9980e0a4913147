//! Bulkheads in the real module: who is let in, who waits and goes on, and that every permit comes back once.

mod any_failure;
mod classes;
mod endings;
mod failures;
mod messages;
mod shadow;
mod timer;
mod waiting;

use resilience_core::state::State;
use resilience_core::time::Timestamp;
use resilience_module_tests::shop::{
    CONFIG, End, KEY, ROOT, Shop, TICK, WAIT, answer, arrive, enter, policy_and, serve, worker,
};
use resilience_module_tests::{Action, FakeStream, FakeVm, LocalResponse, Map, headers, status};
use std::time::Duration;

const FULL: &str = "resilience_rejections_total;policy=checkout;reason=bulkhead_full;class=_";
const OPEN: &str = "resilience_rejections_total;policy=checkout;reason=circuit_open;class=_";
const SHADOWED: &str = "resilience_shadow_decisions_total;policy=checkout;reason=bulkhead_full";
const WAITS: &str = "resilience_bulkhead_wait_milliseconds;policy=checkout";
const LEASE_ENDED: &str = "resilience_store_give_ups_total;operation=lease";
/// The longest that a request waits in [`patient`].
const PATIENCE: Duration = Duration::from_secs(10);

/// No waiting.
fn strict(calls: u32) -> String {
    policy_and(&format!(r#""bulkhead": {{"max_concurrent_calls": {calls}}}"#))
}

/// With a wait of [`PATIENCE`], for many.
fn patient(calls: u32) -> String {
    let bulkhead =
        format!(r#"{{"max_concurrent_calls": {calls}, "max_wait_duration": "10s", "max_queue": 100}}"#);
    policy_and(&format!(r#""bulkhead": {bulkhead}"#))
}

/// How many calls are in flight, and how many requests wait, by the shared state.
fn crowd(shop: &Shop) -> (u32, u32) {
    let bytes = shop.host.data(KEY).map(|(bytes, _)| bytes);
    let state = State::decode(bytes.as_deref(), Timestamp::from_nanos(shop.host.now()));
    (state.bulkhead.in_flight(), state.bulkhead.waiting())
}

/// A request that is let in and stays.
#[track_caller]
fn hold(vm: &FakeVm) -> FakeStream {
    let stream = arrive(vm);
    assert!(enter(&stream).unwrap().is_none(), "refused");
    stream
}

/// A request that is held back.
#[track_caller]
fn wait(vm: &FakeVm) -> FakeStream {
    let stream = arrive(vm);
    assert_eq!(stream.request_headers(true).unwrap(), Action::Pause);
    assert!(stream.local_response().is_none(), "refused");
    stream
}

/// The answer and the end of a request that goes on.
fn leave(stream: &FakeStream, end: End) {
    answer(stream, end).unwrap();
    stream.finish().unwrap();
}

/// The end of one that was answered by the module.
fn refused(stream: &FakeStream) -> LocalResponse {
    let reply = stream.local_response().expect("a reply of the module's own");
    stream.deliver_local_response().unwrap();
    stream.finish().unwrap();
    reply
}

/// How often the module let a request that it held go on.
fn went_on(stream: &FakeStream) -> usize {
    let directions = stream.continued();
    assert!(directions.iter().all(|direction| *direction == 0), "{directions:?}");
    directions.len()
}

/// Has every worker read its messages; how many callbacks that took.
fn deliver(shop: &Shop) -> usize {
    shop.vms.iter().map(|vm| vm.deliver_queues().unwrap()).sum()
}

#[test]
fn what_is_full_refuses_at_every_worker_until_a_permit_comes_back() {
    let shop = Shop::with(&strict(2), 2);
    let holders: Vec<_> = shop.vms.iter().map(hold).collect();
    assert_eq!(crowd(&shop), (2, 0));
    for vm in &shop.vms {
        let reply = serve(vm, End::Status(200)).unwrap().expect("no permit");
        assert_eq!((reply.status, reply.header("retry-after").as_deref()), (503, Some("1")));
        assert_eq!(reply.header("x-resilience").unwrap(), "checkout;reason=bulkhead_full;source=none");
        assert_eq!(reply.details, b"resilience:checkout:bulkhead_full");
    }
    assert_eq!(shop.metric(FULL), 2);
    leave(&holders[0], End::Status(200));
    assert_eq!(serve(&shop.vms[1], End::Status(200)).unwrap(), None);
    leave(&holders[1], End::Status(200));
    assert_eq!(crowd(&shop), (0, 0));
    // A refusal proves nothing.
    assert_eq!(shop.metric("resilience_calls_total;policy=checkout;outcome=success;slow=false"), 3);
    assert_eq!(shop.metric("resilience_calls_total;policy=checkout;outcome=ignored;slow=false"), 0);
}

#[test]
fn a_leader_shows_what_is_in_flight() {
    let shop = Shop::with(&patient(2), 2);
    let holders = [hold(shop.vm()), hold(shop.vm())];
    let waiter = wait(&shop.vms[1]);
    shop.pass(TICK).unwrap();
    let shown = || {
        ["in_flight", "waiting", "limit"]
            .map(|it| shop.metric(&format!("resilience_bulkhead_{it};policy=checkout")))
    };
    assert_eq!(shown(), [2, 1, 2]);
    holders.iter().for_each(|stream| leave(stream, End::Status(200)));
    deliver(&shop);
    leave(&waiter, End::Status(200));
    shop.pass(TICK).unwrap();
    assert_eq!(shown(), [0, 0, 2]);
}

#[test]
fn memory_and_keys_do_not_grow_with_those_who_wait() {
    let shop = Shop::with(&patient(1), 2);
    let played = |rounds: usize| {
        for round in 0..rounds {
            let holder = hold(shop.vm());
            let [waiter, leaver] = [wait(&shop.vms[1]), wait(shop.vm())];
            if round % 2 == 0 {
                leaver.finish().unwrap();
            }
            leave(&holder, End::Status(200));
            deliver(&shop);
            leave(&waiter, End::Status(200));
            if round % 2 == 1 {
                deliver(&shop);
                leave(&leaver, End::Status(200));
            }
            shop.pass(TICK).unwrap();
            shop.vms.iter().for_each(|vm| drop(vm.take_calls()));
        }
        assert_eq!(crowd(&shop), (0, 0));
        shop.vms.iter().map(FakeVm::memory_size).collect::<Vec<_>>()
    };
    let before = played(50);
    assert_eq!(played(200), before);
    assert_eq!(shop.host.keys().len(), 2, "the policy's and the members'");
}
