//! The retry budget once more: a list of what was paid and what was made, each in the slice in which it happened, and all
//! that is kept for requests in flight.

use super::grant::{Grant, PAYS, Rates, Reserve, SLICES};
use crate::view;
use resilience_core::retry::{Denied, Wanted, Wish};
use std::collections::BTreeMap;

/// What began further ahead of whoever reads it is not believed.
const AHEAD: u64 = 60_000_000_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    Paid(i128),
    Made(u32),
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Window {
    began: u64,
    slice: u64,
    /// The number of the present slice.
    present: i64,
    /// In which slice, and what.
    events: Vec<(i64, Event)>,
}

impl Window {
    fn roll(&mut self, now: u64) {
        let over = now.saturating_sub(self.began) / self.slice;
        if over > 0 {
            self.present += over.min(SLICES as u64) as i64;
            self.began = now;
            let oldest = self.present - SLICES;
            self.events.retain(|(slice, _)| *slice > oldest);
        }
    }

    fn note(&mut self, event: Event) {
        match (self.events.last_mut(), event) {
            (Some((slice, Event::Paid(paid))), Event::Paid(more)) if *slice == self.present => *paid += more,
            (Some((slice, Event::Made(made))), Event::Made(more)) if *slice == self.present => *made += more,
            _ => self.events.push((self.present, event)),
        }
    }

    fn paid(&self) -> i128 {
        self.events.iter().map(|(_, event)| if let Event::Paid(paid) = event { *paid } else { 0 }).sum()
    }

    fn made(&self) -> i128 {
        self.events
            .iter()
            .map(|(_, event)| if let Event::Made(made) = event { (*made).into() } else { 0 })
            .sum()
    }

    /// Takes the oldest retry back, and what has paid for it.
    fn cancel(&mut self, cost: i128) {
        self.burn(cost);
        let oldest = self.events.iter_mut().find_map(|(_, event)| match event {
            Event::Made(made) if *made > 0 => Some(made),
            _ => None,
        });
        oldest.into_iter().for_each(|made| *made -= 1);
    }

    /// Takes back what was paid first.
    fn burn(&mut self, mut excess: i128) {
        for (_, event) in &mut self.events {
            if let Event::Paid(paid) = event {
                let burnt = excess.min(*paid).max(0);
                *paid -= burnt;
                excess -= burnt;
            }
        }
    }
}

/// The reference budget.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Budget {
    window: Option<Window>,
    seen: u8,
    next: u64,
    /// By owner.
    holders: BTreeMap<u64, view::budget::Kept>,
}

impl Budget {
    /// One in place of one that was lost.
    pub fn lost(now: u64, next: u64) -> Self {
        let window = Window { began: now, slice: 1_000_000_000, present: 0, events: Vec::new() };
        Self { window: Some(window), next, ..Self::default() }
    }

    /// Goes by a configuration's `ttl` from now on.
    pub fn adopt(&mut self, rates: &Rates) {
        if let Some(window) = &mut self.window {
            window.slice = rates.slice();
        }
    }

    /// The same as somebody reads it at `now`.
    pub fn read(&self, now: u64) -> Self {
        let mut budget = self.clone();
        if let Some(window) = budget.window.as_mut().filter(|_| !self.is_believed(now)) {
            (window.began, window.present, window.events) = (now, 0, Vec::new());
        }
        budget
    }

    /// Whether somebody believes in it whose clock says `now`.
    pub fn is_believed(&self, now: u64) -> bool {
        self.window.as_ref().is_none_or(|window| window.began.saturating_sub(now) <= AHEAD)
    }

    pub fn owners(&self) -> impl Iterator<Item = u64> {
        self.holders.keys().copied()
    }

    /// Whether what is kept for a request would be missed.
    pub fn has(&self, reserve: Reserve) -> bool {
        self.holders.get(&reserve.owner).is_some_and(|kept| kept.epoch == reserve.epoch)
    }

    fn reserved(&self) -> i128 {
        self.holders.values().map(|kept| i128::from(kept.retries)).sum()
    }

    fn window(&mut self, rates: &Rates, now: u64) -> &mut Window {
        let slice = rates.slice();
        let fresh = || Window { began: now, slice, present: 0, events: Vec::new() };
        let window = self.window.get_or_insert_with(fresh);
        window.roll(now);
        window
    }

    /// What there is, in what a retry costs.
    fn count(&mut self, rates: &Rates, now: u64) -> i128 {
        let (cost, capped) = (rates.cost(), rates.max_balance.is_some() && rates.percent > 0);
        let window = self.window(rates, now);
        while capped && window.paid() >= cost && window.made() > 0 {
            // What was paid for is gone for good.
            window.cancel(cost);
        }
        // What others have paid pays for no retry of those who pay nothing.
        let paid = if rates.percent == 0 { 0 } else { window.paid() };
        let count = paid - window.made() * rates.cost() + rates.floor() * rates.cost();
        let Some(most) = rates.max_balance.map(|most| i128::from(most) * rates.cost()) else { return count };
        window.burn((count - most).max(0));
        count.min(most)
    }

