//! What a worker asks of its port, what it believes meanwhile, and how workers share one breaker.

use super::fake::{Fake, MEMBERS, POLICY, enter, request, trip, worker, worker_of};
use super::fake::{P, shared};
use super::*;
use crate::breaker::Cause;
use crate::breaker::{Admission, Outcome, Ticket};
use crate::members::Members;
use crate::testing::{just_after, ms, settings};
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const REFUSED: Admission = Admission::Refused { wait: None };
/// When the wait of a breaker that tripped at 0 is over.
const PROBING: Timestamp = Timestamp::from_nanos(30_000_000_001);

/// A worker whose breaker tripped at 0 and that has the first probe out.
fn probing(worker: &mut Worker, port: &mut Fake) -> Ticket {
    trip(worker, port, ms(0));
    let probe = enter(worker, port, PROBING);
    port.events.clear();
    port.calls.clear();
    probe
}

fn transitions(events: &[Event]) -> Vec<(BreakerState, Cause)> {
    let of = |event: &Event| match event {
        Event::Transition { transition, .. } => Some((transition.to, transition.cause)),
        _ => None,
    };
    events.iter().filter_map(of).collect()
}

fn leads_on_ticks(worker: &mut Worker, port: &mut Fake, moments: impl Iterator<Item = u64>) -> Vec<bool> {
    moments.map(|moment| worker.tick(port, ms(moment))).collect()
}

#[test]
fn a_healthy_request_costs_one_counter_in_and_one_out() {
    let (mut worker, mut port) = (worker(), Fake::default());
    let ticket = enter(&mut worker, &mut port, ms(0));
    assert_eq!(port.calls(), ["changes", "get"], "the first one reads");
    worker.record(&mut port, P, ticket, Outcome::Success, ms(5));
    assert_eq!(port.calls(), ["changes"]);
    for moment in 6..=100 {
        request(&mut worker, &mut port, Outcome::Success, ms(moment));
        assert_eq!(port.calls(), ["changes", "changes"]);
    }
    assert_eq!((port.values.len(), port.events.len()), (0, 0), "nothing written, nothing to report");
}

#[test]
fn an_ignored_outcome_of_a_closed_breaker_costs_nothing() {
    let (mut worker, mut port) = (worker(), Fake::default());
    let ticket = enter(&mut worker, &mut port, ms(0));
    port.calls();
    worker.record(&mut port, P, ticket, Outcome::Ignored, ms(0));
    assert_eq!(port.calls(), [""; 0]);
}

#[test]
fn what_was_read_is_believed_for_a_tenth_of_a_second() {
    let (mut worker, mut port) = (worker(), Fake::default());
    request(&mut worker, &mut port, Outcome::Ignored, ms(0));
    port.calls();
    enter(&mut worker, &mut port, ms(100));
    assert_eq!(port.calls(), ["changes"]);
    enter(&mut worker, &mut port, just_after(ms(100)));
    assert_eq!(port.calls(), ["changes", "get"]);
}

#[test]
fn without_a_counter_nothing_is_believed() {
    let (mut worker, mut port) = (worker(), Fake { uncounted: true, ..Fake::default() });
    for _ in 0..3 {
        request(&mut worker, &mut port, Outcome::Success, ms(0));
        assert_eq!(port.calls(), ["changes", "get", "changes", "get"]);
    }
}

#[test]
fn a_failure_is_one_read_and_one_write() {
    let (mut worker, mut port) = (worker(), Fake::default());
    let ticket = enter(&mut worker, &mut port, ms(0));
    port.calls();
    worker.record(&mut port, P, ticket, Outcome::Failure, ms(0));
    assert_eq!(port.calls(), ["get", "put", "changed"]);
    assert!(!port.state().breaker.is_clean());
}

#[test]
fn the_success_that_ends_a_run_is_written_and_the_next_is_not() {
    let (mut worker, mut port) = (worker(), Fake::default());
    request(&mut worker, &mut port, Outcome::Failure, ms(0));
    request(&mut worker, &mut port, Outcome::Success, ms(0));
    assert!(port.state().breaker.is_clean());
    port.calls();
    request(&mut worker, &mut port, Outcome::Success, ms(0));
    assert!(!port.calls().contains(&"put"));
}

#[test]
fn a_success_that_follows_anothers_failure_is_written_though_this_worker_believed_all_clean() {
    let (mut port, mut one, mut other) = (Fake::default(), worker(), worker());
    let ticket = enter(&mut one, &mut port, ms(0));
    request(&mut other, &mut port, Outcome::Failure, ms(0));
    one.record(&mut port, P, ticket, Outcome::Success, ms(0));
    assert!(port.state().breaker.is_clean());
}

