//! Timeouts, and the deadline that a caller may bring along.

use std::time::Duration;

/// How long a request may take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// From its headers to the end of its answer, all attempts and waits included.
    pub total: Option<Duration>,
    /// Each attempt.
    pub per_try: Option<Duration>,
    /// A header, in lower case, in which a caller says how many milliseconds it will wait.
    pub deadline_header: Option<String>,
    /// How much earlier than a caller's deadline the answer must be there: the way back takes its time.
    pub margin: Duration,
}
