//! Who is let in, who waits, and whose turn it is.

use super::*;
use crate::ledger::MOST_HOLDERS;
use crate::testing::{Line, claim, vm};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// All are alike, and two may be in flight.
const TWO: Claim = claim(0, 2);
const ONE: Claim = claim(0, 1);

fn wake(vm: u32, id: u32) -> Wake {
    Wake { queue: vm * 10, id }
}

#[test]
fn as_many_are_let_in_as_the_limit_says_over_all_vms() {
    let mut line = Line::default();
    let first = line.enter(1, TWO);
    line.enter(2, TWO);
    assert_eq!((line.bulkhead.enter(vm(1), TWO), line.bulkhead.enter(vm(3), TWO)), (None, None));
    assert_eq!((line.bulkhead.in_flight(), line.bulkhead.waiting()), (2, 0));
    assert_eq!(line.release(first), (true, vec![]));
    line.enter(3, TWO);
    assert_eq!(line.bulkhead.in_flight(), 2);
}

#[test]
fn a_refusal_changes_nothing() {
    let mut line = Line::default();
    line.enter(1, ONE);
    let before = line.bulkhead.clone();
    assert_eq!(line.bulkhead.enter(vm(2), ONE), None);
    assert!(!line.wait(2, 0, ONE, 0));
    assert_eq!(line.bulkhead, before);
}

#[test]
fn a_class_is_let_in_while_all_that_is_in_flight_is_below_its_share() {
    let (high, middle, low) = (claim(0, 10), claim(1, 7), claim(2, 3));
    let mut line = Line::default();
    for (class, until) in [(low, 3), (middle, 7), (high, 10)] {
        while line.bulkhead.in_flight() < until {
            line.enter(1, class);
        }
        assert_eq!(line.bulkhead.enter(vm(1), class), None, "{class:?}");
    }
    // What others have in flight counts against a class: that it has nothing itself gives it nothing.
    let mut line = Line::default();
    for _ in 0..3 {
        line.enter(1, high);
    }
    assert_eq!(line.bulkhead.enter(vm(1), low), None);
}

#[test]
fn two_configurations_judge_one_count_each_by_its_own_limit() {
    let (old, new) = (claim(0, 3), claim(0, 1));
    let mut line = Line::default();
    line.enter(1, old);
    line.enter(1, old);
    assert_eq!(line.bulkhead.enter(vm(2), new), None);
    line.enter(1, old);
    assert_eq!(line.bulkhead.in_flight(), 3);
}

#[test]
fn a_permit_comes_back_once() {
    let mut line = Line::default();
    let permit = line.enter(1, TWO);
    line.enter(2, TWO);
    assert_eq!(line.release(permit), (true, vec![]));
    let after = line.bulkhead.clone();
    assert_eq!(line.release(permit), (false, vec![]));
    assert_eq!((line.bulkhead.clone(), line.bulkhead.in_flight()), (after, 1));
}

#[test]
fn a_permit_of_a_time_that_is_over_is_none_of_the_present() {
    let mut line = Line::default();
    let old = line.enter(1, TWO);
    assert_eq!(line.bulkhead.reclaim(|owner| owner == vm(1).owner, &mut line.wakes), 1);
    let present = line.enter(1, TWO);
    let before = line.bulkhead.clone();
    assert_eq!(line.release(old), (false, vec![]));
    assert_eq!(line.bulkhead, before);
    assert_eq!(line.release(present), (true, vec![]));
    assert_eq!(line.bulkhead.in_flight(), 0);
}

#[test]
fn those_of_a_class_are_served_in_the_order_in_which_they_came_over_all_vms() {
    let mut line = Line::default();
    let mut permit = line.enter(1, ONE);
    for (vm, id) in [(2, 7), (1, 7), (2, 5), (3, 1)] {
        assert!(line.wait(vm, id, ONE, 10));
    }
    for (vm, id) in [(2, 7), (1, 7), (2, 5), (3, 1)] {
        assert_eq!(line.release(permit), (true, vec![wake(vm, id)]));
        assert_eq!(line.bulkhead.in_flight(), 1, "the permit is its own at once");
        permit = line.take_up(vm, id);
    }
    assert_eq!(line.release(permit), (true, vec![]));
}

#[test]
fn the_highest_class_is_served_first() {
    let mut line = Line::default();
    let mut permit = line.enter(1, ONE);
    for (id, rank) in [(0, 2), (1, 1), (2, 0), (3, 2), (4, 0), (5, 1)] {
        assert!(line.wait(1, id, claim(rank, 1), 10));
    }
    for id in [2, 4, 1, 5, 0, 3] {
        assert_eq!(line.release(permit), (true, vec![wake(1, id)]));
        permit = line.take_up(1, id);
    }
}

