//! Retries and deadlines of requests that wait for a permit.

use super::budget_tests::{arrival, budget, granted, pass_of, patterns, ready};
use super::fake::{Fake, P, POLICY, TROUBLES, bulkhead};
use super::*;
use crate::answer::Reason;
use crate::breaker::Outcome;
use crate::retry::{Denied, Wish};
use crate::testing::ms;
use crate::timeout::Allowance;
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const LATE: Verdict = Verdict::Refused(Refused { reason: Reason::DeadlineExceeded, wait: None });

/// A worker with one permit and a budget of ten retries for nothing, whose permit is taken.
fn taken() -> (Worker, Fake, Pass) {
    let (mut worker, mut port) = ready(patterns(None, Some(bulkhead(1, 5)), budget(1)));
    let pass = worker.let_in_for(&mut port, 0, ms(0));
    port.calls.clear();
    (worker, port, pass)
}

/// One that wants two retries, and must be done by then.
fn due(call: u32, deadline: u64) -> Arrival {
    let time = Allowance { deadline: Some(ms(deadline)), per_try: Some(Duration::from_millis(100)) };
    Arrival { time, ..arrival(call, Wish::Retries(2)) }
}

fn resumed(worker: &mut Worker, port: &mut Fake, call: u32, now: Timestamp) -> Verdict {
    worker.woken(port, call, now).expect("its turn").verdict
}

#[test]
fn who_waits_pays_and_is_granted_retries_when_it_is_let_in() {
    let (mut worker, mut port, pass) = taken();
    let before = port.state().budget;
    assert_eq!(worker.admit(&mut port, P, arrival(7, Wish::Retries(2)), ms(0)), Verdict::Waits);
    assert_eq!(port.state().budget, before);
    worker.end_after(&mut port, &pass, None, Outcome::Success, ms(10));
    assert_eq!(port.state().budget, before);
    port.calls();
    let pass = pass_of(resumed(&mut worker, &mut port, 7, ms(20)));
    assert_eq!(port.store_calls(), ["get", "put"]);
    assert_eq!((granted(&pass), port.state().budget.reserved()), ((2, 2, None), 2));
    worker.end_after(&mut port, &pass, Some(2), Outcome::Success, ms(30));
    assert_eq!((port.retries(ms(30)), port.crowd(), port.gave_up()), ((-1, 0), (0, 0), vec![]));
}

#[test]
fn what_was_waited_is_no_time_for_retries() {
    let (mut worker, mut port, pass) = taken();
    // 100 + 25 + 100 + 75 + 100 milliseconds for both.
    for call in [7, 8] {
        assert_eq!(worker.admit(&mut port, P, due(call, 400), ms(0)), Verdict::Waits);
    }
    worker.end_after(&mut port, &pass, None, Outcome::Success, ms(0));
    let first = pass_of(resumed(&mut worker, &mut port, 7, ms(0)));
    assert_eq!(granted(&first), (2, 2, None));
    worker.end_after(&mut port, &first, Some(0), Outcome::Success, ms(1));
    let second = pass_of(resumed(&mut worker, &mut port, 8, ms(1)));
    assert_eq!(granted(&second), (1, 1, Some(Denied::Deadline)));
}

#[test]
fn a_deadline_in_a_wait_ends_it_and_gives_the_place_back() {
    let (mut worker, mut port, _) = taken();
    let before = port.state().budget;
    assert_eq!(worker.admit(&mut port, P, due(7, 300), ms(0)), Verdict::Waits);
    assert_eq!(worker.admit(&mut port, P, due(8, 3000), ms(0)), Verdict::Waits);
    assert_eq!((worker.next_due(), port.crowd()), (Some(ms(300)), (1, 2)));
    assert_eq!(worker.wait_over(&mut port, ms(299)), []);
    let ended = worker.wait_over(&mut port, ms(300));
    assert_eq!(ended.iter().map(|it| (it.call, it.verdict.clone())).collect::<Vec<_>>(), [(7, LATE)]);
    assert_eq!((port.crowd(), worker.next_due()), ((1, 1), Some(ms(1000))));
    let ended = worker.wait_over(&mut port, ms(1000));
    assert_eq!(ended.first().map(|it| it.verdict.clone()), Some(super::waiting::FULL), "that wait is over");
    assert_eq!((port.crowd(), port.state().budget), ((1, 0), before));
}

