//! What operators are told.

mod dependencies;
mod pages;
mod policies;

use super::{Clock, Inspection, answer};
use crate::answer::Reply;
use crate::breaker::Owner;
use crate::config::Document;
use crate::members::{Members, Watch};
use crate::state::State;
use crate::store::{Unavailable, Versioned};
use crate::testing::ms;
use crate::time::Timestamp;
use crate::worker::Worker;
use serde_json::{Value, json};
use std::collections::BTreeMap;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// The moment at which everything is asked, and what the wall clock shows then.
pub(super) const NOW: u64 = 100_000;
pub(super) const WALL: &str = "2026-11-21T18:15:45.504Z";
const WALL_NANOS: u64 = 1_795_284_945_504_000_000;

/// A document, and what is in the store.
pub(super) struct Scene {
    document: Document,
    pub(super) values: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The store does not answer.
    pub(super) silent: bool,
    /// How many values were read.
    pub(super) reads: usize,
}

impl Scene {
    /// Policies by the keys that they have beside their names and matches: `p0`, `p1`, ...
    pub(super) fn new(policies: &[&str]) -> Self {
        let policy = |(index, keys): (usize, &&str)| {
            let more = if keys.is_empty() { String::new() } else { format!(", {keys}") };
            format!(r#"{{"name": "p{index}", "match": [{{"any": true}}]{more}}}"#)
        };
        let policies: Vec<_> = policies.iter().enumerate().map(policy).collect();
        let text = format!(r#"{{"namespace": "ns", "state": true, "policies": [{}]}}"#, policies.join(", "));
        let document = Document::parse(text.as_bytes()).unwrap();
        Self { document, values: BTreeMap::new(), silent: false, reads: 0 }
    }

    /// The settings of a policy's breaker.
    pub(super) fn settings(&self, policy: usize) -> crate::breaker::Settings {
        self.document.policies[policy].circuit_breaker.as_ref().unwrap().settings.clone()
    }

    pub(super) fn put(&mut self, key: &str, value: Vec<u8>) {
        self.values.insert(format!("resilience/ns/{key}").into_bytes(), value);
    }

    /// Changes a state, and writes it.
    pub(super) fn change(&mut self, key: &str, change: impl FnOnce(&mut State)) {
        let place = format!("resilience/ns/{key}").into_bytes();
        let mut state = State::decode(self.values.get(&place).map(Vec::as_slice), ms(NOW));
        change(&mut state);
        self.values.insert(place, state.encode());
    }

    /// Writes the upstream clusters of a policy.
    pub(super) fn keys(&mut self, policy: &str, names: &[&str]) {
        let mut table = b"RK".to_vec();
        table.extend(u16::try_from(names.len()).unwrap().to_le_bytes());
        for name in names {
            table.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
            table.extend(name.as_bytes());
        }
        self.put(&format!("{policy}#keys"), table);
    }

    pub(super) fn ask(&mut self, method: &str, path: &str) -> Reply {
        self.ask_at(method.as_bytes(), path.as_bytes(), Some(WALL_NANOS))
    }

    pub(super) fn ask_at(&mut self, method: &[u8], path: &[u8], wall: Option<u64>) -> Reply {
        let Self { document, values, silent, reads } = self;
        let guards = document.policies.iter().map(|policy| (policy.name.as_str(), policy.shared(0)));
        let worker = Worker::new("ns", 1, guards);
        let mut read = |key: &[u8]| {
            *reads += 1;
            let value = |bytes: &Vec<u8>| Versioned { bytes: bytes.clone(), version: 3 };
            if *silent { Err(Unavailable) } else { Ok(values.get(key).map(value)) }
        };
        let inspection = Inspection {
            namespace: "ns",
            policies: &document.policies,
            worker: &worker,
            read: &mut read,
            clock: Clock { now: ms(NOW), wall },
        };
        answer(method, path, inspection)
    }

    /// What a GET is told that succeeds.
    pub(super) fn get(&mut self, path: &str) -> Value {
        let reply = self.ask("GET", path);
        assert_eq!(reply.status, 200, "{path}: {}", String::from_utf8_lossy(&reply.body));
        said(&reply)
    }
}

pub(super) fn said(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap()
}

/// Adds VMs of a configuration that ticked at these moments.
fn members(beats: &[(u64, Timestamp)]) -> Vec<u8> {
    let mut members = Members::default();
    for (configuration, beat) in beats {
        members.beat(None, *configuration, *beat, &Watch::default());
    }
    assert_eq!(members.slot(Owner(0)), Some(0));
    members.encode()
}

#[test]
fn ready_means_that_a_vm_has_ticked_lately() {
    let mut scene = Scene::new(&[]);
    for (beats, alive, configurations) in [
        (&[][..], 0, 0),
        (&[(7, NOW - 2001)], 0, 0),
        (&[(7, NOW - 2000)], 1, 1),
        (&[(7, NOW), (7, NOW - 500), (8, NOW - 499), (8, NOW - 5000)], 3, 2),
        // Another worker's clock may be read a little later; a moment far ahead is damage.
        (&[(7, NOW + 400)], 1, 1),
        (&[(7, NOW + 60_000)], 0, 0),
    ] {
        let beats: Vec<_> = beats.iter().map(|(configuration, beat)| (*configuration, ms(*beat))).collect();
        if beats.is_empty() {
            scene.values.clear();
        } else {
            scene.put("#members", members(&beats));
        }
        let reply = scene.ask("GET", "/ready?verbose");
        let expected = json!({"ready": alive > 0, "vms_alive": alive, "configurations": configurations});
        assert_eq!((reply.status, said(&reply)), (if alive > 0 { 200 } else { 503 }, expected), "{beats:?}");
    }
    scene.put("#members", b"RMdamage".to_vec());
    assert_eq!(scene.ask("GET", "/ready").status, 503);
}

#[test]
fn live_needs_nobody() {
    let mut scene = Scene::new(&[r#""circuit_breaker": {"mode": "forced_open", "consecutive_failures": 1}"#]);
    scene.silent = true;
    assert_eq!(scene.get("/live"), json!({"live": true}));
    assert_eq!(scene.reads, 0);
    for path in ["/policies", "/policies/p0", "/dependencies", "/ready"] {
        let reply = scene.ask("GET", path);
        // A policy that keeps nothing needs nothing.
        let expected = if path == "/ready" { 503 } else { 200 };
        assert_eq!(reply.status, expected, "{path}");
    }
}

#[test]
fn a_store_that_does_not_answer_is_said_to_be_that() {
    let mut scene = Scene::new(&[r#""bulkhead": {"max_concurrent_calls": 1}"#]);
    scene.silent = true;
    for path in ["/policies", "/policies/p0", "/dependencies", "/ready"] {
        let reply = scene.ask("GET", path);
        assert_eq!(reply.status, 503, "{path}");
        assert!(said(&reply)["error"].as_str().unwrap().contains("shared state"), "{path}");
    }
}

#[test]
fn what_is_not_there_or_not_allowed_is_told_apart() {
    let mut scene = Scene::new(&["", ""]);
    for (method, path, status) in [
        ("GET", "", 404),
        ("GET", "/", 404),
        ("GET", "/policies/", 404),
        ("GET", "/policies/p2", 404),
        ("GET", "/policies/p0/", 404),
        ("GET", "/policiesp0", 404),
        ("GET", "/breakers/p0/reset", 404),
        ("POST", "/nowhere", 404),
        ("POST", "/policies", 405),
        ("DELETE", "/policies/p0", 405),
        ("", "/live", 405),
        ("get", "/live", 405),
        ("GET", "/policies?limit=0", 400),
        ("GET", "/policies?limit=1001", 400),
        ("GET", "/policies?limit=", 400),
        ("GET", "/policies?limit=+5", 400),
        ("GET", "/policies?limit=99999999999999999999999999", 400),
        ("GET", "/policies?after", 400),
        ("GET", "/policies?after=p2", 400),
        ("GET", "/policies?after=%ff", 400),
        ("GET", "/policies?first=p0", 400),
        ("GET", "/policies/p0?limit=5", 400),
        ("GET", "/dependencies?x=y", 400),
        ("HEAD", "/policies", 200),
        ("HEAD", "/policies/p1", 200),
        ("GET", "/policies?", 200),
        ("GET", "/policies?after=%701&limit=1&", 200),
        ("HEAD", "/live?probe", 200),
    ] {
        let reply = scene.ask(method, path);
        assert_eq!(reply.status, status, "{method} {path}");
        let header = |name: &str| {
            reply.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
        };
        assert_eq!(header("allow"), (status == 405).then_some("GET, HEAD"), "{method} {path}");
        assert_eq!(header("content-type"), Some("application/json"));
        assert_eq!(header("cache-control"), Some("no-store"));
        assert_eq!((reply.details.as_str(), reply.grpc_status), ("resilience:state", None));
        assert_eq!(said(&reply)["error"].is_string(), status >= 400, "{method} {path}");
        assert_eq!(reply.body.iter().filter(|byte| **byte == b'\n').count(), 1);
    }
    assert_eq!(scene.ask_at(b"GET", b"/policies/\xff", None).status, 404);
}

#[test]
fn moments_are_told_in_utc_as_far_as_the_wall_clock_goes() {
    let at = |wall, moment| Clock { now: ms(NOW), wall }.utc(ms(moment));
    let told = |text: &str| Some(text.to_owned());
    assert_eq!(at(Some(WALL_NANOS), NOW), told(WALL));
    assert_eq!(at(Some(WALL_NANOS), NOW - 45_504), told("2026-11-21T18:15:00.000Z"));
    assert_eq!(at(Some(WALL_NANOS), NOW + 1000), told("2026-11-21T18:15:46.504Z"));
    assert_eq!(at(None, NOW), None);
    // Before 1970, and after what a year has digits for.
    assert_eq!(at(Some(5_000_000), NOW - 6), None);
    assert_eq!(at(Some(5_000_000), NOW - 5), told("1970-01-01T00:00:00.000Z"));
    assert_eq!(at(Some(WALL_NANOS), u64::MAX), told("2611-06-12T17:48:39.213Z"));
    assert_eq!(Clock { now: ms(NOW), wall: None }.age(ms(NOW - 7)), 7);
    assert_eq!(Clock { now: ms(NOW), wall: None }.age(ms(NOW + 7)), 0);
}
