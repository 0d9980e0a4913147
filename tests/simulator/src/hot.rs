//! Many workers on one policy: how often their writes collide, as a number for the documentation. Nothing is judged here.

use crate::plan::SECOND;
use crate::rng::Rng;
use crate::store::SharedData;
use crate::vm::{Answer, Call, Done, Task, Vm};
use resilience_core::breaker::{Outcome, Settings};
use resilience_core::budget;
use resilience_core::bulkhead::{self, Queue};
use resilience_core::retry::{Wanted, Wish};
use resilience_core::store::PutError;
use resilience_core::time::Timestamp;
use resilience_core::worker::{Arrival, Event, Operation, Pattern, Patterns, Returned, Shared, Verdict};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::time::Duration;

/// How long a worker takes, in nanoseconds, at least and at most.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// From a read to the write that depends on it, and to the next try.
    pub read: (u64, u64),
    /// For everything else between two calls.
    pub call: (u64, u64),
    /// Between a request's admission and its end, and until the next one.
    pub request: (u64, u64),
}

/// The times of the host as measured, with some for decoding, and a proxy that needs 0.2 ms of its worker for each request
/// and has always one: all workers saturated by one policy.
pub const BUSY: Pace = Pace { read: (1000, 2500), call: (60, 200), request: (50_000, 150_000) };
/// The same with a tenth of the requests.
pub const MODERATE: Pace = Pace { request: (500_000, 1_500_000), ..BUSY };
/// Workers that do nothing but ask.
pub const RELENTLESS: Pace = Pace { read: (1, 2000), call: (1, 2000), request: (1, 2000) };

/// What happened.
#[derive(Clone, Debug, Default)]
pub struct Hot {
    workers: usize,
    requests: u64,
    conflicts: BTreeMap<Operation, u64>,
    gave_up: BTreeMap<Operation, u64>,
}

impl fmt::Display for Hot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |counts: &BTreeMap<Operation, u64>| {
            let each = |(operation, count): (&Operation, &u64)| {
                let per = *count as f64 * 100_000.0 / self.requests as f64;
                format!("{} {per:.0}", operation.name())
            };
            let all: Vec<_> = counts.iter().map(each).collect();
            if all.is_empty() { "none".to_owned() } else { all.join(", ") }
        };
        let (workers, requests) = (self.workers, self.requests);
        let (conflicts, gave_up) = (shown(&self.conflicts), shown(&self.gave_up));
        write!(
            f,
            "{workers} workers, one policy, {requests} requests; per 100 000: conflicts: {conflicts}; give-ups: {gave_up}"
        )
    }
}

/// Has so many workers put so many requests through one breaker, and through a bulkhead or a retry budget.
#[must_use]
pub fn play(workers: usize, requests: u64, pace: Pace, budget: bool, seed: u64) -> Hot {
    let patterns = Patterns {
        breaker: Some(Pattern { settings: breaker(), shadow: false }),
        bulkhead: (!budget).then(|| Pattern { settings: bulkhead(), shadow: false }),
        budget: budget.then(|| Pattern { settings: defaults(), shadow: false }),
    };
    let policies = [("policy-0".to_owned(), Some(Shared { patterns, max_keys: None }))];
    let (mut rng, mut store) = (Rng::new(seed), SharedData::new(1));
    let mut vms: Vec<_> = (0..workers).map(|_| Vm::start("shop", 1, &policies)).collect();
    let mut tasks = vec![None; workers];
    let mut turns: BinaryHeap<_> =
        (0..workers).map(|vm| Reverse((SECOND + rng.below(SECOND / 1000), vm))).collect();
    let mut hot = Hot { workers, ..Hot::default() };
    let mut changes = 0;
    let mut calls = 0;
    while hot.requests < requests
        && let Some(Reverse((now, index))) = turns.pop()
    {
        let vm = &mut vms[index];
        let (answer, cost) = match vm.waits_for.clone() {
            Call::Get(key) => (Answer::Value(Ok(store.get(&key))), pace.read),
            Call::Put(key, bytes, expected) => {
                let written = store.put(&key, &bytes, expected).map(drop).map_err(|_| PutError::Conflict);
                (Answer::Written(written), pace.call)
            }
            Call::Changes(_) => (Answer::Changes(Some(changes)), pace.call),
            Call::Changed(_) => {
                changes += 1;
                (Answer::Noted, pace.call)
            }
            Call::Listen(_) => (Answer::Queue(Some(index as u32 + 1)), pace.call),
            Call::Wake(_) => (Answer::Noted, pace.call),
            Call::Report(event, _) => {
                hot.notes(event);
                (Answer::Noted, (0, 0))
            }
            Call::Idle(_) => {
                calls += 1;
                let wanted = budget.then_some(Wanted { wish: Wish::Retries(1), denied: None });
                let arrival = Arrival { call: calls, wanted, ..Arrival::default() };
                let admit = Task::Admit { policy: 0, cluster: None, arrival };
                let task = tasks[index].take().unwrap_or(admit);
                (Answer::Task(task, Timestamp::from_nanos(now)), pace.call)
            }
        };
        vm.answer(answer);
        let cost = match &vm.waits_for {
            Call::Idle(finished) => {
                match &finished.done {
                    Done::Decided(breaker, Verdict::Admitted(pass)) => {
                        let (breaker, call, outcome) = (*breaker, calls, Outcome::Success);
                        let (ticket, waits) = (pass.ticket, false);
                        let spent = pass.grant.and_then(|grant| grant.end(Some(0)).spent);
                        let returned = Returned { permit: pass.permit, spent };
                        tasks[index] =
                            Some(Task::Complete { breaker, call, ticket, outcome, returned, waits });
                    }
                    _ => hot.requests += 1,
                }
                pace.request
            }
            _ => cost,
        };
        turns.push(Reverse((now + rng.between(cost.0, cost.1), index)));
    }
    hot
}

impl Hot {
    fn notes(&mut self, event: Event) {
        match event {
            Event::Conflicts { operation, count } => {
                *self.conflicts.entry(operation).or_default() += u64::from(count);
            }
            Event::GaveUp { operation } => *self.gave_up.entry(operation).or_default() += 1,
            _ => {}
        }
    }
}

/// What a budget is where nobody says otherwise.
fn defaults() -> budget::Settings {
    budget::Settings::new(20_000_000, 10, Duration::from_secs(10), None)
}

/// More than there are workers, so that none is ever refused.
fn bulkhead() -> bulkhead::Settings {
    let queue = Queue { max_wait_duration: Duration::from_secs(1), max_queue: 100 };
    bulkhead::Settings { max_concurrent_calls: 10_000, queue: Some(queue), priority: None }
}

fn breaker() -> Settings {
    Settings {
        consecutive_failures: Some(5),
        failures_in_window: None,
        rates: None,
        slow_call_duration_threshold: None,
        wait_duration_in_open_state: Duration::from_secs(60),
        wait_duration_growth: None,
        permitted_number_of_calls_in_half_open_state: 10,
        max_wait_duration_in_half_open_state: Duration::from_secs(60),
        ramp_up: None,
    }
}
