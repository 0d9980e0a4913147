//! `/policies/<name>` says what the state says.

use super::{NOW, Scene, WALL};
use crate::breaker::{Command, Outcome, Settings};
use crate::bulkhead::Claim;
use crate::retry::{Wanted, Wish};
use crate::state::State;
use crate::testing::{ME, ms, vm};
use serde_json::{Value, json};
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// One request at a moment; what changed is noted as workers note it.
fn call(state: &mut State, settings: &Settings, outcome: Outcome, at: u64) {
    let mut changes = Vec::new();
    if let crate::breaker::Admission::Admitted(ticket) =
        state.breaker.admit(settings, ME, ms(at), &mut changes)
    {
        state.breaker.record(settings, &ticket, outcome, ms(at), &mut changes);
    }
    remember(state, &changes);
}

fn remember(state: &mut State, changes: &[crate::breaker::Transition]) {
    for change in changes {
        state.history.note(*change);
    }
}

/// A probe that is not answered.
fn probe(state: &mut State, settings: &Settings, at: u64) {
    let mut changes = Vec::new();
    state.breaker.admit(settings, ME, ms(at), &mut changes);
    remember(state, &changes);
}

fn force(state: &mut State, command: Command, at: u64) {
    let mut changes = Vec::new();
    state.breaker.force(command, ms(at), &mut changes);
    remember(state, &changes);
}

const BREAKER: &str = r#""circuit_breaker": {"consecutive_failures": 2, "wait_duration_in_open_state": "30s",
    "permitted_number_of_calls_in_half_open_state": 3, "max_wait_duration_in_half_open_state": "20s",
    "ramp_up": {"duration": "10s", "initial": 20}}"#;

fn breaker(scene: &mut Scene) -> Value {
    scene.get("/policies/p0")["circuit_breaker"].take()
}

/// Without what other tests look at.
fn without(mut value: Value, keys: &[&str]) -> Value {
    keys.iter().for_each(|key| drop(value.as_object_mut().unwrap().remove(*key)));
    value
}

#[test]
fn a_policy_that_nobody_has_used_is_as_it_begins() {
    let mut scene = Scene::new(&[&format!(
        r#"{BREAKER}, "bulkhead": {{"max_concurrent_calls": 5, "max_wait_duration": "1s", "max_queue": 7}},
            "retry_budget": {{"min_retries_per_second": 3}}"#
    )]);
    let expected = json!({
        "name": "p0", "mode": "enforce",
        "circuit_breaker": {
            "mode": "enforce", "state": "closed", "generation": 0, "trips": 0, "transitions": [],
            "evidence": {"consecutive_failures": {"count": 0, "limit": 2}}
        },
        "bulkhead": {"mode": "enforce", "in_flight": 0, "limit": 5, "waiting": 0, "max_queue": 7},
        "retry_budget": {"mode": "enforce", "balance": 30, "reserved": 0},
    });
    assert_eq!(scene.get("/policies/p0"), expected);
    let page = scene.get("/policies");
    assert_eq!(page, json!({"at": WALL, "namespace": "ns", "total": 1, "policies": [expected]}));
}

#[test]
fn an_open_breaker_tells_the_rest_of_its_wait_and_how_it_came_to_it() {
    let mut scene = Scene::new(&[BREAKER]);
    let settings = scene.settings(0);
    scene.change("p0", |state| {
        call(state, &settings, Outcome::Failure, NOW - 5504);
        call(state, &settings, Outcome::Failure, NOW - 5504);
    });
    let trip = json!({
        "at": "2026-11-21T18:15:40.000Z", "age_ms": 5504, "from": "closed", "to": "open",
        "cause": "consecutive_failures", "generation": 1, "numbers": {"count": 2, "limit": 2}
    });
    let expected = json!({
        "mode": "enforce", "state": "open", "since": "2026-11-21T18:15:40.000Z", "wait_remaining_ms": 24_496,
        "generation": 1, "trips": 0, "transitions": [trip]
    });
    assert_eq!(breaker(&mut scene), expected);
    // Without a wall clock there are ages.
    let reply = scene.ask_at(b"GET", b"/policies/p0", None);
    let told = &super::said(&reply)["circuit_breaker"];
    assert_eq!((&told["since"], &told["transitions"][0]["at"]), (&Value::Null, &Value::Null));
    assert_eq!(told["transitions"][0]["age_ms"], 5504);
}

