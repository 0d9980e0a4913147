//! Requests of this VM that wait for a permit: each hears of its turn by a message, and the VM looks by itself at the end of
//! a wait and on every tick, in case a message was lost.

use super::admission::Asked;
use super::{
    Arrival, Completion, Effects, Event, Operation, Pass, Patterns, Port, Refused, Resumed, Returned, Target,
    Verdict, Worker,
};
use crate::answer::Reason;
use crate::breaker::{Outcome, Owner};
use crate::bulkhead::{Address, Turn};
use crate::planted::{Bug, active};
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
    /// When to look after it before its wait is over: the store would not take what there was to do.
    again: Option<Timestamp>,
    /// Whether it is held back; a bulkhead in shadow mode has it wait in name only.
    held: bool,
}

/// Where a request waits.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// In the queue that all workers share, under this identity of the VM.
    Queue(Owner),
    /// Here, because the store would not take it.
    Here,
}

impl Waiting {
    /// When to look after it if nothing is heard.
    fn due(&self) -> Timestamp {
        self.again.map_or(self.until, |again| again.min(self.until))
    }

    /// What it gets at the end of its wait.
    fn over(&self, now: Timestamp) -> Verdict {
        if self.held && self.arrival.time.is_over(now) { Verdict::Refused(LATE) } else { FULL }
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
        let end = now.after(longest.unwrap_or_default());
        // Whoever only waits on paper waits for nothing.
        let asked = held && !active(Bug::DeadlineNotAwaited);
        let until = arrival.time.deadline.filter(|_| asked).map_or(end, |deadline| deadline.min(end));
        let place = owner.map_or(Place::Here, Place::Queue);
        let again = owner.is_none().then(|| now.after(RETRY));
        self.waiting.insert(arrival.call, Waiting { target, arrival, since: now, until, place, again, held });
    }

    /// How many wait here because the store would not take them.
    pub(super) fn waiting_here(&self, target: Target) -> usize {
        let here = |waiting: &&Waiting| waiting.target == target && matches!(waiting.place, Place::Here);
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
        self.look_after_waiters(port, now, vec![waiting]).pop()
    }

    /// Hears that a request whose wait is over was gone before it could be told.
    pub fn abandon<P: Port + ?Sized>(&mut self, port: &mut P, resumed: Resumed, now: Timestamp) {
        let Verdict::Admitted(Pass { ticket, permit, grant, .. }) = resumed.verdict else { return };
        // It was never sent.
        let spent = grant.and_then(|grant| grant.end(Some(0)).spent);
        let returned = Returned { permit, spent };
        let completion = Completion { target: resumed.target, ticket, outcome: Outcome::Ignored, returned };
        self.complete(port, completion, now, || false);
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
        let due = self.waiting.values().filter(|waiting| waiting.due() <= now).copied().collect();
        self.look_after_waiters(port, now, due)
    }

    /// Looks after all that wait, on a tick: a message may have been lost.
    pub fn look_after_all<P: Port + ?Sized>(&mut self, port: &mut P, now: Timestamp) -> Vec<Resumed> {
        let told = self.with_news(port, now);
        self.look_after_waiters(port, now, told)
    }

