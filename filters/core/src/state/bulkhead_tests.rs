//! The bulkhead's section among the others, damaged, and before those who do not know it.

use super::tests::value;
use super::*;
use crate::breaker::Outcome;
use crate::testing::{Line, Rig, claim, ms, settings, vm};
use proptest::prelude::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const NOW: Timestamp = Timestamp::from_nanos(77_000_000_000);

/// An open breaker that has seen something.
fn open() -> Breaker {
    let mut rig = Rig::new(settings());
    rig.trip(ms(5));
    rig.breaker
}

fn ramp() -> Option<crate::breaker::RampUp> {
    let initial = crate::breaker::Percentage::new(10.0)?;
    Some(crate::breaker::RampUp { duration: std::time::Duration::from_secs(10), initial })
}

/// A breaker that has bytes in each of its sections.
fn with_rates_and_recovery() -> Breaker {
    let rates = crate::breaker::Rates {
        failure_rate_threshold: crate::breaker::Percentage::new(50.0),
        slow_call_rate_threshold: None,
        window: crate::breaker::Shape::Count(9),
        minimum_number_of_calls: 9,
    };
    let mut rig = Rig::new(crate::breaker::Settings { rates: Some(rates), ramp_up: ramp(), ..settings() });
    rig.trip(ms(1));
    for _ in 0..2 {
        rig.request(Outcome::Success, ms(40_000));
    }
    rig.breaker.adopt(&rig.settings, true);
    rig.request(Outcome::Failure, ms(60_000));
    rig.breaker
}

/// Two permits out, one waiter.
fn busy() -> Bulkhead {
    let mut line = Line::default();
    line.enter(1, claim(0, 2));
    line.enter(2, claim(0, 2));
    assert!(line.wait(3, 7, claim(1, 2), 5));
    line.bulkhead
}

fn bytes_of(bulkhead: &Bulkhead) -> Vec<u8> {
    let mut out = Vec::new();
    bulkhead.encode(&mut out);
    out
}

fn ids(bytes: &[u8]) -> Vec<(u8, u8)> {
    let sections = decode_sections(bytes).unwrap();
    sections.iter().map(|section| (section.id, section.version)).collect()
}

#[test]
fn stands_beside_what_the_breaker_writes_and_what_others_do() {
    let breaker = with_rates_and_recovery();
    let others = Foreign { id: 9, version: 1, bytes: b"budget".to_vec() };
    let newer = Foreign { id: BULKHEAD, version: 2, bytes: b"from the future".to_vec() };
    let state = State { foreign: vec![others, newer], ..State { bulkhead: busy(), ..State::fresh(breaker) } };
    let bytes = state.encode();
    let own =
        [(BREAKER, 1), (RATES, Breaker::RATES_VERSION), (RECOVERY, Breaker::RECOVERY_VERSION), (BULKHEAD, 1)];
    assert_eq!(ids(&bytes), [own.as_slice(), &[(9, 1), (BULKHEAD, 2)]].concat());
    assert_eq!(State::decode(Some(&bytes), NOW), state);
}

#[test]
fn a_policy_without_one_writes_none() {
    assert_eq!(ids(&State::fresh(open()).encode()), [(BREAKER, 1)]);
    let read = State::decode(Some(&State::fresh(open()).encode()), NOW);
    assert_eq!((read.bulkhead, read.repaired), (Bulkhead::default(), false));
}

#[test]
fn a_module_that_does_not_know_it_carries_it_along_untouched() {
    let state = State { bulkhead: busy(), ..State::fresh(open()) };
    // To that module the section is another's: it reads the breaker, changes it, and writes all that was there.
    let section = Foreign { id: BULKHEAD, version: Bulkhead::VERSION, bytes: bytes_of(&busy()) };
    let older = State { foreign: vec![section], ..State::fresh(state.breaker.clone()) };
    let changed = State { breaker: Breaker::closed(9), ..older.clone() };
    assert_eq!(State::decode(Some(&older.encode()), NOW), state);
    assert_eq!(State::decode(Some(&changed.encode()), NOW), State { breaker: Breaker::closed(9), ..state });
}

