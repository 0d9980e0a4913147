//! What became of requests: outcomes are counted, probes and permits given back.

use super::guard::View;
use super::{Completion, Event, Operation, Patterns, Port, Returned, Target, Worker};
use crate::breaker::{Outcome, Owner, Recorded, Ticket};
use crate::budget::Spent;
use crate::bulkhead::{Bulkhead, Permit, Wake};
use crate::members::Standing;
use crate::planted::{Bug, active};
use crate::state::State;
use crate::time::Timestamp;
use std::collections::BTreeSet;

/// One in so many outcomes that change nothing is worth a look at where the request went.
const SAMPLE: u32 = 128;

/// What the store has not taken yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    target: Target,
    evidence: Option<(Ticket, Outcome)>,
    frees: Option<Frees>,
    spent: Option<Spent>,
}

/// What is given back to a bulkhead.
#[derive(Clone, Copy, Debug)]
enum Frees {
    /// The right to be in flight.
    Permit(Permit),
    /// A place in the queue: whose, and its number.
    Place(Owner, u32),
}

impl Frees {
    /// Returns false for a permit that was reclaimed before.
    fn apply(self, bulkhead: &mut Bulkhead, wakes: &mut Vec<Wake>) -> bool {
        match self {
            Self::Permit(permit) => bulkhead.release(permit, wakes),
            Self::Place(owner, call) => {
                bulkhead.withdraw(owner, call, wakes);
                true
            }
        }
    }
}

impl Pending {
    fn is_probe(&self) -> bool {
        self.evidence.is_some_and(|(ticket, _)| ticket.is_probe())
    }

    const fn gives_back(&self) -> bool {
        self.frees.is_some() || self.spent.is_some()
    }

    const fn operation(&self) -> Operation {
        match self.evidence {
            _ if self.gives_back() => Operation::Release,
            None => Operation::Release,
            Some((_, Outcome::Ignored)) => Operation::HandBack,
            Some(_) => Operation::Record,
        }
    }
}

/// Whether an outcome is evidence: asked at most once, and only where it matters.
struct Question<F> {
    ask: Option<F>,
    is_evidence: bool,
}

impl<F: FnOnce() -> bool> Question<F> {
    const fn new(ask: F) -> Self {
        Self { ask: Some(ask), is_evidence: true }
    }

    /// The outcome as it is to be taken.
    fn settle(&mut self, outcome: Outcome) -> Outcome {
        if outcome == Outcome::Ignored {
            return outcome;
        }
        if let Some(ask) = self.ask.take() {
            self.is_evidence = ask();
        }
        self.known(outcome)
    }

    /// The outcome as it is known to be.
    const fn known(&self, outcome: Outcome) -> Outcome {
        if self.is_evidence { outcome } else { Outcome::Ignored }
    }
}

