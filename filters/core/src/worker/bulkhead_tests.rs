//! Permits as a worker takes them and gives them back, and what that costs.

use super::fake::{Fake, P, bulkhead, permitted, worker_like, worker_with};
use super::waiting::FULL;
use super::*;
use crate::answer::Reason;
use crate::breaker::{HalfOpen, Outcome, Percentage, Phase, RampUp, Rates, Settings, Shape, Tally};
use crate::bulkhead::{self, Class, Priority};
use crate::testing::{ms, settings};
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// When the wait of a breaker that tripped at 0 is over.
const PROBING: Timestamp = Timestamp::from_nanos(30_000_000_001);

/// A worker that has joined, and a port that nobody has asked anything yet.
fn ready(mut worker: Worker) -> (Worker, Fake) {
    let mut port = Fake::default();
    worker.tick(&mut port, ms(0));
    port.calls.clear();
    port.events.clear();
    (worker, port)
}

/// Trips the breaker at 0, by requests that end.
fn trip(worker: &mut Worker, port: &mut Fake) {
    for call in 100..103 {
        let pass = worker.let_in(port, call, ms(0));
        worker.end(port, &pass, Outcome::Failure, ms(0));
    }
    assert_eq!(port.breaker_state(), BreakerState::Open);
    port.calls.clear();
    port.events.clear();
}

#[test]
fn a_request_costs_one_read_and_one_write_in_and_out() {
    for breaker in [None, Some(settings())] {
        let (mut worker, mut port) = ready(worker_with(bulkhead(2, 5), breaker));
        for moment in 0..5 {
            let pass = worker.let_in(&mut port, 1, ms(moment));
            assert_eq!(port.store_calls(), ["get", "put"], "and nobody's belief is shaken");
            assert_eq!(port.crowd(), (1, 0));
            worker.end(&mut port, &pass, Outcome::Success, ms(moment));
            assert_eq!(port.store_calls(), ["get", "put"]);
            assert_eq!(port.crowd(), (0, 0));
        }
        assert_eq!((port.events(), port.wakes()), (vec![], vec![]));
    }
}

#[test]
fn a_window_and_a_failure_are_in_the_same_write() {
    let window = Rates {
        failure_rate_threshold: Percentage::new(50.0),
        slow_call_rate_threshold: None,
        window: Shape::Count(9),
        minimum_number_of_calls: 9,
    };
    let breaker = Settings { rates: Some(window), ..settings() };
    let (mut worker, mut port) = ready(worker_with(bulkhead(2, 5), Some(breaker)));
    for outcome in [Outcome::Success, Outcome::Failure, Outcome::SlowSuccess, Outcome::Ignored] {
        let pass = worker.let_in(&mut port, 1, ms(0));
        assert_eq!(port.store_calls(), ["get", "put"]);
        worker.end(&mut port, &pass, outcome, ms(0));
        assert_eq!(port.store_calls()[..2], ["get", "put"]);
        assert_eq!(port.crowd(), (0, 0));
    }
    let Phase::Closed(closed) = port.state().breaker.phase().clone() else { panic!("tripped") };
    assert_eq!(closed.evidence.tally(ms(0)), Tally { calls: 3, failed: 1, slow: 1 });
}

#[test]
fn a_failure_that_counted_at_its_headers_gives_its_permit_back_at_its_end() {
    let (mut worker, mut port) = ready(worker_with(bulkhead(2, 0), Some(settings())));
    let pass = worker.let_in(&mut port, 1, ms(0));
    port.calls();
    worker.end(&mut port, &Pass { permit: None, ..pass.clone() }, Outcome::Failure, ms(1));
    assert_eq!((port.store_calls(), port.crowd()), (vec!["get", "put", "changed"], (1, 0)));
    worker.release(&mut port, P, permitted(pass.permit.unwrap()), ms(2));
    assert_eq!((port.store_calls(), port.crowd()), (vec!["get", "put"], (0, 0)));
    assert!(!port.state().breaker.is_clean());
}

#[test]
fn what_is_full_refuses_after_one_read() {
    let (mut worker, mut port) = ready(worker_with(bulkhead(1, 0), Some(settings())));
    worker.let_in(&mut port, 1, ms(0));
    port.calls();
    assert_eq!(worker.arrive(&mut port, 2, ms(0)), FULL);
    assert_eq!(port.store_calls(), ["get"]);
    assert!(port.state().breaker.is_clean(), "that proves nothing about the upstream");
    assert_eq!(worker.next_due(), None, "and nobody waits where no queue is configured");
}

