//! Half-open: probes as a total, the verdict, the bounded stay, reclaiming.

use super::*;
use crate::testing::{ME, Rig, just_after, ms, settings};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// The moment the rig below first looks after the wait.
const PROBING: u64 = 40_000;

/// A breaker that has waited and is asked at [`PROBING`] for the first time: its first probe.
fn probing(permitted: u32) -> (Rig, Ticket) {
    let mut rig =
        Rig::new(Settings { permitted_number_of_calls_in_half_open_state: permitted, ..settings() });
    rig.trip(ms(0));
    let first = rig.enter(ms(PROBING));
    assert_eq!(rig.state(), State::HalfOpen);
    rig.log.clear();
    (rig, first)
}

fn refused(admission: Admission) -> bool {
    admission == Admission::Refused { wait: None }
}

#[test]
fn permits_are_a_total_not_a_limit_at_once() {
    let (mut rig, first) = probing(3);
    rig.record(&first, Outcome::Success, ms(PROBING));
    let second = rig.enter(ms(PROBING));
    let third = rig.enter(ms(PROBING));
    assert!(refused(rig.admit(ms(PROBING))));
    rig.record(&second, Outcome::Success, ms(PROBING));
    assert!(refused(rig.admit(ms(PROBING))), "a success does not give its place back");
    assert_eq!(rig.state(), State::HalfOpen);
    rig.record(&third, Outcome::Success, ms(PROBING));
    assert_eq!(rig.state(), State::Closed);
}

#[test]
fn of_two_hundred_at_once_exactly_the_permitted_get_in() {
    let (mut rig, _) = probing(10);
    let admitted = (0..199).filter(|_| !refused(rig.admit(ms(PROBING)))).count();
    assert_eq!(admitted, 9);
}

#[test]
fn closes_only_after_all_permitted_have_succeeded() {
    let (mut rig, first) = probing(2);
    let second = rig.enter(ms(PROBING));
    rig.record(&second, Outcome::Success, ms(PROBING));
    assert_eq!((rig.state(), rig.log.len()), (State::HalfOpen, 0));
    rig.record(&first, Outcome::Success, ms(PROBING));
    let closed = rig.log[0];
    assert_eq!(
        (closed.to, closed.cause, closed.numbers),
        (State::Closed, Cause::Probes, Numbers::Probes(Tally { calls: 2, failed: 0, slow: 0 }))
    );
    assert!(rig.breaker.is_clean(), "a closed breaker starts with nothing against it");
}

#[test]
fn the_first_failure_reopens_for_a_whole_wait() {
    let (mut rig, first) = probing(3);
    let (second, third) = (rig.enter(ms(PROBING)), rig.enter(ms(PROBING)));
    rig.record(&first, Outcome::Success, ms(PROBING));
    rig.record(&second, Outcome::Failure, ms(41_000));
    assert_eq!(*rig.breaker.phase(), Phase::Open { until: ms(71_000) });
    let opened = rig.log[0];
    assert_eq!((opened.from, opened.to, opened.cause), (State::HalfOpen, State::Open, Cause::Probes));
    let before = rig.breaker.clone();
    for outcome in [Outcome::Success, Outcome::Failure, Outcome::Ignored] {
        assert_eq!(rig.record(&third, outcome, ms(42_000)), Recorded::Stale);
    }
    assert_eq!(rig.breaker, before, "the other probe's outcome is stale");
}

#[test]
fn one_that_proved_nothing_hands_its_place_back() {
    let (mut rig, first) = probing(2);
    let _second = rig.enter(ms(PROBING));
    assert!(refused(rig.admit(ms(PROBING))));
    assert_eq!(rig.record(&first, Outcome::Ignored, ms(PROBING)), Recorded::Counted);
    assert_eq!(rig.state(), State::HalfOpen);
    let third = rig.enter(ms(PROBING));
    assert_ne!(third.probe, first.probe, "identities of probes are not used twice");
    assert!(refused(rig.admit(ms(PROBING))), "one place, once");
}

