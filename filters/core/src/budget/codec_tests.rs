//! A budget's bytes: round trips and damage.

use super::tests::usual;
use super::*;
use crate::testing::{ME, ms};
use proptest::prelude::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn encoded(budget: &Budget) -> Vec<u8> {
    let mut out = Vec::new();
    budget.encode(&mut out);
    out
}

fn wanted(retries: u8) -> Wanted {
    Wanted { wish: Wish::Retries(retries), denied: None }
}

/// One in which everything is something: paid, spent, kept, reclaimed and seen.
fn busy() -> Budget {
    let settings = usual(50, None);
    let mut budget = Budget::default();
    let gone = budget.enter(&settings, Owner(9), wanted(2), ms(0));
    budget.reclaim(|owner| Some(owner) == gone.reserve.map(|reserve| reserve.owner()), ms(0));
    let route = budget.enter(&settings, ME, Wanted { wish: Wish::Route, denied: None }, ms(1));
    budget.settle(route.end(Some(4)).spent.unwrap(), ms(1000));
    budget.enter(&settings, Owner(0x0102), wanted(1), ms(1000));
    budget.enter(&settings, ME, wanted(2), ms(1000));
    budget.enter(&settings, ME, wanted(1), ms(1000));
    budget
}

#[test]
fn writes_the_layout_it_documents() {
    let began = ms(1000).as_nanos().to_le_bytes();
    let expected = [
        began.as_slice(),             // when the present slice began
        &began,                       // how long one lasts
        &[184, 11, 0, 0, 0, 0, 0, 0], // what was paid in the present one
        &[4, 0, 0, 0],                // and the retries that were made
        &[208, 7, 0, 0, 0, 0, 0, 0],  // in the one before
        &[2, 0, 0, 0],
        &[0; 8 * 12],              // in the others
        &[4],                      // seen
        &[4, 0, 0, 0, 0, 0, 0, 0], // next epoch
        &[2, 0],                   // VMs
        &[1, 0, 0, 0, 0, 0, 0, 0], // owner
        &[3, 0, 0, 0, 0, 0, 0, 0], // epoch
        &[2, 0, 0, 0],             // requests
        &[3, 0, 0, 0],             // retries
        &[2, 1, 0, 0, 0, 0, 0, 0], // owner
        &[2, 0, 0, 0, 0, 0, 0, 0], // epoch
        &[1, 0, 0, 0],             // requests
        &[1, 0, 0, 0],             // retries
    ];
    assert_eq!(encoded(&busy()), expected.concat());
    assert_eq!(Budget::decode(&expected.concat()), Some(busy()));
}

#[test]
fn one_that_nobody_has_asked_has_no_bytes() {
    assert!(encoded(&Budget::default()).is_empty());
    assert_eq!(Budget::decode(&[]), None);
    // One that stands in for another that was lost has, or its epochs would begin anew.
    assert!(!encoded(&Budget::in_place_of_lost(ms(5), 5)).is_empty());
}

#[test]
fn bytes_cut_or_stretched_are_none() {
    let whole = encoded(&busy());
    for length in 0..whole.len() {
        assert_eq!(Budget::decode(&whole[..length]), None, "{length}");
    }
    assert_eq!(Budget::decode(&[whole.as_slice(), &[0]].concat()), None);
}

#[test]
fn what_no_vm_can_have_written_is_none() {
    let whole = encoded(&busy());
    let with = |place: usize, bytes: &[u8]| {
        let mut changed = whole.clone();
        changed[place..place + bytes.len()].copy_from_slice(bytes);
        Budget::decode(&changed)
    };
    let slice = |millis: u64| (millis * 1_000_000).to_le_bytes();
    assert!(with(8, &slice(100)).is_some() && with(8, &slice(6000)).is_some());
    for millis in [0, 99, 6001] {
        assert_eq!(with(8, &slice(millis)), None, "slices of {millis} ms");
    }
    assert_eq!(with(16, &(-1_i64).to_le_bytes()), None, "less paid than nothing");
    assert_eq!(with(16, &i64::MAX.to_le_bytes()).map(|_| ()), Some(()));
    assert_eq!(with(147, &[2, 1]), None, "two entries of one VM");
}

/// Everything that can happen to a budget, at once.
fn shake(mut budget: Budget) -> Budget {
    for (settings, moment) in
        [(usual(50, None), ms(0)), (usual(u32::MAX, Some(7)), ms(1500)), (usual(0, None), ms(u64::MAX))]
    {
        budget.adopt(&settings);
        for wish in [Wish::Retries(0), Wish::Retries(255), Wish::Route, Wish::Spent] {
            let grant = budget.enter(&settings, ME, Wanted { wish, denied: None }, moment);
            assert!(i64::from(grant.retries) <= budget.balance(&settings, moment).max(0));
            let again = budget.enter(&settings, Owner(0x0102), Wanted { wish, denied: None }, moment);
            grant.end(Some(u32::MAX)).spent.map(|spent| budget.settle(spent, moment));
            again.end(None).spent.map(|spent| budget.settle(spent, moment));
        }
        assert!(settings.max_balance.is_none_or(|most| budget.balance(&settings, moment) <= most));
        budget.reclaim(|owner| owner.0 % 2 == 0, moment);
    }
    budget
}

proptest! {
    #[test]
    fn any_bytes_are_a_budget_or_none(
        head in prop::collection::vec(any::<u8>(), 0..300),
        paid in any::<[u32; 10]>(),
        kept in prop::collection::vec(any::<(u16, u32, u32)>(), 0..4),
        small in any::<bool>(),
    ) {
        // Random bytes seldom say a length that fits: these are such as could stand there.
        let bytes = if small {
            let mut bytes = [*head.first_chunk().unwrap_or(&[0; 8]), 1_000_000_000_u64.to_le_bytes()].concat();
            for paid in paid {
                bytes.extend([u64::from(paid).to_le_bytes().as_slice(), &paid.to_be_bytes()].concat());
            }
            bytes.extend([&[3; 9], u16::try_from(kept.len()).unwrap().to_le_bytes().as_slice()].concat());
            for (owner, (epoch, requests, retries)) in (1_u64..).zip(kept) {
                bytes.extend([owner, epoch.into()].map(u64::to_le_bytes).concat());
                bytes.extend([requests, retries].map(u32::to_le_bytes).concat());
            }
            prop_assert!(Budget::decode(&bytes).is_some());
            bytes
        } else {
            head
        };
        if let Some(budget) = Budget::decode(&bytes) {
            prop_assert_eq!(encoded(&budget), bytes);
            let shaken = shake(budget);
            prop_assert_eq!(Budget::decode(&encoded(&shaken)), Some(shaken));
        }
    }

    #[test]
    fn one_changed_byte_never_traps(place in any::<prop::sample::Index>(), flip in 1..=255_u8) {
        let mut bytes = encoded(&busy());
        let place = place.index(bytes.len());
        bytes[place] ^= flip;
        if let Some(budget) = Budget::decode(&bytes) {
            let shaken = shake(budget);
            prop_assert_eq!(Budget::decode(&encoded(&shaken)), Some(shaken));
        }
    }
}
