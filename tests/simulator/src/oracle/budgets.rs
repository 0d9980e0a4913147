//! Retry budgets seen from outside: what is kept for whom, and how much the upstream sees of it.

use super::history::Entry;
use super::{Moment, Oracle, Verdict, VmId};
use crate::model::ask::Said;
use crate::model::grant::{Grant, Rates, Reserve};
use crate::plan::Terms;
use crate::vm::Task;
use resilience_core::budget::Budget;
use resilience_core::members::Standing;
use resilience_core::retry::Wish;
use resilience_core::time::Timestamp;
use resilience_core::worker::Arrival;
use std::collections::BTreeSet;

/// What a request pays of a retry is counted in thousandths of what it pays.
const PAYS: i128 = 1000;

/// What is kept for a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Kept {
    pub(super) breaker: usize,
    pub(super) reserve: Reserve,
}

/// A request that may be retried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    breaker: usize,
    /// Which of the budgets it had, if some were lost.
    account: u64,
    /// How often it may be retried by what was known of its route, and whether that is all.
    granted: u32,
    uncapped: bool,
    made: u32,
}

/// The rates that bound a policy's retries: where several configurations act, the most of each.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    cost: i128,
    pays: bool,
    floor: i128,
    slice: i128,
    cap: Option<i128>,
}

impl Bounds {
    fn of(all: &[Rates]) -> Option<Self> {
        let bounding = || all.iter().filter(|rates| !rates.shadow);
        // Under a cap payments take retries out for all, also where the one with the cap only looks on.
        let paying = || all.iter().filter(|rates| rates.percent > 0);
        let capped = bounding().map(|rates| rates.max_balance).collect::<Option<Vec<_>>>();
        Some(Self {
            cost: paying().map(Rates::cost).min().unwrap_or(1),
            pays: paying().next().is_some(),
            floor: bounding().map(Rates::floor).max()?,
            slice: all.iter().map(|rates| rates.slice()).min()?.into(),
            cap: capped.and_then(|capped| capped.into_iter().max()).map(i128::from),
        })
    }

    /// Whether so many retries are allowed in a time of this length in which so many requests paid.
    fn allow(&self, made: u64, paid: u64, more: i128, span: u64) -> bool {
        let renewals = (i128::from(span) + self.slice + 10 * self.slice - 1) / (10 * self.slice);
        let paid = if self.pays { i128::from(paid) * PAYS } else { 0 };
        i128::from(made) * self.cost <= paid + (more + self.floor * renewals) * self.cost
    }
}

/// What was paid to a budget, and what was made of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    bounds: Option<Bounds>,
    number: u64,
    born: Option<u64>,
    paid: u64,
    made: u64,
    /// The most that a write came later than the moment by which it was decided.
    lag: u64,
    /// Before each retry: when, what was paid, what was made.
    before: Vec<(u64, u64, u64)>,
}

impl Account {
    /// One for each breaker.
    pub(super) fn all(terms: &[Vec<Terms>]) -> Vec<Self> {
        let policies = terms.first().map_or(0, Vec::len);
        let bounds = |policy: usize| {
            let rates: Vec<_> = terms.iter().filter_map(|policies| policies[policy].rates).collect();
            Bounds::of(&rates)
        };
        let each = |policy| vec![Self { bounds: bounds(policy), ..Self::default() }; crate::EACH];
        (0..policies).flat_map(each).collect()
    }

    /// The budget was lost, and another begins.
    pub(super) fn begin_again(&mut self) {
        *self = Self { bounds: self.bounds, number: self.number + 1, ..Self::default() };
    }

    fn retried(&mut self, now: u64) -> Verdict {
        let Some(bounds) = self.bounds else { return Ok(()) };
        let lag = self.lag;
        self.before.push((now, self.paid, self.made));
        self.made += 1;
        let born = self.born.unwrap_or(now);
        if !bounds.allow(self.made, self.paid, 0, now.saturating_sub(born)) {
            return Err(format!(
                "{} retries were made, and {} requests have paid: {bounds:?}",
                self.made, self.paid
            ));
        }
        let Some(cap) = bounds.cap else { return Ok(()) };
        for (since, paid, made) in &self.before {
            let (paid, made, span) = (self.paid - paid, self.made - made, now.saturating_sub(*since) + lag);
            if !bounds.allow(made, paid, cap, span) {
                return Err(format!(
                    "{made} retries were made in {span} ns, in which {paid} requests paid: {bounds:?}"
                ));
            }
        }
        Ok(())
    }
}

