//! What workers with rates, and workers whose breaker ramps up, agree on.

use super::Worker;
use super::fake::{Fake, P, enter, request, shared, worker_of};
use crate::breaker::{Admission, Outcome, Percentage, Phase, RampUp, Rates, Settings, Shape, State, Tally};
use crate::testing::{ms, settings};
use crate::time::Timestamp;
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn rates(size: u16) -> Settings {
    let rates = Rates {
        failure_rate_threshold: Percentage::new(50.0),
        slow_call_rate_threshold: None,
        window: Shape::Count(size),
        minimum_number_of_calls: 2,
    };
    Settings { consecutive_failures: None, rates: Some(rates), ..settings() }
}

fn tally(port: &Fake) -> Tally {
    match port.state().breaker.phase() {
        Phase::Closed(closed) => closed.evidence.tally(ms(0)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_success_counts_before_any_failure_does() {
    let (mut worker, mut port) = (worker_of(rates(10)), Fake::default());
    for _ in 0..3 {
        request(&mut worker, &mut port, Outcome::Success, ms(0));
    }
    request(&mut worker, &mut port, Outcome::Failure, ms(0));
    request(&mut worker, &mut port, Outcome::Failure, ms(0));
    assert_eq!(tally(&port), Tally { calls: 5, failed: 2, slow: 0 }, "2 of 5 are no reason to trip");
}

#[test]
fn a_success_fills_the_window_of_a_newer_configuration() {
    let (mut older, mut port) = (worker_of(rates(2)), Fake::default());
    for _ in 0..3 {
        request(&mut older, &mut port, Outcome::Success, ms(0));
    }
    let newer = [("p", Some(shared(rates(4))))];
    let mut newer = Worker::new("ns", 2, newer.into_iter());
    newer.tick(&mut port, ms(1));
    for _ in 0..5 {
        request(&mut newer, &mut port, Outcome::Success, ms(1));
    }
    assert_eq!(tally(&port).calls, 4);
}

/// When the wait of a breaker that tripped at 0 is over.
const PROBING: Timestamp = Timestamp::from_nanos(30_000_000_001);

#[test]
fn a_ramp_decides_over_whoever_comes_while_the_breaker_closes() {
    let ramp = RampUp { duration: Duration::from_secs(10), initial: Percentage::new(10.0).unwrap() };
    // The first answer of the two probes is the verdict, so that a place is free until then.
    let settings = Settings { ramp_up: Some(ramp), rates: rates(1).rates, ..settings() };
    let decided = settings.rates.map(|rates| Rates { minimum_number_of_calls: 1, ..rates });
    let settings = Settings { rates: decided, ..settings };
    let (mut worker, mut other, mut port) =
        (worker_of(settings.clone()), worker_of(settings), Fake::default());
    while port.breaker_state() == State::Closed {
        request(&mut other, &mut port, Outcome::Failure, ms(0));
    }
    worker.tick(&mut port, PROBING);
    other.tick(&mut port, PROBING);
    let ticket = enter(&mut other, &mut port, PROBING);
    // The other closes it after this one has read it, and before its write is decided over.
    port.meanwhile.push_back(("get", Box::new(|_: &mut Fake| {})));
    let closes = move |port: &mut Fake| other.record(port, P, ticket, Outcome::Success, PROBING);
    port.meanwhile.push_back(("get", Box::new(closes)));
    let admission = worker.admission(&mut port, P, PROBING);
    assert_eq!(port.breaker_state(), State::Closed, "the other was faster");
    assert_eq!(admission, Admission::Refused { wait: None });
}
