//! Requests that wait: each must hear of its turn, and none may wait on when its time is over.

use super::queue::{Place, Waiting};
use super::{Deed, Frees, Held, Oracle, Report, Verdict, VmId};
use crate::model::ask::{self, Said};
use crate::vm::{Finished, Task};
use resilience_core::breaker::Outcome;
use resilience_core::budget;
use resilience_core::worker::{Operation, Resumed, Returned, Verdict as Said_};
use std::collections::BTreeMap;

impl Report {
    /// A place in a queue that is given back.
    const fn of_place(breaker: usize, call: u32, owner: u64) -> Self {
        let frees = Some(Frees::Place(owner));
        Self { breaker, call, ticket: None, outcome: Outcome::Ignored, frees, spent: None }
    }
}

impl Deed {
    /// Whether a committed write has decided over a request.
    pub(super) fn has_promised(&self, call: u32) -> bool {
        self.promises.iter().any(|(promised, _)| *promised == call)
    }

    fn take_promise(&mut self, call: u32) -> Option<Vec<Said>> {
        let place = self.promises.iter().position(|(promised, _)| *promised == call)?;
        Some(self.promises.swap_remove(place).1)
    }
}

impl Oracle {
    /// Whether a request waits, if only in name.
    #[must_use]
    pub fn waits(&self, vm: VmId, call: u32) -> bool {
        self.vms.get(&vm).is_some_and(|vm| vm.waiting.contains_key(&call))
    }

    /// What ends when a VM begins with a task: from now on it is not in flight, and waits for nothing.
    pub(super) fn ends(&mut self, vm: VmId, task: Task) {
        let Some(found) = self.vms.get_mut(&vm) else { return };
        let gone: Vec<u32> = match task {
            Task::Withdraw { call } | Task::Complete { call, waits: true, .. } => vec![call],
            Task::Leave => found.waiting.keys().copied().collect(),
            _ => Vec::new(),
        };
        for call in gone {
            let Some(Waiting { breaker, place, .. }) = found.waiting.remove(&call) else { continue };
            self.reached.left += 1;
            if let Some(held) = self.held.get_mut(&(vm, call)) {
                held.ended = true;
                self.reached.left_granted += 1;
            }
            if let Place::Queue(owner) = place {
                found.unsettled.push(Report::of_place(breaker, call, owner));
            }
        }
        let Some(report) = self.reported_by(task) else { return };
        let Report { breaker, call, ticket, outcome, frees, .. } = report;
        if let Some(held) = self.held.get_mut(&(vm, call)).filter(|_| frees.is_some()) {
            held.ended = true;
        }
        if let Some(found) = self.vms.get_mut(&vm).filter(|_| ticket.is_some() || report.gives_back()) {
            found.unsettled.push(report);
        }
        if let Some((ticket, probe)) = ticket.and_then(|ticket| Some((ticket, ticket.probe?))) {
            self.policies[breaker].answered(ticket.generation, probe, outcome);
        }
    }

    /// What a task itself reports.
    pub(super) fn reported_by(&self, task: Task) -> Option<Report> {
        let known = |permit| self.permits.iter().rev().find(|(known, _)| *known == permit).map(|(_, it)| *it);
        let reserved = |reserve: budget::Reserve| {
            self.reserves.iter().rev().find(|(known, _)| *known == reserve).map(|(_, it)| *it)
        };
        let spent = |spent: budget::Spent| Some((reserved(spent.reserve)?, spent.retries));
        let (breaker, call, ticket, outcome, returned) = match task {
            Task::Complete { breaker, call, ticket, outcome, returned, .. } => {
                (breaker, call, ticket, outcome, returned)
            }
            Task::Release { breaker, call, returned } => (breaker, call, None, Outcome::Ignored, returned),
            Task::Abandon { breaker, call, ticket, permit, grant } => {
                // It was never sent.
                let reserve = grant.and_then(|grant| grant.reserve);
                let spent = reserve.map(|reserve| budget::Spent { reserve, retries: 0 });
                (breaker, call, ticket, Outcome::Ignored, Returned { permit, spent })
            }
            _ => return None,
        };
        let frees = returned.permit.and_then(known).map(Frees::Permit);
        let spent = returned.spent.and_then(spent);
        Some(Report { breaker, call, ticket, outcome, frees, spent })
    }