    /// Those for whom there is something to do, found by one read for each bulkhead: thousands may wait.
    fn with_news<P: Port + ?Sized>(&mut self, port: &mut P, now: Timestamp) -> Vec<Waiting> {
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
            let state = State::read(found.as_ref(), now);
            still.extend(state.bulkhead.waiters().map(|(owner, id)| (target, owner, id)));
        }
        let has_news = |waiting: &&Waiting| match waiting.place {
            Place::Queue(owner) if now < waiting.until && Some(owner) == self.me => {
                let (target, call) = (waiting.target, waiting.arrival.call);
                !unknown.contains(&target) && !still.contains(&(target, owner, call))
            }
            Place::Queue(_) | Place::Here => true,
        };
        self.waiting.values().filter(has_news).copied().collect()
    }

    fn look_after_waiters<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        now: Timestamp,
        mut waiters: Vec<Waiting>,
    ) -> Vec<Resumed> {
        // In the order in which they came, for those that are not in the queue.
        waiters.sort_by_key(|waiting| waiting.since);
        let mut queued: BTreeMap<(Target, Owner), Vec<Waiting>> = BTreeMap::new();
        let mut here: BTreeMap<Target, Vec<Waiting>> = BTreeMap::new();
        for waiting in waiters {
            match waiting.place {
                Place::Queue(owner) => queued.entry((waiting.target, owner)).or_default().push(waiting),
                Place::Here => here.entry(waiting.target).or_default().push(waiting),
            }
        }
        let mut resumed = Vec::new();
        for ((target, owner), waiters) in queued {
            resumed.extend(self.take_up(port, target, owner, &waiters, now));
        }
        for waiters in here.into_values() {
            resumed.extend(self.try_again(port, &waiters, now));
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
        // One that was away says so before it takes a permit up: others might take it for dead, and give it to somebody else.
        let me = self.join(port, now);
        let address = Address { owner, queue: self.queue };
        let looked = me.and_then(|me| {
            self.change(port, target, Operation::Admit, now, |state, patterns, effects| {
                let look = |waiting: &Waiting| {
                    if me == owner {
                        return patterns.take_up(state, address, waiting, now, effects);
                    }
                    // Others have taken this VM for dead: what it was given as who it was is not its own any more.
                    state.bulkhead.withdraw(owner, waiting.arrival.call, &mut effects.wakes);
                    Some(FULL)
                };
                waiters.iter().map(look).collect::<Vec<_>>()
            })
        });
        let verdicts = match looked {
            Some(verdicts) => {
                self.wait_on(waiters);
                verdicts
            }
            None => {
                port.report(Event::GaveUp { operation: Operation::Admit });
                waiters.iter().map(|waiting| self.not_looked_after(port, owner, waiting, now)).collect()
            }
        };
        let ended = waiters.iter().zip(verdicts);
        ended.filter_map(|(waiting, verdict)| Some(self.resume(waiting, verdict?, now))).collect()
    }

    /// The store has taken what there was to do: nobody need look again before the end of a wait.
    fn wait_on(&mut self, waiters: &[Waiting]) {
        for waiting in waiters {
            self.waiting.entry(waiting.arrival.call).and_modify(|waiting| waiting.again = None);
        }
    }

    /// What becomes of a waiter where the store would not say: soon another look, or, at the end of its wait, a refusal. Whether
    /// it has been given a permit is not known; its place is given back as soon as the store takes it.
    fn not_looked_after<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        owner: Owner,
        waiting: &Waiting,
        now: Timestamp,
    ) -> Option<Verdict> {
        let Waiting { target, arrival, until, .. } = *waiting;
        if now >= until {
            self.give_place_back(port, target, owner, arrival.call, now);
            return Some(waiting.over(now));
        }
        self.waiting.insert(arrival.call, Waiting { again: Some(now.after(RETRY)), ..*waiting });
        None
    }

    fn resume(&mut self, waiting: &Waiting, verdict: Verdict, now: Timestamp) -> Resumed {
        let Waiting { target, arrival: Arrival { call, .. }, since, .. } = *waiting;
        self.waiting.remove(&call);
        Resumed { call, target, verdict, waited: now.since(since) }
    }

    /// Another try for those that the store let neither in nor into the queue; where it takes the first no better, the others
    /// need not try.
    fn try_again<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        waiters: &[Waiting],
        now: Timestamp,
    ) -> Vec<Resumed> {
        let (mut resumed, mut in_vain) = (Vec::new(), false);
        for waiting in waiters {
            let Waiting { target, arrival, until, .. } = *waiting;
            if now >= until {
                resumed.push(self.resume(waiting, waiting.over(now), now));
                continue;
            }
            // Nothing is believed of what this reads: no number of the counter was taken before.
            let asked = if in_vain { None } else { self.ask(port, target, arrival, None, now) };
            in_vain = asked.is_none();
            let (place, again) = match asked {
                Some(Asked { queued: Some(owner), .. }) => (Place::Queue(owner), None),
                Some(Asked { verdict, queued: None }) => {
                    resumed.push(self.resume(waiting, verdict, now));
                    continue;
                }
                None => (Place::Here, Some(now.after(RETRY))),
            };
            self.waiting.insert(arrival.call, Waiting { place, again, ..*waiting });
        }
        resumed
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
            Turn::Waits if now < waiting.until || active(Bug::EndlessWait) => return None,
            Turn::Waits => {
                state.bulkhead.withdraw(address.owner, call, &mut effects.wakes);
                return Some(waiting.over(now));
            }
            Turn::Gone => return Some(FULL),
        };
        if !waiting.held && now > waiting.until {
            // On paper it was refused before.
            state.bulkhead.release(permit, &mut effects.wakes);
            return Some(FULL);
        }
        let mut pass = Pass { permit: Some(permit), ..Pass::default() };
        if !waiting.held {
            return Some(Verdict::Admitted(pass));
        }
        let late = waiting.arrival.time.is_over(now) && !active(Bug::LateGrant);
        let in_time = if late { Err(LATE) } else { Ok(()) };
        let asked = in_time.and_then(|()| match active(Bug::NotAskedAgain) {
            true => Ok(()),
            false => self.ask_breaker(state, address.owner, now, &mut pass, effects),
        });
        if let Err(refused) = asked {
            state.bulkhead.release(permit, &mut effects.wakes);
            return Some(Verdict::Refused(refused));
        }
        self.grant(state, address.owner, waiting.arrival, &mut pass, now);
        Some(Verdict::Admitted(pass))
    }
}

/// What a request gets whose deadline came while it waited.
const LATE: Refused = Refused { reason: Reason::DeadlineExceeded, wait: None };

/// What a request gets that finds no room.
pub(super) const FULL: Verdict = Verdict::Refused(Refused { reason: Reason::BulkheadFull, wait: None });
