//! Making host calls fail on purpose.

use crate::random::Random;

/// The statuses of the ABI that a host call may answer with.
pub mod status {
    /// It worked.
    pub const OK: u32 = 0;
    /// What was asked for does not exist.
    pub const NOT_FOUND: u32 = 1;
    /// An argument was wrong, or the thing cannot be had in this phase.
    pub const BAD_ARGUMENT: u32 = 2;
    /// A pointer of the module led out of its memory, or it could not allocate.
    pub const INVALID_MEMORY_ACCESS: u32 = 6;
    /// Nothing to take.
    pub const EMPTY: u32 = 7;
    /// Somebody else wrote first.
    pub const CAS_MISMATCH: u32 = 8;
    /// The host could not.
    pub const INTERNAL_FAILURE: u32 = 10;
    /// The host never can.
    pub const UNIMPLEMENTED: u32 = 12;
    /// The ones that fault tests go through.
    pub const FAULTS: [u32; 6] =
        [NOT_FOUND, BAD_ARGUMENT, EMPTY, CAS_MISMATCH, INTERNAL_FAILURE, UNIMPLEMENTED];
}

/// What goes wrong, and when. Nothing by default.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    nth: Option<(usize, u32)>,
    kinds: Vec<(String, u32)>,
    random: Option<(Random, f64)>,
    scramble: Option<(Random, f64)>,
    cas_conflicts: usize,
    /// How many calls that can fail were made since the module was loaded.
    pub(crate) seen: usize,
}

impl Faults {
    pub(crate) fn fail_nth(&mut self, n: usize, status: u32) {
        self.nth = Some((self.seen + n, status));
    }

    pub(crate) fn fail_kind(&mut self, function: &str, status: u32) {
        self.kinds.push((function.to_owned(), status));
    }

    pub(crate) fn fail_random(&mut self, seed: u64, probability: f64) {
        self.random = Some((Random::new(seed), probability));
    }

    pub(crate) fn scramble_random(&mut self, seed: u64, probability: f64) {
        self.scramble = Some((Random::new(seed), probability));
    }

    pub(crate) fn cas_conflicts(&mut self, times: usize) {
        self.cas_conflicts = times;
    }

    pub(crate) fn clear(&mut self) {
        *self = Self { seen: self.seen, ..Self::default() };
    }

    /// Whether a call of this name can fail in Envoy at all. What std asks of WASI while it starts, and the lines of a
    /// dying process, are left alone: Envoy never refuses those, and std answers a refusal with a panic of its own.
    pub(crate) fn can_fail(function: &str) -> bool {
        function.starts_with("proxy_") || function == "clock_time_get"
    }

    /// The status that this call is to answer instead of doing its work.
    pub(crate) fn strike(&mut self, function: &str) -> Option<u32> {
        if !Self::can_fail(function) {
            return None;
        }
        let now = self.seen;
        self.seen += 1;
        if let Some((_, status)) = self.nth.filter(|(n, _)| *n == now) {
            return Some(status);
        }
        if let Some((_, status)) = self.kinds.iter().find(|(name, _)| name == function) {
            return Some(*status);
        }
        if function == "proxy_set_shared_data" && self.cas_conflicts > 0 {
            self.cas_conflicts -= 1;
            return Some(status::CAS_MISMATCH);
        }
        let (random, probability) = self.random.as_mut()?;
        let status = random.chance(*probability).then(|| *random.pick(&status::FAULTS))?;
        // No host forgets a value: what is not found was never written, and that is no failure.
        let forgets = function == "proxy_get_shared_data" && status == status::NOT_FOUND;
        Some(if forgets { status::INTERNAL_FAILURE } else { status })
    }

    /// What the module gets instead of these bytes.
    pub(crate) fn scramble(&mut self, value: &[u8]) -> Option<Vec<u8>> {
        let (random, probability) = self.scramble.as_mut()?;
        if !random.chance(*probability) {
            return None;
        }
        Some(match random.below(6) {
            0 => Vec::new(),
            1 => random.bytes(value.len()),
            2 => {
                let len = random.below(64);
                random.bytes(len)
            }
            3 => value[..random.below(value.len())].to_vec(),
            4 => {
                // One bit off: the length and most of the meaning still hold.
                let mut changed = value.to_vec();
                if let Some(byte) = {
                    let at = random.below(changed.len());
                    changed.get_mut(at)
                } {
                    *byte ^= 1 << random.below(8);
                }
                changed
            }
            _ => {
                let len = 4096 + random.below(60_000);
                random.bytes(len)
            }
        })
    }
}
