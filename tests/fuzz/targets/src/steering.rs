//! Any bytes as the headers of a request, and what a policy then writes to them.

use crate::input::Input;
use resilience_core::breaker::Owner;
use resilience_core::budget::{Budget, Grant};
use resilience_core::config::{Document, PatternMode, Policy};
use resilience_core::decision::{Late, Plan};
use resilience_core::steering::{Edit, Said, edits};
use resilience_core::time::Timestamp;
use resilience_core::timeout::{Allowance, LONGEST};
use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

const CONFIGURATIONS: &[u8] = include_bytes!("../../retries-and-timeouts.json");

static POLICIES: LazyLock<Vec<Policy>> = LazyLock::new(|| {
    Document::parse(CONFIGURATIONS).expect("retries-and-timeouts.json is a configuration").policies
});

const TIMEOUT: &str = "x-envoy-upstream-rq-timeout-ms";
const PER_TRY: &str = "x-envoy-upstream-rq-per-try-timeout-ms";
const MAX_RETRIES: &str = "x-envoy-max-retries";
/// What no stranger may say.
const STEERING: [&str; 14] = [
    MAX_RETRIES,
    TIMEOUT,
    PER_TRY,
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-upstream-rq-per-try-idle-timeout-ms",
    "x-envoy-upstream-stream-duration-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-attempt-count",
    "grpc-previous-rpc-attempts",
];
const OTHERS: [&str; 8] = [
    ":method",
    "content-type",
    "grpc-timeout",
    "idempotency-key",
    "x-deadline-ms",
    "x-key",
    "x-envoy-",
    "grpc-",
];
/// Values that mean something somewhere; the others are bytes of the input.
const VALUES: [&str; 16] = [
    "GET",
    "POST",
    "application/grpc",
    "0",
    "1",
    "2",
    "3",
    "255",
    "300",
    "1000",
    "86400000",
    "250m",
    "1S",
    "24H",
    "99999999n",
    "4294967296",
];
/// More headers than this reach nothing new.
const HEADERS: usize = 32;
/// The longest of them, in bytes, is one of these times as long as the input says.
const TIMES: [usize; 4] = [1, 1, 1, 1000];

type Headers = Vec<(Vec<u8>, Vec<u8>)>;

/// Has a policy read the headers that the bytes describe, and decide over the request.
///
/// # Panics
/// If a stranger is believed, is left anything that steers Envoy's router, or has more written than the policy says; if what is
/// written is not what it should be, or the retries do not fit into the time.
pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let policy = &POLICIES[usize::from(input.u8()) % POLICIES.len()];
    let trusted = input.u8() % 2 == 1;
    let (arrived, waited) =
        (Timestamp::from_nanos(u64::from(input.u32())), Duration::from_millis(input.u16().into()));
    let is_probe = input.u8() % 8 == 1;
    let headers = headers(&mut input);
    let pairs = || headers.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
    let said = Said::read(policy, trusted, pairs());
    if !trusted {
        let believed = (said.is_retry, said.patience, said.per_try, said.max_retries);
        assert_eq!(believed, (false, None, None, None), "a stranger is believed: {headers:?}");
    }
    let plan = Plan::new(policy, Some(&said), arrived);
    let now = arrived.after(waited);
    if plan.late == Some(Late::Refused) || plan.time.is_over(now) {
        return;
    }
    let grant = granted(policy, &plan, is_probe, now);
    let written = edits(policy, trusted, Some(&said), &plan.time, grant, now);
    let after = written_to(&headers, &written);
    if !trusted {
        check_stranger(policy, &headers, &written, &after);
    }
    check_written(policy, &written, &after, &plan.time, now);
}

fn headers(input: &mut Input<'_>) -> Headers {
    let mut headers = Headers::new();
    while !input.is_empty() && headers.len() < HEADERS {
        let name = match usize::from(input.u8()) {
            which if which < 2 * STEERING.len() => STEERING[which % STEERING.len()].as_bytes().to_vec(),
            which if which < 128 => OTHERS[which % OTHERS.len()].as_bytes().to_vec(),
            len => input.bytes(len % 8),
        };
        let value = match usize::from(input.u8()) {
            which if which < 128 => VALUES[which % VALUES.len()].as_bytes().to_vec(),
            len => {
                let times = input.choice(&TIMES);
                input.bytes(len % 16).repeat(times)
            }
        };
        headers.push((name, value));
    }
    headers
}

