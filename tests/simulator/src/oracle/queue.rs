//! Requests that wait, and when their VM looks after them.

use super::{Deed, Oracle, Verdict, Vm, VmId};
use crate::vm::{Finished, Task};
use resilience_core::worker::{Arrival, Operation};
use std::collections::BTreeSet;

/// How soon a VM looks again after a request for which the store would not take what there was to do.
pub(super) const RETRY: u64 = 10_000_000;

/// A request that waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waiting {
    pub(super) breaker: usize,
    pub(super) arrival: Arrival,
    pub(super) since: u64,
    pub(super) until: u64,
    pub(super) place: Place,
    /// When its VM looks again before the wait is over, if it does: one of these. There are several where nobody can tell
    /// which of its updates the store would not take.
    pub(super) again: Vec<Option<u64>>,
}

/// Where it waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In the queue, under this identity.
    Queue(u64),
    /// With its VM.
    Here,
}

impl Waiting {
    fn due(&self, again: Option<u64>) -> u64 {
        again.map_or(self.until, |again| again.min(self.until))
    }

    /// Whether a VM that does this looks after it, for all that is known.
    pub(super) fn may_be_looked_after(&self, call: u32, deed: &Deed) -> bool {
        match deed.task {
            Task::Timer => self.again.iter().any(|again| self.due(*again) <= deed.begun.now),
            _ => self.is_looked_after(call, deed),
        }
    }

    /// Whether a VM that does this surely looks after it.
    pub(super) fn is_looked_after(&self, call: u32, deed: &Deed) -> bool {
        match deed.task {
            Task::Woken { call: woken } => woken == call,
            Task::Timer => self.again.iter().all(|again| self.due(*again) <= deed.begun.now),
            Task::Tick => true,
            _ => false,
        }
    }

    /// The moments that may have made its VM look before the wait is over; all that have one in common were looked after
    /// together before, and are again.
    pub(super) fn cohorts(&self, now: u64) -> impl Iterator<Item = u64> {
        self.again.iter().flatten().copied().filter(move |again| *again <= now)
    }
}

impl Vm {
    /// How many requests wait with their VM, because the store would not take them.
    pub(super) fn waiting_here(&self, breaker: usize) -> usize {
        let here = |waiting: &&Waiting| waiting.breaker == breaker && waiting.place == Place::Here;
        self.waiting.values().filter(here).count()
    }

    /// The queues in which a VM that does this has somebody to look after, each under one identity.
    pub(super) fn groups(&self, deed: &Deed) -> BTreeSet<(usize, u64)> {
        let looked_after = |(call, waiting): (&u32, &Waiting)| match waiting.place {
            Place::Queue(owner) if waiting.may_be_looked_after(*call, deed) => Some((waiting.breaker, owner)),
            _ => None,
        };
        self.waiting.iter().filter_map(looked_after).collect()
    }
}

impl Vm {
    /// Where the store gives no answer a VM does not try for each of its requests, or thousands of them would hold it up.
    pub(super) fn tries_once(&self, vm: VmId, deed: &Deed) -> Verdict {
        if deed.task != Task::Timer {
            return Ok(());
        }
        for (breaker, unanswered) in &deed.unanswered {
            let mine = || {
                let mine = self.waiting.iter().filter(|(_, waiting)| waiting.breaker == *breaker);
                mine.filter(|(call, it)| it.may_be_looked_after(**call, deed) || deed.has_promised(**call))
            };
            // A queue once for all, and once to take each of those out whose wait is over.
            let groups = self.groups(deed).iter().filter(|(queue, _)| queue == breaker).count();
            let over = mine().filter(|(_, waiting)| deed.begun.now >= waiting.until).count();
            let here = mine().any(|(call, it)| it.place == Place::Here || deed.has_promised(*call));
            let left_over = deed.left_over.contains(breaker);
            let most = groups + over + usize::from(here) + usize::from(left_over);
            if *unanswered > most {
                return Err(format!(
                    "VM {vm} tried {unanswered} times in vain for {breaker}, and {most} had been enough: {:?}",
                    self.waiting
                ));
            }
        }
        Ok(())
    }
}

impl Oracle {
    /// When those that wait on are looked after next; `groups` are those of [`Vm::groups`] when the task was begun.
    pub(super) fn looks_again(
        &mut self,
        vm: VmId,
        deed: &Deed,
        groups: usize,
        finished: &Finished,
    ) -> Verdict {
        let Some(found) = self.vms.get_mut(&vm) else { return Ok(()) };
        let now = deed.begun.now;
        let retry = Some(now.saturating_add(RETRY));
        let failed = deed.times(Operation::Admit);
        let me = found.me.map(|me| me.0);
        for (call, waiting) in &mut found.waiting {
            // One that was let into the queue by this very task is not looked after before it hears something.
            let came = waiting.place != Place::Here && deed.has_promised(*call);
            if came || !waiting.may_be_looked_after(*call, deed) {
                continue;
            }
            let again = match (waiting.place, deed.task) {
                (Place::Here, _) => vec![retry],
                (Place::Queue(_), Task::Tick) if failed == 0 => waiting.again.clone(),
                (Place::Queue(owner), Task::Tick) => {
                    // By what it has read, which may have been anything since it began.
                    let told = Some(owner) != me
                        || self.policies[waiting.breaker]
                            .could_see(deed.begun, false, |entry| !entry.room_at(now).waits(owner, *call));
                    [waiting.again.clone(), vec![retry; usize::from(told)]].concat()
                }
                (Place::Queue(_), _) => {
                    let may_have = if failed < groups { vec![None] } else { Vec::new() };
                    let may_not = vec![retry; usize::from(failed > 0)];
                    let not_yet = waiting.again.iter().copied();
                    let not_yet =
                        not_yet.filter(|again| waiting.due(*again) > now && deed.task == Task::Timer);
                    [not_yet.collect(), may_have, may_not].concat()
                }
            };
            waiting.again = again;
        }
        found.next_due(vm, finished.due.map(|due| due.as_nanos()))
    }
}

impl Vm {
    /// What the moment at which a VM wants to be called again tells of those that wait.
    fn next_due(&mut self, vm: VmId, due: Option<u64>) -> Verdict {
        let before = self.waiting.clone();
        for waiting in self.waiting.values_mut() {
            let (until, all) = (waiting.until, std::mem::take(&mut waiting.again));
            let fits = |again: &Option<u64>| due.is_some_and(|due| again.unwrap_or(until).min(until) >= due);
            waiting.again = all.into_iter().filter(fits).collect();
            waiting.again.sort_unstable();
            waiting.again.dedup();
        }
        let none_left = self.waiting.values().any(|waiting| waiting.again.is_empty());
        let mut dues = self.waiting.values().flat_map(|it| it.again.iter().map(|again| it.due(*again)));
        if none_left || due.is_some_and(|due| !dues.any(|one| one == due)) {
            return Err(format!("VM {vm} wants to be called at {due:?}, and these wait: {before:?}"));
        }
        Ok(())
    }
}
