//! A write that was committed must be explained by something its writer was asked to do.

use super::explain::Shown;
use super::explain::{Explained, Reason, explain};
use super::queue::Place;
use super::{Frees, Moment, Oracle, Untold, Verdict, VmId};
use crate::model::Model;
use crate::model::ask::{Said, Whole, claim};
use crate::view;
use crate::vm::Task;
use resilience_core::breaker::{Admission, Ticket};
use resilience_core::state::State;
use resilience_core::store::Expected;
use resilience_core::time::Timestamp;

impl Oracle {
    /// A VM has written a policy's value.
    ///
    /// # Errors
    /// What is wrong.
    pub fn wrote(&mut self, vm: VmId, policy: usize, bytes: &[u8], over: Expected) -> Verdict {
        let Some(writer) = self.vms.get(&vm) else { return Err(format!("VM {vm} writes after its end")) };
        let Some(deed) = &writer.deed else { return Err(format!("VM {vm} writes with nothing to do")) };
        let value = view::value(bytes);
        let read = value.breaker.as_ref().zip(value.room.as_ref()).zip(value.budget.as_ref());
        let Some(((shape, room), budget)) = read.filter(|_| value.sound) else {
            return Err(format!("VM {vm} wrote what cannot be read: {bytes:?}"));
        };
        let history = &self.policies[policy];
        if value.foreign != history.foreign {
            return Err(format!("VM {vm} changed sections that are not ours: {:?}", value.foreign));
        }
        history.check_bounds(bytes, shape)?;
        if State::decode(Some(bytes), Timestamp::from_nanos(self.now.now)).encode() != bytes {
            return Err(format!("VM {vm} wrote what reads as something else: {bytes:?}"));
        }
        let Some(rules) = self.rules(writer, policy) else {
            return Err(format!("VM {vm} wrote policy {policy}, of which it keeps no state"));
        };
        let (latest, begun) = (history.latest(), deed.begun);
        let before = latest.shown_room();
        if let Some(wrong) =
            room.wrong(&before).or_else(|| self.enters_wrongly(writer, policy, room, &before))
        {
            return Err(format!(
                "VM {vm}, in bulkhead {policy}: {wrong}\n  it was: {before:?}\n  it is: {room:?}"
            ));
        }
        if let Some(wrong) = budget.as_ref().and_then(view::budget::Budget::wrong) {
            return Err(format!("VM {vm}, in budget {policy}: {wrong}\n  it is: {budget:?}"));
        }
        let (damaged, base) = (latest.is_damaged(), latest.written_over(over, begun.now));
        let shown = Shown { breaker: shape, room, budget };
        let Some(explained) = explain(writer, deed, rules, policy, &base, &shown, history) else {
            return Err(format!(
                "VM {vm} wrote policy {policy} for no reason\n     it does: {:?}, with standings {:?}\n  with open: {:?}\n    waiting: {:?}\n      found: {:?} {:?} {:?}\n      wrote: {shape:?} {room:?} {budget:?}\n      rates: {:?}",
                deed.task,
                writer.standings,
                writer.unsettled,
                writer.waiting,
                base.model.shape(),
                base.room.shape(),
                base.budget.shape(),
                rules.rates,
            ));
        };
        if let Reason::Housekeeping(dead) = &explained.reason {
            let alive = |vm| self.vms.contains_key(&vm);
            let after = &explained.whole.model;
            for probe in base.model.out().iter().filter(|probe| after.was_reclaimed(**probe)) {
                self.members.may_reclaim(*probe, begun, alive)?;
            }
            for owner in base.room.owners().filter(|owner| dead.contains(owner)) {
                let since = self.homes.get(&(policy, owner)).copied().unwrap_or_default();
                self.members
                    .may_take(owner, since, begun, alive)
                    .map_err(|why| format!("permits were taken back: {why}"))?;
            }
            for owner in base.budget.owners().filter(|owner| dead.contains(owner)) {
                let since = self.purses.get(&(policy, owner)).copied().unwrap_or_default();
                self.members
                    .may_take(owner, since, begun, alive)
                    .map_err(|why| format!("retries were taken back: {why}"))?;
            }
        }
        if explained.reason.takes() {
            self.members.may_take_up(vm, begun)?;
        }
        if latest.budget().is_some_and(|budget| !budget.is_believed(begun.now)) {
            self.accounts[policy].begin_again();
        }
        self.policies[policy].remembers(bytes, &explained.told.transitions, &explained.others)?;
        self.commit(vm, policy, &base, damaged, explained)?;
        self.purse_changes(policy);
        let after = self.policies[policy].latest().room().cloned().unwrap_or_default();
        self.room_changes(policy, begun, &before, &after)
    }

