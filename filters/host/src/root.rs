//! One configuration in one VM.

use crate::calls::{self, Level, log};
use crate::metrics::PolicyMetrics;
use crate::port::HostPort;
use resilience_core::breaker::{Outcome, Ticket};
use resilience_core::config::{Document, Policy};
use resilience_core::decision::{Decision, decide, state_by_mode};
use resilience_core::matcher::{Facts, Matcher, Request};
use resilience_core::members::TICK;
use resilience_core::outcome::Rules;
use resilience_core::time::Timestamp;
use resilience_core::worker::Worker;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A root context: the document, and what this VM does with it.
pub(crate) struct Root {
    pub(crate) fingerprint: u64,
    document: Document,
    policies: Matcher,
    exempt: Option<Matcher>,
    worker: Worker,
    metrics: Vec<PolicyMetrics>,
    /// The last moment that the host told: stands in where it does not tell.
    now: Timestamp,
}

/// The moment, by the clock that all VMs share.
fn clock() -> Option<Timestamp> {
    calls::monotonic_nanoseconds().map(Timestamp::from_nanos)
}

/// Identifies a document among those that serve side by side.
pub(crate) fn fingerprint(text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

impl Root {
    /// Reads the document and asks for ticks. `None` where it is refused: the log says why. Writes no shared state, because
    /// the host runs this also for configurations that it then rejects.
    pub(crate) fn configure(text: &[u8]) -> Option<Self> {
        let document = match Document::parse(text) {
            Ok(document) => document,
            Err(messages) => {
                messages.iter().for_each(|message| log(Level::Error, message));
                return None;
            }
        };
        let period = u32::try_from(TICK.as_millis()).unwrap_or(u32::MAX);
        if let Err(status) = calls::set_tick_period(period) {
            log(Level::Error, &format!("the host refuses a timer: {status}"));
            return None;
        }
        let Some(now) = clock() else {
            log(Level::Error, "the host has no monotonic clock");
            return None;
        };
        Some(Self::new(document, fingerprint(text), now))
    }

    fn new(mut document: Document, fingerprint: u64, now: Timestamp) -> Self {
        let alternatives = document.policies.iter().enumerate();
        let policies = Matcher::new(
            alternatives
                .flat_map(|(index, policy)| policy.matches.iter().map(move |pattern| (index, pattern))),
        );
        let exempt = Matcher::new(document.exempt.iter().map(|pattern| (0, pattern)));
        let exempt = (!document.exempt.is_empty()).then_some(exempt);
        // The matchers hold what they look up: its room serves what follows.
        document.exempt = Vec::new();
        document.policies.iter_mut().for_each(|policy| policy.matches = Vec::new());
        let guards = document.policies.iter().map(|policy| (policy.name.as_str(), policy.shared_breaker()));
        Self {
            fingerprint,
            policies,
            exempt,
            worker: Worker::new(&document.namespace, fingerprint, guards),
            metrics: document.policies.iter().map(|policy| PolicyMetrics::new(&policy.name)).collect(),
            now,
            document,
        }
    }

    /// Whether answers tell outsiders the policy and the reason.
    pub(crate) const fn exposes(&self) -> bool {
        self.document.expose
    }

    /// The policy of a request, if it is ours.
    pub(crate) fn policy_of(&self, facts: &mut dyn Facts) -> Option<usize> {
        let mut request = Request::new(facts);
        let index = self.policies.find(&mut request)?;
        let exempt = self.exempt.as_ref().is_some_and(|exempt| exempt.find(&mut request).is_some());
        let active = self.document.policies.get(index).is_some_and(|policy| !policy.disabled);
        (active && !exempt).then_some(index)
    }

    pub(crate) fn policy(&self, index: usize) -> Option<&Policy> {
        self.document.policies.get(index)
    }

    /// By which rules a policy's answers are judged.
    pub(crate) fn rules(&self, index: usize) -> Option<&Rules> {
        self.policy(index).map(Policy::rules)
    }

    pub(crate) fn metrics(&mut self, index: usize, act: impl FnOnce(&mut PolicyMetrics)) {
        if let Some(metrics) = self.metrics.get_mut(index) {
            act(metrics);
        }
    }

    pub(crate) fn decide(&mut self, index: usize) -> Decision {
        self.now = clock().unwrap_or(self.now);
        let Self { document, worker, now, .. } = self;
        let Some(policy) = document.policies.get(index) else { return Decision::Call(None) };
        let mut port = HostPort { names: &document.policies, policies: &mut self.metrics };
        decide(policy, || worker.admit(&mut port, index, *now))
    }

    /// Counts an outcome. A request that passed without a ticket was admitted by no breaker and tells it nothing.
    pub(crate) fn record(&mut self, policy: usize, ticket: Option<Ticket>, outcome: Outcome) {
        if let Some(ticket) = ticket {
            self.with_worker(|worker, port, now| worker.record(port, policy, ticket, outcome, now));
        }
        // After the state: whoever sees the count can rely on what it did.
        self.metrics(policy, |metrics| metrics.call(outcome));
    }

    pub(crate) fn tick(&mut self) {
        if !self.with_worker(|worker, port, now| worker.tick(port, now)) {
            return;
        }
        for (policy, metrics) in self.document.policies.iter().zip(&mut self.metrics) {
            if let Some(state) = state_by_mode(policy) {
                metrics.show(state);
            }
        }
    }

    pub(crate) fn leave(&mut self) {
        self.with_worker(|worker, port, now| worker.leave(port, now));
    }

    fn with_worker<T>(&mut self, act: impl FnOnce(&mut Worker, &mut HostPort<'_>, Timestamp) -> T) -> T {
        self.now = clock().unwrap_or(self.now);
        let mut port = HostPort { names: &self.document.policies, policies: &mut self.metrics };
        act(&mut self.worker, &mut port, self.now)
    }
}
