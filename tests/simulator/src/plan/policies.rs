//! Policies as configurations have them.

use super::{LONGEST_WAIT, MS, SECOND};
use crate::model::grant::Rates;
use crate::rng::Rng;
use crate::vm::Guarded;
use resilience_core::breaker::{
    FailuresInWindow, Growth, Percentage, RampUp, Rates as BreakerRates, Settings, Shape,
};
use resilience_core::budget;
use resilience_core::bulkhead::{self, Class, Priority, Queue};
use resilience_core::worker::{Pattern, Patterns, Shared};
use std::time::Duration;

/// How often a configuration has a breaker, a bulkhead and a retry budget for a policy, per mille.
pub const MIXTURES: [(u64, u64, u64); 8] = [
    (1000, 0, 0),
    (1000, 0, 0),
    (1000, 1000, 0),
    (900, 900, 300),
    (0, 1000, 0),
    (1000, 0, 1000),
    (900, 900, 900),
    (0, 400, 1000),
];

/// What a configuration says of a policy's retries.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Who is in charge of them.
    pub wishes: Wishes,
    /// The budget, if there is one.
    pub rates: Option<Rates>,
    /// How long an attempt may take.
    pub per_try: Option<Duration>,
}

/// Who says how often a request is retried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wishes {
    /// The route, and nobody asks.
    Silent,
    /// The route, and a budget caps it.
    Route,
    /// The policy.
    Policy,
}

/// What a configuration says of a policy.
pub fn guarded(
    rng: &mut Rng,
    policy: usize,
    (breaker, bulkhead, budget): (u64, u64, u64),
    stay: (u64, u64),
    offset: u32,
) -> (Guarded, Terms) {
    let breaker =
        rng.chance(breaker).then(|| Pattern { settings: breaker_of(rng, stay, offset), shadow: false });
    let rates = rng.chance(budget).then(|| rates_of(rng));
    let bulkhead = (breaker.is_none() && rates.is_none() || rng.chance(bulkhead))
        .then(|| Pattern { settings: bulkhead_of(rng), shadow: rng.chance(100) });
    let max_keys = rng.chance(400).then(|| rng.between(1, 3) as u16);
    // Not every configuration keeps state for every policy, but there is always one to look at.
    let keeps = policy == 0 || !rng.chance(100);
    let settings = |rates: Rates| Pattern { settings: budget::Settings::from(&rates), shadow: rates.shadow };
    let patterns = Patterns { breaker, bulkhead, budget: rates.map(settings) };
    let wishes = match rates {
        Some(_) => rng.pick(&[Wishes::Policy, Wishes::Policy, Wishes::Route]),
        None => rng.pick(&[Wishes::Silent, Wishes::Silent, Wishes::Policy]),
    };
    let per_try = rng.chance(300).then(|| Duration::from_nanos(rng.spread(MS, SECOND)));
    let terms = Terms { wishes, rates: rates.filter(|_| keeps), per_try };
    ((format!("policy-{policy}"), keeps.then_some(Shared { patterns, max_keys })), terms)
}

/// Windows that roll within a run, and balances that run out.
fn rates_of(rng: &mut Rng) -> Rates {
    Rates {
        percent: rng.pick(&[0, 1, 10, 20, 20, 75, 100]) * 1_000_000,
        min_retries_per_second: rng.pick(&[0, 0, 1, 2, 10]),
        ttl: Duration::from_millis(rng.pick(&[1000, 1000, 1500, 2000, 4000])),
        max_balance: rng.chance(300).then(|| rng.spread(1, 12) as u32),
        shadow: rng.chance(150),
    }
}

fn bulkhead_of(rng: &mut Rng) -> bulkhead::Settings {
    let max_concurrent_calls = rng.spread(1, 12) as u32;
    let queue = rng.chance(750).then(|| Queue {
        max_wait_duration: Duration::from_nanos(rng.spread(20 * MS, LONGEST_WAIT)),
        max_queue: if rng.chance(50) { 0 } else { rng.spread(1, 10) as u16 },
    });
    let priority = rng.chance(600).then(|| {
        let count = rng.between(1, 4);
        let class = |nth: u64, share: u64| Class {
            name: format!("class-{nth}"),
            limit: (max_concurrent_calls * share as u32 / 100).max(1),
        };
        let classes = (0..count).map(|nth| class(nth, rng.pick(&[100, 100, 75, 50, 34, 10, 0]))).collect();
        Priority { source: None, default: 0, classes }
    });
    bulkhead::Settings { max_concurrent_calls, queue, priority }
}

fn breaker_of(rng: &mut Rng, stay: (u64, u64), offset: u32) -> Settings {
    let span = |rng: &mut Rng, low, high| Duration::from_nanos(rng.spread(low, high));
    // There is always something that trips it.
    let which = rng.below(4);
    let rates = (which == 3 || rng.chance(400)).then(|| rates(rng, offset));
    let counts = which != 3;
    let growth = rng.chance(400).then(|| growth(rng));
    Settings {
        consecutive_failures: (counts && which != 0).then(|| rng.between(1, 5) as u32),
        failures_in_window: (counts && which != 1).then(|| FailuresInWindow {
            failures: rng.spread(1, 12) as u16,
            window: span(rng, 100 * MS, 15 * SECOND),
        }),
        rates,
        slow_call_duration_threshold: None,
        wait_duration_in_open_state: span(rng, 50 * MS, growth.map_or(8 * SECOND, |_| 2 * SECOND)),
        wait_duration_growth: growth,
        permitted_number_of_calls_in_half_open_state: rng.spread(1, 12) as u32,
        max_wait_duration_in_half_open_state: span(rng, stay.0, stay.1),
        ramp_up: rng.chance(400).then(|| RampUp {
            duration: span(rng, 200 * MS, 10 * SECOND),
            initial: percentage(rng.pick(&[0, 1, 10, 37, 90])),
        }),
    }
}

fn percentage(of: u64) -> Percentage {
    Percentage::new(of as f32).expect("a percentage")
}

fn rates(rng: &mut Rng, offset: u32) -> BreakerRates {
    let which = rng.below(3);
    let mut threshold = |unless| (which != unless).then(|| percentage(rng.pick(&[1, 20, 50, 66, 100])));
    let (failure_rate_threshold, slow_call_rate_threshold) = (threshold(0), threshold(1));
    let window = if rng.chance(600) {
        Shape::Count(rng.between(1, 14) as u16)
    } else {
        Shape::Time { seconds: rng.between(1, 6) as u16, offset }
    };
    let minimum_number_of_calls = rng.spread(1, 12) as u32;
    BreakerRates { failure_rate_threshold, slow_call_rate_threshold, window, minimum_number_of_calls }
}

fn growth(rng: &mut Rng) -> Growth {
    Growth {
        multiplier_thousandths: rng.pick(&[1000, 1500, 2000, 3333]),
        max: Duration::from_nanos(rng.between(2, 12) * SECOND),
        jitter: percentage(rng.pick(&[0, 0, 10, 50])),
        reset_after: Duration::from_nanos(rng.spread(100 * MS, 5 * SECOND)),
    }
}
