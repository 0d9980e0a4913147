//! The bulkhead once more: a list of the calls in flight and a list of those that wait, gone through at every question.

use crate::view;
use std::collections::BTreeMap;

/// Who asks: its identity, and the shared queue that wakes it.
pub type Home = (u64, u32);

/// How a request stands: its class, and how many may be in flight before it has to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    pub rank: u8,
    pub limit: u32,
}

/// A permit: whose, and of which time.
pub type Permit = (u64, u64);

/// A message: to which queue, and about which waiter.
pub type Wake = (u32, u32);

/// The reference bulkhead.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Room {
    next: u64,
    /// By owner: the epoch, and the queue.
    homes: BTreeMap<u64, (u64, u32)>,
    /// The owner of each call.
    calls: Vec<u64>,
    line: Vec<view::Waiter>,
}

impl Room {
    /// An empty one.
    pub fn new(next: u64) -> Self {
        Self { next, ..Self::default() }
    }

    pub fn in_flight(&self) -> u32 {
        (self.calls.len() + self.line.iter().filter(|waiter| waiter.granted).count()) as u32
    }

    pub fn waiting(&self) -> u32 {
        self.line.iter().filter(|waiter| !waiter.granted).count() as u32
    }

    pub fn find(&self, owner: u64, id: u32) -> Option<&view::Waiter> {
        self.line.iter().find(|waiter| (waiter.owner, waiter.id) == (owner, id))
    }

    /// Whether somebody waits and has no permit yet.
    pub fn waits(&self, owner: u64, id: u32) -> bool {
        self.find(owner, id).is_some_and(|waiter| !waiter.granted)
    }

    /// Those that have a permit and need to be told.
    pub fn granted(&self) -> impl Iterator<Item = &view::Waiter> {
        self.line.iter().filter(|waiter| waiter.granted)
    }

    pub fn owners(&self) -> impl Iterator<Item = u64> {
        self.homes.keys().copied()
    }

    /// Whether a permit would be missed.
    pub fn has(&self, (owner, epoch): Permit) -> bool {
        self.homes.get(&owner).is_some_and(|home| home.0 == epoch) && self.calls.contains(&owner)
    }

    fn at_home(&mut self, (owner, queue): Home) -> u64 {
        let fresh = self.next;
        let home = self.homes.entry(owner).or_insert((fresh, queue));
        home.1 = queue;
        if home.0 == fresh {
            self.next = fresh.wrapping_add(1);
        }
        home.0
    }

    pub fn enter(&mut self, home: Home, claim: Claim) -> Option<Permit> {
        if self.in_flight() >= claim.limit {
            return None;
        }
        let epoch = self.at_home(home);
        self.calls.push(home.0);
        Some((home.0, epoch))
    }

    pub fn enqueue(&mut self, home: Home, id: u32, claim: Claim, most: u32, wakes: &mut Vec<Wake>) -> bool {
        let full = self.waiting() >= most;
        let lowest = self.line.iter().filter(|waiter| !waiter.granted).map(|waiter| waiter.rank).max();
        // Who lets nobody wait evicts nobody either.
        if most == 0 || full && lowest.is_none_or(|lowest| lowest <= claim.rank) {
            return false;
        }
        self.at_home(home);
        if full {
            let last = |waiter: &view::Waiter| !waiter.granted && Some(waiter.rank) == lowest;
            let place = self.line.iter().rposition(last);
            let evicted = place.map(|place| self.line.remove(place));
            wakes.extend(evicted.and_then(|evicted| self.message(&evicted)));
        }
        let (rank, limit) = (claim.rank, claim.limit);
        self.line.push(view::Waiter { owner: home.0, id, limit, rank, granted: false });
        self.tidy();
        true
    }

    pub fn release(&mut self, permit: Permit, wakes: &mut Vec<Wake>) -> bool {
        let place = self.calls.iter().position(|owner| *owner == permit.0).filter(|_| self.has(permit));
        let Some(place) = place else { return false };
        self.calls.remove(place);
        self.tidy();
        self.serve(wakes);
        true
    }

    pub fn take_up(&mut self, home: Home, id: u32) -> Option<Permit> {
        let place = self.line.iter().position(|waiter| (waiter.owner, waiter.id) == (home.0, id))?;
        if !self.line[place].granted {
            return None;
        }
        let epoch = self.at_home(home);
        self.line.remove(place);
        self.calls.push(home.0);
        Some((home.0, epoch))
    }

    pub fn withdraw(&mut self, owner: u64, id: u32, wakes: &mut Vec<Wake>) {
        let before = self.line.len();
        self.line.retain(|waiter| (waiter.owner, waiter.id) != (owner, id));
        if self.line.len() < before {
            self.tidy();
            self.serve(wakes);
        }
    }

    pub fn reclaim(&mut self, dead: &[u64], wakes: &mut Vec<Wake>) -> u32 {
        let before = self.in_flight();
        if !self.homes.keys().any(|owner| dead.contains(owner)) {
            return 0;
        }
        self.calls.retain(|owner| !dead.contains(owner));
        self.line.retain(|waiter| !dead.contains(&waiter.owner));
        self.tidy();
        let left = self.in_flight();
        self.serve(wakes);
        before - left
    }

    fn serve(&mut self, wakes: &mut Vec<Wake>) {
        loop {
            let in_flight = self.in_flight();
            let may = |waiter: &&mut view::Waiter| !waiter.granted && in_flight < waiter.limit;
            let mut turn: Vec<_> = self.line.iter_mut().filter(may).collect();
            // Stable: who came first goes first.
            turn.sort_by_key(|waiter| waiter.rank);
            let Some(next) = turn.into_iter().next() else { return };
            next.granted = true;
            let next = *next;
            wakes.extend(self.message(&next));
        }
    }

    fn message(&self, waiter: &view::Waiter) -> Option<Wake> {
        let (_, queue) = self.homes.get(&waiter.owner)?;
        (*queue != 0).then_some((*queue, waiter.id))
    }

    fn tidy(&mut self) {
        let (calls, line) = (&self.calls, &self.line);
        self.homes.retain(|owner, _| calls.contains(owner) || line.iter().any(|it| it.owner == *owner));
    }

    /// What must stand in the store.
    pub fn shape(&self) -> view::Room {
        let holder = |(owner, (epoch, queue)): (&u64, &(u64, u32))| {
            let held = self.calls.iter().filter(|it| *it == owner).count() as u32;
            (*owner, view::Holder { epoch: *epoch, held, queue: *queue })
        };
        let holders = self.homes.iter().map(holder).collect();
        view::Room { next: self.next, holders, waiters: self.line.clone() }
    }
}