#[test]
fn a_place_is_handed_back_once() {
    let (mut rig, first) = probing(2);
    assert_eq!(rig.record(&first, Outcome::Ignored, ms(PROBING)), Recorded::Counted);
    for outcome in [Outcome::Ignored, Outcome::Success, Outcome::Failure] {
        assert_eq!(rig.record(&first, outcome, ms(PROBING)), Recorded::Reclaimed);
    }
    assert_eq!(rig.state(), State::HalfOpen);
    rig.enter(ms(PROBING));
    rig.enter(ms(PROBING));
    assert!(refused(rig.admit(ms(PROBING))));
}

#[test]
fn a_ticket_of_the_closed_state_is_no_evidence_here() {
    let mut rig = Rig::new(settings());
    let old = rig.enter(ms(0));
    rig.trip(ms(0));
    rig.enter(ms(PROBING));
    let before = rig.breaker.clone();
    for outcome in [Outcome::Failure, Outcome::Success, Outcome::Ignored] {
        assert_eq!(rig.record(&old, outcome, ms(PROBING)), Recorded::Stale);
        // Even one that claims this generation has to be a probe of it.
        let forged = Ticket { generation: rig.breaker.generation(), probe: None };
        assert_eq!(rig.record(&forged, outcome, ms(PROBING)), Recorded::Reclaimed);
    }
    assert_eq!(rig.breaker, before);
}

#[test]
fn a_probe_of_an_earlier_half_open_state_is_dropped_in_a_later_one() {
    let (mut rig, first) = probing(2);
    let straggler = rig.enter(ms(PROBING));
    rig.record(&first, Outcome::Failure, ms(PROBING));
    rig.enter(ms(70_001));
    assert_eq!(rig.state(), State::HalfOpen);
    assert_eq!(rig.record(&straggler, Outcome::Failure, ms(70_001)), Recorded::Stale);
    assert_eq!(rig.state(), State::HalfOpen);
}

#[test]
fn a_probe_of_half_open_is_dropped_in_the_closed_state_that_follows() {
    let (mut rig, first) = probing(1);
    rig.record(&first, Outcome::Success, ms(PROBING));
    assert_eq!(rig.state(), State::Closed);
    assert_eq!(rig.record(&first, Outcome::Failure, ms(PROBING)), Recorded::Stale);
    assert!(rig.breaker.is_clean());
}

#[test]
fn the_stay_is_bounded_its_last_moment_included() {
    let (mut rig, first) = probing(1);
    let last = ms(55_000);
    assert!(refused(rig.admit(last)));
    assert_eq!(rig.state(), State::HalfOpen);
    let mut in_time = Rig { breaker: rig.breaker.clone(), settings: rig.settings.clone(), log: Vec::new() };
    assert_eq!(in_time.record(&first, Outcome::Success, last), Recorded::Counted);
    assert_eq!(in_time.state(), State::Closed);

    assert_eq!(rig.record(&first, Outcome::Success, just_after(last)), Recorded::Stale);
    assert_eq!(*rig.breaker.phase(), Phase::Open { until: ms(85_000) });
    let opened = rig.log[0];
    assert_eq!(
        (opened.to, opened.cause, opened.numbers),
        (State::Open, Cause::HalfOpenTimeout, Numbers::None)
    );
}

#[test]
fn the_wait_after_a_stay_begins_where_the_stay_ended() {
    // Nobody looks until the stay is long over.
    let (mut rig, _) = probing(1);
    assert_eq!(rig.admit(ms(80_000)), Admission::Refused { wait: Some(Duration::from_secs(5)) });
    assert_eq!(rig.admit(ms(85_000)), Admission::Refused { wait: Some(Duration::ZERO) });

    // Nor until the wait after it is over too.
    let (mut rig, lost) = probing(1);
    let ticket = rig.enter(ms(85_001));
    let transitions: Vec<_> = rig.log.iter().map(|seen| (seen.to, seen.cause)).collect();
    assert_eq!(transitions, [(State::Open, Cause::HalfOpenTimeout), (State::HalfOpen, Cause::WaitOver)]);
    let Phase::HalfOpen(HalfOpen { until, .. }) = rig.breaker.phase() else { panic!("{:?}", rig.breaker) };
    assert_eq!(*until, ms(100_001), "the new stay begins when somebody looks");
    assert_eq!(rig.record(&lost, Outcome::Failure, ms(85_002)), Recorded::Stale);
    assert_eq!(rig.record(&ticket, Outcome::Success, ms(85_003)), Recorded::Counted);
    assert_eq!(rig.state(), State::Closed);
}

