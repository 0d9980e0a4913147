//! Retries as a worker grants and settles them, what that costs, and what a leader shows of it.

use super::fake::{Fake, P, bulkhead};
use super::*;
use crate::answer::Reason;
use crate::breaker::{self, Outcome};
use crate::budget::{self, Grant, Reserve};
use crate::bulkhead;
use crate::retry::{Denied, Wanted, Wish};
use crate::testing::{ms, settings};
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// When the wait of a breaker that tripped at 0 is over.
pub(super) const PROBING: Timestamp = Timestamp::from_nanos(30_000_000_001);

/// 20 percent for 10 seconds, with ten times so many retries for nothing.
pub(super) fn budget(per_second: u32) -> budget::Settings {
    budget::Settings::new(20_000_000, per_second, Duration::from_secs(10), None)
}

/// The patterns of a policy, all in charge.
pub(super) fn patterns(
    breaker: Option<breaker::Settings>,
    bulkhead: Option<bulkhead::Settings>,
    budget: budget::Settings,
) -> Patterns {
    Patterns {
        breaker: breaker.map(|settings| Pattern { settings, shadow: false }),
        bulkhead: bulkhead.map(|settings| Pattern { settings, shadow: false }),
        budget: Some(Pattern { settings: budget, shadow: false }),
    }
}

/// As [`patterns`], with a budget in shadow mode and nothing else.
pub(super) fn shadow(per_second: u32) -> Patterns {
    Patterns { budget: Some(Pattern { settings: budget(per_second), shadow: true }), ..Patterns::default() }
}

/// A worker of the policy `p` with these patterns.
pub(super) fn worker_of(configuration: u64, patterns: Patterns) -> Worker {
    let shared = Shared { patterns, max_keys: None };
    Worker::new("ns", configuration, [("p", Some(shared))].into_iter())
}

/// One that has joined, and a port that nobody has asked anything yet.
pub(super) fn ready(patterns: Patterns) -> (Worker, Fake) {
    let (mut worker, mut port) = (worker_of(1, patterns), Fake::default());
    worker.tick(&mut port, ms(0));
    port.calls.clear();
    port.events.clear();
    (worker, port)
}

pub(super) fn arrival(call: u32, wish: Wish) -> Arrival {
    Arrival { call, wanted: Some(Wanted { wish, denied: None }), ..Arrival::default() }
}

pub(super) fn pass_of(verdict: Verdict) -> Pass {
    match verdict {
        Verdict::Admitted(pass) => pass,
        verdict => panic!("{verdict:?}"),
    }
}

impl Worker {
    /// What a request carries that must be let in and wants so many retries.
    pub(super) fn let_in_for(&mut self, port: &mut Fake, retries: u8, now: Timestamp) -> Pass {
        pass_of(self.admit(port, P, arrival(1, Wish::Retries(retries)), now))
    }

    /// The end of a request after so many retries.
    pub(super) fn end_after(
        &mut self,
        port: &mut Fake,
        pass: &Pass,
        made: Option<u32>,
        outcome: Outcome,
        now: Timestamp,
    ) {
        let spent = pass.grant.and_then(|grant| grant.end(made).spent);
        let returned = Returned { permit: pass.permit, spent };
        let completion = Completion { target: P, ticket: pass.ticket, outcome, returned };
        self.complete(port, completion, now, || true);
    }
}

impl Fake {
    /// How many retries there are, and how many of them are kept.
    pub(super) fn retries(&self, now: Timestamp) -> (i64, i64) {
        let mut kept = self.state().budget;
        (kept.balance(&budget(0), now), kept.reserved())
    }
}

/// How many retries a request was granted, how many are kept for it, and why not more.
pub(super) fn granted(pass: &Pass) -> (u8, u8, Option<Denied>) {
    let grant = pass.grant.expect("a grant");
    (grant.retries, grant.reserve.map_or(0, |reserve: Reserve| reserve.retries()), grant.denied)
}

fn every_pattern() -> [Patterns; 4] {
    let breaker = || Some(settings());
    [
        patterns(None, None, budget(10)),
        patterns(breaker(), None, budget(10)),
        patterns(None, Some(bulkhead(5, 5)), budget(10)),
        patterns(breaker(), Some(bulkhead(5, 5)), budget(10)),
    ]
}