impl Oracle {
    /// Envoy retries a request.
    ///
    /// # Errors
    /// What is wrong.
    pub fn retried(&mut self, vm: VmId, call: u32) -> Verdict {
        let now = self.now.now;
        let Some(flight) = self.flights.get_mut(&(vm, call)) else { return Ok(()) };
        flight.made += 1;
        self.reached.retried += 1;
        if flight.made > flight.granted {
            // How often a route retries by itself nobody has told us.
            self.reached.unknown += 1;
            let right = flight.uncapped;
            return if right { Ok(()) } else { Err(format!("{flight:?} was retried once more")) };
        }
        let (breaker, account) = (flight.breaker, &mut self.accounts[flight.breaker]);
        if account.number != flight.account {
            return Ok(());
        }
        account.retried(now).map_err(|why| format!("budget {breaker}: {why}"))
    }

    /// A request was let in by a committed write.
    pub(super) fn goes_on(&mut self, vm: VmId, breaker: usize, arrival: Arrival, said: Said, begun: Moment) {
        let Some((_, Some(grant))) = said.goes_on() else { return };
        let Some(rates) = self.vms.get(&vm).and_then(|found| self.rules(found, breaker)?.rates) else {
            return;
        };
        let now = self.now;
        let account = &mut self.accounts[breaker];
        account.born.get_or_insert(begun.now);
        account.lag = account.lag.max(now.now.saturating_sub(begun.now));
        let spent = arrival.wanted.is_some_and(|wanted| wanted.wish == Wish::Spent);
        account.paid += u64::from(rates.percent > 0 && !spent);
        let Grant { retries, uncapped, reserve, .. } = grant;
        let known = if uncapped { reserve.map_or(0, |reserve| reserve.retries) } else { retries };
        let account = account.number;
        if !rates.shadow {
            let flight = Flight { breaker, account, granted: known.into(), uncapped, made: 0 };
            self.flights.insert((vm, arrival.call), flight);
        }
        self.reached.denied += u64::from(grant.denied == Some(resilience_core::retry::Denied::Budget));
        self.reached.on_paper += u64::from(grant.on_paper);
        if let Some(reserve) = reserve {
            self.reached.kept += 1;
            self.kept.insert((vm, arrival.call), Kept { breaker, reserve });
            let since = Moment { step: now.step, ..begun };
            self.purses.entry((breaker, reserve.owner)).or_insert(since);
        }
    }

    /// It was another one that was let in.
    pub(super) fn was_another(&mut self, vm: VmId, call: u32, other: u32) {
        if let Some(kept) = self.kept.remove(&(vm, call)) {
            self.kept.insert((vm, other), kept);
        }
        if let Some(flight) = self.flights.remove(&(vm, call)) {
            self.flights.insert((vm, other), flight);
        }
    }

    /// What a request brought along that a write is about.
    pub(super) fn arrival(&self, vm: VmId, call: u32) -> Option<Arrival> {
        let found = self.vms.get(&vm)?;
        match found.deed.as_ref()?.task {
            Task::Admit { arrival, .. } if arrival.call == call => Some(arrival),
            _ => found.waiting.get(&call).map(|waiting| waiting.arrival),
        }
    }

    /// After a write: for whom something is kept.
    pub(super) fn purse_changes(&mut self, breaker: usize) {
        let Some(budget) = self.policies[breaker].latest().budget() else { return };
        let owners: BTreeSet<_> = budget.owners().collect();
        self.purses.retain(|(of, owner), _| *of != breaker || owners.contains(owner));
    }

    /// What was kept for the dead is gone.
    pub(super) fn forfeit(&mut self, breaker: usize, dead: &BTreeSet<u64>) {
        self.kept.retain(|_, kept| !(kept.breaker == breaker && dead.contains(&kept.reserve.owner)));
    }

