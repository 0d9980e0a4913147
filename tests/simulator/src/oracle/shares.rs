//! How much of the traffic a ramp lets in: of all that a worker was asked, within one request of the sum of the shares.

use super::{Deed, Oracle, Verdict, VmId};
use resilience_core::breaker::{Admission, State};
use std::cell::RefCell;

/// What sums of fractions may differ by.
const ROUNDING: f64 = 1e-6;

impl Oracle {
    /// A closed breaker let a request in, or its ramp kept it out; `unclear` where it may have been neither.
    pub(super) fn shared(
        &mut self,
        vm: VmId,
        deed: &Deed,
        breaker: usize,
        admission: Admission,
        unclear: bool,
    ) -> Verdict {
        let Some(found) = self.vms.get(&vm) else { return Ok(()) };
        let Some(settings) = self.settings(found, breaker) else { return Ok(()) };
        let (begun, seen) = (deed.begun, RefCell::new(Vec::new()));
        self.policies[breaker].could_see(begun, true, |entry| {
            let read = entry.model().map(|model| model.read(begun.now));
            let closed = read.as_ref().filter(|model| model.state() == State::Closed);
            let fits = closed.filter(|model| match admission {
                Admission::Admitted(ticket) => ticket.generation == model.generation(),
                Admission::Refused { .. } => model.share(settings, begun.now).is_some(),
            });
            seen.borrow_mut().extend(fits.map(|model| model.share(settings, begun.now)));
            false
        });
        let seen = seen.into_inner();
        let shares = || seen.iter().flatten().copied();
        let most = shares().fold(0.0, f64::max);
        if most == 0.0 && shares().next().is_none() {
            return Ok(());
        }
        let maybe_all = seen.iter().any(Option::is_none);
        self.reached.ramped += u64::from(matches!(admission, Admission::Refused { .. }));
        let Some(found) = self.vms.get_mut(&vm) else { return Ok(()) };
        let (low, high) = found.credits.get(&breaker).copied().unwrap_or((0.0, 0.0));
        let (sum_low, sum_high) = (low + shares().fold(1.0, f64::min), high + most);
        let wrong = match admission {
            _ if unclear || maybe_all => None,
            Admission::Admitted(_) => (sum_high < 1.0 - ROUNDING).then_some("let in more"),
            Admission::Refused { .. } => (sum_low >= 1.0 + ROUNDING).then_some("let in less"),
        };
        if let Some(wrong) = wrong {
            return Err(format!(
                "VM {vm} {wrong} by breaker {breaker} than its ramp says: {sum_low} to {sum_high}"
            ));
        }
        let credit = match admission {
            _ if unclear || maybe_all => (0.0, 1.0),
            Admission::Admitted(_) => ((sum_low - 1.0).max(0.0), (sum_high - 1.0).max(0.0)),
            Admission::Refused { .. } => (sum_low, sum_high.min(1.0)),
        };
        found.credits.insert(breaker, credit);
        Ok(())
    }
}