#[test]
fn a_request_costs_one_read_and_one_write_in_and_out() {
    for patterns in every_pattern() {
        let (mut worker, mut port) = ready(patterns.clone());
        for moment in 0..5 {
            let pass = worker.let_in_for(&mut port, 2, ms(moment));
            assert_eq!(port.store_calls(), ["get", "put"], "{patterns:?}");
            assert_eq!((granted(&pass), port.retries(ms(moment)).1), ((2, 2, None), 2));
            worker.end_after(&mut port, &pass, Some(0), Outcome::Success, ms(moment));
            assert_eq!(port.store_calls(), ["get", "put"], "{patterns:?}");
            assert_eq!(port.retries(ms(moment)).1, 0);
        }
        assert_eq!((port.retries(ms(4)), port.events()), ((1, 0), vec![]), "five have paid");
    }
}

#[test]
fn a_request_for_which_nothing_is_kept_costs_nothing_at_its_end() {
    for patterns in &every_pattern()[..2] {
        let (mut worker, mut port) = ready(patterns.clone());
        let pass = worker.let_in_for(&mut port, 0, ms(0));
        assert_eq!((port.store_calls(), granted(&pass)), (vec!["get", "put"], (0, 0, None)));
        worker.end_after(&mut port, &pass, Some(0), Outcome::Success, ms(0));
        assert_eq!(port.store_calls(), [""; 0]);
    }
}

#[test]
fn what_was_retried_is_spent_with_the_outcome_in_one_write() {
    let (mut worker, mut port) = ready(patterns(Some(settings()), Some(bulkhead(5, 0)), budget(10)));
    for (made, outcome, balance) in [
        (Some(3), Outcome::Failure, -2),
        (Some(1), Outcome::Success, -3),
        (Some(0), Outcome::Ignored, -3),
        (None, Outcome::Ignored, -6),
    ] {
        let pass = worker.let_in_for(&mut port, 3, ms(0));
        port.calls();
        worker.end_after(&mut port, &pass, made, outcome, ms(0));
        assert_eq!(port.store_calls()[..2], ["get", "put"]);
        assert_eq!((port.retries(ms(0)), port.crowd()), ((balance, 0), (0, 0)), "{made:?} {outcome:?}");
    }
}

#[test]
fn a_request_whose_outcome_is_told_already_gives_back_what_is_left() {
    let (mut worker, mut port) = ready(patterns(None, None, budget(10)));
    let pass = worker.let_in_for(&mut port, 2, ms(0));
    let spent = pass.grant.and_then(|grant| grant.end(Some(1)).spent);
    worker.release(&mut port, P, Returned { permit: None, spent }, ms(0));
    assert_eq!((port.retries(ms(0)), port.gave_up()), ((0, 0), vec![]));
}

#[test]
fn who_is_refused_pays_nothing() {
    for uncounted in [false, true] {
        let (mut worker, mut port) = ready(patterns(Some(settings()), Some(bulkhead(3, 0)), budget(0)));
        let passes = [(); 3].map(|()| worker.let_in_for(&mut port, 0, ms(0)));
        let before = port.state().budget;
        assert!(matches!(worker.admit(&mut port, P, arrival(2, Wish::Route), ms(0)), Verdict::Refused(_)));
        assert!(matches!(worker.admit(&mut port, P, arrival(2, Wish::Spent), ms(0)), Verdict::Refused(_)));
        assert_eq!(port.state().budget, before, "full");
        passes.iter().for_each(|pass| worker.end_after(&mut port, pass, None, Outcome::Failure, ms(0)));
        assert_eq!(port.breaker_state(), BreakerState::Open);
        port.uncounted = uncounted;
        let refused = worker.admit(&mut port, P, arrival(2, Wish::Retries(1)), ms(1));
        assert!(matches!(refused, Verdict::Refused(Refused { reason: Reason::CircuitOpen, .. })));
        assert_eq!(port.state().budget, before, "open");
    }
}

#[test]
fn a_probe_pays_and_is_not_retried() {
    let (mut worker, mut port) = ready(patterns(Some(settings()), None, budget(10)));
    for _ in 0..3 {
        let pass = worker.let_in_for(&mut port, 1, ms(0));
        worker.end_after(&mut port, &pass, Some(0), Outcome::Failure, ms(0));
    }
    for wish in [Wish::Retries(2), Wish::Route] {
        let pass = pass_of(worker.admit(&mut port, P, arrival(1, wish), PROBING));
        assert!(pass.ticket.is_some_and(|ticket| ticket.probe.is_some()));
        assert_eq!(granted(&pass), (0, 0, Some(Denied::Breaker)));
    }
    // Two that have paid, of which five make a retry.
    let mut shown = port.state().budget;
    let whole = budget::Settings::new(100_000_000, 0, Duration::from_secs(10), None);
    assert_eq!(shown.balance(&whole, PROBING), 2);
}

