//! Facts about the host that the filters stand on, asserted on a real Envoy with four workers.
//!
//! Each was first measured. When a new Envoy version breaks one of these, what relies on it must change.

mod endings;

use resilience_test_harness::Envoy;

/// Whether the Envoy under test is at least this version, for a fact that changed with it.
fn since(major: u32, minor: u32) -> bool {
    Envoy::version() >= (major, minor)
}
