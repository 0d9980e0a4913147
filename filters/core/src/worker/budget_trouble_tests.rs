//! A budget where the store takes nothing, where a VM dies, and what a leader shows of it.

use super::budget_tests::{arrival, budget, granted, pass_of, patterns, ready, shadow, worker_of};
use super::fake::{Fake, MEMBERS, P, POLICY, TROUBLES, bulkhead};
use super::*;
use crate::breaker::Outcome;
use crate::retry::{Denied, Wish};
use crate::testing::{ms, settings};
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn ticks(workers: &mut [&mut Worker], port: &mut Fake, from: u64, to: u64) {
    for moment in (from..=to).step_by(500) {
        for worker in &mut *workers {
            worker.tick(port, ms(moment));
        }
    }
}

/// The balances that were shown since the last time anybody asked.
fn balances(port: &mut Fake) -> Vec<u64> {
    let of = |event| match event {
        Event::Balance { policy: 0, retries } => Some(retries),
        _ => None,
    };
    port.events().into_iter().filter_map(of).collect()
}

#[test]
fn where_the_store_takes_nothing_nobody_is_retried() {
    for trouble in TROUBLES {
        for breaker in [None, Some(settings())] {
            let (mut worker, mut port) = ready(patterns(breaker, None, budget(10)));
            worker.let_in_for(&mut port, 0, ms(0));
            let before = port.state().budget;
            port.trouble.insert(POLICY, trouble);
            for wish in [Wish::Retries(3), Wish::Route] {
                let pass = pass_of(worker.admit(&mut port, P, arrival(1, wish), ms(1)));
                assert_eq!(granted(&pass), (0, 0, Some(Denied::Budget)), "{trouble:?}");
                assert!(!pass.grant.is_some_and(|grant| grant.uncapped));
                assert_eq!(port.gave_up(), [Operation::Admit], "{trouble:?}");
            }
            let spent = pass_of(worker.admit(&mut port, P, arrival(1, Wish::Spent), ms(1)));
            assert_eq!(granted(&spent).0, 0);
            assert_eq!((port.state().budget, worker.pending.len()), (before, 0), "{trouble:?}");
        }
    }
}

#[test]
fn who_does_not_know_who_it_is_has_nothing_kept_for_it() {
    for trouble in TROUBLES {
        let (mut worker, mut port) = (worker_of(1, patterns(None, None, budget(10))), Fake::default());
        port.trouble.insert(MEMBERS, trouble);
        let pass = worker.let_in_for(&mut port, 3, ms(0));
        assert_eq!(granted(&pass), (0, 0, Some(Denied::Budget)), "{trouble:?}");
        assert_eq!(port.gave_up(), [Operation::Heartbeat, Operation::Admit]);
        assert!(!port.values.contains_key(POLICY));
    }
}

#[test]
fn a_budget_in_shadow_mode_denies_nothing_then_either() {
    let (mut worker, mut port) = ready(shadow(10));
    port.trouble.insert(POLICY, TROUBLES[0]);
    let pass = worker.let_in_for(&mut port, 3, ms(0));
    assert_eq!(granted(&pass), (3, 0, None));
    let bulkhead = Some(bulkhead(1, 0));
    let (mut worker, mut port) = ready(patterns(None, bulkhead, budget(10)));
    port.trouble.insert(POLICY, TROUBLES[0]);
    assert_eq!(worker.admit(&mut port, P, arrival(1, Wish::Route), ms(0)), super::waiting::FULL);
}

