//! A request and all patterns at once: what it must be told, and what that leaves behind.

use super::budget::Budget;
use super::grant::{Grant, Rates, wanted};
use super::room::{Claim, Home, Permit, Room, Wake};
use super::{Model, Outcome, Ticket, Transition};
use resilience_core::answer::Reason;
use resilience_core::breaker::{Admission, Owner, State};
use resilience_core::bulkhead;
use resilience_core::retry::{Wanted, Wish};
use resilience_core::worker::{Arrival, Pass, Patterns, Refused, Verdict};
use std::time::Duration;

/// What a request is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Said {
    /// The breaker keeps it out.
    Open(Option<Duration>),
    /// It goes on, with a permit, or in spite of there being none where it is `over`.
    In { ticket: Option<Ticket>, permit: Option<Permit>, over: bool, grant: Option<Grant> },
    /// It goes on and waits in name only.
    InName(Option<Ticket>, Option<Grant>),
    /// It waits.
    Waits,
    /// No permit, and no place to wait.
    Full,
    /// Its deadline came while it waited.
    Late,
}

/// What a configuration has for a policy.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    pub patterns: &'a Patterns,
    pub rates: Option<Rates>,
}

impl Rules<'_> {
    /// Whether one update decides over a request for all patterns.
    pub const fn are_for_all(&self) -> bool {
        self.patterns.bulkhead.is_some() || self.patterns.budget.is_some()
    }
}

impl Said {
    /// Whether this is what a worker said.
    pub fn is(&self, verdict: &Verdict) -> bool {
        let full = Refused { reason: Reason::BulkheadFull, wait: None };
        match (self, verdict) {
            (Self::Open(wait), Verdict::Refused(refused)) => {
                *refused == Refused { reason: Reason::CircuitOpen, wait: *wait }
            }
            (Self::Full, Verdict::Refused(refused)) => *refused == full,
            (Self::Late, Verdict::Refused(refused)) => {
                *refused == Refused { reason: Reason::DeadlineExceeded, wait: None }
            }
            (Self::Waits, Verdict::Waits) => true,
            (Self::In { ticket, permit, over, grant }, Verdict::Admitted(pass)) => {
                let shadowed = if *over { vec![Reason::BulkheadFull] } else { Vec::new() };
                (*ticket, permit.is_some(), shadowed)
                    == (pass.ticket, pass.permit.is_some(), pass.shadowed.clone())
                    && same(grant.as_ref(), pass)
            }
            (Self::InName(ticket, grant), Verdict::Admitted(pass)) => {
                let nothing = pass.permit.is_none() && pass.shadowed.is_empty();
                nothing && pass.ticket == *ticket && same(grant.as_ref(), pass)
            }
            _ => false,
        }
    }

    /// The ticket and the grant of a request that goes on.
    pub const fn goes_on(&self) -> Option<(Option<Ticket>, Option<Grant>)> {
        match self {
            Self::In { ticket, grant, .. } | Self::InName(ticket, grant) => Some((*ticket, *grant)),
            _ => None,
        }
    }
}

/// Whether a grant is the one that a worker gave.
pub fn same(grant: Option<&Grant>, pass: &Pass) -> bool {
    match (grant, &pass.grant) {
        (Some(grant), Some(granted)) => grant.is(granted),
        (None, None) => true,
        _ => false,
    }
}

/// A policy's state as a whole.
#[derive(Clone, Debug)]
pub struct Whole {
    pub model: Model,
    pub room: Room,
    pub budget: Budget,
}

/// What an act leaves to be told.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub transitions: Vec<Transition>,
    pub wakes: Vec<Wake>,
}

/// How a request stands, by its class.
pub fn claim(settings: &bulkhead::Settings, class: Option<usize>) -> Claim {
    match settings.priority.as_ref().zip(class) {
        Some((priority, class)) => Claim { rank: class as u8, limit: priority.classes[class].limit },
        None => Claim { rank: 0, limit: settings.max_concurrent_calls },
    }
}

/// What a waiter gets at the end of its wait.
pub fn over(patterns: &Patterns, arrival: &Arrival, now: u64) -> Said {
    let held = patterns.bulkhead.as_ref().is_some_and(|bulkhead| !bulkhead.shadow);
    let late = arrival.time.deadline.is_some_and(|deadline| deadline.as_nanos() <= now);
    if held && late { Said::Late } else { Said::Full }
}

impl Whole {
    /// The breaker's word, where there is one.
    fn ask_breaker(
        &mut self,
        patterns: &Patterns,
        owner: u64,
        now: u64,
        told: &mut Told,
    ) -> Result<Option<Ticket>, Option<Duration>> {
        let Some(breaker) = &patterns.breaker else { return Ok(None) };
        match self.model.admit(&breaker.settings, Owner(owner), now, &mut told.transitions) {
            Admission::Admitted(ticket) => Ok(Some(ticket)),
            Admission::Refused { wait } => Err(wait),
        }
    }

