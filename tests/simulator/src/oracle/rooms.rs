//! Bulkheads seen from outside: who is in flight, who is told, and what a newcomer hears.

use super::queue::{Place, RETRY, Waiting};
use super::{Deed, Moment, Oracle, Verdict, VmId};
use crate::model::ask::{Rules, Said, Told, Whole, same};
use crate::model::grant::{Grant, wanted};
use crate::model::room::Room;
use crate::view;
use crate::vm::Task;
use resilience_core::answer::Reason;
use resilience_core::breaker::{Admission, State};
use resilience_core::bulkhead::Wake;
use resilience_core::time::Timestamp;
use resilience_core::worker::{Arrival, Operation, Refused, Verdict as Answer};
use std::time::Duration;

/// A call with a permit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Held {
    pub(super) breaker: usize,
    pub(super) owner: u64,
    /// It is not in flight any more, and its permit is on its way back.
    pub(super) ended: bool,
}

impl Oracle {
    /// A VM opens a shared queue.
    ///
    /// # Errors
    /// What is wrong.
    pub fn listens(&mut self, vm: VmId, name: Option<&str>, queue: Option<u32>) -> Verdict {
        let Some(found) = self.vms.get_mut(&vm) else { return Ok(()) };
        found.queue = queue.unwrap_or(0);
        found.deaf = false;
        let Some(name) = name else { return Ok(()) };
        let slot = found.me.and_then(|me| self.members.slot(me.0));
        if slot.map(|slot| format!("resilience/shop/#wake/{slot}")).as_deref() == Some(name) {
            return Ok(());
        }
        // Somebody else may have been here since.
        if slot.is_none() { Ok(()) } else { Err(format!("VM {vm} of slot {slot:?} opens the queue {name}")) }
    }

    /// A VM sends a message.
    ///
    /// # Errors
    /// What is wrong.
    pub fn woke(&mut self, vm: VmId, wake: Wake) -> Verdict {
        let deed = self.deed(vm)?;
        let Some(place) = deed.unsent.iter().position(|owed| *owed == (wake.queue, wake.id)) else {
            return Err(format!("VM {vm} wakes somebody without cause: {wake:?}"));
        };
        deed.unsent.remove(place);
        Ok(())
    }

    /// A leader shows how many are in flight and wait.
    pub(super) fn crowd(
        &self,
        vm: VmId,
        policy: usize,
        in_flight: u32,
        waiting: u32,
        limit: Option<u32>,
    ) -> Verdict {
        let Some((found, deed)) = self.vms.get(&vm).and_then(|vm| Some((vm, vm.deed.as_ref()?))) else {
            return Ok(());
        };
        let patterns = self.patterns(found, crate::breaker(policy, None));
        let Some(bulkhead) = patterns.and_then(|patterns| patterns.bulkhead.as_ref()) else {
            return Err(format!("VM {vm} shows a bulkhead that it does not have"));
        };
        let (mut least, mut most) = ((0, 0), (0, 0));
        for breaker in policy * crate::EACH..(policy + 1) * crate::EACH {
            let seen = || self.policies[breaker].since(deed.begun).map(|entry| entry.room_at(0));
            most.0 += seen().map(|room| room.in_flight()).max().unwrap_or(0);
            most.1 += seen().map(|room| room.waiting()).max().unwrap_or(0);
            // What it has read before it knows, and a sum without it is shown to nobody.
            if !found.seen[breaker].is_empty() {
                least.0 += seen().map(|room| room.in_flight()).min().unwrap_or(0);
                least.1 += seen().map(|room| room.waiting()).min().unwrap_or(0);
            }
        }
        let fits = |room: &Room| (room.in_flight(), room.waiting()) == (in_flight, waiting);
        let own = &self.policies[crate::breaker(policy, None)];
        let alone = self.keys_of(policy).is_empty();
        let right = (least.0..=most.0).contains(&in_flight) && (least.1..=most.1).contains(&waiting);
        let right = right && (!alone || own.since(deed.begun).any(|entry| fits(&entry.room_at(0))));
        if right && limit.is_none_or(|limit| limit == bulkhead.settings.max_concurrent_calls) {
            return Ok(());
        }
        Err(format!(
            "VM {vm} shows {in_flight} in flight, {waiting} that wait and the limit {limit:?} of policy {policy}\n  the state: {:?}",
            own.latest()
        ))
    }