    /// What there is that is kept for nobody.
    pub fn available(&mut self, rates: &Rates, now: u64) -> i128 {
        self.count(rates, now) / rates.cost() - self.reserved()
    }

    fn pay(&mut self, rates: &Rates, now: u64) {
        let count = self.count(rates, now);
        let pays = if rates.percent == 0 { 0 } else { PAYS };
        let pays = match rates.max_balance {
            Some(most) => pays.min((i128::from(most) * rates.cost() - count).max(0)),
            None => pays,
        };
        if pays > 0 {
            self.window(rates, now).note(Event::Paid(pays));
        }
    }

    /// A request is let in.
    pub fn enter(&mut self, rates: &Rates, owner: u64, wanted: Wanted, now: u64) -> Grant {
        let open = Grant::open(wanted);
        let (most, telling) = match wanted.wish {
            Wish::Retries(most) => (most, false),
            // One that only looks on keeps nothing for what it would not have repeated.
            Wish::Route if wanted.denied.is_some() => (0, true),
            Wish::Route => (self.seen.max(3), true),
            Wish::Spent => {
                if self.available(rates, now) >= 1 {
                    self.made(1, now);
                }
                return open;
            }
        };
        self.pay(rates, now);
        let balance = self.count(rates, now) / rates.cost();
        let all: i128 = self.holders.values().map(|kept| i128::from(kept.requests)).sum::<i128>() + 1;
        let share = balance / if telling { all } else { 4 * all };
        let there = (balance - self.reserved()).max(0);
        let mut retries = share.max(1).min(there).min(most.into()) as u8;
        if telling && retries < most {
            retries = retries.min(1);
        }
        let reserve = (retries > 0).then(|| self.keep(owner, retries, telling));
        let short = retries < most;
        if rates.shadow {
            return Grant { reserve, on_paper: short || telling && wanted.denied.is_some(), ..open };
        }
        // Of a route it is known only what it was seen to make.
        let misses = retries < if telling { self.seen } else { most };
        let denied = if misses { Some(Denied::Budget) } else { wanted.denied };
        Grant {
            retries,
            uncapped: telling && !short && wanted.denied.is_none(),
            denied,
            reserve,
            on_paper: false,
        }
    }

    fn keep(&mut self, owner: u64, retries: u8, telling: bool) -> Reserve {
        let epoch = self.next;
        let kept = view::budget::Kept { epoch, requests: 0, retries: 0 };
        let kept = self.holders.entry(owner).or_insert(kept);
        kept.requests += 1;
        kept.retries += u32::from(retries);
        let reserve = Reserve { owner, epoch: kept.epoch, retries, telling };
        if reserve.epoch == epoch {
            self.next = epoch.wrapping_add(1);
        }
        reserve
    }

    /// A request ends. Returns false where what was kept for it is somebody else's, or nobody's.
    pub fn settle(&mut self, reserve: Reserve, made: u32, now: u64) -> bool {
        if !self.has(reserve) {
            return false;
        }
        if let Some(kept) = self.holders.get_mut(&reserve.owner) {
            // After damage that begins epochs again others' may be taken back.
            kept.requests = kept.requests.saturating_sub(1);
            kept.retries = kept.retries.saturating_sub(reserve.retries.into());
        }
        self.holders.retain(|_, kept| kept.requests > 0);
        self.made(made, now);
        if reserve.telling {
            self.seen = self.seen.max(made.min(255) as u8);
        }
        true
    }

    fn made(&mut self, retries: u32, now: u64) {
        if let Some(window) = self.window.as_mut().filter(|_| retries > 0) {
            window.roll(now);
            window.note(Event::Made(retries));
        }
    }

    /// What was kept for the dead counts as made.
    pub fn reclaim(&mut self, dead: &[u64], now: u64) -> u32 {
        let lost = self.holders.iter().filter(|(owner, _)| dead.contains(owner));
        let lost = lost.map(|(_, kept)| kept.retries).sum();
        self.holders.retain(|owner, _| !dead.contains(owner));
        self.made(lost, now);
        lost
    }

    /// What must stand in the store.
    pub fn shape(&self) -> Option<view::budget::Budget> {
        let window = self.window.as_ref()?;
        let mut slices = vec![(0, 0); view::budget::SLICES];
        for (slice, event) in &window.events {
            let (paid, made) = &mut slices[(window.present - slice) as usize];
            match event {
                Event::Paid(amount) => *paid += *amount as u64,
                Event::Made(retries) => *made += retries,
            }
        }
        let (began, slice, seen, next) = (window.began, window.slice, self.seen, self.next);
        let holders = self.holders.clone();
        Some(view::budget::Budget { began, slice, slices, seen, next, holders })
    }
}