#[test]
fn a_settlement_that_the_store_would_not_take_is_kept_and_done_once() {
    for trouble in TROUBLES {
        for later in ["tick", "admission", "end"] {
            let (mut worker, mut port) = ready(patterns(None, None, budget(2)));
            let [pass, other] = [(); 2].map(|()| worker.let_in_for(&mut port, 2, ms(0)));
            port.trouble.insert(POLICY, trouble);
            worker.end_after(&mut port, &pass, Some(1), Outcome::Success, ms(1));
            assert_eq!((port.gave_up(), worker.pending.len()), (vec![Operation::Release], 1), "{trouble:?}");
            worker.tick(&mut port, ms(500));
            assert_eq!((port.gave_up(), worker.pending.len()), (vec![Operation::Release], 1), "still");
            assert_eq!(port.state().budget.reserved(), 4, "{trouble:?}");
            port.trouble.clear();
            match later {
                "tick" => drop(worker.tick(&mut port, ms(1000))),
                "admission" => drop(worker.let_in_for(&mut port, 0, ms(1000))),
                _ => worker.end_after(&mut port, &other, Some(0), Outcome::Success, ms(1000)),
            }
            let kept = if later == "end" { 0 } else { 2 };
            let mut found = port.state().budget;
            assert_eq!((found.reserved(), worker.pending.len()), (kept, 0), "{trouble:?} {later}");
            assert_eq!(found.balance(&budget(2), ms(1000)), 19, "once");
        }
    }
}

#[test]
fn what_is_kept_for_the_dead_counts_as_spent() {
    let mut port = Fake::default();
    let [mut dying, mut leader] = [(); 2].map(|()| worker_of(1, patterns(None, None, budget(1))));
    dying.tick(&mut port, ms(0));
    let pass = dying.let_in_for(&mut port, 2, ms(0));
    ticks(&mut [&mut leader], &mut port, 0, 4500);
    assert_eq!(port.state().budget.reserved(), 2);
    port.events();
    ticks(&mut [&mut leader], &mut port, 5000, 6500);
    let reclaimed = Event::Reclaimed { target: P, probes: 0, permits: 0, retries: 2 };
    assert_eq!(port.events().into_iter().filter(|event| *event == reclaimed).count(), 1);
    let found = |port: &Fake| {
        let mut budget_ = port.state().budget;
        (budget_.balance(&budget(1), ms(7000)), budget_.reserved())
    };
    assert_eq!(found(&port), (8, 0));
    // It was not dead: what it gives back is not there any more.
    dying.end_after(&mut port, &pass, Some(0), Outcome::Success, ms(7000));
    assert_eq!((port.gave_up(), found(&port), dying.pending.len()), (vec![Operation::Lease], (8, 0), 0));
}

#[test]
fn what_is_kept_for_the_living_stays() {
    let mut port = Fake::default();
    let [mut slow, mut leader] = [(); 2].map(|()| worker_of(1, patterns(None, None, budget(1))));
    let pass = slow.let_in_for(&mut port, 2, ms(0));
    ticks(&mut [&mut slow, &mut leader], &mut port, 0, 60_000);
    assert_eq!(port.state().budget.reserved(), 2);
    slow.end_after(&mut port, &pass, Some(0), Outcome::Success, ms(60_000));
    assert_eq!((port.retries(ms(60_000)), port.gave_up()), ((0, 0), vec![]));
}

#[test]
fn a_leader_shows_what_is_left() {
    let (mut worker, mut port) = (worker_of(1, patterns(None, None, budget(1))), Fake::default());
    worker.tick(&mut port, ms(0));
    assert_eq!(port.events(), [Event::Balance { policy: 0, retries: 10 }], "before the first request");
    worker.tick(&mut port, ms(500));
    assert_eq!(port.events(), [], "once");
    let pass = worker.let_in_for(&mut port, 2, ms(600));
    worker.tick(&mut port, ms(1000));
    assert_eq!(balances(&mut port), [8]);
    worker.end_after(&mut port, &pass, Some(12), Outcome::Success, ms(1100));
    worker.tick(&mut port, ms(1500));
    assert_eq!(balances(&mut port), [0], "never below");
    ticks(&mut [&mut worker], &mut port, 2000, 11_500);
    port.events();
    ticks(&mut [&mut worker], &mut port, 12_000, 12_000);
    assert_eq!(balances(&mut port), [10]);
}

#[test]
fn who_leaves_shows_what_it_leaves_behind() {
    let (mut worker, mut port) = ready(patterns(None, None, budget(1)));
    let pass = worker.let_in_for(&mut port, 2, ms(600));
    worker.end_after(&mut port, &pass, Some(2), Outcome::Success, ms(700));
    worker.leave(&mut port, ms(800));
    assert_eq!(balances(&mut port), [8]);
    let (mut worker, mut port) = ready(patterns(None, None, budget(1)));
    worker.leave(&mut port, ms(800));
    assert_eq!(balances(&mut port), [0_u64; 0], "it had no hand in it");
}

