//! The rules of Finagle's budget by cases: what its own unit tests say of it, and what stands there beyond it.

use super::*;
use crate::testing::{ME, just_after, ms};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// A budget of so many millionths of a percent.
pub(super) fn of(millionths: u32, per_second: u32, seconds: u64) -> Settings {
    Settings::new(millionths, per_second, Duration::from_secs(seconds), None)
}

/// 20 percent for 10 seconds, with so many retries for nothing and so many at most.
pub(super) fn usual(floor: u32, most: Option<u32>) -> Settings {
    Settings { floor: floor.into(), ..Settings::new(20_000_000, 0, Duration::from_secs(10), most) }
}

/// Whether there was a retry; where there was none the balance says so.
fn withdraw(budget: &mut Budget, settings: &Settings, now: Timestamp) -> bool {
    let granted = budget.withdraw(settings, now);
    assert!(granted || budget.balance(settings, now) <= 0);
    granted
}

/// How many of so many retries are granted, one after the other.
fn withdraw_many(budget: &mut Budget, settings: &Settings, count: u32, now: Timestamp) -> u32 {
    (0..count).map(|_| u32::from(withdraw(budget, settings, now))).sum()
}

fn deposit_many(budget: &mut Budget, settings: &Settings, count: u32, now: Timestamp) {
    (0..count).for_each(|_| budget.deposit(settings, now));
}

/// How many of 10 000 requests, each of which pays and then wants a retry, get one.
fn granted_of_10_000(settings: &Settings) -> u32 {
    let mut budget = Budget::default();
    let one = |budget: &mut Budget| {
        budget.deposit(settings, ms(0));
        u32::from(withdraw(budget, settings, ms(0)))
    };
    (0..10_000).map(|_| one(&mut budget)).sum()
}

#[test]
fn nothing_for_nothing_is_nothing() {
    let settings = of(0, 0, 10);
    let mut budget = Budget::default();
    assert_eq!(budget.balance(&settings, ms(0)), 0);
    assert!(!withdraw(&mut budget, &settings, ms(0)));
    deposit_many(&mut budget, &settings, 1000, ms(0));
    assert_eq!((budget.balance(&settings, ms(0)), budget.withdraw(&settings, ms(0))), (0, false));
}

#[test]
fn without_a_floor_the_share_is_granted_and_no_more() {
    for (millionths, granted) in [
        (10_000_000, 1000),
        (50_000_000, 5000),
        (25_000_000, 2500),
        (75_000_000, 7501),
        (99_000_000, 9900),
        (99_900_000, 9990),
        (99_990_000, 10_000),
        (1_000_000, 100),
        (100_000, 10),
        (10_000, 1),
    ] {
        let settings = of(millionths, 0, 60);
        assert!(!withdraw(&mut Budget::default(), &settings, ms(0)), "{millionths}");
        assert_eq!(granted_of_10_000(&settings), granted, "{millionths}");
    }
}

#[test]
fn a_request_can_pay_for_more_than_one_retry() {
    let settings = of(200_000_000, 0, 60);
    let mut budget = Budget::default();
    deposit_many(&mut budget, &settings, 10_000, ms(0));
    assert_eq!(budget.balance(&settings, ms(0)), 20_000);
    assert_eq!(withdraw_many(&mut budget, &settings, 20_001, ms(0)), 20_000);
}

#[test]
fn the_floor_is_there_from_the_start() {
    for (per_second, seconds) in [(10, 1), (5, 2)] {
        let settings = of(0, per_second, seconds);
        assert_eq!(Budget::default().balance(&settings, ms(0)), 10);
        assert_eq!(granted_of_10_000(&settings), 10);
    }
    for (millionths, per_second, seconds, granted) in
        [(10_000_000, 10, 1, 1010_u32), (50_000_000, 5, 2, 5010)]
    {
        assert!(granted_of_10_000(&of(millionths, per_second, seconds)).abs_diff(granted) <= 1);
    }
    let usual = of(20_000_000, 10, 10);
    assert_eq!((usual.at_birth(), Budget::default().available(&usual, ms(0))), (100, 100));
}

#[test]
fn the_floor_goes_by_whole_seconds() {
    let settings = |millis| Settings::new(0, 10, Duration::from_millis(millis), None);
    let floors = [1000, 1999, 2000, 60_000].map(|millis| settings(millis).at_birth());
    assert_eq!(floors, [10, 10, 20, 600]);
}

