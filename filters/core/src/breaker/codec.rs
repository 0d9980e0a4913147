//! The breaker's bytes in shared data: three sections, each with a version of its own.
//!
//! 1. The breaker, as the first release wrote it: `generation u64, next_probe u32, state u8`, then by state: closed: the
//!    evidence (`consecutive u32, capacity u16, n u16, n x moment u64`); open: `until u64`; half-open: `until u64, permitted
//!    u32, answered u32, n u16, n x (owner u64, id u32)`.
//! 2. What rates need: `generation u64`, then by state: closed: the window (`kind u8`, then its own bytes); half-open:
//!    `deciding u32, calls u32, failed u32, slow u32`.
//! 3. How it recovers: `generation u64, trips u32, flags u8`, then, by flag, `since u64` and `held_until u64`.
//!
//! The further ones belong to the generation they name: if another version of the module has since moved the breaker on
//! without them, they are out of date.

use super::phase::{Closed, HalfOpen};
use super::{Breaker, Evidence, Owner, Phase, Probe, State, Tally, Window};
use crate::codec::{Reader, put_list};
use crate::planted::{Bug, active};
use crate::time::Timestamp;
use std::time::Duration;

/// Whether this is the build that stands in for another version of the module in tests of upgrades: it can read section 1
/// only, and what it writes besides cannot be read by the module that ships.
const OTHER: bool = cfg!(feature = "test-other-version");

/// How much later another worker's clock reading may be than the one that judges.
const AHEAD: Duration = Duration::from_secs(60);

const SINCE: u8 = 0b01;
const HELD: u8 = 0b10;

impl Breaker {
    /// The version of the layout of section 1.
    pub const VERSION: u8 = 1;
    /// The version of the layout of section 2.
    pub const RATES_VERSION: u8 = if OTHER { u8::MAX } else { 1 };
    /// The version of the layout of section 3.
    pub const RECOVERY_VERSION: u8 = if OTHER { u8::MAX } else { 1 };

    /// Appends the bytes of section 1.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.next_probe.to_le_bytes());
        out.push(self.phase.state() as u8);
        match &self.phase {
            Phase::Closed(closed) => closed.evidence.encode(out),
            Phase::Open { until } => out.extend_from_slice(&until.as_nanos().to_le_bytes()),
            Phase::HalfOpen(probing) => {
                out.extend_from_slice(&probing.until.as_nanos().to_le_bytes());
                out.extend_from_slice(&probing.permitted.to_le_bytes());
                out.extend_from_slice(&probing.answers.calls.to_le_bytes());
                put_list(out, &probing.probes, |out, probe| {
                    out.extend_from_slice(&probe.owner.0.to_le_bytes());
                    out.extend_from_slice(&probe.id.to_le_bytes());
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
        input.is_empty().then_some(Self { phase, generation, next_probe, trips: 0 })
    }

    /// Appends the bytes of section 2; none where no rate is kept.
    pub fn encode_rates(&self, out: &mut Vec<u8>) {
        let generation = self.generation.to_le_bytes();
        match &self.phase {
            Phase::Closed(Closed { evidence: Evidence { window: Some(window), .. }, .. }) => {
                out.extend(generation);
                window.encode(out);
            }
            Phase::HalfOpen(probing) if probing.needs_rates() => {
                out.extend(generation);
                out.extend_from_slice(&probing.deciding.to_le_bytes());
                probing.answers.encode(out);
            }
            Phase::Closed(_) | Phase::Open { .. } | Phase::HalfOpen(_) => {}
        }
    }

    /// Takes over what [`Self::encode_rates`] wrote; `None`, and nothing is taken over, for anything else.
    pub fn decode_rates(&mut self, bytes: &[u8], now: Timestamp) -> Option<()> {
        let mut input = Reader::new(bytes);
        if input.u64()? != self.generation && !active(Bug::StaleRates) {
            return None;
        }
        match &mut self.phase {
            Phase::Closed(closed) => {
                let window = Window::decode(&mut input).filter(|window| window.is_plausible(now))?;
                input.is_empty().then(|| closed.evidence.window = Some(window))
            }
            Phase::Open { .. } => None,
            Phase::HalfOpen(probing) => {
                let deciding = input.u32()?;
                let answers = Tally::decode(&mut input)?;
                // The breaker itself says how many answered: another version of the module may have counted one.
                let sound = input.is_empty() && answers.calls == probing.answers.calls;
                sound.then(|| (probing.deciding, probing.answers) = (deciding, answers))
            }
        }
    }

    /// Appends the bytes of section 3; none where there is nothing to say.
    pub fn encode_recovery(&self, out: &mut Vec<u8>) {
        let (since, held) = match &self.phase {
            Phase::Closed(closed) => (closed.since, closed.held_until),
            Phase::Open { .. } | Phase::HalfOpen(_) => (None, None),
        };
        if self.trips == 0 && since.is_none() && held.is_none() {
            return;
        }
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.trips.to_le_bytes());
        out.push(since.map_or(0, |_| SINCE) | held.map_or(0, |_| HELD));
        for moment in [since, held].into_iter().flatten() {
            out.extend_from_slice(&moment.as_nanos().to_le_bytes());
        }
    }

    /// Takes over what [`Self::encode_recovery`] wrote; `None`, and nothing is taken over, for anything else.
    pub fn decode_recovery(&mut self, bytes: &[u8], now: Timestamp) -> Option<()> {
        let mut input = Reader::new(bytes);
        let generation = input.u64()?;
        let trips = input.u32()?;
        let flags = input.u8()?;
        let mut moment = |flag: u8| {
            if flags & flag == 0 { Some(None) } else { input.timestamp().map(Some) }
        };
        let (since, held_until): (Option<Timestamp>, _) = (moment(SINCE)?, moment(HELD)?);
        // One that closed far ahead would ramp up until then.
        let ahead = since.is_some_and(|since| since.since(now) > AHEAD);
        if !input.is_empty() || flags & !(SINCE | HELD) != 0 || ahead {
            return None;
        }
        self.trips = trips;
        match &mut self.phase {
            Phase::Closed(closed) if generation == self.generation => {
                (closed.since, closed.held_until) = (since, held_until);
            }
            Phase::Closed(_) | Phase::Open { .. } | Phase::HalfOpen(_) => {}
        }
        Some(())
    }
}

impl HalfOpen {
    /// Whether section 1 does not tell all: without rates every permitted probe has to succeed.
    const fn needs_rates(&self) -> bool {
        self.deciding != self.permitted || self.answers.failed > 0 || self.answers.slow > 0
    }
}

fn decode_phase(input: &mut Reader<'_>) -> Option<Phase> {
    const CLOSED: u8 = State::Closed as u8;
    const OPEN: u8 = State::Open as u8;
    const HALF_OPEN: u8 = State::HalfOpen as u8;
    match input.u8()? {
        CLOSED => {
            let evidence = Evidence::decode(input)?;
            Some(Phase::Closed(Closed { evidence, ..Closed::FRESH }))
        }
        OPEN => Some(Phase::Open { until: input.timestamp()? }),
        HALF_OPEN => {
            let (until, permitted, calls) = (input.timestamp()?, input.u32()?, input.u32()?);
            let probes = input.list(|input| Some(Probe { owner: Owner(input.u64()?), id: input.u32()? }))?;
            let answers = Tally { calls, failed: 0, slow: 0 };
            Some(Phase::HalfOpen(HalfOpen { until, permitted, deciding: permitted, answers, probes }))
        }
        _ => None,
    }
}