#[test]
fn a_permit_that_comes_after_the_deadline_goes_to_the_next() {
    let (mut worker, mut port, pass) = taken();
    assert_eq!(worker.admit(&mut port, P, due(7, 300), ms(0)), Verdict::Waits);
    assert_eq!(worker.admit(&mut port, P, due(8, 900), ms(0)), Verdict::Waits);
    worker.end_after(&mut port, &pass, None, Outcome::Success, ms(200));
    assert_eq!(port.wakes(), [Wake { queue: worker.queue, id: 7 }]);
    assert_eq!(resumed(&mut worker, &mut port, 7, ms(300)), LATE);
    assert_eq!(port.wakes(), [Wake { queue: worker.queue, id: 8 }]);
    assert_eq!((port.crowd(), port.state().budget.reserved()), ((1, 0), 0));
    let next = pass_of(resumed(&mut worker, &mut port, 8, ms(310)));
    worker.end_after(&mut port, &next, Some(0), Outcome::Success, ms(320));
    assert_eq!((port.crowd(), port.retries(ms(320))), ((0, 0), (0, 0)));
}

#[test]
fn a_deadline_is_one_where_the_store_takes_nothing_too() {
    for trouble in TROUBLES {
        let (mut worker, mut port, _) = taken();
        assert_eq!(worker.admit(&mut port, P, due(7, 300), ms(0)), Verdict::Waits);
        port.trouble.insert(POLICY, trouble);
        assert_eq!(worker.admit(&mut port, P, due(8, 300), ms(0)), Verdict::Waits, "here");
        let mut ended = worker.wait_over(&mut port, ms(300));
        ended.sort_by_key(|it| it.call);
        let ended: Vec<_> = ended.into_iter().map(|it| (it.call, it.verdict)).collect();
        assert_eq!(ended, [(7, LATE), (8, LATE)], "{trouble:?}");
        port.trouble.clear();
        worker.tick(&mut port, ms(500));
        assert_eq!((port.crowd(), worker.pending.len()), ((1, 0), 0), "{trouble:?}");
    }
}

#[test]
fn who_is_gone_before_it_is_told_gives_back_all_it_was_given() {
    let (mut worker, mut port, pass) = taken();
    assert_eq!(worker.admit(&mut port, P, arrival(7, Wish::Retries(2)), ms(0)), Verdict::Waits);
    worker.end_after(&mut port, &pass, None, Outcome::Success, ms(0));
    let balance = port.state().budget.balance(&budget(1), ms(0));
    let resumed = worker.woken(&mut port, 7, ms(0)).expect("its turn");
    assert_eq!((port.state().budget.reserved(), port.crowd()), (2, (1, 0)));
    worker.abandon(&mut port, resumed, ms(0));
    assert_eq!((port.state().budget.reserved(), port.crowd()), (0, (0, 0)));
    assert_eq!((port.state().budget.balance(&budget(1), ms(0)), port.gave_up()), (balance, vec![]));
}

#[test]
fn a_bulkhead_in_shadow_mode_leaves_retries_alone() {
    let mut patterns = patterns(None, Some(bulkhead(1, 5)), budget(1));
    patterns.bulkhead = patterns.bulkhead.map(|bulkhead| Pattern { shadow: true, ..bulkhead });
    let (mut worker, mut port) = ready(patterns);
    let first = worker.let_in_for(&mut port, 1, ms(0));
    let second = pass_of(worker.admit(&mut port, P, due(2, 300), ms(0)));
    assert_eq!(
        (granted(&second), second.permit, worker.waits(2)),
        ((1, 1, Some(Denied::Deadline)), None, true)
    );
    assert_eq!(worker.next_due(), Some(ms(1000)), "in name only: its deadline ends no wait");
    worker.end_after(&mut port, &first, Some(0), Outcome::Success, ms(0));
    let resumed = worker.woken(&mut port, 2, ms(0)).expect("its turn");
    assert_eq!(pass_of(resumed.verdict.clone()).grant, None, "it has its own");
    let pass = Pass { permit: pass_of(resumed.verdict).permit, ..second };
    worker.end_after(&mut port, &pass, Some(0), Outcome::Success, ms(0));
    assert_eq!((port.state().budget.reserved(), port.crowd()), (0, (0, 0)));
}

#[test]
fn who_leaves_in_order_keeps_nothing() {
    let (mut worker, mut port, pass) = taken();
    assert_eq!(worker.admit(&mut port, P, arrival(7, Wish::Retries(2)), ms(0)), Verdict::Waits);
    worker.end_after(&mut port, &pass, None, Outcome::Success, ms(0));
    let pass = pass_of(resumed(&mut worker, &mut port, 7, ms(0)));
    port.trouble.insert(POLICY, TROUBLES[1]);
    worker.end_after(&mut port, &pass, Some(1), Outcome::Success, ms(0));
    assert_eq!(worker.pending.len(), 1);
    port.trouble.clear();
    worker.leave(&mut port, ms(1));
    assert_eq!((port.state().budget.reserved(), port.crowd()), (0, (0, 0)));
    assert_eq!(port.state().budget.balance(&budget(1), ms(1)), 9);
    assert_eq!((worker.me, worker.pending.len()), (None, 0));
}
