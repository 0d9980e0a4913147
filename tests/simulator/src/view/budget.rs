//! The retry budget's section, by its documented layout.

use super::Bytes;
use std::collections::BTreeMap;

/// A window has so many slices.
pub const SLICES: usize = 10;
/// There is room for so many VMs.
const MOST_HOLDERS: usize = 1536;

/// What is kept for the requests of a VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept {
    /// Tells it from what was kept before.
    pub epoch: u64,
    /// For how many requests.
    pub requests: u32,
    /// How many retries.
    pub retries: u32,
}

/// The budget as its bytes say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Budget {
    /// When the present slice began.
    pub began: u64,
    /// How long a slice lasts at least.
    pub slice: u64,
    /// What was paid and how many retries were made, the present slice first.
    pub slices: Vec<(u64, u32)>,
    /// The most retries that a route of its own was seen to make.
    pub seen: u8,
    /// The next epoch.
    pub next: u64,
    /// By owner.
    pub holders: BTreeMap<u64, Kept>,
}

impl Budget {
    /// How many retries are kept for requests in flight.
    pub fn reserved(&self) -> u64 {
        self.holders.values().map(|kept| u64::from(kept.retries)).sum()
    }

    /// What holds of every one, whatever made it.
    pub fn wrong(&self) -> Option<String> {
        let idle = self.holders.iter().find(|(_, kept)| kept.requests == 0 || kept.retries < kept.requests);
        idle.map(|(owner, kept)| format!("{kept:?} is kept for {owner}"))
    }
}

/// Reads section 5.
pub fn read(bytes: &[u8]) -> Option<Budget> {
    let mut input = Bytes(bytes);
    let (began, slice) = (input.number(8)?, input.number(8)?);
    // A tenth of 1 s to 60 s.
    if !(100_000_000..=6_000_000_000).contains(&slice) {
        return None;
    }
    let slices: Vec<_> =
        (0..SLICES).map(|_| Some((input.number(8)?, input.word()?))).collect::<Option<_>>()?;
    if slices.iter().any(|(paid, _)| i64::try_from(*paid).is_err()) {
        return None;
    }
    let (seen, next) = (input.number(1)? as u8, input.number(8)?);
    let mut holders = BTreeMap::new();
    for _ in 0..input.short()? {
        let (owner, epoch) = (input.number(8)?, input.number(8)?);
        // Each stands once, in ascending order.
        if holders.last_key_value().is_some_and(|(last, _)| *last >= owner) {
            return None;
        }
        holders.insert(owner, Kept { epoch, requests: input.word()?, retries: input.word()? });
    }
    let fits = holders.len() <= MOST_HOLDERS;
    (fits && input.0.is_empty()).then_some(Budget { began, slice, slices, seen, next, holders })
}
