//! What a writer may have done: what stands in the store must be what the model makes of it.

use super::{Deed, Vm};
use crate::model::Model;
use crate::view;
use crate::vm::Task;
use resilience_core::breaker::{Admission, Owner, Recorded, Settings, Transition};
use std::collections::BTreeSet;

/// Why a write was right.
pub(super) enum Reason {
    Admission(Admission),
    /// The outcome at this place of the VM's list.
    Outcome(usize, Recorded),
    Housekeeping(BTreeSet<Owner>),
    Force,
}

pub(super) struct Explained {
    pub model: Model,
    pub told: Vec<Transition>,
    /// What it may have been instead: different causes may leave the same behind.
    pub others: Vec<Vec<Transition>>,
    pub reason: Reason,
}

/// Looks for a reason, with each standing that the writer may have.
pub(super) fn explain(
    writer: &Vm,
    deed: &Deed,
    settings: &Settings,
    breaker: usize,
    base: &Model,
    shape: &view::Breaker,
) -> Option<Explained> {
    let mut found = Vec::new();
    for standing in &writer.standings {
        let mut adopted = base.clone();
        adopted.adopt(settings, *standing);
        adopted.chosen = match shape.phase {
            view::Phase::Open { until } => Some(until),
            _ => None,
        };
        found.extend(Explainer { writer, deed, settings, breaker, base: &adopted, shape }.all());
    }
    let others = found.iter().skip(1).map(|other| other.told.clone()).collect();
    Some(Explained { others, ..found.into_iter().next()? })
}

struct Explainer<'a> {
    writer: &'a Vm,
    deed: &'a Deed,
    settings: &'a Settings,
    breaker: usize,
    base: &'a Model,
    shape: &'a view::Breaker,
}

impl Explainer<'_> {
    fn attempt(&self, act: impl FnOnce(&mut Model, &mut Vec<Transition>) -> Reason) -> Option<Explained> {
        let (mut model, mut told) = (self.base.clone(), Vec::new());
        let reason = act(&mut model, &mut told);
        (model.shape() == *self.shape).then_some(Explained { model, told, others: Vec::new(), reason })
    }

    fn all(&self) -> Vec<Explained> {
        let (settings, now) = (self.settings, self.deed.begun.now);
        let of_policy = |asked| asked == crate::policy_of(self.breaker);
        if let Task::Force { policy, command, .. } = self.deed.task {
            let force = |model: &mut Model, told: &mut _| {
                model.force(command, now, told);
                Reason::Force
            };
            let right = of_policy(policy) && !self.deed.forced;
            return right.then(|| self.attempt(force)).flatten().into_iter().collect();
        }
        let reports = self.writer.unsettled.iter().enumerate();
        let reports = reports.filter(|(_, report)| report.breaker == self.breaker);
        let mut found: Vec<_> = reports
            .filter_map(|(place, report)| {
                self.attempt(|model, told| {
                    let recorded = model.record(settings, &report.ticket, report.outcome, now, told);
                    Reason::Outcome(place, recorded)
                })
            })
            .collect();
        let asks = matches!(self.deed.task, Task::Admit { policy, .. } if of_policy(policy));
        if let Some(me) = self.writer.me.filter(|_| asks && self.deed.promised.is_none()) {
            found.extend(self.attempt(|model, told| Reason::Admission(model.admit(settings, me, now, told))));
        }
        if found.is_empty() {
            found.extend(self.housekeeping());
        }
        found
    }

    /// The end of a stay may be written by anyone; the dead are for a leader on its tick.
    fn housekeeping(&self) -> Option<Explained> {
        let left = match &self.shape.phase {
            view::Phase::HalfOpen { probes, .. } if self.deed.task == Task::Tick => Some(probes),
            _ => None,
        };
        let gone = self
            .base
            .out()
            .into_iter()
            .filter(|probe| left.is_some_and(|left| !left.contains(&(probe.owner.0, probe.id))));
        let dead: BTreeSet<_> = gone.map(|probe| probe.owner).collect();
        let owners: Vec<_> = dead.iter().copied().collect();
        self.attempt(|model, told| {
            model.maintain(self.settings, self.deed.begun.now, &owners, told);
            Reason::Housekeeping(dead)
        })
    }
}
