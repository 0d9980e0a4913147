//! Our metrics, each defined when it is first used, and once in a VM: the host gives out a new handle at every definition and
//! never takes one back, so configurations that follow each other must share them.

use crate::calls::{Level, Metric, MetricKind, Result, log};
use resilience_core::answer::{Reason, Source};
use resilience_core::breaker::{Outcome, State, Transition};
use resilience_core::metrics as names;
use std::cell::RefCell;
use std::collections::HashMap;

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
    failure: Lazy,
    ignored: Lazy,
    state: Lazy,
    changes: Changes,
}

/// The counter that tells workers whether a policy's state has changed.
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
            failure: Lazy::default(),
            ignored: Lazy::default(),
            state: Lazy::default(),
            changes: Changes::Undefined,
        }
    }

    pub(crate) fn call(&mut self, outcome: Outcome) {
        let metric = match outcome {
            Outcome::Success => &mut self.success,
            Outcome::Failure => &mut self.failure,
            Outcome::Ignored => &mut self.ignored,
        };
        let policy = &self.policy;
        settle(
            metric.get(MetricKind::Counter, || names::calls(policy, outcome)).and_then(|it| it.increment(1)),
        );
    }

    pub(crate) fn rejection(&mut self, reason: Reason) {
        count(names::rejections(&self.policy, reason), 1);
    }

    pub(crate) fn fallback(&mut self, reason: Reason, source: Source) {
        count(names::fallbacks(&self.policy, reason, source), 1);
    }

    pub(crate) fn shadow(&mut self, reason: Reason) {
        count(names::shadow_decisions(&self.policy, reason), 1);
    }

    pub(crate) fn transition(&mut self, transition: &Transition) {
        count(names::transitions(&self.policy, transition.to, transition.cause), 1);
        self.show(transition.to);
    }

    pub(crate) fn show(&mut self, state: State) {
        let policy = &self.policy;
        let gauge = self.state.get(MetricKind::Gauge, || names::breaker_state(policy));
        settle(gauge.and_then(|gauge| gauge.record(state as u64)));
    }

    /// `None` where the counter does not count: then nothing may be believed.
    pub(crate) fn changes(&mut self) -> Option<u64> {
        self.changes_counter()?.value().ok()
    }

    pub(crate) fn changed(&mut self) {
        if let Some(counter) = self.changes_counter() {
            settle(counter.increment(1));
        }
    }

    fn changes_counter(&mut self) -> Option<Metric> {
        if let Changes::Undefined = self.changes {
            self.changes = self.try_changes_counter().ok()?;
        }
        match self.changes {
            Changes::Counts(counter) => Some(counter),
            Changes::Undefined | Changes::Rejected => None,
        }
    }

    /// Defines the counter and tries it: one count more does no harm.
    fn try_changes_counter(&self) -> Result<Changes> {
        let name = names::changes(&self.policy);
        let counter = define(MetricKind::Counter, name.clone())?;
        counter.increment(1)?;
        if counter.value()? > 0 {
            return Ok(Changes::Counts(counter));
        }
        let remedy = "each request reads the shared state instead; let stats_matcher include it";
        log(Level::Warn, &format!("the counter {name} does not count: {remedy}"));
        Ok(Changes::Rejected)
    }
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

fn count(name: String, by: i64) {
    settle(define(MetricKind::Counter, name).and_then(|metric| metric.increment(by)));
}

/// A count that is lost must not change what happens to a request.
fn settle(result: Result<()>) {
    if let Err(status) = result {
        log(Level::Debug, &format!("a metric could not be written: {status}"));
    }
}
