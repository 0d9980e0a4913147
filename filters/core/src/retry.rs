//! What an operator says of retries, and which requests may have any.

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
    pub idempotency_key: String,
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

impl Default for Safety {
    fn default() -> Self {
        Self { idempotency_key: "idempotency-key".to_owned(), non_idempotent: NonIdempotent::WithKey }
    }
}
