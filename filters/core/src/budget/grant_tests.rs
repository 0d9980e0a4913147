//! What requests are granted, and what becomes of it.

use super::tests::{of, usual};
use super::*;
use crate::ledger::MOST_HOLDERS;
use crate::testing::{ME, ms};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const OTHER: Owner = Owner(2);

/// A budget, its settings, and a time that stands still.
struct Rig {
    budget: Budget,
    settings: Settings,
}

/// A budget of 20 percent with so many retries for nothing.
fn rig(floor: u32) -> Rig {
    Rig { budget: Budget::default(), settings: usual(floor, None) }
}

impl Rig {
    fn enter(&mut self, wish: Wish) -> Grant {
        self.budget.enter(&self.settings, ME, Wanted { wish, denied: None }, ms(0))
    }

    /// How many retries are granted of so many.
    fn retries(&mut self, wanted: u8) -> u8 {
        self.enter(Wish::Retries(wanted)).retries
    }

    fn balance(&mut self) -> i64 {
        self.budget.balance(&self.settings, ms(0))
    }

    fn available(&mut self) -> i64 {
        self.budget.available(&self.settings, ms(0))
    }

    /// Ends a request after so many retries; `None` where nobody could tell.
    fn end(&mut self, grant: &Grant, made: Option<u32>) -> bool {
        self.budget.settle(grant.end(made).spent.expect("a reservation"), ms(0))
    }

    /// Shows how often a route retries.
    fn see(&mut self, retries: u32) {
        let grant = self.enter(Wish::Route);
        assert!(self.end(&grant, Some(retries)));
    }
}

#[test]
fn what_is_kept_is_not_spent_and_not_for_others() {
    let mut rig = rig(100);
    let grant = rig.enter(Wish::Retries(3));
    let reserve = grant.reserve.unwrap();
    assert_eq!((grant.retries, grant.denied, grant.uncapped, grant.on_paper), (3, None, false, false));
    assert_eq!((reserve.owner(), reserve.retries(), grant.may_retry()), (ME, 3, true));
    assert_eq!((rig.balance(), rig.available(), rig.budget.reserved()), (100, 97, 3));
    assert_eq!(rig.budget.owners().collect::<Vec<_>>(), [ME]);
}

#[test]
fn what_was_not_retried_is_free_again() {
    for (made, balance) in [(Some(0), 100), (Some(1), 99), (Some(3), 97), (None, 97), (Some(9), 91)] {
        let mut rig = rig(100);
        let grant = rig.enter(Wish::Retries(3));
        assert!(rig.end(&grant, made));
        assert_eq!((rig.balance(), rig.budget.reserved()), (balance, 0), "{made:?}");
        assert_eq!(rig.budget.owners().count(), 0);
    }
}

#[test]
fn each_ends_by_itself() {
    let mut rig = rig(100);
    let (first, second) = (rig.enter(Wish::Retries(3)), rig.enter(Wish::Retries(2)));
    assert!(rig.end(&first, Some(1)));
    assert_eq!((rig.balance(), rig.budget.reserved(), rig.available()), (99, 2, 97));
    assert_eq!(rig.budget.owners().count(), 1);
    assert!(rig.end(&second, Some(0)));
    assert_eq!((rig.balance(), rig.available(), rig.budget.owners().count()), (99, 99, 0));
}

#[test]
fn what_is_spent_counts_where_it_ends() {
    let mut rig = rig(1);
    let grant = rig.enter(Wish::Retries(1));
    let spent = grant.end(Some(1)).spent.unwrap();
    assert!(rig.budget.settle(spent, ms(30_000)));
    let balance = |moment| rig.budget.clone().balance(&rig.settings, ms(moment));
    assert_eq!((balance(39_999), balance(40_000)), (0, 1));
}

#[test]
fn all_get_one_before_a_few_get_three() {
    let mut rig = rig(100);
    let granted: Vec<u8> = (0..200).map(|_| rig.retries(3)).collect();
    let with = |retries| granted.iter().filter(|granted| **granted == retries).count();
    // Of a hundred, and what they pay: three while it would do for four times those in flight.
    assert_eq!(granted.iter().map(|granted| i64::from(*granted)).sum::<i64>(), rig.balance());
    assert!(granted[..100].is_sorted_by(|one, next| one >= next && *next > 0), "{granted:?}");
    assert_eq!((with(3), with(2)), (8, 4), "{granted:?}");
    assert_eq!(rig.available(), 0);
}

