//! What becomes of permits and of those that wait while the store gives no answer.

use super::fake::{
    Fake, MEMBERS, P, POLICY, TROUBLES, Trouble, bulkhead, permitted, worker_like, worker_with,
};
use super::waiting::FULL;
use super::*;
use crate::answer::Reason;
use crate::breaker::{Outcome, Ticket};
use crate::testing::{ms, settings};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// A worker with the only permit there is.
fn taken(max_queue: u16) -> (Worker, Fake, Pass) {
    let (mut worker, mut port) = (worker_with(bulkhead(1, max_queue), None), Fake::default());
    let pass = worker.let_in(&mut port, 1, ms(0));
    (worker, port, pass)
}

fn break_policy(port: &mut Fake, trouble: Trouble) {
    port.trouble.insert(POLICY, trouble);
    port.events.clear();
    port.calls.clear();
}

fn calls_of(resumed: &[Resumed]) -> Vec<u32> {
    resumed.iter().map(|resumed| resumed.call).collect()
}

#[test]
fn without_a_queue_a_request_is_refused() {
    for (key, gave_up) in
        [(POLICY, vec![Operation::Admit]), (MEMBERS, vec![Operation::Heartbeat, Operation::Admit])]
    {
        for trouble in TROUBLES {
            let (mut worker, mut port) = (worker_with(bulkhead(5, 0), Some(settings())), Fake::default());
            port.trouble.insert(key, trouble);
            assert_eq!(worker.arrive(&mut port, 1, ms(0)), FULL, "{trouble:?}");
            assert_eq!(port.gave_up(), gave_up, "{trouble:?}");
            assert_eq!((port.crowd(), worker.next_due()), ((0, 0), None));
            port.trouble.clear();
            worker.let_in(&mut port, 1, ms(0));
        }
    }
}

#[test]
fn where_the_breaker_was_last_seen_open_that_is_what_a_request_hears() {
    for trouble in TROUBLES {
        let (mut worker, mut port) = (worker_with(bulkhead(5, 5), Some(settings())), Fake::default());
        let pass = worker.let_in(&mut port, 1, ms(0));
        for _ in 0..3 {
            worker.end(&mut port, &Pass { permit: None, ..pass.clone() }, Outcome::Failure, ms(0));
        }
        break_policy(&mut port, trouble);
        let refused = Refused { reason: Reason::CircuitOpen, wait: None };
        assert_eq!(worker.arrive(&mut port, 2, ms(40_000)), Verdict::Refused(refused), "{trouble:?}");
        assert_eq!(worker.next_due(), None);
    }
}

#[test]
fn in_shadow_mode_a_request_goes_on_without_a_permit() {
    for trouble in TROUBLES {
        for max_queue in [0, 5] {
            let mut worker = worker_like(1, bulkhead(5, max_queue), None, true);
            let mut port = Fake::default();
            break_policy(&mut port, trouble);
            let pass = worker.let_in(&mut port, 1, ms(0));
            // One that may wait would have done so.
            let shadowed = if max_queue == 0 { vec![Reason::BulkheadFull] } else { vec![] };
            assert_eq!((pass.permit, pass.shadowed), (None, shadowed));
            assert_eq!((port.gave_up(), worker.next_due()), (vec![Operation::Admit], None));
        }
    }
}

#[test]
fn with_a_queue_a_request_waits_here_and_tries_again_until_it_is_let_in() {
    for trouble in TROUBLES {
        let (mut worker, mut port) = (worker_with(bulkhead(5, 5), None), Fake::default());
        break_policy(&mut port, trouble);
        assert_eq!(worker.arrive(&mut port, 7, ms(0)), Verdict::Waits, "{trouble:?}");
        assert_eq!((port.gave_up(), worker.next_due()), (vec![Operation::Admit], Some(ms(10))));
        assert_eq!(worker.wait_over(&mut port, ms(10)), []);
        assert_eq!(worker.next_due(), Some(ms(20)));
        port.trouble.clear();
        let resumed = worker.wait_over(&mut port, ms(20));
        assert_eq!(calls_of(&resumed), [7]);
        let Verdict::Admitted(pass) = &resumed[0].verdict else { panic!("{resumed:?}") };
        assert_eq!((port.crowd(), worker.next_due()), ((1, 0), None));
        worker.end(&mut port, pass, Outcome::Success, ms(30));
        assert_eq!(port.crowd(), (0, 0));
    }
}

