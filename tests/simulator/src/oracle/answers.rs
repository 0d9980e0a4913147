//! What a VM answered, or did not write, must have been right at some moment that it may go by.

use super::{Deed, Oracle, Report, Verdict, VmId};
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
                    entry.model().is_some_and(|model| model.share(settings, begun.now).is_some())
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
        let Report { breaker: policy, ticket, outcome } = report;
        let Some(found) = self.vms.get(&vm) else { return Ok(()) };
        let Some(settings) = self.settings(found, policy) else { return Ok(()) };
        let nothing = ticket.probe.is_none() && outcome == Outcome::Ignored;
        if deed.counted || deed.lost_an_outcome() || nothing {
            return Ok(());
        }
        let belief = ticket.probe.is_none() && outcome == Outcome::Success;
        let meaningless = self.policies[policy].could_see(deed.begun, belief, |entry| {
            entry.model().is_some_and(|model| {
                let (mut after, mut told) = (model.read(deed.begun.now), Vec::new());
                let stale = model.generation() != ticket.generation;
                if belief && (stale || model.state() == State::Open) {
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
            "VM {vm} lost an outcome of policy {policy}: {outcome:?} of {ticket:?}\n  the state: {:?}",
            self.policies[policy].latest()
        ))
    }

    /// After a task in which the store took everything, nothing that the VM was told is left.
    pub(super) fn settled(&mut self, vm: VmId, deed: &Deed) -> Verdict {
        // An operator is obeyed before anything else is seen to.
        if matches!(deed.task, Task::Force { .. }) {
            return Ok(());
        }
        let Some(found) = self.vms.get_mut(&vm) else { return Ok(()) };
        let unsettled = std::mem::take(&mut found.unsettled);
        let late = |report: &Report, step: u64| {
            let entry = self.policies[report.breaker].as_of(step);
            let same = entry.model().filter(|model| model.generation() == report.ticket.generation);
            same.zip(report.ticket.probe).is_some_and(|(model, probe)| model.was_reclaimed(probe))
        };
        let told = deed.times(Operation::Lease);
        let latest = self.now.step;
        let surely = unsettled.iter().filter(|report| late(report, deed.begun.step)).count();
        let at_most = unsettled.iter().filter(|report| {
            late(report, latest)
                || self.policies[report.breaker].could_see(deed.begun, false, |entry| {
                    entry.model().zip(report.ticket.probe).is_some_and(|(model, probe)| {
                        model.generation() == report.ticket.generation && model.was_reclaimed(probe)
                    })
                })
        });
        let at_most = at_most.count();
        if told > at_most {
            return Err(format!("VM {vm} told of {told} late outcomes, and {at_most} were late"));
        }
        if deed.lost_an_outcome() {
            found.unsettled = unsettled.into_iter().filter(|report| report.ticket.probe.is_some()).collect();
            return Ok(());
        }
        let still = surely.min(unsettled.iter().filter(|report| late(report, latest)).count());
        if told < still {
            return Err(format!("VM {vm} did not tell of {still} late outcomes"));
        }
        for report in &unsettled {
            // Numbers start again where a value was lost: only the generation tells.
            let present = self.policies[report.breaker].latest().model();
            let same = present.filter(|model| model.generation() == report.ticket.generation);
            let out = same.map(Model::out).unwrap_or_default();
            if report.ticket.probe.is_some_and(|probe| out.contains(&probe)) {
                return Err(format!("VM {vm} keeps a place that it should have given back: {report:?}"));
            }
        }
        Ok(())
    }
}