    /// A VM has told what became of those that wait.
    pub(super) fn resumed(&mut self, vm: VmId, deed: &mut Deed, finished: &Finished) -> Verdict {
        self.sort_out(vm, deed, finished);
        let Some(found) = self.vms.get(&vm) else { return Ok(()) };
        found.tries_once(vm, deed)?;
        let groups = found.groups(deed).len();
        for (breaker, resumed) in &finished.resumed {
            self.is_over(vm, deed, *breaker, resumed)?;
        }
        let Some(found) = self.vms.get(&vm) else { return Ok(()) };
        if let Some((call, said)) = deed
            .promises
            .iter()
            .find(|(call, said)| !(said.contains(&Said::Waits) && found.waiting.contains_key(call)))
        {
            return Err(format!("VM {vm} committed and never said of request {call}: {said:?}"));
        }
        self.nobody_forgotten(vm, deed)?;
        self.looks_again(vm, deed, groups, finished)
    }

    /// Of several that try again, a write does not tell which one it let in.
    fn sort_out(&mut self, vm: VmId, deed: &mut Deed, finished: &Finished) {
        let Some(found) = self.vms.get(&vm).filter(|_| !deed.promises.is_empty()) else { return };
        let at_home = found.waiting.iter().filter(|(_, waiting)| waiting.place == Place::Here);
        let at_home: BTreeMap<u32, usize> = at_home.map(|(call, waiting)| (*call, waiting.breaker)).collect();
        let here = |call: u32| at_home.get(&call).copied();
        let fits = |call: u32, saids: &[Said]| {
            let told = finished.resumed.iter().find(|(_, resumed)| resumed.call == call);
            told.is_some_and(|(_, resumed)| saids.iter().any(|said| said.is(&resumed.verdict)))
        };
        let instead = deed.instead.clone();
        let here_instead = |other: u32, saids: &Vec<Said>| instead.get(&other).unwrap_or(saids).clone();
        // One that is put right may make room for another.
        let count = deed.promises.len();
        for index in (0..count).flat_map(|_| 0..count) {
            let (call, saids) = deed.promises[index].clone();
            let Some(breaker) = here(call).filter(|_| !fits(call, &saids)) else { continue };
            let other = finished.resumed.iter().map(|(_, resumed)| resumed.call).find(|other| {
                here(*other) == Some(breaker)
                    && !deed.has_promised(*other)
                    && fits(*other, &here_instead(*other, &saids))
            });
            let Some(other) = other else { continue };
            deed.promises[index] = (other, here_instead(other, &saids));
            self.was_another(vm, call, other);
            if let Some(held) = self.held.remove(&(vm, call)) {
                self.held.insert((vm, other), held);
            }
        }
    }

    fn is_over(&mut self, vm: VmId, deed: &mut Deed, breaker: usize, resumed: &Resumed) -> Verdict {
        let Resumed { call, verdict, waited, .. } = resumed;
        let begun = deed.begun;
        let waiting = self.vms.get_mut(&vm).and_then(|vm| vm.waiting.remove(call));
        let Some(waiting) = waiting else {
            return Err(format!("VM {vm} resumed request {call}, which did not wait"));
        };
        let span = begun.now.saturating_sub(waiting.since);
        if waiting.breaker != breaker || waited.as_nanos() != u128::from(span) {
            return Err(format!("VM {vm} tells wrongly how request {call} waited: {waiting:?}, {resumed:?}"));
        }
        let over = begun.now >= waiting.until;
        let full = Said::Full.is(verdict);
        let patterns = self.vms.get(&vm).and_then(|found| self.patterns(found, breaker));
        let ended = patterns.map(|patterns| ask::over(patterns, &waiting.arrival, begun.now));
        let ended = ended.is_some_and(|said| said.is(verdict));
        self.reached.waited += u64::from(over && full);
        self.reached.overdue += u64::from(Said::Late.is(verdict));
        if let Some(saids) = deed.take_promise(*call) {
            return self.keeps_word(vm, *call, breaker, &saids, verdict);
        }
        let right = match waiting.place {
            Place::Queue(owner) => {
                let history = &self.policies[breaker];
                let gone = history.could_see(begun, false, |entry| {
                    entry.room().is_none_or(|room| room.find(owner, *call).is_none())
                });
                let blind = over && deed.times(Operation::Admit) > 0;
                if blind {
                    // Its place is given back as soon as the store takes that.
                    let report = Report::of_place(breaker, *call, owner);
                    self.held.entry((vm, *call)).and_modify(|held| held.ended = true);
                    if let Some(found) = self.vms.get_mut(&vm) {
                        found.unsettled.push(report);
                    }
                }
                full && gone || ended && blind
            }
            Place::Here if over => ended,
            Place::Here => {
                return self.answered_unwritten(vm, deed, breaker, &waiting.arrival, verdict);
            }
        };
        if right {
            return Ok(());
        }
        Err(format!(
            "VM {vm} resumed request {call} with {verdict:?}, which waited as {waiting:?}\n  the state: {:?}",
            self.policies[breaker].latest()
        ))
    }

