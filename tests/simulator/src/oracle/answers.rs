//! What a VM answered, or did not write, must have been right at some moment that it may go by.

use super::history::Entry;
use super::{Deed, Frees, Oracle, Report, Verdict, VmId};
use crate::model::Model;
use crate::vm::Task;
use resilience_core::breaker::{Admission, Outcome, State};
use resilience_core::worker::Operation;
use std::time::Duration;

impl Oracle {
    pub(super) fn decided(&mut self, vm: VmId, deed: &Deed, policy: usize, admission: Admission) -> Verdict {
        let Some(found) = self.vms.get(&vm) else { return Ok(()) };
        let Some(settings) = self.settings(found, policy) else { return Ok(()) };
        let (history, begun) = (&self.policies[policy], deed.begun);
        let blind = deed.times(Operation::Admit) > 0;
        let seen = &found.seen[policy];
        let (mut by_share, mut unclear) = (false, false);
        let right = match (deed.promised, admission) {
            (Some(promised), admission) => promised == admission,
            (None, Admission::Admitted(ticket)) if blind => {
                ticket.probe.is_none() && (!found.asked[policy] || seen.contains(&State::Closed))
            }
            (None, Admission::Refused { wait }) if blind => {
                wait.is_none() && seen.iter().any(|state| *state != State::Closed)
            }
            (None, Admission::Admitted(ticket)) => {
                by_share = true;
                ticket.probe.is_none()
                    && history.could_see(begun, true, |entry| {
                        entry.model().is_some_and(|model| {
                            model.state() == State::Closed && model.generation() == ticket.generation
                        })
                    })
            }
            (None, Admission::Refused { wait: Some(wait) }) => history.could_see(begun, true, |entry| {
                entry.model().is_some_and(|model| {
                    let rest = model.until().and_then(|until| until.checked_sub(begun.now));
                    model.state() == State::Open && rest.map(Duration::from_nanos) == Some(wait)
                })
            }),
            (None, Admission::Refused { wait: None }) => {
                let full = history.could_see(begun, true, |entry| {
                    entry.model().is_some_and(|model| {
                        let (mut model, mut told) = (model.clone(), Vec::new());
                        let me = resilience_core::breaker::Owner(u64::MAX);
                        model.state() == State::HalfOpen
                            && model.admit(settings, me, begun.now, &mut told) == admission
                            && told.is_empty()
                    })
                });
                let ramp = history.could_see(begun, true, |entry| {
                    entry
                        .model()
                        .is_some_and(|model| model.read(begun.now).share(settings, begun.now).is_some())
                });
                by_share = ramp;
                if ramp && full {
                    // Nobody can tell which it was.
                    by_share = false;
                    unclear = true;
                }
                full || ramp
            }
        };
        if !right {
            return Err(format!(
                "VM {vm} decided {admission:?} over a request of policy {policy}\n  committed: {:?}\n  the state: {:?}",
                deed.promised,
                history.latest()
            ));
        }
        if by_share || unclear {
            self.shared(vm, deed, policy, admission, unclear)?;
        }
        if let Admission::Admitted(ticket) = admission
            && let Some(probe) = ticket.probe
        {
            self.policies[policy].reached(ticket.generation, probe)?;
        }
        Ok(())
    }

    /// An outcome that was neither counted nor given up must have had no meaning any more.
    pub(super) fn recorded(&self, vm: VmId, deed: &Deed, report: Report) -> Verdict {
        let Report { breaker: policy, ticket, outcome, frees, spent, .. } = report;
        let Some(found) = self.vms.get(&vm) else { return Ok(()) };
        let settings = self.settings(found, policy);
        let gives_back = report.gives_back();
        let nothing = report.probe().is_none() && outcome == Outcome::Ignored && !gives_back;
        if deed.counted || deed.lost_an_outcome() || nothing || ticket.is_none() && !gives_back {
            return Ok(());
        }
        let success = report.probe().is_none() && outcome == Outcome::Success;
        let belief = success && !gives_back;
        let meaningless = self.policies[policy].could_see(deed.begun, belief, |entry| {
            let gone = match frees {
                Some(Frees::Permit(permit)) => !entry.room_at(deed.begun.now).has(permit),
                _ => true,
            };
            let gone = gone && spent.is_none_or(|(reserve, _)| !entry.budget_at(deed.begun.now).has(reserve));
            gone && entry.model().is_some_and(|model| {
                let (Some(ticket), Some(settings)) = (ticket, settings) else { return true };
                let (mut after, mut told) = (model.read(deed.begun.now), Vec::new());
                let stale = model.generation() != ticket.generation;
                if success && (stale || model.state() == State::Open) {
                    return true;
                }
                let before = model.read(deed.begun.now);
                // Nobody comes only to let a window go.
                if let [standing] = found.standings.as_slice()
                    && settings.rates.is_some()
                {
                    after.adopt(settings, *standing);
                }
                after.record(settings, &ticket, outcome, deed.begun.now, &mut told);
                told.is_empty() && after.shape() == before.shape()
            })
        });
        if meaningless {
            return Ok(());
        }
        Err(format!(
            "VM {vm} lost an outcome of policy {policy}: {report:?}\n  the state: {:?}",
            self.policies[policy].latest()
        ))
    }