#[test]
fn only_the_newest_configuration_shows_its_balance() {
    let mut port = Fake::default();
    let mut old = worker_of(1, patterns(None, None, budget(1)));
    let mut new = worker_of(2, patterns(None, None, budget(5)));
    old.let_in_for(&mut port, 0, ms(0));
    ticks(&mut [&mut old], &mut port, 0, 1000);
    assert_eq!(balances(&mut port), [10, 10, 10]);
    ticks(&mut [&mut old, &mut new], &mut port, 1500, 1500);
    port.events();
    ticks(&mut [&mut old, &mut new], &mut port, 2000, 3000);
    let shown = balances(&mut port);
    assert!(!shown.is_empty() && shown.iter().all(|retries| *retries == 50), "{shown:?}");
}

#[test]
fn what_cannot_be_looked_at_is_not_shown() {
    let (mut worker, mut port) = ready(patterns(None, None, budget(1)));
    worker.let_in_for(&mut port, 0, ms(0));
    worker.tick(&mut port, ms(500));
    assert_eq!(balances(&mut port), [10]);
    port.trouble.insert(POLICY, TROUBLES[0]);
    worker.tick(&mut port, ms(1000));
    assert_eq!(balances(&mut port), [0_u64; 0]);
}

#[test]
fn the_balance_is_that_of_all_keys() {
    let shared = Shared { patterns: patterns(None, None, budget(1)), max_keys: Some(4) };
    let (mut worker, mut port) = (Worker::new("ns", 1, [("p", Some(shared))].into_iter()), Fake::default());
    ticks(&mut [&mut worker], &mut port, 0, 0);
    balances(&mut port);
    for (key, spent) in [(b"a", 3), (b"b", 1), (b"c", 12)] {
        let target = worker.target(&mut port, 0, Some(key));
        let pass = pass_of(worker.admit(&mut port, target, arrival(1, Wish::Retries(2)), ms(1)));
        let returned = Returned { permit: None, spent: pass.grant.and_then(|it| it.end(Some(spent)).spent) };
        worker.release(&mut port, target, returned, ms(1));
    }
    worker.tick(&mut port, ms(500));
    assert_eq!(balances(&mut port), [7 + 9], "what one owes the others have");
}

#[test]
fn the_newest_configuration_says_how_long_a_window_is() {
    let mut port = Fake::default();
    let short = crate::budget::Settings::new(20_000_000, 0, Duration::from_secs(1), None);
    let mut old = worker_of(1, patterns(None, None, budget(0)));
    let mut new = worker_of(2, patterns(None, None, short));
    old.tick(&mut port, ms(0));
    let slice = |port: &Fake| {
        let mut bytes = Vec::new();
        port.state().budget.encode(&mut bytes);
        Duration::from_nanos(u64::from_le_bytes(bytes[8..16].try_into().unwrap())).as_millis()
    };
    old.let_in_for(&mut port, 0, ms(0));
    assert_eq!(slice(&port), 1000);
    new.tick(&mut port, ms(1));
    new.let_in_for(&mut port, 0, ms(1));
    assert_eq!(slice(&port), 100);
    old.tick(&mut port, ms(500));
    old.let_in_for(&mut port, 0, ms(500));
    assert_eq!(slice(&port), 100, "who is not the newest leaves it");
}

#[test]
fn a_value_that_is_damaged_begins_anew_and_knows_what_it_did_not_give() {
    let (mut worker, mut port) = ready(patterns(None, None, budget(1)));
    let lost = worker.let_in_for(&mut port, 2, ms(5));
    port.set(POLICY, b"damaged");
    let present = worker.let_in_for(&mut port, 1, ms(6));
    worker.end_after(&mut port, &lost, Some(2), Outcome::Success, ms(7));
    assert_eq!(port.gave_up(), [Operation::Lease]);
    assert_eq!(port.state().budget.reserved(), 1);
    worker.end_after(&mut port, &present, Some(1), Outcome::Success, ms(8));
    assert_eq!((port.gave_up(), port.retries(ms(8))), (vec![], (0, 0)));
}
