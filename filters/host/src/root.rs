//! One configuration in one VM.

use crate::calls::{self, Level, log, monotonic_nanoseconds};
use crate::metrics::{PolicyMetrics, StoreMetrics};
use crate::port::HostPort;
use resilience_core::breaker::{Admission, Outcome, State, Ticket};
use resilience_core::config::{BreakerMode, Document, Policy};
use resilience_core::matcher::{Facts, Matcher, Request};
use resilience_core::members::TICK;
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
    store: StoreMetrics,
}

/// The moment, by the clock that all VMs share.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_nanos(monotonic_nanoseconds())
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
        Some(Self::new(document, fingerprint(text)))
    }

    fn new(document: Document, fingerprint: u64) -> Self {
        let alternatives = document.policies.iter().enumerate();
        let policies = Matcher::new(
            alternatives
                .flat_map(|(index, policy)| policy.matches.iter().map(move |pattern| (index, pattern))),
        );
        let exempt = Matcher::new(document.exempt.iter().map(|pattern| (0, pattern)));
        let guards = document.policies.iter().map(|policy| (policy.name.as_str(), policy.shared_breaker()));
        Self {
            fingerprint,
            policies,
            exempt: (!document.exempt.is_empty()).then_some(exempt),
            worker: Worker::new(&document.namespace, fingerprint, guards),
            metrics: document.policies.iter().map(|policy| PolicyMetrics::new(&policy.name)).collect(),
            store: StoreMetrics::default(),
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

    pub(crate) fn metrics(&mut self, index: usize) -> Option<&mut PolicyMetrics> {
        self.metrics.get_mut(index)
    }

    pub(crate) fn admit(&mut self, policy: usize) -> Admission {
        self.with_worker(|worker, port| worker.admit(port, policy, now()))
    }

    /// Counts an outcome. A request that passed without a ticket was admitted by no breaker and tells it nothing.
    pub(crate) fn record(&mut self, policy: usize, ticket: Option<Ticket>, outcome: Outcome) {
        if let Some(ticket) = ticket {
            self.with_worker(|worker, port| worker.record(port, policy, ticket, outcome, now()));
        }
        // After the state: whoever sees the count can rely on what it did.
        if let Some(metrics) = self.metrics.get_mut(policy) {
            metrics.call(outcome);
        }
    }

    pub(crate) fn tick(&mut self) {
        if !self.with_worker(|worker, port| worker.tick(port, now())) {
            return;
        }
        let policies = self.document.policies.iter().zip(&mut self.metrics);
        for (policy, metrics) in policies.filter(|(policy, _)| !policy.disabled) {
            let mode = policy.circuit_breaker.as_ref().map(|breaker| breaker.mode);
            if matches!(mode, Some(BreakerMode::ForcedOpen | BreakerMode::ShadowForcedOpen)) {
                metrics.show(State::Open);
            }
        }
    }

    pub(crate) fn leave(&mut self) {
        self.with_worker(|worker, port| worker.leave(port, now()));
    }

    fn with_worker<T>(&mut self, act: impl FnOnce(&mut Worker, &mut HostPort<'_>) -> T) -> T {
        let policies = &self.document.policies;
        let names = |index: usize| policies.get(index).map_or("", |policy| policy.name.as_str());
        let mut port = HostPort { policies: &mut self.metrics, store: &mut self.store, names: &names };
        act(&mut self.worker, &mut port)
    }
}
