//! Which requests may be repeated, and how often.

use super::*;
use crate::budget::Grant;
use crate::testing::ms;
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const fn wanted(retries: u8) -> Wanted {
    Wanted { wish: Wish::Retries(retries), denied: None }
}

const ROUTE: Wanted = Wanted { wish: Wish::Route, denied: None };
const SPENT: Wanted = Wanted { wish: Wish::Spent, denied: Some(Denied::CallersRetry) };
const REFUSED: Wanted = Wanted { wish: Wish::Retries(0), denied: Some(Denied::NotIdempotent) };

/// So many milliseconds, for attempts of 100.
fn left(rest: u64) -> Allowance {
    Allowance { deadline: Some(ms(rest)), per_try: Some(Duration::from_millis(100)) }
}

#[test]
fn what_is_not_idempotent_needs_a_key_or_a_word() {
    use NonIdempotent::{Always, Never, WithKey};
    for (non_idempotent, plain, with_key) in
        [(WithKey, false, true), (Never, false, false), (Always, true, true)]
    {
        let safety = Safety { non_idempotent, ..Safety::DEFAULT };
        assert_eq!((safety.allows(false, false), safety.allows(false, true)), (plain, with_key));
        assert!(safety.allows(true, false) && safety.allows(true, true));
    }
    assert_eq!(Safety::DEFAULT.non_idempotent, WithKey);
}

#[test]
fn idempotent_methods_are_those_of_rfc_9110() {
    let methods = ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"];
    assert!(methods.iter().all(|method| is_idempotent(method.as_bytes())));
    let others = ["POST", "PATCH", "CONNECT", "get", "GET ", "", "PROPFIND"];
    assert!(!others.iter().any(|method| is_idempotent(method.as_bytes())));
}

#[test]
fn a_probe_is_not_retried_whoever_is_in_charge() {
    let none = Wanted { wish: Wish::Retries(0), denied: Some(Denied::Breaker) };
    for before in [wanted(3), ROUTE] {
        assert_eq!(before.at(true, &Allowance::default(), ms(0)), none);
        assert_eq!(before.at(false, &Allowance::default(), ms(0)), before);
    }
    // Those that are retried anyway by nobody keep their reason, and a caller's retry what it costs.
    for before in [wanted(0), SPENT, REFUSED] {
        assert_eq!(before.at(true, &left(0), ms(0)), before);
    }
}

#[test]
fn what_does_not_fit_is_not_begun() {
    let fewer = |retries| Wanted { wish: Wish::Retries(retries), denied: Some(Denied::Deadline) };
    // An attempt, a back-off of at most 25 ms, another attempt.
    for (rest, expected) in [(225, wanted(1)), (224, fewer(0)), (0, fewer(0))] {
        assert_eq!(wanted(1).at(false, &left(rest), ms(0)), expected, "{rest}");
    }
    assert_eq!(wanted(3).at(false, &left(225), ms(0)), fewer(1));
    assert_eq!(wanted(3).at(false, &left(1225), ms(1000)), fewer(1), "what is waited for is gone");
    // A route may retry three times: 4 attempts and 25 + 75 + 175 ms. Where that does not fit one is safe to say.
    for (rest, expected) in [(675, ROUTE), (674, fewer(1)), (225, fewer(1)), (224, fewer(0))] {
        assert_eq!(ROUTE.at(false, &left(rest), ms(0)), expected, "{rest}");
    }
}

#[test]
fn without_a_budget_all_is_granted() {
    let grants = [wanted(3), ROUTE, SPENT, REFUSED].map(Grant::unbounded);
    let expected = [
        Grant { retries: 3, ..Grant::NONE },
        Grant { uncapped: true, ..Grant::NONE },
        Grant { denied: Some(Denied::CallersRetry), ..Grant::NONE },
        Grant { denied: Some(Denied::NotIdempotent), ..Grant::NONE },
    ];
    assert_eq!(grants, expected);
    assert!(grants.iter().all(|grant| grant.end(Some(1)).spent.is_none()));
}
