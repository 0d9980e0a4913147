//! An in-memory port that counts its calls and fails on demand.

use super::{
    Arrival, Completion, Event, Operation, Pass, Pattern, Patterns, Port, Refused, Returned, Shared, Target,
    Verdict,
};
use crate::answer::Reason;
use crate::breaker::{Admission, Outcome, Settings, State as BreakerState, Ticket};
use crate::bulkhead::{self, Permit, Wake};
use crate::members::Members;
use crate::state::State;
use crate::store::{Expected, PutError, Store, Unavailable, Versioned};
use crate::testing::settings;
use crate::time::Timestamp;
use crate::worker::Worker;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// The breaker of [`worker`]'s policy.
pub(super) const P: Target = Target::whole(0);
pub(super) const POLICY: &[u8] = b"resilience/ns/p";
pub(super) const MEMBERS: &[u8] = b"resilience/ns/#members";

/// How a key misbehaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trouble {
    /// Reads and writes get no answer.
    Unreadable,
    /// Writes get no answer.
    Unwritable,
    /// Every write finds that somebody else was faster.
    Contended,
}

pub(super) const TROUBLES: [Trouble; 3] = [Trouble::Unreadable, Trouble::Unwritable, Trouble::Contended];

#[derive(Default)]
pub(crate) struct Fake {
    pub(super) values: BTreeMap<Vec<u8>, Versioned>,
    pub(crate) trouble: BTreeMap<&'static [u8], Trouble>,
    pub(super) counters: BTreeMap<Target, u64>,
    /// The change counter cannot be read.
    pub(super) uncounted: bool,
    /// There is no room to show what nobody uses.
    pub(super) crowded: bool,
    /// Writers die between their write and the counter.
    pub(super) forgetful: bool,
    pub(super) calls: Vec<&'static str>,
    pub(crate) events: Vec<Event>,
    pub(super) introduced: Vec<(Target, Vec<u8>)>,
    /// Shared queues by their names.
    pub(super) queues: BTreeMap<String, u32>,
    /// Messages that nobody has read yet.
    pub(super) wakes: Vec<Wake>,
    /// What others do before calls to come, each before the next call of its name.
    pub(super) meanwhile: VecDeque<(&'static str, Meanwhile)>,
}

/// What others do.
pub(super) type Meanwhile = Box<dyn FnOnce(&mut Fake)>;

impl Store for Fake {
    fn get(&mut self, key: &[u8]) -> Result<Option<Versioned>, Unavailable> {
        self.interrupt("get");
        self.calls.push("get");
        match self.trouble.get(key) {
            Some(Trouble::Unreadable) => Err(Unavailable),
            _ => Ok(self.values.get(key).cloned()),
        }
    }

    fn put(&mut self, key: &[u8], bytes: &[u8], expected: Expected) -> Result<(), PutError> {
        self.interrupt("put");
        self.calls.push("put");
        match self.trouble.get(key) {
            Some(Trouble::Unreadable | Trouble::Unwritable) => return Err(PutError::Unavailable),
            Some(Trouble::Contended) => return Err(PutError::Conflict),
            None => {}
        }
        let present = self.values.get(key).map(|value| value.version);
        if expected != present.map_or(Expected::Absent, Expected::Version) {
            return Err(PutError::Conflict);
        }
        self.set(key, bytes);
        Ok(())
    }
}

impl Port for Fake {
    fn changes(&mut self, target: Target) -> Option<u64> {
        self.calls.push("changes");
        (!self.uncounted).then(|| self.counters.get(&target).copied().unwrap_or(0))
    }

    fn changed(&mut self, target: Target) {
        self.calls.push("changed");
        if !self.forgetful {
            *self.counters.entry(target).or_default() += 1;
        }
    }

    fn introduce(&mut self, target: Target, key: &[u8]) {
        self.introduced.push((target, key.to_vec()));
    }

