//! What each VM holds of something that all share.

#[cfg(test)]
mod tests;

use crate::breaker::Owner;
use crate::codec::{Reader, put_list};

/// The most VMs that hold something at the same time: beyond it a newcomer finds no room. Six configurations side by side on 256 workers.
pub(crate) const MOST_HOLDERS: usize = 1536;

/// What one VM holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry<T> {
    pub(crate) owner: Owner,
    /// Tells what is held in this time from what was held before it was reclaimed.
    pub(crate) epoch: u64,
    pub(crate) held: T,
}

/// What VMs hold, each under an epoch of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Ledger<T> {
    next_epoch: u64,
    /// By their owners, in ascending order.
    entries: Vec<Entry<T>>,
}

impl<T> Default for Ledger<T> {
    fn default() -> Self {
        Self::new(0)
    }
}

impl<T> Ledger<T> {
    /// An empty ledger; nothing that was held before `epoch` can be taken for an entry of it.
    pub(crate) const fn new(epoch: u64) -> Self {
        Self { next_epoch: epoch, entries: Vec::new() }
    }

    pub(crate) fn entries(&self) -> &[Entry<T>] {
        &self.entries
    }

    pub(crate) fn owners(&self) -> impl Iterator<Item = Owner> {
        self.entries.iter().map(|entry| entry.owner)
    }

    /// Where the entry of a VM is, or where it would be.
    pub(crate) fn place(&self, owner: Owner) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&owner, |entry| entry.owner)
    }

    pub(crate) fn get_mut(&mut self, owner: Owner) -> Option<&mut Entry<T>> {
        let place = self.place(owner).ok()?;
        self.entries.get_mut(place)
    }

    /// Lets the entry of a VM go that is idle.
    pub(crate) fn tidy(&mut self, owner: Owner, is_idle: impl FnOnce(&T) -> bool) {
        let place = self.place(owner).ok();
        let idle = place.filter(|place| self.entries.get(*place).is_some_and(|entry| is_idle(&entry.held)));
        if let Some(place) = idle {
            self.entries.remove(place);
        }
    }

    /// Lets the entries go that are not to be kept.
    pub(crate) fn retain(&mut self, keep: impl FnMut(&mut Entry<T>) -> bool) {
        self.entries.retain_mut(keep);
    }

    /// Appends `next epoch u64`, then behind its length (u16) each VM: `owner u64, epoch u64` and what it holds.
    pub(crate) fn encode(&self, out: &mut Vec<u8>, mut held: impl FnMut(&mut Vec<u8>, &T)) {
        out.extend_from_slice(&self.next_epoch.to_le_bytes());
        put_list(out, &self.entries, |out, entry| {
            out.extend_from_slice(&entry.owner.0.to_le_bytes());
            out.extend_from_slice(&entry.epoch.to_le_bytes());
            held(out, &entry.held);
        });
    }

    /// Reads what [`Self::encode`] wrote; `None` for what VMs cannot have made.
    pub(crate) fn decode(
        input: &mut Reader<'_>,
        mut held: impl FnMut(&mut Reader<'_>) -> Option<T>,
    ) -> Option<Self> {
        let next_epoch = input.u64()?;
        let entries = input.list(|input| {
            let (owner, epoch) = (Owner(input.u64()?), input.u64()?);
            Some(Entry { owner, epoch, held: held(input)? })
        })?;
        let plausible =
            entries.is_sorted_by(|one, next| one.owner < next.owner) && entries.len() <= MOST_HOLDERS;
        plausible.then_some(Self { next_epoch, entries })
    }
}

impl<T: Default> Ledger<T> {
    /// The entry of a VM, made if there is none; `None` where there is no room for it.
    pub(crate) fn entry(&mut self, owner: Owner) -> Option<&mut Entry<T>> {
        let index = match self.place(owner) {
            Ok(index) => index,
            Err(_) if self.entries.len() >= MOST_HOLDERS => return None,
            Err(index) => {
                let epoch = self.next_epoch;
                self.next_epoch = epoch.wrapping_add(1);
                self.entries.insert(index, Entry { owner, epoch, held: T::default() });
                index
            }
        };
        self.entries.get_mut(index)
    }
}
