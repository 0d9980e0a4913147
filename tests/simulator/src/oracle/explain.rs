//! What a writer may have done: what stands in the store must be what the model makes of it.

use super::history::History;
use super::queue::{Place, Waiting};
use super::{Deed, Frees, Report, Vm};
use crate::model::ask::{Rules, Said, Told, Whole, over};
use crate::view;
use crate::vm::Task;
use resilience_core::breaker::{Admission, Outcome, Owner, Recorded, Transition};
use resilience_core::members::Standing;
use resilience_core::worker::{Arrival, Operation};
use std::collections::{BTreeMap, BTreeSet};

/// Of so many updates at once it may be unclear whether the store took them: each doubles what has to be tried.
const MOST_COHORTS: usize = 4;

/// Why a write was right.
pub(super) enum Reason {
    Admission(Admission),
    /// A request that wants in was told one of these.
    Asked(u32, Vec<Said>),
    /// Waiters that stand under this identity were told one of these each, those of whom the queue knows.
    Looked(u64, Vec<(u32, Vec<Said>)>),
    /// A waiter of which the store would not say what had become of it, at the end of its wait.
    GaveUp(u32, Vec<Said>),
    /// The outcome at this place of the VM's list, and whether it was late.
    Outcome(usize, bool),
    Housekeeping(BTreeSet<u64>),
    Force,
}

impl Reason {
    /// Whether a VM comes to hold something by it, or to wait.
    pub(super) fn takes(&self) -> bool {
        let takes = |said: &Said| matches!(said, Said::In { .. } | Said::InName(..) | Said::Waits);
        match self {
            Self::Admission(Admission::Admitted(ticket)) => ticket.probe.is_some(),
            Self::Asked(_, saids) => saids.iter().all(takes),
            Self::Looked(_, told) => told.iter().any(|(_, saids)| saids.iter().all(takes)),
            _ => false,
        }
    }

    fn saids(&mut self) -> Vec<(u32, &mut Vec<Said>)> {
        match self {
            Self::Asked(call, saids) | Self::GaveUp(call, saids) => vec![(*call, saids)],
            Self::Looked(_, told) => told.iter_mut().map(|(call, saids)| (*call, saids)).collect(),
            _ => Vec::new(),
        }
    }
}

pub(super) struct Explained {
    pub whole: Whole,
    pub told: Told,
    /// What it may have been instead: different causes may leave the same behind.
    pub others: Vec<Vec<Transition>>,
    /// What others were told if it was one of them that this was about.
    pub instead: BTreeMap<u32, Vec<Said>>,
    pub reason: Reason,
}

/// What stands in the store.
pub(super) struct Shown<'a> {
    pub breaker: &'a view::Breaker,
    pub room: &'a view::Room,
    pub budget: &'a Option<view::budget::Budget>,
}

/// Looks for a reason, with each standing that the writer may have.
pub(super) fn explain(
    writer: &Vm,
    deed: &Deed,
    rules: Rules<'_>,
    breaker: usize,
    base: &Whole,
    shown: &Shown<'_>,
    history: &History,
) -> Option<Explained> {
    let mut found = Vec::new();
    for standing in &writer.standings {
        let mut adopted = base.clone();
        if let Some(breaker) = &rules.patterns.breaker {
            adopted.model.adopt(&breaker.settings, *standing);
        }
        if let Some(rates) = rules.rates.filter(|_| *standing != Standing::Superseded) {
            adopted.budget.adopt(&rates);
        }
        adopted.model.chosen = match shown.breaker.phase {
            view::Phase::Open { until } => Some(until),
            _ => None,
        };
        found.extend(Explainer { writer, deed, rules, breaker, base: &adopted, shown, history }.all());
    }
    let others = found.iter().skip(1).map(|other| other.told.transitions.clone()).collect();
    // A request was told one of all that leave the same behind.
    let mut all: BTreeMap<u32, Vec<Said>> = BTreeMap::new();
    for (call, saids) in found.iter_mut().flat_map(|it| it.reason.saids()) {
        all.entry(call).or_default().extend_from_slice(saids);
    }
    let mut first = found.into_iter().next()?;
    for (call, saids) in first.reason.saids() {
        *saids = all.remove(&call).unwrap_or_default();
    }
    Some(Explained { others, instead: all, ..first })
}

