//! What the patterns of a policy make of a newcomer, as one pure change of its state.

use super::guard::Ramp;
use super::waiting::FULL;
use super::{Arrival, Effects, Pass, Patterns, Refused, Verdict};
use crate::answer::Reason;
use crate::breaker::{Admission, Outcome, Owner, Phase, Ticket};
use crate::budget::Grant;
use crate::bulkhead::{self, Address, Permit};
use crate::planted::{Bug, active};
use crate::retry::{Wanted, Wish};
use crate::state::State;
use crate::time::Timestamp;

/// What a bulkhead has for a newcomer.
enum Room {
    Permit(Permit),
    Queue,
    None,
}

/// What a request pays by itself.
const NO_RETRY: Wanted = Wanted { wish: Wish::Retries(0), denied: None };

impl Arrival {
    /// How often it would be retried if it were let in now.
    pub(super) fn wanted(&self, is_probe: bool, now: Timestamp) -> Option<Wanted> {
        Some(self.wanted?.at(is_probe, &self.time, now))
    }
}

impl Pass {
    pub(super) fn is_probe(&self) -> bool {
        self.ticket.is_some_and(|ticket| ticket.is_probe())
    }

    /// Takes over what a breaker says.
    pub(super) fn take(&mut self, admission: Admission, shadow: bool) -> Result<(), Refused> {
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
    pub(super) fn ask(
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
        let probe = pass.ticket.filter(Ticket::is_probe);
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
            pass.grant = Some(Grant::unbounded(wanted));
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
