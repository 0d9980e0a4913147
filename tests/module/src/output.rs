//! What comes out of the module: its decisions, its replies, its log, and its failures.

use crate::headers::{Headers, find};
use std::fmt;

/// What the module wants with the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Go on to the next filter.
    Continue,
    /// Wait: for a reply of ours, or to be continued.
    Pause,
    /// Throw this piece of a body away and go on with the next.
    Drop,
    /// A number that this host does not know.
    Other(u32),
}

/// A reply that the module made instead of the upstream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalResponse {
    /// HTTP status.
    pub status: u32,
    /// The response code details.
    pub details: Vec<u8>,
    /// The additional headers, in order.
    pub headers: Headers,
    /// The body.
    pub body: Vec<u8>,
    /// `grpc-status`; -1 leaves it to Envoy.
    pub grpc_status: i32,
    /// The export that sent it.
    pub callback: String,
}

impl LocalResponse {
    /// The value of the first additional header of this name, as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        find(&self.headers, name)
    }
}

/// A line of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogLine {
    /// 0 trace, 1 debug, 2 info, 3 warn, 4 error, 5 critical; what a dying process writes to stderr is an error.
    pub level: u32,
    /// What it says.
    pub message: String,
}

impl fmt::Display for LogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level =
            ["trace", "debug", "info", "warn", "error"].get(self.level as usize).unwrap_or(&"critical");
        write!(f, "{level}: {}", self.message)
    }
}

/// The module trapped, or did what no host accepts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The export that ran.
    pub callback: String,
    /// For which context.
    pub context: u32,
    /// The trap's message, or what the module did.
    pub message: String,
    /// The last lines it logged: a Rust panic says there where it was.
    pub last_words: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for context {}: {}", self.callback, self.context, self.message)?;
        for line in &self.last_words {
            write!(f, "\n    {line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

pub(crate) type Result<T> = std::result::Result<T, Failure>;
