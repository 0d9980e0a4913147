//! Mistakes made on purpose, one at a time, so that the simulator can prove that it would have found them.
//!
//! Without the feature `planted-bugs` there is nothing here but a constant `false`; only the simulator asks for the feature.

/// A mistake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// Writes overwrite whatever is there.
    LostUpdate,
    /// Giving back a probe that is not there any more frees somebody else's place.
    ReleasedTwice,
    /// A probe that proved nothing keeps its place.
    NotHandedBack,
    /// An outcome counts whatever generation it was admitted under.
    NoGenerationCheck,
    /// An observer that was away itself takes the others for dead.
    ReclaimedFromTheLiving,
    /// A configuration that asks for another window clears what others remember.
    ResetByConfiguration,
    /// The open wait ends one moment early.
    InclusiveWait,
    /// What was read once is believed for as long as the change counter stands still.
    EndlessBelief,
    /// How many probes are permitted depends on who asks.
    PermittedByAsker,
    /// A probe's outcome that the store would not take is forgotten.
    PendingForgotten,
    /// A write does not make the change counter grow.
    Unannounced,
    /// Sections of another version of the module are lost.
    ForeignDropped,
    /// Transitions are told before they are committed.
    ToldTooEarly,
    /// The lines of the dead stay in the table.
    DeadRemembered,
    /// A breaker that has been half-open for too long stays so.
    EndlessStay,
    /// A window of calls is believed to be full while it is not.
    SaturatedTooEarly,
    /// A success is not counted where no window is kept yet.
    FirstSuccessLost,
    /// A configuration that is not the newest gives a window its shape.
    ReshapedByOlder,
    /// A verdict over probes waits for all that are permitted.
    DecidedAtPermitted,
    /// A slow call that failed does not count as slow.
    SlowFailureForgotten,
    /// A window over time keeps one second too many.
    SecondTooMany,
    /// What rates need is taken over from a generation that is gone.
    StaleRates,
    /// The wait grows on after a time of health.
    NeverStartsOver,
    /// A breaker that an operator holds closed counts and trips.
    HeldTrips,
    /// A ramp lets everything in.
    RampForgotten,
    /// A policy has one key more than it may have.
    KeyTooMany,
    /// A permit that is given back is given to nobody.
    ReleasedWithoutServing,
    /// Who is given a permit is not told.
    GrantedWithoutWake,
    /// A permit that was given to a waiter who has just left goes lost.
    GrantLostToTheGone,
    /// Two waiters are given one permit.
    TwoForOne,
    /// A class takes more than its share.
    ShareExceeded,
    /// A permit that was reclaimed is taken back once more.
    EpochIgnored,
    /// A full queue sends the oldest away.
    WrongEnd,
    /// Whoever came last is served first.
    LastServedFirst,
    /// All who wait are served alike.
    ClassesIgnored,
    /// What the dead wait for is kept for them.
    WaitersOfTheDead,
    /// A probe waits for a permit.
    ProbeWaits,
    /// A probe for which there is no permit keeps its place.
    ProbeKept,
    /// A wait goes on after its end.
    EndlessWait,
    /// Who has waited goes on without asking the breaker again.
    NotAskedAgain,
    /// A message goes to the queue of whoever sends it.
    WokenElsewhere,
    /// What was reserved is given back twice.
    RefundedTwice,
    /// What was reserved for a request that proves nothing is not given back.
    NotRefundedOnAbort,
    /// What a request may retry is decided by what was read before somebody else wrote.
    ReservedOutsideUpdate,
    /// What was reserved for the requests of the dead is free again, as if they had retried nothing.
    ReserveRefundedToTheDead,
    /// A request is granted all that there is.
    GreedyGrant,
    /// What was retried is not taken out of the budget.
    RetriesForgotten,
    /// A request that is refused pays.
    RefusedPays,
    /// The balance grows beyond its cap.
    CapForgotten,
    /// What was paid for comes back under a cap.
    DebtReturned,
    /// What others paid is read by those who pay nothing.
    PaidByOthers,
    /// A request pays when it begins to wait, and again when it is let in.
    WaiterPaysTwice,
    /// A caller's retry pays like a request.
    CallersRetryPays,
    /// How often a route retries is not learned.
    SeenForgotten,
    /// What was reserved, and was reclaimed, is given back once more.
    ReserveEpochIgnored,
    /// A configuration that is not the newest gives a budget its window.
    BudgetReshapedByOlder,
    /// A configuration that is not the newest shows its balance.
    BalanceByOlder,
    /// What a budget in shadow mode would have denied is spent.
    SpentOnPaper,
    /// Where the store gives no answer a request may be retried as it wants.
    BlindRetries,
    /// A probe may be retried.
    ProbeRetried,
    /// Retries are granted for which there is no time.
    UnfitRetries,
    /// A waiter is let in after its deadline.
    LateGrant,
    /// A wait does not end with the deadline.
    DeadlineNotAwaited,
    /// What has happened to a breaker is forgotten with each write.
    HistoryLost,
}

#[cfg(feature = "planted-bugs")]
mod switch {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        // Per thread: simulations run side by side, each with a mistake of its own or none.
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Makes this thread's workers make one mistake, or none.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    pub(crate) fn active(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(not(feature = "planted-bugs"))]
mod switch {
    #[inline(always)]
    pub(crate) const fn active(_: super::Bug) -> bool {
        false
    }
}

pub(crate) use switch::active;
#[cfg(feature = "planted-bugs")]
pub use switch::plant;
