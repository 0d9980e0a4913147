//! What a VM does on its tick and at its end: signs of life, and the housekeeping of a leader.

use super::{Event, Operation, Patterns, Port, Scope, Target, Worker, report_conflicts};
use crate::breaker::{HalfOpen, Owner, Phase, State as BreakerState};
use crate::budget::Settings;
use crate::members::{BLIND, Members, Standing};
use crate::planted::{Bug, active};
use crate::state::State;
use crate::store::{Change, Unavailable, Versioned, update};
use crate::time::Timestamp;

/// How many policies a leader looks after in one tick, so that ten thousand do not stall a worker.
const SWEEP: usize = 1024;
/// How many untouched policies a leader shows for the first time in one tick: to define a metric costs the host far more
/// than to write it.
const SHOW: usize = 64;

impl Worker {
    /// One tick: a sign of life, what the store would not take before, and, for a leader, the housekeeping. Returns whether
    /// this VM leads. Those that wait are [`Self::look_after_all`]'s.
    pub fn tick<P: Port + ?Sized>(&mut self, port: &mut P, now: Timestamp) -> bool {
        self.beat(port, now);
        self.flush(port, now);
        let members = match port.get(&self.members_key()) {
            Ok(Some(found)) => Members::decode(Some(&found.bytes), now),
            Ok(None) => Members::default(),
            Err(Unavailable) => return false,
        };
        self.watch.observe(&members, &self.known_holders, now);
        let leads = self.me.is_some_and(|me| members.is_leader(me, self.configuration, now, &self.watch));
        self.sweep(port, leads, now);
        if let Some(generation) = self.generation.filter(|_| leads) {
            port.report(Event::Reigns { generation });
        }
        leads
    }

    /// Ends in order: hands back what had to wait and leaves the table. What cannot be handed back ends with its lease.
    pub fn leave<P: Port + ?Sized>(&mut self, port: &mut P, now: Timestamp) {
        let waiting: Vec<u32> = self.waiting.keys().copied().collect();
        waiting.into_iter().for_each(|call| self.forget(port, call, now));
        self.flush(port, now);
        self.show_last_crowds(port, now);
        let Some(me) = self.me.take_if(|_| self.pending.is_empty()) else { return };
        let left = update(port, &self.members_key(), |found| {
            let mut members = Members::decode(found.map(Versioned::bytes), now);
            members.leave(me);
            Change::Write(members.encode(), ())
        });
        report_conflicts(port, Operation::Heartbeat, left.conflicts);
        if left.answer.is_none() {
            port.report(Event::GaveUp { operation: Operation::Heartbeat });
        }
    }

    /// Shows once more what is in flight where this VM had a hand in it: with the last VM of a configuration a policy may go
    /// that no other shows.
    fn show_last_crowds<P: Port + ?Sized>(&mut self, port: &mut P, now: Timestamp) {
        for policy in 0..self.scopes.len() {
            let guards = self.scope(policy).map_or(&[][..], |scope| &scope.guards);
            if !guards.iter().any(|guard| guard.used) {
                continue;
            }
            let mut crowd = Crowd::default();
            for guard in guards {
                let Ok(found) = port.get(&guard.key) else {
                    crowd.partial = true;
                    break;
                };
                let written = found.is_some();
                let state = State::read(found.as_ref(), now);
                crowd.add(&self.found(policy, state, written, now));
            }
            self.show_crowd(port, policy, crowd);
        }
    }

    /// Takes note of how the configuration stands. What the newest one shows once it shows again when it is the newest again:
    /// another has shown its own meanwhile.
    fn stand(&mut self, standing: Standing) {
        let anew = self.standing == Standing::Superseded && standing != Standing::Superseded;
        self.standing = standing;
        if anew {
            let guards = self.scopes.iter_mut().flatten().flat_map(|scope| &mut scope.guards);
            guards.for_each(|guard| guard.shown = false);
        }
    }

    /// Opens the shared queue that wakes this VM, where requests may wait: one name for each slot of the table, because
    /// the host never takes a queue back.
    fn listen<P: Port + ?Sized>(&mut self, port: &mut P, slot: Option<u16>) {
        // No policy has a name like this.
        let queue = slot.and_then(|slot| port.listen(&format!("{}#wake/{slot}", self.prefix)));
        self.queue = queue.unwrap_or(0);
    }

    pub(super) fn members_key(&self) -> Vec<u8> {
        // No policy has a name like this.
        format!("{}#members", self.prefix).into_bytes()
    }

    /// Who this VM is to those that watch over what it holds. One that comes back after a long silence says so before it takes
    /// a probe or a permit: others might take it for dead, or have forgotten it.
    pub(super) fn join<P: Port + ?Sized>(&mut self, port: &mut P, now: Timestamp) -> Option<Owner> {
        let late = |worker: &Self| worker.me.is_none() || now.since(worker.beaten) > BLIND;
        if late(self) {
            self.beat(port, now);
        }
        self.me.filter(|_| !late(self))
    }

