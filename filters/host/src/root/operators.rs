//! What a configuration does that answers operators.

use super::{Root, clock};
use crate::calls;
use crate::port::{self, Asker, HostPort};
use resilience_core::answer::Reply;
use resilience_core::control;
use resilience_core::inspect::{self, Clock, Inspection};

impl Root {
    /// Whether this configuration only answers operators.
    pub(crate) const fn is_for_operators(&self) -> bool {
        self.document.control || self.document.state
    }

    /// Carries out what an operator says, or tells what an operator asks.
    pub(crate) fn serve_operator(&mut self, method: &[u8], path: &[u8]) -> Reply {
        self.now = clock().unwrap_or(self.now);
        let Self { document, worker, metrics, now, .. } = self;
        if document.control && (!document.state || control::is_order(path)) {
            let mut port = HostPort { document, policies: metrics, asker: Asker::Current };
            return control::answer(method, path, &document.policies, worker, &mut port, *now);
        }
        let inspection = Inspection {
            namespace: &document.namespace,
            policies: &document.policies,
            worker,
            read: &mut port::read,
            clock: Clock { now: *now, wall: calls::wall_nanoseconds() },
        };
        inspect::answer(method, path, inspection)
    }
}