#[test]
fn a_half_open_breaker_tells_of_its_probes_and_a_closed_one_of_its_ramp() {
    let mut scene = Scene::new(&[BREAKER]);
    let settings = scene.settings(0);
    scene.change("p0", |state| {
        force(state, Command::Open(Duration::from_secs(1)), NOW - 10_000);
        call(state, &settings, Outcome::Success, NOW - 8000);
        probe(state, &settings, NOW - 4000);
    });
    let told = breaker(&mut scene);
    let probes = json!({"permitted": 3, "in_flight": 1, "answered": 1, "failed": 0, "slow": 0});
    assert_eq!((&told["state"], &told["probes"]), (&json!("half_open"), &probes));
    assert_eq!(told["half_open_remaining_ms"], 12_000);
    assert_eq!(told["evidence"], Value::Null);
    let causes: Vec<_> = told["transitions"].as_array().unwrap().iter().map(|it| &it["cause"]).collect();
    assert_eq!(causes, ["forced", "wait_over"]);

    scene.change("p0", |state| {
        force(state, Command::Open(Duration::from_secs(1)), NOW - 9000);
        (0..3).for_each(|_| call(state, &settings, Outcome::Success, NOW - 5000));
    });
    let told = breaker(&mut scene);
    // Half of the ten seconds that lead from a fifth to the whole.
    assert_eq!((&told["state"], &told["ramp_up_percent"]), (&json!("closed"), &json!(60.0)));
    let last = &told["transitions"][4];
    let numbers = json!({"calls": 3, "failed": 0, "slow": 0});
    assert_eq!((&last["cause"], &last["numbers"]), (&json!("probes"), &numbers));
    assert_eq!(told["since"], last["at"]);
}

#[test]
fn what_an_operator_holds_closed_is_told() {
    let mut scene = Scene::new(&[BREAKER]);
    scene.change("p0", |state| force(state, Command::Close(Duration::from_secs(60)), NOW - 1000));
    assert_eq!(breaker(&mut scene)["held_closed_remaining_ms"], 59_000);
    scene.change("p0", |state| force(state, Command::Close(Duration::from_secs(60)), NOW - 60_001));
    assert_eq!(breaker(&mut scene)["held_closed_remaining_ms"], Value::Null);
}

