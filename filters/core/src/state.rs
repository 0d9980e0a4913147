//! A policy's value in shared data: a sequence of sections, each of which says what it is.
//!
//! `"RS"`, then per section `id u8, version u8, length u16, bytes`. A section of an id or a version that this module does
//! not know belongs to another version of the module that serves beside it: it is carried along untouched. A section
//! that should be readable and is not starts afresh.

#[cfg(test)]
mod tests;

use crate::breaker::Breaker;
use crate::codec::Reader;
use crate::planted::{Bug, active};
use crate::time::Timestamp;

const MAGIC: &[u8] = b"RS";
const BREAKER: u8 = 1;
const RATES: u8 = 2;
const RECOVERY: u8 = 3;
/// A section's id, version and length.
const HEAD: usize = 4;
/// Sections of others are carried up to this many bytes in all, heads included: more is damage, not another version.
const MAX_FOREIGN: usize = 64 * 1024;

/// What a policy's requests decide together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    /// The circuit breaker.
    pub breaker: Breaker,
    /// Whether the value that was read was damaged: what stands here must be written before a ticket refers to it.
    pub repaired: bool,
    foreign: Vec<Section>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Section {
    id: u8,
    version: u8,
    bytes: Vec<u8>,
}

impl State {
    /// Reads a value as it is at `now`; a key that was never written is a closed breaker of generation 0.
    ///
    /// Where a breaker is expected and cannot be read, the fresh one takes its generation from the clock: a ticket of the
    /// lost state must not fit it.
    #[must_use]
    pub fn decode(bytes: Option<&[u8]>, now: Timestamp) -> Self {
        let Some(bytes) = bytes else {
            return Self { breaker: Breaker::closed(0), repaired: false, foreign: Vec::new() };
        };
        let (mine, mut foreign): (Vec<_>, Vec<_>) =
            decode_sections(bytes).unwrap_or_default().into_iter().partition(Section::is_readable);
        let of =
            |id| mine.iter().rev().find(|section| section.id == id).map(|section| section.bytes.as_slice());
        let breaker = of(BREAKER).and_then(Breaker::decode).map(|mut breaker| {
            // What cannot be read of these starts afresh, by itself.
            of(RATES).and_then(|bytes| breaker.decode_rates(bytes, now));
            of(RECOVERY).and_then(|bytes| breaker.decode_recovery(bytes, now));
            breaker
        });
        let breaker = breaker.filter(|breaker| breaker.is_plausible(now));
        if foreign.iter().map(|section| section.bytes.len().saturating_add(HEAD)).sum::<usize>() > MAX_FOREIGN
        {
            foreign.clear();
        }
        let repaired = breaker.is_none();
        Self { breaker: breaker.unwrap_or_else(|| Breaker::closed(now.as_nanos())), repaired, foreign }
    }

    /// The value's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let mut put_own = |id, version, write: fn(&Breaker, &mut Vec<u8>)| {
            let mut bytes = Vec::new();
            write(&self.breaker, &mut bytes);
            // An empty one says nothing.
            if !bytes.is_empty() {
                put_section(&mut out, id, version, &bytes);
            }
        };
        put_own(BREAKER, Breaker::VERSION, Breaker::encode);
        put_own(RATES, Breaker::RATES_VERSION, Breaker::encode_rates);
        put_own(RECOVERY, Breaker::RECOVERY_VERSION, Breaker::encode_recovery);
        for section in self.foreign.iter().filter(|_| !active(Bug::ForeignDropped)) {
            put_section(&mut out, section.id, section.version, &section.bytes);
        }
        out
    }
}

impl Section {
    fn is_readable(&self) -> bool {
        matches!(
            (self.id, self.version),
            (BREAKER, Breaker::VERSION)
                | (RATES, Breaker::RATES_VERSION)
                | (RECOVERY, Breaker::RECOVERY_VERSION)
        )
    }
}

fn put_section(out: &mut Vec<u8>, id: u8, version: u8, bytes: &[u8]) {
    // A section cannot outgrow its length field: the configuration's limits are far below it.
    let Ok(len) = u16::try_from(bytes.len()) else { return };
    out.extend([id, version]);
    out.extend(len.to_le_bytes());
    out.extend(bytes);
}

fn decode_sections(bytes: &[u8]) -> Option<Vec<Section>> {
    let mut input = Reader::new(bytes.strip_prefix(MAGIC)?);
    let mut sections = Vec::new();
    while !input.is_empty() {
        let (id, version, len) = (input.u8()?, input.u8()?, input.u16()?);
        sections.push(Section { id, version, bytes: input.bytes(usize::from(len))?.to_vec() });
    }
    Some(sections)
}
