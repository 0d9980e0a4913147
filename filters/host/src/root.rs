//! One configuration in one VM.

use crate::calls::{self, Level, log};
use crate::facts::{CurrentRequest, cluster};
use crate::metrics::PolicyMetrics;
use crate::port::HostPort;
use crate::stream::Call;
use resilience_core::answer::Reply;
use resilience_core::breaker::Outcome;
use resilience_core::config::{Document, Policy};
use resilience_core::control::{self, Order, Problem};
use resilience_core::decision::{Decision, decide, state_by_mode};
use resilience_core::matcher::{Facts, Matcher, Request, Seen};
use resilience_core::members::TICK;
use resilience_core::outcome::Rules;
use resilience_core::time::Timestamp;
use resilience_core::worker::{Target, Worker};
use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// Whether the route that a request took leads to the policy, and to the cluster, that let it in.
fn went_where_it_was_to(policies: &Matcher, call: &Call) -> bool {
    let facts = &mut CurrentRequest;
    let leads_there =
        call.seen.holds(facts) || policies.find(&mut call.seen.again(facts)) == Some(call.target.policy);
    let same_cluster = || cluster().is_none_or(|now| call.cluster.as_ref() == Some(&now));
    leads_there && (call.cluster.is_none() || same_cluster())
}

/// One in so many outcomes that change nothing is worth a look at the route that the request went by.
const UNCHECKED: u32 = 128;

/// A root context: the document, and what this VM does with it.
pub(crate) struct Root {
    pub(crate) fingerprint: u64,
    document: Document,
    policies: Matcher,
    exempt: Option<Matcher>,
    worker: Worker,
    metrics: Vec<PolicyMetrics>,
    /// How many outcomes have been counted since the last look at a request's route.
    unchecked: u32,
    /// The last moment that the host told: stands in where it does not tell.
    now: Timestamp,
}

/// The moment, by the clock that all VMs share.
fn clock() -> Option<Timestamp> {
    calls::monotonic_nanoseconds().map(Timestamp::from_nanos)
}

