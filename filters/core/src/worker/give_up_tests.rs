//! What each operation does when it cannot win: one test for each row of the design's table.

use super::fake::{Fake, MEMBERS, P, POLICY, TROUBLES, Trouble, enter, request, trip, worker};
use super::*;
use crate::breaker::{Admission, HalfOpen, Outcome, Phase, Probe, Tally, Ticket};
use crate::testing::ms;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const REFUSED: Admission = Admission::Refused { wait: None };
const PROBING: Timestamp = Timestamp::from_nanos(30_000_000_001);

fn break_policy(port: &mut Fake, trouble: Trouble) {
    port.trouble.insert(POLICY, trouble);
    port.events.clear();
    port.calls.clear();
}

/// The probe that a worker has out, the store sound so far.
fn probing(worker: &mut Worker, port: &mut Fake) -> Ticket {
    trip(worker, port, ms(0));
    let ticket = enter(worker, port, PROBING);
    port.events.clear();
    ticket
}

#[test]
fn admit_in_closed_is_admitted() {
    let (mut worker, mut port) = (worker(), Fake::default());
    // Nothing is known yet: a healthy upstream stays reachable.
    break_policy(&mut port, Trouble::Unreadable);
    let blind = Admission::Admitted(Ticket { generation: 0, probe: None });
    assert_eq!(worker.admission(&mut port, P, ms(0)), blind);
    assert_eq!(port.gave_up(), [Operation::Admit]);
    // The breaker was last seen closed, in its third generation.
    port.trouble.clear();
    trip(&mut worker, &mut port, ms(0));
    request(&mut worker, &mut port, Outcome::Success, PROBING);
    request(&mut worker, &mut port, Outcome::Success, PROBING);
    break_policy(&mut port, Trouble::Unreadable);
    let seen = Admission::Admitted(Ticket { generation: 3, probe: None });
    assert_eq!(worker.admission(&mut port, P, PROBING), seen);
    assert_eq!(port.gave_up(), [Operation::Admit]);
}

#[test]
fn admit_of_a_damaged_value_that_cannot_be_repaired_is_admitted_with_a_ticket_that_fits_nothing() {
    for trouble in [Trouble::Unwritable, Trouble::Contended] {
        let (mut worker, mut port) = (worker(), Fake::default());
        port.set(POLICY, b"damaged");
        break_policy(&mut port, trouble);
        let ticket = enter(&mut worker, &mut port, ms(5));
        assert_eq!(port.gave_up(), [Operation::Admit], "{trouble:?}");
        port.trouble.clear();
        enter(&mut worker, &mut port, ms(6));
        worker.record(&mut port, P, ticket, Outcome::Failure, ms(6));
        assert!(port.state().breaker.is_clean(), "{trouble:?}");
    }
}

#[test]
fn admit_in_open_is_refused() {
    for trouble in TROUBLES {
        let (mut worker, mut port) = (worker(), Fake::default());
        trip(&mut worker, &mut port, ms(0));
        break_policy(&mut port, trouble);
        // The wait is over and somebody should probe, but nobody can say so.
        assert_eq!(worker.admission(&mut port, P, PROBING), REFUSED, "{trouble:?}");
        assert_eq!(port.gave_up(), [Operation::Admit], "{trouble:?}");
        assert_eq!(port.breaker_state(), BreakerState::Open);
        port.trouble.clear();
        assert!(enter(&mut worker, &mut port, PROBING).probe.is_some());
    }
}

#[test]
fn admit_in_half_open_is_refused() {
    for trouble in TROUBLES {
        let (mut worker, mut port) = (worker(), Fake::default());
        probing(&mut worker, &mut port);
        break_policy(&mut port, trouble);
        assert_eq!(worker.admission(&mut port, P, PROBING), REFUSED, "{trouble:?}");
        assert_eq!(port.gave_up(), [Operation::Admit], "{trouble:?}");
    }
}

#[test]
fn a_worker_that_cannot_join_takes_no_probe() {
    for trouble in TROUBLES {
        let (mut worker, mut port) = (worker(), Fake::default());
        trip(&mut worker, &mut port, ms(0));
        port.trouble.insert(MEMBERS, trouble);
        assert_eq!(worker.admission(&mut port, P, PROBING), REFUSED, "{trouble:?}");
        assert_eq!(port.gave_up(), [Operation::Heartbeat, Operation::Admit], "{trouble:?}");
    }
}

