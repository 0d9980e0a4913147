//! A policy that needs others.

use super::*;
use crate::config::Document;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const SECOND: Duration = Duration::from_secs(1);

/// Policies whose breakers are in these modes, and one in `mode` that needs them all.
fn policies(mode: &str, needed: &[&str]) -> Vec<Policy> {
    let breaker = |(index, mode): (usize, &&str)| {
        format!(
            r#"{{"name": "n{index}", "match": [{{"any": true}}],
                "circuit_breaker": {{"mode": "{mode}", "consecutive_failures": 1}}}}"#
        )
    };
    let own = format!(r#"{{"name": "p", "match": [{{"any": true}}], "mode": "{mode}"}}"#);
    let all: Vec<_> = needed.iter().enumerate().map(breaker).chain([own]).collect();
    let document = format!(r#"{{"policies": [{}]}}"#, all.join(", "));
    let mut policies = Document::parse(document.as_bytes()).unwrap().policies;
    policies.last_mut().unwrap().when_open = (0..needed.len()).collect();
    policies
}

/// What is said where the breakers of `open` are open for so many seconds.
fn of(mode: &str, needed: &[&str], open: &[Option<u32>]) -> Option<Dependency> {
    let policies = policies(mode, needed);
    dependency(&policies, policies.last().unwrap(), |index| open[index].map(|seconds| SECOND * seconds))
}

#[test]
fn an_open_breaker_of_one_that_is_needed_refuses() {
    assert_eq!(of("enforce", &[], &[]), None);
    assert_eq!(of("enforce", &["enforce", "enforce"], &[None, None]), None);
    assert_eq!(
        of("enforce", &["enforce", "enforce"], &[None, Some(3)]),
        Some(Dependency::Open(Some(SECOND * 3)))
    );
}

#[test]
fn of_several_the_last_to_come_back_counts() {
    for open in [[Some(3), Some(5)], [Some(5), Some(3)]] {
        assert_eq!(of("enforce", &["enforce", "enforce"], &open), Some(Dependency::Open(Some(SECOND * 5))));
    }
    for needed in [["enforce", "forced_open"], ["forced_open", "enforce"]] {
        let open = [Some(5), Some(5)];
        assert_eq!(of("enforce", &needed, &open), Some(Dependency::Open(None)), "nobody knows when");
    }
}

#[test]
fn a_shadow_on_either_side_only_counts() {
    for (own, needed) in [("shadow", "enforce"), ("enforce", "shadow"), ("shadow", "forced_open")] {
        assert_eq!(of(own, &[needed], &[Some(1)]), Some(Dependency::Shadowed), "{own} {needed}");
    }
    assert_eq!(of("shadow", &["enforce"], &[None]), None);
    // One that refuses is enough.
    for needed in [["shadow", "enforce"], ["enforce", "shadow"]] {
        let open = [Some(1), Some(1)];
        assert_eq!(of("enforce", &needed, &open), Some(Dependency::Open(Some(SECOND))), "{needed:?}");
    }
    assert_eq!(of("enforce", &["disabled"], &[Some(1)]), None);
}

#[test]
fn it_is_asked_before_anything_is_taken() {
    let never = || -> Verdict { panic!("asked") };
    let policy = policies("enforce", &[]).remove(0);
    let wait = Some(SECOND + SECOND / 2);
    for (dependency, retry_after) in [(Dependency::Open(wait), Some(2)), (Dependency::Open(None), None)] {
        let refusal = Refusal { reason: Reason::DependencyOpen, retry_after };
        assert_eq!(decide(&policy, None, Some(dependency), never), Decision::Refuse(refusal));
    }
    let late = decide(&policy, Some(Late::Refused), Some(Dependency::Open(None)), never);
    let refusal = Refusal { reason: Reason::DeadlineExceeded, retry_after: None };
    assert_eq!(late, Decision::Refuse(refusal));
    let admit = || Verdict::Admitted(Pass::default());
    let pass = Pass { shadowed: vec![Reason::DependencyOpen], ..Pass::default() };
    assert_eq!(decide(&policy, None, Some(Dependency::Shadowed), admit), Decision::Call(pass));
}

#[test]
fn what_is_refused_takes_its_time_along_unless_that_is_over() {
    let at = |seconds: u64| Timestamp::from_nanos(seconds * 1_000_000_000);
    let plan = Plan { time: Allowance { deadline: Some(at(9)), per_try: Some(SECOND) }, ..Plan::default() };
    for reason in [Reason::CircuitOpen, Reason::BulkheadFull, Reason::DependencyOpen] {
        let sent = Sent { came: at(1), deadline: Some(at(9)) };
        assert_eq!(Sent::for_refusal(reason, &plan, at(1), at(5)), sent, "{reason}");
    }
    let late = Sent::for_refusal(Reason::DeadlineExceeded, &plan, at(1), at(9));
    assert_eq!(late, Sent { came: at(9), deadline: None });
}

#[test]
fn a_deadline_from_before_is_kept() {
    let at = |seconds: u64| Timestamp::from_nanos(seconds * 1_000_000_000);
    let plan = |deadline| Plan { time: Allowance { deadline, per_try: None }, ..Plan::default() };
    let deadline = |own, before: Option<Timestamp>| {
        let plan = plan(own).within(before, at(5));
        (plan.time.deadline, plan.late)
    };
    assert_eq!(deadline(None, None), (None, None));
    assert_eq!(deadline(None, Some(at(9))), (Some(at(9)), None));
    assert_eq!(deadline(Some(at(20)), None), (Some(at(20)), None));
    assert_eq!(deadline(Some(at(20)), Some(at(9))), (Some(at(9)), None));
    assert_eq!(deadline(Some(at(8)), Some(at(9))), (Some(at(8)), None));
    assert_eq!(deadline(Some(at(20)), Some(at(4))), (Some(at(4)), Some(Late::Refused)));
}
