//! What becomes of permits and of those that wait when a VM dies, comes back late, or is somebody else from now on; and
//! what a leader shows of the crowd.

use super::fake::{Fake, MEMBERS, P, POLICY, Trouble, bulkhead, shared, worker, worker_like, worker_with};
use super::waiting::FULL;
use super::*;
use crate::breaker::Outcome;
use crate::testing::{ms, settings};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// The names of the queues that were opened.
fn queues(port: &Fake) -> Vec<&str> {
    port.queues.keys().map(String::as_str).collect()
}

fn ticks(workers: &mut [&mut Worker], port: &mut Fake, from: u64, to: u64) {
    for moment in (from..=to).step_by(500) {
        for worker in &mut *workers {
            worker.tick(port, ms(moment));
        }
    }
}

fn crowds(events: Vec<Event>) -> Vec<(u32, u32, Option<u32>)> {
    let of = |event| match event {
        Event::Crowd { policy: 0, in_flight, waiting, limit } => Some((in_flight, waiting, limit)),
        Event::Observed { .. } => None,
        other => panic!("{other:?}"),
    };
    events.into_iter().filter_map(of).collect()
}

#[test]
fn what_a_dead_worker_held_comes_back_and_serves_those_that_wait() {
    let mut port = Fake::default();
    let [mut dying, mut leader, mut third] = [(); 3].map(|()| worker_with(bulkhead(3, 9), None));
    dying.tick(&mut port, ms(0));
    leader.tick(&mut port, ms(0));
    third.tick(&mut port, ms(0));
    let lost: Vec<_> = (0..2).map(|call| dying.let_in(&mut port, call, ms(0))).collect();
    let pass = third.let_in(&mut port, 1, ms(0));
    // It waits when it dies, and is given a permit that it will never take up.
    dying.arrive(&mut port, 9, ms(0));
    for call in 10..14 {
        third.arrive(&mut port, call, ms(0));
    }
    third.end(&mut port, &pass, Outcome::Success, ms(1));
    assert_eq!(port.wakes(), [Wake { queue: dying.queue, id: 9 }]);
    ticks(&mut [&mut leader, &mut third], &mut port, 500, 4500);
    assert_eq!((port.crowd(), port.wakes()), ((3, 4), vec![]));
    port.events();
    ticks(&mut [&mut leader, &mut third], &mut port, 5000, 5000);
    let events = port.events();
    assert!(
        events.contains(&Event::Reclaimed { target: P, probes: 0, permits: 3, retries: 0 }),
        "{events:?}"
    );
    assert_eq!(port.crowd(), (3, 1));
    assert_eq!(port.wakes(), [10, 11, 12].map(|id| Wake { queue: third.queue, id }));
    // It was not dead but stopped: what it gives back now is nobody's any more.
    for pass in &lost {
        dying.end(&mut port, pass, Outcome::Success, ms(5600));
        assert_eq!(port.gave_up(), [Operation::Lease]);
    }
    assert_eq!((dying.woken(&mut port, 9, ms(5600)).unwrap().verdict, port.crowd()), (FULL, (3, 1)));
}

#[test]
fn a_late_release_that_was_kept_is_told_as_late() {
    let mut port = Fake::default();
    let mut worker = worker_with(bulkhead(1, 0), None);
    let pass = worker.let_in(&mut port, 1, ms(0));
    port.trouble.insert(super::fake::POLICY, super::fake::Trouble::Unwritable);
    worker.end(&mut port, &pass, Outcome::Success, ms(1));
    port.trouble.clear();
    let mut state = port.state();
    assert_eq!(state.bulkhead.reclaim(|_| true, &mut Vec::new()), 1);
    port.set(super::fake::POLICY, &state.encode());
    port.events();
    worker.tick(&mut port, ms(500));
    assert!(port.gave_up().contains(&Operation::Lease));
    assert!(worker.pending.is_empty());
}

