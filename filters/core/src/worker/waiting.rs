//! Requests of this VM that wait for a permit: each hears of its turn by a message, and the VM looks by itself at the end of
//! a wait and on every tick, in case a message was lost.

use super::admission::Asked;
use super::{
    Arrival, Effects, Event, Operation, Pass, Patterns, Port, Refused, Resumed, Target, Verdict, Worker,
};
use crate::answer::Reason;
use crate::breaker::Owner;
use crate::bulkhead::{Address, Turn};
use crate::state::State;
use crate::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How soon a request tries again that the store let neither in nor into the queue.
const RETRY: Duration = Duration::from_millis(10);

/// A request that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    target: Target,
    arrival: Arrival,
    since: Timestamp,
    until: Timestamp,
    place: Place,
    /// Whether it is held back; a bulkhead in shadow mode has it wait in name only.
    held: bool,
}

/// Where a request waits.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// In the queue that all workers share, under this identity of the VM.
    Queue(Owner),
    /// Here, because the store would not take it; it tries again then.
    Here { again: Timestamp },
}

impl Waiting {
    /// When to look after it if nothing is heard.
    fn due(&self) -> Timestamp {
        match self.place {
            Place::Queue(_) => self.until,
            Place::Here { again } => again.min(self.until),
        }
    }
}

impl Worker {
    /// Takes note of a request that waits from now on.
    pub(super) fn wait(
        &mut self,
        target: Target,
        arrival: Arrival,
        owner: Option<Owner>,
        held: bool,
        now: Timestamp,
    ) {
        let bulkhead = self.scope(target.policy).and_then(|scope| scope.patterns.bulkhead.as_ref());
        let longest =
            bulkhead.and_then(|bulkhead| bulkhead.settings.queue).map(|queue| queue.max_wait_duration);
        let until = now.after(longest.unwrap_or_default());
        let place = owner.map_or_else(|| Place::Here { again: now.after(RETRY) }, Place::Queue);
        self.waiting.insert(arrival.call, Waiting { target, arrival, since: now, until, place, held });
    }

    /// How many wait here because the store would not take them.
    pub(super) fn waiting_here(&self, target: Target) -> usize {
        let here =
            |waiting: &&Waiting| waiting.target == target && matches!(waiting.place, Place::Here { .. });
        self.waiting.values().filter(here).count()
    }

    /// Whether a request waits, if only in name.
    #[must_use]
    pub fn waits(&self, call: u32) -> bool {
        self.waiting.contains_key(&call)
    }

    /// Forgets a waiter whose client left. Does nothing for a request that does not wait.
    pub fn withdraw<P: Port + ?Sized>(&mut self, port: &mut P, call: u32, now: Timestamp) {
        self.flush(port, now);
        self.forget(port, call, now);
    }

    /// As [`Self::withdraw`], without another try of what the store would not take.
    pub(super) fn forget<P: Port + ?Sized>(&mut self, port: &mut P, call: u32, now: Timestamp) {
        let Some(waiting) = self.waiting.remove(&call) else { return };
        if let Place::Queue(owner) = waiting.place {
            self.give_place_back(port, waiting.target, owner, call, now);
        }
    }

    /// Looks after a waiter that a message names.
    pub fn woken<P: Port + ?Sized>(&mut self, port: &mut P, call: u32, now: Timestamp) -> Option<Resumed> {
        self.flush(port, now);
        let waiting = *self.waiting.get(&call)?;
        match waiting.place {
            Place::Queue(owner) => self.take_up(port, waiting.target, owner, &[waiting], now).pop(),
            Place::Here { .. } => self.try_again(port, &waiting, now),
        }
    }