    fn commit(
        &mut self,
        vm: VmId,
        policy: usize,
        base: &Whole,
        damaged: bool,
        explained: Explained,
    ) -> Verdict {
        let now = self.now;
        let limit = self.limit(vm, policy, &explained.reason);
        let Some(writer) = self.vms.get_mut(&vm) else { return Ok(()) };
        let Some(deed) = &mut writer.deed else { return Ok(()) };
        deed.unsent.extend(&explained.told.wakes);
        deed.untold.extend(explained.told.transitions.into_iter().enumerate().map(|(nth, transition)| {
            let others = explained.others.iter().filter_map(|told| told.get(nth).copied()).collect();
            Untold { breaker: policy, transition, others }
        }));
        // What somebody may believe otherwise must be announced.
        if damaged || base.model.belief() != explained.whole.model.belief() {
            deed.unannounced.push(policy);
        } else {
            deed.announceable.push(policy);
        }
        let begun = deed.begun;
        // A worker that stands still between its decision and its write cannot know how late it is.
        let moment = Moment { step: now.step, ..begun };
        let mut sent = |ticket: Option<Ticket>| {
            if let Some(probe) = ticket.and_then(|ticket| ticket.probe) {
                self.members.sent(probe, moment);
            }
        };
        let Whole { model, room, budget } = &explained.whole;
        // A damaged value may be written for whatever changes nothing else.
        let same = *room == base.room && *budget == base.budget;
        let repairs = same && model.shape() == base.model.shape();
        deed.instead.extend(explained.instead);
        match explained.reason {
            Reason::Asked(..) | Reason::Looked(..) | Reason::GaveUp(..) if repairs => {}
            Reason::Admission(admission) => {
                // Of what is closed no write decides: it was written for something else.
                let by_write = !matches!(admission, Admission::Admitted(ticket) if ticket.probe.is_none());
                deed.promised = by_write.then_some(admission);
                if let Admission::Admitted(ticket) = admission {
                    sent(Some(ticket));
                }
            }
            Reason::Asked(call, saids) => {
                let owner = writer.me.map_or(0, |me| me.0);
                if let Some(waiting) = writer.waiting.get_mut(&call).filter(|_| saids.contains(&Said::Waits))
                {
                    (waiting.place, waiting.again) = (Place::Queue(owner), vec![None]);
                }
                let first = saids.first().copied();
                let probed = explained.whole.model.shape().next_probe != base.model.shape().next_probe;
                self.reached.handed_back += u64::from(first == Some(Said::Full) && probed);
                let gone = base.room.waiting() == explained.whole.room.waiting();
                let waits = matches!(first, Some(Said::Waits | Said::InName(..)));
                self.reached.evicted += u64::from(waits && gone);
                deed.promises.push((call, saids));
                if let Some((ticket, _)) = first.and_then(|said| said.goes_on()) {
                    sent(ticket);
                }
                if let Some(Said::In { permit: Some(_), .. }) = first {
                    self.has_permit(vm, call, policy, owner, limit)?;
                }
                if let Some((said, arrival)) = first.zip(self.arrival(vm, call)) {
                    self.goes_on(vm, policy, arrival, said, begun);
                }
            }
            Reason::Looked(owner, told) => {
                deed.looked.insert((policy, owner));
                deed.promises.extend(told.iter().cloned());
                self.reached.together += u64::from(told.len() > 1);
                for (_, saids) in &told {
                    if let Some(Said::In { ticket, .. }) = saids.first() {
                        sent(*ticket);
                    }
                }
                self.took_up(vm, policy, owner, &told)?;
                for (call, saids) in &told {
                    if let Some((said, arrival)) = saids.first().zip(self.arrival(vm, *call)) {
                        self.goes_on(vm, policy, arrival, *said, begun);
                    }
                }
            }
            Reason::GaveUp(call, saids) => {
                self.held.remove(&(vm, call));
                deed.promises.push((call, saids));
            }
            Reason::Outcome(place, late) => {
                let report = writer.unsettled.remove(place);
                deed.counted |= match deed.task {
                    Task::Complete { call, ticket, returned, .. } => {
                        let about = (ticket.is_some(), returned.permit.is_some(), returned.spent.is_some());
                        let permit = matches!(report.frees, Some(Frees::Permit(_)));
                        let its_own = (report.ticket.is_some(), permit, report.spent.is_some());
                        call == report.call && about == its_own
                    }
                    Task::Abandon { call, .. } => call == report.call,
                    Task::Release { call, .. } => call == report.call,
                    _ => false,
                };
                deed.late += usize::from(late);
                if report.frees.is_some() {
                    self.held.remove(&(vm, report.call));
                }
                if report.spent.is_some() {
                    self.kept.remove(&(vm, report.call));
                }
            }
            Reason::Force => deed.forced = true,
            Reason::Housekeeping(dead) => {
                let out = base.model.out().into_iter();
                let lost: Vec<_> = out.filter(|it| explained.whole.model.was_reclaimed(*it)).collect();
                deed.reclaimed += lost.len();
                self.policies[policy].reclaimed(base.model.generation(), &lost);
                let owners: Vec<_> = dead.iter().copied().collect();
                deed.forfeited += base.budget.clone().reclaim(&owners, begun.now);
                self.reached.forfeited += u64::from(deed.forfeited);
                self.forfeit(policy, &dead);
                self.regain(vm, policy, base, &dead);
            }
        }
        let history = &mut self.policies[policy];
        history.outdated = false;
        let Whole { mut model, room, budget } = explained.whole;
        model.chosen = None;
        history.becomes(now, Some(model), Some(room), Some(budget));
        self.knows(vm, policy);
        Ok(())
    }

