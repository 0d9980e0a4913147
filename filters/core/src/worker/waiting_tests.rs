//! Requests that wait for a permit: whose turn it is, who tells them, and how a wait ends.

use super::fake::{Fake, P, bulkhead, permitted, worker_like, worker_with};
use super::waiting::FULL;
use super::*;
use crate::answer::Reason;
use crate::breaker::{Outcome, Settings};
use crate::bulkhead::{self, Class, Permit, Priority};
use crate::testing::{just_after, ms, settings};
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// When the wait of a breaker that tripped at 0 is over.
const PROBING: Timestamp = Timestamp::from_nanos(30_000_000_001);

/// Two workers of one configuration with one permit, the first of which has it.
fn taken(breaker: Option<&Settings>) -> (Worker, Worker, Fake, Pass) {
    let mut port = Fake::default();
    let [mut one, mut other] = [(); 2].map(|()| worker_with(bulkhead(1, 5), breaker.cloned()));
    one.tick(&mut port, ms(0));
    other.tick(&mut port, ms(0));
    let pass = one.let_in(&mut port, 1, ms(0));
    port.calls.clear();
    port.events.clear();
    (one, other, port, pass)
}

fn permit_of(resumed: Option<Resumed>) -> Permit {
    match resumed.map(|resumed| resumed.verdict) {
        Some(Verdict::Admitted(Pass { permit: Some(permit), .. })) => permit,
        verdict => panic!("{verdict:?}"),
    }
}

/// The one message there is, which must be for that worker.
fn message(port: &mut Fake, worker: &Worker) -> u32 {
    match port.wakes()[..] {
        [Wake { queue, id }] if queue == worker.queue => id,
        ref wakes => panic!("{wakes:?}"),
    }
}

#[test]
fn who_waits_is_told_by_a_message_when_a_permit_comes_back() {
    let (mut one, mut other, mut port, pass) = taken(None);
    assert_eq!(other.arrive(&mut port, 7, ms(10)), Verdict::Waits);
    assert_eq!((port.store_calls(), port.crowd()), (vec!["get", "put"], (1, 1)));
    assert_eq!(other.next_due(), Some(ms(1010)));
    one.end(&mut port, &pass, Outcome::Success, ms(200));
    assert_eq!((port.store_calls(), port.crowd()), (vec!["get", "put"], (1, 0)));
    let call = message(&mut port, &other);
    let resumed = other.woken(&mut port, call, ms(210)).unwrap();
    assert_eq!(port.store_calls(), ["get", "put"]);
    assert_eq!((resumed.call, resumed.target, resumed.waited), (7, P, Duration::from_millis(200)));
    let permit = permit_of(Some(resumed));
    assert_eq!((other.next_due(), port.crowd()), (None, (1, 0)));
    other.release(&mut port, P, permitted(permit), ms(220));
    assert_eq!((port.crowd(), port.wakes(), port.events()), ((0, 0), vec![], vec![]));
}

#[test]
fn those_that_wait_are_served_in_the_order_of_arrival_over_all_workers() {
    let (mut one, mut other, mut port, pass) = taken(None);
    for call in 10..12 {
        assert_eq!(other.arrive(&mut port, call, ms(1)), Verdict::Waits);
        assert_eq!(one.arrive(&mut port, call, ms(1)), Verdict::Waits);
    }
    let mut permit = pass.permit.unwrap();
    for call in 10..12 {
        one.release(&mut port, P, permitted(permit), ms(2));
        let told = message(&mut port, &other);
        assert_eq!(told, call);
        permit = permit_of(other.woken(&mut port, told, ms(2)));
        other.release(&mut port, P, permitted(permit), ms(2));
        let told = message(&mut port, &one);
        assert_eq!(told, call);
        permit = permit_of(one.woken(&mut port, told, ms(2)));
    }
    one.release(&mut port, P, permitted(permit), ms(2));
    assert_eq!(port.crowd(), (0, 0));
}

#[test]
fn a_message_is_sent_once_however_often_the_write_was_tried() {
    let (mut one, mut other, mut port, pass) = taken(None);
    other.arrive(&mut port, 7, ms(0));
    for _ in 0..3 {
        let faster = |port: &mut Fake| {
            assert!(port.wakes.is_empty(), "not before it is committed");
            let present = port.values[super::fake::POLICY].bytes.clone();
            port.set(super::fake::POLICY, &present);
        };
        port.meanwhile.push_back(("put", Box::new(faster)));
    }
    one.end(&mut port, &pass, Outcome::Success, ms(1));
    assert_eq!((message(&mut port, &other), port.crowd()), (7, (1, 0)));
}

