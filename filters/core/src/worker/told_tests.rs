//! What a worker finds out only so that operators are told.

use super::fake::{Fake, P, enter, request, shared, worker, worker_of};
use super::*;
use crate::breaker::{Outcome, Settings};
use crate::testing::{ms, settings};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Each worker believes for a moment what it saw; that a call has failed it hears at once.
#[test]
fn every_worker_hears_that_a_call_has_failed() {
    let patient = || worker_of(Settings { consecutive_failures: Some(6), ..settings() });
    let (mut one, mut other, mut port) = (patient(), patient(), Fake::default());
    let near = |worker: &mut Worker, port: &mut Fake| {
        let ticket = enter(worker, port, ms(1));
        let near = worker.may_decide(P);
        worker.record(port, P, ticket, Outcome::Ignored, ms(1));
        near
    };
    assert!(!near(&mut other, &mut port));
    request(&mut one, &mut port, Outcome::Failure, ms(1));
    assert!(near(&mut other, &mut port));
    request(&mut one, &mut port, Outcome::Success, ms(1));
    assert!(!near(&mut other, &mut port));
}

#[test]
fn where_there_is_no_room_what_nobody_uses_is_not_shown() {
    let mut port = Fake { crowded: true, ..Fake::default() };
    let mut one = Worker::new("ns", 1, ["p", "q"].into_iter().map(|name| (name, Some(shared(settings())))));
    let mut shown = |port: &mut Fake, moment| {
        one.tick(port, ms(moment));
        let of = |event: Event| match event {
            Event::Observed { target, .. } => Some(target.policy),
            _ => None,
        };
        port.events().into_iter().filter_map(of).collect::<Vec<_>>()
    };
    assert_eq!(shown(&mut port, 0), [0; 0]);
    let mut other = Worker::new("ns", 1, [("p", Some(shared(settings())))].into_iter());
    request(&mut other, &mut port, Outcome::Failure, ms(1));
    assert_eq!(shown(&mut port, 500), [0], "what somebody uses is");
    // What had to wait for room comes when there is some.
    port.crowded = false;
    assert_eq!(shown(&mut port, 1000), [0, 1]);
    assert_eq!(shown(&mut port, 1500), [0]);
}

#[test]
fn the_leader_of_the_newest_configuration_says_the_how_manieth_it_is() {
    let mut port = Fake::default();
    let told = |worker: &mut Worker, port: &mut Fake, at| {
        port.events.clear();
        worker.tick(port, at);
        let generations = port.events.iter().filter_map(|event| match event {
            Event::Reigns { generation } => Some(*generation),
            _ => None,
        });
        generations.collect::<Vec<u64>>()
    };
    let (mut old, mut beside) = (worker(), worker());
    let mut new = Worker::new("ns", 2, [("p", Some(shared(settings())))].into_iter());
    assert_eq!(told(&mut old, &mut port, ms(0)), [1]);
    assert!(told(&mut beside, &mut port, ms(0)).is_empty(), "only the leader says so");
    assert_eq!(told(&mut new, &mut port, ms(500)), [2]);
    assert!(told(&mut old, &mut port, ms(500)).is_empty(), "only the newest");
    assert_eq!(told(&mut new, &mut port, ms(1000)), [2]);
    new.leave(&mut port, ms(1001));
    assert_eq!(told(&mut old, &mut port, ms(1500)), [3], "it rules again");
}

#[test]
fn a_vm_that_died_is_counted_once() {
    let mut port = Fake::default();
    let (mut dead, mut gone, mut one, mut other) = (worker(), worker(), worker(), worker());
    dead.tick(&mut port, ms(0));
    gone.tick(&mut port, ms(0));
    gone.leave(&mut port, ms(1));
    for at in (0..=20_000).step_by(500) {
        one.tick(&mut port, ms(at));
        other.tick(&mut port, ms(at));
    }
    let lost = port.events.iter().filter_map(|event| match event {
        Event::Lost { vms } => Some(*vms),
        _ => None,
    });
    assert_eq!(lost.collect::<Vec<_>>(), [1], "who left in order has not died");
}