#[test]
fn what_a_worker_read_before_it_gave_up_is_what_it_goes_by() {
    let (mut port, mut one, mut other) = (Fake::default(), worker(), worker());
    enter(&mut other, &mut port, ms(0));
    trip(&mut one, &mut port, ms(0));
    // It has only ever seen the breaker closed; now it reads that this is over, but cannot write.
    break_policy(&mut port, Trouble::Contended);
    assert_eq!(other.admission(&mut port, P, PROBING), REFUSED);
}

#[test]
fn the_bound_of_attempts_holds_and_is_counted() {
    let (mut worker, mut port) = (worker(), Fake::default());
    let ticket = enter(&mut worker, &mut port, ms(0));
    break_policy(&mut port, Trouble::Contended);
    worker.record(&mut port, P, ticket, Outcome::Failure, ms(0));
    assert_eq!(port.calls.iter().filter(|call| **call == "put").count(), 16);
    assert!(!port.calls.contains(&"changed"));
    assert_eq!(
        port.events,
        [
            Event::Conflicts { operation: Operation::Record, count: 16 },
            Event::GaveUp { operation: Operation::Record }
        ]
    );
}

#[test]
fn an_outcome_in_closed_is_dropped() {
    for trouble in TROUBLES {
        let (mut worker, mut port) = (worker(), Fake::default());
        let ticket = enter(&mut worker, &mut port, ms(0));
        break_policy(&mut port, trouble);
        worker.record(&mut port, P, ticket, Outcome::Failure, ms(0));
        assert_eq!(port.gave_up(), [Operation::Record], "{trouble:?}");
        port.trouble.clear();
        worker.tick(&mut port, ms(1));
        request(&mut worker, &mut port, Outcome::Ignored, ms(1));
        assert!(!port.values.contains_key(POLICY), "{trouble:?}: and not retried");
    }
}

/// The three ways a worker is called back.
fn callbacks() -> [fn(&mut Worker, &mut Fake); 3] {
    [
        |worker, port| {
            worker.admission(port, P, PROBING);
        },
        |worker, port| {
            let stale = Ticket { generation: 0, probe: None };
            worker.record(port, P, stale, Outcome::Ignored, PROBING);
        },
        |worker, port| {
            worker.tick(port, PROBING);
        },
    ]
}

#[test]
fn a_probes_outcome_is_retried_on_the_next_callback_or_tick() {
    for trouble in TROUBLES {
        for callback in callbacks() {
            for (outcome, expected) in
                [(Outcome::Failure, BreakerState::Open), (Outcome::Success, BreakerState::HalfOpen)]
            {
                let (mut worker, mut port) = (worker(), Fake::default());
                let probe = probing(&mut worker, &mut port);
                break_policy(&mut port, trouble);
                worker.record(&mut port, P, probe, outcome, PROBING);
                assert_eq!(port.gave_up(), [Operation::Record]);
                callback(&mut worker, &mut port);
                assert!(port.gave_up().contains(&Operation::Record), "tried again, and again in vain");
                assert_eq!(worker.pending.len(), 1);
                port.trouble.clear();
                callback(&mut worker, &mut port);
                assert_eq!(
                    (port.breaker_state(), worker.pending.len()),
                    (expected, 0),
                    "{trouble:?} {outcome:?}"
                );
                // Once only.
                let settled = port.state();
                worker.flush(&mut port, PROBING);
                assert_eq!(port.state(), settled);
            }
        }
    }
}

#[test]
fn a_probe_that_proved_nothing_is_handed_back_on_the_next_callback_or_tick() {
    for trouble in TROUBLES {
        for callback in callbacks() {
            let (mut worker, mut port) = (worker(), Fake::default());
            let probe = probing(&mut worker, &mut port);
            break_policy(&mut port, trouble);
            worker.record(&mut port, P, probe, Outcome::Ignored, PROBING);
            assert_eq!(port.gave_up(), [Operation::HandBack]);
            port.trouble.clear();
            callback(&mut worker, &mut port);
            let Phase::HalfOpen(HalfOpen { probes, answers: Tally { calls: 0, .. }, .. }) =
                port.state().breaker.phase().clone()
            else {
                panic!("{:?}", port.state())
            };
            assert!(!probes.contains(&probe.probe.unwrap()), "{trouble:?}");
            assert!(worker.pending.is_empty());
        }
    }
}

