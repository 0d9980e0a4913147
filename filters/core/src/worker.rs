//! What one worker's VM does with the state all of them share: admits, completes, and keeps house on its tick.
//!
//! Everything here is deterministic given the [`Port`], so that the simulator runs this very code.

mod admission;
#[cfg(test)]
mod agreement_tests;
mod asking;
#[cfg(test)]
mod budget_tests;
#[cfg(test)]
mod budget_trouble_tests;
#[cfg(test)]
mod budget_waiting_tests;
#[cfg(test)]
mod bulkhead_tests;
mod completion;
#[cfg(test)]
mod dependency_tests;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod give_up_tests;
mod guard;
mod housekeeping;
mod keys;
#[cfg(test)]
mod lease_tests;
#[cfg(test)]
mod overtaken_tests;
mod port;
#[cfg(test)]
mod rates_tests;
mod reading;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod told_tests;
mod verdict;
mod waiting;
#[cfg(test)]
mod waiting_tests;
#[cfg(test)]
mod waiting_trouble_tests;

pub use port::{Event, Operation, Port, Target};
pub use reading::{Read, Reading};
pub use verdict::{
    Arrival, Completion, Pass, Pattern, Patterns, Refused, Resumed, Returned, Shared, Verdict,
};

use crate::breaker::{Command, Lasted, Owner, State as BreakerState, Transition};
use crate::bulkhead::Wake;
use crate::members::{Standing, Watch};
use crate::planted::{Bug, active};
use crate::state::State;
use crate::store::{Change, update};
use crate::time::Timestamp;
use completion::Pending;
use guard::{Guard, View};
use keys::Keys;
use std::collections::{BTreeMap, BTreeSet};
use waiting::Waiting;

/// A policy as a worker sees it.
#[derive(Debug)]
struct Scope {
    patterns: Patterns,
    /// By a target's key: the policy's own, and those of its keys.
    guards: Vec<Guard>,
    keys: Option<Keys>,
}

/// What an update did that others are to hear of once it is committed.
#[derive(Debug, Default)]
struct Effects {
    transitions: Vec<Transition>,
    /// To each of them.
    lasted: Vec<Lasted>,
    wakes: Vec<Wake>,
}

/// One VM's side of the shared state, for one configuration.
#[derive(Debug)]
pub struct Worker {
    prefix: String,
    configuration: u64,
    scopes: Vec<Option<Scope>>,
    me: Option<Owner>,
    /// Whether any policy lets requests wait.
    may_wait: bool,
    /// The shared queue that wakes this VM; 0 while there is none.
    queue: u32,
    standing: Standing,
    /// The how manieth configuration ours is, as long as it is the newest.
    generation: Option<u64>,
    /// When this VM last gave a sign of life.
    beaten: Timestamp,
    watch: Watch,
    pending: Vec<Pending>,
    /// Requests that wait, by their numbers.
    waiting: BTreeMap<u32, Waiting>,
    /// How many outcomes have been taken since it was last asked whether one is evidence.
    unasked: u32,
    next_swept: usize,
    /// Who held probes or permits in the sweep under way, and in the one before.
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
        let scopes: Vec<Option<Scope>> = policies
            .map(|(name, shared)| {
                let Shared { patterns, max_keys } = shared?;
                let guards = vec![Guard::new(format!("{prefix}{name}").into_bytes())];
                Some(Scope { patterns, guards, keys: max_keys.map(Keys::new) })
            })
            .collect();
        let bulkheads = scopes.iter().flatten().filter_map(|scope| scope.patterns.bulkhead.as_ref());
        Self {
            prefix,
            configuration,
            may_wait: bulkheads.into_iter().any(|bulkhead| bulkhead.settings.queue.is_some()),
            scopes,
            me: None,
            queue: 0,
            standing: Standing::default(),
            generation: None,
            beaten: Timestamp::default(),
            watch: Watch::default(),
            pending: Vec::new(),
            waiting: BTreeMap::new(),
            unasked: 0,
            next_swept: 0,
            holders: BTreeSet::new(),
            known_holders: Vec::new(),
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
        let forced = self.change(port, target, Operation::Force, now, |state, _, effects| {
            state.breaker.force(command, now, &mut effects.transitions);
            state.breaker.phase().state()
        });
        if forced.is_none() {
            port.report(Event::GaveUp { operation: Operation::Force });
        }
        forced
    }

