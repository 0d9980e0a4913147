//! What a VM and the world say to each other.

use resilience_core::breaker::{Command, Outcome, Ticket};
use resilience_core::budget::Grant;
use resilience_core::bulkhead::{Permit, Wake};
use resilience_core::store::{Expected, PutError, Unavailable, Versioned};
use resilience_core::time::Timestamp;
use resilience_core::worker::{Arrival, Event, Resumed, Returned, Verdict};

/// What a VM is told to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Task {
    /// Decide over a request.
    Admit {
        /// For which policy.
        policy: usize,
        /// To which upstream cluster, where it is known.
        cluster: Option<usize>,
        /// What it brings along.
        arrival: Arrival,
    },
    /// Do what an operator says.
    Force {
        /// To which policy.
        policy: usize,
        /// To which of its clusters.
        cluster: Option<usize>,
        /// What.
        command: Command,
    },
    /// See to a request that the upstream has answered, or that ends: what that takes is found out when it begins.
    Answered {
        /// Which.
        call: u32,
        /// What it proved.
        outcome: Outcome,
    },
    /// See to a request whose client has left, or whose stream is over.
    Over {
        /// Which.
        call: u32,
    },
    /// Report what a request proved, and give back its permit.
    Complete {
        /// For which breaker.
        breaker: usize,
        /// Which request.
        call: u32,
        /// What it was admitted with, if it has not been told yet.
        ticket: Option<Ticket>,
        /// What it proved.
        outcome: Outcome,
        /// What it gives back, if it ends with this.
        returned: Returned,
        /// Whether it still waits in name.
        waits: bool,
    },
    /// See to a request that was let in after a wait, and was gone by then.
    Abandon {
        /// For which breaker.
        breaker: usize,
        /// Which request.
        call: u32,
        /// What it was admitted with.
        ticket: Option<Ticket>,
        /// Its permit.
        permit: Option<Permit>,
        /// Its retries.
        grant: Option<Grant>,
    },
    /// Give back a permit, and what is left of what was kept of a budget.
    Release {
        /// For which breaker.
        breaker: usize,
        /// Which request.
        call: u32,
        /// What.
        returned: Returned,
    },
    /// Forget a request that waits.
    Withdraw {
        /// Which.
        call: u32,
    },
    /// Look after a waiter that a message names.
    Woken {
        /// Which.
        call: u32,
    },
    /// Look after those whose wait is over.
    Timer,
    /// Tick.
    Tick,
    /// End in order.
    Leave,
}

/// What a VM waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    /// A value.
    Get(Vec<u8>),
    /// A write.
    Put(Vec<u8>, Vec<u8>, Expected),
    /// The number of a breaker's changes.
    Changes(usize),
    /// One change more of a breaker.
    Changed(usize),
    /// A shared queue.
    Listen(String),
    /// A message.
    Wake(Wake),
    /// An event to be noted, and the breaker it is of.
    Report(Event, usize),
    /// Something to do; the last task ended like this.
    Idle(Finished),
}

/// How a task ended, and what else came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finished {
    /// The answer.
    pub done: Done,
    /// Requests whose wait is over, and the breakers they are of.
    pub resumed: Vec<(usize, Resumed)>,
    /// When the VM wants to be called again.
    pub due: Option<Timestamp>,
}

impl Finished {
    pub(super) const fn quietly() -> Self {
        Self { done: Done::Quietly, resumed: Vec::new(), due: None }
    }
}

/// How a task ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Done {
    /// The decision over a request, and the breaker it is of.
    Decided(usize, Verdict),
    /// The breaker that an operator meant.
    Forced(usize),
    /// Nothing to tell.
    Quietly,
}

/// What the world answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// To [`Call::Get`].
    Value(Result<Option<Versioned>, Unavailable>),
    /// To [`Call::Put`].
    Written(Result<(), PutError>),
    /// To [`Call::Changes`].
    Changes(Option<u64>),
    /// To [`Call::Listen`].
    Queue(Option<u32>),
    /// To [`Call::Changed`], [`Call::Wake`] and [`Call::Report`].
    Noted,
    /// To [`Call::Idle`].
    Task(Task, Timestamp),
    /// To [`Call::Idle`]: there will be no more.
    End,
}