#[test]
fn what_a_breaker_in_shadow_mode_calls_a_probe_is_retried() {
    let mut patterns = patterns(Some(settings()), None, budget(10));
    patterns.breaker = patterns.breaker.map(|breaker| Pattern { shadow: true, ..breaker });
    let (mut worker, mut port) = ready(patterns);
    for _ in 0..3 {
        let pass = worker.let_in_for(&mut port, 0, ms(0));
        worker.end_after(&mut port, &pass, None, Outcome::Failure, ms(0));
    }
    let pass = worker.let_in_for(&mut port, 2, PROBING);
    assert!(pass.ticket.is_some_and(|ticket| ticket.probe.is_some()));
    assert_eq!(granted(&pass), (2, 2, None));
}

#[test]
fn without_a_budget_retries_are_granted_and_nothing_is_kept() {
    let open = |pass: &Pass| pass.grant == Some(Grant { retries: 3, ..Grant::NONE });
    let none = Patterns { budget: None, ..patterns(Some(settings()), None, budget(0)) };
    let (mut worker, mut port) = ready(none);
    assert!(open(&worker.let_in_for(&mut port, 3, ms(0))));
    assert_eq!(
        worker.arrive(&mut port, 1, ms(0)),
        Verdict::Admitted(Pass {
            ticket: Some(crate::breaker::Ticket { generation: 0, probe: None }),
            ..Pass::default()
        }),
        "where it is not ours to say nothing is said"
    );
    let (mut worker, mut port) =
        ready(Patterns { budget: None, ..patterns(Some(settings()), Some(bulkhead(2, 0)), budget(0)) });
    assert!(open(&worker.let_in_for(&mut port, 3, ms(0))));
    let mut stateless = Worker::new("ns", 1, [("p", None)].into_iter());
    assert!(open(&stateless.let_in_for(&mut port, 3, ms(0))));
    assert_eq!(port.state().budget, crate::budget::Budget::default());
}

#[test]
fn in_shadow_mode_all_is_granted_and_what_would_have_been_is_kept() {
    let (mut worker, mut port) = ready(shadow(0));
    let pass = worker.let_in_for(&mut port, 3, ms(0));
    let Some(grant) = pass.grant else { panic!("no grant") };
    assert_eq!((grant.retries, grant.reserve, grant.denied, grant.on_paper), (3, None, None, true));
    let route = pass_of(worker.admit(&mut port, P, arrival(1, Wish::Route), ms(0)));
    assert!(route.grant.is_some_and(|grant| grant.uncapped && grant.on_paper));
    for pass in [pass, route] {
        worker.end_after(&mut port, &pass, Some(3), Outcome::Success, ms(0));
    }
    assert_eq!(port.retries(ms(0)), (0, 0), "what would have been denied is not spent");
    let one = budget::Settings::new(0, 1, Duration::from_secs(1), None);
    let one = Patterns { budget: Some(Pattern { settings: one, shadow: true }), ..Patterns::default() };
    let (mut worker, mut port) = ready(one);
    let pass = worker.let_in_for(&mut port, 3, ms(0));
    assert_eq!((granted(&pass), pass.grant.unwrap().on_paper), ((3, 1, None), true));
    assert_eq!(port.state().budget.reserved(), 1);
    worker.end_after(&mut port, &pass, Some(3), Outcome::Success, ms(0));
    assert_eq!(port.retries(ms(0)), (-1, 0), "what it would have had is spent");
    let (mut worker, mut port) = ready(shadow(10));
    let pass = worker.let_in_for(&mut port, 3, ms(0));
    assert_eq!((granted(&pass), pass.grant.unwrap().on_paper), ((3, 3, None), false));
    worker.end_after(&mut port, &pass, Some(2), Outcome::Success, ms(0));
    assert_eq!(port.retries(ms(0)), (-1, 0));
}

#[test]
fn another_writer_in_between_is_taken_into_account() {
    let (mut worker, mut port) = ready(patterns(None, None, budget(0)));
    for _ in 0..4 {
        worker.let_in_for(&mut port, 0, ms(0));
    }
    // The fifth pays for one retry, and somebody else's sixth is faster.
    let mut other = worker_of(1, patterns(None, None, budget(0)));
    other.tick(&mut port, ms(0));
    port.meanwhile.push_back((
        "put",
        Box::new(move |port| {
            let pass = other.let_in_for(port, 1, ms(0));
            assert_eq!(granted(&pass), (1, 1, None));
        }),
    ));
    let pass = worker.let_in_for(&mut port, 1, ms(0));
    assert_eq!((granted(&pass), port.retries(ms(0))), ((0, 0, Some(Denied::Budget)), (1, 1)));
}