#[test]
fn one_of_a_later_version_is_carried_along_and_ours_starts_empty() {
    let breaker = Breaker::closed(3);
    let mut own = Vec::new();
    breaker.encode(&mut own);
    let state = State::decode(Some(&value(&[(BREAKER, 1, &own), (BULKHEAD, 2, b"later")])), NOW);
    assert_eq!((&state.breaker, &state.bulkhead, state.repaired), (&breaker, &Bulkhead::default(), false));
    assert!(state.encode().ends_with(b"\x04\x02\x05\x00later"));
}

#[test]
fn a_damaged_one_leaves_the_breaker_alone_and_fits_no_permit_of_before() {
    let mut line = Line { bulkhead: busy(), ..Line::default() };
    let old = line.enter(3, claim(0, 9));
    let (section, breaker) = (bytes_of(&line.bulkhead), open());
    let mut own = Vec::new();
    breaker.encode(&mut own);
    for damaged in [b"damaged".as_slice(), b"", &section[..section.len() - 1]] {
        let mut state =
            State::decode(Some(&value(&[(BREAKER, 1, &own), (BULKHEAD, 1, damaged), (9, 1, b"x")])), NOW);
        assert_eq!((&state.breaker, state.repaired), (&breaker, false));
        assert_eq!(state.bulkhead, Bulkhead::new(NOW.as_nanos()));
        assert!(state.encode().ends_with(b"\x09\x01\x01\x00x"));
        let present = state.bulkhead.enter(vm(3), claim(0, 9)).unwrap();
        assert!(!state.bulkhead.release(old, &mut Vec::new()), "{damaged:?}");
        assert_eq!(state.bulkhead.in_flight(), 1);
        assert!(state.bulkhead.release(present, &mut Vec::new()));
    }
}

#[test]
fn a_damaged_breaker_leaves_it_alone() {
    for damaged in [b"damaged".as_slice(), b""] {
        let bytes = value(&[(BREAKER, 1, damaged), (BULKHEAD, 1, &bytes_of(&busy()))]);
        let state = State::decode(Some(&bytes), NOW);
        assert!(state.repaired);
        assert_eq!(state.bulkhead, busy());
        assert_eq!(State::decode(Some(&state.encode()), NOW).bulkhead, busy());
    }
}

#[test]
fn where_the_whole_value_is_damaged_no_permit_of_before_fits() {
    let mut line = Line::default();
    let old = line.enter(1, claim(0, 1));
    for damaged in [b"".as_slice(), b"damaged", b"RS\x04\x01\xFF\xFF"] {
        let mut state = State::decode(Some(damaged), NOW);
        state.bulkhead.enter(vm(1), claim(0, 1)).unwrap();
        assert!(!state.bulkhead.release(old, &mut Vec::new()));
    }
}

#[test]
fn the_fullest_fits_beside_the_widest_breaker() {
    let mut line = Line::default();
    for vm in 0..512 {
        line.enter(vm, claim(0, 512));
    }
    for id in 0..2048 {
        assert!(line.wait(id % 512, id, claim(0, 512), crate::bulkhead::MOST_WAITING));
    }
    let state = State { bulkhead: line.bulkhead, ..State::fresh(with_rates_and_recovery()) };
    assert_eq!(State::decode(Some(&state.encode()), NOW), state);
}

proptest! {
    #[test]
    fn one_changed_byte_never_traps_and_never_harms_the_other(
        place in any::<prop::sample::Index>(),
        flip in 1..=255_u8,
    ) {
        let state = State { bulkhead: busy(), ..State::fresh(open()) };
        let mut bytes = state.encode();
        let place = place.index(bytes.len());
        bytes[place] ^= flip;
        let mut read = State::decode(Some(&bytes), NOW);
        // The heads say which section is whose: one that is damaged may take both along.
        let breakers = MAGIC.len() + HEAD;
        let bulkheads = bytes.len() - bytes_of(&busy()).len();
        if (breakers..bulkheads - HEAD).contains(&place) {
            prop_assert_eq!(&read.bulkhead, &state.bulkhead);
        }
        if place >= bulkheads {
            prop_assert_eq!(&read.breaker, &state.breaker);
        }
        read.bulkhead.reclaim(|_| true, &mut Vec::new());
        prop_assert_eq!(read.bulkhead.in_flight(), 0);
        let again = State::decode(Some(&read.encode()), NOW);
        prop_assert_eq!(again.bulkhead, read.bulkhead);
    }
}