    /// What the dead held is counted no more. If one of them lives after all, that is an overshoot.
    fn regain(&mut self, vm: VmId, breaker: usize, base: &Whole, dead: &std::collections::BTreeSet<u64>) {
        let dead_owners: Vec<_> = dead.iter().copied().collect();
        let count = base.room.clone().reclaim(&dead_owners, &mut Vec::new());
        let living = |vm: &VmId| self.vms.contains_key(vm);
        let lost = |held: &super::Held| held.breaker == breaker && dead.contains(&held.owner);
        let over = self.held.iter().filter(|((vm, _), held)| lost(held) && !held.ended && living(vm)).count();
        self.reached.overshoot += over as u64;
        self.held.retain(|_, held| !(held.breaker == breaker && dead.contains(&held.owner)));
        if let Some(deed) = self.vms.get_mut(&vm).and_then(|vm| vm.deed.as_mut()) {
            // What is given on at once was free in between.
            deed.regained += count;
        }
    }

    /// A newcomer that went in past its limit, as the bytes say.
    fn enters_wrongly(
        &self,
        writer: &super::Vm,
        breaker: usize,
        room: &view::Room,
        before: &view::Room,
    ) -> Option<String> {
        let Some(Task::Admit { policy, arrival, .. }) = writer.deed.as_ref().map(|deed| deed.task) else {
            return None;
        };
        if policy != crate::policy_of(breaker) {
            return None;
        }
        let bulkhead = self.patterns(writer, breaker)?.bulkhead.as_ref()?;
        let limit = claim(&bulkhead.settings, arrival.class).limit;
        let over = room.was_entered(writer.me?.0, before) && room.in_flight() > limit;
        over.then(|| {
            format!("{} are in flight, and a request of the limit {limit} went in", room.in_flight())
        })
    }