#[test]
fn a_request_that_gets_nothing_has_nothing_to_settle_and_pays_all_the_same() {
    let mut rig = rig(0);
    for _ in 0..4 {
        let grant = rig.enter(Wish::Retries(2));
        assert_eq!(grant, Grant { denied: Some(Denied::Budget), ..Grant::NONE });
        assert_eq!((grant.may_retry(), grant.end(Some(0)).spent), (false, None));
    }
    assert_eq!(rig.budget.owners().count(), 0);
    let grant = rig.enter(Wish::Retries(2));
    assert_eq!((grant.retries, grant.denied), (1, Some(Denied::Budget)), "it gets one of two");
}

#[test]
fn one_that_wants_none_pays_and_says_why() {
    let mut rig = rig(100);
    for denied in [None, Some(Denied::NotIdempotent)] {
        let wanted = Wanted { wish: Wish::Retries(0), denied };
        let grant = rig.budget.enter(&rig.settings, ME, wanted, ms(0));
        assert_eq!(grant, Grant { denied, ..Grant::NONE });
    }
    (0..3).for_each(|_| assert_eq!(rig.retries(0), 0));
    assert_eq!((rig.balance(), rig.budget.reserved()), (101, 0));
    let fewer = Wanted { wish: Wish::Retries(1), denied: Some(Denied::Deadline) };
    let grant = rig.budget.enter(&rig.settings, ME, fewer, ms(0));
    assert_eq!((grant.retries, grant.denied), (1, Some(Denied::Deadline)));
}

#[test]
fn a_callers_retry_pays_nothing_and_costs_one() {
    let mut rig = rig(2);
    for balance in [1, 0, 0] {
        let wanted = Wanted { wish: Wish::Spent, denied: Some(Denied::CallersRetry) };
        let grant = rig.budget.enter(&rig.settings, ME, wanted, ms(0));
        assert_eq!(grant, Grant { denied: Some(Denied::CallersRetry), ..Grant::NONE });
        assert_eq!((rig.balance(), rig.budget.reserved()), (balance, 0));
    }
}

#[test]
fn a_callers_retry_takes_nothing_that_is_kept() {
    let mut rig = rig(1);
    let grant = rig.enter(Wish::Retries(1));
    rig.enter(Wish::Spent);
    assert_eq!(rig.balance(), 1);
    assert!(rig.end(&grant, Some(0)));
    rig.enter(Wish::Spent);
    assert_eq!(rig.balance(), 0);
}

#[test]
fn a_route_in_charge_is_not_told_while_there_is_enough() {
    let mut rig = rig(100);
    let granted: Vec<Grant> = (0..40).map(|_| rig.enter(Wish::Route)).collect();
    assert!(granted[0].uncapped && granted[0].denied.is_none());
    let whole = granted.iter().take_while(|grant| grant.uncapped).count();
    // Three times what is in flight: 3 x 35 = 105 of 100 and what 35 pay.
    assert_eq!(whole, 35);
    for (index, grant) in granted.iter().enumerate() {
        let expected = match index {
            0..35 => (3, true, None),
            // Once the rest is less than the whole one is more than nothing. Nobody has seen the route make more.
            35 | 36 => (1, false, None),
            _ => (grant.retries, false, None),
        };
        assert_eq!((grant.retries, grant.uncapped, grant.denied), expected, "{index}");
    }
    assert!(rig.available() >= 0);
}

#[test]
fn a_route_is_told_one_or_nothing_whatever_others_of_its_policy_make() {
    for (seen, denied) in [(0, None), (1, None), (2, Some(Denied::Budget)), (9, Some(Denied::Budget))] {
        let mut rig = rig(1000);
        rig.see(seen);
        rig.settings.floor = i64::from(seen) + 2;
        let grant = rig.enter(Wish::Route);
        assert_eq!((grant.retries, grant.uncapped, grant.denied), (1, false, denied), "{seen}");
        assert_eq!(grant.reserve.map(|reserve| reserve.retries()), Some(1));
        rig.settings.floor = 0;
        let grant = rig.enter(Wish::Route);
        assert_eq!((grant.retries, grant.denied), (0, (seen > 0).then_some(Denied::Budget)), "{seen}");
    }
}

#[test]
fn a_route_that_makes_more_has_more_kept() {
    let mut rig = rig(1000);
    for (seen, kept) in [(0, 3), (2, 3), (5, 5), (1, 5), (300, 250), (0, 250)] {
        rig.see(seen);
        let grant = rig.enter(Wish::Route);
        let most = i64::from(grant.reserve.unwrap().retries());
        assert!(grant.uncapped && most >= kept.min(255), "{seen}: {most}");
        assert!(rig.end(&grant, Some(0)));
    }
    assert_eq!(rig.budget.seen, u8::MAX);
}