/// What a new budget of the policy grants, or nobody bounds.
fn granted(policy: &Policy, plan: &Plan, is_probe: bool, now: Timestamp) -> Option<Grant> {
    let wanted = plan.wanted?.at(is_probe, &plan.time, now);
    let budget = policy.retry_budget.as_ref().filter(|budget| budget.mode == PatternMode::Enforce);
    Some(match budget {
        Some(budget) => Budget::default().enter(&budget.settings, Owner(1), wanted, now),
        None => Grant::unbounded(wanted),
    })
}

/// The headers as they go on.
fn written_to(headers: &Headers, written: &[Edit<'_>]) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut after: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    for (name, value) in headers {
        after.entry(name.clone()).or_default().push(value.clone());
    }
    for edit in written {
        match edit {
            Edit::Set(name, value) => drop(after.insert((*name).into(), vec![value.as_bytes().to_vec()])),
            Edit::Remove(name) => drop(after.remove(name.as_bytes())),
        }
    }
    after
}

/// Of what a stranger says nothing steers, and nothing is written that was so anyway.
fn check_stranger(
    policy: &Policy,
    headers: &Headers,
    written: &[Edit<'_>],
    after: &BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
) {
    let sets = |name: &str| written.iter().any(|edit| matches!(edit, Edit::Set(set, _) if *set == name));
    let has = |name: &str| headers.iter().any(|(other, _)| other == name.as_bytes());
    for name in STEERING.into_iter().filter(|_| policy.steers()) {
        assert!(sets(name) || !after.contains_key(name.as_bytes()), "{name} goes on: {headers:?}");
    }
    for edit in written {
        if let Edit::Remove(name) = edit {
            assert!(has(name), "{name} was not there: {headers:?}");
        }
    }
    assert!(policy.steers() || written.is_empty(), "{written:?}");
}

fn check_written(
    policy: &Policy,
    written: &[Edit<'_>],
    after: &BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
    time: &Allowance,
    now: Timestamp,
) {
    for edit in written {
        let Edit::Set(name, value) = edit else { continue };
        let clean = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        assert!(clean(name) && clean(value), "{edit:?}");
        let twice = written.iter().filter(|other| matches!(other, Edit::Set(set, _) if set == name)).count();
        assert_eq!(twice, 1, "{written:?}");
    }
    let number = |name: &str| -> Option<u64> {
        let is = |edit: &&Edit<'_>| matches!(edit, Edit::Set(set, _) if *set == name);
        written.iter().find(is)?;
        let value = after.get(name.as_bytes())?.first()?;
        Some(std::str::from_utf8(value).expect("digits").parse().expect("a number"))
    };
    let retries = number(MAX_RETRIES);
    let most = policy.enforced_retry().map_or(u64::from(u8::MAX), |retry| retry.settings.max_retries.into());
    assert!(retries.is_none_or(|retries| retries <= most), "{retries:?} of {most}");
    let (total, per_try) = (number(TIMEOUT), number(PER_TRY));
    let longest = u64::try_from(LONGEST.as_millis()).expect("a day");
    assert!([total, per_try].into_iter().flatten().all(|timeout| (1..=longest).contains(&timeout)));
    assert!(total.zip(per_try).is_none_or(|(total, per_try)| per_try <= total), "{written:?}");
    if let (Some(retries), Some(rest), Some(per_try)) = (retries, time.rest(now), time.per_try) {
        // An attempt that is cut short by the whole is the last.
        let tries = per_try.saturating_mul(u32::try_from(retries + 1).expect("few"));
        let waits: u64 = (1..=retries.min(16)).map(|retry| (25 * ((1 << retry) - 1)).min(250)).sum();
        let needed = tries.saturating_add(Duration::from_millis(waits));
        assert!(retries == 0 || needed <= rest, "{retries} retries need {needed:?} of {rest:?}");
    }
}
