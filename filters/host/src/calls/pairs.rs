//! Whole header maps, in the wire form of the ABI: a count, then the two lengths of each pair, then each name and value
//! with a NUL behind it; all numbers are 32 bits, little-endian.

use super::{Map, Result, bytes};
use crate::abi;

/// A header map as the host wrote it.
#[derive(Debug)]
pub struct Pairs(Vec<u8>);

/// All headers of a map, in one read: cheaper than two reads of one header each.
///
/// # Errors
/// The host's status. A map that cannot be read in this phase is an empty one, unlike everywhere else.
pub fn header_pairs(map: Map) -> Result<Pairs> {
    // SAFETY: the out pointers are valid for writes.
    bytes(|data, len| unsafe { abi::proxy_get_header_map_pairs(map as u32, data, len) }).map(Pairs)
}

impl Pairs {
    /// The names and values, in order. Ends early where the bytes are not what the ABI describes.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        let (count, rest) = word(&self.0).unwrap_or_default();
        let lengths = usize::try_from(count).ok().and_then(|count| count.checked_mul(8));
        let split = lengths.and_then(|lengths| rest.split_at_checked(lengths));
        let (mut lengths, mut text) = split.unwrap_or_default();
        std::iter::from_fn(move || {
            let (name, rest) = word(lengths)?;
            let (value, rest) = word(rest)?;
            lengths = rest;
            Some((part(&mut text, name)?, part(&mut text, value)?))
        })
        .fuse()
    }
}

fn word(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (word, rest) = bytes.split_first_chunk()?;
    Some((u32::from_le_bytes(*word), rest))
}

/// The next so many bytes, and the NUL behind them left out.
fn part<'a>(text: &mut &'a [u8], len: u32) -> Option<&'a [u8]> {
    let (part, rest) = text.split_at_checked(usize::try_from(len).ok()?)?;
    (_, *text) = rest.split_first()?;
    Some(part)
}

/// Headers in the wire form.
pub(super) fn encode(headers: &[(String, String)]) -> Vec<u8> {
    fn length(len: usize) -> [u8; 4] {
        u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes()
    }
    let mut out = Vec::new();
    out.extend(length(headers.len()));
    for (name, value) in headers {
        out.extend(length(name.len()));
        out.extend(length(value.len()));
    }
    for part in headers.iter().flat_map(|(name, value)| [name, value]) {
        out.extend(part.as_bytes());
        out.push(0);
    }
    out
}
