//! Where runs came to.

/// How often a run came to the places where mistakes are likely. Runs that never get there prove nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reached {
    /// Transitions.
    pub transitions: u64,
    /// Stays in half-open that ran out.
    pub timeouts: u64,
    /// Verdicts of probes that closed.
    pub closed: u64,
    /// Probes taken back from the dead.
    pub reclaimed: u64,
    /// Outcomes that came after their place was given away.
    pub late: u64,
    /// Operations given up.
    pub gave_up: u64,
    /// VMs that died.
    pub died: u64,
    /// Values damaged or written by something that is not ours.
    pub meddled: u64,
    /// Trips by a rate.
    pub rates: u64,
    /// What operators said and was done.
    pub forced: u64,
    /// Requests that a ramp kept out.
    pub ramped: u64,
    /// Requests that found no key left.
    pub exhausted: u64,
    /// Permits given to those that waited.
    pub granted: u64,
    /// Requests that were sent away from a full queue for the sake of a higher class.
    pub evicted: u64,
    /// Waits that were over without a permit.
    pub waited: u64,
    /// Waiters whose clients left, some of them with a permit they had not been told of.
    pub left: u64,
    /// Those of them that had one.
    pub left_granted: u64,
    /// Requests that found neither a permit nor a place to wait.
    pub full: u64,
    /// Probes for which there was no permit.
    pub handed_back: u64,
    /// Requests that went on because a bulkhead only looks on.
    pub shadowed: u64,
    /// Permits taken back from VMs that were alive.
    pub overshoot: u64,
    /// Permits taken back from the dead.
    pub regained: u64,
    /// Messages that were lost.
    pub lost: u64,
    /// Updates that told several waiters at once.
    pub together: u64,
    /// Requests that were let in after a wait and were gone by then.
    pub abandoned: u64,
    /// Requests that waited with their VM, because the store would not take them.
    pub waited_here: u64,
    /// Requests for which retries were kept.
    pub kept: u64,
    /// Requests that were granted fewer than they wanted.
    pub denied: u64,
    /// The same under a budget that only looks on.
    pub on_paper: u64,
    /// Retries that were made under a budget.
    pub retried: u64,
    /// Those of them that no one had known of.
    pub unknown: u64,
    /// Retries that were kept for the dead.
    pub forfeited: u64,
    /// Waits that a deadline ended.
    pub overdue: u64,
}

impl std::ops::AddAssign for Reached {
    fn add_assign(&mut self, other: Self) {
        self.transitions += other.transitions;
        self.timeouts += other.timeouts;
        self.closed += other.closed;
        self.reclaimed += other.reclaimed;
        self.late += other.late;
        self.gave_up += other.gave_up;
        self.died += other.died;
        self.meddled += other.meddled;
        self.rates += other.rates;
        self.forced += other.forced;
        self.ramped += other.ramped;
        self.exhausted += other.exhausted;
        self.granted += other.granted;
        self.evicted += other.evicted;
        self.waited += other.waited;
        self.left += other.left;
        self.left_granted += other.left_granted;
        self.full += other.full;
        self.handed_back += other.handed_back;
        self.shadowed += other.shadowed;
        self.overshoot += other.overshoot;
        self.regained += other.regained;
        self.lost += other.lost;
        self.together += other.together;
        self.abandoned += other.abandoned;
        self.waited_here += other.waited_here;
        self.kept += other.kept;
        self.denied += other.denied;
        self.on_paper += other.on_paper;
        self.retried += other.retried;
        self.unknown += other.unknown;
        self.forfeited += other.forfeited;
        self.overdue += other.overdue;
    }
}
