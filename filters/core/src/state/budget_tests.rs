//! The budget's section among the others, damaged, and before those who do not know it.

use super::tests::value;
use super::*;
use crate::budget::{Settings, Spent};
use crate::retry::{Wanted, Wish};
use crate::testing::{Line, ME, claim, ms};
use proptest::prelude::*;
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const NOW: Timestamp = Timestamp::from_nanos(77_000_000_000);

fn settings() -> Settings {
    Settings::new(20_000_000, 10, Duration::from_secs(10), None)
}

/// What the end of a request has to settle that used all of the retry it was granted.
fn enter(budget: &mut Budget, now: Timestamp) -> Spent {
    let wanted = Wanted { wish: Wish::Retries(1), denied: None };
    budget.enter(&settings(), ME, wanted, now).end(None).spent.unwrap()
}

/// One in which something is paid, and kept.
fn busy() -> Budget {
    let mut budget = Budget::default();
    enter(&mut budget, ms(5));
    budget
}

fn bulkhead() -> Bulkhead {
    let mut line = Line::default();
    line.enter(1, claim(0, 2));
    line.bulkhead
}

fn bytes_of(budget: &Budget) -> Vec<u8> {
    let mut out = Vec::new();
    budget.encode(&mut out);
    out
}

fn own(breaker: &Breaker) -> Vec<u8> {
    let mut out = Vec::new();
    breaker.encode(&mut out);
    out
}

#[test]
fn stands_behind_the_bulkheads_and_before_those_of_others() {
    let newer = Foreign { id: BUDGET, version: 2, bytes: b"from the future".to_vec() };
    let fresh = State::fresh(Breaker::closed(3));
    let state = State { bulkhead: bulkhead(), budget: busy(), foreign: vec![newer], ..fresh };
    let bytes = state.encode();
    let ids: Vec<_> = decode_sections(&bytes).unwrap().iter().map(|it| (it.id, it.version)).collect();
    assert_eq!(ids, [(BREAKER, 1), (BULKHEAD, 1), (5, 1), (5, 2)]);
    assert_eq!(State::decode(Some(&bytes), NOW), state);
}

#[test]
fn a_policy_without_one_writes_none() {
    let state = State { bulkhead: bulkhead(), ..State::fresh(Breaker::closed(3)) };
    let ids: Vec<_> = decode_sections(&state.encode()).unwrap().iter().map(|it| it.id).collect();
    assert_eq!(ids, [BREAKER, BULKHEAD]);
    assert_eq!(State::decode(Some(&state.encode()), NOW).budget, Budget::default());
}

#[test]
fn a_module_that_does_not_know_it_carries_it_along_untouched() {
    let section = Foreign { id: BUDGET, version: Budget::VERSION, bytes: bytes_of(&busy()) };
    let older = State { foreign: vec![section], ..State::fresh(Breaker::closed(3)) };
    let read = State::decode(Some(&older.encode()), NOW);
    assert_eq!((read.budget, read.foreign), (busy(), vec![]));
}

#[test]
fn a_damaged_one_leaves_the_others_alone_and_fits_nothing_that_was_kept_before() {
    let (mut before, breaker) = (Budget::default(), Breaker::closed(3));
    let old = enter(&mut before, ms(5));
    let mut permits = Vec::new();
    bulkhead().encode(&mut permits);
    let whole = bytes_of(&before);
    for damaged in [b"damaged".as_slice(), b"", &whole[..whole.len() - 1]] {
        let sections =
            [(BREAKER, 1, own(&breaker)), (BULKHEAD, 1, permits.clone()), (BUDGET, 1, damaged.to_vec())];
        let sections: Vec<_> =
            sections.iter().map(|(id, version, it)| (*id, *version, it.as_slice())).collect();
        let mut state = State::decode(Some(&value(&sections)), NOW);
        assert_eq!((&state.breaker, &state.bulkhead, state.repaired), (&breaker, &bulkhead(), false));
        assert_eq!(state.budget, Budget::in_place_of_lost(NOW, NOW.as_nanos()));
        let present = enter(&mut state.budget, NOW);
        assert!(!state.budget.settle(old, NOW), "{damaged:?}");
        assert_eq!(state.budget.reserved(), 1);
        assert!(state.budget.settle(present, NOW));
    }
}

#[test]
fn where_the_whole_value_is_damaged_nothing_that_was_kept_before_fits() {
    let old = enter(&mut Budget::default(), ms(5));
    for damaged in [b"".as_slice(), b"damaged", b"RS\x05\x01\xFF\xFF"] {
        let mut state = State::decode(Some(damaged), NOW);
        enter(&mut state.budget, NOW);
        assert!(!state.budget.settle(old, NOW) && state.budget.reserved() == 1);
    }
}

#[test]
fn the_fullest_fits() {
    let mut budget = Budget::default();
    let plenty = Settings::new(0, 10_000, Duration::from_secs(10), None);
    let wanted = Wanted { wish: Wish::Retries(1), denied: None };
    for owner in 0..u64::try_from(crate::ledger::MOST_HOLDERS).unwrap() {
        assert_eq!(budget.enter(&plenty, crate::breaker::Owner(owner), wanted, NOW).retries, 1);
    }
    let state = State { budget, ..State::fresh(Breaker::closed(3)) };
    assert_eq!(State::decode(Some(&state.encode()), NOW), state);
}

proptest! {
    #[test]
    fn one_changed_byte_never_traps_and_never_harms_the_others(
        place in any::<prop::sample::Index>(),
        flip in 1..=255_u8,
    ) {
        let state = State { bulkhead: bulkhead(), budget: busy(), ..State::fresh(Breaker::closed(3)) };
        let mut bytes = state.encode();
        let budgets = bytes.len() - bytes_of(&busy()).len();
        let place = place.index(bytes.len());
        bytes[place] ^= flip;
        let mut read = State::decode(Some(&bytes), NOW);
        if place >= budgets {
            prop_assert_eq!((&read.breaker, &read.bulkhead), (&state.breaker, &state.bulkhead));
        }
        read.budget.reclaim(|_| true, NOW);
        prop_assert_eq!(read.budget.reserved(), 0);
        enter_any(&mut read.budget);
        let again = State::decode(Some(&read.encode()), NOW);
        prop_assert_eq!(again.budget, read.budget);
    }
}

/// A request comes and goes, whatever stands there.
fn enter_any(budget: &mut Budget) {
    budget.adopt(&settings());
    let wanted = Wanted { wish: Wish::Retries(3), denied: None };
    let grant = budget.enter(&settings(), ME, wanted, NOW);
    grant.end(Some(2)).spent.map(|spent| budget.settle(spent, NOW));
}