#[test]
fn what_is_believed_open_refuses_without_a_read_and_takes_no_permit() {
    let (mut worker, mut port) = ready(worker_with(bulkhead(1, 5), Some(settings())));
    trip(&mut worker, &mut port);
    let open = |rest| {
        let wait = Some(Duration::from_millis(rest));
        Verdict::Refused(Refused { reason: Reason::CircuitOpen, wait })
    };
    assert_eq!(worker.arrive(&mut port, 1, ms(10)), open(29_990));
    assert_eq!(port.store_calls(), ["get"]);
    assert_eq!(worker.arrive(&mut port, 2, ms(110)), open(29_890));
    assert_eq!(port.store_calls(), [""; 0]);
    assert_eq!((port.crowd(), worker.next_due()), ((0, 0), None));
}

#[test]
fn a_probe_that_finds_no_room_is_handed_back_in_the_same_write_and_never_waits() {
    for max_queue in [0, 5] {
        let (mut worker, mut port) = ready(worker_with(bulkhead(1, max_queue), Some(settings())));
        trip(&mut worker, &mut port);
        // One that another configuration has let in, without a breaker.
        let mut other = worker_like(2, bulkhead(1, 0), None, false);
        let slow = other.let_in(&mut port, 9, ms(1));
        worker.tick(&mut port, PROBING);
        port.calls();
        assert_eq!(worker.arrive(&mut port, 1, PROBING), FULL);
        assert_eq!(port.store_calls(), ["get", "put", "changed"]);
        let Phase::HalfOpen(HalfOpen { probes, answers, .. }) = port.state().breaker.phase().clone() else {
            panic!("{:?}", port.state())
        };
        assert_eq!((probes.len(), answers.calls, port.crowd()), (0, 0, (1, 0)));
        // Once there is room, all that are permitted find it.
        other.end(&mut port, &slow, Outcome::Success, PROBING);
        for call in 2..4 {
            let probe = worker.let_in(&mut port, call, PROBING);
            assert!(probe.ticket.unwrap().probe.is_some() && probe.permit.is_some());
            worker.end(&mut port, &probe, Outcome::Success, PROBING);
        }
        assert_eq!((port.breaker_state(), port.crowd()), (BreakerState::Closed, (0, 0)));
    }
}

/// A worker whose breaker has just closed, and lets in a tenth of what comes at first.
fn ramping(bulkhead: crate::bulkhead::Settings) -> (Worker, Fake) {
    let ramp = RampUp { duration: Duration::from_secs(10), initial: Percentage::new(10.0).unwrap() };
    let breaker = Settings { ramp_up: Some(ramp), ..settings() };
    let (mut worker, mut port) = ready(worker_with(bulkhead, Some(breaker)));
    trip(&mut worker, &mut port);
    worker.tick(&mut port, PROBING);
    for call in 0..2 {
        let probe = worker.let_in(&mut port, call, PROBING);
        worker.end(&mut port, &probe, Outcome::Success, PROBING);
    }
    assert_eq!(port.breaker_state(), BreakerState::Closed);
    (worker, port)
}

#[test]
fn who_a_ramp_keeps_out_takes_no_permit() {
    let (mut worker, mut port) = ramping(bulkhead(100, 5));
    let kept_out = Verdict::Refused(Refused { reason: Reason::CircuitOpen, wait: None });
    let let_in = (0..30).filter(|call| worker.arrive(&mut port, *call, PROBING) != kept_out).count();
    assert!((2..=4).contains(&let_in), "{let_in}");
    assert_eq!(port.crowd(), (u32::try_from(let_in).unwrap(), 0));
}

#[test]
fn who_finds_no_room_uses_up_nothing_of_a_ramp() {
    let (mut worker, mut port) = ramping(bulkhead(1, 0));
    let arrive = |worker: &mut Worker, port: &mut Fake| worker.arrive(port, 9, PROBING);
    let first = (0..12).find_map(|_| match arrive(&mut worker, &mut port) {
        Verdict::Admitted(pass) => Some(pass),
        _ => None,
    });
    // The next whose turn it would be finds no room; so do those after it, until there is some.
    let full = (0..12).filter(|_| arrive(&mut worker, &mut port) == FULL).count();
    assert!((2..=4).contains(&full), "{full}");
    worker.end(&mut port, &first.unwrap(), Outcome::Success, PROBING);
    worker.let_in(&mut port, 10, PROBING);
}

#[test]
fn workers_share_one_count() {
    let (mut one, mut port) = ready(worker_with(bulkhead(2, 0), None));
    let mut other = worker_with(bulkhead(2, 0), None);
    let pass = one.let_in(&mut port, 1, ms(0));
    other.let_in(&mut port, 1, ms(0));
    assert_eq!([&mut one, &mut other].map(|worker| worker.arrive(&mut port, 2, ms(0))), [FULL, FULL]);
    one.end(&mut port, &pass, Outcome::Success, ms(1));
    other.let_in(&mut port, 2, ms(1));
    assert_eq!(port.crowd(), (2, 0));
}