#[test]
fn who_tried_again_where_it_is_full_waits_in_the_queue_and_no_longer_than_it_would_have() {
    let (mut worker, mut port, pass) = taken(5);
    break_policy(&mut port, Trouble::Unwritable);
    worker.arrive(&mut port, 7, ms(100));
    port.trouble.clear();
    assert_eq!(worker.wait_over(&mut port, ms(110)), []);
    assert_eq!((port.crowd(), worker.next_due()), ((1, 1), Some(ms(1100))));
    worker.end(&mut port, &pass, Outcome::Success, ms(200));
    assert_eq!(worker.woken(&mut port, 7, ms(200)).unwrap().waited, std::time::Duration::from_millis(100));
}

#[test]
fn who_waits_here_is_refused_at_the_end_of_its_wait_and_forgotten_when_its_client_leaves() {
    for trouble in TROUBLES {
        let (mut worker, mut port, _) = taken(5);
        break_policy(&mut port, trouble);
        worker.arrive(&mut port, 7, ms(0));
        worker.arrive(&mut port, 8, ms(0));
        worker.withdraw(&mut port, 8, ms(5));
        for moment in (15..1000).step_by(10) {
            assert_eq!(worker.wait_over(&mut port, ms(moment)), []);
        }
        assert_eq!(worker.next_due(), Some(ms(1000)), "before it would try again");
        port.calls();
        let resumed = worker.wait_over(&mut port, ms(1000));
        assert_eq!((calls_of(&resumed), &resumed[0].verdict), (vec![7], &FULL));
        assert_eq!((port.calls(), worker.next_due()), (vec![], None));
        port.trouble.clear();
        worker.tick(&mut port, ms(1001));
        assert_eq!((port.crowd(), worker.pending.len()), ((1, 0), 0), "it left nothing behind");
    }
}

#[test]
fn who_was_looked_after_in_vain_and_waits_on_is_looked_after_no_sooner_than_before() {
    let (mut worker, mut port, _) = taken(5);
    worker.arrive(&mut port, 7, ms(0));
    break_policy(&mut port, Trouble::Unreadable);
    // A message that was meant for whoever had this queue before.
    assert_eq!(worker.woken(&mut port, 7, ms(100)), None);
    assert_eq!(worker.next_due(), Some(ms(110)));
    port.trouble.clear();
    assert_eq!(worker.wait_over(&mut port, ms(110)), []);
    assert_eq!((port.crowd(), worker.next_due()), ((1, 1), Some(ms(1000))));
}

#[test]
fn no_more_wait_here_than_would_in_the_queue() {
    let (mut worker, mut port) = (worker_with(bulkhead(9, 2), None), Fake::default());
    break_policy(&mut port, Trouble::Unreadable);
    let verdicts = [1, 2, 3].map(|call| worker.arrive(&mut port, call, ms(0)));
    assert_eq!(verdicts, [Verdict::Waits, Verdict::Waits, FULL]);
    worker.withdraw(&mut port, 1, ms(1));
    assert_eq!(worker.arrive(&mut port, 4, ms(1)), Verdict::Waits);
}

