//! A write that was committed must be explained by something its writer was asked to do.

use super::{Deed, Moment, Oracle, Verdict, Vm, VmId};
use crate::model::Model;
use crate::view;
use crate::vm::Task;
use resilience_core::breaker::{Admission, Owner, Recorded, Settings, Transition};
use resilience_core::state::State;
use resilience_core::time::Timestamp;
use std::collections::BTreeSet;

/// Why a write was right.
enum Reason {
    Admission(Admission),
    /// The outcome at this place of the VM's list.
    Outcome(usize, Recorded),
    Housekeeping(BTreeSet<Owner>),
}

struct Explained {
    model: Model,
    told: Vec<Transition>,
    reason: Reason,
}

impl Oracle {
    /// A VM has written a policy's value.
    ///
    /// # Errors
    /// What is wrong.
    pub fn wrote(&mut self, vm: VmId, policy: usize, bytes: &[u8]) -> Verdict {
        let Some(writer) = self.vms.get(&vm) else { return Err(format!("VM {vm} writes after its end")) };
        let Some(deed) = &writer.deed else { return Err(format!("VM {vm} writes with nothing to do")) };
        let value = view::value(bytes);
        let Some(shape) = &value.breaker else {
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
        let Some(settings) = self.settings(writer, policy) else {
            return Err(format!("VM {vm} wrote policy {policy}, of which it keeps no state"));
        };
        let base = history.latest().model().cloned();
        let base = base.unwrap_or_else(|| Model::fresh(deed.begun.now));
        let Some(explained) = explain(writer, deed, settings, policy, &base, shape) else {
            return Err(format!(
                "VM {vm} wrote policy {policy} for no reason\n     it does: {:?}\n  with open: {:?}\n      found: {:?}\n      wrote: {shape:?}",
                deed.task,
                writer.unsettled,
                base.shape()
            ));
        };
        if let Reason::Housekeeping(dead) = &explained.reason {
            for probe in base.out().iter().filter(|probe| dead.contains(&probe.owner)) {
                let begun = deed.begun;
                self.members.may_reclaim(*probe, begun, |vm| self.vms.contains_key(&vm))?;
            }
        }
        self.commit(vm, policy, &base, explained)
    }

    fn commit(&mut self, vm: VmId, policy: usize, base: &Model, explained: Explained) -> Verdict {
        let now = self.now;
        let Some(writer) = self.vms.get_mut(&vm) else { return Ok(()) };
        let Some(deed) = &mut writer.deed else { return Ok(()) };
        deed.untold.extend(explained.told.into_iter().map(|transition| (policy, transition)));
        deed.unannounced.push(policy);
        match explained.reason {
            Reason::Admission(admission) => {
                deed.promised = Some(admission);
                if let Admission::Admitted(ticket) = admission
                    && let Some(probe) = ticket.probe
                {
                    // A worker that stands still between its decision and its write cannot know how late it is.
                    self.members.sent(probe, Moment { step: now.step, ..deed.begun });
                }
            }
            Reason::Outcome(place, recorded) => {
                let report = writer.unsettled[place];
                deed.counted |= matches!(deed.task, Task::Record { policy, ticket, outcome }
                    if (policy, ticket, outcome) == (report.policy, report.ticket, report.outcome));
                if recorded == Recorded::Counted {
                    writer.unsettled.remove(place);
                }
            }
            Reason::Housekeeping(dead) => {
                let lost: Vec<_> =
                    base.out().into_iter().filter(|probe| dead.contains(&probe.owner)).collect();
                deed.reclaimed += lost.len();
                self.policies[policy].reclaimed(base.generation(), &lost);
            }
        }
        self.policies[policy].becomes(now, Some(explained.model));
        self.knows(vm, policy);
        Ok(())
    }

    /// Something that is not one of our workers has written a policy's value, and announces it.
    pub fn meddled(&mut self, policy: usize, bytes: &[u8]) {
        let value = view::value(bytes);
        self.reached.meddled += 1;
        let history = &mut self.policies[policy];
        let kept = history.latest().model().cloned();
        let model = kept.filter(|model| value.breaker.as_ref() == Some(&model.shape()));
        history.foreign = value.foreign;
        history.becomes(self.now, model);
        history.announced(self.now.step);
    }
}

/// Looks for what the writer may have done: what stands in the store must be what the model makes of it.
fn explain(
    writer: &Vm,
    deed: &Deed,
    settings: &Settings,
    policy: usize,
    base: &Model,
    shape: &view::Breaker,
) -> Option<Explained> {
    let now = deed.begun.now;
    let attempt = |act: &mut dyn FnMut(&mut Model, &mut Vec<Transition>) -> Reason| {
        let (mut model, mut told) = (base.clone(), Vec::new());
        let reason = act(&mut model, &mut told);
        (model.shape() == *shape).then_some(Explained { model, told, reason })
    };
    let reports = writer.unsettled.iter().enumerate().filter(|(_, report)| report.policy == policy);
    let as_outcome = reports.map(|(place, report)| {
        attempt(&mut |model, told| {
            Reason::Outcome(place, model.record(settings, &report.ticket, report.outcome, now, told))
        })
    });
    let asks = matches!(deed.task, Task::Admit { policy: asked } if asked == policy);
    let me = writer.me.filter(|_| asks && deed.promised.is_none());
    let as_admission =
        me.and_then(|me| attempt(&mut |model, told| Reason::Admission(model.admit(settings, me, now, told))));
    let found = as_outcome.flatten().next().or(as_admission);
    found.or_else(|| {
        // The end of a stay may be written by anyone; the dead are for a leader on its tick.
        let left = match &shape.phase {
            view::Phase::HalfOpen { probes, .. } => probes.as_slice(),
            _ => &[],
        };
        let gone = base.out().into_iter().filter(|probe| !left.contains(&(probe.owner.0, probe.id)));
        let dead: BTreeSet<_> = gone.map(|probe| probe.owner).collect();
        let dead = if deed.task == Task::Tick && matches!(shape.phase, view::Phase::HalfOpen { .. }) {
            dead
        } else {
            BTreeSet::new()
        };
        let owners: Vec<_> = dead.iter().copied().collect();
        attempt(&mut |model, told| {
            model.maintain(settings, now, &owners, told);
            Reason::Housekeeping(dead.clone())
        })
    })
}
