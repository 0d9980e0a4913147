//! The breaker's bytes in shared data, version 1 of its section.
//!
//! `generation u64, next_probe u32, state u8`, then by state: closed: the evidence (`consecutive u32, capacity u16, n u16,
//! n x moment u64`); open: `until u64`; half-open: `until u64, permitted u32, succeeded u32, n u16, n x (owner u64, id
//! u32)`.

use super::{Breaker, Evidence, Owner, Phase, Probe, State};
use crate::codec::{Reader, put_list};

impl Breaker {
    /// The version of the layout that [`Self::encode`] writes.
    pub const VERSION: u8 = 1;

    /// Appends the breaker's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.generation.to_le_bytes());
        out.extend(self.next_probe.to_le_bytes());
        out.push(self.phase.state() as u8);
        match &self.phase {
            Phase::Closed(evidence) => evidence.encode(out),
            Phase::Open { until } => out.extend(until.as_nanos().to_le_bytes()),
            Phase::HalfOpen { until, permitted, succeeded, probes } => {
                out.extend(until.as_nanos().to_le_bytes());
                out.extend(permitted.to_le_bytes());
                out.extend(succeeded.to_le_bytes());
                put_list(out, probes, |out, probe| {
                    out.extend(probe.owner.0.to_le_bytes());
                    out.extend(probe.id.to_le_bytes());
                });
            }
        }
    }

    /// Reads what [`Self::encode`] wrote; `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = Reader::new(bytes);
        let generation = input.u64()?;
        let next_probe = input.u32()?;
        let phase = decode_phase(&mut input)?;
        input.is_empty().then_some(Self { phase, generation, next_probe })
    }
}

fn decode_phase(input: &mut Reader<'_>) -> Option<Phase> {
    const CLOSED: u8 = State::Closed as u8;
    const OPEN: u8 = State::Open as u8;
    const HALF_OPEN: u8 = State::HalfOpen as u8;
    match input.u8()? {
        CLOSED => Evidence::decode(input).map(Phase::Closed),
        OPEN => Some(Phase::Open { until: input.timestamp()? }),
        HALF_OPEN => Some(Phase::HalfOpen {
            until: input.timestamp()?,
            permitted: input.u32()?,
            succeeded: input.u32()?,
            probes: input.list(|input| Some(Probe { owner: Owner(input.u64()?), id: input.u32()? }))?,
        }),
        _ => None,
    }
}
