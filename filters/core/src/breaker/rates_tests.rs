//! Rates beside the other triggers, growing waits, what operators force, and configurations side by side. What
//! Resilience4j decides by rates alone is in `resilience4j_tests`.

use super::*;
use crate::testing::{Rig, ms, settings};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn percent(value: f32) -> Option<Percentage> {
    Percentage::new(value)
}

fn rates(size: u16, minimum: u32, failures: Option<Percentage>, slow: Option<Percentage>) -> Rates {
    Rates {
        failure_rate_threshold: failures,
        slow_call_rate_threshold: slow,
        window: Shape::Count(size),
        minimum_number_of_calls: minimum,
    }
}

/// Trips at half of ten calls, from four on; two probes decide.
fn by_failures() -> Settings {
    Settings { consecutive_failures: None, rates: Some(rates(10, 4, percent(50.0), None)), ..settings() }
}

fn by_slowness() -> Settings {
    Settings { rates: Some(rates(10, 4, None, percent(50.0))), ..by_failures() }
}

#[test]
fn a_success_that_completes_the_minimum_trips() {
    let mut rig = Rig::new(by_failures());
    for outcome in [Outcome::Failure, Outcome::Failure, Outcome::Success] {
        rig.request(outcome, ms(0));
        assert_eq!(rig.state(), State::Closed);
    }
    rig.request(Outcome::Success, ms(0));
    let exceeded = Exceeded::Failures(Percentage::new(50.0).unwrap());
    let tally = Tally { calls: 4, failed: 2, slow: 0 };
    let tripped = rig.log[0];
    assert_eq!((tripped.cause, tripped.numbers), (Cause::FailureRate, Numbers::Rate { exceeded, tally }));
    assert_eq!(
        tripped.to_string(),
        "closed -> open cause=failure_rate_threshold failure_rate=50 threshold=50 calls=4 failed=2 slow=0 \
         generation=1"
    );
}

#[test]
fn slow_calls_trip_whether_they_failed_or_not() {
    let mut rig = Rig::new(by_slowness());
    for outcome in [Outcome::Failure, Outcome::SlowFailure, Outcome::Success, Outcome::SlowSuccess] {
        assert_eq!(rig.state(), State::Closed);
        rig.request(outcome, ms(0));
    }
    assert_eq!((rig.state(), rig.log[0].cause), (State::Open, Cause::SlowCallRate));
}

#[test]
fn slow_is_strictly_longer_than_the_threshold() {
    let threshold = Duration::from_millis(100);
    let asked = Settings { slow_call_duration_threshold: Some(threshold), ..settings() };
    assert!(!asked.is_slow(threshold));
    assert!(asked.is_slow(threshold + Duration::from_nanos(1)));
    assert!(!settings().is_slow(Duration::MAX));
}

#[test]
fn a_count_of_failures_trips_beside_a_rate() {
    let mut rig = Rig::new(Settings { consecutive_failures: Some(3), ..by_failures() });
    for _ in 0..6 {
        rig.request(Outcome::Success, ms(0));
    }
    for _ in 0..3 {
        assert_eq!(rig.state(), State::Closed);
        rig.fail(ms(0));
    }
    assert_eq!((rig.state(), rig.log[0].cause), (State::Open, Cause::ConsecutiveFailures));
}

/// A breaker of `settings` with two probes out.
fn probing(settings: Settings) -> (Rig, [Ticket; 2]) {
    let mut rig = Rig::new(settings);
    rig.breaker.force(Command::Open(Duration::from_secs(1)), ms(0), &mut rig.log);
    let probes = [rig.enter(ms(2000)), rig.enter(ms(2000))];
    rig.log.clear();
    (rig, probes)
}

#[test]
fn half_open_waits_for_as_many_as_decide_and_no_more() {
    // Three are permitted, two decide: one failure of two is half.
    let settings = || Settings {
        permitted_number_of_calls_in_half_open_state: 3,
        rates: Some(rates(10, 2, percent(50.1), None)),
        ..by_failures()
    };
    let (mut rig, [first, second]) = probing(settings());
    rig.record(&first, Outcome::Failure, ms(2000));
    assert_eq!(rig.state(), State::HalfOpen, "nothing is decided before");
    rig.record(&second, Outcome::Success, ms(2000));
    assert_eq!(rig.state(), State::Closed, "50 is below 50.1, though the third has not answered");

    let (mut rig, [first, second]) = probing(settings());
    rig.record(&first, Outcome::Failure, ms(2000));
    rig.record(&second, Outcome::Failure, ms(2000));
    assert_eq!((rig.state(), rig.log[0].cause), (State::Open, Cause::Probes));
}

#[test]
fn where_failures_count_by_their_number_the_first_failed_probe_reopens() {
    let (mut rig, [first, _]) = probing(Settings { consecutive_failures: Some(9), ..by_slowness() });
    rig.record(&first, Outcome::Failure, ms(2000));
    assert_eq!(rig.state(), State::Open);
    // Where only slowness counts, it alone decides.
    let (mut rig, [first, second]) = probing(by_slowness());
    rig.record(&first, Outcome::Failure, ms(2000));
    rig.record(&second, Outcome::SlowSuccess, ms(2000));
    assert_eq!((rig.state(), rig.log[0].cause), (State::Open, Cause::Probes));
}

