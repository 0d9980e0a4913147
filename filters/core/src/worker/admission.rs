//! Who is let in: the breaker is asked, then the bulkhead, in one update where both have a say.

use super::guard::{Guard, Ramp, View};
use super::waiting::FULL;
use super::{
    Arrival, Effects, Event, Operation, Pass, Pattern, Patterns, Port, Refused, Target, Verdict, Worker,
};
use crate::answer::Reason;
use crate::breaker::{Admission, Outcome, Owner, Phase, Settings, State as BreakerState, Ticket};
use crate::budget::{Grant, Wish};
use crate::bulkhead::{self, Address, Permit};
use crate::planted::{Bug, active};
use crate::retry::{Denied, Wanted};
use crate::state::State;
use crate::store::Unavailable;
use crate::time::Timestamp;

/// What a bulkhead has for a newcomer.
enum Room {
    Permit(Permit),
    Queue,
    None,
}

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
            let grant = arrival.wanted(false, now).map(Wanted::unbounded);
            return Verdict::Admitted(Pass { grant, ..Pass::default() });
        };
        match (&patterns.breaker, &patterns.bulkhead) {
            (Some(Pattern { shadow, .. }), None) if patterns.budget.is_none() => {
                let shadow = *shadow;
                let mut verdict = verdict_of(self.ask_breaker(port, target, now), shadow);
                if let Verdict::Admitted(pass) = &mut verdict {
                    let is_probe = !shadow && pass.is_probe();
                    pass.grant = arrival.wanted(is_probe, now).map(Wanted::unbounded);
                }
                verdict
            }
            _ => self.admit_by_all(port, target, arrival, now),
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
            _ => wanted.unbounded(),
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
        let read = guard.read(port, changes, now);
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

/// What a request pays by itself.
const NO_RETRY: Wanted = Wanted { wish: Wish::Retries(0), denied: None };

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

impl Arrival {
    /// How often it would be retried if it were let in now.
    fn wanted(&self, is_probe: bool, now: Timestamp) -> Option<Wanted> {
        Some(self.wanted?.at(is_probe, &self.time, now))
    }
}

impl Pass {
    fn is_probe(&self) -> bool {
        self.ticket.is_some_and(|ticket| ticket.probe.is_some())
    }

    /// Takes over what a breaker says.
    fn take(&mut self, admission: Admission, shadow: bool) -> Result<(), Refused> {
        match admission {
            Admission::Admitted(ticket) => self.ticket = Some(ticket),
            Admission::Refused { .. } if shadow => self.shadowed.push(Reason::CircuitOpen),
            Admission::Refused { wait } => return Err(Refused { reason: Reason::CircuitOpen, wait }),
        }
        Ok(())
    }
}

impl Patterns {
    /// Asks all patterns; also says whether the request stands in the queue.
    fn ask(
        &self,
        state: &mut State,
        address: Address,
        arrival: Arrival,
        ramp: &mut Ramp,
        now: Timestamp,
        effects: &mut Effects,
    ) -> (Verdict, bool) {
        let mut pass = Pass::default();
        let before = *ramp;
        let asked = self.ask_breaker(state, address.owner, now, &mut pass, effects);
        if let Err(refused) = asked.and_then(|()| self.ask_ramp(state, ramp, now, &mut pass)) {
            return (Verdict::Refused(refused), false);
        }
        let Some(bulkhead) = &self.bulkhead else {
            self.grant(state, address.owner, arrival, &mut pass, now);
            return (Verdict::Admitted(pass), false);
        };
        let probe = pass.ticket.filter(|ticket| ticket.probe.is_some());
        // A probe never waits.
        let may_wait = probe.is_none() || active(Bug::ProbeWaits);
        let room = room(state, &bulkhead.settings, address, arrival, may_wait, effects);
        match (room, bulkhead.shadow) {
            (Room::Permit(permit), _) => pass.permit = Some(permit),
            (Room::Queue, false) => {
                if active(Bug::WaiterPaysTwice) {
                    self.pay(state, address.owner, arrival, now);
                }
                return (Verdict::Waits, true);
            }
            (Room::Queue, true) => {
                self.grant(state, address.owner, arrival, &mut pass, now);
                return (Verdict::Admitted(pass), true);
            }
            (Room::None, true) => pass.shadowed.push(Reason::BulkheadFull),
            (Room::None, false) => {
                if let Some((breaker, ticket)) = self.breaker.as_ref().zip(probe)
                    && !active(Bug::ProbeKept)
                {
                    let transitions = &mut effects.transitions;
                    state.breaker.record(&breaker.settings, &ticket, Outcome::Ignored, now, transitions);
                }
                // What is not let in uses nothing up.
                *ramp = before;
                if active(Bug::RefusedPays) {
                    self.pay(state, address.owner, arrival, now);
                }
                return (FULL, false);
            }
        }
        self.grant(state, address.owner, arrival, &mut pass, now);
        (Verdict::Admitted(pass), false)
    }

    /// Takes what a request pays, and grants it nothing.
    fn pay(&self, state: &mut State, owner: Owner, arrival: Arrival, now: Timestamp) {
        let arrival = Arrival { wanted: Some(NO_RETRY), ..arrival };
        self.grant(state, owner, arrival, &mut Pass::default(), now);
    }

    /// Says how often a request may be retried that is let in.
    pub(super) fn grant(
        &self,
        state: &mut State,
        owner: Owner,
        arrival: Arrival,
        pass: &mut Pass,
        now: Timestamp,
    ) {
        let enforces = self.breaker.as_ref().is_some_and(|breaker| !breaker.shadow);
        let Some(wanted) = arrival.wanted(enforces && pass.is_probe(), now) else { return };
        let Some(budget) = &self.budget else {
            pass.grant = Some(wanted.unbounded());
            return;
        };
        // The route of one that only looks on does what it does.
        let is_routes = budget.shadow && arrival.wanted.is_some_and(|wanted| wanted.wish == Wish::Route);
        let wanted = if is_routes { Wanted { wish: Wish::Route, ..wanted } } else { wanted };
        let granted = state.budget.enter(&budget.settings, owner, wanted, now);
        pass.grant = Some(match budget.shadow {
            true => granted.on_paper(wanted),
            false => granted,
        });
    }

    /// Asks the breaker, if there is one.
    pub(super) fn ask_breaker(
        &self,
        state: &mut State,
        owner: Owner,
        now: Timestamp,
        pass: &mut Pass,
        effects: &mut Effects,
    ) -> Result<(), Refused> {
        let Some(breaker) = &self.breaker else { return Ok(()) };
        let admission = state.breaker.admit(&breaker.settings, owner, now, &mut effects.transitions);
        pass.take(admission, breaker.shadow)
    }

    /// A breaker that has just closed lets in a share of what comes.
    fn ask_ramp(
        &self,
        state: &State,
        ramp: &mut Ramp,
        now: Timestamp,
        pass: &mut Pass,
    ) -> Result<(), Refused> {
        let (Some(breaker), Phase::Closed(closed)) = (&self.breaker, state.breaker.phase()) else {
            return Ok(());
        };
        if ramp.lets_in(&breaker.settings, closed.since, now) {
            return Ok(());
        }
        pass.ticket = None;
        pass.take(Admission::Refused { wait: None }, breaker.shadow)
    }
}

/// A permit, or a place in the queue where the request `may_wait` and the bulkhead has one.
fn room(
    state: &mut State,
    settings: &bulkhead::Settings,
    address: Address,
    arrival: Arrival,
    may_wait: bool,
    effects: &mut Effects,
) -> Room {
    let claim = settings.claim(arrival.class);
    if let Some(permit) = state.bulkhead.enter(address, claim) {
        return Room::Permit(permit);
    }
    let Some(queue) = settings.queue.filter(|_| may_wait) else { return Room::None };
    let queued = state.bulkhead.enqueue(address, arrival.call, claim, queue.max_queue, &mut effects.wakes);
    if queued { Room::Queue } else { Room::None }
}