#[test]
fn what_we_are_in_charge_of_tells_nothing_of_a_route() {
    let mut rig = rig(100);
    let grant = rig.enter(Wish::Retries(5));
    assert!(rig.end(&grant, Some(5)));
    assert_eq!(rig.budget.seen, 0);
}

#[test]
fn what_is_kept_for_the_dead_counts_as_spent() {
    let mut rig = rig(100);
    let mine = rig.enter(Wish::Retries(2));
    for _ in 0..2 {
        let wanted = Wanted { wish: Wish::Retries(3), denied: None };
        rig.budget.enter(&rig.settings, OTHER, wanted, ms(0));
    }
    assert_eq!((rig.budget.reclaim(|_| false, ms(0)), rig.budget.reserved()), (0, 8));
    assert_eq!(rig.budget.reclaim(|owner| owner == OTHER, ms(0)), 6);
    assert_eq!((rig.balance(), rig.budget.reserved()), (94, 2));
    assert!(rig.end(&mine, Some(0)));
    assert_eq!(rig.budget.balance(&rig.settings, ms(9999)), 94);
    assert_eq!(rig.budget.balance(&rig.settings, ms(19_999)), 100, "and comes back as any retry");
}

#[test]
fn who_comes_back_after_a_reclaim_finds_nothing_of_its_own() {
    let mut rig = rig(100);
    let late = rig.enter(Wish::Retries(3));
    assert_eq!(rig.budget.reclaim(|_| true, ms(0)), 3);
    assert!(!rig.end(&late, Some(2)));
    assert_eq!((rig.balance(), rig.budget.reserved()), (97, 0));
    let present = rig.enter(Wish::Retries(1));
    assert!(!rig.end(&late, Some(2)), "nor of what it has since");
    assert_eq!((rig.balance(), rig.budget.reserved()), (97, 1));
    assert!(rig.end(&present, Some(1)));
    assert!(!rig.end(&present, Some(1)), "twice is once");
    assert_eq!(rig.balance(), 96);
}

#[test]
fn beyond_the_most_vms_a_newcomer_is_granted_nothing() {
    let mut rig = Rig { budget: Budget::default(), settings: of(20_000_000, 10_000, 60) };
    let most = u64::try_from(MOST_HOLDERS).unwrap();
    let wanted = Wanted { wish: Wish::Retries(1), denied: None };
    for owner in 0..=most {
        let grant = rig.budget.enter(&rig.settings, Owner(owner), wanted, ms(0));
        let expected = if owner < most { (1, None) } else { (0, Some(Denied::Budget)) };
        assert_eq!((grant.retries, grant.denied), expected, "{owner}");
    }
    let route = rig.budget.enter(&rig.settings, Owner(most), Wanted { wish: Wish::Route, ..wanted }, ms(0));
    assert_eq!((route.retries, route.uncapped, route.reserve), (0, false, None));
}

#[test]
fn an_end_says_whether_all_was_used_and_more() {
    let mut rig = rig(100);
    let grant = rig.enter(Wish::Retries(2));
    let ends = [Some(0), Some(1), Some(2), Some(3), None].map(|made| {
        let ended = grant.end(made);
        (ended.spent.unwrap().retries, ended.made, ended.beyond, ended.exhausted)
    });
    let expected = [
        (0, 0, false, false),
        (1, 1, false, false),
        (2, 2, false, true),
        (3, 3, false, true),
        (2, 2, false, true),
    ];
    assert_eq!(ends, expected);
    let route = rig.enter(Wish::Route);
    assert!(!route.end(Some(3)).exhausted, "nobody was told of an end");
    assert!(Grant::NONE.end(Some(0)).exhausted);
    assert_eq!(Grant::NONE.end(None), Ended { spent: None, made: 0, beyond: false, exhausted: true });
}

#[test]
fn in_shadow_mode_what_would_have_been_denied_is_not_spent() {
    let mut rig = rig(1);
    let kept = rig.enter(Wish::Retries(3));
    assert_eq!(kept.retries, 1);
    let paper = Grant { retries: 3, on_paper: true, ..kept };
    let ends = [Some(0), Some(1), Some(3), None].map(|made| {
        let ended = paper.end(made);
        (ended.spent.unwrap().retries, ended.made, ended.beyond, ended.exhausted)
    });
    assert_eq!(ends, [(0, 0, false, false), (1, 1, false, false), (1, 3, true, false), (1, 1, false, false)]);
    let none = Grant { retries: 3, on_paper: true, ..Grant::NONE };
    assert!(none.may_retry());
    let Ended { spent, made, beyond, exhausted } = none.end(Some(1));
    assert_eq!((spent, made, beyond, exhausted), (None, 1, true, false));
}
