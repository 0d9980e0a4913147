//! Closed and open: the triggers, the wait, and what configurations that serve side by side may do to each other.

use super::*;
use crate::testing::{Rig, just_after, ms, settings, windowed};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const TEN_SECONDS: Duration = Duration::from_secs(10);

/// Both triggers, five failures each.
fn both() -> Settings {
    Settings { consecutive_failures: Some(5), ..windowed(5, TEN_SECONDS) }
}

#[test]
fn trips_at_the_last_of_the_consecutive_failures() {
    let mut rig = Rig::new(settings());
    rig.fail(ms(0));
    rig.fail(ms(1));
    assert_eq!((rig.state(), rig.log.len()), (State::Closed, 0));
    rig.fail(ms(2));
    let expected = Transition {
        at: ms(2),
        from: State::Closed,
        to: State::Open,
        cause: Cause::ConsecutiveFailures,
        generation: 1,
        numbers: Numbers::Count { count: 3, limit: 3 },
    };
    assert_eq!((rig.state(), rig.log), (State::Open, vec![expected]));
}

#[test]
fn a_limit_of_one_trips_at_the_first_failure() {
    for settings in
        [Settings { consecutive_failures: Some(1), ..settings() }, windowed(1, Duration::from_millis(1))]
    {
        let mut rig = Rig::new(settings);
        rig.fail(ms(0));
        assert_eq!(rig.state(), State::Open);
    }
}

#[test]
fn a_success_between_starts_the_run_again() {
    let mut rig = Rig::new(settings());
    for round in 0..10 {
        rig.fail(ms(round));
        rig.fail(ms(round));
        assert!(!rig.breaker.is_clean());
        rig.request(Outcome::Success, ms(round));
        assert!(rig.breaker.is_clean());
    }
    assert_eq!(rig.state(), State::Closed);
}

#[test]
fn an_ignored_outcome_neither_ends_a_run_nor_adds_to_it() {
    let mut rig = Rig::new(both());
    for _ in 0..4 {
        rig.fail(ms(0));
        rig.request(Outcome::Ignored, ms(0));
    }
    assert_eq!(rig.state(), State::Closed);
    rig.fail(ms(0));
    assert_eq!(rig.state(), State::Open);
}

#[test]
fn a_success_between_leaves_the_window_alone() {
    let mut rig = Rig::new(windowed(5, TEN_SECONDS));
    for second in 0..4 {
        rig.fail(ms(second * 1000));
        rig.request(Outcome::Success, ms(second * 1000));
    }
    assert_eq!(rig.state(), State::Closed);
    rig.fail(ms(4000));
    assert_eq!(rig.state(), State::Open);
    assert_eq!(
        (rig.log[0].cause, rig.log[0].numbers),
        (Cause::FailuresInWindow, Numbers::Count { count: 5, limit: 5 })
    );
}

#[test]
fn the_window_includes_its_end_and_nothing_beyond() {
    for (fifth, expected) in [
        (ms(10_000), State::Open),
        (just_after(ms(10_000)), State::Closed),
        (ms(11_000), State::Closed),
        // Its end once more, seen from the second failure.
        (ms(10_500), State::Closed),
    ] {
        let mut rig = Rig::new(windowed(5, TEN_SECONDS));
        for failure in [0, 500, 1000, 1500] {
            rig.fail(ms(failure));
        }
        assert_eq!(rig.state(), State::Closed);
        rig.fail(fifth);
        assert_eq!(rig.state(), expected, "the fifth at {fifth:?}");
    }
}

#[test]
fn the_window_slides() {
    let mut rig = Rig::new(windowed(5, TEN_SECONDS));
    for failure in [0, 500, 1000, 1500, 11_000] {
        rig.fail(ms(failure));
    }
    assert_eq!(rig.state(), State::Closed, "five within eleven seconds");
    // The latest five are now those from 500 to 10 500 at most: one that is late enough still does not make it.
    rig.fail(ms(11_001));
    assert_eq!(rig.state(), State::Closed, "500 to 11 001 is too long");
    rig.fail(ms(11_002));
    assert_eq!(rig.state(), State::Closed, "1 000 to 11 002 is too long");
    rig.fail(ms(11_500));
    assert_eq!(rig.state(), State::Open, "1 500 to 11 500 is ten seconds");
}

