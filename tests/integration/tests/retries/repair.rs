//! What retries are for: blips, and what comes after an outage.

use crate::*;

const SEED: u64 = 6;

/// A number that looks like chance and is the same in every run (a step of a linear congruential generator, mixed).
fn chance(number: usize) -> u64 {
    let mixed = (number as u64 + 1).wrapping_add(SEED << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32
}

fn fails(number: usize) -> bool {
    chance(number).is_multiple_of(100)
}

#[tokio::test(flavor = "multi_thread")]
async fn random_failures_that_one_retry_repairs_are_repaired() {
    const REQUESTS: usize = 7000;
    for max_retries in 1..=3 {
        let stage = Stage::open(&shop(&json!({"retry": {"max_retries": max_retries}}))).await;
        stage.upstream.only_count();
        let load = Flow { requests: REQUESTS, connections: 50, per_second: Some(1000) };
        let mut running = load.start(stage.edge.address, |number| {
            let behaviour = if fails(number) { "status=503|status=200" } else { "status=200" };
            get(number).header("x-behave", behaviour)
        });
        running.watch(|_| ()).await;
        let failed = (0..REQUESTS).filter(|number| fails(*number)).count();
        let seen = running.answers().get(&503).copied().unwrap_or(0);
        println!(
            "{REQUESTS} requests at 1000 a second, max_retries {max_retries}: {failed} failed once, {} repaired",
            failed - seen
        );
        assert!((50..100).contains(&failed), "{failed}: no hundredth");
        assert!(seen * 100 <= failed, "{seen} of {failed} were not repaired");
        assert_eq!(running.answers().get(&200), Some(&(REQUESTS - seen)));
        assert_eq!(stage.upstream.distinct_and_repeated(), (REQUESTS, failed - seen));
        // A request that was repaired is one success.
        let calls = Calls { success: (REQUESTS - seen) as u64, failure: seen as u64, ignored: 0 };
        stage.edge.wait_calls("shop", calls).await;
        assert_eq!(retries(&stage.edge, "denied").await, seen as u64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_come_back_within_ttl() {
    let budget = json!({"min_retries_per_second": 10, "ttl": "1s"});
    let mut stage = Stage::open(&shop(&json!({"retry": {"max_retries": 3}, "retry_budget": budget}))).await;
    for outage in 1..=2 {
        let before = stage.upstream.distinct_and_repeated();
        let load = Flow { requests: 200, connections: 20, per_second: None };
        let mut running = load.start(stage.edge.address, move |number| {
            get(outage * 1000 + number).header("x-behave", "status=503")
        });
        running.watch(|_| ()).await;
        let (requests, repeats) = stage.upstream.distinct_and_repeated();
        let once = (0..200)
            .filter(|number| stage.upstream.attempts(&(outage * 1000 + number).to_string()) == 1)
            .count();
        println!(
            "outage {outage}: {} retries of {} requests, {once} had none",
            repeats - before.1,
            requests - before.0
        );
        assert!(once > 0 && repeats > before.1, "the balance was not used up");
        wait_granted(&stage.edge, "shop", repeats).await;
        // Nobody asks, for as long as anything of the window can count.
        let ended = Instant::now();
        pass(ended, 2 * SECOND).await;
        // At once, by whatever worker, and as much as at the beginning: two of three, a quarter of ten.
        let attempts = stage.attempts_of_failing(get("after").header("x-outage", outage.to_string())).await;
        assert_eq!(attempts, 3, "after outage {outage}");
        wait_balance(&stage.edge, "shop", 10).await;
    }
}
