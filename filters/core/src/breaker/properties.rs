//! What must hold of every breaker that a valid configuration can make, whatever happens to it.

use super::*;
use crate::config::Document;
use crate::testing::{just_after, round_trip};
use proptest::prelude::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// A `circuit_breaker` section that validates. Small numbers come often, so that few operations reach every state.
fn section() -> impl Strategy<Value = String> {
    let small = prop_oneof![4 => 1..=5_u32, 1 => 1..=1000_u32];
    let millis = prop_oneof![4 => 1..=500_u64, 1 => 1..=604_800_000_u64];
    let triggers = (
        proptest::option::of(small.clone()),
        proptest::option::of((small.clone(), millis.clone())),
        1..=3_u32,
    )
        .prop_map(|(consecutive, window, fallback)| {
            let consecutive = consecutive.or_else(|| window.is_none().then_some(fallback));
            let window = window.map(|(failures, window)| {
                format!(r#""failures_in_window": {{"failures": {failures}, "window": "{window}ms"}},"#)
            });
            let consecutive = consecutive.map(|limit| format!(r#""consecutive_failures": {limit},"#));
            consecutive.unwrap_or_default() + &window.unwrap_or_default()
        });
    let rates = (
        proptest::option::of(1..=100_u32),
        proptest::option::of(1..=100_u32),
        prop_oneof![
            (1..=20_u32).prop_map(|size| format!(r#""count", "sliding_window_size": {size}"#)),
            (1..=5_u32).prop_map(|size| format!(r#""time", "sliding_window_size": {size}"#)),
        ],
        1..=10_u32,
    )
        .prop_map(|(failures, slow, window, minimum)| {
            let failures = failures.map(|rate| format!(r#""failure_rate_threshold": {rate},"#));
            let slow = slow.map(|rate| format!(r#""slow_call_rate_threshold": {rate},"#));
            format!(
                r#"{}{}"sliding_window_type": {window}, "minimum_number_of_calls": {minimum},"#,
                failures.unwrap_or_default(),
                slow.unwrap_or_default()
            )
        });
    let growth = proptest::option::of((1.0..=10.0_f64, 0..=100_u32, millis.clone())).prop_map(|growth| {
        growth.map_or_else(String::new, |(multiplier, jitter, reset)| {
            format!(
                r#""wait_duration_growth": {{"multiplier": {multiplier}, "max": "168h", "jitter": {jitter},
                    "reset_after": "{reset}ms"}},"#
            )
        })
    });
    (triggers, rates, growth, millis.clone(), small, millis).prop_map(
        |(triggers, rates, growth, wait, permitted, stay)| {
            format!(
                r#"{{{triggers} {rates} {growth} "wait_duration_in_open_state": "{wait}ms",
                    "permitted_number_of_calls_in_half_open_state": {permitted},
                    "max_wait_duration_in_half_open_state": "{stay}ms"}}"#
            )
        },
    )
}

fn settings_of(section: &str) -> Settings {
    let document = format!(
        r#"{{"policies": [{{"name": "p", "match": [{{"any": true}}], "circuit_breaker": {section}}}]}}"#
    );
    let policies = Document::parse(document.as_bytes()).unwrap().policies;
    policies.into_iter().next().unwrap().circuit_breaker.unwrap().settings
}

#[derive(Clone, Debug)]
enum Step {
    Admit {
        owner: u64,
    },
    Record {
        ticket: prop::sample::Index,
        outcome: Outcome,
    },
    /// The same ticket is reported again, or long after: it must count for nothing.
    Repeat {
        ticket: prop::sample::Index,
        outcome: Outcome,
    },
    Die {
        owner: u64,
    },
    Settle,
    Adopt {
        alone: bool,
    },
    Force(Command),
}

fn command() -> impl Strategy<Value = Command> {
    let span = || (1..=2000_u64).prop_map(Duration::from_millis);
    prop_oneof![span().prop_map(Command::Open), span().prop_map(Command::Close), Just(Command::Reset)]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        2 => Just(Outcome::Success),
        2 => Just(Outcome::Failure),
        1 => Just(Outcome::SlowSuccess),
        1 => Just(Outcome::SlowFailure),
        1 => Just(Outcome::Ignored),
    ]
}

/// A step, by which of two configurations, and how far the clock moves before it (now and then back).
fn step() -> impl Strategy<Value = (Step, bool, i64)> {
    let ticket = any::<prop::sample::Index>;
    let step = prop_oneof![
        4 => (0..3_u64).prop_map(|owner| Step::Admit { owner }),
        4 => (ticket(), outcome()).prop_map(|(ticket, outcome)| Step::Record { ticket, outcome }),
        1 => (ticket(), outcome()).prop_map(|(ticket, outcome)| Step::Repeat { ticket, outcome }),
        1 => (0..3_u64).prop_map(|owner| Step::Die { owner }),
        1 => Just(Step::Settle),
        1 => any::<bool>().prop_map(|alone| Step::Adopt { alone }),
        1 => command().prop_map(Step::Force),
    ];
    let millis = prop_oneof![8 => 0..=200_i64, 1 => -200..=0_i64, 1 => 0..=1_000_000_000_i64];
    (step, any::<bool>(), millis)
}

fn moved(now: Timestamp, millis: i64) -> Timestamp {
    let span = Duration::from_millis(millis.unsigned_abs());
    if millis < 0 {
        Timestamp::from_nanos(
            u64::try_from(now.since(Timestamp::default()).saturating_sub(span).as_nanos()).unwrap(),
        )
    } else {
        now.after(span)
    }
}

/// Probes out and probes that succeeded never exceed what was permitted when the state was entered.
fn within_permits(breaker: &Breaker) -> bool {
    match breaker.phase() {
        Phase::HalfOpen(probing) => {
            probing.taken() <= probing.permitted && probing.answers.calls < probing.deciding
        }
        Phase::Closed(_) | Phase::Open { .. } => true,
    }
}

proptest! {
    #[test]
    fn any_valid_breaker_survives_anything(
        sections in (section(), section()),
        first in prop_oneof![3 => Just(0), 1 => any::<u64>()],
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let configurations = [settings_of(&sections.0), settings_of(&sections.1)];
        let mut breaker = Breaker::closed(first);
        let mut now = Timestamp::default();
        let (mut out, mut settled) = (Vec::new(), Vec::new());
        for (step, newer, millis) in steps {
            now = moved(now, millis);
            let settings = &configurations[usize::from(newer)];
            let before = breaker.clone();
            let mut log = Vec::new();
            match step {
                Step::Admit { owner } => match breaker.admit(settings, Owner(owner), now, &mut log) {
                    Admission::Admitted(ticket) => {
                        prop_assert_eq!(ticket.generation, breaker.generation());
                        prop_assert_eq!(ticket.probe.is_some(), breaker.phase().state() == State::HalfOpen);
                        out.push(ticket);
                    }
                    Admission::Refused { wait } => {
                        prop_assert_eq!(wait.is_some(), breaker.phase().state() == State::Open);
                        prop_assert!(breaker.phase().state() != State::Closed);
                    }
                },
                Step::Record { ticket, outcome } if !out.is_empty() => {
                    let ticket = out.swap_remove(ticket.index(out.len()));
                    let recorded = breaker.record(settings, &ticket, outcome, now, &mut log);
                    if ticket.generation != before.generation() {
                        prop_assert_eq!(recorded, Recorded::Stale);
                    }
                    settled.push(ticket);
                }
                Step::Repeat { ticket, outcome } if !settled.is_empty() => {
                    let ticket: Ticket = settled[ticket.index(settled.len())];
                    if ticket.probe.is_some() {
                        let recorded = breaker.record(settings, &ticket, outcome, now, &mut log);
                        prop_assert_ne!(recorded, Recorded::Counted);
                    }
                }
                Step::Record { .. } | Step::Repeat { .. } => {}
                Step::Die { owner } => {
                    breaker.reclaim(|known| known == Owner(owner));
                    prop_assert_eq!(breaker.phase().state(), before.phase().state());
                }
                Step::Settle => breaker.settle(settings, now, &mut log),
                Step::Adopt { alone } => breaker.adopt(settings, alone),
                Step::Force(command) => breaker.force(command, now, &mut log),
            }
            // Each transition is told, in order, and each begins a generation of its own.
            let told: Vec<_> = log.iter().map(|transition| transition.from).collect();
            let mut passed = vec![before.phase().state()];
            passed.extend(log.iter().map(|transition| transition.to));
            prop_assert_eq!(passed.pop(), Some(breaker.phase().state()));
            prop_assert_eq!(told, passed);
            let grown = breaker.generation().wrapping_sub(before.generation());
            prop_assert_eq!(grown, u64::try_from(log.len()).unwrap());
            prop_assert!(within_permits(&breaker), "{:?}", breaker);
            prop_assert_eq!(round_trip(&breaker, now), Some(breaker.clone()));
        }

        // Never stuck: with every request lost, time alone brings the next probe, and good answers close it.
        let settings = &configurations[0];
        let mut log = Vec::new();
        for _ in 0..2 {
            if let Phase::Open { until } | Phase::HalfOpen(HalfOpen { until, .. }) = *breaker.phase() {
                now = now.max(just_after(until));
                breaker.settle(settings, now, &mut log);
            }
        }
        for _ in 0..=1000 {
            let Admission::Admitted(ticket) = breaker.admit(settings, Owner(9), now, &mut log) else {
                panic!("refused at {now:?}: {breaker:?}");
            };
            if ticket.probe.is_none() {
                break;
            }
            breaker.record(settings, &ticket, Outcome::Success, now, &mut log);
        }
        prop_assert_eq!(breaker.phase().state(), State::Closed);
    }

    #[test]
    fn any_bytes_are_a_breaker_or_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Some(breaker) = Breaker::decode(&bytes) {
            let mut again = Vec::new();
            breaker.encode(&mut again);
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn bytes_with_a_flaw_are_a_breaker_or_none(
        state in 0..4_u8,
        body in prop::collection::vec(prop_oneof![3 => Just(0_u8), 1 => any::<u8>()], 0..100),
    ) {
        // Random bytes seldom get past the state: these begin as a breaker does.
        let mut bytes = vec![0; 12];
        bytes.push(state);
        bytes.extend(body);
        if let Some(mut breaker) = Breaker::decode(&bytes) {
            prop_assert_eq!(round_trip(&breaker, Timestamp::from_nanos(2)), Some(breaker.clone()));
            let settings = crate::testing::settings();
            let mut log = Vec::new();
            let admission = breaker.admit(&settings, Owner(0), Timestamp::from_nanos(1), &mut log);
            if let Admission::Admitted(ticket) = admission {
                breaker.record(&settings, &ticket, Outcome::Failure, Timestamp::from_nanos(2), &mut log);
            }
            prop_assert_eq!(round_trip(&breaker, Timestamp::from_nanos(2)), Some(breaker.clone()));
        }
    }
}
