//! The only code of this project that talks to proxy-wasm.
#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod abi;
pub mod calls;
