//! What one worker's VM does with the state all of them share: admits, records, hands back, and keeps house on its tick.
//!
//! Everything here is deterministic given the [`Port`], so that the simulator runs this very code.

#[cfg(test)]
mod fake;
#[cfg(test)]
mod give_up_tests;
#[cfg(test)]
mod tests;

use crate::breaker::{
    Admission, Outcome, Owner, Phase, Recorded, Settings, State as BreakerState, Ticket, Transition,
};
use crate::members::{BLIND, Members, Watch};
use crate::planted::{Bug, active};
use crate::state::State;
use crate::store::{Change, Store, Unavailable, update};
use crate::time::Timestamp;
use std::collections::BTreeSet;
use std::time::Duration;

/// For how long a VM believes what it last read while the policy's change counter stands still. The counter says at once
/// that something changed; this bounds the harm where a VM died between its write and the counter.
const BELIEF: Duration = Duration::from_millis(100);
/// How many policies a leader looks after in one tick, so that ten thousand do not stall a worker.
const SWEEP: usize = 1024;

/// What the shared state was needed for; the label `operation` of the store's metrics.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Operation {
    /// Deciding over a request.
    Admit,
    /// Counting an outcome.
    Record,
    /// Giving back a probe that proved nothing.
    HandBack,
    /// Showing a sign of life.
    Heartbeat,
    /// A leader's housekeeping.
    Maintain,
    /// An outcome came back after its lease had ended: its place may have been taken twice.
    Lease,
}

impl Operation {
    /// Every operation, in the order of their discriminants.
    pub const ALL: [Self; 6] =
        [Self::Admit, Self::Record, Self::HandBack, Self::Heartbeat, Self::Maintain, Self::Lease];

    /// The label's value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Record => "record",
            Self::HandBack => "hand_back",
            Self::Heartbeat => "heartbeat",
            Self::Maintain => "maintain",
            Self::Lease => "lease",
        }
    }
}

/// Something that happened and is committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A breaker changed state.
    Transition {
        /// The policy's index.
        policy: usize,
        /// What changed.
        transition: Transition,
    },
    /// A leader looked: this is the state to show.
    Observed {
        /// The policy's index.
        policy: usize,
        /// The breaker's state.
        state: BreakerState,
    },
    /// Others' writes got in between this many times.
    Conflicts {
        /// What the write was for.
        operation: Operation,
        /// How often.
        count: u32,
    },
    /// An operation could not be done, or was done too late.
    GaveUp {
        /// Which.
        operation: Operation,
    },
    /// Probes of a VM that shows no sign of life were given back.
    Reclaimed {
        /// The policy's index.
        policy: usize,
        /// How many.
        count: usize,
    },
}

/// Everything a worker needs of the world.
pub trait Port: Store {
    /// A number that has grown since the policy's state was last written by anyone; `None` if it cannot be had.
    fn changes(&mut self, policy: usize) -> Option<u64>;

    /// Makes [`Self::changes`] grow.
    fn changed(&mut self, policy: usize);

    /// Takes note of what happened.
    fn report(&mut self, event: Event);
}

/// A policy as a worker sees it.
#[derive(Debug)]
struct Guard {
    key: Vec<u8>,
    settings: Settings,
    belief: Option<Belief>,
    /// The last generation and state seen: what stands in when the store does not answer.
    generation: u64,
    state: BreakerState,
}

/// What the worker last read.
#[derive(Clone, Copy, Debug)]
struct Belief {
    changes: u64,
    until: Timestamp,
    view: View,
}

