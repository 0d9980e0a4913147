//! Handles of our metrics, each defined when it is first used: ten thousand policies that see no traffic cost nothing.

use crate::calls::{Level, Metric, MetricKind, Result, log};
use resilience_core::answer::{Reason, Source};
use resilience_core::breaker::{Outcome, State, Transition};
use resilience_core::metrics as names;
use resilience_core::worker::Operation;
use std::collections::BTreeMap;

/// A metric that is used on every request.
#[derive(Debug, Default)]
struct Lazy(Option<Metric>);

impl Lazy {
    fn get(&mut self, kind: MetricKind, name: impl FnOnce() -> String) -> Result<Metric> {
        if let Some(metric) = self.0 {
            return Ok(metric);
        }
        let metric = Metric::define(kind, &name())?;
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
    changes: Lazy,
    state: Lazy,
    /// What is counted only when something is refused or changes.
    rare: BTreeMap<String, Metric>,
}

impl PolicyMetrics {
    pub(crate) fn new(policy: &str) -> Self {
        Self {
            policy: policy.to_owned(),
            success: Lazy::default(),
            failure: Lazy::default(),
            ignored: Lazy::default(),
            changes: Lazy::default(),
            state: Lazy::default(),
            rare: BTreeMap::new(),
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
        self.count(names::rejections(&self.policy, reason));
    }

    pub(crate) fn fallback(&mut self, reason: Reason, source: Source) {
        self.count(names::fallbacks(&self.policy, reason, source));
    }

    pub(crate) fn shadow(&mut self, reason: Reason) {
        self.count(names::shadow_decisions(&self.policy, reason));
    }

    pub(crate) fn transition(&mut self, transition: &Transition) {
        self.count(names::transitions(&self.policy, transition.to, transition.cause));
        self.show(transition.to);
    }

    pub(crate) fn show(&mut self, state: State) {
        let policy = &self.policy;
        let gauge = self.state.get(MetricKind::Gauge, || names::breaker_state(policy));
        settle(gauge.and_then(|gauge| gauge.record(state as u64)));
    }

    pub(crate) fn changes(&mut self) -> Option<u64> {
        self.changes_counter().and_then(Metric::value).ok()
    }

    pub(crate) fn changed(&mut self) {
        settle(self.changes_counter().and_then(|counter| counter.increment(1)));
    }

    fn changes_counter(&mut self) -> Result<Metric> {
        let policy = &self.policy;
        self.changes.get(MetricKind::Counter, || names::changes(policy))
    }

    fn count(&mut self, name: String) {
        count(&mut self.rare, name, 1);
    }
}

/// The metrics of the store.
#[derive(Debug, Default)]
pub(crate) struct StoreMetrics(BTreeMap<String, Metric>);

impl StoreMetrics {
    pub(crate) fn conflicts(&mut self, operation: Operation, conflicts: u32) {
        count(&mut self.0, names::conflicts(operation), i64::from(conflicts));
    }

    pub(crate) fn gave_up(&mut self, operation: Operation) {
        count(&mut self.0, names::give_ups(operation), 1);
    }
}

fn count(known: &mut BTreeMap<String, Metric>, name: String, by: i64) {
    if let Some(metric) = known.get(&name) {
        return settle(metric.increment(by));
    }
    let defined = Metric::define(MetricKind::Counter, &name);
    settle(defined.and_then(|metric| {
        known.insert(name, metric);
        metric.increment(by)
    }));
}

/// A count that is lost must not change what happens to a request.
fn settle(result: Result<()>) {
    if let Err(status) = result {
        log(Level::Debug, &format!("a metric could not be written: {status}"));
    }
}
