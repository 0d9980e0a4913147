//! One configuration in one VM.

mod deciding;
mod operators;
mod telling;

pub(crate) use deciding::{Arrived, Asked};

use crate::call::{Call, Rerouted};
use crate::calls::{self, Level, Queue, log};
use crate::facts::{CurrentRequest, cluster};
use crate::metrics::{PolicyMetrics, allow};
use crate::port::{Asker, HostPort};
use resilience_core::alarms::Alarms;
use resilience_core::breaker::Outcome;
use resilience_core::config::{Document, Policy};
use resilience_core::decision::modes_to_show;
use resilience_core::matcher::{Facts, Matcher, Request, Seen};
use resilience_core::outcome::Rules;
use resilience_core::refusals::Refusals;
use resilience_core::time::Timestamp;
use resilience_core::timeout::came_at_once;
use resilience_core::timer::Timer;
use resilience_core::worker::{Completion, Resumed, Returned, Target, Worker};
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// How many messages are read at once. The host calls for each message that is left, so none stays behind; those who are
/// woken need not wait for the last of many.
const MESSAGES: usize = 64;

/// A root context: the document, and what this VM does with it.
pub(crate) struct Root {
    pub(crate) fingerprint: u64,
    document: Document,
    policies: Matcher,
    exempt: Option<Matcher>,
    worker: Worker,
    refusals: Refusals,
    metrics: Vec<PolicyMetrics>,
    /// The last moment that the host told: stands in where it does not tell.
    now: Timestamp,
    timer: Timer,
    /// When requests end that the router does not end in time.
    alarms: Alarms,
    has_beaten: bool,
    /// The policies of which failed answers have come that only their requests' methods tell whether a body may take the place of
    /// theirs. Where none come, no request pays for it.
    methods_matter: BTreeSet<usize>,
    /// Which of the breakers whose mode says their state is shown next.
    next_mode: usize,
    /// Whose ways elsewhere have led astray.
    astray: BTreeSet<(usize, String)>,
}