#[test]
fn those_that_wait_here_try_in_the_order_in_which_they_came() {
    let (mut worker, mut port) = (worker_with(bulkhead(1, 5), None), Fake::default());
    break_policy(&mut port, Trouble::Unreadable);
    for (moment, call) in [(0, 9), (1, 3), (2, 6)] {
        worker.arrive(&mut port, call, ms(moment));
    }
    port.trouble.clear();
    let mut resumed = worker.wait_over(&mut port, ms(50));
    assert_eq!((calls_of(&resumed), port.crowd()), (vec![9], (1, 2)));
    for next in [3, 6] {
        let Some(Verdict::Admitted(pass)) = resumed.pop().map(|resumed| resumed.verdict) else { panic!() };
        worker.end(&mut port, &pass, Outcome::Success, ms(60));
        assert_eq!(port.wakes().iter().map(|wake| wake.id).collect::<Vec<_>>(), [next]);
        resumed.extend(worker.woken(&mut port, next, ms(60)));
    }
}

#[test]
fn who_waits_in_the_queue_looks_again_soon_while_nothing_can_be_found_out() {
    for trouble in TROUBLES {
        let (mut worker, mut port, pass) = taken(5);
        worker.arrive(&mut port, 7, ms(0));
        worker.end(&mut port, &pass, Outcome::Success, ms(1));
        break_policy(&mut port, trouble);
        assert_eq!(worker.woken(&mut port, 7, ms(2)), None, "{trouble:?}");
        assert_eq!((port.gave_up(), worker.next_due()), (vec![Operation::Admit], Some(ms(12))));
        assert_eq!(worker.wait_over(&mut port, ms(12)), []);
        port.trouble.clear();
        assert_eq!(calls_of(&worker.wait_over(&mut port, ms(22))), [7]);
        assert_eq!(port.crowd(), (1, 0));
    }
}

#[test]
fn at_the_end_of_its_wait_it_is_refused_and_its_place_or_its_permit_comes_back_later() {
    for trouble in TROUBLES {
        for granted in [false, true] {
            let (mut worker, mut port, pass) = taken(5);
            worker.arrive(&mut port, 7, ms(0));
            if granted {
                worker.end(&mut port, &pass, Outcome::Success, ms(1));
            }
            worker.arrive(&mut port, 8, ms(500));
            port.wakes();
            break_policy(&mut port, trouble);
            let resumed = worker.wait_over(&mut port, ms(1000));
            assert_eq!((calls_of(&resumed), &resumed[0].verdict), (vec![7], &FULL), "{trouble:?}");
            port.trouble.clear();
            assert_eq!(port.crowd(), if granted { (1, 1) } else { (1, 2) });
            worker.tick(&mut port, ms(1001));
            assert_eq!(port.crowd(), if granted { (1, 0) } else { (1, 1) });
            assert_eq!(port.wakes().len(), usize::from(granted), "the next has it");
        }
    }
}

#[test]
fn a_place_that_cannot_be_given_back_is_given_back_later() {
    for trouble in TROUBLES {
        let (mut worker, mut port, pass) = taken(5);
        worker.arrive(&mut port, 7, ms(0));
        worker.arrive(&mut port, 8, ms(0));
        break_policy(&mut port, trouble);
        worker.withdraw(&mut port, 7, ms(1));
        assert_eq!(port.gave_up(), [Operation::Release]);
        port.trouble.clear();
        worker.end(&mut port, &pass, Outcome::Success, ms(2));
        assert_eq!(port.wakes().iter().map(|wake| wake.id).collect::<Vec<_>>(), [8]);
        assert_eq!((port.crowd(), worker.pending.len()), ((1, 0), 0));
    }
}

type Callback = fn(&mut Worker, &mut Fake, Timestamp);

/// The ways a worker is called back.
const CALLBACKS: [(&str, Callback); 8] = [
    ("admit", |worker, port, now| {
        worker.arrive(port, 50, now);
    }),
    ("complete", |worker, port, now| {
        worker.end(port, &Pass::default(), Outcome::Success, now);
    }),
    ("release", |worker, port, now| {
        let mut other = State::decode(None, now).bulkhead;
        let address = crate::testing::vm(77);
        let permit = other.enter(address, crate::testing::claim(0, 1)).unwrap();
        worker.release(port, P, permitted(permit), now);
    }),
    ("woken", |worker, port, now| {
        worker.woken(port, 60, now);
    }),
    ("wait over", |worker, port, now| {
        worker.wait_over(port, now);
    }),
    ("withdraw", |worker, port, now| worker.withdraw(port, 60, now)),
    ("tick", |worker, port, now| {
        worker.tick(port, now);
    }),
    ("leave", |worker, port, now| worker.leave(port, now)),
];