    /// Whether ours is the newest configuration, as far as this VM knows.
    #[must_use]
    pub const fn reigns(&self) -> bool {
        self.generation.is_some()
    }

    /// Whether a request that was just let in may well be the one that has its breaker change: as far as this VM knows.
    #[must_use]
    pub fn may_decide(&self, target: Target) -> bool {
        let guard = self.scope(target.policy).and_then(|scope| scope.guards.get(target.key));
        guard.is_some_and(|guard| guard.near_a_change)
    }

    /// The state of a breaker as this VM has seen it last.
    #[must_use]
    pub fn last_seen(&self, target: Target) -> Option<BreakerState> {
        let scope = self.scope(target.policy).filter(|scope| scope.patterns.breaker.is_some())?;
        scope.guards.get(target.key).map(|guard| guard.state)
    }

    /// Whether a policy's breaker keeps anything in shared state.
    #[must_use]
    pub fn keeps_state(&self, policy: usize) -> bool {
        self.scope(policy).is_some_and(|scope| scope.patterns.breaker.is_some())
    }

    fn scope(&self, policy: usize) -> Option<&Scope> {
        self.scopes.get(policy)?.as_ref()
    }

    fn guard(&mut self, target: Target) -> Option<(&Patterns, &mut Guard)> {
        let Scope { patterns, guards, .. } = self.scopes.get_mut(target.policy)?.as_mut()?;
        Some((patterns, guards.get_mut(target.key)?))
    }

    /// Changes a policy's state by a pure function and reports what came of it once it is committed.
    fn change<P: Port + ?Sized, T>(
        &mut self,
        port: &mut P,
        target: Target,
        operation: Operation,
        now: Timestamp,
        mut decide: impl FnMut(&mut State, &Patterns, &mut Effects) -> T,
    ) -> Option<T> {
        let standing = self.standing;
        let (patterns, guard) = self.guard(target)?;
        let mut effects = Effects::default();
        let (mut found, mut near) = (None, guard.near_a_change);
        let updated = update(port, &guard.key, |present| {
            effects = Effects::default();
            let before = State::read(present, now);
            let mut after = before.clone();
            if let Some(breaker) = &patterns.breaker
                && (standing != Standing::Superseded || active(Bug::ReshapedByOlder))
            {
                after.breaker.adopt(&breaker.settings, standing == Standing::Alone);
            }
            if let Some(budget) = &patterns.budget
                && (standing != Standing::Superseded || active(Bug::BudgetReshapedByOlder))
            {
                after.budget.adopt(&budget.settings);
            }
            let answer = decide(&mut after, patterns, &mut effects);
            let Effects { transitions, lasted, .. } = &mut effects;
            lasted.extend(transitions.iter().map(|transition| after.history.note(*transition)));
            found = Some(seen(&before));
            near =
                patterns.breaker.as_ref().is_some_and(|it| after.breaker.is_near_a_change(&it.settings, now));
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
        guard.near_a_change = near;
        if matters {
            guard.belief = None;
        }
        report_conflicts(port, operation, updated.conflicts);
        guard.used |= updated.wrote && (patterns.bulkhead.is_some() || patterns.budget.is_some());
        if updated.wrote && matters && !active(Bug::Unannounced) {
            port.changed(target);
        }
        if updated.wrote || active(Bug::ToldTooEarly) {
            for (transition, lasted) in effects.transitions.into_iter().zip(effects.lasted) {
                port.report(Event::Transition { target, transition, lasted });
            }
            effects.wakes.into_iter().for_each(|wake| port.wake(wake));
        }
        answer
    }

    /// Only the newest configuration decides over a window's shape: a VM that has not looked yet looks.
    fn know_standing<P: Port + ?Sized>(&mut self, port: &mut P, target: Target, now: Timestamp) {
        let has_window = |scope: &Scope| {
            let Patterns { breaker, budget, .. } = &scope.patterns;
            budget.is_some() || breaker.as_ref().is_some_and(|breaker| breaker.settings.rates.is_some())
        };
        if self.me.is_none() && self.scope(target.policy).is_some_and(has_window) {
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