struct Explainer<'a> {
    writer: &'a Vm,
    deed: &'a Deed,
    rules: Rules<'a>,
    breaker: usize,
    base: &'a Whole,
    shown: &'a Shown<'a>,
    history: &'a History,
}

impl Explainer<'_> {
    fn attempt(&self, act: impl FnOnce(&mut Whole, &mut Told) -> Option<Reason>) -> Option<Explained> {
        let (mut whole, mut told) = (self.base.clone(), Told::default());
        let reason = act(&mut whole, &mut told)?;
        let same = whole.room.shape() == *self.shown.room
            && whole.model.shape() == *self.shown.breaker
            && whole.budget.shape() == *self.shown.budget;
        let (others, instead) = (Vec::new(), BTreeMap::new());
        same.then_some(Explained { whole, told, others, instead, reason })
    }

    fn all(&self) -> Vec<Explained> {
        let now = self.deed.begun.now;
        if let Task::Force { policy, command, .. } = self.deed.task {
            let force = |whole: &mut Whole, told: &mut Told| {
                whole.model.force(command, now, &mut told.transitions);
                Some(Reason::Force)
            };
            let right = policy == crate::policy_of(self.breaker) && !self.deed.forced;
            return right.then(|| self.attempt(force)).flatten().into_iter().collect();
        }
        let mut found = self.reports();
        found.extend(self.admissions());
        found.extend(self.waiters());
        if found.is_empty() {
            found.extend(self.housekeeping());
        }
        found
    }

    fn reports(&self) -> Vec<Explained> {
        // What was left over is seen to first.
        let first = match self.deed.task {
            // It gives something back before, and what was left over is tried twice.
            Task::Complete { waits: true, .. } | Task::Leave => 0,
            // They are seen to in their order, and one that the store does not take stays where it is.
            _ => self.deed.lost(),
        };
        let reports = self.writer.unsettled.iter().enumerate();
        let reports = reports.filter(|(place, report)| report.breaker == self.breaker && *place >= first);
        let both_ways = reports.flat_map(|(place, report)| [(place, report, true), (place, report, false)]);
        both_ways.filter_map(|(place, report, weighed)| self.report(place, report, weighed)).collect()
    }

    /// An outcome that is not `weighed`: a success of a generation that is gone, which comes with a permit.
    fn report(&self, place: usize, report: &Report, weighed: bool) -> Option<Explained> {
        let stale = report.ticket.is_some_and(|ticket| ticket.generation != self.base.model.generation());
        let may = report.gives_back() && report.outcome == Outcome::Success && stale;
        if !weighed && !may {
            return None;
        }
        self.attempt(|whole, told| {
            let mut late = false;
            if let Some((ticket, breaker)) =
                report.ticket.zip(self.rules.patterns.breaker.as_ref()).filter(|_| weighed)
            {
                let (now, transitions) = (self.deed.begun.now, &mut told.transitions);
                let idle = ticket.probe.is_none() && report.outcome == Outcome::Ignored;
                let recorded = (!idle).then(|| {
                    whole.model.record(&breaker.settings, &ticket, report.outcome, now, transitions)
                });
                late = recorded == Some(Recorded::Reclaimed);
            }
            match report.frees {
                Some(Frees::Permit(permit)) => late |= !whole.room.release(permit, &mut told.wakes),
                Some(Frees::Place(owner)) => whole.room.withdraw(owner, report.call, &mut told.wakes),
                None => {}
            }
            if let Some((reserve, made)) = report.spent {
                late |= !whole.budget.settle(reserve, made, self.deed.begun.now);
            }
            Some(Reason::Outcome(place, late))
        })
    }

    fn admissions(&self) -> Vec<Explained> {
        let Task::Admit { policy, arrival, .. } = self.deed.task else { return Vec::new() };
        let Some(me) = self.writer.me.filter(|_| policy == crate::policy_of(self.breaker)) else {
            return Vec::new();
        };
        if self.rules.are_for_all() {
            return if self.deed.has_promised(arrival.call) { Vec::new() } else { self.asks(&arrival) };
        }
        let Some(breaker) = self.rules.patterns.breaker.as_ref().filter(|_| self.deed.promised.is_none())
        else {
            return Vec::new();
        };
        let admit = |whole: &mut Whole, told: &mut Told| {
            let now = self.deed.begun.now;
            Some(Reason::Admission(whole.model.admit(&breaker.settings, me, now, &mut told.transitions)))
        };
        self.attempt(admit).into_iter().collect()
    }

    fn asks(&self, arrival: &Arrival) -> Vec<Explained> {
        let Some(me) = self.writer.me else { return Vec::new() };
        let home = (me.0, self.writer.queue);
        let ask = |kept_out| {
            self.attempt(|whole, told| {
                let said = whole.ask(self.rules, home, arrival, self.deed.begun.now, kept_out, told)?;
                Some(Reason::Asked(arrival.call, vec![said]))
            })
        };
        [false, true].into_iter().filter_map(ask).collect()
    }

    fn waiters(&self) -> Vec<Explained> {
        let mut found = Vec::new();
        let now = self.deed.begun.now;
        let mine = self.writer.waiting.iter().filter(|(call, waiting)| {
            waiting.breaker == self.breaker
                && waiting.may_be_looked_after(**call, self.deed)
                && !self.deed.has_promised(**call)
        });
        // In the order in which they came.
        let mut mine: Vec<_> = mine.collect();
        mine.sort_by_key(|(_, waiting)| waiting.since);
        let mut owners: BTreeMap<u64, Vec<(u32, &Waiting)>> = BTreeMap::new();
        for (call, waiting) in mine {
            match waiting.place {
                Place::Here if now < waiting.until => found.extend(self.asks(&waiting.arrival)),
                Place::Here => {}
                Place::Queue(owner) => owners.entry(owner).or_default().push((*call, waiting)),
            }
        }
        for (owner, waiters) in owners {
            if !self.deed.looked.contains(&(self.breaker, owner)) {
                let batches = self.batches(owner, &waiters);
                found.extend(batches.iter().filter_map(|batch| self.looks(owner, batch)));
            }
            if self.deed.times(Operation::Admit) > 0 {
                let over = waiters.iter().filter(|(_, waiting)| now >= waiting.until);
                found.extend(over.filter_map(|(_, waiting)| self.give_up(owner, waiting)));
            }
        }
        found
    }

    /// Which of these a VM may look after in one update.
    fn batches<'w>(&self, owner: u64, waiters: &[(u32, &'w Waiting)]) -> Vec<Vec<(u32, &'w Waiting)>> {
        let now = self.deed.begun.now;
        let of = |test: &dyn Fn(u32, &Waiting) -> bool| -> Vec<_> {
            waiters.iter().copied().filter(|(call, waiting)| test(*call, waiting)).collect()
        };
        let mut batches = Vec::new();
        match self.deed.task {
            Task::Tick => {
                let stranger = self.writer.me.map(|me| me.0) != Some(owner);
                // Those for whom there was something new where it looked first, or nobody where it could not.
                for entry in self.history.since(self.deed.begun) {
                    let room = entry.room_at(now);
                    batches.push(of(&|call, waiting| now >= waiting.until || !room.waits(owner, call)));
                }
                batches.push(of(&|_, waiting| stranger || now >= waiting.until));
            }
            _ => {
                let cohorts = |waiting: &Waiting| waiting.cohorts(now).collect::<Vec<_>>();
                let unclear = waiters.iter().filter(|(call, it)| !it.is_looked_after(*call, self.deed));
                let unclear: BTreeSet<u64> = unclear.flat_map(|(_, waiting)| cohorts(waiting)).collect();
                let unclear: Vec<u64> = unclear.into_iter().take(MOST_COHORTS).collect();
                for chosen in 0..1_u32 << unclear.len() {
                    let is_chosen = |again: &u64| {
                        unclear.iter().position(|it| it == again).is_some_and(|nth| chosen >> nth & 1 == 1)
                    };
                    batches.push(of(&|call, waiting| {
                        waiting.is_looked_after(call, self.deed) || cohorts(waiting).iter().any(is_chosen)
                    }));
                }
            }
        }
        batches.sort_by_key(|batch| batch.iter().map(|(call, _)| *call).collect::<Vec<_>>());
        batches.dedup();
        batches
    }

    /// One update for all of these, in their order.
    fn looks(&self, owner: u64, batch: &[(u32, &Waiting)]) -> Option<Explained> {
        let now = self.deed.begun.now;
        let itself = self.writer.me.map(|me| me.0) == Some(owner);
        self.attempt(|whole, told| {
            let mut said = Vec::new();
            for (call, waiting) in batch {
                if whole.room.find(owner, *call).is_none() {
                    // Nothing is written for it.
                    continue;
                }
                if itself {
                    let home = (owner, self.writer.queue);
                    let heard = whole.take_up(self.rules, home, &waiting.arrival, (now, waiting.until), told);
                    said.extend(heard.map(|heard| (*call, vec![heard])));
                } else {
                    // Others have taken it for dead.
                    whole.room.withdraw(owner, *call, &mut told.wakes);
                    said.push((*call, vec![Said::Full]));
                }
            }
            (!said.is_empty()).then_some(Reason::Looked(owner, said))
        })
    }

    /// A waiter whose wait is over, and of which the store did not say what had become of it.
    fn give_up(&self, owner: u64, waiting: &Waiting) -> Option<Explained> {
        let (call, now) = (waiting.arrival.call, self.deed.begun.now);
        self.attempt(|whole, told| {
            whole.room.find(owner, call)?;
            whole.room.withdraw(owner, call, &mut told.wakes);
            Some(Reason::GaveUp(call, vec![over(self.rules.patterns, &waiting.arrival, now)]))
        })
    }

    /// The end of a stay may be written by anyone; the dead are for a leader on its tick.
    fn housekeeping(&self) -> Option<Explained> {
        let tick = self.deed.task == Task::Tick;
        let left: BTreeSet<_> = match &self.shown.breaker.phase {
            view::Phase::HalfOpen { probes, .. } => probes.iter().copied().collect(),
            _ => BTreeSet::new(),
        };
        let half_open = matches!(self.shown.breaker.phase, view::Phase::HalfOpen { .. });
        let out = self.base.model.out();
        let gone = out.iter().filter(|probe| half_open && !left.contains(&(probe.owner.0, probe.id)));
        let gone = gone.map(|probe| probe.owner.0);
        let homeless = self.base.room.owners().filter(|owner| !self.shown.room.holders.contains_key(owner));
        let kept = self.shown.budget.as_ref().map(|budget| &budget.holders);
        let released = self.base.budget.owners().filter(|it| kept.is_none_or(|kept| !kept.contains_key(it)));
        let dead: BTreeSet<u64> = gone.chain(homeless).chain(released).filter(|_| tick).collect();
        let owners: Vec<_> = dead.iter().map(|owner| Owner(*owner)).collect();
        self.attempt(|whole, told| {
            if let Some(breaker) = &self.rules.patterns.breaker {
                whole.model.maintain(&breaker.settings, self.deed.begun.now, &owners, &mut told.transitions);
            }
            let dead_owners: Vec<_> = dead.iter().copied().collect();
            whole.room.reclaim(&dead_owners, &mut told.wakes);
            whole.budget.reclaim(&dead_owners, self.deed.begun.now);
            Some(Reason::Housekeeping(dead))
        })
    }
}