#[test]
fn a_release_that_the_store_would_not_take_is_kept_and_retried_on_the_next_callback() {
    for trouble in TROUBLES {
        for (name, callback) in CALLBACKS {
            let (mut worker, mut port, pass) = taken(0);
            break_policy(&mut port, trouble);
            worker.end(&mut port, &pass, Outcome::Success, ms(1));
            assert_eq!((port.gave_up(), worker.pending.len()), (vec![Operation::Release], 1));
            callback(&mut worker, &mut port, ms(2));
            assert!(port.gave_up().contains(&Operation::Release), "{name} {trouble:?}: again in vain");
            port.trouble.clear();
            assert_eq!(port.crowd(), (1, 0));
            callback(&mut worker, &mut port, ms(3));
            // The one that asks to be let in has it now.
            assert_eq!(port.crowd(), (u32::from(name == "admit"), 0), "{name} {trouble:?}");
            assert!(worker.pending.is_empty(), "{name} {trouble:?}");
            let settled = port.state();
            worker.flush(&mut port, ms(4));
            assert_eq!(port.state(), settled, "once only");
        }
    }
}

#[test]
fn a_release_that_was_kept_comes_in_time_for_whoever_waits_for_the_last_moment() {
    let (mut worker, mut port, pass) = taken(5);
    worker.arrive(&mut port, 7, ms(0));
    break_policy(&mut port, Trouble::Unwritable);
    worker.end(&mut port, &pass, Outcome::Success, ms(900));
    port.trouble.clear();
    let resumed = worker.wait_over(&mut port, ms(1000));
    assert!(matches!(resumed[0].verdict, Verdict::Admitted(_)), "{resumed:?}");
}

#[test]
fn an_outcome_that_comes_with_a_permit_is_kept_with_it() {
    for trouble in TROUBLES {
        let (mut worker, mut port) = (worker_with(bulkhead(1, 0), Some(settings())), Fake::default());
        let pass = worker.let_in(&mut port, 1, ms(0));
        break_policy(&mut port, trouble);
        worker.end(&mut port, &pass, Outcome::Failure, ms(1));
        port.trouble.clear();
        worker.tick(&mut port, ms(500));
        assert_eq!((port.crowd(), port.state().breaker.is_clean()), ((0, 0), false));
    }
}

#[test]
fn releases_that_piled_up_all_come_back_and_wake_as_many() {
    let (mut worker, mut port) = (worker_with(bulkhead(3, 5), None), Fake::default());
    let passes: Vec<_> = (0..3).map(|call| worker.let_in(&mut port, call, ms(0))).collect();
    for call in 10..14 {
        worker.arrive(&mut port, call, ms(0));
    }
    break_policy(&mut port, Trouble::Contended);
    for pass in &passes {
        worker.end(&mut port, pass, Outcome::Success, ms(1));
    }
    assert_eq!((worker.pending.len(), port.wakes()), (3, vec![]), "nobody is told of what is not committed");
    port.trouble.clear();
    worker.tick(&mut port, ms(500));
    assert_eq!(port.wakes().iter().map(|wake| wake.id).collect::<Vec<_>>(), [10, 11, 12]);
    assert_eq!(port.crowd(), (3, 1));
}

#[test]
fn a_ticket_without_a_permit_is_not_kept() {
    let (mut worker, mut port) = (worker_with(bulkhead(1, 0), Some(settings())), Fake::default());
    break_policy(&mut port, Trouble::Unwritable);
    let ticket = Some(Ticket { generation: 0, probe: None });
    worker.end(&mut port, &Pass { ticket, ..Pass::default() }, Outcome::Failure, ms(1));
    assert_eq!((port.gave_up(), worker.pending.len()), (vec![Operation::Record], 0));
}
