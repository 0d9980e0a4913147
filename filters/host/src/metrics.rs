//! Our metrics: which are written when.

mod registry;

pub(crate) use registry::{allow, shows_unused};

use crate::calls::{Level, Metric, MetricKind, Result, log};
use registry::{Lazy, count, count_always, define, observe, set_always, settle};
use resilience_core::answer::{Reason, Source};
use resilience_core::breaker::{Lasted, Outcome, State, Transition};
use resilience_core::metrics as names;
use resilience_core::metrics::Lease;
use resilience_core::retry::Denied;
use std::time::Duration;

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
    fn new(key: String) -> Self {
        Self { key, state: Lazy::default(), changes: Changes::Undefined }
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
        let metric = match outcome {
            Outcome::Success => &mut self.success,
            Outcome::SlowSuccess => &mut self.slow_success,
            Outcome::Failure => &mut self.failure,
            Outcome::SlowFailure => &mut self.slow_failure,
            Outcome::Ignored => &mut self.ignored,
        };
        let policy = &self.policy;
        metric.add(|| names::calls(policy, outcome), 1);
    }

    pub(crate) fn rejection(&mut self, reason: Reason, class: Option<&str>) {
        count(|| names::rejections(&self.policy, reason, class), 1);
    }

    pub(crate) fn crowd(&mut self, in_flight: u32, waiting: u32, limit: Option<u32>) {
        let Self { policy, bulkhead, .. } = self;
        bulkhead.in_flight.set(|| names::in_flight(policy), in_flight.into());
        bulkhead.waiting.set(|| names::waiting(policy), waiting.into());
        if let Some(limit) = limit {
            bulkhead.limit.set(|| names::limit(policy), limit.into());
        }
    }

    pub(crate) fn balance(&mut self, retries: u64) {
        let Self { policy, balance, .. } = self;
        balance.set(|| names::balance(policy), retries);
    }

    pub(crate) fn retries_granted(&mut self, retries: u32) {
        let Self { policy, retries_granted, .. } = self;
        retries_granted.add(|| names::retries_granted(policy), retries.into());
    }

    pub(crate) fn retry_denied(&mut self, reason: Denied) {
        count(|| names::retries_denied(&self.policy), 1);
        count(|| names::denials(&self.policy, reason), 1);
    }

    pub(crate) fn shadow_denial(&mut self) {
        count(|| names::shadow_denials(&self.policy), 1);
    }

    pub(crate) fn waited(&mut self, waited: Duration) {
        let Self { policy, bulkhead, .. } = self;
        bulkhead.waits.observe(|| names::waits(policy), milliseconds(waited));
    }

    pub(crate) fn fallback(&mut self, reason: Reason, source: Source) {
        count(|| names::fallbacks(&self.policy, reason, source), 1);
    }

    pub(crate) fn shadow(&mut self, reason: Reason) {
        count(|| names::shadow_decisions(&self.policy, reason), 1);
    }

    pub(crate) fn keys_exhausted(&mut self) {
        count(|| names::keys_exhausted(&self.policy), 1);
    }

    pub(crate) fn stale_route(&mut self) {
        count(|| names::stale_routes(&self.policy), 1);
    }

    pub(crate) fn transition(&mut self, number: usize, transition: &Transition, lasted: Lasted) {
        count(|| names::transitions(&self.policy, transition.to, transition.cause), 1);
        if let Some(open) = lasted.open(transition) {
            count(|| names::open_milliseconds(&self.policy), milliseconds(open));
        }
        if let Some(outage) = lasted.outage {
            observe(|| names::recovery(&self.policy), milliseconds(outage));
        }
        self.show(number, transition.to);
    }

    pub(crate) fn probe(&mut self, outcome: Outcome) {
        count(|| names::probes(&self.policy, outcome), 1);
    }

    pub(crate) fn reclaimed(&mut self, kind: Lease, leases: u32) {
        if leases > 0 {
            count(|| names::leases_reclaimed(&self.policy, kind), leases.into());
        }
    }

    pub(crate) fn show(&mut self, number: usize, state: State) {
        let policy = &self.policy;
        let Some(BreakerMetrics { key, state: gauge, .. }) = self.breakers.get_mut(number) else { return };
        gauge.set(|| names::breaker_state(policy, key), state as u64);
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
    use super::{count_always, names};
    use resilience_core::worker::Operation;

    pub(crate) fn conflicts(operation: Operation, conflicts: u32) {
        count_always(&names::conflicts(operation), conflicts.into());
    }

    pub(crate) fn gave_up(operation: Operation) {
        count_always(&names::give_ups(operation), 1);
    }
}

/// The metrics of a VM, and of a namespace.
pub(crate) mod process {
    use super::{count_always, names, set_always};

    pub(crate) fn vm_started() {
        count_always(names::VM_STARTS, 1);
    }

    pub(crate) fn vms_died(namespace: &str, vms: usize) {
        count_always(&names::vm_deaths(namespace), u64::try_from(vms).unwrap_or(u64::MAX));
    }

    pub(crate) fn reigns(namespace: &str, generation: u64) {
        set_always(&names::configuration_generation(namespace), generation);
    }
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