    /// What a committed write did to those in flight and those that wait.
    pub(super) fn room_changes(
        &mut self,
        breaker: usize,
        begun: Moment,
        before: &view::Room,
        after: &Room,
    ) -> Verdict {
        let shape = after.shape();
        for owner in shape.holders.keys().filter(|owner| !before.holders.contains_key(owner)) {
            self.homes.insert((breaker, *owner), Moment { step: self.now.step, ..begun });
        }
        // In the order in which they were served: only that of a class is told by their places.
        let mut granted: Vec<_> = after.granted().collect();
        granted.sort_by_key(|waiter| waiter.rank);
        for waiter in granted {
            let old = before.waiters.iter().find(|old| (old.owner, old.id) == (waiter.owner, waiter.id));
            if old.is_some_and(|old| old.granted) {
                continue;
            }
            self.reached.granted += 1;
            let Some(vm) = self.members.vm_of(waiter.owner) else {
                return Err(format!("a waiter of nobody: {waiter:?}"));
            };
            self.has_permit(vm, waiter.id, breaker, waiter.owner, waiter.limit)?;
        }
        Ok(())
    }

    /// What is in the store is what is in flight: looked at when nobody is in the middle of anything.
    ///
    /// # Errors
    /// What is wrong.
    pub fn quiet(&self) -> Verdict {
        for (breaker, history) in self.policies.iter().enumerate() {
            if self.spoiled.contains(&breaker) {
                continue;
            }
            let stands = history.latest().shown_room().in_flight() as usize;
            let held = self.held.values().filter(|held| held.breaker == breaker).count();
            if stands != held {
                let calls: Vec<_> = self.held.iter().filter(|(_, held)| held.breaker == breaker).collect();
                return Err(format!(
                    "bulkhead {breaker} counts {stands} in flight, and there are {held}: {calls:?}\n  the state: {:?}",
                    history.latest()
                ));
            }
        }
        self.budgets_add_up()
    }

    /// A bulkhead was lost to damage: who was in flight through it is counted no more.
    pub(super) fn lost_room(&mut self, breaker: usize, again: bool) {
        self.held.retain(|_, held| held.breaker != breaker);
        if again {
            self.spoiled.insert(breaker);
        }
    }

    /// A request has its answer.
    pub(super) fn answered(
        &mut self,
        vm: VmId,
        deed: &mut Deed,
        breaker: usize,
        verdict: &Answer,
    ) -> Verdict {
        let Task::Admit { arrival, .. } = deed.task else { return Ok(()) };
        let Some(found) = self.vms.get(&vm) else { return Ok(()) };
        let (call, now) = (arrival.call, deed.begun.now);
        let open = |is_probe| arrival.wanted.map(|it| Grant::open(wanted(it, is_probe, &arrival.time, now)));
        let Some(rules) = self.rules(found, breaker) else {
            let said = Said::In { ticket: None, permit: None, over: false, grant: open(false) };
            let right = said.is(verdict);
            return if right { Ok(()) } else { Err(format!("VM {vm} without a policy decided {verdict:?}")) };
        };
        if !rules.are_for_all() {
            return match verdict {
                Answer::Admitted(pass) if pass.permit.is_none() && pass.shadowed.is_empty() => {
                    let is_probe = pass.ticket.is_some_and(|ticket| ticket.probe.is_some());
                    if !same(open(is_probe).as_ref(), pass) {
                        return Err(format!("VM {vm} granted what nobody bounds: {verdict:?}, {arrival:?}"));
                    }
                    let Some(ticket) = pass.ticket else { return Err(format!("VM {vm} asked no breaker")) };
                    self.decided(vm, deed, breaker, Admission::Admitted(ticket))
                }
                Answer::Refused(Refused { reason: Reason::CircuitOpen, wait }) => {
                    self.decided(vm, deed, breaker, Admission::Refused { wait: *wait })
                }
                _ => Err(format!("VM {vm} has no bulkhead and decided {verdict:?}")),
            };
        }
        let bulkhead = rules.patterns.bulkhead.as_ref();
        let queue = bulkhead.and_then(|bulkhead| bulkhead.settings.queue);
        let longest = queue.map(|queue| queue.max_wait_duration.as_nanos() as u64);
        let shadow = bulkhead.is_some_and(|bulkhead| bulkhead.shadow);
        let (since, me) = (deed.begun.now, found.me);
        let promised = deed.promises.iter().position(|(promised, _)| *promised == call);
        let saids = promised.map(|place| deed.promises.swap_remove(place).1);
        let here = saids.is_none();
        match &saids {
            Some(saids) => self.keeps_word(vm, call, breaker, saids, verdict)?,
            None => self.answered_unwritten(vm, deed, breaker, &arrival, verdict)?,
        }
        let said = saids.into_iter().flatten().find(|said| said.is(verdict));
        self.reached.full += u64::from(Said::Full.is(verdict));
        if let Answer::Admitted(pass) = verdict {
            self.reached.shadowed += u64::from(shadow && pass.permit.is_none());
        }
        self.reached.waited_here += u64::from(here && *verdict == Answer::Waits);
        let waits = *verdict == Answer::Waits || matches!(said, Some(Said::InName(..)));
        if let Some(found) = self.vms.get_mut(&vm).filter(|_| waits) {
            let place = if here { Place::Here } else { Place::Queue(me.map_or(0, |me| me.0)) };
            let again = vec![here.then_some(since.saturating_add(RETRY))];
            let until = since.saturating_add(longest.unwrap_or(0));
            // Whoever waits in name only goes on all the same.
            let deadline = arrival.time.deadline.filter(|_| !shadow).map(Timestamp::as_nanos);
            let until = deadline.map_or(until, |deadline| deadline.min(until));
            found.waiting.insert(call, Waiting { breaker, arrival, since, until, place, again });
        }
        Ok(())
    }

