//! Who asks for what, and how the upstreams fare.

use crate::model::Model;
use crate::plan::{MS, SECOND, Terms, Wishes};
use crate::vm::Task;
use crate::world::{Event, World};
use resilience_core::retry::{Denied, Wanted, Wish};
use resilience_core::time::Timestamp;
use resilience_core::timeout::Allowance;
use resilience_core::worker::Arrival;

impl World {
    pub(crate) fn requests_arrive(&mut self) {
        if self.calm {
            return;
        }
        let policy = self.rng.index(self.plan.policies);
        let cluster = self.some_cluster();
        let count = if self.rng.chance(self.plan.bursts) { self.rng.spread(2, 40) } else { 1 };
        self.burst(policy, cluster, count);
        let next = self.rng.below(self.plan.pace);
        self.after(next, Event::Requests);
        let until = self.oracle.policies[crate::breaker(policy, cluster)].latest().model();
        let until = until.and_then(Model::until);
        if let Some(rest) = until.and_then(|until| until.checked_sub(self.now.now))
            && rest < 60 * SECOND
            && self.rng.chance(self.plan.aimed)
        {
            // Off by one is where the mistakes are.
            let rest = (rest + self.rng.below(3)).saturating_sub(1);
            let count = self.rng.between(1, 12);
            self.after(rest, Event::Burst { policy, cluster, count });
        }
    }

    /// A cluster, or none: most requests go to few.
    pub(crate) fn some_cluster(&mut self) -> Option<usize> {
        let most = if self.rng.chance(700) { 1 } else { crate::CLUSTERS.len() };
        (!self.rng.chance(100)).then(|| self.rng.index(most))
    }

    pub(crate) fn burst(&mut self, policy: usize, cluster: Option<usize>, count: u64) {
        // In the end only those count that keep state for the breaker: the others' requests prove nothing to it.
        let keeps = |world: &Self, index: usize| {
            let configuration = world.slots[index].configuration;
            let shared = world.plan.configurations[configuration].1[policy].1.as_ref();
            let latest = world.oracle.policies[crate::breaker(policy, cluster)].latest();
            let tripped = latest.model().is_some_and(|model| model.until().is_some());
            let shared = shared.filter(|shared| !tripped || shared.patterns.breaker.is_some());
            let place = cluster.map(|cluster| world.oracle.place_of(policy, cluster));
            let has_key =
                |max: Option<u16>| place.is_none_or(|place| place.is_some_and(|place| max > Some(place)));
            !world.calm || shared.is_some_and(|shared| has_key(shared.max_keys))
        };
        let able: Vec<_> = (0..self.slots.len()).filter(|index| keeps(self, *index)).collect();
        if able.is_empty() {
            return;
        }
        for _ in 0..count {
            let index = self.rng.pick(&able);
            let patterns = self.plan.patterns(self.slots[index].configuration, crate::breaker(policy, None));
            let bulkhead = patterns.and_then(|patterns| patterns.bulkhead.as_ref());
            let classes = bulkhead.and_then(|it| it.settings.priority.as_ref()).map(|it| it.classes.len());
            let class = classes.map(|classes| self.rng.index(classes));
            let slot = &mut self.slots[index];
            let call = slot.next_call;
            slot.next_call += 1;
            let arrival = Arrival { call, class, ..Arrival::default() };
            slot.tasks.push(Task::Admit { policy, cluster, arrival });
            // A shared queue may hold what was meant for whoever had it before.
            if !self.calm && self.rng.chance(self.plan.stray) {
                let call = call - self.rng.below(u64::from(call.min(20)) + 1) as u32;
                self.slots[index].tasks.push(Task::Woken { call });
            }
        }
    }

    /// What a request brings along that begins now.
    pub(crate) fn arrives(&mut self, configuration: usize, policy: usize, arrival: Arrival) -> Arrival {
        let Terms { wishes, per_try, .. } = self.plan.terms[configuration][policy];
        let hurried = !self.calm && self.rng.chance(self.plan.hurried);
        let rest = hurried.then(|| self.rng.spread(1, 6 * SECOND));
        let deadline = rest.map(|rest| Timestamp::from_nanos(self.now.now + rest));
        let wish = match self.rng.below(20) {
            _ if wishes == Wishes::Silent => None,
            0 | 1 => Some((Wish::Spent, Some(Denied::CallersRetry))),
            2 | 3 => Some((Wish::Retries(0), Some(Denied::NotIdempotent))),
            _ if wishes == Wishes::Route => Some((Wish::Route, None)),
            _ => Some((Wish::Retries(self.rng.below(4) as u8), None)),
        };
        let wanted = wish.map(|(wish, denied)| Wanted { wish, denied });
        Arrival { time: Allowance { deadline, per_try }, wanted, ..arrival }
    }

    pub(crate) fn change_weather(&mut self) {
        let policy = self.rng.index(self.plan.policies);
        self.weather[policy] = if self.calm { 0 } else { self.rng.pick(&[0, 0, 100, 500, 1000, 1000]) };
        self.haste[policy] = if self.calm { 0 } else { self.rng.pick(&[0, 0, 100, 500, 1000]) };
        let next = self.rng.spread(50 * MS, 8 * SECOND);
        if !self.calm {
            self.after(next, Event::Weather);
        }
    }
}
