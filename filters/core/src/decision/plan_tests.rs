//! What a request asks for, and in which order it is refused.

use super::*;
use crate::config::Document;
use crate::testing::ms;
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn policy(keys: &str) -> Policy {
    let document = format!(r#"{{"policies": [{{"name": "p", "match": [{{"any": true}}], {keys}}}]}}"#);
    Document::parse(document.as_bytes()).unwrap().policies.swap_remove(0)
}

/// What a request asks for that comes at one second, from a caller that is believed.
fn plan(policy: &Policy, headers: &[(&str, &str)]) -> Plan {
    let headers = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    Plan::new(policy, Some(&Said::read(policy, true, headers)), ms(1000))
}

fn wish(keys: &str, headers: &[(&str, &str)]) -> Option<(Wish, Option<Denied>)> {
    plan(&policy(keys), headers).wanted.map(|wanted| (wanted.wish, wanted.denied))
}

const GET: (&str, &str) = (":method", "GET");
const POST: (&str, &str) = (":method", "POST");
const THREE: &str = r#""retry": {"max_retries": 3}"#;
const BUDGET: &str = r#""retry_budget": {}"#;

#[test]
fn who_has_no_say_in_retries_says_nothing() {
    for keys in [
        r#""timeout": {"total": "1s"}"#,
        r#""retry": {"mode": "disabled"}, "retry_budget": null"#,
        r#""retry": {"mode": "shadow"}, "retry_budget": null"#,
        r#""retry_budget": {"mode": "disabled"}"#,
    ] {
        assert_eq!(wish(keys, &[GET]), None, "{keys}");
        assert_eq!(Plan::new(&policy(keys), None, ms(0)).wanted, None, "{keys}");
    }
}

#[test]
fn who_is_in_charge_asks_for_a_number() {
    let keys = r#""retry": {"max_retries": 3}, "retry_budget": null"#;
    let disabled = r#""retry": {"max_retries": 3}, "retry_budget": {"mode": "disabled"}"#;
    for keys in [THREE, keys, disabled] {
        assert_eq!(wish(keys, &[GET]), Some((Wish::Retries(3), None)), "{keys}");
        for (asked, retries) in [("1", 1), ("0", 0), ("9", 3)] {
            let headers = [GET, ("x-envoy-max-retries", asked)];
            assert_eq!(wish(keys, &headers), Some((Wish::Retries(retries), None)), "{keys} {asked}");
        }
    }
}

#[test]
fn a_budget_alone_leaves_the_number_to_the_route() {
    for keys in [BUDGET, r#""retry_budget": {"mode": "shadow"}"#, r#""retry": {"mode": "shadow"}"#] {
        assert_eq!(wish(keys, &[GET]), Some((Wish::Route, None)), "{keys}");
        let headers = [GET, ("x-envoy-max-retries", "9")];
        assert_eq!(wish(keys, &headers), Some((Wish::Retries(9), None)), "{keys}");
    }
}

#[test]
fn what_might_do_harm_is_not_retried() {
    let harm = Some((Wish::Retries(0), Some(Denied::NotIdempotent)));
    let keyed = [POST, ("idempotency-key", "7")];
    for keys in [THREE, BUDGET] {
        assert_eq!((wish(keys, &[POST]), wish(keys, &[])), (harm, harm), "{keys}");
        assert!(wish(keys, &keyed).is_some_and(|wish| wish.1.is_none()), "{keys}");
        let unread = Plan::new(&policy(keys), None, ms(0)).wanted.unwrap();
        assert_eq!(
            Some((unread.wish, unread.denied)),
            harm,
            "{keys}: of what cannot be read nothing is known"
        );
    }
    assert_eq!(wish(r#""retry": {"non_idempotent": "never"}"#, &keyed), harm);
    assert_eq!(wish(r#""retry": {"non_idempotent": "always"}"#, &[POST]), Some((Wish::Retries(1), None)));
    let shadow = r#""retry": {"non_idempotent": "always", "mode": "shadow"}"#;
    assert_eq!(wish(shadow, &[POST]), Some((Wish::Route, None)), "the policy says so, whoever is in charge");
}

#[test]
fn a_callers_retry_is_one_whatever_it_is() {
    let spent = Some((Wish::Spent, Some(Denied::CallersRetry)));
    for header in [("x-envoy-attempt-count", "2"), ("grpc-previous-rpc-attempts", "1")] {
        for method in [GET, POST] {
            assert_eq!(wish(THREE, &[method, header]), spent);
            assert_eq!(wish(BUDGET, &[method, header]), spent);
        }
    }
}

const BOUND: &str = r#""total": "500ms", "per_try": "200ms""#;

#[test]
fn the_time_is_the_shorter_of_both_wills() {
    let bound = policy(&format!(r#""timeout": {{{BOUND}}}"#));
    let time = |headers: &[_]| plan(&bound, headers).time;
    let per_try = |millis| Some(Duration::from_millis(millis));
    assert_eq!(time(&[]), Allowance { deadline: Some(ms(1500)), per_try: per_try(200) });
    let asked = [("grpc-timeout", "110m"), ("x-envoy-upstream-rq-per-try-timeout-ms", "50")];
    assert_eq!(time(&asked), Allowance { deadline: Some(ms(1100)), per_try: per_try(50) });
    let longer = [("grpc-timeout", "9S"), ("x-envoy-upstream-rq-per-try-timeout-ms", "900")];
    assert_eq!(time(&longer), time(&[]));
    assert_eq!(Plan::new(&bound, None, ms(1000)).time, time(&[]));
}

#[test]
fn a_deadline_within_the_margin_cannot_be_met() {
    for (mode, late) in
        [("enforce", Some(Late::Refused)), ("shadow", Some(Late::Shadowed)), ("disabled", None)]
    {
        let policy = policy(&format!(r#""timeout": {{{BOUND}, "mode": "{mode}"}}"#));
        let late_at = |patience| plan(&policy, &[("grpc-timeout", patience)]).late;
        assert_eq!((late_at("10m"), late_at("0m"), late_at("11m")), (late, late, None), "{mode}");
        let bounds = plan(&policy, &[]).time;
        assert_eq!(bounds != Allowance::default(), mode == "enforce", "{mode}");
    }
    assert_eq!(plan(&policy(THREE), &[("grpc-timeout", "0m")]), plan(&policy(THREE), &[]));
}

fn refusal(reason: Reason) -> Decision {
    Decision::Refuse(Refusal { reason, retry_after: None })
}

#[test]
fn a_deadline_is_asked_before_everybody_else() {
    let never = || -> Verdict { panic!("asked") };
    let breaker = |mode: &str| {
        policy(&format!(r#""circuit_breaker": {{"consecutive_failures": 1, "mode": "{mode}"}}"#))
    };
    for mode in ["enforce", "forced_open", "disabled"] {
        let refused = decide(&breaker(mode), Some(Late::Refused), None, never);
        assert_eq!(refused, refusal(Reason::DeadlineExceeded), "{mode}");
    }
    assert_eq!(
        decide(&breaker("forced_open"), Some(Late::Shadowed), None, never),
        refusal(Reason::CircuitOpen)
    );
}

#[test]
fn a_deadline_in_shadow_mode_is_one_more_thing_to_tell() {
    let policy = policy(r#""circuit_breaker": {"consecutive_failures": 1}"#);
    let shadowed = Pass { shadowed: vec![Reason::BulkheadFull], ..Pass::default() };
    let told = |verdict| match decide(&policy, Some(Late::Shadowed), None, || verdict) {
        Decision::Call(pass) => pass.shadowed,
        decision => panic!("{decision:?}"),
    };
    assert_eq!(told(Verdict::Admitted(Pass::default())), [Reason::DeadlineExceeded]);
    assert_eq!(told(Verdict::Admitted(shadowed)), [Reason::BulkheadFull, Reason::DeadlineExceeded]);
    assert_eq!(decide(&policy, Some(Late::Shadowed), None, || Verdict::Waits), Decision::Wait);
    let after_a_wait = settle(&policy, Some(Late::Shadowed), None, Verdict::Admitted(Pass::default()));
    let pass = Pass { shadowed: vec![Reason::DeadlineExceeded], ..Pass::default() };
    assert_eq!(after_a_wait, Decision::Call(pass));
    let open = Verdict::Refused(Refused { reason: Reason::CircuitOpen, wait: None });
    let refused = decide(&policy, Some(Late::Shadowed), None, || open);
    assert_eq!(refused, Decision::Refuse(Refusal { reason: Reason::CircuitOpen, retry_after: Some(1) }));
}

#[test]
fn a_deadline_that_came_in_a_wait_does_not_say_when_to_come_back() {
    let late =
        Verdict::Refused(Refused { reason: Reason::DeadlineExceeded, wait: Some(Duration::from_secs(1)) });
    assert_eq!(settle(&policy(THREE), None, None, late), refusal(Reason::DeadlineExceeded));
}
