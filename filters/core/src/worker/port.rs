//! What a worker needs of the world, and what it tells it.

use crate::breaker::{State as BreakerState, Transition};
use crate::store::Store;

/// What the shared state was needed for; the label `operation` of the store's metrics.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Operation {
    /// Deciding over a request.
    Admit,
    /// Counting an outcome.
    Record,
    /// Giving back a probe that proved nothing.
    HandBack,
    /// Showing a sign of life.
    Heartbeat,
    /// A leader's housekeeping.
    Maintain,
    /// An outcome came back after its lease had ended: its place may have been taken twice.
    Lease,
}

impl Operation {
    /// Every operation, in the order of their discriminants.
    pub const ALL: [Self; 6] =
        [Self::Admit, Self::Record, Self::HandBack, Self::Heartbeat, Self::Maintain, Self::Lease];

    /// The label's value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Record => "record",
            Self::HandBack => "hand_back",
            Self::Heartbeat => "heartbeat",
            Self::Maintain => "maintain",
            Self::Lease => "lease",
        }
    }
}

/// Something that happened and is committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A breaker changed state.
    Transition {
        /// The policy's index.
        policy: usize,
        /// What changed.
        transition: Transition,
    },
    /// A leader looked: this is the state to show.
    Observed {
        /// The policy's index.
        policy: usize,
        /// The breaker's state.
        state: BreakerState,
    },
    /// Others' writes got in between this many times.
    Conflicts {
        /// What the write was for.
        operation: Operation,
        /// How often.
        count: u32,
    },
    /// An operation could not be done, or was done too late.
    GaveUp {
        /// Which.
        operation: Operation,
    },
    /// Probes of a VM that shows no sign of life were given back.
    Reclaimed {
        /// The policy's index.
        policy: usize,
        /// How many.
        count: usize,
    },
}

/// Everything a worker needs of the world.
pub trait Port: Store {
    /// A number that has grown since the policy's state was last written by anyone; `None` if it cannot be had.
    fn changes(&mut self, policy: usize) -> Option<u64>;

    /// Makes [`Self::changes`] grow.
    fn changed(&mut self, policy: usize);

    /// Takes note of what happened.
    fn report(&mut self, event: Event);
}
