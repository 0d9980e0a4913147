//! The budget's bytes in shared data: the window (`began u64, slice u64`, ten times `paid u64, retries u32`), `seen u8`, then
//! what VMs hold, each `requests u32, retries u32`.

use super::{Budget, Kept};
use crate::codec::Reader;
use crate::ledger::{Ledger, MOST_HOLDERS};

/// What stands before the holders, with their length; a holder.
const SIZES: [usize; 2] = [147, 24];
// A section must be able to say its own length.
const _: () = assert!(SIZES[0] + SIZES[1] * MOST_HOLDERS <= u16::MAX as usize);

impl Budget {
    /// The version of the layout.
    pub const VERSION: u8 = 1;

    /// Appends the bytes; none before the first request.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let Some(window) = &self.window else { return };
        window.encode(out);
        out.push(self.seen);
        self.ledger.encode(out, |out, kept| {
            out.extend_from_slice(&kept.requests.to_le_bytes());
            out.extend_from_slice(&kept.retries.to_le_bytes());
        });
    }

    /// Reads what [`Self::encode`] wrote; `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = Reader::new(bytes);
        let window = super::Window::decode(&mut input)?;
        let seen = input.u8()?;
        let ledger =
            Ledger::decode(&mut input, |input| Some(Kept { requests: input.u32()?, retries: input.u32()? }))?;
        input.is_empty().then_some(Self { window: Some(window), ledger, seen })
    }
}