    pub(super) fn beat<P: Port + ?Sized>(&mut self, port: &mut P, now: Timestamp) {
        let (me, watch, configuration) = (self.me, &self.watch, self.configuration);
        let beaten = update(port, &self.members_key(), |found| {
            let mut members = Members::decode(found.map(Versioned::bytes), now);
            let lost = members.bury(me, now, watch);
            let owner = members.beat(me, configuration, now, watch);
            let standing = members.standing(configuration, now, watch);
            let generation = (standing != Standing::Superseded).then(|| members.reigns(configuration));
            Change::Write(members.encode(), (owner, members.slot(owner), standing, generation, lost))
        });
        report_conflicts(port, Operation::Heartbeat, beaten.conflicts);
        match beaten.answer {
            Some((owner, slot, standing, generation, lost)) => {
                (self.me, self.beaten) = (Some(owner), now);
                self.stand(standing);
                self.generation = generation;
                if lost > 0 {
                    port.report(Event::Lost { vms: lost });
                }
                // A queue that could not be had may be had now.
                if self.may_wait && (me != Some(owner) || self.queue == 0) {
                    self.listen(port, slot);
                }
            }
            None => port.report(Event::GaveUp { operation: Operation::Heartbeat }),
        }
    }

    /// A leader looks after the next [`SWEEP`] policies. It collects who holds anything, so that its watch also covers owners
    /// that have no line any more.
    fn sweep<P: Port + ?Sized>(&mut self, port: &mut P, leads: bool, now: Timestamp) {
        if !leads {
            self.holders.clear();
            self.known_holders.clear();
            self.next_swept = 0;
            return;
        }
        let (mut swept, mut shown): (usize, usize) = (0, 0);
        while swept < SWEEP && self.next_swept < self.scopes.len() {
            let policy = self.next_swept;
            if self.has_keys(policy) {
                self.learn_keys(port, policy, None);
            }
            let keys = self.scope(policy).map_or(0, |scope| scope.guards.len());
            let mut crowd = Crowd::default();
            for key in 0..keys {
                let target = Target { policy, key };
                let may_show = shown < SHOW && port.shows_unused();
                let new = self.maintain(port, target, may_show, &mut crowd, now);
                shown = shown.saturating_add(usize::from(new));
            }
            self.show_crowd(port, policy, crowd);
            swept = swept.saturating_add(keys.max(1));
            self.next_swept = self.next_swept.saturating_add(1);
        }
        if self.next_swept >= self.scopes.len() {
            self.next_swept = 0;
            self.known_holders = std::mem::take(&mut self.holders).into_iter().collect();
        }
    }

