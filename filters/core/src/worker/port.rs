//! What a worker needs of the world, and what it tells it.

use crate::breaker::{Lasted, State as BreakerState, Transition};
use crate::bulkhead::Wake;
use crate::store::Store;

/// One breaker: a policy's, or that of a key within it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Target {
    /// The policy's index.
    pub policy: usize,
    /// 0 for the policy itself, and for what all share for whom there is no key left; else the key's number, which only
    /// this worker knows.
    pub key: usize,
}

impl Target {
    /// The policy's own breaker.
    #[must_use]
    pub const fn whole(policy: usize) -> Self {
        Self { policy, key: 0 }
    }
}

/// What the shared state was needed for; the label `operation` of the store's metrics.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Operation {
    /// Deciding over a request.
    Admit,
    /// Counting an outcome.
    Record,
    /// Giving back a probe that proved nothing.
    HandBack,
    /// Giving back a permit, a place in a queue, or what was kept of a retry budget.
    Release,
    /// Showing a sign of life.
    Heartbeat,
    /// A leader's housekeeping.
    Maintain,
    /// What an operator says at run time.
    Force,
    /// Finding out which keys a policy has.
    Keys,
    /// A probe, a permit or a reservation came back after its lease had ended: its place may have been taken twice.
    Lease,
    /// Agreeing on what the log is to say.
    Log,
}

impl Operation {
    /// Every operation, in the order of their discriminants.
    pub const ALL: [Self; 10] = [
        Self::Admit,
        Self::Record,
        Self::HandBack,
        Self::Release,
        Self::Heartbeat,
        Self::Maintain,
        Self::Force,
        Self::Keys,
        Self::Lease,
        Self::Log,
    ];

    /// The label's value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Record => "record",
            Self::HandBack => "hand_back",
            Self::Release => "release",
            Self::Heartbeat => "heartbeat",
            Self::Maintain => "maintain",
            Self::Force => "force",
            Self::Keys => "keys",
            Self::Lease => "lease",
            Self::Log => "log",
        }
    }
}

/// Something that happened and is committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A breaker changed state.
    Transition {
        /// Whose.
        target: Target,
        /// What changed.
        transition: Transition,
        /// How long what it has ended had lasted.
        lasted: Lasted,
    },
    /// A leader looked: this is the state to show.
    Observed {
        /// Whose.
        target: Target,
        /// The breaker's state.
        state: BreakerState,
    },
    /// A leader looked: so much is in flight through a policy's bulkhead, over all its keys.
    Crowd {
        /// The policy's index.
        policy: usize,
        /// How many calls are in flight.
        in_flight: u32,
        /// How many requests wait.
        waiting: u32,
        /// The limit of each key, by the newest configuration; `None` where another is newer.
        limit: Option<u32>,
    },
    /// A leader looked: so many retries are there that are kept for nobody, over all keys of a policy. Only the newest
    /// configuration says so.
    Balance {
        /// The policy's index.
        policy: usize,
        /// How many; never below zero.
        retries: u64,
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
    /// A request had to share the breaker of those for whom there is no key left.
    KeysExhausted {
        /// The policy's index.
        policy: usize,
    },
    /// A leader looked: its configuration is the newest.
    Reigns {
        /// The how manieth that took over, from 1.
        generation: u64,
    },
    /// VMs were found to have died: they fell silent long ago, and never said that they go. Told once of each.
    Lost {
        /// How many.
        vms: usize,
    },
    /// What a VM held that shows no sign of life was given back.
    Reclaimed {
        /// Whose.
        target: Target,
        /// How many probes.
        probes: usize,
        /// How many permits.
        permits: u32,
        /// How many retries that were kept for its requests. They count as made.
        retries: u32,
    },
}

/// Everything a worker needs of the world.
pub trait Port: Store {
    /// A number that has grown since the target's state was last changed in a way that matters to those who believe what
    /// they read; `None` if it cannot be had.
    fn changes(&mut self, target: Target) -> Option<u64>;

    /// Makes [`Self::changes`] grow.
    fn changed(&mut self, target: Target);

    /// Says what a target's key is, before anything else is said of it. A policy's own breaker is not introduced.
    fn introduce(&mut self, target: Target, key: &[u8]);

    /// Opens a shared queue under a name; [`Self::wake`] on it is heard by this VM from then on. `None` if it cannot be had.
    fn listen(&mut self, name: &str) -> Option<u32>;

    /// Tells the VM that listens on a queue to look after a waiter of its own. A message that is lost is no more than a
    /// delay: a VM also looks by itself.
    fn wake(&mut self, wake: Wake);

    /// Takes note of what happened.
    fn report(&mut self, event: Event);

    /// Whether there is room to show what nobody has used yet: it must not take the place of what is used later.
    fn shows_unused(&self) -> bool {
        true
    }
}
