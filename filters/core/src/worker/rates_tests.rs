//! What rates, ramps and keys make of a worker's reads and writes.

use super::fake::{Fake, P, enter, request, shared};
use super::*;
use crate::breaker::{Admission, Cause, Outcome, Percentage, RampUp, Rates, Settings, Shape};
use crate::testing::{ms, settings};
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Trips at half of `size` calls, once there are that many.
fn by_rate(size: u16) -> Settings {
    Settings {
        consecutive_failures: None,
        rates: Some(Rates {
            failure_rate_threshold: Percentage::new(50.0),
            slow_call_rate_threshold: None,
            window: Shape::Count(size),
            minimum_number_of_calls: u32::from(size),
        }),
        ..settings()
    }
}

fn configured(configuration: u64, settings: Settings) -> Worker {
    Worker::new("ns", configuration, [("p", Some(shared(settings)))].into_iter())
}

fn writes(port: &mut Fake) -> (usize, usize) {
    let calls = port.calls();
    let count = |name| calls.iter().filter(|call| **call == name).count();
    (count("put"), count("changed"))
}

#[test]
fn a_full_window_of_successes_is_not_written_again() {
    let (mut port, mut worker) = (Fake::default(), configured(1, by_rate(4)));
    for call in 0..4 {
        request(&mut worker, &mut port, Outcome::Success, ms(call));
        assert!(writes(&mut port).0 > 0, "{call}");
    }
    for call in 4..50 {
        request(&mut worker, &mut port, Outcome::Success, ms(call));
    }
    assert_eq!(writes(&mut port), (0, 0));
    // A failure is, and then every call until it has left the window.
    request(&mut worker, &mut port, Outcome::Failure, ms(50));
    for call in 51..55 {
        assert_eq!(writes(&mut port).0, 1);
        request(&mut worker, &mut port, Outcome::Success, ms(call));
    }
    assert_eq!(writes(&mut port).0, 1);
    request(&mut worker, &mut port, Outcome::Success, ms(55));
    assert_eq!(writes(&mut port).0, 0);
}

#[test]
fn a_call_that_only_fills_a_window_disturbs_nobodys_belief() {
    let (mut port, mut worker) = (Fake::default(), configured(1, by_rate(100)));
    request(&mut worker, &mut port, Outcome::Success, ms(0));
    port.calls();
    for call in 1..20 {
        request(&mut worker, &mut port, Outcome::Success, ms(call));
    }
    assert_eq!(writes(&mut port), (19, 0));
}

#[test]
fn workers_count_in_one_window() {
    let mut port = Fake::default();
    let mut workers = [(); 4].map(|()| configured(1, by_rate(8)));
    for call in 0..8_u64 {
        assert_eq!(port.breaker_state(), BreakerState::Closed);
        let outcome = if call % 2 == 0 { Outcome::Failure } else { Outcome::Success };
        request(&mut workers[usize::try_from(call % 4).unwrap()], &mut port, outcome, ms(call));
    }
    assert_eq!(port.breaker_state(), BreakerState::Open);
    let causes = port.events().into_iter().filter_map(|event| match event {
        Event::Transition { transition, .. } => Some(transition.cause),
        _ => None,
    });
    assert_eq!(causes.collect::<Vec<_>>(), [Cause::FailureRate]);
}

#[test]
fn only_the_newest_configuration_reshapes_the_window() {
    let mut port = Fake::default();
    let (mut old, mut new) = (configured(1, by_rate(4)), configured(2, by_rate(2)));
    let calls = |port: &Fake| {
        let state = port.state();
        let crate::breaker::Phase::Closed(closed) = state.breaker.phase() else { panic!() };
        closed.evidence.tally(ms(0)).calls
    };
    for call in 0..4 {
        request(&mut old, &mut port, Outcome::Success, ms(call));
    }
    assert_eq!(calls(&port), 4);
    request(&mut new, &mut port, Outcome::Failure, ms(5));
    assert_eq!(port.breaker_state(), BreakerState::Open, "one of two");
    new.force(&mut port, P, Command::Reset, ms(6));
    // From now on the old one knows that it is not the newest, and feeds what the new one has made.
    old.tick(&mut port, ms(500));
    for call in 0..4 {
        request(&mut new, &mut port, Outcome::Success, ms(600 + call));
        request(&mut old, &mut port, Outcome::Success, ms(600 + call));
        assert!(calls(&port) <= 2);
    }
}

