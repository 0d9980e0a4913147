//! The bytes of a policy's value: round trips, damage, and what belongs to other versions of the module.

use super::*;
use crate::breaker::{Breaker, Outcome, Recorded, Ticket};
use crate::testing::{Rig, ms, settings, windowed};
use proptest::prelude::*;
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const NOW: Timestamp = Timestamp::from_nanos(77_000_000_000);

/// A breaker in each phase, with something in each field.
fn breakers() -> Vec<Breaker> {
    let mut closed = Rig::new(windowed(4, Duration::from_secs(10)));
    for moment in 1..=3 {
        closed.fail(ms(moment));
    }
    let mut open = Rig::new(settings());
    open.trip(ms(5));
    let mut half_open = Rig { breaker: open.breaker.clone(), settings: settings(), log: Vec::new() };
    let first = half_open.enter(ms(40_000));
    half_open.enter(ms(40_000));
    half_open.record(&first, Outcome::Success, ms(40_000));
    vec![Breaker::closed(0), closed.breaker, open.breaker, half_open.breaker]
}

pub(super) fn value(sections: &[(u8, u8, &[u8])]) -> Vec<u8> {
    let mut out = b"RS".to_vec();
    for (id, version, bytes) in sections {
        put_section(&mut out, *id, *version, bytes);
    }
    out
}

fn own(breaker: &Breaker) -> Vec<u8> {
    let mut out = Vec::new();
    breaker.encode(&mut out);
    out
}

#[test]
fn writes_the_layout_it_documents() {
    let state = State::decode(None, NOW);
    let expected = [
        b"RS".as_slice(),
        &[1, 1, 21, 0], // id, version, length
        &[0; 8],        // generation
        &[0; 4],        // next_probe
        &[0],           // closed
        &[0; 4],        // consecutive
        &[0; 2],        // capacity
        &[0; 2],        // no moments
    ];
    assert_eq!(state.encode(), expected.concat());
}

#[test]
fn a_key_that_was_never_written_is_a_closed_breaker_of_generation_0() {
    let state = State::decode(None, NOW);
    assert_eq!((state.breaker.clone(), state.repaired), (Breaker::closed(0), false));
}

#[test]
fn every_phase_makes_the_round_trip() {
    for breaker in breakers() {
        let state = State::decode(Some(&value(&[(BREAKER, 1, &own(&breaker))])), NOW);
        assert_eq!((&state.breaker, state.repaired), (&breaker, false));
        assert_eq!(State::decode(Some(&state.encode()), NOW), state);
    }
}

#[test]
fn the_widest_configuration_fits_in_a_section() {
    let mut closed = Rig::new(windowed(1000, Duration::from_millis(1)));
    for moment in 0..3000 {
        closed.fail(ms(moment * 10));
    }
    let mut probing = Rig::new(crate::breaker::Settings {
        permitted_number_of_calls_in_half_open_state: 1000,
        ..settings()
    });
    probing.trip(ms(0));
    for _ in 0..1000 {
        probing.enter(ms(40_000));
    }
    for rig in [closed, probing] {
        let state = State::fresh(rig.breaker);
        let bytes = state.encode();
        assert!(bytes.len() < 16 * 1024, "{}", bytes.len());
        assert_eq!(State::decode(Some(&bytes), NOW), state);
    }
}

#[test]
fn sections_of_others_are_carried_along_byte_for_byte() {
    let breaker = &breakers()[2];
    let long = vec![0xA5; 30_000];
    // Another pattern, another version of our own, one that is empty; before and after ours.
    let bytes =
        value(&[(9, 1, b"bulkhead"), (BREAKER, 1, &own(breaker)), (BREAKER, 2, &long), (0, 255, b"")]);
    let mut state = State::decode(Some(&bytes), NOW);
    assert_eq!((&state.breaker, state.repaired), (breaker, false));
    state.breaker = Breaker::closed(5);
    let expected =
        value(&[(BREAKER, 1, &own(&state.breaker)), (9, 1, b"bulkhead"), (BREAKER, 2, &long), (0, 255, b"")]);
    assert_eq!(state.encode(), expected);
}

#[test]
fn a_value_of_another_version_alone_starts_afresh_and_keeps_it() {
    let bytes = value(&[(BREAKER, 2, b"from the future")]);
    let state = State::decode(Some(&bytes), NOW);
    assert!(state.repaired);
    assert_eq!(state.breaker, Breaker::closed(NOW.as_nanos()));
    assert!(state.encode().ends_with(b"\x01\x02\x0f\x00from the future"));
}

