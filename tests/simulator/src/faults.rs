//! What goes wrong, and how a run comes to rest afterwards.

use crate::oracle::Verdict;
use crate::plan::{Fault, HELD, MS, SECOND};
use crate::view;
use crate::vm::Task;
use crate::world::{Event, World};
use resilience_core::breaker::Command;
use std::time::Duration;

/// A stop of this length cannot be told from workers that are late.
const UNNOTICED: u64 = 2 * SECOND;

impl World {
    pub(crate) fn something_goes_wrong(&mut self) {
        if self.calm || self.plan.faults.is_empty() {
            return;
        }
        let fault = self.rng.pick(&self.plan.faults);
        self.trace.note(self.now, || format!("-- {fault:?}"));
        let policy = self.rng.index(self.plan.policies);
        let cluster = self.some_cluster().filter(|cluster| self.oracle.place_of(policy, *cluster).is_some());
        let breaker = crate::breaker(policy, cluster);
        let victim = self.rng.index(self.slots.len().max(1));
        match fault {
            Fault::Stop => self.stop(),
            Fault::Jump => {
                let span = self.rng.spread(60 * SECOND, 30 * 24 * 3600 * SECOND);
                self.stand_still(span);
            }
            Fault::Outage => {
                let span = self.rng.spread(MS, 8 * SECOND);
                self.outage = true;
                self.after(span, Event::Recovery);
            }
            Fault::Arrival if self.slots.len() < 8 => {
                let configuration = self.rng.index(self.plan.configurations.len());
                self.start(configuration);
            }
            Fault::Damage => self.damage(breaker),
            Fault::MovedOn => self.move_on(breaker),
            Fault::Force if self.slots.len() > victim => {
                let command = self.some_command();
                self.slots[victim].tasks.push(Task::Force { policy, cluster, command });
            }
            // Once in a run: identities begin with the clock again, so a table that is lost twice in a nanosecond gives one
            // out twice. So be it.
            Fault::MembersDamage if !self.members_damaged => {
                self.members_damaged = true;
                let garbage = self.rng.next().to_le_bytes();
                let len = self.rng.index(garbage.len());
                self.store.overwrite(crate::MEMBERS, &garbage[..len]);
                self.oracle.members.damaged();
            }
            Fault::Foreign => self.leave_sections(breaker),
            Fault::Stall | Fault::Death | Fault::Departure if self.slots.len() > victim => {
                self.befall(fault, victim);
            }
            _ => {}
        }
        // From then on, or one that stops the clock would be overdue at once, again and again.
        let next = self.rng.below(self.plan.fault_pace).max(MS);
        self.after(next, Event::Fault);
    }

    fn befall(&mut self, fault: Fault, victim: usize) {
        let id = self.slots[victim].id;
        match fault {
            Fault::Stall => self.stall(victim),
            Fault::Death => self.die(id, "dies where it is"),
            _ if self.slots.len() > 1 && !self.slots[victim].tasks.contains(&Task::Leave) => {
                self.slots[victim].tasks.push(Task::Leave);
                let configuration = self.rng.index(self.plan.configurations.len());
                if self.rng.chance(700) {
                    self.after(MS, Event::Start { configuration });
                }
            }
            _ => {}
        }
    }

    fn stall(&mut self, victim: usize) {
        let id = self.slots[victim].id;
        self.trace.note(self.now, || format!("VM {id} stands still"));
        self.slots[victim].stalled = true;
        let (least, most) = self.plan.stall;
        let span = self.rng.spread(least, most);
        self.after(span, Event::Resume { vm: id });
    }

    fn stop(&mut self) {
        let span = self.rng.spread(10 * MS, 120 * SECOND);
        self.stand_still(span);
    }

    /// A worker stands still in the middle of what it does, or everybody does.
    pub(crate) fn freeze(&mut self, victim: usize) {
        if self.rng.chance(800) { self.stall(victim) } else { self.stop() }
    }