    /// Returns whether an untouched policy was shown for the first time, which needs `may_show`.
    fn maintain<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        target: Target,
        may_show: bool,
        crowd: &mut Crowd,
        now: Timestamp,
    ) -> bool {
        match self.untouched(port, target, may_show) {
            Untouched::Yes => return false,
            Untouched::Shown => {
                crowd.seen = true;
                return true;
            }
            Untouched::No => {}
        }
        // Whoever changes the state meanwhile shows it too. What is shown here must not outlive that, so it is looked at
        // again; once is enough, unless the state changes every microsecond.
        for attempt in 0..3 {
            let changes = port.changes(target);
            let Some(found) = self.look_after(port, target, now) else {
                crowd.partial |= attempt == 0;
                return false;
            };
            if attempt == 0 {
                crowd.add(&found);
            }
            self.show(port, target, found.state);
            if port.changes(target) == changes {
                return false;
            }
        }
        false
    }

    fn show<P: Port + ?Sized>(&self, port: &mut P, target: Target, state: BreakerState) {
        // Where configurations serve side by side, the newest one's modes say what there is to show.
        if self.keeps_state(target.policy) && self.standing != Standing::Superseded {
            port.report(Event::Observed { target, state });
        }
    }

    fn show_crowd<P: Port + ?Sized>(&self, port: &mut P, policy: usize, crowd: Crowd) {
        let Some(Scope { patterns: Patterns { bulkhead, budget, .. }, .. }) = self.scope(policy) else {
            return;
        };
        let Crowd { seen: true, partial: false, in_flight, waiting, balance } = crowd else { return };
        let newest = self.standing != Standing::Superseded;
        if let Some(bulkhead) = bulkhead {
            let limit = newest.then_some(bulkhead.settings.max_concurrent_calls);
            port.report(Event::Crowd { policy, in_flight, waiting, limit });
        }
        if let Some(budget) = budget.as_ref().filter(|_| newest || active(Bug::BalanceByOlder)) {
            // Where no key was ever asked for, nobody has paid or spent yet.
            let balance = balance.unwrap_or_else(|| budget.settings.at_birth());
            port.report(Event::Balance { policy, retries: u64::try_from(balance).unwrap_or(0) });
        }
    }

    /// What there is in a state to show. One that nobody has `written` yet has no balance of its own to add.
    fn found(&self, policy: usize, state: State, written: bool, now: Timestamp) -> Found {
        let budget = self.scope(policy).and_then(|scope| scope.patterns.budget.as_ref());
        let budget = budget.filter(|_| written);
        Found::in_state(state, budget.map(|budget| &budget.settings), now)
    }

    /// Whether nobody has ever written the state: of ten thousand policies most have nothing to look after, and are shown
    /// once.
    fn untouched<P: Port + ?Sized>(&mut self, port: &mut P, target: Target, may_show: bool) -> Untouched {
        let Some((_, guard)) = self.guard(target).filter(|(_, guard)| guard.untouched) else {
            return Untouched::No;
        };
        guard.untouched = matches!(port.get(&guard.key), Ok(None));
        if !guard.untouched {
            return Untouched::No;
        }
        if guard.shown || !may_show {
            return Untouched::Yes;
        }
        guard.shown = true;
        self.show(port, target, BreakerState::Closed);
        // It may have been overtaken by the first write.
        let Some((_, guard)) = self.guard(target) else { return Untouched::Yes };
        guard.untouched = matches!(port.get(&guard.key), Ok(None));
        if guard.untouched { Untouched::Shown } else { Untouched::No }
    }

    /// Applies what nobody else may come to apply, and returns what there is then.
    fn look_after<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        target: Target,
        now: Timestamp,
    ) -> Option<Found> {
        let found = port.get(&self.guard(target)?.1.key).ok()?;
        let written = found.is_some();
        let state = State::read(found.as_ref(), now);
        let mut due = false;
        if let Phase::HalfOpen(HalfOpen { until, probes, .. }) = state.breaker.phase() {
            self.holders.extend(probes.iter().map(|probe| probe.owner));
            due = now > *until || probes.iter().any(|probe| self.watch.is_dead(probe.owner, now));
        }
        let owners = || state.bulkhead.owners().chain(state.budget.owners());
        self.holders.extend(owners());
        due = due || owners().any(|owner| self.watch.is_dead(owner, now));
        if due {
            self.give_back(port, target, now)
        } else {
            Some(self.found(target.policy, state, written, now))
        }
    }

    fn give_back<P: Port + ?Sized>(&mut self, port: &mut P, target: Target, now: Timestamp) -> Option<Found> {
        let watch = self.watch.clone();
        let is_dead = |owner| watch.is_dead(owner, now);
        let done = self.change(port, target, Operation::Maintain, now, |state, patterns, effects| {
            let probes = patterns.breaker.as_ref().map_or(0, |breaker| {
                state.breaker.settle(&breaker.settings, now, &mut effects.transitions);
                state.breaker.reclaim(is_dead)
            });
            let permits = state.bulkhead.reclaim(is_dead, &mut effects.wakes);
            let retries = state.budget.reclaim(is_dead, now);
            let budget = patterns.budget.as_ref().map(|budget| &budget.settings);
            (probes, permits, retries, Found::in_state(state.clone(), budget, now))
        });
        let Some((probes, permits, retries, found)) = done else {
            port.report(Event::GaveUp { operation: Operation::Maintain });
            return None;
        };
        if probes > 0 || permits > 0 || retries > 0 {
            port.report(Event::Reclaimed { target, probes, permits, retries });
        }
        Some(found)
    }
}

/// What a leader finds in a state.
struct Found {
    state: BreakerState,
    in_flight: u32,
    waiting: u32,
    /// How many retries are kept for nobody, where there is a budget.
    balance: Option<i64>,
}

impl Found {
    fn in_state(mut state: State, budget: Option<&Settings>, now: Timestamp) -> Self {
        Self {
            state: state.breaker.phase().state(),
            in_flight: state.bulkhead.in_flight(),
            waiting: state.bulkhead.waiting(),
            balance: budget.map(|budget| state.budget.available(budget, now)),
        }
    }
}

/// What is in flight, and in the budgets, over all keys of a policy.
#[derive(Clone, Copy, Default)]
struct Crowd {
    /// Whether any of them was looked at.
    seen: bool,
    /// Whether one of them could not be looked at.
    partial: bool,
    in_flight: u32,
    waiting: u32,
    balance: Option<i64>,
}

impl Crowd {
    fn add(&mut self, found: &Found) {
        self.seen = true;
        self.in_flight = self.in_flight.saturating_add(found.in_flight);
        self.waiting = self.waiting.saturating_add(found.waiting);
        let both = |balance: i64| self.balance.unwrap_or(0).saturating_add(balance.max(0));
        self.balance = found.balance.map(both).or(self.balance);
    }
}

/// Whether a state has ever been written.
enum Untouched {
    /// It has.
    No,
    /// It has not.
    Yes,
    /// It has not, and that was shown for the first time.
    Shown,
}