#[test]
fn sections_of_nothing_but_their_heads_are_no_way_to_grow() {
    let breaker = Breaker::closed(3);
    let mut bytes = value(&[(BREAKER, 1, &own(&breaker))]);
    bytes.extend([9, 1, 0, 0].repeat(16 * 1024));
    assert_eq!(MAX_FOREIGN, 16 * 1024 * HEAD);
    assert_eq!(State::decode(Some(&bytes), NOW).encode(), bytes);
    bytes.extend([9, 1, 0, 0]);
    assert_eq!(State::decode(Some(&bytes), NOW).encode(), value(&[(BREAKER, 1, &own(&breaker))]));
}

#[test]
fn more_foreign_bytes_than_any_version_writes_are_dropped() {
    let half = vec![1; 32 * 1024 - HEAD];
    assert_eq!(MAX_FOREIGN, 2 * (half.len() + HEAD));
    let breaker = Breaker::closed(3);
    let fits = [(8, 1, half.as_slice()), (BREAKER, 1, &own(&breaker)), (9, 1, &half)];
    let state = State::decode(Some(&value(&fits)), NOW);
    assert_eq!((state.foreign.len(), state.repaired), (2, false));
    let beyond = [fits[0], fits[1], fits[2], (10, 1, &[])];
    let state = State::decode(Some(&value(&beyond)), NOW);
    assert_eq!((state.foreign.len(), state.repaired), (0, false));
    assert_eq!(state.breaker, breaker);
}

#[test]
fn a_value_cut_at_any_length_starts_afresh() {
    for breaker in breakers() {
        let whole = value(&[(7, 7, b"theirs"), (BREAKER, 1, &own(&breaker))]);
        for length in 0..whole.len() {
            let state = State::decode(whole.get(..length), NOW);
            assert!(state.repaired, "{length} of {}", whole.len());
            assert_eq!(state.breaker, Breaker::closed(NOW.as_nanos()));
        }
    }
}

#[test]
fn a_section_of_our_own_cut_at_any_length_starts_afresh_and_leaves_the_others() {
    for breaker in breakers() {
        let section = own(&breaker);
        for length in 0..section.len() {
            let bytes = value(&[(7, 7, b"theirs"), (BREAKER, 1, &section[..length])]);
            let state = State::decode(Some(&bytes), NOW);
            assert!(state.repaired);
            assert_eq!(state.breaker, Breaker::closed(NOW.as_nanos()));
            assert!(state.encode().ends_with(b"theirs"));
        }
        let trailing = [section.as_slice(), &[0]].concat();
        assert!(State::decode(Some(&value(&[(BREAKER, 1, &trailing)])), NOW).repaired);
    }
}

#[test]
fn what_cannot_be_true_of_a_breaker_is_damage() {
    let head = [0; 12];
    let unknown_state = [head.as_slice(), &[3]].concat();
    // Two moments where one is kept, and two that are not in order.
    let too_many = [head.as_slice(), &[0], &[0; 4], &[1, 0, 2, 0], &[0; 16]].concat();
    let unsorted = [head.as_slice(), &[0], &[0; 4], &[2, 0, 2, 0], &[1; 8], &[0; 8]].concat();
    // Half-open: nothing permitted; more than a section can hold; no probe left to prove anything; more out than permitted.
    let half_open = |permitted: u32, succeeded: u32, probes: u16| {
        let counts = [permitted.to_le_bytes(), succeeded.to_le_bytes()].concat();
        let probes = [probes.to_le_bytes().as_slice(), &vec![0; 12 * usize::from(probes)]].concat();
        [head.as_slice(), &[1], &NOW.as_nanos().to_le_bytes(), &counts, &probes].concat()
    };
    for (bytes, damaged) in [
        (half_open(3, 1, 2), false),
        (half_open(4096, 0, 0), false),
        (half_open(0, 0, 0), true),
        (half_open(4097, 0, 0), true),
        (half_open(3, 3, 0), true),
        (half_open(3, 1, 3), true),
    ] {
        let state = State::decode(Some(&value(&[(BREAKER, 1, &bytes)])), NOW);
        assert_eq!(state.repaired, damaged, "{bytes:?}");
    }
    let capacity =
        |capacity: u16| [head.as_slice(), &[0], &[0; 4], &capacity.to_le_bytes(), &[0; 2]].concat();
    assert!(!State::decode(Some(&value(&[(BREAKER, 1, &capacity(4096))])), NOW).repaired);
    for bytes in [unknown_state, too_many, unsorted, capacity(4097)] {
        assert!(State::decode(Some(&value(&[(BREAKER, 1, &bytes)])), NOW).repaired, "{bytes:?}");
    }
}

#[test]
fn an_empty_value_is_damage_not_a_first_write() {
    // Removal in the host's store leaves an empty value: what was there before may still have tickets out.
    assert!(State::decode(Some(b""), NOW).repaired);
    assert!(State::decode(Some(b"RS"), NOW).repaired);
}

