//! `/dependencies` says how well what is guarded is.

use super::{NOW, Scene};
use crate::breaker::{Command, Outcome};
use crate::bulkhead::Claim;
use crate::state::State;
use crate::testing::{ME, ms, vm};
use serde_json::{Value, json};
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// What is done to a state.
type Done = fn(&mut State);

fn force(state: &mut State, command: Command, ago: u64) {
    state.breaker.force(command, ms(NOW - ago), &mut Vec::new());
}

fn open(state: &mut State) {
    force(state, Command::Open(Duration::from_secs(10)), 5000);
}

fn waited(state: &mut State) {
    force(state, Command::Open(Duration::from_secs(1)), 5000);
}

fn half_open(state: &mut State) {
    waited(state);
    let settings = crate::testing::settings();
    state.breaker.admit(&settings, ME, ms(NOW), &mut Vec::new());
}

fn held(state: &mut State) {
    force(state, Command::Close(Duration::from_secs(10)), 5000);
}

/// Closed by its probes a second ago.
fn ramping(state: &mut State) {
    waited(state);
    let mut settings = crate::testing::settings();
    settings.ramp_up = Some(crate::breaker::RampUp {
        duration: Duration::from_secs(10),
        initial: crate::breaker::Percentage::new(10.0).unwrap(),
    });
    for _ in 0..2 {
        let admission = state.breaker.admit(&settings, ME, ms(NOW - 1000), &mut Vec::new());
        let crate::breaker::Admission::Admitted(ticket) = admission else { panic!("{admission:?}") };
        state.breaker.record(&settings, &ticket, Outcome::Success, ms(NOW - 1000), &mut Vec::new());
    }
}

fn full(state: &mut State) {
    state.bulkhead.enter(vm(1), Claim { rank: 0, limit: 1 }).unwrap();
}

fn open_and_full(state: &mut State) {
    open(state);
    full(state);
}

fn held_and_full(state: &mut State) {
    held(state);
    full(state);
}

fn half_open_and_full(state: &mut State) {
    half_open(state);
    full(state);
}

fn used(_: &mut State) {}

const BREAKER: &str = r#""circuit_breaker": {"consecutive_failures": 3}"#;
const RAMP: &str =
    r#""circuit_breaker": {"consecutive_failures": 3, "ramp_up": {"duration": "10s", "initial": 10}}"#;
const RATE: &str = r#""circuit_breaker": {"failure_rate_threshold": 50}"#;
const SHADOW: &str = r#""circuit_breaker": {"consecutive_failures": 3, "mode": "shadow"}"#;
const FORCED: &str = r#""circuit_breaker": {"consecutive_failures": 3, "mode": "forced_open"}"#;
const OFF: &str = r#""circuit_breaker": {"consecutive_failures": 3, "mode": "disabled"}"#;
const PERMIT: &str = r#""bulkhead": {"max_concurrent_calls": 1}"#;
const PAPER: &str = r#""bulkhead": {"max_concurrent_calls": 1, "mode": "shadow"}"#;
const NO_PERMITS: &str = r#""bulkhead": {"max_concurrent_calls": 1, "mode": "disabled"}"#;

/// A policy, what was done to its state, its health and the reason, whether that is enforced, and the overall word.
type Case = (&'static [&'static str], Option<Done>, &'static str, Option<&'static str>, bool, &'static str);

