//! What an operator says of retries, and which requests may have any.

#[cfg(test)]
mod tests;

use crate::planted::{Bug, active};
use crate::time::Timestamp;
use crate::timeout::Allowance;
use std::borrow::Cow;
use std::fmt;

/// Retries that the filter has Envoy's router make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// How many a request may have at most.
    pub max_retries: u8,
    /// What is retried, in the words of Envoy's `x-envoy-retry-on`, with commas between them.
    pub retry_on: String,
    /// The same for `x-envoy-retry-grpc-on`.
    pub retry_grpc_on: String,
}

/// Which requests can be repeated without harm.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Safety {
    /// The header, in lower case, by whose presence the upstream knows a repetition.
    pub idempotency_key: Cow<'static, str>,
    /// What holds for methods that are not idempotent.
    pub non_idempotent: NonIdempotent,
}

/// Whether a request is retried whose method is not idempotent (RFC 9110, section 9.2.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NonIdempotent {
    /// If it has an idempotency key.
    WithKey,
    /// Never.
    Never,
    /// As any other.
    Always,
}

impl Safety {
    /// What holds where nobody says otherwise.
    pub const DEFAULT: Self =
        Self { idempotency_key: Cow::Borrowed("idempotency-key"), non_idempotent: NonIdempotent::WithKey };

    /// Whether a request may be repeated.
    #[must_use]
    pub const fn allows(&self, is_idempotent: bool, has_key: bool) -> bool {
        match self.non_idempotent {
            _ if is_idempotent => true,
            NonIdempotent::WithKey => has_key,
            NonIdempotent::Never => false,
            NonIdempotent::Always => true,
        }
    }
}

/// Whether a method has the same effect however often it is called (RFC 9110, section 9.2.2). Methods are case-sensitive.
#[must_use]
pub fn is_idempotent(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"PUT" | b"DELETE" | b"OPTIONS" | b"TRACE")
}

/// Why a request is retried less often than it might be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Denied {
    /// The budget has no more, or others need it.
    Budget,
    /// To repeat it might do harm.
    NotIdempotent,
    /// It is a caller's retry itself.
    CallersRetry,
    /// It is a probe.
    Breaker,
    /// There is no time.
    Deadline,
}

impl Denied {
    /// Every reason.
    pub const ALL: [Self; 5] =
        [Self::Budget, Self::NotIdempotent, Self::CallersRetry, Self::Breaker, Self::Deadline];

    /// The label's value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::NotIdempotent => "not_idempotent",
            Self::CallersRetry => "caller_retry",
            Self::Breaker => "breaker",
            Self::Deadline => "deadline",
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A route whose own policy is in charge is taken to retry this often, until it is seen to do so more often.
pub(crate) const USUAL: u8 = 3;

/// What a request would have of the budget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// So many retries at most.
    Retries(u8),
    /// As many as its route's own retry policy makes of it, which nobody tells us.
    Route,
    /// It is somebody's retry itself: it pays nothing, and costs one.
    Spent,
}

/// How often a request would be retried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// What it would have of a budget.
    pub wish: Wish,
    /// Why that is less than its policy grants others.
    pub denied: Option<Denied>,
}

impl Wanted {
    /// What is left of it for a request that goes to the upstream at `now`: a probe is not retried, because what it proves
    /// is awaited, and what does not fit is not begun.
    #[must_use]
    pub fn at(self, is_probe: bool, time: &Allowance, now: Timestamp) -> Self {
        let most = match self.wish {
            Wish::Spent | Wish::Retries(0) => return self,
            Wish::Route if self.denied.is_some() => return self,
            Wish::Route => USUAL,
            Wish::Retries(most) => most,
        };
        if is_probe && !active(Bug::ProbeRetried) {
            return Self { wish: Wish::Retries(0), denied: Some(Denied::Breaker) };
        }
        let fitting = time.fitting(most, now);
        if fitting >= most || active(Bug::UnfitRetries) {
            return self;
        }
        // What is said to the router must not be more than the route makes of itself: one is safe to say.
        let fitting = if self.wish == Wish::Route { fitting.min(1) } else { fitting };
        Self { wish: Wish::Retries(fitting), denied: Some(Denied::Deadline) }
    }
}
