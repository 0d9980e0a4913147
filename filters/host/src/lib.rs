//! The only code of this project that talks to proxy-wasm.
//!
//! A module is [`export!`] and nothing else.
#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod abi;
mod answering;
mod call;
pub mod calls;
mod facts;
mod metrics;
mod port;
mod root;
mod stream;
#[cfg(feature = "test-trap")]
mod trap;
pub mod vm;
