//! What fuzzing feeds with bytes, and what must hold whatever they are. Every function here panics if it does not.
//!
//! The programs in `bin/` hand them to libFuzzer, one each.
#![forbid(unsafe_code)]

pub mod budget;
pub mod bulkhead;
pub mod configuration;
pub mod fallback;
mod input;
pub mod inspection;
pub mod members;
pub mod state;
pub mod steering;