    /// How many may be in flight for a request to be let in, if a write is about one.
    fn limit(&self, vm: VmId, breaker: usize, reason: &Reason) -> u32 {
        let Some((writer, Reason::Asked(call, _))) = self.vms.get(&vm).zip(Some(reason)) else { return 0 };
        let class = match writer.deed.as_ref().map(|deed| deed.task) {
            Some(Task::Admit { arrival, .. }) => arrival.class,
            _ => writer.waiting.get(call).and_then(|waiting| waiting.arrival.class),
        };
        self.limit_of(writer, breaker, class)
    }

    fn limit_of(&self, writer: &super::Vm, breaker: usize, class: Option<usize>) -> u32 {
        let bulkhead = self.patterns(writer, breaker).and_then(|patterns| patterns.bulkhead.as_ref());
        bulkhead.map_or(0, |bulkhead| claim(&bulkhead.settings, class).limit)
    }

    /// Waiters were looked after together: who is told to go on has a permit, and who is not has none.
    fn took_up(&mut self, vm: VmId, breaker: usize, owner: u64, told: &[(u32, Vec<Said>)]) -> Verdict {
        for (call, saids) in told {
            if !matches!(saids.first(), Some(Said::In { .. })) {
                self.held.remove(&(vm, *call));
            } else if !self.held.contains_key(&(vm, *call))
                && let Some(writer) = self.vms.get(&vm)
            {
                // It came free in the same update.
                let class = writer.waiting.get(call).and_then(|waiting| waiting.arrival.class);
                let limit = self.limit_of(writer, breaker, class);
                self.has_permit(vm, *call, breaker, owner, limit)?;
            }
        }
        Ok(())
    }

    /// Something that is not one of our workers has written a policy's value, and announces it.
    pub fn meddled(&mut self, policy: usize, bytes: &[u8]) {
        let value = view::value(bytes);
        self.reached.meddled += 1;
        let history = &mut self.policies[policy];
        let kept = history.latest().model().cloned();
        let maybe = [(false, false), (true, false), (false, true), (true, true)];
        let maybe = maybe.map(|(rates, recovery)| kept.as_ref().map(|kept| kept.without(rates, recovery)));
        let mut maybe = maybe.into_iter().flatten();
        let model = maybe.find(|model| value.breaker.as_ref() == Some(&model.shape()));
        history.foreign = value.foreign;
        history.remembers_instead(bytes);
        let kept = history.latest().room().filter(|room| value.room == Some(room.shape())).cloned();
        let room = kept.or_else(|| value.room.as_ref().map(|_| crate::model::room::Room::default()));
        let lost = room.as_ref() != history.latest().room();
        let again = lost && room.is_some();
        let before = history.latest().budget();
        let budget = before.filter(|budget| value.budget == Some(budget.shape())).cloned();
        let budget = budget.or_else(|| value.budget.as_ref().map(|_| Default::default()));
        let spent = budget.as_ref() != before;
        let anew = spent && budget.is_some();
        history.becomes(self.now, model, room, budget);
        history.announced(self.now.step);
        if lost {
            self.lost_room(policy, again);
        }
        if spent {
            self.lost_budget(policy, anew);
        }
    }
}

impl Oracle {
    /// An older module has written a policy's value, of which this is what can be read, and announces it.
    pub fn moved_on(&mut self, breaker: usize, model: Model) {
        self.reached.meddled += 1;
        let history = &mut self.policies[breaker];
        history.outdated = true;
        let (room, budget) = (history.latest().room().cloned(), history.latest().budget().cloned());
        history.becomes(self.now, Some(model), room, budget);
        history.announced(self.now.step);
    }
}
