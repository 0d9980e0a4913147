//! The names of states and of what leads from one to another.

use std::fmt;

/// The name of a phase; the number is the value of the state gauge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Traffic flows.
    Closed = 0,
    /// Probing.
    HalfOpen = 1,
    /// Traffic is refused.
    Open = 2,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        })
    }
}

/// Why a breaker changed state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The trigger of that name.
    ConsecutiveFailures,
    /// The trigger of that name.
    FailuresInWindow,
    /// The open wait is over.
    WaitOver,
    /// The probes' verdict, either way.
    Probes,
    /// The bounded stay in half-open is over.
    HalfOpenTimeout,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::FailuresInWindow => "failures_in_window",
            Self::WaitOver => "wait_over",
            Self::Probes => "probes",
            Self::HalfOpenTimeout => "half_open_timeout",
        })
    }
}

/// A change of state, to be logged and counted once it is committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transition {
    /// The state left.
    pub from: State,
    /// The state entered.
    pub to: State,
    /// Why.
    pub cause: Cause,
    /// The generation that begins.
    pub generation: u64,
    /// The count that decided: failures for a trigger, successes for probes, 0 for time.
    pub count: u32,
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, cause, generation, count } = self;
        write!(f, "{from} -> {to} cause={cause} count={count} generation={generation}")
    }
}