    fn listen(&mut self, name: &str) -> Option<u32> {
        let fresh = u32::try_from(self.queues.len()).unwrap() + 1;
        Some(*self.queues.entry(name.to_owned()).or_insert(fresh))
    }

    fn wake(&mut self, wake: Wake) {
        self.wakes.push(wake);
    }

    fn shows_unused(&self) -> bool {
        !self.crowded
    }

    fn report(&mut self, event: Event) {
        self.interrupt("report");
        self.events.push(event);
    }
}

impl Fake {
    fn interrupt(&mut self, call: &str) {
        if self.meanwhile.front().is_some_and(|(name, _)| *name == call)
            && let Some((_, act)) = self.meanwhile.pop_front()
        {
            act(self);
        }
    }

    /// Writes past all checks.
    pub(crate) fn set(&mut self, key: &[u8], bytes: &[u8]) {
        let version = self.values.get(key).map_or(0, |value| value.version) + 1;
        self.values.insert(key.to_vec(), Versioned { bytes: bytes.to_vec(), version });
    }

    /// The calls since the last time anybody asked.
    pub(crate) fn calls(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.calls)
    }

    /// The reads and writes since the last time anybody asked, and what was told to those that believe.
    pub(super) fn store_calls(&mut self) -> Vec<&'static str> {
        self.calls().into_iter().filter(|call| *call != "changes").collect()
    }

    /// The messages since the last time anybody asked.
    pub(super) fn wakes(&mut self) -> Vec<Wake> {
        std::mem::take(&mut self.wakes)
    }

    /// How many calls are in flight, and how many wait.
    pub(super) fn crowd(&self) -> (u32, u32) {
        let bulkhead = self.state().bulkhead;
        (bulkhead.in_flight(), bulkhead.waiting())
    }

    /// What was reported of policies since the last time anybody asked, without the conflicts.
    pub(super) fn events(&mut self) -> Vec<Event> {
        let events = std::mem::take(&mut self.events);
        let is_other = |event: &Event| {
            matches!(event, Event::Conflicts { .. } | Event::Reigns { .. } | Event::Lost { .. })
        };
        events.into_iter().filter(|event| !is_other(event)).collect()
    }

    /// The operations that gave up since the last time anybody asked.
    pub(super) fn gave_up(&mut self) -> Vec<Operation> {
        let given_up = |event| match event {
            Event::GaveUp { operation } => Some(operation),
            _ => None,
        };
        self.events().into_iter().filter_map(given_up).collect()
    }

    pub(super) fn state(&self) -> State {
        let bytes = self.values.get(POLICY).map(|value| value.bytes.as_slice());
        State::decode(bytes, Timestamp::default())
    }

    pub(super) fn breaker_state(&self) -> BreakerState {
        self.state().breaker.phase().state()
    }

    pub(super) fn members(&self) -> Members {
        let bytes = self.values.get(MEMBERS).map(|value| value.bytes.as_slice());
        Members::decode(bytes, Timestamp::default())
    }
}

/// A worker of one policy, `p`, with [`settings`].
pub(super) fn worker() -> Worker {
    worker_of(settings())
}

pub(super) fn worker_of(settings: Settings) -> Worker {
    Worker::new("ns", 1, [("p", Some(shared(settings)))].into_iter())
}

/// A policy with one breaker for all.
pub(super) const fn shared(settings: Settings) -> Shared {
    let breaker = Some(Pattern { settings, shadow: false });
    Shared { patterns: Patterns { breaker, bulkhead: None, budget: None }, max_keys: None }
}

/// A bulkhead for so many calls; `max_queue` more wait for a second, where it is not 0.
pub(super) fn bulkhead(max_concurrent_calls: u32, max_queue: u16) -> bulkhead::Settings {
    let queue = bulkhead::Queue { max_wait_duration: Duration::from_secs(1), max_queue };
    bulkhead::Settings { max_concurrent_calls, queue: Some(queue).filter(|_| max_queue > 0), priority: None }
}