/// The moment, by the clock that all VMs share.
pub(crate) fn clock() -> Option<Timestamp> {
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
        if document.control || document.state {
            // It forces or shows what others keep, and keeps nothing itself.
            return Some(Self::new(document, fingerprint(text), clock().unwrap_or_default()));
        }
        let Some(now) = clock() else {
            log(Level::Error, "the host has no monotonic clock");
            return None;
        };
        let mut root = Self::new(document, fingerprint(text), now);
        root.set_timer().then_some(root)
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
        allow(document.max_metrics);
        let offset = wall_clock_offset(now);
        let guards = document.policies.iter().map(|policy| (policy.name.as_str(), policy.shared(offset)));
        Self {
            fingerprint,
            policies,
            exempt,
            refusals: Refusals::new(&document.namespace),
            worker: Worker::new(&document.namespace, fingerprint, guards),
            metrics: document.policies.iter().map(|policy| PolicyMetrics::new(&policy.name)).collect(),
            now,
            timer: Timer::new(now),
            alarms: Alarms::default(),
            has_beaten: false,
            methods_matter: BTreeSet::new(),
            next_mode: 0,
            astray: BTreeSet::new(),
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

    /// Has a request looked after at `at`, by [`Self::overdue`].
    pub(crate) fn set_alarm(&mut self, call: u32, at: Timestamp) {
        self.alarms.set(call, at);
        // Nearly always something else is due before.
        if self.timer.is_later_than(at) {
            self.set_timer();
        }
    }

    /// Whether there was a sign of life since this was asked last.
    pub(crate) const fn has_beaten(&mut self) -> bool {
        std::mem::replace(&mut self.has_beaten, false)
    }

    pub(crate) fn cancel_alarm(&mut self, call: u32, at: Timestamp) {
        self.alarms.cancel(call, at);
    }

    /// Whether a request that began at `began` has taken no time to speak of to arrive.
    pub(crate) fn has_just_begun(&mut self, began: Timestamp) -> bool {
        self.now = clock().unwrap_or(self.now);
        came_at_once(began, self.now)
    }

    /// The requests whose time is over.
    pub(crate) fn overdue(&mut self) -> Vec<u32> {
        if self.alarms.next_due().is_none() {
            return Vec::new();
        }
        self.now = clock().unwrap_or(self.now);
        self.alarms.due(self.now)
    }

    /// The name of a class of a policy's requests.
    pub(crate) fn class_name(&self, index: usize, class: Option<usize>) -> Option<&str> {
        Some(self.policy(index)?.priority()?.classes.get(class?)?.name.as_str())
    }

    /// Whether an answer that begins now to a request that came at `began` is slow; `None` where its policy does not ask.
    pub(crate) fn is_slow(&mut self, policy: usize, began: Timestamp) -> Option<bool> {
        let settings = &self.document.policies.get(policy)?.circuit_breaker.as_ref()?.settings;
        settings.slow_call_duration_threshold?;
        self.now = clock().unwrap_or(self.now);
        Some(settings.is_slow(self.now.since(began)))
    }

    /// Counts what a call proved: nothing, where the route and the upstream cluster that it took are not those of the breaker
    /// that let it in. Takes what is `returned` with it.
    pub(crate) fn complete(&mut self, call: &Call, outcome: Outcome, returned: Returned) {
        self.now = clock().unwrap_or(self.now);
        let Self { policies, worker, document, metrics, now, .. } = self;
        let Call { target, ticket, .. } = *call;
        let strayed = call.rerouted.as_ref().is_some_and(|rerouted| !rerouted.has_arrived());
        let outcome = if strayed { Outcome::Ignored } else { outcome };
        let went_there = || {
            let same = |then: &Vec<u8>| cluster().is_none_or(|now| now == *then);
            call.rerouted.is_some()
                || (policies.still_finds(target.policy, &call.seen, &mut CurrentRequest)
                    && call.cluster.as_ref().is_none_or(same))
        };
        let asker = Asker::Earlier(call.request_id.as_deref());
        let mut port = HostPort { document, policies: metrics, asker };
        let completion = Completion { target, ticket, outcome, returned };
        let taken = worker.complete(&mut port, completion, *now, went_there);
        // After the state: whoever sees the count can rely on what it did.
        self.metrics(target.policy, |metrics| {
            if strayed || taken != outcome {
                metrics.stale_route();
            }
            metrics.call(taken);
            if ticket.is_some_and(|ticket| ticket.is_probe()) {
                metrics.probe(taken);
            }
        });
    }

    /// Takes what a request gives back whose outcome is not told with it.
    pub(crate) fn release(&mut self, target: Target, returned: Returned) {
        if !returned.is_empty() {
            self.with_worker(|worker, port, now| worker.release(port, target, returned, now));
        }
    }

    /// Forgets a request that waits, if it does.
    pub(crate) fn withdraw(&mut self, call: u32) {
        if self.worker.waits(call) {
            self.with_worker(|worker, port, now| worker.withdraw(port, call, now));
        }
    }

    /// Whether a request that was just let in may well be the one that has its breaker change.
    pub(crate) fn may_decide(&self, target: Target) -> bool {
        self.worker.may_decide(target)
    }

    /// Hears of the end of a wait for which there is no stream any more.
    pub(crate) fn abandon(&mut self, resumed: Resumed) {
        self.with_worker(|worker, port, now| worker.abandon(port, resumed, now));
    }

    /// Reads the messages that others have left, and looks after the waiters that they name.
    pub(crate) fn read_queue(&mut self, queue: Queue) -> Vec<Resumed> {
        self.now = clock().unwrap_or(self.now);
        let mut resumed = Vec::new();
        for _ in 0..MESSAGES {
            let Ok(Some(message)) = calls::dequeue(queue) else { break };
            let Ok(call) = message.try_into().map(u32::from_le_bytes) else { continue };
            if self.worker.waits(call) {
                resumed.extend(self.at_that_moment(|worker, port, now| worker.woken(port, call, now)));
            }
        }
        resumed
    }

    /// Has the methods of a policy's requests looked at from now on.
    pub(crate) fn look_at_methods(&mut self, policy: usize) {
        self.methods_matter.insert(policy);
    }

    /// Takes note of a request that was to go elsewhere and did not; what is likely is said once.
    pub(crate) fn went_astray(&mut self, rerouted: &Rerouted) {
        if !self.astray.insert((rerouted.from.policy, rerouted.cluster.clone())) {
            return;
        }
        let name = self.policy(rerouted.from.policy).map_or("", |policy| policy.name.as_str());
        let cluster = &rerouted.cluster;
        let remedy = "is there a route for the header, and the cluster?";
        log(
            Level::Warn,
            &format!(
                "policy {name}: a request with x-resilience-reroute: {cluster} did not get there: {remedy}"
            ),
        );
    }

    /// The timer: the end of somebody's wait, or time for a sign of life. Returns whose wait is over.
    pub(crate) fn tick(&mut self) -> Vec<Resumed> {
        self.now = clock().unwrap_or(self.now);
        let mut resumed = self.at_that_moment(|worker, port, now| worker.wait_over(port, now));
        if self.timer.went_off(self.now) {
            self.has_beaten = true;
            self.keep_house();
            self.tell_held_back();
            resumed.extend(self.at_that_moment(|worker, port, now| worker.look_after_all(port, now)));
        }
        resumed
    }

    /// Sets the timer to whatever is due next. Returns false where the host refuses.
    pub(crate) fn set_timer(&mut self) -> bool {
        let due = self.worker.next_due().into_iter().chain(self.alarms.next_due()).min();
        let Some(period) = self.timer.set(self.now, due) else { return true };
        let set = calls::set_tick_period(period);
        if let Err(status) = set {
            log(Level::Error, &format!("the host refuses a timer: {status}"));
        }
        set.is_ok()
    }

    fn keep_house(&mut self) {
        let leads = self.at_that_moment(|worker, port, now| worker.tick(port, now));
        if leads && self.worker.reigns() {
            self.show_modes();
        }
    }

    fn show_modes(&mut self) {
        let Self { document, next_mode, .. } = self;
        for (policy, state) in modes_to_show(&document.policies, next_mode) {
            self.metrics(policy, |metrics| metrics.show(0, state));
        }
    }

    /// The last moment that the host told.
    pub(crate) const fn now(&self) -> Timestamp {
        self.now
    }

    pub(crate) fn leave(&mut self) {
        self.with_worker(|worker, port, now| worker.leave(port, now));
        self.leave_held_back();
    }

    fn with_worker<T>(&mut self, act: impl FnOnce(&mut Worker, &mut HostPort<'_>, Timestamp) -> T) -> T {
        self.now = clock().unwrap_or(self.now);
        self.at_that_moment(act)
    }

    /// The same at the last moment that the host told.
    fn at_that_moment<T>(&mut self, act: impl FnOnce(&mut Worker, &mut HostPort<'_>, Timestamp) -> T) -> T {
        let mut port =
            HostPort { document: &self.document, policies: &mut self.metrics, asker: Asker::Nobody };
        act(&mut self.worker, &mut port, self.now)
    }
}
