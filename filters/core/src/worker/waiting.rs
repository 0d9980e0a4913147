//! Requests of this VM that wait for a permit: each hears of its turn by a message, and the VM looks by itself at the end of
//! a wait and on every tick, in case a message was lost.

use super::admission::Asked;
use super::{Arrival, Event, Operation, Pass, Port, Refused, Resumed, Target, Verdict, Worker};
use crate::answer::Reason;
use crate::breaker::Owner;
use crate::bulkhead::{Address, Turn};
use crate::planted::{Bug, active};
use crate::time::Timestamp;
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

    /// Forgets a waiter whose client left. Does nothing for a request that does not wait.
    pub fn withdraw<P: Port + ?Sized>(&mut self, port: &mut P, call: u32, now: Timestamp) {
        let Some(waiting) = self.waiting.remove(&call) else { return };
        if let Place::Queue(owner) = waiting.place {
            self.give_place_back(port, waiting.target, owner, call, now);
        }
    }

    /// Looks after a waiter that a message names.
    pub fn woken<P: Port + ?Sized>(&mut self, port: &mut P, call: u32, now: Timestamp) -> Option<Resumed> {
        self.flush(port, now);
        self.look_after_waiter(port, call, now)
    }

    /// When to call [`Self::wait_over`] at the latest; `None` while nobody waits.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.waiting.values().map(Waiting::due).min()
    }

    /// Looks after those whose wait is over, or who try again.
    pub fn wait_over<P: Port + ?Sized>(&mut self, port: &mut P, now: Timestamp) -> Vec<Resumed> {
        self.look_after_waiters(port, now, |waiting| waiting.due() <= now)
    }

    /// Looks after all that wait, on a tick: a message may have been lost.
    pub fn look_after_all<P: Port + ?Sized>(&mut self, port: &mut P, now: Timestamp) -> Vec<Resumed> {
        self.look_after_waiters(port, now, |_| true)
    }

    fn look_after_waiters<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        now: Timestamp,
        which: impl Fn(&Waiting) -> bool,
    ) -> Vec<Resumed> {
        // In the order in which they came, for those that are not in the queue.
        let mut due: Vec<_> = self.waiting.iter().filter(|(_, waiting)| which(waiting)).collect();
        due.sort_by_key(|(_, waiting)| waiting.since);
        let due: Vec<u32> = due.into_iter().map(|(call, _)| *call).collect();
        due.into_iter().filter_map(|call| self.look_after_waiter(port, call, now)).collect()
    }

    fn look_after_waiter<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        call: u32,
        now: Timestamp,
    ) -> Option<Resumed> {
        let waiting = *self.waiting.get(&call)?;
        let verdict = match waiting.place {
            Place::Queue(owner) => self.take_up(port, &waiting, owner, now),
            Place::Here { .. } => self.try_again(port, &waiting, now),
        }?;
        self.waiting.remove(&call);
        Some(Resumed { call, target: waiting.target, verdict, waited: now.since(waiting.since) })
    }

    /// Finds out what has become of a waiter in the queue; `None` while it waits on. The breaker is asked again: much may have
    /// happened since.
    fn take_up<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        waiting: &Waiting,
        owner: Owner,
        now: Timestamp,
    ) -> Option<Verdict> {
        let Waiting { target, arrival: Arrival { call, .. }, until, held, .. } = *waiting;
        let address = Address { owner, queue: self.queue };
        let over = now >= until && !active(Bug::EndlessWait);
        let looked = self.change(port, target, Operation::Admit, now, |state, patterns, effects| {
            let permit = match state.bulkhead.take_up(address, call) {
                Turn::Granted(permit) => permit,
                Turn::Waits if !over => return None,
                Turn::Waits => {
                    state.bulkhead.withdraw(owner, call, &mut effects.wakes);
                    return Some(FULL);
                }
                Turn::Gone => return Some(FULL),
            };
            let mut pass = Pass { permit: Some(permit), ..Pass::default() };
            let ask = held && !active(Bug::NotAskedAgain);
            if ask && let Err(refused) = patterns.ask_breaker(state, owner, now, &mut pass, effects) {
                state.bulkhead.release(permit, &mut effects.wakes);
                return Some(Verdict::Refused(refused));
            }
            Some(Verdict::Admitted(pass))
        });
        if looked.is_some() {
            return looked.flatten();
        }
        port.report(Event::GaveUp { operation: Operation::Admit });
        // Whether it has been given a permit is not known; its place is given back as soon as the store takes it.
        over.then(|| {
            self.give_place_back(port, target, owner, call, now);
            FULL
        })
    }

    /// Another try for one that the store let neither in nor into the queue.
    fn try_again<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        waiting: &Waiting,
        now: Timestamp,
    ) -> Option<Verdict> {
        let Waiting { target, arrival, until, .. } = *waiting;
        if now >= until {
            return Some(FULL);
        }
        let place = match self.ask(port, target, arrival, now) {
            Some(Asked { queued: Some(owner), .. }) => Place::Queue(owner),
            Some(Asked { verdict, queued: None }) => return Some(verdict),
            None => Place::Here { again: now.after(RETRY) },
        };
        self.waiting.insert(arrival.call, Waiting { place, ..*waiting });
        None
    }
}

/// What a request gets that finds no room.
pub(super) const FULL: Verdict = Verdict::Refused(Refused { reason: Reason::BulkheadFull, wait: None });
