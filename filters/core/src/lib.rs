//! Resilience patterns as plain data and pure functions.
#![forbid(unsafe_code)]
