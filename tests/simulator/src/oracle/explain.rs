//! What a writer may have done: what stands in the store must be what the model makes of it.

use super::waiters::Place;
use super::{Deed, Frees, Report, Vm};
use crate::model::ask::{Both, Said, Told};
use crate::view;
use crate::vm::Task;
use resilience_core::breaker::{Admission, Outcome, Owner, Recorded, Transition};
use resilience_core::worker::{Operation, Patterns};
use std::collections::BTreeSet;

/// Why a write was right.
pub(super) enum Reason {
    Admission(Admission),
    /// A request that wants in was told one of these.
    Asked(u32, Vec<Said>),
    /// A waiter was told one of these.
    TookUp(u32, Vec<Said>),
    /// The outcome at this place of the VM's list, and whether it was late.
    Outcome(usize, bool),
    Housekeeping(BTreeSet<u64>),
    Force,
}

impl Reason {
    fn said(&self) -> Option<(u32, Vec<Said>)> {
        match self {
            Self::Asked(call, saids) | Self::TookUp(call, saids) => Some((*call, saids.clone())),
            _ => None,
        }
    }
}

pub(super) struct Explained {
    pub both: Both,
    pub told: Told,
    /// What it may have been instead: different causes may leave the same behind.
    pub others: Vec<Vec<Transition>>,
    pub reason: Reason,
}

/// What stands in the store.
pub(super) struct Shown<'a> {
    pub breaker: &'a view::Breaker,
    pub room: &'a view::Room,
}

/// Looks for a reason, with each standing that the writer may have.
pub(super) fn explain(
    writer: &Vm,
    deed: &Deed,
    patterns: &Patterns,
    breaker: usize,
    base: &Both,
    shown: &Shown<'_>,
) -> Option<Explained> {
    let mut found = Vec::new();
    for standing in &writer.standings {
        let mut adopted = base.clone();
        if let Some(breaker) = &patterns.breaker {
            adopted.model.adopt(&breaker.settings, *standing);
        }
        adopted.model.chosen = match shown.breaker.phase {
            view::Phase::Open { until } => Some(until),
            _ => None,
        };
        found.extend(Explainer { writer, deed, patterns, breaker, base: &adopted, shown }.all());
    }
    let others = found.iter().skip(1).map(|other| other.told.transitions.clone()).collect();
    // A request was told one of all that leave the same behind.
    let saids: Vec<_> = found.iter().filter_map(|it| it.reason.said()).collect();
    let mut first = found.into_iter().next()?;
    if let Reason::Asked(call, all) | Reason::TookUp(call, all) = &mut first.reason {
        *all = saids.into_iter().filter(|(other, _)| other == call).flat_map(|(_, said)| said).collect();
    }
    Some(Explained { others, ..first })
}

struct Explainer<'a> {
    writer: &'a Vm,
    deed: &'a Deed,
    patterns: &'a Patterns,
    breaker: usize,
    base: &'a Both,
    shown: &'a Shown<'a>,
}

