//! Who is let in: the breaker is asked, then the bulkhead, in one update where both have a say.

use super::guard::{Guard, View};
use super::waiting::FULL;
use super::{Arrival, Event, Operation, Pass, Pattern, Port, Refused, Target, Verdict, Worker};
use crate::answer::Reason;
use crate::breaker::{Admission, Owner, Settings, State as BreakerState, Ticket};
use crate::budget::Grant;
use crate::bulkhead::Address;
use crate::planted::{Bug, active};
use crate::retry::{Denied, Wish};
use crate::store::Unavailable;
use crate::time::Timestamp;
use std::time::Duration;

/// What all patterns made of a newcomer.
pub(super) struct Asked {
    pub(super) verdict: Verdict,
    /// Under which identity it stands in the queue, if it does.
    pub(super) queued: Option<Owner>,
}

impl Worker {
    /// Decides over one request. A policy without shared state admits everything.
    pub fn admit<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        target: Target,
        arrival: Arrival,
        now: Timestamp,
    ) -> Verdict {
        self.flush(port, now);
        let Some((patterns, _)) = self.guard(target) else {
            let grant = arrival.wanted(false, now).map(Grant::unbounded);
            return Verdict::Admitted(Pass { grant, ..Pass::default() });
        };
        match (&patterns.breaker, &patterns.bulkhead) {
            (Some(Pattern { shadow, .. }), None) if patterns.budget.is_none() => {
                let shadow = *shadow;
                let mut verdict = verdict_of(self.ask_breaker(port, target, now), shadow);
                if let Verdict::Admitted(pass) = &mut verdict {
                    let is_probe = !shadow && pass.is_probe();
                    pass.grant = arrival.wanted(is_probe, now).map(Grant::unbounded);
                }
                verdict
            }
            _ => self.admit_by_all(port, target, arrival, now),
        }
    }

    /// The rest of a breaker's wait, where it is open; `None` where it is not, where its wait is over, where there is none, and
    /// where the store gives no answer: whoever asks for another's breaker has an upstream of its own that may be healthy.
    pub fn open_for<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        target: Target,
        now: Timestamp,
    ) -> Option<Duration> {
        let (patterns, guard) = self.guard(target)?;
        let settings = &patterns.breaker.as_ref()?.settings;
        match guard.look(port, settings, target, now) {
            Ok(Some(View::Open { until })) if now < until => Some(until.since(now)),
            _ => None,
        }
    }

    /// The way in where there is a bulkhead or a budget: one update for all.
    fn admit_by_all<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        target: Target,
        arrival: Arrival,
        now: Timestamp,
    ) -> Verdict {
        // Only what is said of a breaker is believed.
        let changes = if self.keeps_state(target.policy) { port.changes(target) } else { None };
        if let Some(refused) = self.refused_by_belief(target, changes, now) {
            return Verdict::Refused(refused);
        }
        let Some(asked) = self.ask(port, target, arrival, changes, now) else {
            return self.admit_all_blind(port, target, arrival, now);
        };
        if asked.queued.is_some() {
            let held = asked.verdict == Verdict::Waits;
            self.wait(target, arrival, asked.queued, held, now);
        }
        asked.verdict
    }

    /// What an open breaker says, as long as that is believed: it takes no write.
    fn refused_by_belief(&mut self, target: Target, changes: Option<u64>, now: Timestamp) -> Option<Refused> {
        let (patterns, guard) = self.guard(target)?;
        let breaker = patterns.breaker.as_ref().filter(|breaker| !breaker.shadow)?;
        let view = guard.believed(changes, now)?;
        if matches!(view, View::Closed { .. }) {
            return None;
        }
        match guard.admission(&breaker.settings, view, now)? {
            Admission::Admitted(_) => None,
            Admission::Refused { wait } => Some(Refused { reason: Reason::CircuitOpen, wait }),
        }
    }

    /// Asks the breaker and the bulkhead in one update; `None` where the store would not take it. `changes` was
    /// read before; without it nothing is believed.
    pub(super) fn ask<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        target: Target,
        arrival: Arrival,
        changes: Option<u64>,
        now: Timestamp,
    ) -> Option<Asked> {
        let me = self.join(port, now)?;
        let address = Address { owner: me, queue: self.queue };
        let before = self.guard(target)?.1.ramp;
        let mut first = None;
        let asked = self.change(port, target, Operation::Admit, now, |state, patterns, effects| {
            if active(Bug::ReservedOutsideUpdate) {
                state.budget = first.get_or_insert_with(|| state.budget.clone()).clone();
            }
            let mut ramp = before;
            let (verdict, queued) = patterns.ask(state, address, arrival, &mut ramp, now, effects);
            (verdict, queued, ramp, View::of(state))
        });
        let (verdict, queued, ramp, view) = asked?;
        let (_, guard) = self.guard(target)?;
        guard.ramp = ramp;
        guard.believe(view, changes, now);
        Some(Asked { verdict, queued: queued.then_some(me) })
    }

    /// What a request gets when the store gives no answer: none goes past a bulkhead, and none is retried past a budget.
    fn admit_all_blind<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        target: Target,
        arrival: Arrival,
        now: Timestamp,
    ) -> Verdict {
        let Some((patterns, _)) = self.guard(target) else { return Verdict::Admitted(Pass::default()) };
        let breaker = patterns.breaker.as_ref().map(|breaker| breaker.shadow);
        let bulkhead = patterns.bulkhead.as_ref().map(|bulkhead| (bulkhead.shadow, bulkhead.settings.queue));
        let budget = patterns.budget.as_ref().map(|budget| budget.shadow);
        let mut verdict = match breaker {
            Some(shadow) => verdict_of(self.admit_breaker_blind(port, target), shadow),
            None => {
                port.report(Event::GaveUp { operation: Operation::Admit });
                Verdict::Admitted(Pass::default())
            }
        };
        let Verdict::Admitted(pass) = &mut verdict else { return verdict };
        let wanted = arrival.wanted(breaker == Some(false) && pass.is_probe(), now);
        pass.grant = wanted.map(|wanted| match budget {
            Some(false) if !active(Bug::BlindRetries) => {
                let wants = wanted.wish != Wish::Retries(0);
                let denied = wanted.denied.or(wants.then_some(Denied::Budget));
                Grant { denied, ..Grant::NONE }
            }
            _ => Grant::unbounded(wanted),
        });
        match bulkhead {
            None => verdict,
            Some((true, queue)) => {
                // One that may wait would have done so.
                pass.shadowed.extend(queue.is_none().then_some(Reason::BulkheadFull));
                verdict
            }
            Some((false, Some(queue))) if self.waiting_here(target) < usize::from(queue.max_queue) => {
                self.wait(target, arrival, None, true, now);
                Verdict::Waits
            }
            Some((false, _)) => FULL,
        }
    }

    /// The way in where only a breaker decides.
    fn ask_breaker<P: Port + ?Sized>(&mut self, port: &mut P, target: Target, now: Timestamp) -> Admission {
        let changes = port.changes(target);
        let Some((settings, guard)) = self.breaker(target) else { return NO_BREAKER };
        let believed = guard.believed(changes, now);
        if let Some(admission) = believed.and_then(|view| guard.admission(settings, view, now)) {
            return admission;
        }
        let read = guard.read(port, settings, changes, now);
        match read.map(|view| view.and_then(|view| guard.admission(settings, view, now))) {
            Err(Unavailable) => self.admit_breaker_blind(port, target),
            Ok(admission) => admission.unwrap_or_else(|| self.ask_breaker_with_write(port, target, now)),
        }
    }

    /// The way in where admission may change the state: a wait that is over, a probe, a damaged value.
    fn ask_breaker_with_write<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        target: Target,
        now: Timestamp,
    ) -> Admission {
        let Some(me) = self.join(port, now) else { return self.admit_breaker_blind(port, target) };
        let decided = self.change(port, target, Operation::Admit, now, |state, patterns, effects| {
            let breaker = patterns.breaker.as_ref()?;
            let admission = state.breaker.admit(&breaker.settings, me, now, &mut effects.transitions);
            Some((admission, View::of(state)))
        });
        let Some((admission, view)) = decided.flatten() else {
            return self.admit_breaker_blind(port, target);
        };
        // Somebody else may have closed it meanwhile: then the ramp decides, as for everybody.
        match (view, self.breaker(target)) {
            (Some(view @ View::Closed { .. }), Some((settings, guard))) => {
                guard.admission(settings, view, now).unwrap_or(admission)
            }
            _ => admission,
        }
    }

    /// What a request gets of its breaker when the store gives no answer: by what was last known.
    fn admit_breaker_blind<P: Port + ?Sized>(&mut self, port: &mut P, target: Target) -> Admission {
        port.report(Event::GaveUp { operation: Operation::Admit });
        match self.guard(target).map(|(_, guard)| guard) {
            Some(guard) if guard.state != BreakerState::Closed => Admission::Refused { wait: None },
            guard => Admission::Admitted(Ticket {
                generation: guard.map_or(0, |guard| guard.generation),
                probe: None,
            }),
        }
    }

    fn breaker(&mut self, target: Target) -> Option<(&Settings, &mut Guard)> {
        let (patterns, guard) = self.guard(target)?;
        Some((&patterns.breaker.as_ref()?.settings, guard))
    }
}

/// What is said of a request of a policy that is not there.
const NO_BREAKER: Admission = Admission::Admitted(Ticket { generation: 0, probe: None });

/// What a breaker's word means for a request.
fn verdict_of(admission: Admission, shadow: bool) -> Verdict {
    let mut pass = Pass::default();
    match pass.take(admission, shadow) {
        Ok(()) => Verdict::Admitted(pass),
        Err(refused) => Verdict::Refused(refused),
    }
}