#[rustfmt::skip]
const CASES: [Case; 31] = [
    // Nobody has written anything: where only failures are written, that is good news.
    (&[BREAKER], None, "healthy", None, true, "healthy"),
    (&[SHADOW], None, "healthy", None, false, "unknown"),
    (&[RATE], None, "unknown", Some("never_used"), true, "unknown"),
    (&[PERMIT], None, "unknown", Some("never_used"), true, "unknown"),
    (&[BREAKER, PERMIT], None, "unknown", Some("never_used"), true, "unknown"),
    (&[BREAKER, r#""retry_budget": {}"#], None, "unknown", Some("never_used"), true, "unknown"),
    (&[BREAKER, r#""key": "upstream_cluster""#], None, "unknown", Some("never_used"), true, "unknown"),
    (&[BREAKER, NO_PERMITS], None, "healthy", None, true, "healthy"),
    // What breakers say.
    (&[RATE], Some(used), "healthy", None, true, "healthy"),
    (&[BREAKER], Some(open), "down", Some("circuit_open"), true, "down"),
    (&[BREAKER], Some(waited), "down", Some("awaiting_probe"), true, "down"),
    (&[BREAKER], Some(half_open), "degraded", Some("half_open"), true, "degraded"),
    (&[RAMP], Some(ramping), "degraded", Some("ramping_up"), true, "degraded"),
    (&[BREAKER], Some(ramping), "healthy", None, true, "healthy"),
    (&[BREAKER], Some(held), "unknown", Some("held_closed"), true, "unknown"),
    (&[FORCED], Some(used), "down", Some("forced_open"), true, "down"),
    // On paper.
    (&[SHADOW], Some(open), "down", Some("circuit_open"), false, "unknown"),
    (&[r#""mode": "shadow""#, BREAKER], Some(half_open), "degraded", Some("half_open"), false, "unknown"),
    (&[r#""mode": "shadow""#, FORCED], Some(open), "unknown", Some("shadow_forced_open"), false, "unknown"),
    // Not guarded.
    (&[OFF], Some(open), "unknown", Some("disabled"), false, "unknown"),
    (&[r#""mode": "disabled""#, FORCED], Some(open), "unknown", Some("disabled"), false, "unknown"),
    // What bulkheads say, and which of the two has its say.
    (&[PERMIT], Some(used), "healthy", None, true, "healthy"),
    (&[PERMIT], Some(full), "degraded", Some("bulkhead_full"), true, "degraded"),
    (&[PAPER], Some(full), "degraded", Some("bulkhead_full"), false, "unknown"),
    (&[BREAKER, PERMIT], Some(full), "degraded", Some("bulkhead_full"), true, "degraded"),
    (&[BREAKER, PERMIT], Some(open_and_full), "down", Some("circuit_open"), true, "down"),
    (&[BREAKER, PERMIT], Some(held_and_full), "degraded", Some("bulkhead_full"), true, "degraded"),
    (&[BREAKER, PERMIT], Some(held), "unknown", Some("held_closed"), true, "unknown"),
    (&[BREAKER, PAPER], Some(full), "degraded", Some("bulkhead_full"), false, "healthy"),
    (&[SHADOW, PERMIT], Some(open_and_full), "down", Some("circuit_open"), false, "degraded"),
    (&[SHADOW, PERMIT], Some(half_open_and_full), "degraded", Some("bulkhead_full"), true, "degraded"),
];

#[test]
fn health_is_what_breaker_and_bulkhead_know() {
    for (keys, done, health, reason, enforced, overall) in CASES {
        let mut scene = Scene::new(&[&keys.join(", ")]);
        if let Some(done) = done {
            scene.change("p0", done);
        }
        let told = scene.get("/dependencies");
        let mut expected = json!({"policy": "p0", "health": health, "enforced": enforced, "critical": true});
        if let Some(reason) = reason {
            expected["reason"] = reason.into();
        }
        assert_eq!(
            (&told["dependencies"], &told["overall"]),
            (&json!([expected]), &json!(overall)),
            "{keys:?}"
        );
    }
}

#[test]
fn what_could_not_be_read_is_no_good_news() {
    let mut scene = Scene::new(&[BREAKER, PERMIT]);
    scene.put("p0", b"nonsense".to_vec());
    scene.put("p1", b"RS".to_vec());
    let told = scene.get("/dependencies");
    for dependency in told["dependencies"].as_array().unwrap() {
        assert_eq!((&dependency["health"], &dependency["reason"]), (&json!("unknown"), &json!("damaged")));
    }
    assert_eq!(told["overall"], "unknown");
}

#[test]
fn only_what_has_a_breaker_or_a_bulkhead_is_a_dependency() {
    let mut scene = Scene::new(&["", r#""retry_budget": {}"#, r#""timeout": {"total": "1s"}"#]);
    let told = scene.get("/dependencies");
    assert_eq!((&told["dependencies"], &told["overall"]), (&json!([]), &json!("unknown")));
}

#[test]
fn one_word_is_as_bad_as_what_is_critical() {
    let spared = format!(r#"{BREAKER}, "critical": false"#);
    let words = |broken: &[&str]| {
        let mut scene = Scene::new(&[BREAKER, &spared, BREAKER]);
        broken.iter().for_each(|policy| scene.change(policy, open));
        scene.get("/dependencies")["overall"].take()
    };
    assert_eq!(words(&[]), "healthy");
    assert_eq!(words(&["p1"]), "degraded");
    assert_eq!(words(&["p1", "p2"]), "down");
}

#[test]
fn each_upstream_cluster_is_a_dependency() {
    let mut scene = Scene::new(&[&format!(r#"{BREAKER}, "key": "upstream_cluster", "max_keys": 2"#)]);
    let told = |scene: &mut Scene| {
        let told = scene.get("/dependencies");
        let entry =
            |it: &Value| (it["key"].as_str().map(str::to_owned), it["health"].as_str().unwrap().to_owned());
        told["dependencies"].as_array().unwrap().iter().map(entry).collect::<Vec<_>>()
    };
    let entry = |key: Option<&str>, health: &str| (key.map(str::to_owned), health.to_owned());
    assert_eq!(told(&mut scene), [entry(None, "unknown")]);
    scene.keys("p0", &["a", "b"]);
    scene.change("p0#key/b", open);
    // A cluster that has a key was called.
    assert_eq!(told(&mut scene), [entry(Some("a"), "healthy"), entry(Some("b"), "down")]);
    // Those without one share what is left.
    scene.change("p0", half_open);
    assert_eq!(
        told(&mut scene),
        [entry(Some("a"), "healthy"), entry(Some("b"), "down"), entry(None, "degraded")]
    );
}
