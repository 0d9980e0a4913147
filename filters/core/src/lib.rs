//! Resilience patterns as plain data and pure functions: time and state are arguments, and nothing here knows of
//! proxy-wasm, a clock or a worker thread.
#![forbid(unsafe_code)]

pub mod answer;
pub mod breaker;
mod codec;
pub mod config;
pub mod matcher;
pub mod members;
pub mod metrics;
pub mod outcome;
pub mod state;
pub mod store;
#[cfg(test)]
mod testing;
pub mod time;
pub mod worker;
