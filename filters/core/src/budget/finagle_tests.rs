//! Finagle's decisions, played on our budget: see `finagle/README.md`.

use super::*;
use crate::testing::ms;
use flate2::read::GzDecoder;
use serde::Deserialize;
use std::io::Read;
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const VISIBLE: &[u8] = include_bytes!("finagle/visible.jsonl.gz");

#[derive(Deserialize)]
struct Trace {
    id: String,
    config: Config,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Config {
    ttl_ms: u64,
    min_retries_per_second: u32,
    percent_can_retry: u32,
}

#[derive(Deserialize)]
struct Step {
    t: u64,
    op: String,
    ok: Option<bool>,
    balance: i64,
}

fn traces() -> Vec<Trace> {
    let mut text = String::new();
    GzDecoder::new(VISIBLE).read_to_string(&mut text).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn settings(config: &Config) -> Settings {
    let percent = config.percent_can_retry * 1_000_000;
    Settings::new(percent, config.min_retries_per_second, Duration::from_millis(config.ttl_ms), None)
}

fn round_trip(budget: &Budget) -> Budget {
    let mut bytes = Vec::new();
    budget.encode(&mut bytes);
    Budget::decode(&bytes).unwrap()
}

#[test]
fn every_step_of_every_trace_is_the_same() {
    let (mut steps, mut granted, mut refused) = (0, 0, 0);
    for trace in traces() {
        let settings = settings(&trace.config);
        let mut budget = Budget::default();
        assert_eq!(budget.balance(&settings, ms(0)), settings.at_birth(), "{}", trace.id);
        for (index, step) in trace.steps.iter().enumerate() {
            let place = format!("{} step {index}", trace.id);
            let now = ms(step.t);
            match step.op.as_str() {
                "deposit" => budget.deposit(&settings, now),
                "withdraw" => {
                    let ok = budget.withdraw(&settings, now);
                    assert_eq!(Some(ok), step.ok, "{place}");
                    *(if ok { &mut granted } else { &mut refused }) += 1;
                }
                other => panic!("{place}: {other}"),
            }
            // To look rolls the window, as it does there.
            assert_eq!(budget.balance(&settings, now), step.balance, "{place}");
            budget = round_trip(&budget);
            steps += 1;
        }
    }
    assert!(steps > 1000 && granted > 1000 && refused > 1000, "{steps} {granted} {refused}");
}