#[test]
fn permits_of_the_living_never_end() {
    let mut port = Fake::default();
    let [mut slow, mut leader] = [(); 2].map(|()| worker_with(bulkhead(1, 0), None));
    let pass = slow.let_in(&mut port, 1, ms(0));
    ticks(&mut [&mut slow, &mut leader], &mut port, 0, 60_000);
    assert_eq!((port.crowd(), leader.arrive(&mut port, 1, ms(60_000))), ((1, 0), FULL));
    slow.end(&mut port, &pass, Outcome::Success, ms(60_000));
    assert_eq!((port.crowd(), port.gave_up()), ((0, 0), vec![]));
}

#[test]
fn permits_whose_owner_has_no_line_come_back_too() {
    let mut port = Fake::default();
    let [mut dying, mut leader] = [(); 2].map(|()| worker_with(bulkhead(1, 0), None));
    dying.let_in(&mut port, 1, ms(0));
    port.set(MEMBERS, b"damaged");
    ticks(&mut [&mut leader], &mut port, 500, 6500);
    assert_eq!(port.crowd(), (0, 0));
}

#[test]
fn a_reclaim_that_the_store_would_not_take_is_done_on_a_later_tick() {
    let mut port = Fake::default();
    let [mut dying, mut leader] = [(); 2].map(|()| worker_with(bulkhead(1, 0), None));
    dying.let_in(&mut port, 1, ms(0));
    ticks(&mut [&mut leader], &mut port, 0, 4500);
    port.trouble.insert(super::fake::POLICY, super::fake::Trouble::Contended);
    port.events();
    ticks(&mut [&mut leader], &mut port, 5000, 5000);
    assert_eq!((port.gave_up(), port.crowd()), (vec![Operation::Maintain], (1, 0)));
    port.trouble.clear();
    ticks(&mut [&mut leader], &mut port, 5500, 5500);
    assert_eq!(port.crowd(), (0, 0));
}

#[test]
fn one_that_comes_back_as_somebody_else_finds_its_waiters_gone_and_can_be_woken_again() {
    let mut port = Fake::default();
    let [mut stopped, mut leader] = [(); 2].map(|()| worker_with(bulkhead(1, 9), None));
    let pass = leader.let_in(&mut port, 1, ms(0));
    stopped.arrive(&mut port, 7, ms(0));
    let (before, queue) = (stopped.me, stopped.queue);
    ticks(&mut [&mut leader], &mut port, 0, 16_000);
    assert_eq!(port.crowd(), (1, 0), "the lease is over");
    // Somebody joined meanwhile and took its slot.
    let mut heir = worker_with(bulkhead(1, 9), None);
    heir.tick(&mut port, ms(16_100));
    assert_eq!(heir.queue, queue);
    stopped.tick(&mut port, ms(16_200));
    assert!(stopped.me != before && stopped.queue != queue && stopped.queue != 0);
    let resumed = stopped.look_after_all(&mut port, ms(16_200));
    assert_eq!((resumed.len(), &resumed[0].verdict), (1, &FULL));

    assert_eq!(stopped.arrive(&mut port, 8, ms(16_300)), Verdict::Waits);
    leader.end(&mut port, &pass, Outcome::Success, ms(16_400));
    assert_eq!(port.wakes(), [Wake { queue: stopped.queue, id: 8 }]);
    let resumed = stopped.woken(&mut port, 8, ms(16_400)).unwrap();
    assert!(matches!(resumed.verdict, Verdict::Admitted(_)));
}

#[test]
fn waiters_of_the_former_identity_that_nobody_took_away_go_and_take_no_permit_along() {
    let mut port = Fake::default();
    let [mut one, mut other] = [(); 2].map(|()| worker_with(bulkhead(1, 9), None));
    let pass = other.let_in(&mut port, 1, ms(0));
    one.arrive(&mut port, 7, ms(0));
    one.arrive(&mut port, 8, ms(0));
    other.arrive(&mut port, 9, ms(0));
    let before = one.me;
    // Its line is lost, what it has in the queue is not.
    port.set(MEMBERS, b"damaged");
    one.tick(&mut port, ms(500));
    assert_ne!(one.me, before);
    other.end(&mut port, &pass, Outcome::Success, ms(500));
    port.wakes();
    let resumed = one.look_after_all(&mut port, ms(501));
    assert_eq!(resumed.iter().map(|it| (it.call, &it.verdict)).collect::<Vec<_>>(), [(7, &FULL), (8, &FULL)]);
    assert_eq!(
        (port.gave_up(), port.crowd(), port.wakes().last().map(|wake| wake.id)),
        (vec![], (1, 0), Some(9))
    );
}