/// How many nanoseconds after a moment's whole second the wall clock's own begins: windows over time are cut there, as
/// Resilience4j's are. Where the host does not tell, they are cut where the monotonic clock has its seconds.
fn wall_clock_offset(now: Timestamp) -> u32 {
    const SECOND: u64 = 1_000_000_000;
    let offset = calls::wall_nanoseconds().map(|wall| {
        let (wall, now) = (wall % SECOND, now.as_nanos() % SECOND);
        wall.saturating_add(SECOND).saturating_sub(now) % SECOND
    });
    offset.and_then(|offset| u32::try_from(offset).ok()).unwrap_or(0)
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
        if document.control {
            // It forces what others keep, and keeps nothing itself.
            return Some(Self::new(document, fingerprint(text), clock().unwrap_or_default()));
        }
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
        let offset = wall_clock_offset(now);
        let guards = document.policies.iter().map(|policy| (policy.name.as_str(), policy.shared(offset)));
        Self {
            fingerprint,
            policies,
            exempt,
            worker: Worker::new(&document.namespace, fingerprint, guards),
            metrics: document.policies.iter().map(|policy| PolicyMetrics::new(&policy.name)).collect(),
            unchecked: 0,
            now,
            document,
        }
    }

    /// Whether answers tell outsiders the policy and the reason.
    pub(crate) const fn exposes(&self) -> bool {
        self.document.expose
    }

    /// The policy of a request, if it is ours, and what was read of its route to find it.
    pub(crate) fn policy_of(&self, facts: &mut dyn Facts) -> Option<(usize, Seen)> {
        let mut request = Request::new(facts);
        let index = self.policies.find(&mut request)?;
        let exempt = self.exempt.as_ref().is_some_and(|exempt| exempt.find(&mut request).is_some());
        let active = self.document.policies.get(index).is_some_and(|policy| !policy.disabled);
        (active && !exempt).then(|| (index, request.seen()))
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

    /// The upstream cluster of a request of a policy that keeps a breaker for each; `None` for any other.
    pub(crate) fn cluster(&self, index: usize) -> Option<Vec<u8>> {
        if self.worker.has_keys(index) { cluster() } else { None }
    }

    /// Decides over a request of a policy: the moment, whose breaker it is, and what happens.
    pub(crate) fn decide(&mut self, index: usize, cluster: Option<&[u8]>) -> (Timestamp, Target, Decision) {
        self.now = clock().unwrap_or(self.now);
        let Self { document, worker, now, .. } = self;
        let whole = Target::whole(index);
        let Some(policy) = document.policies.get(index) else { return (*now, whole, Decision::Call(None)) };
        let mut port = HostPort { names: &document.policies, policies: &mut self.metrics };
        let target = if cluster.is_some() { worker.target(&mut port, index, cluster) } else { whole };
        (*now, target, decide(policy, || worker.admit(&mut port, target, *now)))
    }

    /// How long a request has taken that came at `began`, if its policy asks.
    pub(crate) fn duration(&mut self, policy: usize, began: Timestamp) -> Option<Duration> {
        self.policy(policy)?.circuit_breaker.as_ref()?.settings.slow_call_duration_threshold?;
        self.now = clock().unwrap_or(self.now);
        Some(self.now.since(began))
    }

    /// This outcome of a call that took so long until its answer began.
    pub(crate) fn timed(&self, policy: usize, outcome: Outcome, duration: Option<Duration>) -> Outcome {
        let breaker = self.policy(policy).and_then(|policy| policy.circuit_breaker.as_ref());
        outcome.timed(breaker.zip(duration).is_some_and(|(breaker, it)| breaker.settings.is_slow(it)))
    }

    /// Counts what a call proved. Where that can change a breaker's state, and of the others for one of so many so that
    /// operators hear of it too, a look is taken at where the request went: one whose route, or upstream cluster, is not
    /// that of the breaker that let it in proved nothing. One that passed without a ticket was admitted by no breaker and
    /// tells it nothing.
    pub(crate) fn record(&mut self, call: &Call, outcome: Outcome) {
        let target = call.target;
        let looked = Cell::new(None);
        self.now = clock().unwrap_or(self.now);
        let Self { policies, worker, document, metrics, now, .. } = self;
        let look = || {
            let held = went_where_it_was_to(policies, call);
            looked.set(Some(held));
            held
        };
        if let Some(ticket) = call.ticket {
            let mut port = HostPort { names: &document.policies, policies: metrics };
            worker.record_evidence(&mut port, target, ticket, outcome, *now, look);
        } else if outcome.is_failure() {
            look();
        }
        self.unchecked = self.unchecked.saturating_add(1);
        let due = self.unchecked >= UNCHECKED && outcome != Outcome::Ignored;
        if due && looked.get().is_none() {
            looked.set(Some(went_where_it_was_to(&self.policies, call)));
        }
        if looked.get().is_some() {
            self.unchecked = 0;
        }
        // After the state: whoever sees the count can rely on what it did.
        let stale = looked.get() == Some(false);
        self.metrics(target.policy, |metrics| {
            if stale {
                metrics.stale_route();
            }
            metrics.call(if stale { Outcome::Ignored } else { outcome });
        });
    }

    /// Whether this configuration only answers operators.
    pub(crate) const fn is_control(&self) -> bool {
        self.document.control
    }

    /// Carries out what an operator says.
    pub(crate) fn control(&mut self, method: &[u8], path: &[u8]) -> Reply {
        match control::parse(method, path).and_then(|order| self.obey(&order)) {
            Ok(reply) => reply,
            Err(problem) => control::refused(problem),
        }
    }

    fn obey(&mut self, order: &Order<'_>) -> Result<Reply, Problem> {
        let named = |policy: &Policy| policy.name == order.policy;
        let policy = self.document.policies.iter().position(named).ok_or(Problem::NotFound)?;
        if self.policy(policy).and_then(|policy| policy.shared(0)).is_none() {
            return Err(Problem::NoState);
        }
        self.with_worker(|worker, port, now| {
            let targets = worker.targets(port, policy, order.key.as_deref());
            let mut state = Err(Problem::NotFound);
            for target in &targets {
                state = worker.force(port, *target, order.command, now).ok_or(Problem::Store);
                if state.is_err() {
                    break;
                }
            }
            state.map(|state| control::done(order.policy, state, targets.len()))
        })
    }

    pub(crate) fn tick(&mut self) {
        if !self.with_worker(|worker, port, now| worker.tick(port, now)) {
            return;
        }
        for (policy, metrics) in self.document.policies.iter().zip(&mut self.metrics) {
            if let Some(state) = state_by_mode(policy) {
                metrics.show(0, state);
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
