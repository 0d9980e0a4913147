//! What a VM does on its tick and at its end: signs of life, and the housekeeping of a leader.

use super::{Event, Operation, Port, Worker, report_conflicts};
use crate::breaker::{Owner, Phase, State as BreakerState};
use crate::members::{BLIND, Members};
use crate::state::State;
use crate::store::{Change, Unavailable, update};
use crate::time::Timestamp;

/// How many policies a leader looks after in one tick, so that ten thousand do not stall a worker.
const SWEEP: usize = 1024;

impl Worker {
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
        if left.answer.is_none() {
            port.report(Event::GaveUp { operation: Operation::Heartbeat });
        }
    }

    fn members_key(&self) -> Vec<u8> {
        // No policy has a name like this.
        format!("{}#members", self.prefix).into_bytes()
    }

    /// Who this VM is to those that watch over its probes. One that comes back after a long silence says so before it takes
    /// a probe: others might take it for dead, or have forgotten it.
    pub(super) fn join<P: Port + ?Sized>(&mut self, port: &mut P, now: Timestamp) -> Option<Owner> {
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
        if self.is_untouched(port, policy) {
            return;
        }
        // Whoever changes the state meanwhile shows it too. What is shown here must not outlive that, so it is looked at
        // again; once is enough, unless the state changes every microsecond.
        for _ in 0..3 {
            let changes = port.changes(policy);
            let Some(state) = self.look_after(port, policy, now) else { return };
            port.report(Event::Observed { policy, state });
            if port.changes(policy) == changes {
                return;
            }
        }
    }

    /// Whether nobody has ever written the policy's state: of ten thousand policies most have nothing to look after, and
    /// are shown once.
    fn is_untouched<P: Port + ?Sized>(&mut self, port: &mut P, policy: usize) -> bool {
        let Some(guard) = self.guard(policy).filter(|guard| guard.untouched) else { return false };
        guard.untouched = matches!(port.get(&guard.key), Ok(None));
        if guard.untouched && !std::mem::replace(&mut guard.shown, true) {
            port.report(Event::Observed { policy, state: BreakerState::Closed });
            // It may have been overtaken by the first write.
            guard.untouched = matches!(port.get(&guard.key), Ok(None));
        }
        guard.untouched
    }

    /// Applies what nobody else may come to apply, and returns the state there is then.
    fn look_after<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        policy: usize,
        now: Timestamp,
    ) -> Option<BreakerState> {
        let found = port.get(&self.guard(policy)?.key).ok()?;
        let state = State::decode(found.as_ref().map(|found| found.bytes.as_slice()), now);
        let phase = state.breaker.phase();
        if let Phase::HalfOpen { until, probes, .. } = phase {
            self.holders.extend(probes.iter().map(|probe| probe.owner));
            if now > *until || probes.iter().any(|probe| self.watch.is_dead(probe.owner, now)) {
                return self.give_back(port, policy, now);
            }
        }
        Some(phase.state())
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
}
