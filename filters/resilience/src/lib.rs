//! `resilience.wasm`: all patterns, in one pass.

resilience_host::export!();