    /// A budget was lost to damage; `again` where another one begins with epochs that have been before.
    pub(super) fn lost_budget(&mut self, breaker: usize, again: bool) {
        self.kept.retain(|_, kept| kept.breaker != breaker);
        self.purses.retain(|(of, _), _| *of != breaker);
        self.accounts[breaker].begin_again();
        if again {
            self.emptied.insert(breaker);
        }
    }

    /// What is kept in the store is what is kept for somebody.
    pub(super) fn budgets_add_up(&self) -> Verdict {
        for (breaker, history) in self.policies.iter().enumerate() {
            if self.emptied.contains(&breaker) {
                continue;
            }
            let shape = history.latest().budget().and_then(crate::model::budget::Budget::shape);
            let stands = shape.map_or(0, |budget| budget.reserved());
            let kept = self.kept.values().filter(|kept| kept.breaker == breaker);
            let held: u64 = kept.map(|kept| u64::from(kept.reserve.retries)).sum();
            if stands != held {
                let calls: Vec<_> = self.kept.iter().filter(|(_, kept)| kept.breaker == breaker).collect();
                return Err(format!(
                    "budget {breaker} keeps {stands} retries, and it is {held}: {calls:?}\n  the state: {:?}",
                    history.latest()
                ));
            }
        }
        Ok(())
    }

    /// A leader shows how many retries there are.
    pub(super) fn balance(&self, vm: VmId, policy: usize, retries: u64) -> Verdict {
        let Some((found, deed)) = self.vms.get(&vm).and_then(|vm| Some((vm, vm.deed.as_ref()?))) else {
            return Ok(());
        };
        let Some(rates) = self.terms[found.configuration][policy].rates else {
            return Err(format!("VM {vm} shows a budget that it does not have"));
        };
        if found.standings == [Standing::Superseded] {
            return Err(format!("VM {vm} shows a budget, and its configuration is not the newest"));
        }
        let now = deed.begun.now;
        let (mut least, mut most, mut seen) = (0, 0, false);
        for breaker in policy * crate::EACH..(policy + 1) * crate::EACH {
            let available = |entry: &Entry| match entry.is_untouched() {
                true => 0,
                false => entry.budget_at(now).available(&rates, now).max(0),
            };
            let all = || self.policies[breaker].since(deed.begun).map(available);
            most += all().max().unwrap_or(0);
            if !found.seen[breaker].is_empty() {
                seen = true;
                least += all().min().unwrap_or(0);
            }
        }
        // Where no key was ever asked for it is what there is at first.
        let most = most.max(rates.floor());
        let least = if seen { least } else { 0 };
        if (least..=most).contains(&retries.into()) {
            return Ok(());
        }
        Err(format!("VM {vm} shows {retries} retries of policy {policy}, and there are {least} to {most}"))
    }

    /// In the end, long after the last request, there is what there is at first: nothing is created, and nothing lost.
    ///
    /// # Errors
    /// What is wrong.
    pub fn budget_recovers(&self, breaker: usize, bytes: &[u8]) -> Verdict {
        let section = crate::view::sections(bytes).unwrap_or_default();
        let section = section.into_iter().rfind(|(id, version, _)| (*id, *version) == crate::view::BUDGET);
        let Some(mut budget) = section.and_then(|(.., bytes)| Budget::decode(&bytes)) else { return Ok(()) };
        for terms in &self.terms {
            let Some(rates) = terms[crate::policy_of(breaker)].rates else { continue };
            let later = Timestamp::from_nanos(self.now.now + 40 * 6_000_000_000);
            let (there, kept) = (budget.available(&(&rates).into(), later), budget.reserved());
            // Some were let in while all were about to leave.
            let held = self.kept.values().filter(|it| it.breaker == breaker);
            let held: i64 = held.map(|it| i64::from(it.reserve.retries)).sum();
            let lost = !self.emptied.contains(&breaker) && kept != held;
            if i128::from(there + kept) != rates.floor() || lost {
                return Err(format!(
                    "budget {breaker} has {there} retries in the end, and keeps {kept}: {rates:?}"
                ));
            }
        }
        Ok(())
    }
}
