//! Moments as operators read them.

use crate::time::Timestamp;
use std::fmt::Write;
use std::time::{Duration, SystemTime};

/// The present moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clock {
    /// By the clock that all VMs share.
    pub now: Timestamp,
    /// By the wall clock, in nanoseconds since 1970 (UTC); `None` where the host does not tell.
    pub wall: Option<u64>,
}

impl Clock {
    /// A moment in UTC as RFC 3339 writes it, to the millisecond. Where the wall clock was set since, it is the one that the
    /// wall clock shows now for it.
    pub(super) fn utc(self, at: Timestamp) -> Option<String> {
        let ago = Duration::from_nanos(self.wall?).checked_sub(self.now.since(at));
        let since_1970 = ago?.checked_add(at.since(self.now))?;
        let mut text = String::new();
        // It writes no year beyond 9999, and says so.
        write!(text, "{}", humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH.checked_add(since_1970)?))
            .ok()?;
        Some(text)
    }

    /// How long ago a moment was, in milliseconds.
    pub(super) fn age(self, at: Timestamp) -> u64 {
        millis(self.now.since(at))
    }

    /// How long it is to a moment, in milliseconds.
    pub(super) fn until(self, at: Timestamp) -> u64 {
        millis(at.since(self.now))
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