#[derive(Clone, Copy, Debug)]
enum View {
    Closed { ticket: Ticket, clean: bool },
    Open { until: Timestamp },
}

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
        if let Some(view) = guard.believed(changes, now) {
            match view {
                View::Closed { ticket, .. } => return Admission::Admitted(ticket),
                View::Open { until } if waits(until, now) => {
                    return Admission::Refused { wait: Some(until.since(now)) };
                }
                View::Open { .. } => {}
            }
        }
        match guard.read(port, changes, now) {
            Err(Unavailable) => self.admit_blind(port, policy),
            Ok(Some(View::Closed { ticket, .. })) => Admission::Admitted(ticket),
            Ok(Some(View::Open { until })) if waits(until, now) => {
                Admission::Refused { wait: Some(until.since(now)) }
            }
            Ok(_) => self.admit_with_write(port, policy, now),
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
            Some(View::Open { .. }) => true,
            None => false,
        }
    }

    /// One tick: a sign of life, what had to wait, and, for a leader, the housekeeping. Returns whether this VM leads.
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
        leads
    }

    /// Ends in order: hands back what had to wait and leaves the table. What cannot be handed back ends with its lease.
    pub fn leave<P: Port + ?Sized>(&mut self, port: &mut P, now: Timestamp) {
        self.flush(port, now);
        let Some(me) = self.me.take_if(|_| self.pending.is_empty()) else { return };
        let left = update(port, &self.members_key(), |bytes| {
            let mut members = Members::decode(bytes, now);
            members.leave(me);
            Change::Write(members.encode(), ())
        });
        report_conflicts(port, Operation::Heartbeat, left.conflicts);
    }

    fn guard(&mut self, policy: usize) -> Option<&mut Guard> {
        self.guards.get_mut(policy)?.as_mut()
    }

    fn members_key(&self) -> Vec<u8> {
        // No policy has a name like this.
        format!("{}#members", self.prefix).into_bytes()
    }

    /// Who this VM is to those that watch over its probes. One that comes back after a long silence says so before it takes
    /// a probe: others might take it for dead, or have forgotten it.
    fn join<P: Port + ?Sized>(&mut self, port: &mut P, now: Timestamp) -> Option<Owner> {
        let late = |worker: &Self| worker.me.is_none() || now.since(worker.beaten) > BLIND;
        if late(self) {
            self.beat(port, now);
        }
        self.me.filter(|_| !late(self))
    }

    fn beat<P: Port + ?Sized>(&mut self, port: &mut P, now: Timestamp) {
        let (me, watch, configuration) = (self.me, &self.watch, self.configuration);
        let beaten = update(port, &self.members_key(), |bytes| {
            let mut members = Members::decode(bytes, now);
            let owner = members.beat(me, configuration, now, watch);
            Change::Write(members.encode(), owner)
        });
        report_conflicts(port, Operation::Heartbeat, beaten.conflicts);
        match beaten.answer {
            Some(owner) => (self.me, self.beaten) = (Some(owner), now),
            None => port.report(Event::GaveUp { operation: Operation::Heartbeat }),
        }
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

    /// A leader looks after the next [`SWEEP`] policies. It collects who holds probes, so that its watch also covers owners
    /// that have no line any more.
    fn sweep<P: Port + ?Sized>(&mut self, port: &mut P, leads: bool, now: Timestamp) {
        if !leads {
            self.holders.clear();
            self.known_holders.clear();
            self.next_swept = 0;
            return;
        }
        let end = self.next_swept.saturating_add(SWEEP).min(self.guards.len());
        for policy in self.next_swept..end {
            self.maintain(port, policy, now);
        }
        self.next_swept = end;
        if end >= self.guards.len() {
            self.next_swept = 0;
            self.known_holders = std::mem::take(&mut self.holders).into_iter().collect();
        }
    }

    fn maintain<P: Port + ?Sized>(&mut self, port: &mut P, policy: usize, now: Timestamp) {
        let Some(guard) = self.guard(policy) else { return };
        let Ok(found) = port.get(&guard.key) else { return };
        let state = State::decode(found.as_ref().map(|found| found.bytes.as_slice()), now);
        let mut shown = state.breaker.phase().state();
        if let Phase::HalfOpen { until, probes, .. } = state.breaker.phase() {
            self.holders.extend(probes.iter().map(|probe| probe.owner));
            if now > *until || probes.iter().any(|probe| self.watch.is_dead(probe.owner, now)) {
                shown = self.give_back(port, policy, now).unwrap_or(shown);
            }
        }
        port.report(Event::Observed { policy, state: shown });
    }

    fn give_back<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        policy: usize,
        now: Timestamp,
    ) -> Option<BreakerState> {
        let watch = self.watch.clone();
        let done = self.change(port, policy, Operation::Maintain, now, |state, settings, transitions| {
            state.breaker.settle(settings, now, transitions);
            let count = state.breaker.reclaim(|owner| watch.is_dead(owner, now));
            (count, state.breaker.phase().state())
        });
        let Some((count, state)) = done else {
            port.report(Event::GaveUp { operation: Operation::Maintain });
            return None;
        };
        if count > 0 {
            port.report(Event::Reclaimed { policy, count });
        }
        Some(state)
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

impl Guard {
    /// What the worker believes, if nothing says otherwise.
    fn believed(&self, changes: Option<u64>, now: Timestamp) -> Option<View> {
        self.belief
            .filter(|belief| Some(belief.changes) == changes)
            .filter(|belief| now <= belief.until || active(Bug::EndlessBelief))
            .map(|belief| belief.view)
    }

    /// Reads the state and believes it from now on. `changes` must have been read before: whatever is written in between
    /// then shows. `None` for a state that only a write can decide over.
    fn read<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        changes: Option<u64>,
        now: Timestamp,
    ) -> Result<Option<View>, Unavailable> {
        let found = port.get(&self.key)?;
        let state = State::decode(found.as_ref().map(|found| found.bytes.as_slice()), now);
        let breaker = &state.breaker;
        (self.generation, self.state) = (breaker.generation(), breaker.phase().state());
        let view = match breaker.phase() {
            _ if state.repaired => None,
            Phase::Closed(_) => Some(View::Closed {
                ticket: Ticket { generation: breaker.generation(), probe: None },
                clean: breaker.is_clean(),
            }),
            Phase::Open { until } => Some(View::Open { until: *until }),
            Phase::HalfOpen { .. } => None,
        };
        self.belief =
            view.zip(changes).map(|(view, changes)| Belief { changes, until: now.after(BELIEF), view });
        Ok(view)
    }
}

/// Whether an open wait goes on: refusal ends strictly after its last moment.
fn waits(until: Timestamp, now: Timestamp) -> bool {
    now < until || (now == until && !active(Bug::InclusiveWait))
}

fn report_conflicts<P: Port + ?Sized>(port: &mut P, operation: Operation, count: u32) {
    if count > 0 {
        port.report(Event::Conflicts { operation, count });
    }
}
