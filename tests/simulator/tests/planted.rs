//! Proof that the simulator sees: each mistake that the core can be told to make is found within a few seeds, and the same
//! seeds without it are clean.

use resilience_core::planted::Bug;
use resilience_simulator::play;

/// What a mistake must be found within.
const WITHIN: u64 = 500;

fn is_found(bug: Bug) {
    let found = (0..WITHIN).find_map(|seed| play(seed, Some(bug)).err());
    let failure = found.unwrap_or_else(|| panic!("{bug:?} was not found in {WITHIN} seeds"));
    println!("{bug:?}: seed {}: {}", failure.seed, failure.what.lines().next().unwrap_or_default());
    assert!(!failure.trace.is_empty(), "a failure tells how it came to be");
    for seed in 0..=failure.seed {
        if let Err(failure) = play(seed, None) {
            panic!("without {bug:?}:\n{failure}");
        }
    }
}

macro_rules! planted {
    ($($name:ident: $bug:ident,)*) => {
        $(#[test]
        fn $name() {
            is_found(Bug::$bug);
        })*
    };
}

planted! {
    a_lost_update: LostUpdate,
    a_probe_released_twice: ReleasedTwice,
    a_probe_not_handed_back: NotHandedBack,
    no_check_of_the_generation: NoGenerationCheck,
    a_lease_reclaimed_from_the_living: ReclaimedFromTheLiving,
    a_reset_by_another_configuration: ResetByConfiguration,
    a_wait_that_ends_too_early: InclusiveWait,
    a_belief_without_an_end: EndlessBelief,
    a_limit_that_depends_on_who_asks: PermittedByAsker,
    an_outcome_that_is_forgotten: PendingForgotten,
    a_change_that_nobody_hears_of: Unannounced,
    a_foreign_section_that_is_lost: ForeignDropped,
    a_transition_told_too_early: ToldTooEarly,
    a_dead_member_that_stays: DeadRemembered,
    a_stay_without_an_end: EndlessStay,
    a_window_full_too_early: SaturatedTooEarly,
    a_first_success_that_is_lost: FirstSuccessLost,
    a_window_reshaped_by_an_older_configuration: ReshapedByOlder,
    a_verdict_that_waits_for_all_that_are_permitted: DecidedAtPermitted,
    a_slow_failure_that_is_not_slow: SlowFailureForgotten,
    a_window_of_one_second_too_many: SecondTooMany,
    rates_of_a_generation_that_is_gone: StaleRates,
    a_wait_that_never_starts_over: NeverStartsOver,
    a_held_breaker_that_trips: HeldTrips,
    a_ramp_that_lets_everything_in: RampForgotten,
    a_key_too_many: KeyTooMany,
    a_permit_given_back_to_nobody: ReleasedWithoutServing,
    a_waiter_that_is_not_told: GrantedWithoutWake,
    a_permit_lost_to_one_who_left: GrantLostToTheGone,
    two_waiters_for_one_permit: TwoForOne,
    a_class_over_its_share: ShareExceeded,
    a_permit_of_another_time: EpochIgnored,
    the_wrong_one_evicted: WrongEnd,
    a_queue_in_the_wrong_order: LastServedFirst,
    a_lower_class_before_a_higher: ClassesIgnored,
    waiters_of_the_dead_that_stay: WaitersOfTheDead,
    a_probe_that_waits: ProbeWaits,
    a_probe_kept_without_a_permit: ProbeKept,
    a_wait_without_an_end: EndlessWait,
    a_breaker_not_asked_after_the_wait: NotAskedAgain,
    a_waiter_of_another_queue: WokenElsewhere,
    a_reservation_given_back_twice: RefundedTwice,
    a_reservation_kept_after_an_abort: NotRefundedOnAbort,
    a_reservation_outside_of_the_update: ReservedOutsideUpdate,
    a_reservation_of_the_dead_that_is_free_again: ReserveRefundedToTheDead,
    a_grant_of_all_there_is: GreedyGrant,
    retries_that_are_forgotten: RetriesForgotten,
    a_refused_request_that_pays: RefusedPays,
    a_balance_beyond_its_cap: CapForgotten,
    a_debt_that_comes_back_under_a_cap: DebtReturned,
    payments_of_others_where_nobody_pays: PaidByOthers,
    a_waiter_that_pays_twice: WaiterPaysTwice,
    a_callers_retry_that_pays: CallersRetryPays,
    a_route_that_nobody_learns_from: SeenForgotten,
    a_reservation_of_another_time: ReserveEpochIgnored,
    a_budget_reshaped_by_an_older_configuration: BudgetReshapedByOlder,
    a_balance_shown_by_an_older_configuration: BalanceByOlder,
    a_denial_on_paper_that_is_spent: SpentOnPaper,
    retries_without_an_answer_of_the_store: BlindRetries,
    a_probe_that_is_retried: ProbeRetried,
    retries_for_which_there_is_no_time: UnfitRetries,
    a_grant_after_the_deadline: LateGrant,
    a_deadline_that_ends_no_wait: DeadlineNotAwaited,
    a_history_that_is_lost: HistoryLost,
}