#[test]
fn evidence_is_told_by_trigger() {
    let mut scene = Scene::new(&[r#""circuit_breaker": {
        "failures_in_window": {"failures": 9, "window": "10s"}, "failure_rate_threshold": 80,
        "slow_call_rate_threshold": 90, "slow_call_duration_threshold": "1s",
        "sliding_window_size": 10, "minimum_number_of_calls": 4}"#]);
    let settings = scene.settings(0);
    let counted = |scene: &mut Scene| breaker(scene)["evidence"].take();
    scene.change("p0", |state| {
        call(state, &settings, Outcome::Failure, NOW - 20_000);
        call(state, &settings, Outcome::SlowSuccess, NOW - 9000);
        call(state, &settings, Outcome::Failure, NOW - 8000);
    });
    let few = json!({
        "failures_in_window": {"count": 1, "limit": 9},
        "failure_rate": {"percent": null, "threshold": 80.0},
        "slow_call_rate": {"percent": null, "threshold": 90.0},
        "window": {"calls": 3, "failed": 2, "slow": 1, "minimum": 4}
    });
    assert_eq!(counted(&mut scene), few);
    scene.change("p0", |state| call(state, &settings, Outcome::Success, NOW));
    let told = counted(&mut scene);
    assert_eq!(
        (&told["failure_rate"]["percent"], &told["slow_call_rate"]["percent"]),
        (&json!(50.0), &json!(25.0))
    );
    // A rate that trips is told with what it was of.
    scene.change("p0", |state| (0..6).for_each(|_| call(state, &settings, Outcome::Failure, NOW)));
    let told = breaker(&mut scene);
    let numbers = json!({"failure_rate": 80.0, "threshold": 80.0, "calls": 10, "failed": 8, "slow": 1});
    assert_eq!(told["transitions"][0]["numbers"], numbers);
}

#[test]
fn a_bulkhead_and_a_budget_tell_what_they_hold() {
    let mut scene = Scene::new(&[
        r#""bulkhead": {"max_concurrent_calls": 2, "max_wait_duration": "1s", "mode": "shadow"},
            "retry_budget": {"percent_can_retry": 0, "min_retries_per_second": 1, "ttl": "2s"}"#,
    ]);
    let budget = crate::budget::Settings::new(0, 1, Duration::from_secs(2), None);
    scene.change("p0", |state| {
        let claim = Claim { rank: 0, limit: 2 };
        let mut wakes = Vec::new();
        (0..2).for_each(|_| assert!(state.bulkhead.enter(vm(1), claim).is_some()));
        (0..2).for_each(|id| assert!(state.bulkhead.enqueue(vm(1), id, claim, 2, &mut wakes)));
        state.budget.enter(&budget, ME, Wanted { wish: Wish::Retries(1), denied: None }, ms(NOW));
    });
    let told = scene.get("/policies/p0");
    let expected = json!({"mode": "shadow", "in_flight": 2, "limit": 2, "waiting": 2, "max_queue": 2});
    assert_eq!((&told["bulkhead"], &told["circuit_breaker"]), (&expected, &Value::Null));
    assert_eq!(told["retry_budget"], json!({"mode": "enforce", "balance": 1, "reserved": 1}));
}

#[test]
fn modes_are_told_as_they_are_in_force() {
    let fixed = |mode: &str| format!(r#""circuit_breaker": {{"mode": "{mode}", "consecutive_failures": 1}}"#);
    let full = r#""bulkhead": {"max_concurrent_calls": 1}, "retry_budget": {}"#;
    for (outer, breaker, mode, state) in [
        ("enforce", "enforce", "enforce", "closed"),
        ("enforce", "shadow", "shadow", "closed"),
        ("shadow", "enforce", "shadow", "closed"),
        ("enforce", "forced_open", "forced_open", "open"),
        ("shadow", "forced_open", "shadow_forced_open", "open"),
        ("enforce", "disabled", "disabled", "closed"),
        ("disabled", "forced_open", "disabled", "closed"),
    ] {
        let policy = format!(r#""mode": "{outer}", {}, {full}"#, fixed(breaker));
        let told = Scene::new(&[&policy]).get("/policies/p0");
        let seen = &told["circuit_breaker"];
        assert_eq!(
            (&told["mode"], &seen["mode"], &seen["state"]),
            (&json!(outer), &json!(mode), &json!(state))
        );
        assert_eq!(seen["generation"].is_null(), !["enforce", "shadow"].contains(&mode), "{outer} {breaker}");
        // A pattern that is switched off is not there.
        assert_eq!(told["bulkhead"].is_null(), outer == "disabled");
        assert_eq!(told["retry_budget"].is_null(), outer == "disabled");
    }
    assert_eq!(Scene::new(&[""]).get("/policies/p0"), json!({"name": "p0", "mode": "enforce"}));
}

#[test]
fn each_upstream_cluster_has_its_own() {
    let keyed = format!(r#""key": "upstream_cluster", "max_keys": 3, {BREAKER}"#);
    let mut scene = Scene::new(&[&keyed]);
    assert_eq!(scene.get("/policies/p0")["keys"], json!([]));
    // Twice the same name, and more than there may be, is damage or another version's.
    scene.keys("p0", &["b", "a", "b", "c\u{fc}", "d"]);
    let settings = scene.settings(0);
    scene.change("p0#key/a", |state| (0..2).for_each(|_| call(state, &settings, Outcome::Failure, NOW)));
    let told = scene.get("/policies/p0");
    let states: Vec<_> = told["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| (key["key"].as_str().unwrap(), key["circuit_breaker"]["state"].as_str().unwrap()))
        .collect();
    assert_eq!(states, [("b", "closed"), ("a", "open"), ("c\u{fc}", "closed")]);
    assert_eq!(told["circuit_breaker"]["state"], "closed");
}

#[test]
fn what_cannot_be_read_is_told_to_begin_afresh() {
    let mut scene = Scene::new(&[BREAKER]);
    scene.put("p0", b"nonsense".to_vec());
    let told = scene.get("/policies/p0");
    assert_eq!((&told["damaged"], &told["circuit_breaker"]["state"]), (&json!(true), &json!("closed")));
    // Only what another version has moved on lacks its beginning.
    let settings = scene.settings(0);
    scene.values.clear();
    scene.change("p0", |state| {
        (0..2).for_each(|_| call(state, &settings, Outcome::Failure, NOW - 40_000));
        let mut unseen = Vec::new();
        state.breaker.admit(&settings, ME, ms(NOW), &mut unseen);
    });
    let told = without(breaker(&mut scene), &["transitions", "probes", "half_open_remaining_ms"]);
    assert_eq!(told, json!({"mode": "enforce", "state": "half_open", "generation": 2, "trips": 0}));
}
