//! A write that was committed must be explained by something its writer was asked to do.

use super::explain::{Explained, Reason, explain};
use super::{Moment, Oracle, Untold, Verdict, VmId};
use crate::model::Model;
use crate::view;
use crate::vm::Task;
use resilience_core::breaker::{Admission, Recorded};
use resilience_core::state::State;
use resilience_core::time::Timestamp;

impl Oracle {
    /// A VM has written a policy's value.
    ///
    /// # Errors
    /// What is wrong.
    pub fn wrote(&mut self, vm: VmId, policy: usize, bytes: &[u8]) -> Verdict {
        let Some(writer) = self.vms.get(&vm) else { return Err(format!("VM {vm} writes after its end")) };
        let Some(deed) = &writer.deed else { return Err(format!("VM {vm} writes with nothing to do")) };
        let value = view::value(bytes);
        let Some(shape) = value.breaker.as_ref().filter(|_| value.sound) else {
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
        let (base, damaged) = (history.latest().model(), history.latest().is_damaged());
        let base = base.map_or_else(|| Model::fresh(deed.begun.now), |model| model.read(deed.begun.now));
        let Some(explained) = explain(writer, deed, settings, policy, &base, shape) else {
            return Err(format!(
                "VM {vm} wrote policy {policy} for no reason\n     it does: {:?}, with standings {:?}\n  with open: {:?}\n      found: {:?}\n      wrote: {shape:?}",
                deed.task,
                writer.standings,
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
        self.commit(vm, policy, &base, damaged, explained)
    }

    fn commit(
        &mut self,
        vm: VmId,
        policy: usize,
        base: &Model,
        damaged: bool,
        explained: Explained,
    ) -> Verdict {
        let now = self.now;
        let Some(writer) = self.vms.get_mut(&vm) else { return Ok(()) };
        let Some(deed) = &mut writer.deed else { return Ok(()) };
        deed.untold.extend(explained.told.into_iter().enumerate().map(|(nth, transition)| {
            let others = explained.others.iter().filter_map(|told| told.get(nth).copied()).collect();
            Untold { breaker: policy, transition, others }
        }));
        // Only what somebody may believe otherwise is announced.
        if damaged || base.belief() != explained.model.belief() {
            deed.unannounced.push(policy);
        }
        match explained.reason {
            Reason::Admission(admission) => {
                // Of what is closed no write decides: it was written for something else.
                let by_write = !matches!(admission, Admission::Admitted(ticket) if ticket.probe.is_none());
                deed.promised = by_write.then_some(admission);
                if let Admission::Admitted(ticket) = admission
                    && let Some(probe) = ticket.probe
                {
                    // A worker that stands still between its decision and its write cannot know how late it is.
                    self.members.sent(probe, Moment { step: now.step, ..deed.begun });
                }
            }
            Reason::Outcome(place, recorded) => {
                let report = writer.unsettled[place];
                deed.counted |= matches!(deed.task, Task::Record { breaker, ticket, outcome }
                    if (breaker, ticket, outcome) == (report.breaker, report.ticket, report.outcome));
                if recorded == Recorded::Counted {
                    writer.unsettled.remove(place);
                }
            }
            Reason::Force => deed.forced = true,
            Reason::Housekeeping(dead) => {
                let lost: Vec<_> =
                    base.out().into_iter().filter(|probe| dead.contains(&probe.owner)).collect();
                deed.reclaimed += lost.len();
                self.policies[policy].reclaimed(base.generation(), &lost);
            }
        }
        let history = &mut self.policies[policy];
        history.outdated = false;
        let mut model = explained.model;
        model.chosen = None;
        history.becomes(now, Some(model));
        self.knows(vm, policy);
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
        history.becomes(self.now, model);
        history.announced(self.now.step);
    }
}

impl Oracle {
    /// An older module has written a policy's value, of which this is what can be read, and announces it.
    pub fn moved_on(&mut self, breaker: usize, model: Model) {
        self.reached.meddled += 1;
        let history = &mut self.policies[breaker];
        history.outdated = true;
        history.becomes(self.now, Some(model));
        history.announced(self.now.step);
    }
}