#[test]
fn a_message_for_somebody_who_is_not_there_costs_nothing() {
    let (mut one, mut other, mut port, pass) = taken(None);
    other.arrive(&mut port, 7, ms(0));
    one.end(&mut port, &pass, Outcome::Success, ms(1));
    other.withdraw(&mut port, 7, ms(2));
    let told = message(&mut port, &other);
    port.calls();
    for call in [told, 8] {
        assert_eq!(other.woken(&mut port, call, ms(3)), None);
        assert_eq!(port.calls(), [""; 0]);
    }
    assert_eq!(port.crowd(), (0, 0));
}

#[test]
fn a_message_that_came_too_early_leaves_it_waiting() {
    let (mut one, mut other, mut port, pass) = taken(None);
    other.arrive(&mut port, 7, ms(0));
    port.calls();
    assert_eq!(other.woken(&mut port, 7, ms(1)), None);
    assert_eq!((port.store_calls(), port.crowd()), (vec!["get"], (1, 1)));
    one.end(&mut port, &pass, Outcome::Success, ms(2));
    permit_of(other.woken(&mut port, 7, ms(2)));
}

#[test]
fn a_client_that_leaves_is_forgotten_and_a_permit_it_was_not_told_of_goes_on() {
    let (mut one, mut other, mut port, pass) = taken(None);
    for call in [7, 8, 9] {
        other.arrive(&mut port, call, ms(0));
    }
    port.calls();
    other.withdraw(&mut port, 7, ms(1));
    assert_eq!((port.store_calls(), port.crowd(), port.wakes()), (vec!["get", "put"], (1, 2), vec![]));
    one.end(&mut port, &pass, Outcome::Success, ms(2));
    assert_eq!(message(&mut port, &other), 8);
    other.withdraw(&mut port, 8, ms(3));
    assert_eq!(message(&mut port, &other), 9);
    permit_of(other.woken(&mut port, 9, ms(4)));
    port.calls();
    for gone in [7, 8, 9, 10] {
        other.withdraw(&mut port, gone, ms(5));
    }
    assert_eq!((port.calls(), port.crowd()), (vec![], (1, 0)), "who does not wait has nothing to take back");
}

#[test]
fn a_full_queue_refuses_after_one_read() {
    let (_, mut other, mut port, _) = taken(None);
    for call in 10..15 {
        assert_eq!(other.arrive(&mut port, call, ms(0)), Verdict::Waits);
    }
    port.calls();
    assert_eq!(other.arrive(&mut port, 15, ms(0)), FULL);
    assert_eq!((port.store_calls(), port.crowd()), (vec!["get"], (1, 5)));
}

#[test]
fn who_was_sent_away_hears_of_it_by_a_message() {
    let class = |name: &str| Class { name: name.to_owned(), limit: 1 };
    let classes = vec![class("gold"), class("bronze")];
    let priority = Some(Priority { source: None, default: 1, classes });
    let settings = bulkhead::Settings { priority, ..bulkhead(1, 1) };
    let mut port = Fake::default();
    let [mut one, mut other] = [(); 2].map(|()| worker_with(settings.clone(), None));
    let mut arrive = |worker: &mut Worker, call, class| {
        worker.admit(&mut port, P, Arrival { call, class, ..Arrival::default() }, ms(0))
    };
    assert!(matches!(arrive(&mut one, 1, Some(1)), Verdict::Admitted(_)));
    assert_eq!(arrive(&mut other, 2, Some(1)), Verdict::Waits);
    assert_eq!(arrive(&mut one, 3, Some(1)), FULL);
    assert_eq!(arrive(&mut one, 4, Some(0)), Verdict::Waits);
    let told = message(&mut port, &other);
    let resumed = other.woken(&mut port, told, ms(5)).unwrap();
    assert_eq!((resumed.call, resumed.verdict, resumed.waited), (2, FULL, Duration::from_millis(5)));
    assert_eq!((other.next_due(), port.crowd()), (None, (1, 1)));
}

#[test]
fn a_wait_ends_at_its_last_moment() {
    let (_, mut other, mut port, _) = taken(None);
    other.arrive(&mut port, 7, ms(0));
    other.arrive(&mut port, 8, ms(500));
    port.calls();
    assert_eq!(other.wait_over(&mut port, ms(999)), []);
    assert_eq!(port.calls(), [""; 0]);
    let resumed = other.wait_over(&mut port, ms(1000));
    assert_eq!(resumed.len(), 1);
    assert_eq!((resumed[0].call, &resumed[0].verdict), (7, &FULL));
    assert_eq!(resumed[0].waited, Duration::from_secs(1));
    assert_eq!((port.store_calls(), port.crowd()), (vec!["get", "put"], (1, 1)));
    assert_eq!(other.next_due(), Some(ms(1500)));
}