#[test]
fn what_is_spent_comes_back_as_it_leaves_the_window() {
    // A deposit is one retry, and there are a hundred for nothing.
    let settings = Settings { deposit: 1, cost: 1, floor: 100, ..of(0, 0, 3) };
    let mut budget = Budget::default();
    assert_eq!(withdraw_many(&mut budget, &settings, 50, ms(0)), 50);
    assert_eq!(withdraw_many(&mut budget, &settings, 51, ms(0)), 50);
    budget.deposit(&settings, ms(0));
    assert_eq!(withdraw_many(&mut budget, &settings, 2, ms(0)), 1);
    for moment in [1000, 2000, 3000] {
        assert!(!withdraw(&mut budget, &settings, ms(moment)), "{moment}");
    }
    assert_eq!(withdraw_many(&mut budget, &settings, 50, ms(4000)), 50);
    assert_eq!(withdraw_many(&mut budget, &settings, 101, ms(7000)), 100);
}

#[test]
fn what_is_paid_counts_for_nine_slices_after_its_own() {
    let settings = usual(0, None);
    for step in [1000, 1999] {
        let mut budget = Budget::default();
        deposit_many(&mut budget, &settings, 5, ms(0));
        // A slice goes on until somebody looks.
        let balances = (1..=10).map(|slice| budget.balance(&settings, ms(slice * step)));
        assert_eq!(balances.collect::<Vec<_>>(), [1, 1, 1, 1, 1, 1, 1, 1, 1, 0], "{step}");
    }
    let mut silent = Budget::default();
    deposit_many(&mut silent, &settings, 5, ms(0));
    let before = Timestamp::from_nanos(9_999_999_999);
    assert_eq!(silent.clone().balance(&settings, before), 1);
    assert_eq!(silent.balance(&settings, just_after(before)), 0);
}

#[test]
fn time_that_goes_back_changes_nothing() {
    let settings = usual(0, None);
    let mut budget = Budget::default();
    deposit_many(&mut budget, &settings, 5, ms(20_000));
    assert_eq!(budget.balance(&settings, ms(0)), 1);
    assert_eq!(budget.balance(&settings, ms(29_000)), 1);
}

#[test]
fn a_retry_whose_payment_is_gone_is_owed() {
    let settings = usual(0, None);
    let mut budget = Budget::default();
    deposit_many(&mut budget, &settings, 5, ms(0));
    assert!(withdraw(&mut budget, &settings, ms(5000)));
    assert_eq!(budget.balance(&settings, ms(9900)), 0);
    assert_eq!(budget.balance(&settings, ms(10_900)), -1);
    deposit_many(&mut budget, &settings, 5, ms(10_900));
    assert!(!withdraw(&mut budget, &settings, ms(10_900)), "that only pays what is owed");
    deposit_many(&mut budget, &settings, 5, ms(10_900));
    assert!(withdraw(&mut budget, &settings, ms(10_900)));
    assert_eq!(budget.balance(&settings, ms(15_900)), 1, "the first is forgotten");
}

#[test]
fn half_a_retry_is_none_on_either_side_of_zero() {
    let settings = usual(0, None);
    let mut budget = Budget::default();
    deposit_many(&mut budget, &settings, 4, ms(0));
    assert_eq!(budget.balance(&settings, ms(0)), 0);
    budget.spend(1, ms(0));
    assert_eq!(budget.balance(&settings, ms(0)), 0, "-1000 of 5000");
    budget.spend(1, ms(0));
    assert_eq!(budget.balance(&settings, ms(0)), -1, "-6000 of 5000");
}

#[test]
fn the_balance_never_goes_beyond_its_cap() {
    let settings = usual(0, Some(3));
    let mut budget = Budget::default();
    deposit_many(&mut budget, &settings, 100, ms(0));
    assert_eq!(budget.balance(&settings, ms(0)), 3);
    assert_eq!(withdraw_many(&mut budget, &settings, 10, ms(0)), 3);
    deposit_many(&mut budget, &settings, 14, ms(0));
    assert_eq!(withdraw_many(&mut budget, &settings, 10, ms(0)), 2);
    assert_eq!(usual(10, Some(3)).at_birth(), 3, "nor does the floor");
    assert_eq!(Budget::default().balance(&usual(10, Some(3)), ms(0)), 3);
}

#[test]
fn a_cap_loses_no_part_of_a_payment() {
    let settings = usual(0, Some(1));
    let mut budget = Budget::default();
    deposit_many(&mut budget, &settings, 4, ms(0));
    assert_eq!((budget.balance(&settings, ms(0)), budget.withdraw(&settings, ms(0))), (0, false));
    deposit_many(&mut budget, &settings, 3, ms(0));
    assert!(withdraw(&mut budget, &settings, ms(0)));
    deposit_many(&mut budget, &settings, 4, ms(0));
    assert!(!withdraw(&mut budget, &settings, ms(0)), "the sixth and seventh were not taken");
}

