//! What one worker's VM does with the state all of them share: admits, records, hands back, and keeps house on its tick.
//!
//! Everything here is deterministic given the [`Port`], so that the simulator runs this very code.

#[cfg(test)]
mod agreement_tests;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod give_up_tests;
mod guard;
mod housekeeping;
mod keys;
#[cfg(test)]
mod overtaken_tests;
mod port;
#[cfg(test)]
mod rates_tests;
#[cfg(test)]
mod tests;

pub use port::{Event, Operation, Port, Target};

use crate::breaker::{
    Admission, Command, Outcome, Owner, Recorded, Settings, State as BreakerState, Ticket, Transition,
};
use crate::members::{Standing, Watch};
use crate::planted::{Bug, active};
use crate::state::State;
use crate::store::{Change, Unavailable, update};
use crate::time::Timestamp;
use guard::{Guard, View};
use keys::Keys;
use std::collections::BTreeSet;

/// One in so many outcomes that change nothing is worth a look at where the request went.
const SAMPLE: u32 = 128;

/// An outcome of a probe that the store would not take yet.
#[derive(Clone, Copy, Debug)]
struct Pending {
    target: Target,
    ticket: Ticket,
    outcome: Outcome,
}

/// What a policy keeps in shared state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shared {
    /// Its breaker's settings.
    pub settings: Settings,
    /// How many upstream clusters have a breaker of their own; `None` where all requests share one.
    pub max_keys: Option<u16>,
}

/// A policy as a worker sees it.
#[derive(Debug)]
struct Scope {
    settings: Settings,
    /// By a target's key: the policy's own, and those of its keys.
    guards: Vec<Guard>,
    keys: Option<Keys>,
}

/// One VM's side of the shared state, for one configuration.
#[derive(Debug)]
pub struct Worker {
    prefix: String,
    configuration: u64,
    scopes: Vec<Option<Scope>>,
    me: Option<Owner>,
    standing: Standing,
    /// When this VM last gave a sign of life.
    beaten: Timestamp,
    watch: Watch,
    pending: Vec<Pending>,
    /// How many outcomes have been taken since it was last asked whether one is evidence.
    unasked: u32,
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
        policies: impl Iterator<Item = (&'a str, Option<Shared>)>,
    ) -> Self {
        let prefix = format!("resilience/{namespace}/");
        let scopes = policies
            .map(|(name, shared)| {
                let Shared { settings, max_keys } = shared?;
                let guards = vec![Guard::new(format!("{prefix}{name}").into_bytes())];
                Some(Scope { settings, guards, keys: max_keys.map(Keys::new) })
            })
            .collect();
        Self {
            prefix,
            configuration,
            scopes,
            me: None,
            standing: Standing::default(),
            beaten: Timestamp::default(),
            watch: Watch::default(),
            pending: Vec::new(),
            unasked: 0,
            next_swept: 0,
            holders: BTreeSet::new(),
            known_holders: Vec::new(),
        }
    }

    /// Decides over one request. A policy without shared state admits everything.
    pub fn admit<P: Port + ?Sized>(&mut self, port: &mut P, target: Target, now: Timestamp) -> Admission {
        self.flush(port, now);
        let Some((settings, guard)) = self.guard(target) else {
            return Admission::Admitted(Ticket { generation: 0, probe: None });
        };
        let changes = port.changes(target);
        let believed = guard.believed(changes, now);
        if let Some(admission) = believed.and_then(|view| guard.admission(settings, view, now)) {
            return admission;
        }
        let read = guard.read(port, changes, now);
        match read.map(|view| view.and_then(|view| guard.admission(settings, view, now))) {
            Err(Unavailable) => self.admit_blind(port, target),
            Ok(admission) => admission.unwrap_or_else(|| self.admit_with_write(port, target, now)),
        }
    }