#[test]
fn failures_may_arrive_out_of_order() {
    let mut rig = Rig::new(windowed(5, TEN_SECONDS));
    for failure in [3000, 1000, 4000, 2000, 0] {
        assert_eq!(rig.state(), State::Closed);
        rig.fail(ms(failure));
    }
    assert_eq!(rig.state(), State::Open);
}

#[test]
fn an_outcome_that_comes_late_does_not_make_the_window_shorter() {
    // Five failures over twelve seconds, whatever the order in which their writes won.
    for late in [Outcome::Failure, Outcome::Success, Outcome::Ignored] {
        let mut rig = Rig::new(windowed(5, TEN_SECONDS));
        for failure in [0, 1000, 2000, 12_000] {
            rig.fail(ms(failure));
        }
        if late != Outcome::Failure {
            rig.fail(ms(11_999));
        }
        rig.request(late, ms(9000));
        assert_eq!(rig.state(), State::Closed, "{late:?}");
    }
}

#[test]
fn the_first_trigger_to_be_met_is_the_cause() {
    let mut rig = Rig::new(both());
    for _ in 0..5 {
        rig.fail(ms(0));
    }
    assert_eq!(rig.log[0].cause, Cause::ConsecutiveFailures);

    let mut rig = Rig::new(both());
    rig.fail(ms(0));
    rig.request(Outcome::Success, ms(0));
    for _ in 0..4 {
        rig.fail(ms(0));
    }
    assert_eq!(rig.log[0].cause, Cause::FailuresInWindow);
}

#[test]
fn the_wait_ends_strictly_after_its_last_moment() {
    let mut rig = Rig::new(settings());
    rig.trip(ms(1000));
    let last = ms(31_000);
    assert_eq!(rig.admit(ms(1000)), Admission::Refused { wait: Some(Duration::from_secs(30)) });
    assert_eq!(rig.admit(ms(30_999)), Admission::Refused { wait: Some(Duration::from_millis(1)) });
    assert_eq!(rig.admit(last), Admission::Refused { wait: Some(Duration::ZERO) });
    assert_eq!(rig.state(), State::Open);
    assert!(rig.enter(just_after(last)).probe.is_some());
    let to_half_open = rig.log.last().unwrap();
    assert_eq!(
        (to_half_open.from, to_half_open.to, to_half_open.cause, to_half_open.numbers),
        (State::Open, State::HalfOpen, Cause::WaitOver, Numbers::None)
    );
}

#[test]
fn time_alone_and_late_outcomes_do_not_end_a_wait() {
    let mut rig = Rig::new(settings());
    let early = rig.enter(ms(0));
    rig.trip(ms(0));
    let before = rig.breaker.clone();
    for outcome in [Outcome::Success, Outcome::Failure, Outcome::Ignored] {
        assert_eq!(rig.record(&early, outcome, ms(99_000)), Recorded::Stale);
    }
    rig.breaker.settle(&rig.settings, ms(99_000), &mut rig.log);
    assert_eq!(rig.breaker, before);
}

#[test]
fn the_wait_begins_when_the_outcome_is_recorded() {
    let mut rig = Rig::new(settings());
    let slow = rig.enter(ms(0));
    rig.fail(ms(0));
    rig.fail(ms(0));
    rig.record(&slow, Outcome::Failure, ms(20_000));
    assert_eq!(*rig.breaker.phase(), Phase::Open { until: ms(50_000) });
}

#[test]
fn a_clock_that_steps_back_refuses_and_traps_nothing() {
    let mut rig = Rig::new(settings());
    rig.trip(ms(5000));
    assert_eq!(rig.admit(ms(0)), Admission::Refused { wait: Some(Duration::from_secs(35)) });
    let mut rig = Rig::new(windowed(2, TEN_SECONDS));
    rig.fail(Timestamp::from_nanos(u64::MAX));
    rig.fail(Timestamp::from_nanos(u64::MAX));
    assert_eq!(*rig.breaker.phase(), Phase::Open { until: Timestamp::from_nanos(u64::MAX) });
}

#[test]
fn a_ticket_of_an_older_closed_state_is_dropped_in_a_newer_one() {
    let mut rig = Rig::new(Settings { permitted_number_of_calls_in_half_open_state: 1, ..settings() });
    let old = rig.enter(ms(0));
    rig.trip(ms(0));
    rig.request(Outcome::Success, ms(30_001));
    assert_eq!(rig.state(), State::Closed);
    for _ in 0..10 {
        assert_eq!(rig.record(&old, Outcome::Failure, ms(30_002)), Recorded::Stale);
    }
    assert!(rig.breaker.is_clean());
    // And what went before the trip is forgotten: the trigger counts from nothing.
    rig.fail(ms(30_003));
    rig.fail(ms(30_004));
    assert_eq!(rig.state(), State::Closed);
}

