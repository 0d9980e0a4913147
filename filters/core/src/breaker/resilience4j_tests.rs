//! Resilience4j's decisions, played on our breaker: see `resilience4j/README.md`.

use super::*;
use crate::testing::{ME, ms, round_trip};
use flate2::read::GzDecoder;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Read;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const VISIBLE: &[u8] = include_bytes!("resilience4j/visible.jsonl.gz");
const STALE: &[u8] = include_bytes!("resilience4j/stale-divergence.jsonl.gz");

#[derive(Deserialize)]
struct Trace {
    id: String,
    config: Config,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Config {
    failure_rate_threshold: f32,
    slow_call_rate_threshold: f32,
    slow_call_duration_threshold_ms: u64,
    sliding_window_type: String,
    sliding_window_size: u16,
    minimum_number_of_calls: u32,
    permitted_number_of_calls_in_half_open_state: u32,
    wait_duration_in_open_state_ms: u64,
}

#[derive(Deserialize)]
struct Step {
    t: u64,
    op: String,
    call: u64,
    #[serde(default)]
    permitted: bool,
    #[serde(default)]
    duration_ms: u64,
    #[serde(default)]
    stale: bool,
    state: String,
    failure_rate: f32,
    slow_rate: f32,
    buffered: u32,
    failed: u32,
    slow: u32,
}

fn traces(packed: &[u8]) -> Vec<Trace> {
    let mut text = String::new();
    GzDecoder::new(packed).read_to_string(&mut text).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn settings(config: &Config) -> Settings {
    let window = match config.sliding_window_type.as_str() {
        "count" => Shape::Count(config.sliding_window_size),
        "time" => Shape::Time { seconds: config.sliding_window_size, offset: 0 },
        other => panic!("a window by {other}"),
    };
    Settings {
        consecutive_failures: None,
        failures_in_window: None,
        rates: Some(Rates {
            failure_rate_threshold: Percentage::new(config.failure_rate_threshold),
            slow_call_rate_threshold: Percentage::new(config.slow_call_rate_threshold),
            window,
            minimum_number_of_calls: config.minimum_number_of_calls,
        }),
        slow_call_duration_threshold: Some(Duration::from_millis(config.slow_call_duration_threshold_ms)),
        wait_duration_in_open_state: Duration::from_millis(config.wait_duration_in_open_state_ms),
        wait_duration_growth: None,
        permitted_number_of_calls_in_half_open_state: config.permitted_number_of_calls_in_half_open_state,
        // Resilience4j's half-open has no end, and no owner of a probe is ever dead here.
        max_wait_duration_in_half_open_state: LONGEST,
        ramp_up: None,
    }
}

struct Replay {
    settings: Settings,
    breaker: Breaker,
    tickets: BTreeMap<u64, Ticket>,
    log: Vec<Transition>,
}

impl Replay {
    fn new(trace: &Trace) -> Self {
        let settings = settings(&trace.config);
        Self { settings, breaker: Breaker::closed(0), tickets: BTreeMap::new(), log: Vec::new() }
    }

    /// Whether the request is let in.
    fn acquire(&mut self, step: &Step) -> bool {
        match self.breaker.admit(&self.settings, ME, ms(step.t), &mut self.log) {
            Admission::Admitted(ticket) => self.tickets.insert(step.call, ticket).is_none(),
            Admission::Refused { .. } => false,
        }
    }

    fn outcome(&mut self, step: &Step) -> Recorded {
        let outcome = match step.op.as_str() {
            "success" => Outcome::Success,
            "failure" => Outcome::Failure,
            "ignored" => Outcome::Ignored,
            other => panic!("{other}"),
        };
        let slow = self.settings.is_slow(Duration::from_millis(step.duration_ms));
        let ticket = self.tickets[&step.call];
        self.breaker.record(&self.settings, &ticket, outcome.timed(slow), ms(step.t), &mut self.log)
    }

    fn assert_reports(&self, step: &Step, place: &str) {
        let rates = self.settings.rates.unwrap();
        let (tally, minimum) = match self.breaker.phase() {
            Phase::Closed(closed) => (closed.evidence.tally(ms(step.t)), rates.minimum_in_closed()),
            Phase::HalfOpen(probing) => (probing.answers, probing.deciding),
            // It has let its window go: Resilience4j goes on reporting the one that tripped.
            Phase::Open { .. } => return,
        };
        assert_eq!(
            (tally.calls, tally.failed, tally.slow),
            (step.buffered, step.failed, step.slow),
            "{place}"
        );
        let rate = |rate: Option<f32>| rate.unwrap_or(-1.0).to_bits();
        assert_eq!(rate(tally.failure_rate(minimum)), step.failure_rate.to_bits(), "{place}");
        assert_eq!(rate(tally.slow_rate(minimum)), step.slow_rate.to_bits(), "{place}");
    }
}

#[test]
fn every_decision_and_every_rate_is_resilience4j_s() {
    let (mut steps, mut trips) = (0, 0);
    let traces = traces(VISIBLE);
    assert_eq!(traces.len(), 120);
    for trace in &traces {
        let mut replay = Replay::new(trace);
        for (index, step) in trace.steps.iter().enumerate() {
            let place = format!("{} step {index} at {}", trace.id, step.t);
            if step.op == "acquire" {
                assert_eq!(replay.acquire(step), step.permitted, "{place}");
            } else {
                assert_eq!(replay.outcome(step), Recorded::Counted, "{place}");
            }
            assert_eq!(replay.breaker.phase().state().to_string(), step.state, "{place}");
            replay.assert_reports(step, &place);
            // What is not kept in shared state is not there at the next step.
            let read = round_trip(&replay.breaker, ms(step.t));
            assert_eq!(read.as_ref(), Some(&replay.breaker), "{place}");
            replay.breaker = read.unwrap();
        }
        steps += trace.steps.len();
        trips += replay.log.iter().filter(|seen| seen.to == State::Open).count();
    }
    assert_eq!(steps, 15_785);
    assert!(trips > 200, "only {trips} trips");
}

/// Where Resilience4j counts outcomes of a state that is gone, ours changes nothing; up to the first of them both agree.
#[test]
fn outcomes_of_an_earlier_state_are_dropped_where_resilience4j_counts_them() {
    let traces = traces(STALE);
    assert_eq!(traces.len(), 20);
    let mut traces_with = 0;
    for trace in &traces {
        let mut replay = Replay::new(trace);
        let mut dropped: u32 = 0;
        for (index, step) in trace.steps.iter().enumerate() {
            let place = format!("{} step {index} at {}", trace.id, step.t);
            let before = replay.breaker.clone();
            let mut permitted = step.permitted;
            if step.op == "acquire" {
                permitted = replay.acquire(step);
            } else if let Some(ticket) = replay.tickets.get(&step.call) {
                let stale = ticket.generation != before.generation();
                assert!(dropped > 0 || stale == step.stale, "{place}");
                assert_eq!(replay.outcome(step) == Recorded::Stale, stale, "{place}");
                assert!(!stale || replay.breaker == before, "{place}");
                dropped += u32::from(stale);
            }
            // Once one has been dropped, each goes its own way.
            if dropped == 0 {
                let state = replay.breaker.phase().state().to_string();
                assert_eq!((permitted, state), (step.permitted, step.state.clone()), "{place}");
            }
        }
        traces_with += u32::from(dropped > 0);
    }
    // In the others our breaker, having dropped one earlier, was never where Resilience4j was.
    assert!(traces_with >= 15, "only in {traces_with}");
}
