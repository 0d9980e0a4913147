//! What was paid and spent lately: `WindowedAdder` of Finagle's util, which its budget counts by.
//!
//! A window has ten slices, the present one among them. They are not aligned: each begins when it is first looked at, and
//! lasts from one tenth of the window to just under two. So what is paid counts for 0.9 to 1.9 times the window, and a
//! retry comes back after as long.

use super::settings::SLICES;
use crate::codec::Reader;
use crate::time::Timestamp;
use std::ops::RangeInclusive;
use std::time::Duration;

const COUNT: usize = SLICES as usize;
/// A tenth of the shortest and of the longest window.
const PLAUSIBLE: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(6);

/// How much later another worker's clock reading may be than the one that judges.
const AHEAD: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Slice {
    /// What requests have paid.
    pub(super) paid: i64,
    /// How many retries were made.
    pub(super) retries: u32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Window {
    /// When the present slice began.
    rolled: Timestamp,
    /// How long a slice lasts at least.
    slice: Duration,
    /// The present slice, then the others from the youngest to the oldest.
    slices: [Slice; COUNT],
}

impl Window {
    pub(super) const fn new(slice: Duration, now: Timestamp) -> Self {
        Self { rolled: now, slice, slices: [Slice { paid: 0, retries: 0 }; COUNT] }
    }

    /// Takes over another length. What stands in the slices stays, and leaves by the new one.
    pub(super) const fn reshape(&mut self, slice: Duration) {
        self.slice = slice;
    }

    /// Whether the present slice can have begun by `now`.
    pub(super) fn is_plausible(&self, now: Timestamp) -> bool {
        self.rolled.since(now) <= AHEAD
    }

    /// Forgets everything.
    pub(super) const fn begin_again(&mut self, now: Timestamp) {
        *self = Self::new(self.slice, now);
    }

    /// Closes the present slice, if it has lasted long enough, and lets those go whose time is over.
    pub(super) fn roll(&mut self, now: Timestamp) {
        let elapsed = now.since(self.rolled).as_nanos();
        let Some(gone) = elapsed.checked_div(self.slice.as_nanos()).filter(|gone| *gone > 0) else { return };
        let gone = usize::try_from(gone).unwrap_or(COUNT).min(COUNT);
        self.slices.rotate_right(gone);
        self.slices.iter_mut().take(gone).for_each(|slice| *slice = Slice::default());
        self.rolled = now;
    }

    /// What was paid.
    pub(super) fn paid(&self) -> i64 {
        self.slices.iter().fold(0, |sum: i64, slice| sum.saturating_add(slice.paid))
    }

    /// What was spent, where a retry costs `cost`.
    pub(super) fn spent(&self, cost: i64) -> i64 {
        let retries = self.slices.iter().fold(0, |sum: i64, slice| sum.saturating_add(slice.retries.into()));
        retries.saturating_mul(cost)
    }

    pub(super) fn pay(&mut self, amount: i64) {
        let [present, ..] = &mut self.slices;
        present.paid = present.paid.saturating_add(amount);
    }

    pub(super) fn spend(&mut self, retries: u32) {
        let [present, ..] = &mut self.slices;
        present.retries = present.retries.saturating_add(retries);
    }

    /// Takes retries out together with what has paid for them, the oldest first: they do not come back.
    pub(super) fn cancel(&mut self, cost: i64) {
        let paid = u32::try_from(self.paid().checked_div(cost).unwrap_or(0)).unwrap_or(u32::MAX);
        let mut left = paid;
        for slice in self.slices.iter_mut().rev() {
            let gone = left.min(slice.retries);
            slice.retries = slice.retries.saturating_sub(gone);
            left = left.saturating_sub(gone);
        }
        self.burn(i64::from(paid.saturating_sub(left)).saturating_mul(cost));
    }

    /// Takes back what was paid, the oldest first, up to `amount`.
    pub(super) fn burn(&mut self, mut amount: i64) {
        for slice in self.slices.iter_mut().rev() {
            let burnt = amount.clamp(0, slice.paid);
            slice.paid = slice.paid.saturating_sub(burnt);
            amount = amount.saturating_sub(burnt);
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.rolled.as_nanos().to_le_bytes());
        let slice = u64::try_from(self.slice.as_nanos()).unwrap_or(u64::MAX);
        out.extend_from_slice(&slice.to_le_bytes());
        for slice in &self.slices {
            out.extend_from_slice(&slice.paid.to_le_bytes());
            out.extend_from_slice(&slice.retries.to_le_bytes());
        }
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Self> {
        let (rolled, slice) = (input.timestamp()?, Duration::from_nanos(input.u64()?));
        let mut slices = [Slice::default(); COUNT];
        for slice in &mut slices {
            *slice = Slice { paid: input.u64()?.try_into().ok()?, retries: input.u32()? };
        }
        PLAUSIBLE.contains(&slice).then_some(Self { rolled, slice, slices })
    }
}
