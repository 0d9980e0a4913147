//! Thousands of schedules of the workers as they are. `SEED=n` plays one, `SEEDS=n` that many.

use resilience_simulator::{Reached, play};

const SEEDS: u64 = 4000;

/// Split over several tests, so that the runner uses every core.
fn part(nth: u64, of: u64) {
    let (from, seeds) = match (number("SEED"), number("SEEDS")) {
        (Some(seed), _) => (seed, 1),
        (None, seeds) => (0, seeds.unwrap_or(SEEDS)),
    };
    let mut reached = Reached::default();
    for seed in (from..from + seeds).skip(nth as usize).step_by(of as usize) {
        match play(seed, None) {
            Ok(run) => reached += run.reached,
            Err(failure) => panic!("\n{failure}"),
        }
    }
    let Reached { transitions, timeouts, closed, reclaimed, late, gave_up, died, meddled, .. } = reached;
    let Reached { rates, forced, ramped, exhausted, .. } = reached;
    let all = [transitions, timeouts, closed, reclaimed, late, gave_up, died, meddled];
    let Reached { granted, evicted, waited, left, left_granted, full, .. } = reached;
    let Reached { handed_back, shadowed, overshoot, regained, lost, .. } = reached;
    let Reached { together, abandoned, waited_here, .. } = reached;
    let rooms = [granted, evicted, waited, left, left_granted, full, handed_back, shadowed];
    let rooms =
        [rooms.as_slice(), &[overshoot, regained, lost], &[together, abandoned, waited_here]].concat();
    let Reached { kept, denied, on_paper, retried, unknown, forfeited, overdue, .. } = reached;
    let budgets = [kept, denied, on_paper, retried, unknown, forfeited, overdue];
    let all = [all.as_slice(), &[rates, forced, ramped, exhausted], &rooms, &budgets].concat();
    assert!(
        seeds < SEEDS || !all.contains(&0),
        "some places were never reached, so nothing is proved: {reached:?}"
    );
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn every_schedule_holds_first_part() {
    part(0, 2);
}

#[test]
fn every_schedule_holds_second_part() {
    part(1, 2);
}

#[test]
fn a_seed_is_a_run() {
    for seed in 0..20 {
        let first = play(seed, None).unwrap_or_else(|failure| panic!("\n{failure}"));
        let second = play(seed, None).unwrap_or_else(|failure| panic!("\n{failure}"));
        assert_eq!(first, second, "seed {seed}");
    }
}
