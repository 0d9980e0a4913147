//! The bulkhead: how many calls are in flight over all workers, who waits for a permit, and whose turn it is.
//!
//! Plain data. What stands here depends on no configuration: each request brings its own limit along, so that two
//! configurations can serve side by side over one count.

mod codec;
#[cfg(test)]
mod codec_tests;
#[cfg(test)]
mod properties;
mod settings;
#[cfg(test)]
mod settings_tests;
#[cfg(test)]
mod tests;

pub use settings::{Class, ClassSource, Priority, Queue, Settings};

use crate::breaker::Owner;
use crate::ledger::{Entry, Ledger};
use crate::planted::{Bug, active};

/// The most that wait, whatever a configuration asks for.
pub const MOST_WAITING: u16 = 2048;

/// How a request stands towards others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Its class: 0 is the highest.
    pub rank: u8,
    /// It may go on while fewer than this are in flight.
    pub limit: u32,
}

/// The right to be in flight. Given back exactly once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Permit {
    owner: Owner,
    epoch: u64,
}

/// A VM, and where to find it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    /// Who it is.
    pub owner: Owner,
    /// The shared queue that wakes it; 0 for one that has none and looks by itself.
    pub queue: u32,
}

/// A message to a VM: look after this waiter of yours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wake {
    /// The VM's shared queue.
    pub queue: u32,
    /// The waiter, by its owner's own numbering.
    pub id: u32,
}

/// What a VM has here, if only a waiter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Held {
    /// How many calls it has in flight.
    permits: u32,
    /// Where to find it, as in [`Address`].
    queue: u32,
}

/// A request that waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Waiter {
    owner: Owner,
    id: u32,
    claim: Claim,
    /// Whether it has a permit, and only has to be told.
    granted: bool,
}

/// What a VM finds of a waiter of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// It has a permit, which is the caller's from now on.
    Granted(Permit),
    /// It waits on.
    Waits,
    /// It is not there: evicted, or given up for dead with its VM.
    Gone,
}

/// A bulkhead's shared state.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bulkhead {
    /// Beyond its most VMs a newcomer finds no room.
    ledger: Ledger<Held>,
    /// In the order in which they came.
    waiters: Vec<Waiter>,
}

impl Bulkhead {
    /// An empty bulkhead whose permits none that was given out before `epoch` can be taken for.
    #[must_use]
    pub const fn new(epoch: u64) -> Self {
        Self { ledger: Ledger::new(epoch), waiters: Vec::new() }
    }