    /// Time goes by and nobody ticks. What should have happened meanwhile is overdue.
    fn stand_still(&mut self, span: u64) {
        self.trace.note(self.now, || format!("everything stands still for {} ms", span / MS));
        if span <= UNNOTICED {
            return self.pass(span);
        }
        self.now.now = self.now.now.saturating_add(span);
        self.oracle.at(self.now);
    }

    fn some_command(&mut self) -> Command {
        let span = Duration::from_nanos(self.rng.spread(MS, HELD));
        self.rng.pick(&[Command::Open(span), Command::Close(span), Command::Reset])
    }

    fn meddle(&mut self, breaker: usize, bytes: &[u8]) {
        self.trace.note(self.now, || format!("somebody else writes breaker {breaker}: {bytes:?}"));
        self.store.overwrite(self.keys[breaker].as_bytes(), bytes);
        self.changes[breaker] += 1;
        self.oracle.meddled(breaker, bytes);
    }

    /// What rates and recovery need is left as it was: of a generation that is gone.
    fn move_on(&mut self, breaker: usize) {
        let Some(found) = self.store.get(self.keys[breaker].as_bytes()) else { return };
        let Some(model) = self.oracle.policies[breaker].latest().model() else { return };
        let moved = model.moved_on();
        let Some(mut sections) = view::sections(&found.bytes) else { return };
        for (id, version, content) in &mut sections {
            if (*id, *version) == view::BREAKER {
                *content = view::closed(moved.generation(), moved.shape().next_probe);
            }
        }
        let bytes = view::write(&sections);
        self.trace.note(self.now, || format!("an older module moves breaker {breaker} on: {bytes:?}"));
        self.store.overwrite(self.keys[breaker].as_bytes(), &bytes);
        self.changes[breaker] += 1;
        self.oracle.moved_on(breaker, moved);
    }

    fn damage(&mut self, policy: usize) {
        // What is cut twice might be whole again, and so might what an older module left.
        if self.oracle.policies[policy].latest().is_damaged() || self.oracle.policies[policy].outdated {
            return;
        }
        let Some(found) = self.store.get(self.keys[policy].as_bytes()) else { return };
        let mut bytes = found.bytes;
        match self.rng.below(4) {
            0 => bytes.clear(),
            1 => bytes.truncate(self.rng.index(bytes.len().max(1))),
            2 => bytes.iter_mut().take(1).for_each(|byte| *byte = 0),
            _ => {
                // The section is there and is not what it says.
                let which = self.rng.between(1, 5) as u8;
                let mut sections = view::sections(&bytes).unwrap_or_default();
                for (.., content) in
                    sections.iter_mut().filter(|(id, version, _)| (*id, *version) == (which, 1))
                {
                    content.pop();
                }
                bytes = view::write(&sections);
            }
        }
        self.meddle(policy, &bytes);
    }

    /// A module of another version was here: it keeps our sections as we keep its own, at whatever place.
    fn leave_sections(&mut self, policy: usize) {
        if self.oracle.policies[policy].outdated {
            return;
        }
        let Some(found) = self.store.get(self.keys[policy].as_bytes()) else { return };
        let Some(mut sections) = view::sections(&found.bytes) else { return };
        let ours = [view::BREAKER, view::RATES, view::RECOVERY, view::BULKHEAD, view::BUDGET];
        sections.retain(|(id, version, _)| ours.contains(&(*id, *version)));
        for (id, version) in [(1, 2), (2, 2), (3, 9), (4, 2), (5, 2), (200, 7)] {
            if self.rng.chance(500) {
                let content = self.rng.next().to_le_bytes()[..self.rng.index(8)].to_vec();
                let place = self.rng.index(sections.len() + 1);
                sections.insert(place, (id, version, content));
            }
        }
        let bytes = view::write(&sections);
        self.meddle(policy, &bytes);
    }