#[test]
fn a_ramp_lets_in_its_share() {
    let ramp = RampUp { duration: Duration::from_secs(10), initial: Percentage::new(20.0).unwrap() };
    let settings =
        Settings { ramp_up: Some(ramp), permitted_number_of_calls_in_half_open_state: 1, ..settings() };
    let (mut port, mut worker) = (Fake::default(), configured(1, settings));
    for _ in 0..3 {
        request(&mut worker, &mut port, Outcome::Failure, ms(0));
    }
    request(&mut worker, &mut port, Outcome::Success, ms(30_001));
    assert_eq!(port.breaker_state(), BreakerState::Closed);
    let mut admitted = |at: u64| {
        let admissions = (0..100).map(|_| worker.admission(&mut port, P, ms(at)));
        admissions.filter(|admission| matches!(admission, Admission::Admitted(_))).count()
    };
    assert_eq!([30_001, 35_001, 40_000].map(&mut admitted), [20, 60, 99]);
    assert_eq!(admitted(40_001), 100);
}

fn keyed(max_keys: u16) -> Worker {
    let shared = Shared { max_keys: Some(max_keys), ..shared(settings()) };
    Worker::new("ns", 1, [("p", Some(shared))].into_iter())
}

#[test]
fn each_cluster_has_a_breaker_of_its_own() {
    let (mut port, mut one, mut other) = (Fake::default(), keyed(2), keyed(2));
    let a = one.target(&mut port, 0, Some(b"a"));
    let b = one.target(&mut port, 0, Some(b"b"));
    assert_eq!((a.key, b.key), (1, 2));
    for _ in 0..3 {
        let Admission::Admitted(ticket) = one.admission(&mut port, a, ms(0)) else { panic!() };
        one.record(&mut port, a, ticket, Outcome::Failure, ms(0));
    }
    let refused = |admission| matches!(admission, Admission::Refused { .. });
    let theirs = other.target(&mut port, 0, Some(b"a"));
    assert!(refused(other.admission(&mut port, theirs, ms(1))));
    let theirs = other.target(&mut port, 0, Some(b"b"));
    assert!(!refused(other.admission(&mut port, theirs, ms(1))));
    assert_eq!(port.introduced.len(), 4, "two by each worker");
}

#[test]
fn beyond_the_bound_all_share_one_and_are_counted() {
    let (mut port, mut one, mut other) = (Fake::default(), keyed(1), keyed(1));
    assert_eq!(one.target(&mut port, 0, Some(b"a")).key, 1);
    port.calls();
    for worker in [&mut one, &mut other] {
        for name in [b"b".as_slice(), b"c", &[b'x'; 300]] {
            assert_eq!(worker.target(&mut port, 0, Some(name)), P);
        }
        assert_eq!(worker.target(&mut port, 0, None), P);
    }
    assert_eq!(port.events(), [Event::KeysExhausted { policy: 0 }; 6]);
    assert_eq!(port.calls().iter().filter(|call| **call == "get").count(), 1, "by the one that did not know");
    // A leader finds keys that only others have used.
    assert_eq!(other.target(&mut port, 0, Some(b"a")).key, 1);
    enter(&mut one, &mut port, ms(0));
    let mut third = keyed(1);
    assert_eq!(third.targets(&mut port, 0, None).len(), 2);
    assert_eq!(third.targets(&mut port, 0, Some(b"b")), []);
}

#[test]
fn a_damaged_table_of_keys_starts_afresh() {
    let (mut port, mut worker) = (Fake::default(), keyed(2));
    for bytes in [b"".as_slice(), b"RK", b"RK\x01\x00\x00\x00", b"RK\x01\x00\x01\x00ab", b"??"] {
        port.set(b"resilience/ns/p#keys", bytes);
        let mut other = keyed(2);
        assert_eq!(other.target(&mut port, 0, Some(b"a")).key, 1, "{bytes:?}");
    }
    assert_eq!(worker.target(&mut port, 0, Some(b"a")).key, 1);
}