    /// Whether it is too late for what a report gives back: others have it.
    fn is_late(report: &Report, entry: &Entry) -> bool {
        let probe = || {
            let (ticket, probe) = report.ticket.zip(report.probe())?;
            let same = entry.model().filter(|model| model.generation() == ticket.generation);
            same.map(|model| model.was_reclaimed(probe))
        };
        let permit = match report.frees {
            Some(Frees::Permit(permit)) => entry.room().is_none_or(|room| !room.has(permit)),
            _ => false,
        };
        Self::is_late_to_settle(report, entry) || permit || probe() == Some(true)
    }

    fn is_late_to_settle(report: &Report, entry: &Entry) -> bool {
        let kept = |(reserve, _)| entry.budget().is_some_and(|budget| budget.has(reserve));
        !report.spent.is_none_or(kept)
    }

    /// After a task in which the store took everything, nothing that the VM was told is left.
    pub(super) fn settled(&mut self, vm: VmId, deed: &Deed) -> Verdict {
        let Some(found) = self.vms.get_mut(&vm) else { return Ok(()) };
        // An operator is obeyed before anything else is seen to.
        if matches!(deed.task, Task::Force { .. }) {
            return Ok(());
        }
        let unsettled = std::mem::take(&mut found.unsettled);
        let late =
            |report: &Report, step: u64| Self::is_late(report, self.policies[report.breaker].as_of(step));
        let once_late = |report: &Report| {
            late(report, self.now.step)
                || self.policies[report.breaker]
                    .could_see(deed.begun, false, |entry| Self::is_late(report, entry))
        };
        let latest = self.now.step;
        let Some(told) = deed.times(Operation::Lease).checked_sub(deed.late) else {
            return Err(format!("VM {vm} did not tell of {} late outcomes", deed.late));
        };
        let surely = unsettled.iter().filter(|report| late(report, deed.begun.step)).count();
        let at_most = unsettled.iter().filter(|report| once_late(report)).count();
        if told > at_most {
            return Err(format!("VM {vm} told of {told} late outcomes, and {at_most} were late"));
        }
        if deed.lost_an_outcome() {
            // Those that were told to be late are done with.
            let (mut done, mut kept, mut back) = (told, Vec::new(), Vec::new());
            for report in unsettled {
                let is_done = done > 0 && once_late(&report);
                done -= usize::from(is_done);
                if !is_done && (report.gives_back() || report.probe().is_some()) {
                    kept.push(report);
                } else if is_done {
                    back.push(report);
                }
            }
            back.iter().for_each(|report| self.is_given_back(vm, report));
            if let Some(found) = self.vms.get_mut(&vm) {
                found.unsettled.extend(kept);
            }
            return Ok(());
        }
        let still = surely.min(unsettled.iter().filter(|report| late(report, latest)).count());
        if told < still {
            return Err(format!("VM {vm} did not tell of {still} late outcomes"));
        }
        for report in &unsettled {
            // Numbers start again where a value was lost: only the generation tells.
            let present = self.policies[report.breaker].latest();
            let same = present.model().zip(report.ticket);
            let same = same.filter(|(model, ticket)| model.generation() == ticket.generation);
            let out = same.map(|(model, _)| Model::out(model)).unwrap_or_default();
            let keeps = match report.frees {
                Some(Frees::Permit(_)) => !once_late(report),
                Some(Frees::Place(owner)) => {
                    present.room().is_some_and(|room| room.find(owner, report.call).is_some())
                }
                None => false,
            };
            let keeps = keeps || report.spent.is_some() && !self.could_settle_late(report, deed);
            if keeps || report.probe().is_some_and(|probe| out.contains(&probe)) {
                return Err(format!("VM {vm} keeps a place that it should have given back: {report:?}"));
            }
        }
        for report in &unsettled {
            self.is_given_back(vm, report);
        }
        Ok(())
    }

    /// Whether what was kept for a request may have been somebody else's when it was to be settled.
    fn could_settle_late(&self, report: &Report, deed: &Deed) -> bool {
        let history = &self.policies[report.breaker];
        Self::is_late_to_settle(report, history.latest())
            || history.could_see(deed.begun, false, |entry| Self::is_late_to_settle(report, entry))
    }

    fn is_given_back(&mut self, vm: VmId, report: &Report) {
        if report.frees.is_some() {
            self.held.remove(&(vm, report.call));
        }
        if report.spent.is_some() {
            self.kept.remove(&(vm, report.call));
        }
    }
}