#[test]
fn who_has_a_permit_at_the_end_of_its_wait_goes_on() {
    let (mut one, mut other, mut port, pass) = taken(None);
    other.arrive(&mut port, 7, ms(0));
    one.end(&mut port, &pass, Outcome::Success, ms(1));
    let resumed = other.wait_over(&mut port, ms(5000));
    permit_of(resumed.into_iter().next());
    assert_eq!(port.crowd(), (1, 0));
}

#[test]
fn where_messages_are_lost_a_look_at_all_finds_what_became_of_them() {
    let (mut one, mut other, mut port, pass) = taken(None);
    for call in [7, 8] {
        other.arrive(&mut port, call, ms(0));
    }
    one.end(&mut port, &pass, Outcome::Success, ms(1));
    port.wakes.clear();
    let resumed = other.look_after_all(&mut port, ms(500));
    assert_eq!(resumed.iter().map(|resumed| resumed.call).collect::<Vec<_>>(), [7]);
    permit_of(resumed.into_iter().next());
    assert_eq!((other.look_after_all(&mut port, ms(501)), port.crowd()), (vec![], (1, 1)));
}

#[test]
fn a_look_at_all_costs_one_read_however_many_wait() {
    let (mut one, mut other, mut port, pass) = taken(None);
    for call in 10..14 {
        other.arrive(&mut port, call, ms(0));
    }
    port.calls();
    assert_eq!(other.look_after_all(&mut port, ms(500)), []);
    assert_eq!(port.calls(), ["get"]);
    assert_eq!(one.look_after_all(&mut port, ms(500)), []);
    assert_eq!(port.calls(), [""; 0], "nor any where nobody waits");
    one.end(&mut port, &pass, Outcome::Success, ms(501));
    port.calls();
    assert_eq!(other.look_after_all(&mut port, ms(502)).len(), 1);
    assert_eq!(port.store_calls(), ["get", "get", "put"]);
    assert_eq!(other.look_after_all(&mut port, ms(1000)).len(), 3, "the wait of the others is over");
    // And what cannot be read is told once.
    other.arrive(&mut port, 20, ms(1001));
    other.arrive(&mut port, 21, ms(1001));
    port.events();
    port.trouble.insert(super::fake::POLICY, super::fake::Trouble::Unreadable);
    assert_eq!((other.look_after_all(&mut port, ms(1500)), port.gave_up()), (vec![], vec![Operation::Admit]));
}

#[test]
fn after_a_wait_the_breaker_is_asked_again_and_the_permit_of_the_refused_goes_to_the_next() {
    let (mut one, mut other, mut port, pass) = taken(Some(&settings()));
    other.arrive(&mut port, 7, ms(0));
    one.arrive(&mut port, 8, ms(0));
    for _ in 0..3 {
        one.end(&mut port, &Pass { permit: None, ..pass.clone() }, Outcome::Failure, ms(0));
    }
    one.release(&mut port, P, permitted(pass.permit.unwrap()), ms(100));
    assert_eq!((port.breaker_state(), message(&mut port, &other)), (BreakerState::Open, 7));
    port.calls();
    let resumed = other.woken(&mut port, 7, ms(100)).unwrap();
    let wait = Some(Duration::from_millis(29_900));
    assert_eq!(resumed.verdict, Verdict::Refused(Refused { reason: Reason::CircuitOpen, wait }));
    assert_eq!((port.store_calls(), port.crowd()), (vec!["get", "put"], (1, 0)));
    assert_eq!(message(&mut port, &one), 8);
    assert!(matches!(one.woken(&mut port, 8, ms(100)).unwrap().verdict, Verdict::Refused(_)));
    assert_eq!(port.crowd(), (0, 0));
}

#[test]
fn who_waited_into_a_half_open_breaker_goes_on_as_a_probe() {
    let minute = |max_queue| {
        let queue = bulkhead::Queue { max_wait_duration: Duration::from_secs(60), max_queue };
        bulkhead::Settings { queue: Some(queue), ..bulkhead(1, 0) }
    };
    let (mut worker, mut port) = (worker_with(minute(5), Some(settings())), Fake::default());
    let pass = worker.let_in(&mut port, 1, ms(0));
    worker.arrive(&mut port, 7, ms(0));
    for _ in 0..3 {
        worker.end(&mut port, &Pass { permit: None, ..pass.clone() }, Outcome::Failure, ms(0));
    }
    worker.release(&mut port, P, permitted(pass.permit.unwrap()), PROBING);
    let resumed = worker.woken(&mut port, 7, PROBING).unwrap();
    let Verdict::Admitted(probe) = resumed.verdict else { panic!("{resumed:?}") };
    assert!(probe.ticket.unwrap().probe.is_some() && probe.permit.is_some());
    assert_eq!(port.breaker_state(), BreakerState::HalfOpen);
    worker.end(&mut port, &probe, Outcome::Failure, PROBING);
    assert_eq!((port.breaker_state(), port.crowd()), (BreakerState::Open, (0, 0)));
}