#[test]
fn no_ticket_of_a_lost_state_fits_the_fresh_one() {
    for breaker in breakers() {
        let generation = breaker.generation();
        let mut fresh = State::decode(Some(b"damaged"), NOW).breaker;
        for probe in [None, Some(crate::breaker::Probe { owner: crate::testing::ME, id: 0 })] {
            let old = Ticket { generation, probe };
            let recorded = fresh.record(&settings(), &old, Outcome::Failure, NOW, &mut Vec::new());
            assert_eq!(recorded, Recorded::Stale);
        }
        assert!(fresh.is_clean());
    }
    // Nor one of an earlier repair, which has seen a few transitions since.
    let mut earlier = Rig::new(settings());
    earlier.breaker = State::decode(Some(b"damaged"), NOW).breaker;
    earlier.trip(NOW);
    let later = State::decode(Some(b"damaged"), NOW.after(Duration::from_millis(1))).breaker;
    assert!(later.generation() > earlier.breaker.generation());
}

#[test]
fn what_is_lost_twice_at_one_time_begins_twice() {
    let mut lost = Versioned { bytes: b"damaged".to_vec(), version: 7 };
    let mut first = State::read(Some(&lost), NOW);
    let claim = crate::bulkhead::Claim { rank: 0, limit: 9 };
    let address = crate::bulkhead::Address { owner: crate::testing::ME, queue: 0 };
    let old = first.bulkhead.enter(address, claim).unwrap();
    lost.version += 2;
    let mut second = State::read(Some(&lost), NOW);
    second.bulkhead.enter(address, claim).unwrap();
    assert!(!second.bulkhead.release(old, &mut Vec::new()));
    assert!(second.breaker.generation() > first.breaker.generation());
}

fn section() -> impl Strategy<Value = Foreign> {
    (any::<u8>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..100))
        .prop_filter("another's", |(id, version, bytes)| {
            !Section { id: *id, version: *version, bytes }.is_readable()
        })
        .prop_map(|(id, version, bytes)| Foreign { id, version, bytes })
}

proptest! {
    #[test]
    fn any_state_makes_the_round_trip(
        which in 0..4_usize,
        foreign in prop::collection::vec(section(), 0..10),
    ) {
        let breaker = breakers().swap_remove(which);
        let state = State { foreign, ..State::fresh(breaker) };
        prop_assert_eq!(State::decode(Some(&state.encode()), NOW), state);
    }

    #[test]
    fn any_bytes_decode_to_a_state_that_makes_the_round_trip(
        magic in any::<bool>(),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = if magic { [MAGIC, &bytes].concat() } else { bytes };
        let state = State::decode(Some(&bytes), NOW);
        let again = State::decode(Some(&state.encode()), NOW);
        prop_assert!(!again.repaired);
        prop_assert_eq!(again, State { repaired: false, ..state });
    }

    #[test]
    fn one_changed_byte_never_traps(
        which in 0..4_usize,
        place in any::<prop::sample::Index>(),
        flip in 1..=255_u8,
    ) {
        let mut bytes = value(&[(BREAKER, 1, &own(&breakers()[which])), (7, 7, b"theirs")]);
        let place = place.index(bytes.len());
        bytes[place] ^= flip;
        let mut state = State::decode(Some(&bytes), NOW);
        state.breaker.admit(&settings(), crate::testing::ME, NOW, &mut Vec::new());
        let again = State::decode(Some(&state.encode()), NOW);
        prop_assert_eq!(again.breaker.phase(), state.breaker.phase());
    }
}

#[test]
fn a_budgets_window_that_begins_far_ahead_starts_afresh_and_nobody_loses_what_is_kept() {
    use crate::budget::Settings;
    use crate::retry::{Wanted, Wish};
    use std::time::Duration;
    let settings = Settings::new(0, 1, Duration::from_secs(10), None);
    for (ahead, kept) in [(0, true), (59, true), (61, false), (100_000, false)] {
        let mut state = State::decode(None, NOW);
        let then = NOW.after(Duration::from_secs(ahead));
        let wanted = Wanted { wish: Wish::Retries(2), denied: None };
        let grant = state.budget.enter(&settings, crate::breaker::Owner(1), wanted, then);
        assert_eq!(grant.retries, 2);
        assert!(state.budget.withdraw(&settings, then));
        let mut read = State::decode(Some(&state.encode()), NOW).budget;
        assert_eq!(read == state.budget, kept, "{ahead}");
        assert_eq!(read.balance(&settings, NOW), if kept { 9 } else { 10 }, "{ahead}");
        assert_eq!(read.reserved(), 2, "{ahead}");
        assert!(read.settle(grant.end(Some(0)).spent.unwrap(), NOW), "{ahead}");
        assert_eq!(read.reserved(), 0, "{ahead}");
    }
}
