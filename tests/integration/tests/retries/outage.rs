//! What an upstream gets when all of it fails.

use crate::bound::sent;
use crate::*;

/// An edge with `max_retries: 3`, before an upstream that remembers numbers only.
async fn stage(budget: Option<Value>) -> Stage {
    let mut sections = json!({"retry": {"max_retries": 3}});
    if let Some(budget) = budget {
        sections["retry_budget"] = budget;
    }
    let stage = Stage::open(&shop(&sections)).await;
    stage.upstream.only_count();
    stage
}

const COLD: Flow = Flow { requests: 2000, connections: 100, per_second: None };

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_at_a_cold_start_is_amplified_by_a_share_and_no_more() {
    let stage = stage(None).await;
    stage.upstream.behave(Behaviour::status(503));
    let mut running = COLD.start(stage.edge.address, get);
    let seen = Bound::DEFAULT.holds(&mut running, &stage.upstream).await;
    let Watch { looks, requests, attempts, elapsed } = seen;
    let most = Bound::DEFAULT.attempts(requests, elapsed);
    println!(
        "cold outage: {requests} requests, {attempts} attempts in {elapsed:?}, at most {most}; {looks} looks"
    );
    assert_eq!((requests, running.answers().get(&503)), (2000, Some(&2000)));
    assert!(looks > 10, "no real test");
    if elapsed <= 9 * SECOND {
        assert!(attempts <= 2500, "{attempts}");
    }
    // And what may be retried is.
    assert!(attempts > 2400, "{attempts} attempts: nobody had a retry");
    wait_granted(&stage.edge, "shop", attempts - requests).await;
    assert_eq!(traps(&stage.edge.envoy), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_budget_an_outage_is_amplified_by_every_retry() {
    let stage = stage(Some(Value::Null)).await;
    stage.upstream.behave(Behaviour::status(503));
    let mut running = COLD.start(stage.edge.address, get);
    running.watch(|_| ()).await;
    let attempts = stage.upstream.requests();
    println!("cold outage without a budget: {} requests, {attempts} attempts", running.sent());
    assert_eq!((running.sent(), attempts), (2000, 8000));
}

/// The busy service of the tests below: so many requests a second for ten seconds, then an outage for three.
const RATE: u32 = 500;
const HEALTHY: usize = 5000;
const FAILING: usize = 1500;

struct AtAnInstant {
    /// Requests before the outage, and in its first second.
    before: usize,
    first_second: usize,
    /// Retries in its first second, and in all.
    burst: usize,
    retries: usize,
}

/// Plays it, and holds the retries since the outage began to `most(requests since, time since)`.
async fn at_an_instant(budget: Option<Value>, most: impl Fn(usize, Duration) -> usize) -> AtAnInstant {
    let stage = stage(budget).await;
    let load = Flow { requests: HEALTHY + FAILING, connections: 200, per_second: Some(RATE) };
    let mut running = load.start(stage.edge.address, get);
    sent(&running, HEALTHY).await;
    // What is counted here has paid before.
    let (before, none) = stage.upstream.distinct_and_repeated();
    let (began, since) = (Instant::now(), running.elapsed());
    stage.upstream.behave(Behaviour::status(503));
    assert_eq!(none, 0, "nothing failed yet");
    let mut first = None;
    let mut last = (0, 0);
    running
        .watch(|running| {
            let (_, retries) = stage.upstream.distinct_and_repeated();
            let (requests, elapsed) = (running.sent(), running.elapsed());
            let prefix = Bound::DEFAULT.retries(requests, elapsed);
            assert!(
                retries <= prefix,
                "{retries} retries, of {requests} requests in {elapsed:?} at most {prefix}"
            );
            let most = most(requests - before, elapsed - since);
            assert!(
                retries <= most,
                "{retries} retries, at most {most} after {} requests",
                requests - before
            );
            if began.elapsed() >= SECOND && first.is_none() {
                first = Some((requests - before, retries));
            }
            last = (requests, retries);
        })
        .await;
    assert_eq!(last.0, HEALTHY + FAILING);
    wait_granted(&stage.edge, "shop", last.1).await;
    let (first_second, burst) = first.unwrap_or((last.0 - before, last.1));
    AtAnInstant { before, first_second, burst, retries: last.1 }
}

/// Retries that a cap of so many allows after an outage began: what was left, and a share of the requests since then.
fn capped(cap: usize) -> impl Fn(usize, Duration) -> usize {
    let bound = Bound { floor: cap, ..Bound::DEFAULT };
    move |requests, elapsed| bound.retries(requests, elapsed)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_instant_of_an_outage_spends_what_ten_seconds_paid() {
    let AtAnInstant { before, first_second, burst, retries } = at_an_instant(None, |_, _| usize::MAX).await;
    let all = before + first_second;
    println!(
        "outage after {before} requests, no max_balance: {burst} retries in the first second ({first_second} requests), \
         {retries} in all; the formula: at most {} (0.2 x {all} + 100)",
        all / 5 + 100
    );
    let capped = capped(100)(FAILING, SECOND);
    assert!(retries > capped, "{retries} retries are what a cap of 100 allows ({capped}): no real test");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cap_on_the_balance_holds_at_the_instant_of_an_outage() {
    let budget = json!({"max_balance": 100});
    let AtAnInstant { before, first_second, burst, retries } = at_an_instant(Some(budget), capped(100)).await;
    println!(
        "outage after {before} requests, max_balance 100: {burst} retries in the first second ({first_second} requests), \
         {retries} in all; the formula: at most {} (100 + 0.2 x {first_second})",
        100 + first_second / 5
    );
    assert!(retries > 100, "{retries} retries: no real test");
}
