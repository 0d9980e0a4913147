//! The configuration changes in the midst of an outage: one window is read by what each configuration says.

use crate::*;
use resilience_test_harness::config;

/// A document that `/canary` knows by its number.
fn version(number: u32, budget: &Value) -> Value {
    let sections = json!({"retry": {"max_retries": 3}, "retry_budget": budget});
    let document = document(&[guarded("shop", &sections), canary(number)]);
    config::extension_resource(filter(&document))
}

async fn discovered(budget: &Value) -> (Stage, DynamicFile, Scratch) {
    let scratch = Scratch::new();
    let file = DynamicFile::new(scratch.file("discovered.json"), &[version(1, budget)]);
    let filter = config::discovered_wasm_filter("resilience", file.path());
    let stage = Stage::routed(&[patient_route()], &[filter]).await;
    (stage, file, scratch)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bound_holds_across_an_update_with_the_larger_of_both() {
    let first = json!({"percent_can_retry": 20, "min_retries_per_second": 10, "ttl": "10s"});
    let second = json!({"percent_can_retry": 50, "min_retries_per_second": 10, "ttl": "5s"});
    let (stage, mut file, _scratch) = discovered(&first).await;
    stage.upstream.behave(Behaviour::status(503));
    let flow = Flow { requests: 2400, connections: 20, per_second: Some(300) };
    let mut running = flow.start(stage.edge.address, get);
    let larger = Bound { percent: 50, floor: 100, ttl: 5 * SECOND };
    for (number, sent, budget) in [(2, 800, &second), (3, 1600, &first)] {
        bound::sent(&running, sent).await;
        file.replace(&[version(number, budget)]);
    }
    let Watch { requests, attempts, elapsed, .. } = larger.holds(&mut running, &stage.upstream).await;
    println!(
        "updates in an outage: {requests} requests, {attempts} attempts, at most {}",
        larger.attempts(requests, elapsed)
    );
    assert_eq!(running.answers().get(&503), Some(&2400));
    assert!(attempts > requests + 100);
    serves(stage.edge.address, 3).await;
    wait_granted(&stage.edge, "shop", attempts - requests).await;
    assert_eq!(traps(&stage.edge.envoy), Vec::<String>::new());
}

/// Sends what fails until nothing is retried, and returns the retries.
async fn drain(stage: &mut Stage, round: usize) -> usize {
    let before = stage.upstream.distinct_and_repeated().1;
    for number in 0..40 {
        stage.attempts_of_failing(get(format!("{round}-{number}"))).await;
    }
    let after = stage.upstream.distinct_and_repeated().1;
    wait_granted(&stage.edge, "shop", after).await;
    after - before
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_gives_nobody_a_new_balance() {
    // Ten, twenty and ten again, none of which comes back before the test is over.
    let budget = |retries: u32| fixed(retries);
    let (mut stage, mut file, _scratch) = discovered(&budget(10)).await;
    assert_eq!(drain(&mut stage, 1).await, 10);
    file.replace(&[version(2, &budget(20))]);
    serves(stage.edge.address, 2).await;
    stage.clients = stage.edge.clients(Protocol::Http2).await;
    assert_eq!(drain(&mut stage, 2).await, 10, "twenty less the ten that were spent");
    file.replace(&[version(3, &budget(10))]);
    serves(stage.edge.address, 3).await;
    stage.clients = stage.edge.clients(Protocol::Http2).await;
    assert_eq!(drain(&mut stage, 3).await, 0);
    wait_balance(&stage.edge, "shop", 0).await;
}

/// What is in flight across the update ends by the configuration that it began with.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_across_an_update_is_settled_once() {
    let (mut stage, mut file, _scratch) = discovered(&fixed(8)).await;
    let told = "hang; status=503|status=503";
    let held = [
        stage.hold(get("a").header("x-behave", told)).await,
        stage.hold(get("b").header("x-behave", "hang")).await,
    ];
    // A quarter, two, and then one.
    wait_balance(&stage.edge, "shop", 5).await;
    file.replace(&[version(2, &fixed(8))]);
    serves(stage.edge.address, 2).await;
    wait_balance(&stage.edge, "shop", 5).await;
    stage.upstream.release();
    for pending in held {
        pending.headers().await.expect("an answer").finish().await;
    }
    assert_eq!((stage.upstream.attempts("a"), stage.upstream.attempts("b")), (3, 1));
    wait_balance(&stage.edge, "shop", 6).await;
}
