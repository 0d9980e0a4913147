//! What one worker's VM does with the state all of them share: admits, records, hands back, and keeps house on its tick.
//!
//! Everything here is deterministic given the [`Port`], so that the simulator runs this very code.

#[cfg(test)]
mod fake;
#[cfg(test)]
mod give_up_tests;
mod guard;
mod housekeeping;
#[cfg(test)]
mod overtaken_tests;
mod port;
#[cfg(test)]
mod tests;

pub use port::{Event, Operation, Port};

use crate::breaker::{
    Admission, Outcome, Owner, Recorded, Settings, State as BreakerState, Ticket, Transition,
};
use crate::members::Watch;
use crate::planted::{Bug, active};
use crate::state::State;
use crate::store::{Change, Unavailable, update};
use crate::time::Timestamp;
use guard::{Guard, View};
use std::collections::BTreeSet;

/// An outcome of a probe that the store would not take yet.
#[derive(Clone, Copy, Debug)]
struct Pending {
    policy: usize,
    ticket: Ticket,
    outcome: Outcome,
}

/// One VM's side of the shared state, for one configuration.
#[derive(Debug)]
pub struct Worker {
    prefix: String,
    configuration: u64,
    guards: Vec<Option<Guard>>,
    me: Option<Owner>,
    /// When this VM last gave a sign of life.
    beaten: Timestamp,
    watch: Watch,
    pending: Vec<Pending>,
    next_swept: usize,
    /// Who held probes in the sweep under way, and in the one before.
    holders: BTreeSet<Owner>,
    known_holders: Vec<Owner>,
}

impl Worker {
    /// A worker for the policies of one configuration, by index; `None` where a policy keeps no shared state.
    /// `configuration` is a fingerprint of the whole document. Writes nothing.
    #[must_use]
    pub fn new<'a>(
        namespace: &str,
        configuration: u64,
        policies: impl Iterator<Item = (&'a str, Option<Settings>)>,
    ) -> Self {
        let prefix = format!("resilience/{namespace}/");
        let guards = policies
            .map(|(name, settings)| {
                Some(Guard {
                    key: format!("{prefix}{name}").into_bytes(),
                    settings: settings?,
                    belief: None,
                    generation: 0,
                    state: BreakerState::Closed,
                    untouched: true,
                    shown: false,
                })
            })
            .collect();
        Self {
            prefix,
            configuration,
            guards,
            me: None,
            beaten: Timestamp::default(),
            watch: Watch::default(),
            pending: Vec::new(),
            next_swept: 0,
            holders: BTreeSet::new(),
            known_holders: Vec::new(),
        }
    }

    /// Decides over one request. A policy without shared state admits everything.
    pub fn admit<P: Port + ?Sized>(&mut self, port: &mut P, policy: usize, now: Timestamp) -> Admission {
        self.flush(port, now);
        let Some(guard) = self.guard(policy) else {
            return Admission::Admitted(Ticket { generation: 0, probe: None });
        };
        let changes = port.changes(policy);
        if let Some(admission) = guard.believed(changes, now).and_then(|view| view.admission(now)) {
            return admission;
        }
        match guard.read(port, changes, now) {
            Err(Unavailable) => self.admit_blind(port, policy),
            Ok(view) => view
                .and_then(|view| view.admission(now))
                .unwrap_or_else(|| self.admit_with_write(port, policy, now)),
        }
    }