#[test]
fn who_is_above_its_own_limit_is_passed_over() {
    let mut line = Line::default();
    let permits: Vec<_> = (0..4).map(|_| line.enter(1, claim(0, 4))).collect();
    // The first is of a configuration with a lower limit, the second of a class with a small share.
    assert!(line.wait(1, 0, claim(0, 1), 10));
    assert!(line.wait(1, 1, claim(1, 2), 10));
    assert!(line.wait(1, 2, claim(2, 4), 10));
    assert_eq!(line.release(permits[0]).1, [wake(1, 2)]);
    let last = line.take_up(1, 2);
    assert_eq!(line.release(last).1, []);
    assert_eq!(line.release(permits[1]).1, []);
    assert_eq!(line.bulkhead.in_flight(), 2);
    assert_eq!(line.release(permits[2]).1, [wake(1, 1)]);
    let second = line.take_up(1, 1);
    assert_eq!(line.release(permits[3]).1, []);
    assert_eq!(line.release(second).1, [wake(1, 0)]);
}

#[test]
fn a_vm_without_a_queue_is_served_and_sent_no_message() {
    let mut line = Line::default();
    let permit = line.enter(1, ONE);
    let mute = Address { queue: 0, ..vm(2) };
    assert!(line.bulkhead.enqueue(mute, 5, ONE, 10, &mut line.wakes));
    assert_eq!(line.release(permit), (true, vec![]));
    assert!(matches!(line.bulkhead.take_up(mute, 5), Turn::Granted(_)));
}

#[test]
fn a_message_goes_where_the_vm_was_last_heard_of() {
    let mut line = Line::default();
    let permit = line.enter(1, TWO);
    line.enter(2, TWO);
    assert!(line.wait(2, 5, TWO, 10));
    assert!(line.bulkhead.enqueue(Address { queue: 99, ..vm(2) }, 6, TWO, 10, &mut line.wakes));
    assert_eq!(line.release(permit).1, [Wake { queue: 99, id: 5 }]);
}

#[test]
fn a_full_queue_sends_away_the_youngest_of_the_lowest_class_below_the_newcomers() {
    let mut line = Line::default();
    line.enter(1, ONE);
    for (id, rank) in [(0, 1), (1, 2), (2, 3), (3, 3), (4, 2)] {
        assert!(line.wait(2, id, claim(rank, 1), 5));
    }
    assert!(line.wakes.is_empty());
    for (newcomer, rank, sent_away) in [(10, 2, 3), (11, 0, 2), (12, 0, 10), (13, 1, 4), (14, 0, 1)] {
        assert!(line.wait(1, newcomer, claim(rank, 1), 5), "{newcomer}");
        assert_eq!(line.wakes(), [wake(if sent_away < 10 { 2 } else { 1 }, sent_away)]);
        assert_eq!(line.bulkhead.waiting(), 5);
    }
    // Nobody is sent away for the like of it.
    let before = line.bulkhead.clone();
    assert!(!line.wait(1, 15, claim(1, 1), 5));
    assert_eq!((line.bulkhead.clone(), line.wakes()), (before, vec![]));
}

#[test]
fn who_has_a_permit_already_is_not_sent_away_and_takes_no_place() {
    let mut line = Line::default();
    let permit = line.enter(1, ONE);
    assert!(line.wait(1, 0, claim(3, 1), 1));
    assert_eq!(line.release(permit).1, [wake(1, 0)]);
    assert_eq!((line.bulkhead.in_flight(), line.bulkhead.waiting()), (1, 0));
    assert!(line.wait(1, 1, claim(2, 1), 1));
    assert!(line.wait(1, 2, claim(0, 1), 1));
    assert_eq!(line.wakes(), [wake(1, 1)]);
    line.take_up(1, 0);
}

#[test]
fn who_was_sent_away_finds_nothing_and_leaves_nothing() {
    let mut line = Line::default();
    line.enter(1, ONE);
    assert!(line.wait(2, 0, claim(1, 1), 1));
    assert!(line.wait(1, 1, ONE, 1));
    assert_eq!(line.wakes(), [wake(2, 0)], "it is told though nothing of its VM stands there any more");
    assert_eq!(line.bulkhead.owners().collect::<Vec<_>>(), [vm(1).owner]);
    assert_eq!(line.bulkhead.take_up(vm(2), 0), Turn::Gone);
}

#[test]
fn in_a_queue_without_places_nobody_waits() {
    let mut line = Line::default();
    line.enter(1, ONE);
    assert!(!line.wait(1, 0, ONE, 0));
    assert!(line.wait(1, 0, ONE, 1));
    assert!(!line.wait(1, 1, ONE, 1));
}

#[test]
fn there_is_an_end_to_those_that_wait_and_at_it_the_lowest_still_makes_room() {
    let mut line = Line::default();
    let permit = line.enter(1, ONE);
    for id in 0..u32::from(MOST_WAITING) {
        assert!(line.wait(2, id, claim(1, 1), MOST_WAITING));
    }
    assert!(!line.wait(1, 5000, claim(1, 1), u16::MAX));
    assert!(line.wait(1, 5001, ONE, MOST_WAITING));
    assert_eq!(line.wakes(), [wake(2, u32::from(MOST_WAITING) - 1)]);
    // One that has a permit and was not told yet stands in the list, too.
    assert_eq!(line.release(permit).1, [wake(1, 5001)]);
    assert_eq!(line.bulkhead.waiting(), u32::from(MOST_WAITING) - 1);
    assert!(!line.wait(1, 5002, claim(1, 1), MOST_WAITING));
    assert!(line.wait(1, 5003, ONE, MOST_WAITING));
    assert_eq!(line.wakes(), [wake(2, u32::from(MOST_WAITING) - 2)]);
    assert_eq!(line.bulkhead.waiters.len(), usize::from(MOST_WAITING));
}

