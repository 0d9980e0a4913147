//! What a worker says of a request.

use crate::answer::Reason;
use crate::breaker::{self, Outcome, Ticket};
use crate::budget::{self, Grant, Spent};
use crate::bulkhead::{self, Permit};
use crate::retry::Wanted;
use crate::timeout::Allowance;
use crate::worker::Target;
use std::time::Duration;

/// What a policy keeps in shared state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shared {
    /// Its patterns.
    pub patterns: Patterns,
    /// How many upstream clusters have a state of their own; `None` where all requests share one.
    pub max_keys: Option<u16>,
}

/// The patterns of a policy that keep shared state, at least one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Patterns {
    /// Its breaker.
    pub breaker: Option<Pattern<breaker::Settings>>,
    /// Its bulkhead.
    pub bulkhead: Option<Pattern<bulkhead::Settings>>,
    /// Its retry budget.
    pub budget: Option<Pattern<budget::Settings>>,
}

/// One pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pattern<S> {
    /// What it goes by.
    pub settings: S,
    /// Whether it decides and refuses nothing.
    pub shadow: bool,
}

/// A request that wants in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Arrival {
    /// The caller's own number for it, no two at a time the same.
    pub call: u32,
    /// Its class, by its index in the bulkhead's priority.
    pub class: Option<usize>,
    /// What time it has.
    pub time: Allowance,
    /// How often it would be retried; `None` where that is not ours to say.
    pub wanted: Option<Wanted>,
}

/// The answer to a request that wants in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Call the upstream, and report what came of it.
    Admitted(Pass),
    /// Hold it until a [`Resumed`] names it, or withdraw it.
    Waits,
    /// Do not call the upstream.
    Refused(Refused),
}

/// What an admitted request carries until its end.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pass {
    /// The breaker's ticket, if one admitted it.
    pub ticket: Option<Ticket>,
    /// The bulkhead's permit, if it gave one.
    pub permit: Option<Permit>,
    /// How often it may be retried; `None` where that is not ours to say.
    pub grant: Option<Grant>,
    /// Why patterns in shadow mode would have refused it.
    pub shadowed: Vec<Reason>,
}

/// A request that is not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// The rest of the wait, where time alone ends it.
    pub wait: Option<Duration>,
}

/// A request whose wait is over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resumed {
    /// The number of its [`Arrival`].
    pub call: u32,
    /// Whose it is.
    pub target: Target,
    /// What becomes of it; it waits no more. One that was let in meanwhile, by a bulkhead in shadow mode, is told only which
    /// permit it has, or that there was none.
    pub verdict: Verdict,
    /// How long it waited.
    pub waited: Duration,
}

/// What became of a request that was let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// Whose it is.
    pub target: Target,
    /// The breaker's ticket, if one admitted it and has not been told yet.
    pub ticket: Option<Ticket>,
    /// What it proved.
    pub outcome: Outcome,
    /// What it gives back with that.
    pub returned: Returned,
}

/// What a request gives back: its permit at its end, its retries there or before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Returned {
    /// Its permit, if it has one.
    pub permit: Option<Permit>,
    /// What was kept for it of a retry budget.
    pub spent: Option<Spent>,
}

impl Returned {
    /// Whether there is nothing to give back.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.permit.is_none() && self.spent.is_none()
    }
}