#[test]
fn refusing_costs_one_counter_and_tells_the_wait() {
    let (mut worker, mut port) = (worker(), Fake::default());
    trip(&mut worker, &mut port, ms(0));
    let wait = |rest| Admission::Refused { wait: Some(Duration::from_millis(rest)) };
    assert_eq!(worker.admission(&mut port, P, ms(0)), wait(30_000));
    assert_eq!(port.calls(), ["changes", "get"]);
    assert_eq!(worker.admission(&mut port, P, ms(100)), wait(29_900));
    assert_eq!(port.calls(), ["changes"]);
    assert_eq!(worker.admission(&mut port, P, ms(29_950)), wait(50));
    port.calls();
    // The wait ends while the worker still believes in it.
    assert_eq!(worker.admission(&mut port, P, ms(30_000)), wait(0));
    assert_eq!(port.calls(), ["changes"]);
    assert!(enter(&mut worker, &mut port, PROBING).probe.is_some());
}

#[test]
fn a_policy_that_keeps_no_state_admits_without_a_call() {
    let mut port = Fake::default();
    let mut worker = Worker::new("ns", 1, [("p", None)].into_iter());
    for policy in [0, 1, usize::MAX] {
        for outcome in [Outcome::Success, Outcome::Failure, Outcome::Ignored] {
            let target = Target::whole(policy);
            let verdict = worker.admit(&mut port, target, Arrival::default(), ms(0));
            assert_eq!(verdict, Verdict::Admitted(Pass::default()));
            let completion = Completion { target, ticket: None, outcome, returned: Returned::default() };
            assert_eq!(worker.complete(&mut port, completion, ms(0), || true), outcome);
        }
    }
    assert_eq!((port.calls(), port.events()), (Vec::new(), Vec::new()));
}

#[test]
fn workers_share_one_breaker_at_once() {
    let (mut port, mut one, mut other) = (Fake::default(), worker(), worker());
    enter(&mut other, &mut port, ms(0));
    trip(&mut one, &mut port, ms(0));
    assert_eq!(
        other.admission(&mut port, P, ms(1)),
        Admission::Refused { wait: Some(Duration::from_millis(29_999)) },
        "the counter said that its belief is old"
    );
    // 3 workers at once, one permit each of two.
    let mut third = worker();
    let probes = [enter(&mut one, &mut port, PROBING), enter(&mut other, &mut port, PROBING)];
    assert_eq!(third.admission(&mut port, P, PROBING), REFUSED);
    assert_ne!(probes[0].probe.unwrap().owner, probes[1].probe.unwrap().owner);
    one.record(&mut port, P, probes[0], Outcome::Success, PROBING);
    other.record(&mut port, P, probes[1], Outcome::Success, PROBING);
    assert_eq!(port.breaker_state(), BreakerState::Closed);
    assert_eq!(
        third.admission(&mut port, P, PROBING),
        Admission::Admitted(Ticket { generation: 3, probe: None })
    );
}

#[test]
fn where_a_writer_died_before_the_counter_belief_ends_the_harm() {
    let (mut port, mut one, mut other) = (Fake::default(), worker(), worker());
    enter(&mut other, &mut port, ms(0));
    port.forgetful = true;
    trip(&mut one, &mut port, ms(0));
    assert!(matches!(other.admission(&mut port, P, ms(100)), Admission::Admitted(_)));
    assert!(matches!(other.admission(&mut port, P, ms(101)), Admission::Refused { .. }));
}

#[test]
fn a_worker_sees_its_own_writes_at_once_whatever_the_counter_says() {
    let (mut worker, mut port) = (worker(), Fake { forgetful: true, ..Fake::default() });
    trip(&mut worker, &mut port, ms(0));
    assert!(matches!(worker.admission(&mut port, P, ms(0)), Admission::Refused { .. }));
}

#[test]
fn a_stale_success_is_dropped_by_what_was_read() {
    let (mut worker, mut port) = (worker(), Fake::default());
    let old = enter(&mut worker, &mut port, ms(0));
    trip(&mut worker, &mut port, ms(0));
    for outcome in [Outcome::Success, Outcome::Success, Outcome::Failure] {
        request(&mut worker, &mut port, outcome, PROBING);
    }
    port.calls();
    worker.record(&mut port, P, old, Outcome::Success, PROBING);
    assert_eq!(port.calls(), ["changes", "get"]);
    assert!(!port.state().breaker.is_clean());
}

#[test]
fn state_lies_under_the_namespace_and_the_policys_name() {
    let mut port = Fake::default();
    let mut elsewhere = Worker::new("other", 1, [("p", Some(shared(settings())))].into_iter());
    trip(&mut worker(), &mut port, ms(0));
    request(&mut elsewhere, &mut port, Outcome::Failure, ms(0));
    let keys: Vec<_> = port.values.keys().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
    assert_eq!(keys, ["resilience/ns/p", "resilience/other/p"]);
}

