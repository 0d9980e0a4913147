//! What a VM tells, what it has to have told when it is done, and what is left at the end of a run.

use super::{Oracle, Untold, Verdict, VmId};
use crate::vm::{Done, Finished, Task};
use resilience_core::breaker::{Cause, State};
use resilience_core::worker::{Event, Operation};

impl Oracle {
    /// A VM tells what happened.
    ///
    /// # Errors
    /// What is wrong.
    pub fn told(&mut self, vm: VmId, event: Event, policy: usize) -> Verdict {
        match event {
            Event::GaveUp { operation: Operation::Lease } => self.reached.late += 1,
            Event::GaveUp { .. } => self.reached.gave_up += 1,
            Event::Reclaimed { probes, permits, .. } => {
                self.reached.reclaimed += probes as u64;
                self.reached.regained += u64::from(permits);
            }
            Event::Crowd { policy, in_flight, waiting, limit } => {
                self.crowd(vm, policy, in_flight, waiting, limit)?;
            }
            Event::Transition { transition, .. } => {
                self.reached.transitions += 1;
                self.reached.timeouts += u64::from(transition.cause == Cause::HalfOpenTimeout);
                self.reached.closed += u64::from(transition.to == State::Closed);
                let by_rate = matches!(transition.cause, Cause::FailureRate | Cause::SlowCallRate);
                self.reached.rates += u64::from(by_rate);
                self.reached.forced += u64::from(transition.cause == Cause::Forced);
            }
            Event::KeysExhausted { .. } => self.reached.exhausted += 1,
            Event::Conflicts { .. } | Event::Observed { .. } => {}
        }
        let deed = self.deed(vm)?;
        match event {
            Event::Transition { transition, .. } => {
                let Some(place) = deed.untold.iter().position(|untold| {
                    let right = untold.transition == transition || untold.others.contains(&transition);
                    right && untold.breaker == policy
                }) else {
                    return Err(format!(
                        "VM {vm} told a transition of policy {policy} that it had not committed, or told already: {transition}"
                    ));
                };
                deed.untold.remove(place);
            }
            Event::Conflicts { count, .. } => {
                deed.conflicts = deed
                    .conflicts
                    .checked_sub(count)
                    .ok_or_else(|| format!("VM {vm} counted conflicts that never were"))?;
            }
            Event::GaveUp { operation } => deed.gave_up.push(operation),
            Event::KeysExhausted { .. } => deed.exhausted = true,
            Event::Reclaimed { probes, permits, .. } => {
                let left = deed.reclaimed.checked_sub(probes).zip(deed.regained.checked_sub(permits));
                (deed.reclaimed, deed.regained) = left
                    .ok_or_else(|| format!("VM {vm} told of what was never reclaimed of policy {policy}"))?;
            }
            Event::Crowd { .. } => {}
            Event::Observed { state, .. } => {
                let begun = deed.begun;
                if !self.policies[policy].could_see(begun, false, |entry| entry.state() == state) {
                    return Err(format!("VM {vm} shows policy {policy} as {state}, which it was not"));
                }
            }
        }
        Ok(())
    }

    /// A VM has done what it was told.
    ///
    /// # Errors
    /// What is wrong.
    pub fn finished(&mut self, vm: VmId, finished: &Finished) -> Verdict {
        let done = &finished.done;
        let Some(mut deed) = self.vms.get_mut(&vm).and_then(|vm| vm.deed.take()) else { return Ok(()) };
        if let Some(Untold { breaker: policy, transition, .. }) = deed.untold.first() {
            return Err(format!("VM {vm} never told a transition of policy {policy}: {transition}"));
        }
        if let Some(policy) = deed.unannounced.first() {
            return Err(format!("VM {vm} never announced a change of policy {policy}"));
        }
        if let Some((queue, id)) = deed.unsent.first() {
            return Err(format!("VM {vm} never told waiter {id} of queue {queue}"));
        }
        if deed.reclaimed > 0 || deed.regained > 0 || deed.conflicts > 0 {
            return Err(format!(
                "VM {vm} did not tell of {} reclaimed probes and {} conflicts",
                deed.reclaimed, deed.conflicts
            ));
        }
        if self.vms.get(&vm).is_some_and(|found| found.deaf) {
            return Err(format!("VM {vm} lets requests wait, and has not tried to open a queue"));
        }
        if let Done::Decided(breaker, _) | Done::Forced(breaker) = done {
            self.aimed(vm, &deed, *breaker)?;
        }
        if let Done::Decided(breaker, verdict) = done {
            self.answered(vm, &mut deed, *breaker, verdict)?;
        }
        self.resumed(vm, &mut deed, finished)?;
        if let Done::Forced(breaker) = done
            && self.vms.get(&vm).is_some_and(|found| self.settings(found, *breaker).is_none())
        {
            return self.settled(vm, &deed);
        }
        if let Task::Force { .. } = deed.task
            && deed.forced == (deed.times(Operation::Force) > 0)
        {
            return Err(format!("VM {vm} neither did what the operator said nor gave it up: {deed:?}"));
        }
        if let Some(report) = self.asked_to_report(&deed) {
            self.recorded(vm, &deed, report)?;
        }
        self.settled(vm, &deed)
    }

    /// What must still come to an end before a run may: in words, for a failing one.
    #[must_use]
    pub fn unfinished(&self) -> Vec<String> {
        let mut left = Vec::new();
        for (policy, history) in self.policies.iter().enumerate() {
            if history.latest().state() != State::Closed || history.latest().is_damaged() {
                left.push(format!("policy {policy} is not closed: {:?}", history.latest()));
            }
            if history.latest().shown_room()
                != (crate::view::Room { next: history.latest().shown_room().next, ..Default::default() })
            {
                left.push(format!("the bulkhead of {policy} is not empty: {:?}", history.latest()));
            }
        }
        for (vm, found) in &self.vms {
            if !found.waiting.is_empty() {
                left.push(format!("VM {vm} has requests that wait: {:?}", found.waiting));
            }
            if !found.unsettled.is_empty() {
                left.push(format!("VM {vm} still holds {:?}", found.unsettled));
            }
        }
        let mut living: Vec<_> = self.vms.values().filter_map(|vm| vm.me).map(|me| me.0).collect();
        living.sort_unstable();
        if self.members.owners() != living {
            left.push(format!("the table has {:?}, and alive are {living:?}", self.members.owners()));
        }
        left
    }
}
