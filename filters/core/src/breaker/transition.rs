//! The names of states and of what leads from one to another.

use super::settings::Exceeded;
use super::window::Tally;
use crate::time::Timestamp;
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

impl State {
    /// Every state, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Closed, Self::HalfOpen, Self::Open];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a breaker changed state. The numbers stand in shared data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The trigger `consecutive_failures`.
    ConsecutiveFailures,
    /// The trigger `failures_in_window`.
    FailuresInWindow,
    /// The trigger `failure_rate_threshold`.
    FailureRate,
    /// The trigger `slow_call_rate_threshold`.
    SlowCallRate,
    /// The open wait is over.
    WaitOver,
    /// The probes' verdict, either way.
    Probes,
    /// The bounded stay in half-open is over.
    HalfOpenTimeout,
    /// An operator said so.
    Forced,
}

impl Cause {
    /// Every cause, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::ConsecutiveFailures,
        Self::FailuresInWindow,
        Self::FailureRate,
        Self::SlowCallRate,
        Self::WaitOver,
        Self::Probes,
        Self::HalfOpenTimeout,
        Self::Forced,
    ];
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::FailuresInWindow => "failures_in_window",
            Self::FailureRate => "failure_rate_threshold",
            Self::SlowCallRate => "slow_call_rate_threshold",
            Self::WaitOver => "wait_over",
            Self::Probes => "probes",
            Self::HalfOpenTimeout => "half_open_timeout",
            Self::Forced => "forced",
        })
    }
}

/// What decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Numbers {
    /// Time, or an operator.
    None,
    /// A count that reached its limit.
    Count {
        /// What was counted.
        count: u32,
        /// What it may not reach.
        limit: u32,
    },
    /// The probes' answers.
    Probes(Tally),
    /// A rate that reached its threshold.
    Rate {
        /// Which, and the threshold.
        exceeded: Exceeded,
        /// The calls it is of.
        tally: Tally,
    },
}

impl fmt::Display for Numbers {
    /// Each number behind a space.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (exceeded, tally) = match self {
            Self::None => return Ok(()),
            Self::Count { count, limit } => return write!(f, " count={count} limit={limit}"),
            Self::Probes(tally) => (None, tally),
            Self::Rate { exceeded, tally } => (Some(*exceeded), tally),
        };
        match exceeded {
            Some(Exceeded::Failures(threshold)) => {
                let rate = tally.failure_rate(0).unwrap_or_default();
                write!(f, " failure_rate={rate} threshold={}", threshold.get())?;
            }
            Some(Exceeded::SlowCalls(threshold)) => {
                let rate = tally.slow_rate(0).unwrap_or_default();
                write!(f, " slow_call_rate={rate} threshold={}", threshold.get())?;
            }
            None => {}
        }
        write!(f, " calls={} failed={} slow={}", tally.calls, tally.failed, tally.slow)
    }
}

/// A change of state, to be logged and counted once it is committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transition {
    /// When. A half-open stay that was too long ended when it was over, however late anybody looked.
    pub at: Timestamp,
    /// The state left.
    pub from: State,
    /// The state entered.
    pub to: State,
    /// Why.
    pub cause: Cause,
    /// The generation that begins.
    pub generation: u64,
    /// What decided.
    pub numbers: Numbers,
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, cause, generation, numbers, at: _ } = self;
        write!(f, "{from} -> {to} cause={cause}{numbers} generation={generation}")
    }
}