#[test]
fn the_generation_wraps_without_fitting_an_older_ticket() {
    let mut rig = Rig::new(settings());
    rig.breaker = Breaker::closed(u64::MAX);
    let old = rig.enter(ms(0));
    rig.trip(ms(0));
    assert_eq!(rig.breaker.generation(), 0);
    assert_eq!(rig.record(&old, Outcome::Failure, ms(1)), Recorded::Stale);
    assert!(rig.enter(ms(30_001)).probe.is_some());
    assert_eq!(rig.breaker.generation(), 1);
}

#[test]
fn configurations_that_count_differently_feed_one_evidence() {
    let (short, long) = (windowed(3, TEN_SECONDS), windowed(5, TEN_SECONDS));
    let mut rig = Rig::new(long.clone());
    for second in 0..2 {
        rig.fail(ms(second * 1000));
    }
    // Another trigger neither forgets what is there nor loses what comes.
    rig.settings = settings();
    rig.request(Outcome::Success, ms(2000));
    rig.fail(ms(2000));
    rig.settings = long.clone();
    rig.fail(ms(3000));
    assert_eq!(rig.state(), State::Closed, "four of five");
    let mut narrow = Rig { breaker: rig.breaker.clone(), settings: short, log: Vec::new() };
    narrow.fail(ms(3500));
    assert_eq!(
        (narrow.state(), narrow.log[0].numbers),
        (State::Open, Numbers::Count { count: 3, limit: 3 }),
        "a narrower trigger reads the same memory"
    );
    rig.fail(ms(4000));
    assert_eq!(
        (rig.state(), rig.log[0].numbers),
        (State::Open, Numbers::Count { count: 5, limit: 5 }),
        "a wider one was not cut short"
    );
}

#[test]
fn a_narrow_configuration_does_not_shrink_the_memory_of_a_wide_one() {
    let mut rig = Rig::new(windowed(5, TEN_SECONDS));
    rig.fail(ms(0));
    // Three failures that its own trigger finds too far apart.
    rig.settings = windowed(3, Duration::from_millis(10));
    for moment in [1000, 2000, 3000] {
        rig.fail(ms(moment));
    }
    assert_eq!(rig.state(), State::Closed);
    rig.settings = windowed(5, TEN_SECONDS);
    rig.fail(ms(4000));
    assert_eq!(rig.state(), State::Open);
}

#[test]
fn evidence_stays_bounded_and_in_order() {
    let mut rig = Rig::new(windowed(5, Duration::from_millis(1)));
    for moment in (0..1000).rev() {
        rig.fail(ms(moment * 10));
    }
    let mut bytes = Vec::new();
    rig.breaker.encode(&mut bytes);
    assert_eq!(bytes.len(), 8 + 4 + 1 + 4 + 2 + 2 + 5 * 8);
    assert_eq!(Breaker::decode(&bytes), Some(rig.breaker));
}

#[test]
fn a_change_is_near_after_a_failure_and_when_half_of_what_trips_it_is_there() {
    let near = |rig: &Rig, at| rig.breaker.is_near_a_change(&rig.settings, ms(at));
    let mut rig = Rig::new(Settings { consecutive_failures: Some(5), ..settings() });
    assert!(!near(&rig, 0));
    rig.fail(ms(0));
    assert!(near(&rig, 0));
    rig.request(Outcome::Success, ms(1));
    assert!(!near(&rig, 1));
    // As long as they are in the window.
    let mut rig = Rig::new(windowed(4, TEN_SECONDS));
    for at in [0, 5000] {
        rig.fail(ms(at));
        rig.request(Outcome::Success, ms(at));
        assert_eq!(near(&rig, at), at > 0);
    }
    assert_eq!([10_000, 10_001].map(|at| near(&rig, at)), [true, false]);
    let at_once = Rig::new(Settings { consecutive_failures: Some(1), ..settings() });
    assert!(near(&at_once, 0), "the first failure is the one");
    let mut open = Rig::new(settings());
    (0..3).for_each(|_| open.fail(ms(0)));
    assert!(near(&open, 0));
}