#[test]
fn under_a_cap_what_was_paid_for_does_not_come_back() {
    let settings = usual(2, Some(3));
    let mut budget = Budget::default();
    assert_eq!(withdraw_many(&mut budget, &settings, 5, ms(0)), 2);
    deposit_many(&mut budget, &settings, 100, ms(5000));
    assert_eq!(budget.balance(&settings, ms(5000)), 3);
    // The first two have been paid for, and do not come back.
    assert_eq!(budget.balance(&settings, ms(10_000)), 3);
    assert_eq!(withdraw_many(&mut budget, &settings, 5, ms(10_000)), 3);
    assert_eq!([14_000, 19_999].map(|moment| budget.balance(&settings, ms(moment))), [0, 0]);
    assert_eq!(budget.balance(&settings, ms(21_000)), 2, "the floor does");
}

#[test]
fn under_a_cap_a_debt_is_paid_off_once() {
    let settings = usual(0, Some(10));
    let mut budget = Budget::default();
    deposit_many(&mut budget, &settings, 50, ms(0));
    let one = Wanted { wish: Wish::Retries(1), denied: None };
    let grants: Vec<_> = (0..10).map(|_| budget.enter(&settings, ME, one, ms(0))).collect();
    // What has paid is gone when they end.
    for grant in grants {
        assert!(budget.settle(grant.end(Some(1)).spent.unwrap(), ms(12_000)));
    }
    assert_eq!(budget.balance(&settings, ms(12_000)), -10);
    deposit_many(&mut budget, &settings, 100, ms(13_000));
    assert_eq!(withdraw_many(&mut budget, &settings, 20, ms(13_000)), 10);
    // The debt's own time is over, and it was paid off: nobody gets it a second time.
    assert_eq!(withdraw_many(&mut budget, &settings, 20, ms(23_500)), 0);
}

#[test]
fn the_oldest_payment_is_burnt_first() {
    let settings = usual(2, Some(3));
    let mut budget = Budget::default();
    assert_eq!(withdraw_many(&mut budget, &settings, 2, ms(0)), 2);
    deposit_many(&mut budget, &settings, 5, ms(1000));
    deposit_many(&mut budget, &settings, 10, ms(5000));
    let balances = [5000, 10_000, 11_000].map(|moment| budget.balance(&settings, ms(moment)));
    assert_eq!(balances, [3, 3, 3]);
}

#[test]
fn another_percentage_reads_the_same_window() {
    let (fifth, half) = (usual(0, None), of(50_000_000, 0, 10));
    let mut budget = Budget::default();
    deposit_many(&mut budget, &fifth, 10, ms(0));
    assert_eq!((budget.balance(&fifth, ms(0)), budget.balance(&half, ms(0))), (2, 5));
    assert!(budget.withdraw(&half, ms(0)));
    assert_eq!((budget.balance(&fifth, ms(0)), budget.balance(&half, ms(0))), (1, 4));
}

#[test]
fn another_length_is_adopted_with_what_is_there() {
    let (long, short) = (usual(0, None), of(20_000_000, 0, 1));
    let mut budget = Budget::default();
    budget.adopt(&short);
    assert_eq!(budget, Budget::default(), "before the first request there is nothing to reshape");
    deposit_many(&mut budget, &long, 5, ms(0));
    assert_eq!(budget.balance(&short, ms(5000)), 1, "who is not the newest goes by what is there");
    budget.adopt(&short);
    assert_eq!(budget.balance(&short, ms(5300)), 1);
    assert_eq!(budget.balance(&long, ms(5500)), 0, "five slices of a second, and five of a tenth");
    budget.adopt(&long);
    deposit_many(&mut budget, &long, 5, ms(5500));
    assert_eq!(budget.balance(&short, ms(14_500)), 1);
}

#[test]
fn a_budget_in_place_of_one_that_was_lost_has_its_floor_and_epochs_of_its_own() {
    let settings = usual(7, None);
    let mut budget = Budget::in_place_of_lost(ms(5), ms(5).as_nanos());
    budget.adopt(&settings);
    assert_eq!(budget.balance(&settings, ms(5)), 7);
    let wanted = Wanted { wish: Wish::Retries(1), denied: None };
    let reserve = budget.enter(&settings, crate::testing::ME, wanted, ms(5)).reserve.unwrap();
    assert_eq!(reserve.epoch, ms(5).as_nanos());
    let mut fresh = Budget::default();
    let of_the_lost = fresh.enter(&settings, crate::testing::ME, wanted, ms(5)).reserve.unwrap();
    assert!(!budget.settle(Spent { reserve: of_the_lost, retries: 1 }, ms(5)));
    assert_eq!((budget.reserved(), budget.balance(&settings, ms(5))), (1, 7));
}