#[test]
fn there_is_an_end_to_the_vms_that_hold_something() {
    let many = claim(0, 100_000);
    let most = u32::try_from(MOST_HOLDERS).unwrap();
    let mut line = Line::default();
    let first = line.enter(0, many);
    for vm in 1..most {
        line.enter(vm, many);
    }
    assert_eq!(line.bulkhead.enter(vm(most), many), None);
    assert!(!line.wait(most, 0, many, 10), "nor does it wait, where nobody would look after it");
    line.enter(1, many);
    assert_eq!(line.bulkhead.in_flight(), most + 1);
    line.release(first);
    line.enter(most, many);
}

#[test]
fn who_leaves_while_it_waits_is_forgotten() {
    let mut line = Line::default();
    let permit = line.enter(1, ONE);
    assert!(line.wait(2, 0, ONE, 10));
    assert!(line.wait(3, 0, ONE, 10));
    line.bulkhead.withdraw(vm(2).owner, 0, &mut line.wakes);
    assert_eq!((line.wakes(), line.bulkhead.waiting()), (vec![], 1));
    assert_eq!(line.release(permit).1, [wake(3, 0)]);
}

#[test]
fn who_leaves_with_a_permit_that_it_was_not_told_of_gives_it_to_the_next() {
    let mut line = Line::default();
    let permit = line.enter(1, ONE);
    assert!(line.wait(2, 0, ONE, 10));
    assert!(line.wait(3, 0, ONE, 10));
    assert_eq!(line.release(permit).1, [wake(2, 0)]);
    line.bulkhead.withdraw(vm(2).owner, 0, &mut line.wakes);
    assert_eq!((line.wakes(), line.bulkhead.in_flight()), (vec![wake(3, 0)], 1));
    line.bulkhead.withdraw(vm(3).owner, 0, &mut line.wakes);
    assert_eq!((line.bulkhead.in_flight(), line.bulkhead.owners().count()), (0, 0));
}

#[test]
fn nobody_leaves_for_somebody_else() {
    let mut line = Line::default();
    line.enter(1, ONE);
    assert!(line.wait(1, 0, ONE, 10));
    let before = line.bulkhead.clone();
    for (vm_, id) in [(1, 1), (2, 0)] {
        line.bulkhead.withdraw(vm(vm_).owner, id, &mut line.wakes);
        assert_eq!(line.bulkhead.take_up(vm(vm_), id), Turn::Gone);
        assert_eq!(line.bulkhead, before);
    }
}

#[test]
fn a_permit_is_taken_up_once() {
    let mut line = Line::default();
    let permit = line.enter(1, ONE);
    assert!(line.wait(2, 0, ONE, 10));
    let before = line.bulkhead.clone();
    assert_eq!(line.bulkhead.take_up(vm(2), 0), Turn::Waits);
    assert_eq!(line.bulkhead, before);
    line.release(permit);
    let permit = line.take_up(2, 0);
    assert_eq!(line.bulkhead.take_up(vm(2), 0), Turn::Gone);
    assert_eq!((line.bulkhead.in_flight(), line.bulkhead.waiters.len()), (1, 0));
    assert_eq!(line.release(permit), (true, vec![]));
    assert_eq!(line.bulkhead.owners().count(), 0);
}

#[test]
fn what_the_dead_held_comes_back_and_serves_the_living() {
    let three = claim(0, 3);
    let mut line = Line::default();
    let kept = line.enter(1, three);
    let lost = [line.enter(2, three), line.enter(3, three)];
    for (vm, id) in [(2, 0), (1, 1), (3, 2), (1, 3), (1, 4)] {
        assert!(line.wait(vm, id, three, 10));
    }
    assert_eq!(line.release(kept).1, [wake(2, 0)], "a permit that the dead was not told of is one, too");
    let before = line.bulkhead.clone();
    assert_eq!(line.bulkhead.reclaim(|_| false, &mut line.wakes), 0);
    assert_eq!((line.bulkhead.clone(), line.wakes()), (before, vec![]));

    let dead = [vm(2).owner, vm(3).owner];
    assert_eq!(line.bulkhead.reclaim(|owner| dead.contains(&owner), &mut line.wakes), 3);
    assert_eq!(line.wakes(), [wake(1, 1), wake(1, 3), wake(1, 4)]);
    assert_eq!((line.bulkhead.in_flight(), line.bulkhead.waiting()), (3, 0));
    for permit in lost {
        assert_eq!(line.release(permit), (false, vec![]));
    }
    assert_eq!(line.bulkhead.take_up(vm(2), 0), Turn::Gone);
    assert_eq!(line.bulkhead.owners().collect::<Vec<_>>(), [vm(1).owner]);
}