impl Worker {
    /// Takes in what an admitted request proved, and what it gives back with that. Exactly once per ticket, per permit and per
    /// reservation.
    ///
    /// The request may have gone elsewhere than to the breaker's upstream: then it proved nothing, and `is_evidence`, which
    /// costs the host a read, says so. It is asked where the outcome can change shared state or is a failure, and for one in
    /// [`SAMPLE`] of the others, so that operators hear of it too. Returns the outcome as it was taken.
    pub fn complete<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        completion: Completion,
        now: Timestamp,
        is_evidence: impl FnOnce() -> bool,
    ) -> Outcome {
        self.flush(port, now);
        let Completion { target, ticket, outcome, returned } = completion;
        let Returned { permit, mut spent } = returned;
        if active(Bug::NotRefundedOnAbort) {
            spent = spent.filter(|_| outcome != Outcome::Ignored);
        }
        let mut question = Question::new(is_evidence);
        self.unasked = self.unasked.saturating_add(1);
        let ask = outcome.is_failure() || self.unasked >= SAMPLE;
        let outcome = if ask { question.settle(outcome) } else { outcome };
        // Without anything to give back there may be nothing to write, and nothing to read.
        let ticket = ticket.filter(|ticket| {
            !returned.is_empty() || !self.changes_nothing(port, target, *ticket, outcome, now)
        });
        let mut pending =
            Pending { target, evidence: ticket.zip(Some(outcome)), frees: permit.map(Frees::Permit), spent };
        if pending.evidence.is_some() || pending.gives_back() {
            self.commit(port, &mut pending, &mut question, now);
        }
        if question.ask.is_none() {
            self.unasked = 0;
        }
        question.known(outcome)
    }

    /// Takes what a request gives back whose outcome is not told with it.
    pub fn release<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        target: Target,
        returned: Returned,
        now: Timestamp,
    ) {
        self.flush(port, now);
        let Returned { permit, spent } = returned;
        if !returned.is_empty() {
            let frees = permit.map(Frees::Permit);
            self.settle(port, Pending { target, evidence: None, frees, spent }, now);
        }
    }

    /// Takes a waiter out of a queue that is not ours any more to look after.
    pub(super) fn give_place_back<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        target: Target,
        owner: Owner,
        call: u32,
        now: Timestamp,
    ) {
        let frees = Some(Frees::Place(owner, call));
        self.settle(port, Pending { target, evidence: None, frees, spent: None }, now);
    }

    fn settle<P: Port + ?Sized>(&mut self, port: &mut P, mut pending: Pending, now: Timestamp) {
        self.commit(port, &mut pending, &mut Question::new(|| true), now);
    }

    /// Writes, and keeps what the store would not take and must not be lost.
    fn commit<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        pending: &mut Pending,
        question: &mut Question<impl FnOnce() -> bool>,
        now: Timestamp,
    ) {
        if self.write(port, pending, question, now) {
            return;
        }
        if let Some((_, outcome)) = &mut pending.evidence {
            *outcome = question.settle(*outcome);
        }
        if (pending.is_probe() || pending.gives_back()) && !active(Bug::PendingForgotten) {
            self.pending.push(*pending);
        }
    }

    /// Retries what the store would not take; what it still will not take waits on.
    pub(super) fn flush<P: Port + ?Sized>(&mut self, port: &mut P, now: Timestamp) {
        if self.pending.is_empty() {
            return;
        }
        // Where the store takes the first of a policy no better, the others need not try.
        let mut in_vain = BTreeSet::new();
        for pending in std::mem::take(&mut self.pending) {
            let tried = !in_vain.contains(&pending.target);
            if !tried || !self.write(port, &pending, &mut Question::new(|| true), now) {
                in_vain.insert(pending.target);
                self.pending.push(pending);
            }
        }
    }

    /// One update for all that a request leaves behind. Returns false where the store would not take it.
    fn write<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        pending: &Pending,
        question: &mut Question<impl FnOnce() -> bool>,
        now: Timestamp,
    ) -> bool {
        let Pending { target, evidence, frees, spent } = *pending;
        self.know_standing(port, target, now);
        let standing = self.standing;
        let done = self.change(port, target, pending.operation(), now, |state, patterns, effects| {
            let mut current = true;
            if let Some((ticket, outcome)) = evidence
                && let Some(breaker) = &patterns.breaker
                && is_weighed(state, patterns, standing, ticket, outcome, now)
            {
                let outcome = question.settle(outcome);
                let lost = outcome == Outcome::Ignored && active(Bug::NotHandedBack);
                if ticket.tells(outcome) && !lost {
                    let transitions = &mut effects.transitions;
                    let recorded =
                        state.breaker.record(&breaker.settings, &ticket, outcome, now, transitions);
                    current = recorded != Recorded::Reclaimed;
                }
            }
            let released = frees.is_none_or(|frees| frees.apply(&mut state.bulkhead, &mut effects.wakes));
            let settled = spent.is_none_or(|spent| state.budget.settle(spent, now));
            current && released && settled
        });
        match done {
            Some(true) => true,
            Some(false) => {
                port.report(Event::GaveUp { operation: Operation::Lease });
                true
            }
            None => {
                port.report(Event::GaveUp { operation: pending.operation() });
                false
            }
        }
    }

    /// Whether an outcome needs no write: nearly all of them, on a healthy upstream.
    fn changes_nothing<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        target: Target,
        ticket: Ticket,
        outcome: Outcome,
        now: Timestamp,
    ) -> bool {
        let standing = self.standing;
        let Some((patterns, guard)) = self.guard(target) else { return true };
        let Some(breaker) = &patterns.breaker else { return true };
        let lost = outcome == Outcome::Ignored && active(Bug::NotHandedBack);
        if !lost && ticket.is_probe() {
            return false;
        }
        match outcome {
            Outcome::Ignored => true,
            Outcome::Success => guard.look(port, &breaker.settings, target, now).is_ok_and(|view| {
                view.is_some_and(|view| view.absorbs_success(&breaker.settings, standing, ticket, now))
            }),
            Outcome::SlowSuccess | Outcome::Failure | Outcome::SlowFailure => false,
        }
    }
}

/// Whether an outcome can change what stands in `state`.
fn is_weighed(
    state: &State,
    patterns: &Patterns,
    standing: Standing,
    ticket: Ticket,
    outcome: Outcome,
    now: Timestamp,
) -> bool {
    let Some(breaker) = &patterns.breaker else { return false };
    let absorbed = || {
        let view = View::of(state);
        view.is_some_and(|view| view.absorbs_success(&breaker.settings, standing, ticket, now))
    };
    ticket.is_probe() || outcome != Outcome::Success || !absorbed()
}
