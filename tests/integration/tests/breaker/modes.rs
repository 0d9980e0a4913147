//! What the modes of policies and breakers make of a breaker's state.

use crate::{SECOND, Shop, assert_refused, calls};
use resilience_integration_tests::{WORKERS, pass, policy};
use resilience_test_harness::*;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_mode_says_what_a_breaker_does_about_its_state() {
    /// Requests sent to each policy after it has seen two failures.
    const MORE: u64 = 8;
    struct Case {
        name: &'static str,
        policy: Option<&'static str>,
        breaker: Option<&'static str>,
        /// Whether the requests reach the upstream, whether they would not have, and what the gauge shows.
        reach: bool,
        shadowed: bool,
        state: Option<u64>,
        /// Whether the policy counts what it lets pass.
        observes: bool,
    }
    let case = |name, policy, breaker| {
        let (reach, shadowed, state, observes) = match name {
            "enforced" | "plain" | "forced" => (false, false, Some(2), true),
            "shadow" | "policy-shadow" | "both-shadow" | "forced-in-shadow" => (true, true, Some(2), true),
            "disabled" | "disabled-in-shadow" => (true, false, Some(0), true),
            "policy-disabled" | "forced-in-disabled" => (true, false, Some(0), false),
            _ => unreachable!("{name}"),
        };
        Case { name, policy, breaker, reach, shadowed, state, observes }
    };
    let cases = [
        case("plain", None, None),
        case("enforced", Some("enforce"), Some("enforce")),
        case("shadow", None, Some("shadow")),
        case("disabled", Some("enforce"), Some("disabled")),
        case("forced", Some("enforce"), Some("forced_open")),
        case("policy-shadow", Some("shadow"), None),
        case("both-shadow", Some("shadow"), Some("shadow")),
        case("forced-in-shadow", Some("shadow"), Some("forced_open")),
        case("disabled-in-shadow", Some("shadow"), Some("disabled")),
        case("policy-disabled", Some("disabled"), Some("enforce")),
        case("forced-in-disabled", Some("disabled"), Some("forced_open")),
    ];
    let policies: Vec<Value> = cases
        .iter()
        .map(|case| {
            let mut breaker = json!({"consecutive_failures": 2});
            if let Some(mode) = case.breaker {
                breaker["mode"] = mode.into();
            }
            let mut policy = policy(case.name, breaker);
            if let Some(mode) = case.policy {
                policy["mode"] = mode.into();
            }
            policy
        })
        .collect();
    let mut shop = Shop::with(&policies).await;
    for Case { name, reach, shadowed, state, observes, .. } in cases {
        let path = format!("/{name}");
        let forced = name.starts_with("forced");
        for _ in 0..2 {
            shop.clients.get(&path, "status=503").await;
        }
        let failed = if reach || !forced { 2 } else { 0 };
        assert_eq!(shop.upstream.requests_to(&path), failed, "{name}");
        for _ in 0..MORE {
            let answer = shop.clients.send(Request::get(&path)).await;
            if reach {
                assert_eq!((answer.status, answer.header("x-resilience")), (200, String::new()), "{name}");
            } else {
                assert_refused(&answer, name);
                assert_eq!(answer.header("retry-after").is_empty(), forced, "{name}: {answer:?}");
            }
        }
        let reached = failed + if reach { MORE as usize } else { 0 };
        assert_eq!(shop.upstream.requests_to(&path), reached, "{name}");
        let counted = |requests: usize| if observes { requests as u64 } else { 0 };
        shop.edge.wait_calls(name, calls(counted(reached - failed), counted(failed), 0)).await;
        let decisions = match (shadowed, forced) {
            (true, true) => MORE + 2,
            (true, false) => MORE,
            (false, _) => 0,
        };
        let reason = [("policy", name), ("reason", "circuit_open")];
        assert_eq!(shop.edge.count("resilience_shadow_decisions_total", &reason).await, decisions, "{name}");
        let refused = if reach { 0 } else { MORE + if forced { 2 } else { 0 } };
        assert_eq!(shop.edge.count("resilience_rejections_total", &reason).await, refused, "{name}");
        // A breaker that is forced open has no transition to show it by: a tick does.
        let what = format!("the gauge of {name} at {state:?}");
        eventually(&what, PATIENCE, async || (shop.edge.state(name).await == state).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_in_shadow_goes_through_all_its_states() {
    let mut shop = Shop::open(json!({
        "mode": "shadow",
        "consecutive_failures": 2,
        "wait_duration_in_open_state": "1s",
        "permitted_number_of_calls_in_half_open_state": 1,
    }))
    .await;
    shop.answered(&[503]).await;
    let opened = shop.trip().await;
    assert_eq!(shop.edge.state("shop").await, Some(2));
    pass(opened, SECOND).await;
    // The probe is held, so that all others would be refused.
    let (_connection, pending) = shop.held("hang").await;
    assert_eq!(shop.edge.state("shop").await, Some(1));
    // What passes only because of the mode is no probe: its failures prove nothing to the breaker.
    shop.answered(&[503; WORKERS]).await;
    assert_eq!(shop.edge.state("shop").await, Some(1));
    let labels = [("policy", "shop"), ("reason", "circuit_open")];
    assert_eq!(shop.edge.count("resilience_shadow_decisions_total", &labels).await, WORKERS as u64);
    shop.upstream.release();
    assert_eq!(pending.headers().await.unwrap().status, 200);
    shop.edge.wait_calls("shop", calls(1, 2 + WORKERS as u64, 0)).await;
    assert_eq!(shop.edge.state("shop").await, Some(0));
    assert_eq!(shop.edge.count("resilience_rejections_total", &[]).await, 0);
}
