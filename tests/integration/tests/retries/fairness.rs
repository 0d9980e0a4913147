//! What little there is is shared among all that is in flight.

use crate::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_little_for_each_is_better_than_all_for_the_first() {
    const REQUESTS: usize = 10;
    let budget = json!({"percent_can_retry": 0, "min_retries_per_second": 1, "ttl": "10s"});
    let sections = json!({"retry": {"max_retries": 3}, "retry_budget": budget});
    let mut stage = Stage::open(&shop(&sections)).await;
    stage.upstream.behave(Behaviour::status(503));
    stage.upstream.script(std::iter::repeat_n(Behaviour::status(503).before_headers(Fault::Hang), REQUESTS));
    let born = Instant::now();
    let mut held = Vec::new();
    for number in 0..REQUESTS {
        held.push(stage.hold(get(number)).await);
    }
    stage.upstream.release();
    for pending in held {
        assert_eq!(pending.headers().await.expect("an answer").finish().await.status, 503);
    }
    let bound = Bound { percent: 0, floor: 10, ttl: 10 * SECOND }.retries(REQUESTS, born.elapsed());
    let (_, made) = stage.upstream.distinct_and_repeated();
    let retried = (0..REQUESTS).filter(|number| stage.upstream.attempts(&number.to_string()) > 1).count();
    println!("10 retries for {REQUESTS} requests that want 3 each: {retried} had one or more, {made} in all");
    assert!(made <= bound, "{made} retries, at most {bound}");
    assert!(retried >= 8, "{retried} of {REQUESTS} had a retry");
    wait_granted(&stage.edge, "shop", made).await;
}

/// All together get no more than there is, whatever they hold and for how long.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_reserved_is_not_given_twice() {
    const REQUESTS: usize = 40;
    let sections = json!({"retry": {"max_retries": 3}, "retry_budget": fixed(10)});
    let mut stage = Stage::open(&shop(&sections)).await;
    stage.upstream.behave(Behaviour::status(503));
    stage.upstream.script(std::iter::repeat_n(Behaviour::status(503).before_headers(Fault::Hang), REQUESTS));
    let mut held = Vec::new();
    for number in 0..REQUESTS {
        held.push(stage.hold(get(number)).await);
    }
    wait_balance(&stage.edge, "shop", 0).await;
    // Nobody has retried yet, and there is nothing left for whoever comes now.
    assert_eq!(stage.upstream.distinct_and_repeated(), (REQUESTS, 0));
    assert_eq!(stage.attempts_of_failing(get("late")).await, 1);
    stage.upstream.release();
    for pending in held {
        pending.headers().await.expect("an answer").finish().await;
    }
    assert_eq!(stage.upstream.distinct_and_repeated(), (REQUESTS + 1, 10));
    wait_granted(&stage.edge, "shop", 10).await;
    let denied = [("policy", "shop"), ("reason", "budget")];
    assert!(stage.edge.count(DENIED, &denied).await >= REQUESTS as u64 - 10);
}