    /// The way in where admission may change the state: a wait that is over, a probe, a damaged value.
    fn admit_with_write<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        target: Target,
        now: Timestamp,
    ) -> Admission {
        let Some(me) = self.join(port, now) else { return self.admit_blind(port, target) };
        let decided = self.change(port, target, Operation::Admit, now, |state, settings, transitions| {
            let admission = state.breaker.admit(settings, me, now, transitions);
            (admission, View::of(state))
        });
        let Some((admission, view)) = decided else { return self.admit_blind(port, target) };
        // Somebody else may have closed it meanwhile: then the ramp decides, as for everybody.
        match (view, self.guard(target)) {
            (Some(view @ View::Closed { .. }), Some((settings, guard))) => {
                guard.admission(settings, view, now).unwrap_or(admission)
            }
            _ => admission,
        }
    }

    /// What a request gets when the store gives no answer: by what was last known.
    fn admit_blind<P: Port + ?Sized>(&mut self, port: &mut P, target: Target) -> Admission {
        port.report(Event::GaveUp { operation: Operation::Admit });
        match self.guard(target).map(|(_, guard)| guard) {
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
        target: Target,
        ticket: Ticket,
        outcome: Outcome,
        now: Timestamp,
    ) {
        self.judge(port, target, Some(ticket), outcome, now, || true);
    }

    /// As [`Self::record`], for a request that may have gone elsewhere than to the breaker's upstream: then it proved
    /// nothing, and `is_evidence`, which costs the host a read, says so. It is asked where the outcome can change shared state
    /// or is a failure, and for one in [`SAMPLE`] of the others, so that operators hear of it too. Returns the outcome as it
    /// was taken. A request without a ticket was admitted by no breaker and tells it nothing.
    pub fn judge<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        target: Target,
        ticket: Option<Ticket>,
        outcome: Outcome,
        now: Timestamp,
        is_evidence: impl FnOnce() -> bool,
    ) -> Outcome {
        self.flush(port, now);
        let pending = ticket.map(|ticket| Pending { target, ticket, outcome });
        let pending = pending.filter(|pending| !self.changes_nothing(port, *pending, now));
        self.unasked = self.unasked.saturating_add(1);
        let ask = pending.is_some() || outcome.is_failure() || self.unasked >= SAMPLE;
        let taken = if outcome == Outcome::Ignored || !ask {
            outcome
        } else {
            self.unasked = 0;
            if is_evidence() { outcome } else { Outcome::Ignored }
        };
        let Some(pending) = pending.map(|pending| Pending { outcome: taken, ..pending }) else {
            return taken;
        };
        let probe = pending.ticket.probe.is_some();
        if taken == Outcome::Ignored && !probe {
            return taken;
        }
        if !self.write(port, pending, now) && probe && !active(Bug::PendingForgotten) {
            self.pending.push(pending);
        }
        taken
    }

    /// Returns false where the store would not take it.
    fn write<P: Port + ?Sized>(&mut self, port: &mut P, pending: Pending, now: Timestamp) -> bool {
        let Pending { target, ticket, outcome } = pending;
        self.know_standing(port, target, now);
        let operation = match outcome {
            Outcome::Ignored => Operation::HandBack,
            _ => Operation::Record,
        };
        let recorded = self.change(port, target, operation, now, |state, settings, transitions| {
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
        let Pending { target, ticket, outcome } = pending;
        let standing = self.standing;
        let Some((settings, guard)) = self.guard(target) else { return true };
        let lost = outcome == Outcome::Ignored && active(Bug::NotHandedBack);
        if !lost && ticket.probe.is_some() {
            return false;
        }
        match outcome {
            Outcome::Ignored => true,
            Outcome::Success => guard.look(port, target, now).is_ok_and(|view| {
                view.is_some_and(|view: View| view.absorbs_success(settings, standing, ticket, now))
            }),
            Outcome::SlowSuccess | Outcome::Failure | Outcome::SlowFailure => false,
        }
    }

    /// Does what an operator says, and returns the state there is then; `None` where the store would not take it, or the
    /// policy has no such breaker.
    pub fn force<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        target: Target,
        command: Command,
        now: Timestamp,
    ) -> Option<BreakerState> {
        let forced = self.change(port, target, Operation::Force, now, |state, _, transitions| {
            state.breaker.force(command, now, transitions);
            state.breaker.phase().state()
        });
        if forced.is_none() {
            port.report(Event::GaveUp { operation: Operation::Force });
        }
        forced
    }

    /// Whether a policy keeps anything in shared state.
    #[must_use]
    pub fn keeps_state(&self, policy: usize) -> bool {
        self.scope(policy).is_some()
    }

    fn scope(&self, policy: usize) -> Option<&Scope> {
        self.scopes.get(policy)?.as_ref()
    }

    fn guard(&mut self, target: Target) -> Option<(&Settings, &mut Guard)> {
        let Scope { settings, guards, .. } = self.scopes.get_mut(target.policy)?.as_mut()?;
        Some((settings, guards.get_mut(target.key)?))
    }

    /// Retries what the store would not take; what it still will not take waits on.
    fn flush<P: Port + ?Sized>(&mut self, port: &mut P, now: Timestamp) {
        if self.pending.is_empty() {
            return;
        }
        let mut waiting = std::mem::take(&mut self.pending);
        waiting.retain(|pending| !self.write(port, *pending, now));
        self.pending = waiting;
    }

    /// Changes a breaker's state by a pure function and reports what came of it once it is committed.
    fn change<P: Port + ?Sized, T>(
        &mut self,
        port: &mut P,
        target: Target,
        operation: Operation,
        now: Timestamp,
        mut decide: impl FnMut(&mut State, &Settings, &mut Vec<Transition>) -> T,
    ) -> Option<T> {
        let standing = self.standing;
        let (settings, guard) = self.guard(target)?;
        let mut transitions = Vec::new();
        let mut found = None;
        let updated = update(port, &guard.key, |bytes| {
            transitions.clear();
            let before = State::decode(bytes, now);
            let mut after = before.clone();
            if standing != Standing::Superseded || active(Bug::ReshapedByOlder) {
                after.breaker.adopt(settings, standing == Standing::Alone);
            }
            let answer = decide(&mut after, settings, &mut transitions);
            found = Some(seen(&before));
            if after == before && !before.repaired {
                return Change::Keep((answer, seen(&before), false));
            }
            // What nobody believes otherwise need not be told: a window takes a call at every request.
            let matters =
                before.repaired || seen(&before) != seen(&after) || View::of(&before) != View::of(&after);
            Change::Write(after.encode(), (answer, seen(&after), matters))
        });
        let (answer, committed, matters) = match updated.answer {
            Some((answer, committed, matters)) => (Some(answer), Some(committed), matters),
            None => (None, found, true),
        };
        (guard.generation, guard.state) = committed.unwrap_or((guard.generation, guard.state));
        if matters {
            guard.belief = None;
        }
        report_conflicts(port, operation, updated.conflicts);
        if updated.wrote && matters && !active(Bug::Unannounced) {
            port.changed(target);
        }
        if updated.wrote || active(Bug::ToldTooEarly) {
            for transition in transitions {
                port.report(Event::Transition { target, transition });
            }
        }
        answer
    }

    /// Only the newest configuration decides over a window's shape: a VM that has not looked yet looks.
    fn know_standing<P: Port + ?Sized>(&mut self, port: &mut P, target: Target, now: Timestamp) {
        if self.me.is_none() && self.scope(target.policy).is_some_and(|scope| scope.settings.rates.is_some())
        {
            self.beat(port, now);
        }
    }
}

/// What stands in when the store does not answer.
fn seen(state: &State) -> (u64, BreakerState) {
    (state.breaker.generation(), state.breaker.phase().state())
}

fn report_conflicts<P: Port + ?Sized>(port: &mut P, operation: Operation, count: u32) {
    if count > 0 {
        port.report(Event::Conflicts { operation, count });
    }
}