#[test]
fn one_that_was_away_shows_a_sign_of_life_before_it_takes_a_permit_up() {
    let mut port = Fake::default();
    let [mut away, mut other] = [(); 2].map(|()| worker_with(bulkhead(1, 9), None));
    let pass = other.let_in(&mut port, 1, ms(0));
    let beaten = |worker: &Worker| worker.beaten;
    away.arrive(&mut port, 7, ms(0));
    other.end(&mut port, &pass, Outcome::Success, ms(4000));
    let before = beaten(&away);
    assert!(matches!(away.woken(&mut port, 7, ms(4001)).unwrap().verdict, Verdict::Admitted(_)));
    assert!(beaten(&away) > before, "its lease would end at 5 s");
}

#[test]
fn leaving_takes_back_what_waits_and_wakes_the_next() {
    let mut port = Fake::default();
    let [mut one, mut other] = [(); 2].map(|()| worker_with(bulkhead(1, 9), None));
    let pass = other.let_in(&mut port, 1, ms(0));
    one.arrive(&mut port, 7, ms(0));
    one.arrive(&mut port, 8, ms(0));
    other.arrive(&mut port, 9, ms(0));
    other.end(&mut port, &pass, Outcome::Success, ms(1));
    one.leave(&mut port, ms(2));
    assert_eq!((one.next_due(), port.crowd()), (None, (1, 0)));
    assert_eq!(port.wakes().last(), Some(&Wake { queue: other.queue, id: 9 }));
}

#[test]
fn a_queue_is_opened_only_where_requests_may_wait() {
    for (mut worker, opened) in
        [(worker(), 0), (worker_with(bulkhead(1, 0), None), 0), (worker_with(bulkhead(1, 1), None), 1)]
    {
        let mut port = Fake::default();
        ticks(&mut [&mut worker], &mut port, 0, 1000);
        assert_eq!((port.queues.len(), worker.queue != 0), (opened, opened == 1));
    }
    let mut port = Fake::default();
    let workers = [(); 3].map(|()| {
        let mut worker = worker_with(bulkhead(1, 1), None);
        worker.tick(&mut port, ms(0));
        worker
    });
    assert_eq!(queues(&port), ["resilience/ns/#wake/0", "resilience/ns/#wake/1", "resilience/ns/#wake/2"]);
    // Who leaves in order makes room for another of that name: there are never more than there are VMs.
    let [_, mut second, _] = workers;
    second.leave(&mut port, ms(1));
    let mut next = worker_with(bulkhead(1, 1), None);
    next.tick(&mut port, ms(2));
    assert_eq!((next.queue, port.queues.len()), (second.queue, 3));
}

#[test]
fn a_leader_shows_the_crowd_and_the_others_do_not() {
    let mut port = Fake::default();
    let [mut leader, mut other] = [(); 2].map(|()| worker_with(bulkhead(2, 9), Some(settings())));
    ticks(&mut [&mut leader, &mut other], &mut port, 0, 0);
    assert_eq!(crowds(port.events()), [(0, 0, Some(2))], "once, though nobody has come yet");
    ticks(&mut [&mut leader, &mut other], &mut port, 500, 500);
    assert_eq!(crowds(port.events()), []);
    let pass = other.let_in(&mut port, 1, ms(600));
    other.let_in(&mut port, 2, ms(600));
    other.arrive(&mut port, 3, ms(600));
    ticks(&mut [&mut leader, &mut other], &mut port, 1000, 1000);
    assert_eq!(crowds(port.events()), [(2, 1, Some(2))]);
    other.withdraw(&mut port, 3, ms(1100));
    other.end(&mut port, &pass, Outcome::Success, ms(1100));
    ticks(&mut [&mut leader, &mut other], &mut port, 1500, 1500);
    assert_eq!(crowds(port.events()), [(1, 0, Some(2))]);
}

