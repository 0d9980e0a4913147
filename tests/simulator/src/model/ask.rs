//! A request and all patterns at once: what it must be told, and what that leaves behind.

use super::room::{Claim, Home, Permit, Room, Wake};
use super::{Model, Outcome, Ticket, Transition};
use resilience_core::answer::Reason;
use resilience_core::breaker::{Admission, Owner, State};
use resilience_core::bulkhead;
use resilience_core::worker::{Pass, Patterns, Refused, Verdict};
use std::time::Duration;

/// What a request is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Said {
    /// The breaker keeps it out.
    Open(Option<Duration>),
    /// It goes on, with a permit or in spite of there being none.
    In { ticket: Option<Ticket>, permit: Option<Permit> },
    /// It goes on and waits in name only.
    InName(Option<Ticket>),
    /// It waits.
    Waits,
    /// No permit, and no place to wait.
    Full,
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
            (Self::Waits, Verdict::Waits) => true,
            (Self::In { ticket, permit }, Verdict::Admitted(pass)) => {
                let shadowed = if permit.is_none() { vec![Reason::BulkheadFull] } else { Vec::new() };
                (*ticket, permit.is_some(), shadowed)
                    == (pass.ticket, pass.permit.is_some(), pass.shadowed.clone())
            }
            (Self::InName(ticket), Verdict::Admitted(pass)) => {
                *pass == Pass { ticket: *ticket, ..Pass::default() }
            }
            _ => false,
        }
    }
}

/// A policy's state as a whole.
#[derive(Clone, Debug)]
pub struct Both {
    pub model: Model,
    pub room: Room,
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

impl Both {
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

    /// A newcomer; `kept_out` where a ramp would not have it. `None` where no ramp can be to blame.
    pub fn ask(
        &mut self,
        patterns: &Patterns,
        home: Home,
        (call, class): (u32, Option<usize>),
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
        let bulkhead = patterns.bulkhead.as_ref()?;
        let claim = claim(&bulkhead.settings, class);
        if let Some(permit) = self.room.enter(home, claim) {
            return Some(Said::In { ticket, permit: Some(permit) });
        }
        let probe = ticket.filter(|ticket| ticket.probe.is_some());
        if let Some(queue) = bulkhead.settings.queue.filter(|_| probe.is_none())
            && self.room.enqueue(home, call, claim, queue.max_queue.into(), &mut told.wakes)
        {
            return Some(if bulkhead.shadow { Said::InName(ticket) } else { Said::Waits });
        }
        if bulkhead.shadow {
            return Some(Said::In { ticket, permit: None });
        }
        if let Some((ticket, breaker)) = probe.zip(patterns.breaker.as_ref()) {
            self.model.record(&breaker.settings, &ticket, Outcome::Ignored, now, &mut told.transitions);
        }
        Some(Said::Full)
    }

    /// A waiter in the queue, by its VM; `None` where it waits on.
    pub fn take_up(
        &mut self,
        patterns: &Patterns,
        home: Home,
        call: u32,
        (now, until): (u64, u64),
        told: &mut Told,
    ) -> Option<Said> {
        let Some(permit) = self.room.take_up(home, call) else {
            if now < until {
                return None;
            }
            self.room.withdraw(home.0, call, &mut told.wakes);
            return Some(Said::Full);
        };
        let shadow = patterns.bulkhead.as_ref().is_some_and(|bulkhead| bulkhead.shadow);
        if shadow && now > until {
            // It would have been refused at that moment, had it not been let in.
            self.room.release(permit, &mut told.wakes);
            return Some(Said::Full);
        }
        if shadow {
            return Some(Said::In { ticket: None, permit: Some(permit) });
        }
        match self.ask_breaker(patterns, home.0, now, told) {
            Ok(ticket) => Some(Said::In { ticket, permit: Some(permit) }),
            Err(wait) => {
                self.room.release(permit, &mut told.wakes);
                Some(Said::Open(wait))
            }
        }
    }
}