#[test]
fn a_transition_is_told_once_however_often_the_write_was_tried() {
    let (mut port, mut one) = (Fake::default(), worker());
    let tickets: Vec<_> = (0..3).map(|_| enter(&mut one, &mut port, ms(0))).collect();
    for ticket in &tickets[..2] {
        one.record(&mut port, P, *ticket, Outcome::Failure, ms(0));
    }
    port.events.clear();
    // Two writes find another's: the number for the key moves on between read and write.
    for _ in 0..2 {
        let faster = |port: &mut Fake| {
            let present = port.values[POLICY].bytes.clone();
            port.set(POLICY, &present);
        };
        port.meanwhile.push_back(("put", Box::new(faster)));
    }
    one.record(&mut port, P, tickets[2], Outcome::Failure, ms(0));
    assert_eq!(transitions(&port.events), [(BreakerState::Open, Cause::ConsecutiveFailures)]);
    assert_eq!(port.events[0], Event::Conflicts { operation: Operation::Record, count: 2 });
    assert_eq!(port.events.len(), 2);
}

#[test]
fn a_damaged_value_is_repaired_before_anybody_gets_a_ticket_of_it() {
    let (mut port, mut one, mut other) = (Fake::default(), worker(), worker());
    let old = enter(&mut one, &mut port, ms(5));
    port.set(POLICY, b"damaged");
    port.changed(P);
    let (first, second) = (enter(&mut one, &mut port, ms(10)), enter(&mut other, &mut port, ms(20)));
    assert_eq!(first, second, "both of the one repaired value");
    assert!(first.generation >= ms(10).as_nanos(), "{first:?}");
    one.record(&mut port, P, old, Outcome::Failure, ms(30));
    assert!(port.state().breaker.is_clean(), "a ticket from before the damage fits nothing");
}

#[test]
fn nobody_joins_before_it_must() {
    let (mut port, mut one) = (Fake::default(), worker());
    trip(&mut one, &mut port, ms(0));
    assert!(!port.values.contains_key(MEMBERS));
    let probe = enter(&mut one, &mut port, PROBING).probe.unwrap();
    assert!(port.values.contains_key(MEMBERS), "what it holds must have an owner that others can watch");
    one.tick(&mut port, PROBING);
    assert_eq!(one.me, Some(probe.owner));
}

#[test]
fn one_of_the_workers_leads_and_shows_the_states() {
    let (mut port, mut one, mut other) = (Fake::default(), worker(), worker());
    assert!(one.tick(&mut port, ms(0)));
    assert!(!other.tick(&mut port, ms(0)));
    assert_eq!(port.events(), [Event::Observed { target: P, state: BreakerState::Closed }]);
    trip(&mut other, &mut port, ms(1));
    assert!(!other.tick(&mut port, ms(500)));
    assert_eq!(port.events(), []);
    assert!(one.tick(&mut port, ms(500)));
    assert_eq!(port.events(), [Event::Observed { target: P, state: BreakerState::Open }]);
}

#[test]
fn each_configuration_has_a_leader_and_the_next_takes_over() {
    let mut port = Fake::default();
    let (mut old, mut new) = (worker(), Worker::new("ns", 2, [("p", Some(shared(settings())))].into_iter()));
    let mut heir = worker();
    assert!(old.tick(&mut port, ms(0)));
    assert!(new.tick(&mut port, ms(0)));
    assert!(!heir.tick(&mut port, ms(0)));
    old.leave(&mut port, ms(1));
    assert!(heir.tick(&mut port, ms(500)), "at once where the leader left in order");
    drop(heir);
    let mut last = worker();
    let led = leads_on_ticks(&mut last, &mut port, (1000..=6000).step_by(500));
    assert_eq!(led.iter().position(|leads| *leads), Some(10), "after the lease where it did not: {led:?}");
}

#[test]
fn a_leader_looks_after_a_thousand_policies_a_tick_and_shows_a_few_new_ones() {
    let names: Vec<_> = (0..2500).map(|n| format!("p{n}")).collect();
    let mut port = Fake::default();
    let mut worker = Worker::new("ns", 1, names.iter().map(|name| (name.as_str(), Some(shared(settings())))));
    // Policies that were never used are shown once; one that was is shown every time its turn comes.
    let mut other = Worker::new("ns", 1, names.iter().map(|name| (name.as_str(), Some(shared(settings())))));
    for expected in [0..64, 1024..1088, 2048..2112, 64..128] {
        let again = expected == (64..128);
        if again {
            let admission = other.admission(&mut port, Target::whole(7), ms(0));
            let Admission::Admitted(ticket) = admission else { panic!("{admission:?}") };
            other.record(&mut port, Target::whole(7), ticket, Outcome::Failure, ms(0));
        }
        worker.tick(&mut port, ms(0));
        let seen: Vec<_> = port
            .events()
            .into_iter()
            .map(|event| match event {
                Event::Observed { target, state: BreakerState::Closed } => target.policy,
                other => panic!("{other:?}"),
            })
            .collect();
        // The one that was used is shown each time its turn comes, beside those that had to wait for theirs.
        let used = again.then_some(7).into_iter();
        assert_eq!(seen, used.chain(expected).collect::<Vec<_>>());
    }
}