fn growing() -> Settings {
    Settings {
        wait_duration_in_open_state: Duration::from_secs(10),
        wait_duration_growth: Some(Growth {
            multiplier_thousandths: 2000,
            max: Duration::from_secs(35),
            jitter: Percentage::new(0.0).unwrap(),
            reset_after: Duration::from_secs(100),
        }),
        permitted_number_of_calls_in_half_open_state: 1,
        ..settings()
    }
}

/// How long the breaker waits that is open at `now`, and when it may be probed.
fn wait(rig: &Rig, now: Timestamp) -> (u64, Timestamp) {
    let Phase::Open { until } = *rig.breaker.phase() else { panic!("{:?}", rig.breaker) };
    (until.since(now).as_secs(), until.after(Duration::from_millis(1)))
}

#[test]
fn the_wait_grows_from_trip_to_trip_and_starts_over_after_a_time_of_health() {
    let mut rig = Rig::new(growing());
    let mut now = ms(0);
    rig.trip(now);
    let (first, next) = wait(&rig, now);
    assert_eq!(first, 10);
    now = next;
    for expected in [20, 35, 35] {
        rig.request(Outcome::Failure, now);
        let (seconds, next) = wait(&rig, now);
        assert_eq!(seconds, expected);
        now = next;
    }
    rig.request(Outcome::Success, now);
    // Not healthy for long enough: the wait goes on growing, from where it is capped.
    now = now.after(Duration::from_millis(99_999));
    rig.trip(now);
    let (seconds, next) = wait(&rig, now);
    assert_eq!(seconds, 35);
    rig.request(Outcome::Success, next);
    now = next.after(Duration::from_secs(100));
    rig.trip(now);
    assert_eq!(wait(&rig, now).0, 10);
}

#[test]
fn what_is_forced_open_refuses_for_its_time_and_then_probes() {
    let mut rig = Rig::new(settings());
    rig.breaker.force(Command::Open(Duration::from_secs(5)), ms(0), &mut rig.log);
    assert_eq!((rig.log[0].to, rig.log[0].cause), (State::Open, Cause::Forced));
    assert_eq!(rig.admit(ms(1000)), Admission::Refused { wait: Some(Duration::from_secs(4)) });
    assert!(rig.enter(ms(5001)).probe.is_some());
}

#[test]
fn what_is_held_closed_counts_nothing_and_begins_with_nothing_after() {
    let mut rig = Rig::new(Settings { consecutive_failures: Some(3), ..by_failures() });
    rig.trip(ms(0));
    rig.breaker.force(Command::Close(Duration::from_secs(5)), ms(1), &mut rig.log);
    for moment in [2, 3, 4, 5001] {
        rig.fail(ms(moment));
        assert_eq!(rig.state(), State::Closed);
    }
    assert!(rig.breaker.is_clean());
    for _ in 0..3 {
        assert_eq!(rig.state(), State::Closed);
        rig.fail(ms(5002));
    }
    assert_eq!(rig.state(), State::Open);
    rig.breaker.force(Command::Reset, ms(5003), &mut rig.log);
    assert_eq!((rig.state(), rig.breaker.is_clean()), (State::Closed, true));
}

#[test]
fn configurations_with_other_windows_feed_one_and_only_the_newest_shapes_it() {
    let mut rig = Rig::new(by_failures());
    rig.request(Outcome::Failure, ms(0));
    // One without a rate feeds what is there, one with a narrower window reads it.
    rig.settings = settings();
    rig.request(Outcome::Failure, ms(0));
    let narrow = Settings { rates: Some(rates(2, 2, percent(100.0), None)), ..by_failures() };
    rig.settings = narrow.clone();
    rig.request(Outcome::Success, ms(0));
    let Phase::Closed(closed) = rig.breaker.phase() else { panic!() };
    assert_eq!(closed.evidence.tally(ms(0)), Tally { calls: 3, failed: 2, slow: 0 });

    rig.breaker.adopt(&narrow, false);
    let Phase::Closed(closed) = rig.breaker.phase() else { panic!() };
    assert_eq!(closed.evidence.tally(ms(0)), Tally { calls: 2, failed: 1, slow: 0 });
    // While another is in use, one without a rate leaves it its window.
    rig.breaker.adopt(&settings(), false);
    assert!(!rig.breaker.is_clean());
    rig.breaker.adopt(&settings(), true);
    assert!(rig.breaker.is_clean());
}

#[test]
fn a_usual_rate_is_not_near_a_change() {
    let near = |settings: Settings, outcomes: &[Outcome]| {
        let mut rig = Rig::new(settings);
        outcomes.iter().for_each(|outcome| rig.request(*outcome, ms(0)));
        rig.breaker.is_near_a_change(&rig.settings, ms(0))
    };
    const S: Outcome = Outcome::Success;
    // Half of 50 % of what is there, and half of the four calls that make a rate.
    assert!(!near(by_failures(), &[Outcome::Failure, S, S, S, S]));
    assert!(near(by_failures(), &[Outcome::Failure, S, S, S]));
    assert!(near(by_failures(), &[Outcome::Failure, S]));
    assert!(!near(by_failures(), &[S, Outcome::SlowSuccess]), "nobody asks for slow ones");
    assert!(near(by_slowness(), &[S, Outcome::SlowSuccess]));
}