#[test]
fn where_there_is_no_bulkhead_no_crowd_is_shown() {
    let (mut worker, mut port) = (worker(), Fake::default());
    super::fake::request(&mut worker, &mut port, Outcome::Failure, ms(0));
    ticks(&mut [&mut worker], &mut port, 0, 500);
    assert_eq!(crowds(port.events()), []);
    // And no state of a breaker where there is none.
    let (mut worker, mut port) = (worker_with(bulkhead(1, 0), None), Fake::default());
    worker.let_in(&mut port, 1, ms(0));
    ticks(&mut [&mut worker], &mut port, 0, 0);
    assert_eq!(port.events(), [Event::Crowd { policy: 0, in_flight: 1, waiting: 0, limit: Some(1) }]);
}

#[test]
fn only_the_newest_configuration_shows_its_limit() {
    let mut port = Fake::default();
    let mut old = worker_like(1, bulkhead(3, 0), None, false);
    let mut new = worker_like(2, bulkhead(5, 0), None, false);
    old.let_in(&mut port, 1, ms(0));
    ticks(&mut [&mut old], &mut port, 0, 0);
    assert_eq!(crowds(port.events()), [(1, 0, Some(3))]);
    ticks(&mut [&mut new, &mut old], &mut port, 500, 500);
    assert_eq!(crowds(port.events()), [(1, 0, Some(5)), (1, 0, None)]);
    new.leave(&mut port, ms(600));
    ticks(&mut [&mut old], &mut port, 1000, 1000);
    assert_eq!(crowds(port.events()), [(1, 0, Some(3))]);
}

#[test]
fn the_crowd_of_a_policy_is_that_of_all_its_keys() {
    let patterns = Patterns {
        bulkhead: Some(Pattern { settings: bulkhead(1, 9), shadow: false }),
        ..shared(settings()).patterns
    };
    let keyed = Shared { patterns, max_keys: Some(2) };
    let mut port = Fake::default();
    let mut worker = Worker::new("ns", 1, [("p", Some(keyed))].into_iter());
    for (call, cluster) in [(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "b"), (6, "beyond"), (7, "beyond")] {
        let target = worker.target(&mut port, 0, Some(cluster.as_bytes()));
        let verdict =
            worker.admit(&mut port, target, Arrival { call, class: None, ..Arrival::default() }, ms(0));
        assert_eq!(
            verdict == Verdict::Waits,
            [2, 4, 5, 7].contains(&call),
            "each key has a limit of its own"
        );
    }
    port.events();
    worker.tick(&mut port, ms(1));
    assert_eq!(crowds(port.events()), [(3, 4, Some(1))]);
}

#[test]
fn a_crowd_of_which_one_key_cannot_be_read_is_not_shown_whatever_happens_to_the_next() {
    let bulkhead = Some(Pattern { settings: bulkhead(9, 0), shadow: false });
    let patterns = Patterns { bulkhead, ..shared(settings()).patterns };
    let keyed = Shared { patterns, max_keys: Some(2) };
    let mut port = Fake::default();
    let mut worker = Worker::new("ns", 1, [("p", Some(keyed))].into_iter());
    for (call, target) in [P, worker.target(&mut port, 0, Some(b"cart"))].into_iter().enumerate() {
        let arrival = Arrival { call: u32::try_from(call).unwrap(), class: None, ..Arrival::default() };
        assert!(matches!(worker.admit(&mut port, target, arrival, ms(0)), Verdict::Admitted(_)));
    }
    port.events();
    worker.tick(&mut port, ms(1));
    assert_eq!(crowds(port.events()), [(2, 0, Some(9))]);
    port.trouble.insert(POLICY, Trouble::Unreadable);
    // The next one changes while it is looked at, and cannot be read either the second time.
    let changes = |port: &mut Fake| {
        *port.counters.entry(Target { policy: 0, key: 1 }).or_default() += 1;
        port.trouble.insert(b"resilience/ns/p#key/cart", Trouble::Unreadable);
    };
    port.meanwhile.push_back(("report", Box::new(changes)));
    worker.tick(&mut port, ms(501));
    assert!(port.meanwhile.is_empty());
    assert_eq!(crowds(port.events()), []);
}