    /// When to call [`Self::wait_over`] at the latest; `None` while nobody waits.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.waiting.values().map(Waiting::due).min()
    }

    /// Looks after those whose wait is over, or who try again.
    pub fn wait_over<P: Port + ?Sized>(&mut self, port: &mut P, now: Timestamp) -> Vec<Resumed> {
        // It may bring the very permit that one of them waits for.
        self.flush(port, now);
        self.look_after_waiters(port, now, |waiting| waiting.due() <= now)
    }

    /// Looks after all that wait, on a tick: a message may have been lost.
    pub fn look_after_all<P: Port + ?Sized>(&mut self, port: &mut P, now: Timestamp) -> Vec<Resumed> {
        let told = self.with_news(port, now);
        self.look_after_waiters(port, now, |waiting| told.contains(&waiting.arrival.call))
    }

    /// Those for whom there is something to do, found by one read for each bulkhead: thousands may wait.
    fn with_news<P: Port + ?Sized>(&mut self, port: &mut P, now: Timestamp) -> BTreeSet<u32> {
        let queued = |waiting: &&Waiting| matches!(waiting.place, Place::Queue(_));
        let targets: BTreeSet<_> =
            self.waiting.values().filter(queued).map(|waiting| waiting.target).collect();
        let mut still: BTreeSet<(Target, Owner, u32)> = BTreeSet::new();
        let mut unknown: BTreeSet<Target> = BTreeSet::new();
        for target in targets {
            let found = self.guard(target).map(|(_, guard)| port.get(&guard.key));
            let Some(Ok(found)) = found else {
                port.report(Event::GaveUp { operation: Operation::Admit });
                unknown.insert(target);
                continue;
            };
            let state = State::decode(found.as_ref().map(|found| found.bytes.as_slice()), now);
            still.extend(state.bulkhead.waiters().map(|(owner, id)| (target, owner, id)));
        }
        let has_news = |waiting: &&Waiting| match waiting.place {
            Place::Queue(owner) if now < waiting.until => {
                let (target, call) = (waiting.target, waiting.arrival.call);
                !unknown.contains(&target) && !still.contains(&(target, owner, call))
            }
            Place::Queue(_) | Place::Here { .. } => true,
        };
        self.waiting.values().filter(has_news).map(|waiting| waiting.arrival.call).collect()
    }

    fn look_after_waiters<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        now: Timestamp,
        which: impl Fn(&Waiting) -> bool,
    ) -> Vec<Resumed> {
        // In the order in which they came, for those that are not in the queue.
        let mut due: Vec<Waiting> = self.waiting.values().filter(|waiting| which(waiting)).copied().collect();
        due.sort_by_key(|waiting| waiting.since);
        let mut queued: BTreeMap<(Target, Owner), Vec<Waiting>> = BTreeMap::new();
        let mut resumed = Vec::new();
        for waiting in due {
            match waiting.place {
                Place::Queue(owner) => queued.entry((waiting.target, owner)).or_default().push(waiting),
                Place::Here { .. } => resumed.extend(self.try_again(port, &waiting, now)),
            }
        }
        for ((target, owner), waiters) in queued {
            resumed.extend(self.take_up(port, target, owner, &waiters, now));
        }
        resumed
    }

    /// Finds out what has become of waiters in a queue, by one update for all of them: thousands may end at once. The breaker is
    /// asked again over each: much may have happened since. Returns those that wait no more.
    fn take_up<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        target: Target,
        owner: Owner,
        waiters: &[Waiting],
        now: Timestamp,
    ) -> Vec<Resumed> {
        let address = Address { owner, queue: self.queue };
        let looked = self.change(port, target, Operation::Admit, now, |state, patterns, effects| {
            let look = |waiting: &Waiting| patterns.take_up(state, address, waiting, now, effects);
            waiters.iter().map(look).collect::<Vec<_>>()
        });
        let verdicts = looked.unwrap_or_else(|| {
            port.report(Event::GaveUp { operation: Operation::Admit });
            // Whether they have been given permits is not known; places are given back as soon as the store takes it.
            let given_up = |waiting: &Waiting| {
                let over = now >= waiting.until;
                over.then(|| self.give_place_back(port, target, owner, waiting.arrival.call, now))?;
                Some(FULL)
            };
            waiters.iter().map(given_up).collect()
        });
        let ended = waiters.iter().zip(verdicts);
        ended.filter_map(|(waiting, verdict)| Some(self.resume(waiting, verdict?, now))).collect()
    }

    fn resume(&mut self, waiting: &Waiting, verdict: Verdict, now: Timestamp) -> Resumed {
        let Waiting { target, arrival: Arrival { call, .. }, since, .. } = *waiting;
        self.waiting.remove(&call);
        Resumed { call, target, verdict, waited: now.since(since) }
    }

    /// Another try for one that the store let neither in nor into the queue.
    fn try_again<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        waiting: &Waiting,
        now: Timestamp,
    ) -> Option<Resumed> {
        let Waiting { target, arrival, until, .. } = *waiting;
        if now >= until {
            return Some(self.resume(waiting, FULL, now));
        }
        let changes = port.changes(target);
        let place = match self.ask(port, target, arrival, changes, now) {
            Some(Asked { queued: Some(owner), .. }) => Place::Queue(owner),
            Some(Asked { verdict, queued: None }) => return Some(self.resume(waiting, verdict, now)),
            None => Place::Here { again: now.after(RETRY) },
        };
        self.waiting.insert(arrival.call, Waiting { place, ..*waiting });
        None
    }
}

impl Patterns {
    /// What has become of a waiter in the queue; `None` while it waits on.
    fn take_up(
        &self,
        state: &mut State,
        address: Address,
        waiting: &Waiting,
        now: Timestamp,
        effects: &mut Effects,
    ) -> Option<Verdict> {
        let call = waiting.arrival.call;
        let permit = match state.bulkhead.take_up(address, call) {
            Turn::Granted(permit) => permit,
            Turn::Waits if now < waiting.until => return None,
            Turn::Waits => {
                state.bulkhead.withdraw(address.owner, call, &mut effects.wakes);
                return Some(FULL);
            }
            Turn::Gone => return Some(FULL),
        };
        let mut pass = Pass { permit: Some(permit), ..Pass::default() };
        if waiting.held
            && let Err(refused) = self.ask_breaker(state, address.owner, now, &mut pass, effects)
        {
            state.bulkhead.release(permit, &mut effects.wakes);
            return Some(Verdict::Refused(refused));
        }
        Some(Verdict::Admitted(pass))
    }
}

/// What a request gets that finds no room.
pub(super) const FULL: Verdict = Verdict::Refused(Refused { reason: Reason::BulkheadFull, wait: None });
