//! What a request's headers say of its time and its retries, and what the filter says of them to Envoy's router in turn.

mod edits;
#[cfg(test)]
mod edits_tests;
#[cfg(test)]
mod tests;

pub use edits::{Edit, edits};

use crate::bulkhead::ClassSource;
use crate::config::Policy;
use crate::outcome::is_grpc_type;
use crate::retry::is_idempotent;
use crate::timeout::{parse_grpc_timeout, parse_millis};
use std::time::Duration;

pub(crate) const MAX_RETRIES: &str = "x-envoy-max-retries";
pub(crate) const RETRY_ON: &str = "x-envoy-retry-on";
pub(crate) const RETRY_GRPC_ON: &str = "x-envoy-retry-grpc-on";
pub(crate) const TIMEOUT: &str = "x-envoy-upstream-rq-timeout-ms";
pub(crate) const PER_TRY_TIMEOUT: &str = "x-envoy-upstream-rq-per-try-timeout-ms";
pub(crate) const EXPECTED_TIMEOUT: &str = "x-envoy-expected-rq-timeout-ms";
pub(crate) const GRPC_TIMEOUT: &str = "grpc-timeout";
const ATTEMPT_COUNT: &str = "x-envoy-attempt-count";
const GRPC_ATTEMPTS: &str = "grpc-previous-rpc-attempts";

/// What steers Envoy's router, or tells it and us of a caller: not for strangers to say.
const STEERING: [&str; 14] = [
    MAX_RETRIES,
    RETRY_ON,
    RETRY_GRPC_ON,
    TIMEOUT,
    PER_TRY_TIMEOUT,
    EXPECTED_TIMEOUT,
    ATTEMPT_COUNT,
    GRPC_ATTEMPTS,
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-upstream-rq-per-try-idle-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-stream-duration-ms",
];

/// What a request's headers say that bears on its time, its retries and its class.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Said {
    /// Whether its method has the same effect however often it is called.
    pub is_idempotent: bool,
    /// Whether it has an idempotency key.
    pub has_key: bool,
    /// Whether a caller that is believed repeats itself.
    pub is_retry: bool,
    /// How long a caller that is believed will wait.
    pub patience: Option<Duration>,
    /// How long it may take, by a caller that is believed: what Envoy's router is to hold it to, and no deadline of the
    /// caller's own.
    pub timeout: Option<Duration>,
    /// How long an attempt may take, by a caller that is believed.
    pub per_try: Option<Duration>,
    /// How many retries a caller that is believed asks for.
    pub max_retries: Option<u8>,
    /// Whether its answer must be gRPC's.
    pub is_grpc: bool,
    /// The class that it names.
    pub class: Option<Vec<u8>>,
    /// What of [`STEERING`] it has.
    steering: Vec<&'static str>,
    has_grpc_timeout: bool,
    has_deadline_header: bool,
}

/// Whose word it is that a header carries.
struct Names<'a> {
    trusted: bool,
    key: &'a str,
    deadline: Option<&'a str>,
    class: Option<&'a str>,
}

impl Said {
    /// Reads the headers of a request of `policy`. Of several deadlines the shortest counts, of other headers that are there more
    /// than once the first, as far as they steer Envoy or name a class. Only a `trusted` caller is believed.
    pub fn read<'a>(
        policy: &Policy,
        trusted: bool,
        headers: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Self {
        let class = policy.priority().and_then(|priority| match &priority.source {
            Some(ClassSource::Header(name)) => Some(name.as_str()),
            _ => None,
        });
        let timeout = policy.timeout.as_ref().map(|timeout| &timeout.settings);
        let names = Names {
            trusted,
            key: &policy.safety().idempotency_key,
            deadline: timeout.and_then(|timeout| timeout.deadline_header.as_deref()),
            class,
        };
        let mut said = Self::default();
        for (name, value) in headers {
            said.take(&names, name, value);
        }
        said
    }

    fn take(&mut self, names: &Names<'_>, name: &[u8], value: &[u8]) {
        let is = |other: Option<&str>| other.is_some_and(|other| other.as_bytes() == name);
        if name == b":method" {
            self.is_idempotent = is_idempotent(value);
        }
        if is(Some(names.key)) {
            self.has_key |= !value.is_empty();
        }
        if is(names.class) && self.class.is_none() {
            self.class = Some(value.to_vec());
        }
        if name == b"content-type" {
            self.is_grpc = is_grpc_type(value);
        }
        if name == GRPC_TIMEOUT.as_bytes() {
            self.has_grpc_timeout = true;
            self.wait(names, parse_grpc_timeout(value));
        }
        if is(names.deadline) {
            self.has_deadline_header = true;
            self.wait(names, parse_millis(value));
        }
        if !name.starts_with(b"x-envoy-") && !name.starts_with(b"grpc-") {
            return;
        }
        let known = STEERING.into_iter().find(|known| known.as_bytes() == name);
        let Some(known) = known.filter(|known| !self.steering.contains(known)) else { return };
        self.steering.push(known);
        if names.trusted {
            self.believe(names, known, value);
        }
    }

    fn believe(&mut self, names: &Names<'_>, name: &str, value: &[u8]) {
        let number = || std::str::from_utf8(value).ok()?.parse::<u32>().ok();
        // To Envoy a timeout of 0 is none at all.
        let timeout = || parse_millis(value).filter(|timeout| !timeout.is_zero());
        match name {
            EXPECTED_TIMEOUT => self.wait(names, timeout()),
            TIMEOUT => self.timeout = timeout(),
            PER_TRY_TIMEOUT => self.per_try = timeout(),
            MAX_RETRIES => {
                self.max_retries = number().map(|number| u8::try_from(number).unwrap_or(u8::MAX));
            }
            ATTEMPT_COUNT => self.is_retry |= number().is_some_and(|attempt| attempt > 1),
            GRPC_ATTEMPTS => self.is_retry |= number().is_some_and(|before| before > 0),
            _ => {}
        }
    }

    fn wait(&mut self, names: &Names<'_>, patience: Option<Duration>) {
        if names.trusted {
            self.patience = self.patience.into_iter().chain(patience).min();
        }
    }
}
