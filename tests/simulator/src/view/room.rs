//! The bulkhead's section, by its documented layout.

use super::Bytes;
use std::collections::BTreeMap;

/// There is room for so many VMs.
const MOST_HOLDERS: usize = 1536;
/// There is room for so many that wait.
const MOST_WAITING: usize = 2048;

/// What a VM has in flight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holder {
    /// Tells its permits from those it had before.
    pub epoch: u64,
    /// How many calls.
    pub held: u32,
    /// The shared queue that wakes it.
    pub queue: u32,
}

/// A request that waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiter {
    /// Whose it is.
    pub owner: u64,
    /// Its number.
    pub id: u32,
    /// So many may be in flight before it has to wait on.
    pub limit: u32,
    /// Its class.
    pub rank: u8,
    /// Whether it has a permit.
    pub granted: bool,
}

/// The bulkhead as its bytes say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Room {
    /// The next epoch.
    pub next: u64,
    /// By owner.
    pub holders: BTreeMap<u64, Holder>,
    /// In order.
    pub waiters: Vec<Waiter>,
}

impl Room {
    /// How many calls are in flight.
    pub fn in_flight(&self) -> u32 {
        let granted = self.waiters.iter().filter(|waiter| waiter.granted).count() as u32;
        granted + self.holders.values().map(|holder| holder.held).sum::<u32>()
    }

    /// Whether a call of `owner` went straight in, past all that wait.
    pub fn was_entered(&self, owner: u64, before: &Self) -> bool {
        let held = |room: &Self| room.holders.get(&owner).map_or(0, |holder| holder.held);
        held(self) > held(before) && self.waiters == before.waiters
    }

    /// What holds of every one, whatever made it: nobody waits who may go on, nobody is served before one whose turn it
    /// was, and no VM stands here for nothing. Returns what does not.
    pub fn wrong(&self, before: &Self) -> Option<String> {
        let in_flight = self.in_flight();
        let waits = || self.waiters.iter().enumerate().filter(|(_, waiter)| !waiter.granted);
        if let Some((_, forgotten)) = waits().find(|(_, waiter)| in_flight < waiter.limit) {
            return Some(format!("{in_flight} are in flight, and it waits: {forgotten:?}"));
        }
        let had = |waiter: &Waiter| {
            before
                .waiters
                .iter()
                .any(|old| (old.owner, old.id, old.granted) == (waiter.owner, waiter.id, true))
        };
        let served = self.waiters.iter().enumerate().filter(|(_, waiter)| waiter.granted && !had(waiter));
        for (place, next) in served {
            let first = |(other, waiter): &(usize, &Waiter)| {
                (waiter.rank, *other) < (next.rank, place) && waiter.limit >= next.limit
            };
            if let Some((_, passed)) = waits().find(first) {
                return Some(format!("{next:?} was served before {passed:?}"));
            }
        }
        let served = self.waiters.iter().filter(|waiter| waiter.granted && !had(waiter));
        // Of several the lowest class was served last.
        if let Some(last) = served.max_by_key(|waiter| waiter.rank).filter(|last| in_flight > last.limit) {
            return Some(format!("{in_flight} are in flight, and it was served: {last:?}"));
        }
        let idle = self.holders.iter().find(|(owner, holder)| {
            holder.held == 0 && !self.waiters.iter().any(|waiter| waiter.owner == **owner)
        });
        idle.map(|(owner, _)| format!("{owner} stands in it for nothing"))
    }
}

/// Reads section 4.
pub fn read(bytes: &[u8]) -> Option<Room> {
    let mut input = Bytes(bytes);
    let next = input.number(8)?;
    let mut holders = BTreeMap::new();
    let mut owners: Vec<u64> = Vec::new();
    for _ in 0..input.short()? {
        let (owner, epoch) = (input.number(8)?, input.number(8)?);
        let holder = Holder { epoch, held: input.word()?, queue: input.word()? };
        // Each stands once, in ascending order.
        if owners.last().is_some_and(|last| *last >= owner) {
            return None;
        }
        owners.push(owner);
        holders.insert(owner, holder);
    }
    let mut waiters = Vec::new();
    for _ in 0..input.short()? {
        let owner = *owners.get(usize::from(input.short()?))?;
        let (id, limit) = (input.word()?, input.word()?);
        let (rank, granted) = (input.number(1)? as u8, input.number(1)?);
        if granted > 1 {
            return None;
        }
        waiters.push(Waiter { owner, id, limit, rank, granted: granted == 1 });
    }
    let fits = holders.len() <= MOST_HOLDERS && waiters.len() <= MOST_WAITING;
    (fits && input.0.is_empty()).then_some(Room { next, holders, waiters })
}