#[test]
fn every_probe_that_waits_is_retried() {
    let (mut worker, mut port) = (worker(), Fake::default());
    let first = probing(&mut worker, &mut port);
    let second = enter(&mut worker, &mut port, PROBING);
    break_policy(&mut port, Trouble::Unwritable);
    worker.record(&mut port, P, first, Outcome::Success, PROBING);
    worker.record(&mut port, P, second, Outcome::Success, PROBING);
    assert_eq!(worker.pending.len(), 2);
    port.trouble.clear();
    worker.tick(&mut port, PROBING);
    assert_eq!(port.breaker_state(), BreakerState::Closed);
}

#[test]
fn a_waiting_outcome_whose_state_is_gone_is_dropped_quietly() {
    let (mut worker, mut port) = (worker(), Fake::default());
    let probe = probing(&mut worker, &mut port);
    break_policy(&mut port, Trouble::Unwritable);
    worker.record(&mut port, P, probe, Outcome::Failure, PROBING);
    port.trouble.clear();
    port.events.clear();
    // The stay is over before the store takes anything again.
    worker.tick(&mut port, ms(46_000));
    assert_eq!(port.gave_up(), []);
    assert!(worker.pending.is_empty());
    assert_eq!(*port.state().breaker.phase(), Phase::Open { until: Timestamp::from_nanos(75_000_000_001) });
}

#[test]
fn a_waiting_outcome_whose_lease_has_ended_is_told() {
    let (mut worker, mut port) = (worker(), Fake::default());
    let probe = probing(&mut worker, &mut port);
    break_policy(&mut port, Trouble::Unwritable);
    worker.record(&mut port, P, probe, Outcome::Failure, PROBING);
    port.trouble.clear();
    let mut state = port.state();
    assert_eq!(state.breaker.reclaim(|_| true), 1);
    port.set(POLICY, &state.encode());
    port.events.clear();
    worker.tick(&mut port, PROBING);
    assert_eq!(port.gave_up(), [Operation::Lease]);
    assert_eq!(port.breaker_state(), BreakerState::HalfOpen);
}

#[test]
fn a_heartbeat_that_cannot_be_written_is_told_and_tried_on_the_next_tick() {
    for trouble in TROUBLES {
        let (mut worker, mut port) = (worker(), Fake::default());
        port.trouble.insert(MEMBERS, trouble);
        assert!(!worker.tick(&mut port, ms(0)), "nobody leads who is not known");
        assert_eq!(port.gave_up(), [Operation::Heartbeat], "{trouble:?}");
        port.trouble.clear();
        assert!(worker.tick(&mut port, ms(500)));
    }
}

#[test]
fn housekeeping_that_cannot_be_done_is_told_and_done_on_a_later_tick() {
    for trouble in [Trouble::Unwritable, Trouble::Contended] {
        let (mut worker, mut port) = (worker(), Fake::default());
        probing(&mut worker, &mut port);
        break_policy(&mut port, trouble);
        worker.tick(&mut port, ms(46_000));
        assert_eq!(port.gave_up(), [Operation::Maintain], "{trouble:?}");
        port.trouble.clear();
        worker.tick(&mut port, ms(46_500));
        assert_eq!(port.breaker_state(), BreakerState::Open);
    }
}

#[test]
fn leaving_hands_back_first_and_stays_in_the_table_where_it_cannot() {
    let (mut worker, mut port) = (worker(), Fake::default());
    let probe = probing(&mut worker, &mut port);
    let Probe { owner, .. } = probe.probe.unwrap();
    break_policy(&mut port, Trouble::Unwritable);
    worker.record(&mut port, P, probe, Outcome::Ignored, PROBING);
    let before = port.members();
    worker.leave(&mut port, PROBING);
    assert_eq!((port.members(), worker.me), (before, Some(owner)), "what it holds ends with its lease");
    port.trouble.clear();
    worker.leave(&mut port, PROBING);
    assert!(worker.pending.is_empty());
    assert_ne!(port.members().beat(Some(owner), 1, PROBING, &Watch::default()), owner, "the line is gone");
}
