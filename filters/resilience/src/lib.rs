//! resilience.wasm