#[test]
fn in_shadow_mode_a_request_goes_on_at_once_and_waits_in_name() {
    let mut port = Fake::default();
    let mut worker = worker_like(1, bulkhead(1, 1), None, true);
    let first = worker.let_in(&mut port, 1, ms(0));
    let second = worker.let_in(&mut port, 2, ms(0));
    assert_eq!((second.permit, &second.shadowed), (None, &vec![]), "nothing is said yet");
    assert_eq!((port.crowd(), worker.next_due()), ((1, 1), Some(ms(1000))));
    let third = worker.let_in(&mut port, 3, ms(0));
    assert_eq!((third.permit, &third.shadowed), (None, &vec![Reason::BulkheadFull]), "the queue is full");
    // Its turn comes: it has a permit from now on.
    worker.end(&mut port, &first, Outcome::Success, ms(10));
    assert_eq!(message(&mut port, &worker), 2);
    let permit = permit_of(worker.woken(&mut port, 2, ms(10)));
    // One whose wait ends without, and one that ends before its wait does.
    worker.let_in(&mut port, 4, ms(10));
    assert_eq!(worker.wait_over(&mut port, just_after(ms(1010)))[0].verdict, FULL);
    worker.let_in(&mut port, 5, ms(2000));
    worker.withdraw(&mut port, 5, ms(2001));
    assert_eq!((port.crowd(), worker.next_due()), ((1, 0), None));
    worker.release(&mut port, P, permitted(permit), ms(2002));
    assert_eq!((port.crowd(), port.wakes()), ((0, 0), vec![]));
}

#[test]
fn in_shadow_mode_a_turn_that_comes_after_the_wait_is_none() {
    let mut port = Fake::default();
    let mut worker = worker_like(1, bulkhead(1, 5), None, true);
    let first = worker.let_in(&mut port, 1, ms(0));
    worker.let_in(&mut port, 2, ms(0));
    // Nobody has looked at the end of its wait when the permit comes.
    worker.end(&mut port, &first, Outcome::Success, ms(1100));
    assert_eq!(worker.woken(&mut port, 2, ms(1101)).unwrap().verdict, FULL);
    assert_eq!(port.crowd(), (0, 0));
}

#[test]
fn in_shadow_mode_who_went_on_is_not_asked_for_by_the_breaker_again() {
    let mut port = Fake::default();
    let mut worker = worker_like(1, bulkhead(1, 5), Some(settings()), true);
    let first = worker.let_in(&mut port, 1, ms(0));
    let second = worker.let_in(&mut port, 2, ms(0));
    for _ in 0..3 {
        worker.end(&mut port, &Pass { permit: None, ..second.clone() }, Outcome::Failure, ms(0));
    }
    worker.release(&mut port, P, permitted(first.permit.unwrap()), ms(500));
    let resumed = worker.woken(&mut port, 2, ms(500)).unwrap();
    let Verdict::Admitted(pass) = resumed.verdict else { panic!("{resumed:?}") };
    assert_eq!(
        (pass.ticket, port.breaker_state()),
        (None, BreakerState::Open),
        "the breaker would refuse it"
    );
}

#[test]
fn each_configuration_has_its_own_requests_wait_by_its_own_limit() {
    let mut port = Fake::default();
    let mut old = worker_like(1, bulkhead(2, 5), None, false);
    let mut new = worker_like(2, bulkhead(1, 5), None, false);
    let (first, second) = (old.let_in(&mut port, 1, ms(0)), old.let_in(&mut port, 2, ms(0)));
    assert_eq!(new.arrive(&mut port, 1, ms(0)), Verdict::Waits);
    assert_eq!(old.arrive(&mut port, 3, ms(0)), Verdict::Waits);
    // One comes back: below the old limit there is room, below the new there is none.
    old.end(&mut port, &first, Outcome::Success, ms(1));
    assert_eq!(message(&mut port, &old), 3);
    let third = permit_of(old.woken(&mut port, 3, ms(1)));
    old.end(&mut port, &second, Outcome::Success, ms(2));
    assert_eq!((port.wakes(), port.crowd()), (vec![], (1, 1)));
    old.release(&mut port, P, permitted(third), ms(3));
    assert_eq!(message(&mut port, &new), 1);
    permit_of(new.woken(&mut port, 1, ms(3)));
}
