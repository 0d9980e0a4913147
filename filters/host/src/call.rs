//! One call to the upstream: what is known of it, and what it holds.

use crate::facts::{cluster, property};
use crate::metrics::PolicyMetrics;
use crate::root::{Root, clock};
use resilience_core::answer::Reason;
use resilience_core::breaker::{Outcome, Ticket};
use resilience_core::budget::{Ended, Grant, Spent};
use resilience_core::bulkhead::Permit;
use resilience_core::fallback::Caller;
use resilience_core::matcher::Seen;
use resilience_core::outcome::{Answer, StreamInfo, is_via_upstream};
use resilience_core::retry::Denied;
use resilience_core::time::Timestamp;
use resilience_core::worker::{Returned, Target};
use std::time::Duration;

/// A request that was let through, or is going to be.
#[derive(Debug)]
pub(crate) struct Call {
    /// Whose it is.
    pub(crate) target: Target,
    /// The breaker's, if one admitted it.
    pub(crate) ticket: Option<Ticket>,
    /// Its class, where its policy tells classes apart.
    pub(crate) class: Option<usize>,
    /// When it came, or its wait was over: waiting is no slowness of the upstream.
    pub(crate) began: Timestamp,
    /// How long it waited before.
    pub(crate) waited: Duration,
    /// Whether it must be answered by a certain time.
    pub(crate) has_deadline: bool,
    /// What its policy was found by.
    pub(crate) seen: Seen,
    /// The upstream cluster that it was to go to, where each has a state of its own.
    pub(crate) cluster: Option<Vec<u8>>,
    /// Whether its answer was slow to begin, once it has and where anybody asks.
    pub(crate) slow: Option<bool>,
    /// What has been seen of the answer.
    pub(crate) answer: Answer,
    /// Who asks.
    pub(crate) caller: Caller,
    /// Its identity, where it may well decide over its breaker: it cannot be read any more when its answer comes.
    pub(crate) request_id: Option<String>,
    /// From where it was sent here, if its own policy refused it.
    pub(crate) rerouted: Option<Rerouted>,
}

/// The way of a request that its own policy has refused, and that goes elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Rerouted {
    /// Its own policy, and its key there.
    pub(crate) from: Target,
    /// Why it was refused there.
    pub(crate) reason: Reason,
    /// Where it goes.
    pub(crate) cluster: String,
}

impl Rerouted {
    /// Whether its route leads there, as far as Envoy has looked: it has once the answer's headers come.
    pub(crate) fn has_arrived(&self) -> bool {
        cluster().is_some_and(|cluster| cluster == self.cluster.as_bytes())
    }
}

impl Call {
    /// Whose request it is, wherever it was sent.
    pub(crate) fn own(&self) -> Target {
        self.rerouted.as_ref().map_or(self.target, |rerouted| rerouted.from)
    }

    pub(crate) fn is_probe(&self) -> bool {
        self.ticket.is_some_and(|ticket| ticket.is_probe())
    }

    /// Why the stream is where it is. The flags are read only where the answer is not simply the upstream's.
    pub(crate) fn stream_info(&self) -> StreamInfo {
        let details = property(b"response\0code_details").unwrap_or_default();
        if is_via_upstream(&details) {
            return StreamInfo { details, ..StreamInfo::default() };
        }
        let flags = property(b"response\0flags").and_then(|bytes| bytes.try_into().ok());
        let now = if self.waited.is_zero() { None } else { clock() };
        StreamInfo {
            details,
            flags: flags.map_or(0, u64::from_le_bytes),
            waited: self.waited,
            hurried: self.has_deadline,
            called: now.map_or(Duration::ZERO, |now| now.since(self.began)),
        }
    }

    /// Counts what the call proved, and gives back what is `returned` with it.
    pub(crate) fn settle(self, root: &mut Root, outcome: Outcome, returned: Returned) {
        let policy = self.target.policy;
        let slow = self.slow.or_else(|| root.is_slow(policy, self.began)).unwrap_or(false);
        root.complete(&self, outcome.timed(slow), returned);
    }
}

/// What a request holds that goes to the upstream: its retries until its answer has begun, its permit until its end.
#[derive(Debug)]
pub(crate) struct Holds {
    pub(crate) target: Target,
    pub(crate) permit: Option<Permit>,
    /// Its retries, as long as there may be more of them.
    pub(crate) grant: Option<Grant>,
    /// Whether it failed before its answer had begun: then one more retry would have been made.
    pub(crate) failed: bool,
    /// Whether its answer had begun at the last sign of life.
    pub(crate) lingers: bool,
}

/// Retries that are over.
#[derive(Clone, Copy)]
pub(crate) struct Retries {
    ended: Ended,
    denied: Option<Denied>,
}

impl Holds {
    /// Whether anything is kept of a budget for it.
    pub(crate) fn keeps_retries(&self) -> bool {
        self.grant.is_some_and(|grant| grant.reserve.is_some())
    }

    /// There are no more retries.
    pub(crate) fn take_retries(&mut self) -> Option<Retries> {
        let grant = self.grant.take()?;
        let ended = grant.end(if grant.may_retry() { retries_made() } else { Some(0) });
        Some(Retries { ended, denied: ended.missed(&grant, self.failed) })
    }
}

impl Retries {
    /// What there is to settle with the budget.
    pub(crate) const fn spent(&self) -> Option<Spent> {
        self.ended.spent
    }

    pub(crate) fn count(self, metrics: &mut PolicyMetrics) {
        if self.ended.made > 0 {
            metrics.retries_granted(self.ended.made);
        }
        if let Some(reason) = self.denied {
            metrics.retry_denied(reason);
        }
        if self.ended.beyond {
            metrics.shadow_denial();
        }
    }
}

/// How often the router has retried the request; `None` where the host does not tell.
fn retries_made() -> Option<u32> {
    let attempts = property(b"upstream\0request_attempt_count")?.try_into().map(u64::from_le_bytes).ok()?;
    Some(u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX))
}
