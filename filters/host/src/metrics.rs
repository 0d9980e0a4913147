//! Our metrics, each defined when it is first used, and once in a VM: the host gives out a new handle at every definition and
//! never takes one back, so configurations that follow each other must share them.

use crate::calls::{Level, Metric, MetricKind, Result, log};
use resilience_core::answer::{Reason, Source};
use resilience_core::breaker::{Outcome, State, Transition};
use resilience_core::metrics as names;
use resilience_core::retry::Denied;
use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

/// Whether anything is written. The build that is not only tells the benchmark what the writing costs: the counter of changes,
/// which is read to decide, counts there too.
const WRITTEN: bool = !cfg!(feature = "bench-without-metrics");

thread_local! {
    static DEFINED: RefCell<HashMap<String, Metric>> = RefCell::default();
}

/// The metric of a name.
fn define(kind: MetricKind, name: String) -> Result<Metric> {
    DEFINED.with_borrow_mut(|defined| {
        if let Some(metric) = defined.get(&name) {
            return Ok(*metric);
        }
        let metric = Metric::define(kind, &name)?;
        defined.insert(name, metric);
        Ok(metric)
    })
}

/// The handle of a metric that is used on every request.
#[derive(Debug, Default)]
struct Lazy(Option<Metric>);

impl Lazy {
    fn get(&mut self, kind: MetricKind, name: impl FnOnce() -> String) -> Result<Metric> {
        if let Some(metric) = self.0 {
            return Ok(metric);
        }
        let metric = define(kind, name())?;
        self.0 = Some(metric);
        Ok(metric)
    }
}

/// The metrics of one policy.
#[derive(Debug)]
pub(crate) struct PolicyMetrics {
    policy: String,
    success: Lazy,
    slow_success: Lazy,
    failure: Lazy,
    slow_failure: Lazy,
    ignored: Lazy,
    /// The policy's own breaker, and those of its keys by their numbers.
    breakers: Vec<BreakerMetrics>,
    bulkhead: BulkheadMetrics,
    balance: Lazy,
    retries_granted: Lazy,
}

/// The metrics of a policy's bulkhead.
#[derive(Debug, Default)]
struct BulkheadMetrics {
    in_flight: Lazy,
    waiting: Lazy,
    limit: Lazy,
    waits: Lazy,
}

/// The metrics of one breaker.
#[derive(Debug)]
struct BreakerMetrics {
    /// The label's value, empty for the policy's own.
    key: String,
    state: Lazy,
    changes: Changes,
}

impl BreakerMetrics {
    const fn new(key: String) -> Self {
        Self { key, state: Lazy(None), changes: Changes::Undefined }
    }
}

/// The counter that tells workers whether a breaker's state has changed.
#[derive(Debug)]
enum Changes {
    Undefined,
    Counts(Metric),
    /// The bootstrap's `stats_matcher` rejects it: it can be incremented, and stays at zero.
    Rejected,
}

impl PolicyMetrics {
    pub(crate) fn new(policy: &str) -> Self {
        Self {
            policy: policy.to_owned(),
            success: Lazy::default(),
            slow_success: Lazy::default(),
            failure: Lazy::default(),
            slow_failure: Lazy::default(),
            ignored: Lazy::default(),
            breakers: vec![BreakerMetrics::new(String::new())],
            bulkhead: BulkheadMetrics::default(),
            balance: Lazy::default(),
            retries_granted: Lazy::default(),
        }
    }

    /// Gives the breaker of the next number its key.
    pub(crate) fn introduce(&mut self, number: usize, key: &[u8]) {
        if number == self.breakers.len() {
            self.breakers.push(BreakerMetrics::new(names::key_label(key)));
        }
    }

    /// What a breaker's key is called; empty for the policy's own.
    pub(crate) fn key(&self, number: usize) -> &str {
        self.breakers.get(number).map_or("", |breaker| breaker.key.as_str())
    }

    pub(crate) fn call(&mut self, outcome: Outcome) {
        if !WRITTEN {
            return;
        }
        let metric = match outcome {
            Outcome::Success => &mut self.success,
            Outcome::SlowSuccess => &mut self.slow_success,
            Outcome::Failure => &mut self.failure,
            Outcome::SlowFailure => &mut self.slow_failure,
            Outcome::Ignored => &mut self.ignored,
        };
        let policy = &self.policy;
        settle(
            metric.get(MetricKind::Counter, || names::calls(policy, outcome)).and_then(|it| it.increment(1)),
        );
    }

    pub(crate) fn rejection(&mut self, reason: Reason, class: Option<&str>) {
        count(names::rejections(&self.policy, reason, class), 1);
    }

