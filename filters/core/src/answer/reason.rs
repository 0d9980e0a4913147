//! Why a request is answered otherwise than by its upstream.

use std::fmt;

/// Why a request is refused, or its answer is a failure.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// The breaker is open, or half-open with no probe left.
    CircuitOpen,
    /// No permit: the bulkhead is full, the queue is full, or the wait was over.
    BulkheadFull,
    /// The breaker of a policy that this one needs is open.
    DependencyOpen,
    /// The deadline cannot be met.
    DeadlineExceeded,
    /// The upstream answered with what its policy calls a failure.
    UpstreamFailure,
    /// No connection, no healthy upstream, or Envoy's own limits for its cluster.
    ConnectFailure,
    /// The upstream, or the connection to it, broke off before its answer began.
    Reset,
    /// No answer in the route's time, or in the policy's.
    Timeout,
}

impl Reason {
    /// Every reason, refusals first.
    pub const ALL: [Self; 8] = [
        Self::CircuitOpen,
        Self::BulkheadFull,
        Self::DependencyOpen,
        Self::DeadlineExceeded,
        Self::UpstreamFailure,
        Self::ConnectFailure,
        Self::Reset,
        Self::Timeout,
    ];

    /// The reason's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CircuitOpen => "circuit_open",
            Self::BulkheadFull => "bulkhead_full",
            Self::DependencyOpen => "dependency_open",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::UpstreamFailure => "upstream_failure",
            Self::ConnectFailure => "connect_failure",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
        }
    }

    /// Whether the upstream was not asked.
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        Reasons::REFUSALS.contains(self)
    }

    /// The status of an answer of ours that nothing else replaces.
    pub(crate) const fn status(self) -> u16 {
        match self {
            Self::DeadlineExceeded | Self::Timeout => 504,
            _ => 503,
        }
    }

    /// The status a gRPC caller gets (`google.rpc.Code`): `RESOURCE_EXHAUSTED`, `DEADLINE_EXCEEDED` or UNAVAILABLE.
    pub(crate) const fn grpc_status(self) -> u8 {
        match self {
            Self::BulkheadFull => 8,
            Self::DeadlineExceeded | Self::Timeout => 4,
            _ => 14,
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::CircuitOpen => 1,
            Self::BulkheadFull => 1 << 1,
            Self::DependencyOpen => 1 << 2,
            Self::DeadlineExceeded => 1 << 3,
            Self::UpstreamFailure => 1 << 4,
            Self::ConnectFailure => 1 << 5,
            Self::Reset => 1 << 6,
            Self::Timeout => 1 << 7,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of reasons.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reasons(u8);

impl Reasons {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// Those for which the upstream is not asked: the group `refusal`.
    pub const REFUSALS: Self = Self(0x0f);
    /// Those that exist only after the request was sent: the group `failure`.
    pub const FAILURES: Self = Self(0xf0);
    /// All of them.
    pub const ALL: Self = Self(0xff);

    /// Whether a reason is one of these.
    #[must_use]
    pub const fn contains(self, reason: Reason) -> bool {
        self.0 & reason.bit() != 0
    }

    /// These and those.
    #[must_use]
    pub const fn with(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Those of them that are among others.
    #[must_use]
    pub const fn among(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl From<Reason> for Reasons {
    fn from(reason: Reason) -> Self {
        Self(reason.bit())
    }
}