    /// The way in where admission may change the state: a wait that is over, a probe, a damaged value.
    fn admit_with_write<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        policy: usize,
        now: Timestamp,
    ) -> Admission {
        let Some(me) = self.join(port, now) else { return self.admit_blind(port, policy) };
        self.change(port, policy, Operation::Admit, now, |state, settings, transitions| {
            state.breaker.admit(settings, me, now, transitions)
        })
        .unwrap_or_else(|| self.admit_blind(port, policy))
    }

    /// What a request gets when the store gives no answer: by what was last known.
    fn admit_blind<P: Port + ?Sized>(&mut self, port: &mut P, policy: usize) -> Admission {
        port.report(Event::GaveUp { operation: Operation::Admit });
        match self.guard(policy) {
            Some(guard) if guard.state != BreakerState::Closed => Admission::Refused { wait: None },
            guard => Admission::Admitted(Ticket {
                generation: guard.map_or(0, |guard| guard.generation),
                probe: None,
            }),
        }
    }

    /// Reports what an admitted request proved. Exactly once per ticket.
    pub fn record<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        policy: usize,
        ticket: Ticket,
        outcome: Outcome,
        now: Timestamp,
    ) {
        self.flush(port, now);
        let pending = Pending { policy, ticket, outcome };
        let kept = ticket.probe.is_some() && !active(Bug::PendingForgotten);
        if !self.try_record(port, pending, now) && kept {
            self.pending.push(pending);
        }
    }

    /// Returns false where the store would not take it.
    fn try_record<P: Port + ?Sized>(&mut self, port: &mut P, pending: Pending, now: Timestamp) -> bool {
        let Pending { policy, ticket, outcome } = pending;
        if self.changes_nothing(port, pending, now) {
            return true;
        }
        let operation = match outcome {
            Outcome::Ignored => Operation::HandBack,
            Outcome::Success | Outcome::Failure => Operation::Record,
        };
        let recorded = self.change(port, policy, operation, now, |state, settings, transitions| {
            state.breaker.record(settings, &ticket, outcome, now, transitions)
        });
        match recorded {
            Some(Recorded::Counted | Recorded::Stale) => true,
            Some(Recorded::Reclaimed) => {
                port.report(Event::GaveUp { operation: Operation::Lease });
                true
            }
            None => {
                port.report(Event::GaveUp { operation });
                false
            }
        }
    }

    /// Whether an outcome needs no write: nearly all of them, on a healthy upstream.
    fn changes_nothing<P: Port + ?Sized>(&mut self, port: &mut P, pending: Pending, now: Timestamp) -> bool {
        let Pending { policy, ticket, outcome } = pending;
        let Some(guard) = self.guard(policy) else { return true };
        let lost = outcome == Outcome::Ignored && active(Bug::NotHandedBack);
        if !lost && (ticket.probe.is_some() || outcome == Outcome::Failure) {
            return false;
        }
        if outcome == Outcome::Ignored {
            return true;
        }
        let changes = port.changes(policy);
        let view = match guard.believed(changes, now) {
            Some(view) => Some(view),
            None => guard.read(port, changes, now).unwrap_or(None),
        };
        match view {
            Some(View::Closed { clean, ticket: present }) => clean || present.generation != ticket.generation,
            Some(View::Open { .. } | View::Full { .. }) => true,
            None => false,
        }
    }

    fn guard(&mut self, policy: usize) -> Option<&mut Guard> {
        self.guards.get_mut(policy)?.as_mut()
    }

    /// Retries what the store would not take; what it still will not take waits on.
    fn flush<P: Port + ?Sized>(&mut self, port: &mut P, now: Timestamp) {
        if self.pending.is_empty() {
            return;
        }
        let mut waiting = std::mem::take(&mut self.pending);
        waiting.retain(|pending| !self.try_record(port, *pending, now));
        self.pending = waiting;
    }

    /// Changes a policy's state by a pure function and reports what came of it once it is committed.
    fn change<P: Port + ?Sized, T>(
        &mut self,
        port: &mut P,
        policy: usize,
        operation: Operation,
        now: Timestamp,
        mut decide: impl FnMut(&mut State, &Settings, &mut Vec<Transition>) -> T,
    ) -> Option<T> {
        let guard = self.guard(policy)?;
        let mut transitions = Vec::new();
        let mut found = None;
        let updated = update(port, &guard.key, |bytes| {
            transitions.clear();
            let before = State::decode(bytes, now);
            let mut after = before.clone();
            let answer = decide(&mut after, &guard.settings, &mut transitions);
            found = Some((before.breaker.generation(), before.breaker.phase().state()));
            if after == before && !before.repaired {
                Change::Keep((answer, found))
            } else {
                let wrote = (after.breaker.generation(), after.breaker.phase().state());
                Change::Write(after.encode(), (answer, Some(wrote)))
            }
        });
        let (answer, committed) = updated.answer.map_or((None, found), |(answer, seen)| (Some(answer), seen));
        (guard.generation, guard.state) = committed.unwrap_or((guard.generation, guard.state));
        guard.belief = None;
        report_conflicts(port, operation, updated.conflicts);
        if updated.wrote && !active(Bug::Unannounced) {
            port.changed(policy);
        }
        if updated.wrote || active(Bug::ToldTooEarly) {
            for transition in transitions {
                port.report(Event::Transition { policy, transition });
            }
        }
        answer
    }
}

fn report_conflicts<P: Port + ?Sized>(port: &mut P, operation: Operation, count: u32) {
    if count > 0 {
        port.report(Event::Conflicts { operation, count });
    }
}
