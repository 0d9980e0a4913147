//! What a VM tells, what it has to have told when it is done, and what is left at the end of a run.

use super::history::Entry;
use super::{Oracle, Report, Untold, Verdict, VmId};
use crate::vm::{Done, Finished, Task};
use resilience_core::breaker::{Cause, State};
use resilience_core::worker::{Event, Operation};
use std::fmt;

impl Oracle {
    /// A VM tells what happened.
    ///
    /// # Errors
    /// What is wrong.
    pub fn told(&mut self, vm: VmId, event: Event, policy: usize) -> Verdict {
        match event {
            Event::GaveUp { operation: Operation::Lease } => self.reached.late += 1,
            Event::GaveUp { .. } => self.reached.gave_up += 1,
            Event::Balance { policy, retries } => self.balance(vm, policy, retries)?,
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
            Event::Conflicts { .. } | Event::Observed { .. } | Event::Reigns { .. } | Event::Lost { .. } => {}
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
            Event::Reclaimed { probes, permits, retries, .. } => {
                let left = deed.reclaimed.checked_sub(probes).zip(deed.regained.checked_sub(permits));
                let left = left.zip(deed.forfeited.checked_sub(retries));
                ((deed.reclaimed, deed.regained), deed.forfeited) = left
                    .ok_or_else(|| format!("VM {vm} told of what was never reclaimed of policy {policy}"))?;
            }
            Event::Crowd { .. } | Event::Balance { .. } | Event::Reigns { .. } | Event::Lost { .. } => {}
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
        if deed.reclaimed > 0 || deed.regained > 0 || deed.forfeited > 0 || deed.conflicts > 0 {
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
        if let Some(report) = self.reported_by(deed.task) {
            self.recorded(vm, &deed, report)?;
        }
        self.settled(vm, &deed)
    }

    /// What must still come to an end before a run may.
    #[must_use]
    pub fn unfinished(&self) -> Vec<Unfinished<'_>> {
        let mut left = Vec::new();
        for (breaker, history) in self.policies.iter().enumerate() {
            let latest = history.latest();
            if latest.state() != State::Closed || latest.is_damaged() {
                left.push(Unfinished::NotClosed(breaker, latest));
            }
            if latest.room().is_some_and(|room| room.owners().next().is_some()) {
                left.push(Unfinished::NotEmpty(breaker, latest));
            }
            if latest.budget().is_some_and(|budget| budget.owners().next().is_some()) {
                left.push(Unfinished::NotEmpty(breaker, latest));
            }
        }
        for (vm, found) in &self.vms {
            if !found.waiting.is_empty() || !found.unsettled.is_empty() {
                left.push(Unfinished::Holds(*vm, found.waiting.keys().copied().collect(), &found.unsettled));
            }
        }
        let mut living: Vec<_> = self.vms.values().filter_map(|vm| vm.me).map(|me| me.0).collect();
        living.sort_unstable();
        let stands = self.members.owners();
        if stands != living {
            left.push(Unfinished::Table { stands, living });
        }
        left
    }
}

/// What has not come to an end. It is looked for often, and put into words only where a run fails.
pub enum Unfinished<'a> {
    /// A breaker is not closed, or cannot be read.
    NotClosed(usize, &'a Entry),
    /// Somebody is in flight through a bulkhead, or waits, or may be retried.
    NotEmpty(usize, &'a Entry),
    /// A VM has requests that wait, or has something to give back.
    Holds(VmId, Vec<u32>, &'a [Report]),
    /// The table has others than those that are alive.
    Table {
        /// Who has a line.
        stands: Vec<u64>,
        /// Who is alive.
        living: Vec<u64>,
    },
}

impl fmt::Display for Unfinished<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotClosed(breaker, entry) => write!(f, "breaker {breaker} is not closed: {entry:?}"),
            Self::NotEmpty(breaker, entry) => write!(f, "something is kept in {breaker}: {entry:?}"),
            Self::Holds(vm, waiting, unsettled) => {
                write!(f, "VM {vm} has requests that wait: {waiting:?}, and holds {unsettled:?}")
            }
            Self::Table { stands, living } => {
                write!(f, "the table has {stands:?}, and alive are {living:?}")
            }
        }
    }
}
