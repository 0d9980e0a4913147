//! What holds for all rules and all answers.

use super::*;
use proptest::prelude::*;
use std::borrow::Cow;
use std::ops::RangeInclusive;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const NAMES: [&str; 3] = ["x-a", "x-b", "x-degraded"];
const VALUES: [&str; 3] = ["", "true", "1"];

fn range() -> impl Strategy<Value = RangeInclusive<u16>> {
    prop_oneof![
        (100..=599_u16).prop_map(|code| code..=code),
        (1..=5_u16).prop_map(|class| class * 100..=class * 100 + 99)
    ]
}

fn field() -> impl Strategy<Value = (String, String)> {
    let of = |words: [&'static str; 3]| prop::sample::select(words.to_vec()).prop_map(str::to_owned);
    (of(NAMES), of(VALUES))
}

fn criteria() -> impl Strategy<Value = Criteria> {
    let lists = (
        prop::collection::vec(range(), 0..4),
        prop::collection::vec(0..=16_u16, 0..4),
        prop::collection::vec(field(), 0..3),
    );
    lists.prop_map(|(status, grpc_status, headers)| Criteria {
        status: Cow::Owned(status),
        grpc_status: Cow::Owned(grpc_status),
        headers,
    })
}

/// Statuses that rules name, and some that nobody sends.
fn headers() -> impl Strategy<Value = Vec<(String, String)>> {
    let http = prop_oneof![(100..=599_u16).prop_map(Some), (0..=u16::MAX).prop_map(Some), Just(None)];
    let grpc = prop::option::of(0..=20_u16);
    (http, grpc, prop::collection::vec(field(), 0..4)).prop_map(|(http, grpc, mut headers)| {
        headers.extend(http.map(|status| (":status".to_owned(), status.to_string())));
        headers.extend(grpc.map(|status| ("grpc-status".to_owned(), status.to_string())));
        headers
    })
}

fn judge(rules: &Rules, headers: &[(String, String)]) -> Outcome {
    rules.judge(rules.read(headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()))))
}

/// The rules said once more, with each list taken by itself.
fn meets(criteria: &Criteria, headers: &[(String, String)]) -> bool {
    let status = |name: &str| {
        let (_, value) = headers.iter().find(|(known, _)| known == name)?;
        value.parse::<u16>().ok()
    };
    let http =
        status(":status").is_some_and(|code| criteria.status.iter().any(|range| range.contains(&code)));
    let grpc = status("grpc-status").is_some_and(|code| criteria.grpc_status.contains(&code));
    http || grpc || criteria.headers.iter().any(|header| headers.contains(header))
}

fn reversed(criteria: &Criteria) -> Criteria {
    let twice = |headers: &[(String, String)]| headers.iter().rev().chain(headers).cloned().collect();
    Criteria {
        status: criteria.status.iter().rev().chain(criteria.status.iter()).cloned().collect(),
        grpc_status: criteria.grpc_status.iter().rev().chain(criteria.grpc_status.iter()).copied().collect(),
        headers: twice(&criteria.headers),
    }
}

proptest! {
    #[test]
    fn ignore_wins_then_failure_and_the_rest_is_success(
        failure in criteria(), ignore in criteria(), headers in headers(),
    ) {
        let expected = match (meets(&ignore, &headers), meets(&failure, &headers)) {
            (true, _) => Outcome::Ignored,
            (false, true) => Outcome::Failure,
            (false, false) => Outcome::Success,
        };
        prop_assert_eq!(judge(&Rules { failure, ignore }, &headers), expected);
    }

    #[test]
    fn neither_order_nor_repetition_of_what_is_listed_matters(
        failure in criteria(), ignore in criteria(), headers in headers(),
    ) {
        let other = Rules { failure: reversed(&failure), ignore: reversed(&ignore) };
        prop_assert_eq!(judge(&Rules { failure, ignore }, &headers), judge(&other, &headers));
    }

    #[test]
    fn what_headers_settle_no_trailer_changes(
        failure in criteria(), ignore in criteria(), headers in headers(), trailer in 0..=20_u16, probe: bool,
    ) {
        let rules = Rules { failure, ignore };
        let answer = rules.read(headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        let mut followed = answer;
        followed.status.grpc = answer.status.grpc.or(Some(trailer));
        if rules.standing(answer, probe) == Standing::Settled {
            prop_assert_eq!(rules.judge(followed), rules.judge(answer));
        }
        if !probe && rules.standing(answer, probe) == Standing::Provisional {
            prop_assert_eq!(rules.judge(answer), Outcome::Success);
        }
    }

    #[test]
    fn any_bytes_are_read(headers in prop::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>()), 0..8)) {
        let answer = Rules::DEFAULT.read(headers.iter().map(|(name, value)| (name.as_slice(), value.as_slice())));
        prop_assert_eq!(Rules::DEFAULT.judge(answer), Outcome::Success);
    }
}