    /// A request was told something that took no write.
    pub(super) fn answered_unwritten(
        &mut self,
        vm: VmId,
        deed: &Deed,
        breaker: usize,
        arrival: &Arrival,
        verdict: &Answer,
    ) -> Verdict {
        let Some(found) = self.vms.get(&vm) else { return Ok(()) };
        let Some(rules) = self.rules(found, breaker) else { return Ok(()) };
        // Those that try again are never told anything by halves.
        let newcomer = matches!(deed.task, Task::Admit { .. });
        let blind = newcomer && deed.times(Operation::Admit) > 0;
        let (begun, history) = (deed.begun, &self.policies[breaker]);
        let me = found.me.map_or(u64::MAX, |me| me.0);
        let unchanged = |belief: bool, said: &dyn Fn(Said) -> bool| {
            history.could_see(begun, belief, |entry| {
                if entry.is_damaged() {
                    return false;
                }
                let base = entry.whole_at(begun.now);
                [false, true].into_iter().any(|kept_out| {
                    let (mut whole, mut told): (Whole, _) = (base.clone(), Told::default());
                    let heard = whole.ask(rules, (me, found.queue), arrival, begun.now, kept_out, &mut told);
                    let same = whole.room == base.room && whole.budget == base.budget;
                    same && whole.model.shape() == base.model.shape() && heard.is_some_and(said)
                })
            })
        };
        let right = match verdict {
            _ if blind && self.right_when_blind(vm, breaker, rules, arrival, begun.now, verdict) => true,
            Answer::Refused(Refused { reason: Reason::CircuitOpen, wait: Some(wait) }) => {
                history.could_see(begun, true, |entry| {
                    entry.model().is_some_and(|model| {
                        let rest = model.until().and_then(|until| until.checked_sub(begun.now));
                        model.state() == State::Open && rest.map(Duration::from_nanos) == Some(*wait)
                    })
                })
            }
            Answer::Refused(Refused { reason: Reason::CircuitOpen, wait: None }) => {
                unchanged(true, &|said| said == Said::Open(None))
            }
            Answer::Waits => false,
            Answer::Admitted(_) | Answer::Refused(_) => unchanged(false, &|said| said.is(verdict)),
        };
        if right {
            return Ok(());
        }
        Err(format!(
            "VM {vm} told request {} {verdict:?} and wrote nothing\n  the state: {:?}",
            arrival.call,
            history.latest()
        ))
    }

    /// What is said when the store gives no answer: by what was last known of the breaker, and never past a bulkhead. As many
    /// wait with their VM as may wait in the queue.
    fn right_when_blind(
        &self,
        vm: VmId,
        breaker: usize,
        Rules { patterns, rates }: Rules<'_>,
        arrival: &Arrival,
        now: u64,
        verdict: &Answer,
    ) -> bool {
        let Some(found) = self.vms.get(&vm) else { return false };
        let bulkhead = patterns.bulkhead.as_ref();
        let shadow = bulkhead.is_none_or(|bulkhead| bulkhead.shadow);
        let (seen, queue) = (&found.seen[breaker], bulkhead.and_then(|bulkhead| bulkhead.settings.queue));
        let may_wait = queue.is_some_and(|queue| found.waiting_here(breaker) < usize::from(queue.max_queue));
        let may_pass = patterns.breaker.is_none() || !found.asked[breaker] || seen.contains(&State::Closed);
        match verdict {
            Answer::Refused(Refused { reason: Reason::CircuitOpen, wait: None }) => {
                patterns.breaker.is_some() && seen.iter().any(|state| *state != State::Closed)
            }
            Answer::Admitted(pass) => {
                let probe = pass.ticket.is_some_and(|ticket| ticket.probe.is_some());
                let known = pass.ticket.is_some() == patterns.breaker.is_some();
                // One that may wait would have done so.
                let no_room = bulkhead.is_some() && queue.is_none();
                let shadowed: &[_] = if no_room { &[Reason::BulkheadFull] } else { &[] };
                let on_paper = shadow && pass.shadowed == shadowed;
                let grant =
                    arrival.wanted.map(|it| Grant::blind(wanted(it, false, &arrival.time, now), rates));
                same(grant.as_ref(), pass) && may_pass && on_paper && known && !probe && pass.permit.is_none()
            }
            Answer::Waits => may_pass && !shadow && may_wait,
            Answer::Refused(_) => may_pass && !shadow && !may_wait && Said::Full.is(verdict),
        }
    }
}
