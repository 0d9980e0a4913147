//! A trap that tests can pull, to see what happens when a worker's VM dies. Never part of what ships.
#![allow(clippy::panic)]

use crate::calls::{Map, header};

/// Traps if the request asks for it.
pub(crate) fn pull() {
    if matches!(header(Map::RequestHeaders, "x-test-trap"), Ok(Some(_))) {
        panic!("a test pulled the trap");
    }
}
