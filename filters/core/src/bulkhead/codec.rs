//! The bulkhead's bytes in shared data: what VMs hold, each `permits u32, queue u32`, then behind its length (u16) each
//! waiter: `VM u16 (by its place in the list), id u32, limit u32, rank u8, granted u8`.

use super::{Bulkhead, Claim, Held, MOST_WAITING, Waiter};
use crate::codec::{Reader, put_list};
use crate::ledger::{Ledger, MOST_HOLDERS};

/// What stands before the lists, with their lengths; a VM; a waiter.
const SIZES: [usize; 3] = [12, 24, 12];
// A section must be able to say its own length.
const _: () =
    assert!(SIZES[0] + SIZES[1] * MOST_HOLDERS + SIZES[2] * MOST_WAITING as usize <= u16::MAX as usize);

impl Bulkhead {
    /// The version of the layout.
    pub const VERSION: u8 = 1;

    /// Appends the bytes; none where nothing was ever in flight.
    pub fn encode(&self, out: &mut Vec<u8>) {
        if *self == Self::default() {
            return;
        }
        self.ledger.encode(out, |out, held| {
            out.extend_from_slice(&held.permits.to_le_bytes());
            out.extend_from_slice(&held.queue.to_le_bytes());
        });
        put_list(out, &self.waiters, |out, waiter| {
            // Each waiter's VM has an entry, and there are far fewer than that many.
            let place = self.ledger.place(waiter.owner).ok();
            let place = place.and_then(|place| u16::try_from(place).ok()).unwrap_or(u16::MAX);
            out.extend_from_slice(&place.to_le_bytes());
            out.extend_from_slice(&waiter.id.to_le_bytes());
            out.extend_from_slice(&waiter.claim.limit.to_le_bytes());
            out.extend([waiter.claim.rank, u8::from(waiter.granted)]);
        });
    }

    /// Reads what [`Self::encode`] wrote; `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = Reader::new(bytes);
        let ledger =
            Ledger::decode(&mut input, |input| Some(Held { permits: input.u32()?, queue: input.u32()? }))?;
        let waiters = input.list(|input| {
            let owner = ledger.entries().get(usize::from(input.u16()?))?.owner;
            let (id, limit) = (input.u32()?, input.u32()?);
            let (rank, granted) = (input.u8()?, input.u8()?);
            let claim = Claim { rank, limit };
            (granted <= 1).then_some(Waiter { owner, id, claim, granted: granted == 1 })
        })?;
        // No more than there is room for.
        let plausible = input.is_empty() && waiters.len() <= usize::from(MOST_WAITING);
        plausible.then_some(Self { ledger, waiters })
    }
}