#[test]
fn the_last_permit_goes_to_whoever_was_faster() {
    let (mut worker, mut port) = ready(worker_with(bulkhead(1, 0), None));
    let faster = |port: &mut Fake| {
        worker_with(bulkhead(1, 0), None).let_in(port, 7, ms(0));
    };
    port.meanwhile.push_back(("put", Box::new(faster)));
    assert_eq!(worker.arrive(&mut port, 1, ms(0)), FULL);
    assert_eq!(port.crowd(), (1, 0));
    assert_eq!(port.events.last(), Some(&Event::Conflicts { operation: Operation::Admit, count: 1 }));
}

#[test]
fn each_configuration_judges_the_one_count_by_its_own_limit() {
    let (mut old, mut port) = ready(worker_like(1, bulkhead(3, 0), None, false));
    let mut new = worker_like(2, bulkhead(1, 0), None, false);
    let pass = new.let_in(&mut port, 1, ms(0));
    old.let_in(&mut port, 1, ms(0));
    assert_eq!(new.arrive(&mut port, 2, ms(0)), FULL);
    old.let_in(&mut port, 2, ms(0));
    assert_eq!(old.arrive(&mut port, 3, ms(0)), FULL);
    new.end(&mut port, &pass, Outcome::Success, ms(1));
    assert_eq!((new.arrive(&mut port, 4, ms(1)), port.crowd()), (FULL, (2, 0)));
}

#[test]
fn a_class_takes_no_more_than_its_share() {
    let class = |(name, limit): (&str, u32)| Class { name: name.to_owned(), limit };
    let classes = [("gold", 3), ("bronze", 1)].map(class).to_vec();
    let priority = Some(Priority { source: None, default: 1, classes });
    let (mut worker, mut port) = ready(worker_with(bulkhead::Settings { priority, ..bulkhead(3, 0) }, None));
    let mut arrive = |call, class| {
        worker.admit(&mut port, P, Arrival { call, class: Some(class), ..Arrival::default() }, ms(0))
    };
    assert!(matches!(arrive(1, 1), Verdict::Admitted(_)));
    assert_eq!(arrive(2, 1), FULL);
    assert!(matches!(arrive(3, 0), Verdict::Admitted(_)));
    assert!(matches!(arrive(4, 0), Verdict::Admitted(_)));
    assert_eq!(arrive(5, 0), FULL);
}

#[test]
fn in_shadow_mode_the_count_is_kept_and_nobody_refused() {
    let (mut worker, mut port) = ready(worker_like(1, bulkhead(1, 0), None, true));
    let mut strict = worker_with(bulkhead(1, 0), None);
    let first = worker.let_in(&mut port, 1, ms(0));
    assert_eq!((first.permit.is_some(), &first.shadowed), (true, &vec![]));
    let second = worker.let_in(&mut port, 2, ms(0));
    assert_eq!((second.permit, &second.shadowed), (None, &vec![Reason::BulkheadFull]));
    assert_eq!(strict.arrive(&mut port, 1, ms(0)), FULL, "one that refuses counts what is in flight there");
    port.calls();
    worker.end(&mut port, &second, Outcome::Success, ms(1));
    assert_eq!((port.store_calls(), port.crowd()), (vec![], (1, 0)));
    worker.end(&mut port, &first, Outcome::Success, ms(1));
    assert_eq!(port.crowd(), (0, 0));
}

#[test]
fn in_shadow_mode_a_probe_keeps_its_place_where_there_is_no_room() {
    let (mut worker, mut port) = ready(worker_like(1, bulkhead(1, 5), Some(settings()), true));
    trip(&mut worker, &mut port);
    worker_like(2, bulkhead(1, 0), None, false).let_in(&mut port, 9, PROBING);
    worker.tick(&mut port, PROBING);
    let probe = worker.let_in(&mut port, 1, PROBING);
    assert!(probe.ticket.unwrap().probe.is_some());
    assert_eq!((probe.permit, &probe.shadowed), (None, &vec![Reason::BulkheadFull]));
    assert_eq!(worker.next_due(), None, "it does not even wait in name");
}

#[test]
fn a_breaker_in_shadow_mode_leaves_the_word_to_the_bulkhead() {
    let breaker = Some(Pattern { settings: settings(), shadow: true });
    let bulkhead = Some(Pattern { settings: bulkhead(1, 0), shadow: false });
    let patterns = Patterns { breaker, bulkhead, budget: None };
    let shared = Some(Shared { patterns, max_keys: None });
    let (mut worker, mut port) = ready(Worker::new("ns", 1, [("p", shared)].into_iter()));
    trip(&mut worker, &mut port);
    let pass = worker.let_in(&mut port, 1, ms(1));
    assert_eq!((pass.ticket, &pass.shadowed), (None, &vec![Reason::CircuitOpen]));
    assert_eq!(worker.arrive(&mut port, 2, ms(1)), FULL);
    worker.end(&mut port, &pass, Outcome::Failure, ms(1));
    assert_eq!(port.crowd(), (0, 0));
}
