//! What a breaker and its callers say to each other.

use std::time::Duration;

/// The identity of a worker's VM in what it holds. Never reused while shared state lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Owner(pub u64);

/// A request that was admitted while the breaker was half-open and has not answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    /// Who sent it.
    pub owner: Owner,
    /// Which of the breaker's probes it is. Unique, so that a late release of a reclaimed probe finds nothing.
    pub id: u32,
}

/// What one request proved about the upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It answered well.
    Success,
    /// It answered well, and slowly.
    SlowSuccess,
    /// It failed.
    Failure,
    /// It failed, and slowly.
    SlowFailure,
    /// Nothing was proved.
    Ignored,
}

impl Outcome {
    /// This outcome of a call that was `slow` or not.
    #[must_use]
    pub const fn timed(self, slow: bool) -> Self {
        match (self, slow) {
            (Self::Success | Self::SlowSuccess, true) => Self::SlowSuccess,
            (Self::Success | Self::SlowSuccess, false) => Self::Success,
            (Self::Failure | Self::SlowFailure, true) => Self::SlowFailure,
            (Self::Failure | Self::SlowFailure, false) => Self::Failure,
            (Self::Ignored, _) => Self::Ignored,
        }
    }

    /// Whether the upstream failed.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Failure | Self::SlowFailure)
    }

    /// Whether it took its time.
    #[must_use]
    pub const fn is_slow(self) -> bool {
        matches!(self, Self::SlowSuccess | Self::SlowFailure)
    }
}

/// What an operator does to a breaker at run time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Refuse everything for this long, then probe.
    Open(Duration),
    /// Let everything through for this long and count nothing, then start with nothing remembered.
    Close(Duration),
    /// Close, with nothing remembered.
    Reset,
}

/// The right to report an outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// The breaker's generation at admission.
    pub generation: u64,
    /// The probe this request is, if the breaker was half-open.
    pub probe: Option<Probe>,
}

impl Ticket {
    /// Whether it is that of a probe.
    #[must_use]
    pub const fn is_probe(&self) -> bool {
        self.probe.is_some()
    }

    /// Whether an outcome is to be told: one that proves nothing only gives a probe's place back.
    #[must_use]
    pub fn tells(&self, outcome: Outcome) -> bool {
        outcome != Outcome::Ignored || self.is_probe()
    }
}

/// The answer to a request that wants in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Call the upstream and report what came of it.
    Admitted(Ticket),
    /// Do not call the upstream.
    Refused {
        /// The rest of the wait; `None` where it depends on probes, not on time.
        wait: Option<Duration>,
    },
}

/// What became of a reported outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recorded {
    /// It was taken into account.
    Counted,
    /// It was dropped: the state it was admitted under is gone.
    Stale,
    /// It was dropped: its probe had been given back, so somebody else may have taken the place.
    Reclaimed,
}