    /// How many calls are in flight, those included that have a permit and have not been told yet.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        let granted = self.waiters.iter().filter(|waiter| waiter.granted).count();
        let permits = self.ledger.entries().iter().map(|entry| entry.held.permits);
        permits.fold(0, u32::saturating_add).saturating_add(u32::try_from(granted).unwrap_or(u32::MAX))
    }

    /// How many requests wait.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        let waiting = self.waiters.iter().filter(|waiter| !waiter.granted).count();
        u32::try_from(waiting).unwrap_or(u32::MAX)
    }

    /// Those that wait and have no permit yet, by their VMs and those VMs' own numbering.
    pub fn waiters(&self) -> impl Iterator<Item = (Owner, u32)> {
        self.waiters.iter().filter(|waiter| !waiter.granted).map(|waiter| (waiter.owner, waiter.id))
    }

    /// Every VM that something stands here for.
    pub fn owners(&self) -> impl Iterator<Item = Owner> {
        self.ledger.owners()
    }

    /// Gives a newcomer a permit, if there is one for it.
    pub fn enter(&mut self, address: Address, claim: Claim) -> Option<Permit> {
        if self.in_flight() >= claim.limit && !active(Bug::ShareExceeded) {
            return None;
        }
        let Entry { owner, epoch, held } = self.entry(address)?;
        held.permits = held.permits.checked_add(1)?;
        Some(Permit { owner: *owner, epoch: *epoch })
    }

    /// Has a newcomer wait, behind all of its rank. A full queue makes room by sending away the youngest of the lowest rank
    /// below the newcomer's. Returns whether it waits.
    pub fn enqueue(
        &mut self,
        address: Address,
        id: u32,
        claim: Claim,
        max_queue: u16,
        wakes: &mut Vec<Wake>,
    ) -> bool {
        // Those that have a permit and were not told yet stand in the list, too.
        let no_room = self.waiters.len() >= usize::from(MOST_WAITING);
        let full = no_room || self.waiting() >= u32::from(max_queue);
        // Who lets nobody wait evicts nobody either.
        let youngest = self.youngest_below(claim.rank).filter(|_| max_queue > 0);
        if (full && youngest.is_none()) || self.entry(address).is_none() {
            return false;
        }
        self.waiters.push(Waiter { owner: address.owner, id, claim, granted: false });
        if full && let Some(index) = youngest {
            let evicted = self.waiters.remove(index);
            self.wake(&evicted, wakes);
            self.tidy(evicted.owner);
        }
        true
    }

    /// The youngest waiter of the lowest rank below `rank`, by its place.
    fn youngest_below(&self, rank: u8) -> Option<usize> {
        let lower = |waiter: &Waiter| !waiter.granted && waiter.claim.rank > rank;
        let candidates = self.waiters.iter().enumerate().filter(|(_, waiter)| lower(waiter));
        if active(Bug::WrongEnd) {
            return candidates.map(|(index, _)| index).next();
        }
        // Of equals the last is taken.
        candidates.max_by_key(|(_, waiter)| waiter.claim.rank).map(|(index, _)| index)
    }

    /// Takes a permit back and gives it to whose turn it is. Returns false for one that was reclaimed.
    pub fn release(&mut self, permit: Permit, wakes: &mut Vec<Wake>) -> bool {
        match self.ledger.get_mut(permit.owner) {
            Some(Entry { epoch, held, .. })
                if (*epoch == permit.epoch || active(Bug::EpochIgnored)) && held.permits > 0 =>
            {
                held.permits = held.permits.saturating_sub(1);
            }
            _ => return false,
        }
        self.tidy(permit.owner);
        self.serve(wakes);
        true
    }

    /// Looks after a waiter of the caller's own, and takes its permit up if it has one.
    pub fn take_up(&mut self, address: Address, id: u32) -> Turn {
        let Some(index) = self.position(address.owner, id) else { return Turn::Gone };
        if !self.waiters.get(index).is_some_and(|waiter| waiter.granted) {
            return Turn::Waits;
        }
        let Some(Entry { owner, epoch, held }) = self.entry(address) else { return Turn::Gone };
        held.permits = held.permits.saturating_add(1);
        let permit = Permit { owner: *owner, epoch: *epoch };
        self.waiters.remove(index);
        Turn::Granted(permit)
    }

    /// Takes a waiter out. A permit that it had been given goes to whose turn it is.
    pub fn withdraw(&mut self, owner: Owner, id: u32, wakes: &mut Vec<Wake>) {
        let Some(index) = self.position(owner, id) else { return };
        if active(Bug::GrantLostToTheGone) && self.waiters.get(index).is_some_and(|waiter| waiter.granted) {
            return;
        }
        self.waiters.remove(index);
        self.tidy(owner);
        self.serve(wakes);
    }

    /// Takes back what VMs hold that are dead, and sends their waiters away. Returns how many permits that were.
    pub fn reclaim(&mut self, mut is_dead: impl FnMut(Owner) -> bool, wakes: &mut Vec<Wake>) -> u32 {
        let before = self.in_flight();
        let mut dead: Vec<Owner> = self.owners().collect();
        dead.retain(|owner| is_dead(*owner));
        if dead.is_empty() {
            return 0;
        }
        if active(Bug::WaitersOfTheDead) {
            self.ledger.retain(|entry| {
                let dead = dead.contains(&entry.owner);
                entry.held.permits = if dead { 0 } else { entry.held.permits };
                !dead || self.waiters.iter().any(|waiter| waiter.owner == entry.owner)
            });
        } else {
            self.ledger.retain(|entry| !dead.contains(&entry.owner));
            self.waiters.retain(|waiter| !dead.contains(&waiter.owner));
        }
        let count = before.saturating_sub(self.in_flight());
        self.serve(wakes);
        count
    }

    /// Gives permits to whose turn it is: the highest class first, and within a class whoever came first.
    fn serve(&mut self, wakes: &mut Vec<Wake>) {
        if active(Bug::ReleasedWithoutServing) {
            return;
        }
        loop {
            let in_flight = self.in_flight();
            let may = |waiter: &Waiter| !waiter.granted && in_flight < waiter.claim.limit;
            let candidates = self.waiters.iter_mut().filter(|waiter| may(waiter));
            // Of equals the first is taken.
            let turn = if active(Bug::LastServedFirst) {
                candidates.rev().min_by_key(|waiter| waiter.claim.rank)
            } else if active(Bug::ClassesIgnored) {
                candidates.min_by_key(|_| 0)
            } else {
                candidates.min_by_key(|waiter| waiter.claim.rank)
            };
            let Some(next) = turn else { return };
            next.granted = true;
            let next = *next;
            self.wake(&next, wakes);
            if active(Bug::TwoForOne)
                && let Some(second) = self.waiters.iter_mut().find(|it| !it.granted)
            {
                second.granted = true;
                let second = *second;
                self.wake(&second, wakes);
            }
        }
    }

    fn wake(&self, waiter: &Waiter, wakes: &mut Vec<Wake>) {
        let place = if active(Bug::WokenElsewhere) { Ok(0) } else { self.ledger.place(waiter.owner) };
        let home = place.ok().and_then(|place| self.ledger.entries().get(place));
        let queue = home.map_or(0, |entry| entry.held.queue);
        if queue != 0 && !active(Bug::GrantedWithoutWake) {
            wakes.push(Wake { queue, id: waiter.id });
        }
    }

    fn position(&self, owner: Owner, id: u32) -> Option<usize> {
        self.waiters.iter().position(|waiter| waiter.owner == owner && waiter.id == id)
    }

    /// The entry of a VM, made if there is none; `None` where there is no room for it.
    fn entry(&mut self, address: Address) -> Option<&mut Entry<Held>> {
        let entry = self.ledger.entry(address.owner)?;
        entry.held.queue = address.queue;
        Some(entry)
    }

    /// Lets the entry of a VM go that has nothing here any more.
    fn tidy(&mut self, owner: Owner) {
        let waits = self.waiters.iter().any(|waiter| waiter.owner == owner);
        self.ledger.tidy(owner, |held| !waits && held.permits == 0);
    }
}