    pub(crate) fn crowd(&mut self, in_flight: u32, waiting: u32, limit: Option<u32>) {
        let Self { policy, bulkhead, .. } = self;
        record(&mut bulkhead.in_flight, MetricKind::Gauge, || names::in_flight(policy), in_flight.into());
        record(&mut bulkhead.waiting, MetricKind::Gauge, || names::waiting(policy), waiting.into());
        if let Some(limit) = limit {
            record(&mut bulkhead.limit, MetricKind::Gauge, || names::limit(policy), limit.into());
        }
    }

    pub(crate) fn balance(&mut self, retries: u64) {
        let Self { policy, balance, .. } = self;
        record(balance, MetricKind::Gauge, || names::balance(policy), retries);
    }

    pub(crate) fn retries_granted(&mut self, retries: u32) {
        if !WRITTEN {
            return;
        }
        let Self { policy, retries_granted, .. } = self;
        let metric = retries_granted.get(MetricKind::Counter, || names::retries_granted(policy));
        settle(metric.and_then(|metric| metric.increment(retries.into())));
    }

    pub(crate) fn retry_denied(&mut self, reason: Denied) {
        count(names::retries_denied(&self.policy), 1);
        count(names::denials(&self.policy, reason), 1);
    }

    pub(crate) fn shadow_denial(&mut self) {
        count(names::shadow_denials(&self.policy), 1);
    }

    pub(crate) fn waited(&mut self, waited: Duration) {
        let Self { policy, bulkhead, .. } = self;
        let milliseconds = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        record(&mut bulkhead.waits, MetricKind::Histogram, || names::waits(policy), milliseconds);
    }

    pub(crate) fn fallback(&mut self, reason: Reason, source: Source) {
        count(names::fallbacks(&self.policy, reason, source), 1);
    }

    pub(crate) fn shadow(&mut self, reason: Reason) {
        count(names::shadow_decisions(&self.policy, reason), 1);
    }

    pub(crate) fn keys_exhausted(&mut self) {
        count(names::keys_exhausted(&self.policy), 1);
    }

    pub(crate) fn stale_route(&mut self) {
        count(names::stale_routes(&self.policy), 1);
    }

    pub(crate) fn transition(&mut self, number: usize, transition: &Transition) {
        count(names::transitions(&self.policy, transition.to, transition.cause), 1);
        self.show(number, transition.to);
    }

    pub(crate) fn show(&mut self, number: usize, state: State) {
        let policy = &self.policy;
        let Some(BreakerMetrics { key, state: gauge, .. }) = self.breakers.get_mut(number) else { return };
        record(gauge, MetricKind::Gauge, || names::breaker_state(policy, key), state as u64);
    }

    /// `None` where the counter does not count: then nothing may be believed.
    pub(crate) fn changes(&mut self, number: usize) -> Option<u64> {
        self.changes_counter(number)?.value().ok()
    }

    pub(crate) fn changed(&mut self, number: usize) {
        if let Some(counter) = self.changes_counter(number) {
            settle(counter.increment(1));
        }
    }

    fn changes_counter(&mut self, number: usize) -> Option<Metric> {
        let policy = &self.policy;
        let breaker = self.breakers.get_mut(number)?;
        if let Changes::Undefined = breaker.changes {
            breaker.changes = try_counter(&names::changes(policy, &breaker.key)).ok()?;
        }
        match breaker.changes {
            Changes::Counts(counter) => Some(counter),
            Changes::Undefined | Changes::Rejected => None,
        }
    }
}

/// Defines the counter and tries it: one count more does no harm.
fn try_counter(name: &str) -> Result<Changes> {
    let counter = define(MetricKind::Counter, name.to_owned())?;
    counter.increment(1)?;
    if counter.value()? > 0 {
        return Ok(Changes::Counts(counter));
    }
    let remedy = "each request reads the shared state instead; let stats_matcher include it";
    log(Level::Warn, &format!("the counter {name} does not count: {remedy}"));
    Ok(Changes::Rejected)
}

/// The metrics of the store.
pub(crate) mod store {
    use super::{count, names};
    use resilience_core::worker::Operation;

    pub(crate) fn conflicts(operation: Operation, conflicts: u32) {
        count(names::conflicts(operation), i64::from(conflicts));
    }

    pub(crate) fn gave_up(operation: Operation) {
        count(names::give_ups(operation), 1);
    }
}

fn record(metric: &mut Lazy, kind: MetricKind, name: impl FnOnce() -> String, value: u64) {
    if !WRITTEN {
        return;
    }
    settle(metric.get(kind, name).and_then(|metric| metric.record(value)));
}

fn count(name: String, by: i64) {
    if !WRITTEN {
        return;
    }
    settle(define(MetricKind::Counter, name).and_then(|metric| metric.increment(by)));
}

/// A count that is lost must not change what happens to a request.
fn settle(result: Result<()>) {
    if let Err(status) = result {
        log(Level::Debug, &format!("a metric could not be written: {status}"));
    }
}