    /// The whole of a run.
    pub(crate) fn play(&mut self) -> Verdict {
        let end = self.now.awake + self.plan.length;
        // Time that the process does not live through does not count.
        while self.now.awake < end && !self.ambiguous && self.now.step < crate::MOST_STEPS {
            self.step()?;
        }
        self.calm_down();
        let deadline = self.now.awake + self.plan.patience();
        let mut look = self.now.awake;
        while !self.ambiguous {
            self.step()?;
            if self.now.awake < look {
                continue;
            }
            // Where few are let in at a time, a stay in half-open needs many rounds.
            let probing = (0..self.plan.breakers()).any(|breaker| self.probes_slowly(breaker));
            let pause = if probing { SECOND / 200 } else { SECOND / 4 };
            look = self.now.awake + pause;
            // Time goes on from event to event: there is one then.
            self.after(pause, Event::Recovery);
            let left = self.oracle.unfinished();
            if left.is_empty() {
                return self.everybody_leaves();
            }
            if self.now.awake > deadline {
                let left: Vec<_> = left.iter().map(ToString::to_string).collect();
                return Err(format!("does not come to rest: {}", left.join("; ")));
            }
            for breaker in 0..self.plan.breakers() {
                let (policy, cluster) = (crate::policy_of(breaker), crate::cluster_of(breaker));
                if cluster.is_some_and(|cluster| self.oracle.place_of(policy, cluster).is_none()) {
                    continue;
                }
                // Enough for every place of a stay: a trickle might not fill it before it ends.
                let closed =
                    self.oracle.policies[breaker].latest().model().is_some_and(|m| m.until().is_none());
                let count = match closed {
                    true => 1,
                    false if self.probes_slowly(breaker) => 2,
                    false => self.plan.most_permitted() + 1,
                };
                self.burst(policy, cluster, count);
            }
        }
        Ok(())
    }

    /// Whether there is room for probes and a bulkhead lets in few at a time.
    fn probes_slowly(&self, breaker: usize) -> bool {
        let narrow = (0..self.plan.configurations.len())
            .any(|it| self.plan.patterns(it, breaker).is_some_and(|patterns| patterns.bulkhead.is_some()));
        let model = self.oracle.policies[breaker].latest().model();
        narrow && model.is_some_and(|model| model.permitted().is_some() && !model.is_full())
    }

    /// All faults stop, and the upstreams are well.
    fn calm_down(&mut self) {
        self.trace.note(self.now, || "-- from here on all is well".into());
        self.calm = true;
        self.outage = false;
        self.weather.fill(0);
        self.haste.fill(0);
        for slot in &mut self.slots {
            slot.stalled = false;
        }
        // Who holds a permit must let go of it some time.
        let open: Vec<_> =
            self.streams.iter().filter(|(_, it)| it.ends_in_time()).map(|(at, _)| *at).collect();
        for (vm, call) in open {
            let span = self.rng.below(20 * MS);
            self.later(span, vm, Task::Over { call });
        }
        // Somebody must be there to see to it, who is not about to leave.
        for configuration in 0..self.plan.configurations.len() {
            self.start(configuration);
        }
    }

    /// A VM leaves the table only when it has nothing left to hand back: so an empty table proves that nothing leaked.
    fn everybody_leaves(&mut self) -> Verdict {
        self.agenda.clear();
        for slot in &mut self.slots {
            slot.tasks = vec![Task::Leave];
        }
        while !self.slots.is_empty() && !self.ambiguous {
            self.step()?;
        }
        if !self.ambiguous && self.plan.is_steady() && self.oracle.reached.overshoot > 0 {
            return Err("permits were taken from the living, and nothing had stopped them".into());
        }
        for breaker in 0..self.plan.breakers() {
            let found = self.store.get(self.keys[breaker].as_bytes()).filter(|_| !self.ambiguous);
            found.map_or(Ok(()), |found| self.oracle.budget_recovers(breaker, &found.bytes))?;
        }
        if !self.ambiguous && !self.oracle.members.owners().is_empty() {
            return Err(format!("all have left, and the table has {:?}", self.oracle.members.owners()));
        }
        let known = self.store.keys().all(|key| {
            key == crate::MEMBERS
                || self.breaker_at(key).is_some()
                || (0..self.plan.policies).any(|policy| key == crate::keys_key(policy).as_bytes())
        });
        if known { Ok(()) } else { Err("the store has keys that nobody knows".into()) }
    }
}