/// A worker of the policy `p` with a bulkhead and, where there are settings for it, a breaker.
pub(super) fn worker_with(bulkhead: bulkhead::Settings, breaker: Option<Settings>) -> Worker {
    worker_like(1, bulkhead, breaker, false)
}

/// As [`worker_with`], of a configuration of that number, its bulkhead in shadow mode or not.
pub(super) fn worker_like(
    configuration: u64,
    bulkhead: bulkhead::Settings,
    breaker: Option<Settings>,
    shadow: bool,
) -> Worker {
    let breaker = breaker.map(|settings| Pattern { settings, shadow: false });
    let patterns = Patterns { breaker, bulkhead: Some(Pattern { settings: bulkhead, shadow }), budget: None };
    let shared = Shared { patterns, max_keys: None };
    Worker::new("ns", configuration, [("p", Some(shared))].into_iter())
}

/// What is asked and told where there is a bulkhead.
impl Worker {
    pub(super) fn arrive(&mut self, port: &mut Fake, call: u32, now: Timestamp) -> Verdict {
        self.admit(port, P, Arrival { call, class: None, ..Arrival::default() }, now)
    }

    /// What the request carries that must be let in.
    pub(super) fn let_in(&mut self, port: &mut Fake, call: u32, now: Timestamp) -> Pass {
        match self.arrive(port, call, now) {
            Verdict::Admitted(pass) => pass,
            verdict => panic!("{verdict:?} at {now:?}"),
        }
    }

    /// The end of a request, all told at once.
    pub(super) fn end(&mut self, port: &mut Fake, pass: &Pass, outcome: Outcome, now: Timestamp) {
        let completion = Completion { target: P, ticket: pass.ticket, outcome, returned: returned(pass) };
        self.complete(port, completion, now, || true);
    }
}

/// What is asked and told where there is only a breaker.
impl Worker {
    pub(super) fn admission<P: Port>(&mut self, port: &mut P, target: Target, now: Timestamp) -> Admission {
        match self.admit(port, target, Arrival::default(), now) {
            Verdict::Admitted(pass) => Admission::Admitted(pass.ticket.expect("a breaker")),
            Verdict::Refused(Refused { reason: Reason::CircuitOpen, wait }) => Admission::Refused { wait },
            verdict => panic!("no word of a breaker: {verdict:?}"),
        }
    }

    pub(super) fn record<P: Port>(
        &mut self,
        port: &mut P,
        target: Target,
        ticket: Ticket,
        outcome: Outcome,
        now: Timestamp,
    ) {
        let completion = Completion { target, ticket: Some(ticket), outcome, returned: Returned::default() };
        self.complete(port, completion, now, || true);
    }
}

/// The ticket of a request that must be let in.
pub(super) fn enter(worker: &mut Worker, port: &mut Fake, now: Timestamp) -> Ticket {
    match worker.admission(port, P, now) {
        Admission::Admitted(ticket) => ticket,
        Admission::Refused { .. } => panic!("refused at {now:?}"),
    }
}

/// One request from admission to its outcome.
pub(super) fn request(worker: &mut Worker, port: &mut Fake, outcome: Outcome, now: Timestamp) {
    let ticket = enter(worker, port, now);
    worker.record(port, P, ticket, outcome, now);
}

/// Trips the breaker of [`settings`] at `now`.
pub(super) fn trip(worker: &mut Worker, port: &mut Fake, now: Timestamp) {
    for _ in 0..3 {
        request(worker, port, Outcome::Failure, now);
    }
    assert_eq!(port.breaker_state(), BreakerState::Open);
    port.events.clear();
    port.calls.clear();
}

/// What gives a permit back.
pub(super) fn permitted(permit: Permit) -> Returned {
    Returned { permit: Some(permit), spent: None }
}

/// What a request gives back that was never retried.
pub(super) fn returned(pass: &Pass) -> Returned {
    Returned { permit: pass.permit, spent: pass.grant.and_then(|grant| grant.end(Some(0)).spent) }
}