    /// How often a request may be retried that goes on.
    fn grant(
        &mut self,
        rules: Rules<'_>,
        owner: u64,
        arrival: &Arrival,
        ticket: Option<Ticket>,
        now: u64,
    ) -> Option<Grant> {
        let is_probe = ticket.is_some_and(|ticket| ticket.probe.is_some());
        let narrowed = wanted(arrival.wanted?, is_probe, &arrival.time, now);
        // One that only looks on leaves a route's retries to the route.
        let shadow = rules.rates.is_some_and(|rates| rates.shadow);
        let is_routes = shadow && arrival.wanted?.wish == Wish::Route;
        let wanted = if is_routes { Wanted { wish: Wish::Route, ..narrowed } } else { narrowed };
        Some(match &rules.rates {
            Some(rates) => self.budget.enter(rates, owner, wanted, now),
            None => Grant::open(wanted),
        })
    }

    /// A newcomer; `kept_out` where a ramp would not have it. `None` where no ramp can be to blame.
    pub fn ask(
        &mut self,
        rules @ Rules { patterns, .. }: Rules<'_>,
        home: Home,
        arrival: &Arrival,
        now: u64,
        kept_out: bool,
        told: &mut Told,
    ) -> Option<Said> {
        let ticket = match self.ask_breaker(patterns, home.0, now, told) {
            Err(wait) => return (!kept_out).then_some(Said::Open(wait)),
            Ok(ticket) => ticket,
        };
        if kept_out {
            let closed = self.model.state() == State::Closed;
            let share = patterns.breaker.as_ref().and_then(|it| self.model.share(&it.settings, now));
            return (closed && share.is_some()).then_some(Said::Open(None));
        }
        let Some(bulkhead) = &patterns.bulkhead else {
            let grant = self.grant(rules, home.0, arrival, ticket, now);
            return Some(Said::In { ticket, permit: None, over: false, grant });
        };
        let claim = claim(&bulkhead.settings, arrival.class);
        if let Some(permit) = self.room.enter(home, claim) {
            let grant = self.grant(rules, home.0, arrival, ticket, now);
            return Some(Said::In { ticket, permit: Some(permit), over: false, grant });
        }
        let probe = ticket.filter(|ticket| ticket.probe.is_some());
        if let Some(queue) = bulkhead.settings.queue.filter(|_| probe.is_none())
            && self.room.enqueue(home, arrival.call, claim, queue.max_queue.into(), &mut told.wakes)
        {
            if !bulkhead.shadow {
                return Some(Said::Waits);
            }
            return Some(Said::InName(ticket, self.grant(rules, home.0, arrival, ticket, now)));
        }
        if bulkhead.shadow {
            let grant = self.grant(rules, home.0, arrival, ticket, now);
            return Some(Said::In { ticket, permit: None, over: true, grant });
        }
        if let Some((ticket, breaker)) = probe.zip(patterns.breaker.as_ref()) {
            self.model.record(&breaker.settings, &ticket, Outcome::Ignored, now, &mut told.transitions);
        }
        Some(Said::Full)
    }

    /// A waiter in the queue, by its VM; `None` where it waits on.
    pub fn take_up(
        &mut self,
        rules @ Rules { patterns, .. }: Rules<'_>,
        home: Home,
        arrival: &Arrival,
        (now, until): (u64, u64),
        told: &mut Told,
    ) -> Option<Said> {
        let call = arrival.call;
        let Some(permit) = self.room.take_up(home, call) else {
            if now < until {
                return None;
            }
            self.room.withdraw(home.0, call, &mut told.wakes);
            return Some(over(patterns, arrival, now));
        };
        let shadow = patterns.bulkhead.as_ref().is_some_and(|bulkhead| bulkhead.shadow);
        if shadow && now > until {
            // It would have been refused at that moment, had it not been let in.
            self.room.release(permit, &mut told.wakes);
            return Some(Said::Full);
        }
        let permitted = Some(permit);
        if shadow {
            return Some(Said::In { ticket: None, permit: permitted, over: false, grant: None });
        }
        if over(patterns, arrival, now) == Said::Late {
            self.room.release(permit, &mut told.wakes);
            return Some(Said::Late);
        }
        match self.ask_breaker(patterns, home.0, now, told) {
            Ok(ticket) => {
                let grant = self.grant(rules, home.0, arrival, ticket, now);
                Some(Said::In { ticket, permit: permitted, over: false, grant })
            }
            Err(wait) => {
                self.room.release(permit, &mut told.wakes);
                Some(Said::Open(wait))
            }
        }
    }
}