impl Explainer<'_> {
    fn attempt(&self, act: impl FnOnce(&mut Both, &mut Told) -> Option<Reason>) -> Option<Explained> {
        let (mut both, mut told) = (self.base.clone(), Told::default());
        let reason = act(&mut both, &mut told)?;
        let same = both.room.shape() == *self.shown.room && both.model.shape() == *self.shown.breaker;
        same.then_some(Explained { both, told, others: Vec::new(), reason })
    }

    fn all(&self) -> Vec<Explained> {
        let now = self.deed.begun.now;
        if let Task::Force { policy, command, .. } = self.deed.task {
            let force = |both: &mut Both, told: &mut Told| {
                both.model.force(command, now, &mut told.transitions);
                Some(Reason::Force)
            };
            let right = policy == crate::policy_of(self.breaker) && !self.deed.forced;
            return right.then(|| self.attempt(force)).flatten().into_iter().collect();
        }
        let mut found = self.reports();
        found.extend(self.admissions());
        found.extend(self.waiters());
        if found.is_empty() {
            found.extend(self.housekeeping());
        }
        found
    }

    fn reports(&self) -> Vec<Explained> {
        // What was left over is seen to first, but not by whom a timer called, or a client that leaves.
        let lost = self.deed.lost();
        let first = match self.deed.task {
            Task::Timer | Task::Withdraw { .. } => self.deed.earlier,
            // What it gives back before anything else may be what was lost, or be tried twice.
            Task::Complete { waits: true, .. } => lost.saturating_sub(1),
            Task::Leave => 0,
            // They are seen to in their order, and one that the store does not take stays where it is.
            _ => lost,
        };
        let reports = self.writer.unsettled.iter().enumerate();
        let reports = reports.filter(|(place, report)| report.breaker == self.breaker && *place >= first);
        let both_ways = reports.flat_map(|(place, report)| [(place, report, true), (place, report, false)]);
        both_ways.filter_map(|(place, report, weighed)| self.report(place, report, weighed)).collect()
    }

    /// An outcome that is not `weighed`: a success of a generation that is gone, which comes with a permit.
    fn report(&self, place: usize, report: &Report, weighed: bool) -> Option<Explained> {
        let stale = report.ticket.is_some_and(|ticket| ticket.generation != self.base.model.generation());
        let may = report.frees.is_some() && report.outcome == Outcome::Success && stale;
        if !weighed && !may {
            return None;
        }
        self.attempt(|both, told| {
            let mut late = false;
            if let Some((ticket, breaker)) =
                report.ticket.zip(self.patterns.breaker.as_ref()).filter(|_| weighed)
            {
                let (now, transitions) = (self.deed.begun.now, &mut told.transitions);
                let idle = ticket.probe.is_none() && report.outcome == Outcome::Ignored;
                let recorded = (!idle)
                    .then(|| both.model.record(&breaker.settings, &ticket, report.outcome, now, transitions));
                late = recorded == Some(Recorded::Reclaimed);
            }
            match report.frees {
                Some(Frees::Permit(permit)) => late |= !both.room.release(permit, &mut told.wakes),
                Some(Frees::Place(owner)) => both.room.withdraw(owner, report.call, &mut told.wakes),
                None => {}
            }
            Some(Reason::Outcome(place, late))
        })
    }

    fn admissions(&self) -> Vec<Explained> {
        let Task::Admit { policy, call, class, .. } = self.deed.task else { return Vec::new() };
        let Some(me) = self.writer.me.filter(|_| policy == crate::policy_of(self.breaker)) else {
            return Vec::new();
        };
        if self.patterns.bulkhead.is_some() {
            return if self.deed.has_promised(call) { Vec::new() } else { self.asks(call, class) };
        }
        let Some(breaker) = self.patterns.breaker.as_ref().filter(|_| self.deed.promised.is_none()) else {
            return Vec::new();
        };
        let admit = |both: &mut Both, told: &mut Told| {
            let now = self.deed.begun.now;
            Some(Reason::Admission(both.model.admit(&breaker.settings, me, now, &mut told.transitions)))
        };
        self.attempt(admit).into_iter().collect()
    }

    fn asks(&self, call: u32, class: Option<usize>) -> Vec<Explained> {
        let Some(me) = self.writer.me else { return Vec::new() };
        let home = (me.0, self.writer.queue);
        let ask = |kept_out| {
            self.attempt(|both, told| {
                let said =
                    both.ask(self.patterns, home, (call, class), self.deed.begun.now, kept_out, told)?;
                Some(Reason::Asked(call, vec![said]))
            })
        };
        [false, true].into_iter().filter_map(ask).collect()
    }

    fn waiters(&self) -> Vec<Explained> {
        let mut found = Vec::new();
        let mut in_order: Vec<_> = self.writer.waiting.iter().collect();
        in_order.sort_by_key(|(_, waiting)| waiting.since);
        for (call, waiting) in in_order {
            let mine = waiting.breaker == self.breaker && waiting.is_looked_after(*call, self.deed);
            if !mine || self.deed.has_promised(*call) {
                continue;
            }
            match waiting.place {
                Place::Here { .. } => found.extend(self.asks(*call, waiting.class)),
                Place::Queue(owner) => {
                    let home = (owner, self.writer.queue);
                    let now = self.deed.begun.now;
                    found.extend(self.attempt(|both, told| {
                        let said =
                            both.take_up(self.patterns, home, *call, (now, now >= waiting.until), told)?;
                        Some(Reason::TookUp(*call, vec![said]))
                    }));
                    let blind = now >= waiting.until && self.deed.times(Operation::Admit) > 0;
                    found.extend(blind.then(|| self.give_up(owner, *call)).flatten());
                }
            }
        }
        found
    }

    /// A waiter whose wait is over, and of which the store did not say what had become of it.
    fn give_up(&self, owner: u64, call: u32) -> Option<Explained> {
        self.attempt(|both, told| {
            both.room.withdraw(owner, call, &mut told.wakes);
            Some(Reason::TookUp(call, vec![Said::Full]))
        })
    }

    /// The end of a stay may be written by anyone; the dead are for a leader on its tick.
    fn housekeeping(&self) -> Option<Explained> {
        let tick = self.deed.task == Task::Tick;
        let left: BTreeSet<_> = match &self.shown.breaker.phase {
            view::Phase::HalfOpen { probes, .. } => probes.iter().copied().collect(),
            _ => BTreeSet::new(),
        };
        let half_open = matches!(self.shown.breaker.phase, view::Phase::HalfOpen { .. });
        let out = self.base.model.out();
        let gone = out.iter().filter(|probe| half_open && !left.contains(&(probe.owner.0, probe.id)));
        let gone = gone.map(|probe| probe.owner.0);
        let homeless = self.base.room.owners().filter(|owner| !self.shown.room.holders.contains_key(owner));
        let dead: BTreeSet<u64> = gone.chain(homeless).filter(|_| tick).collect();
        let owners: Vec<_> = dead.iter().map(|owner| Owner(*owner)).collect();
        self.attempt(|both, told| {
            if let Some(breaker) = &self.patterns.breaker {
                both.model.maintain(&breaker.settings, self.deed.begun.now, &owners, &mut told.transitions);
            }
            let dead_owners: Vec<_> = dead.iter().copied().collect();
            both.room.reclaim(&dead_owners, &mut told.wakes);
            Some(Reason::Housekeeping(dead))
        })
    }
}