#[test]
fn a_leader_ends_a_stay_that_no_request_looks_at() {
    let (mut port, mut one) = (Fake::default(), worker());
    probing(&mut one, &mut port);
    one.tick(&mut port, ms(45_000));
    assert_eq!(port.events(), [Event::Observed { target: P, state: BreakerState::HalfOpen }]);
    one.tick(&mut port, ms(45_500));
    let events = port.events();
    assert_eq!(transitions(&events), [(BreakerState::Open, Cause::HalfOpenTimeout)]);
    assert_eq!(events.last(), Some(&Event::Observed { target: P, state: BreakerState::Open }));
    // And an open wait it leaves to the next request.
    one.tick(&mut port, ms(300_000));
    assert_eq!(port.breaker_state(), BreakerState::Open);
}

#[test]
fn probes_of_a_dead_worker_come_back_and_its_late_outcome_counts_for_nothing() {
    let (mut port, mut dying, mut observer) = (Fake::default(), worker(), worker());
    let start = 30_500;
    let lost = probing(&mut dying, &mut port);
    let second = enter(&mut dying, &mut port, PROBING);
    assert_eq!(observer.admission(&mut port, P, PROBING), REFUSED);
    leads_on_ticks(&mut observer, &mut port, (start..start + 5000).step_by(500));
    assert_eq!(observer.admission(&mut port, P, ms(start + 4999)), REFUSED);
    port.events();
    assert!(observer.tick(&mut port, ms(start + 5000)));
    assert_eq!(port.events()[0], Event::Reclaimed { target: P, probes: 2, permits: 0, retries: 0 });
    assert_eq!(port.breaker_state(), BreakerState::HalfOpen);

    let mine = enter(&mut observer, &mut port, ms(start + 5000));
    dying.record(&mut port, P, lost, Outcome::Failure, ms(start + 5000));
    dying.record(&mut port, P, second, Outcome::Ignored, ms(start + 5000));
    assert_eq!(port.gave_up(), [Operation::Lease, Operation::Lease]);
    assert_eq!(port.breaker_state(), BreakerState::HalfOpen);
    observer.record(&mut port, P, mine, Outcome::Success, ms(start + 5000));
    request(&mut observer, &mut port, Outcome::Success, ms(start + 5000));
    assert_eq!(port.breaker_state(), BreakerState::Closed);
}

#[test]
fn probes_whose_owner_has_no_line_come_back_too() {
    let mut stay = settings();
    stay.max_wait_duration_in_half_open_state = Duration::from_secs(600);
    let (mut port, mut dying, mut observer) = (Fake::default(), worker_of(stay.clone()), worker_of(stay));
    probing(&mut dying, &mut port);
    port.set(MEMBERS, b"damaged");
    leads_on_ticks(&mut observer, &mut port, (30_500..=36_500).step_by(500));
    let reclaimed = port
        .events()
        .into_iter()
        .any(|event| event == Event::Reclaimed { target: P, probes: 1, permits: 0, retries: 0 });
    assert!(reclaimed);
}

#[test]
fn probes_of_the_living_are_not_touched() {
    let mut stay = settings();
    stay.max_wait_duration_in_half_open_state = Duration::from_secs(600);
    let (mut port, mut slow, mut observer) = (Fake::default(), worker_of(stay.clone()), worker_of(stay));
    let probe = probing(&mut slow, &mut port);
    for moment in (30_500..90_000).step_by(500) {
        slow.tick(&mut port, ms(moment));
        observer.tick(&mut port, ms(moment));
    }
    slow.record(&mut port, P, probe, Outcome::Failure, ms(90_000));
    let open = port.events().into_iter().any(|event| matches!(event, Event::Transition { .. }));
    assert!(open, "its outcome still counts");
}

#[test]
fn leaving_takes_the_line_and_one_that_never_joined_has_nothing_to_do() {
    let (mut port, mut one) = (Fake::default(), worker());
    one.leave(&mut port, ms(0));
    assert_eq!(port.calls(), [""; 0]);
    one.tick(&mut port, ms(0));
    assert_ne!(port.members(), Members::default());
    one.leave(&mut port, ms(1));
    let mut next = Members::decode(Some(&port.values[MEMBERS].bytes), ms(1));
    assert_eq!(
        next.beat(None, 1, ms(1), &Watch::default()),
        crate::breaker::Owner(1),
        "no line, no identity twice"
    );
    one.leave(&mut port, ms(2));
}