    /// What was committed was told.
    pub(super) fn keeps_word(
        &mut self,
        vm: VmId,
        call: u32,
        breaker: usize,
        saids: &[Said],
        verdict: &Said_,
    ) -> Verdict {
        let Some(said) = saids.iter().find(|said| said.is(verdict)) else {
            return Err(format!("VM {vm} told request {call} {verdict:?}, and committed {saids:?}"));
        };
        if let (Said::In { permit: Some(known), .. }, Said_::Admitted(pass)) = (said, verdict)
            && let Some(permit) = pass.permit
        {
            if self.permits.iter().any(|(other, it)| (*other == permit) != (it == known)) {
                return Err(format!("VM {vm} gave request {call} a permit of another time: {permit:?}"));
            }
            if !self.permits.contains(&(permit, *known)) {
                self.permits.push((permit, *known));
            }
        }
        if let (Some((_, Some(grant))), Said_::Admitted(pass)) = (said.goes_on(), verdict)
            && let Some((given, reserve)) = pass.grant.and_then(|granted| granted.reserve).zip(grant.reserve)
        {
            if self.reserves.iter().any(|(other, it)| (*other == given) != (*it == reserve)) {
                return Err(format!("VM {vm} granted request {call} retries of another time: {given:?}"));
            }
            if !self.reserves.contains(&(given, reserve)) {
                self.reserves.push((given, reserve));
            }
        }
        if let Said_::Admitted(pass) = verdict
            && let Some((ticket, probe)) = pass.ticket.and_then(|ticket| Some((ticket, ticket.probe?)))
        {
            self.policies[breaker].reached(ticket.generation, probe)?;
        }
        Ok(())
    }

    /// Whoever was looked after and could go on, or had waited long enough, waits no more.
    fn nobody_forgotten(&self, vm: VmId, deed: &Deed) -> Verdict {
        let Some(found) = self.vms.get(&vm) else { return Ok(()) };
        for (call, waiting) in &found.waiting {
            if !waiting.is_looked_after(*call, deed) {
                continue;
            }
            let Place::Queue(owner) = waiting.place else { continue };
            if deed.begun.now >= waiting.until {
                return Err(format!("VM {vm} lets request {call} wait for too long: {waiting:?}"));
            }
            let before = self.policies[waiting.breaker].as_of(deed.begun.step);
            let granted = |it: &crate::view::Waiter| it.granted;
            let had = before.room().and_then(|room| room.find(owner, *call)).is_some_and(granted);
            if had && deed.times(Operation::Admit) == 0 && !deed.has_promised(*call) {
                return Err(format!("VM {vm} does not tell request {call} of its permit: {waiting:?}"));
            }
        }
        Ok(())
    }

    /// A call has a permit from now on: no more may be in flight than its own configuration and class allow.
    pub(super) fn has_permit(
        &mut self,
        vm: VmId,
        call: u32,
        breaker: usize,
        owner: u64,
        limit: u32,
    ) -> Verdict {
        self.held.insert((vm, call), Held { breaker, owner, ended: false });
        let held = self.held.values().filter(|held| held.breaker == breaker && !held.ended).count();
        if held > limit as usize {
            return Err(format!(
                "{held} are in flight through {breaker}, and request {call} of VM {vm} has a limit of {limit}"
            ));
        }
        Ok(())
    }
}
