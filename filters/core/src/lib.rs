//! Resilience patterns as plain data and pure functions: time and state are arguments, and nothing here knows of
//! proxy-wasm, a clock or a worker thread.
#![forbid(unsafe_code)]
// An overflow in a test is a failed test; the build without tests holds what ships to the lint.
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

pub mod alarms;
pub mod annotation;
pub mod answer;
pub mod breaker;
pub mod budget;
pub mod bulkhead;
mod codec;
pub mod config;
pub mod control;
pub mod decision;
pub mod fallback;
pub mod inspect;
mod ledger;
pub mod matcher;
pub mod members;
pub mod metrics;
pub mod outcome;
#[cfg(feature = "planted-bugs")]
pub mod planted;
#[cfg(not(feature = "planted-bugs"))]
mod planted;
pub mod refusals;
pub mod retry;
pub mod state;
pub mod steering;
pub mod store;
#[cfg(test)]
mod testing;
pub mod time;
pub mod timeout;
pub mod timer;
pub mod worker;