#[test]
fn successes_do_not_prolong_the_stay() {
    let (mut rig, first) = probing(2);
    rig.record(&first, Outcome::Success, ms(54_000));
    rig.breaker.settle(&rig.settings, ms(55_001), &mut rig.log);
    assert_eq!(*rig.breaker.phase(), Phase::Open { until: ms(85_000) });
}

#[test]
fn probes_of_the_dead_are_given_back_and_those_of_the_living_stay() {
    let (mut rig, first) = probing(3);
    let dead = Owner(7);
    let second = rig.breaker.admit(&rig.settings, dead, ms(PROBING), &mut rig.log);
    let third = rig.breaker.admit(&rig.settings, dead, ms(PROBING), &mut rig.log);
    assert!(refused(rig.admit(ms(PROBING))));
    assert_eq!(rig.breaker.reclaim(|owner| owner == dead), 2);
    assert_eq!(rig.breaker.reclaim(|owner| owner == dead), 0);
    assert_eq!(rig.log, [], "reclaiming is no transition");

    // The dead come back: their outcomes count for nothing, whoever has taken the places.
    rig.enter(ms(PROBING));
    for late in [second, third] {
        let Admission::Admitted(ticket) = late else { panic!("{late:?}") };
        assert_eq!(rig.record(&ticket, Outcome::Failure, ms(PROBING)), Recorded::Reclaimed);
    }
    assert_eq!(rig.state(), State::HalfOpen);
    assert_eq!(rig.record(&first, Outcome::Success, ms(PROBING)), Recorded::Counted);
}

#[test]
fn reclaiming_touches_nothing_where_there_are_no_probes() {
    let mut rig = Rig::new(settings());
    rig.fail(ms(0));
    let closed = rig.breaker.clone();
    assert_eq!((rig.breaker.reclaim(|_| true), &rig.breaker), (0, &closed));
    rig.trip(ms(0));
    let open = rig.breaker.clone();
    assert_eq!((rig.breaker.reclaim(|_| true), &rig.breaker), (0, &open));
}

#[test]
fn what_was_permitted_on_entry_holds_for_every_configuration() {
    let (mut rig, first) = probing(2);
    // A configuration that permits more, waits longer and stays longer serves beside it.
    rig.settings.permitted_number_of_calls_in_half_open_state = 10;
    rig.settings.max_wait_duration_in_half_open_state = Duration::from_secs(3600);
    let second = rig.enter(ms(PROBING));
    assert!(refused(rig.admit(ms(PROBING))));
    // And one that permits fewer.
    rig.settings.permitted_number_of_calls_in_half_open_state = 1;
    rig.record(&first, Outcome::Success, ms(PROBING));
    assert_eq!(rig.state(), State::HalfOpen);
    let mut stays = Rig { breaker: rig.breaker.clone(), settings: rig.settings.clone(), log: Vec::new() };
    stays.admit(ms(55_001));
    assert_eq!(stays.state(), State::Open, "the stay was fixed as well");
    rig.record(&second, Outcome::Success, ms(PROBING));
    assert_eq!(rig.state(), State::Closed);
}

#[test]
fn identities_of_probes_wrap() {
    let (mut rig, first) = probing(2);
    rig.record(&first, Outcome::Ignored, ms(PROBING));
    rig.breaker.next_probe = u32::MAX;
    let (last, next) = (rig.enter(ms(PROBING)), rig.enter(ms(PROBING)));
    assert_eq!(last.probe, Some(Probe { owner: ME, id: u32::MAX }));
    assert_eq!(next.probe, Some(Probe { owner: ME, id: 0 }));
}

#[test]
fn a_breaker_that_fails_for_ever_keeps_probing() {
    let mut rig = Rig::new(Settings { permitted_number_of_calls_in_half_open_state: 1, ..settings() });
    rig.trip(ms(0));
    for round in 1..=1000 {
        let Phase::Open { until } = *rig.breaker.phase() else { panic!("{:?}", rig.breaker) };
        let probe = rig.enter(just_after(until));
        rig.record(&probe, Outcome::Failure, just_after(until));
        assert_eq!(rig.breaker.generation(), 1 + 2 * round);
    }
}
