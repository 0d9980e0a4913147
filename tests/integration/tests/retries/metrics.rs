//! What operators see of retries and of what is left of a budget, and budgets that only watch.

use crate::*;

const BUDGET: [(&str, &str); 2] = [("policy", "shop"), ("reason", "budget")];

#[tokio::test(flavor = "multi_thread")]
async fn every_retry_and_every_denial_is_counted() {
    let sections = json!({
        "retry": {"max_retries": 3},
        "retry_budget": {"min_retries_per_second": 10, "ttl": "2s"},
    });
    let stage = Stage::open(&shop(&sections)).await;
    // Before anything happens it can be seen what there is.
    wait_balance(&stage.edge, "shop", 20).await;
    stage.upstream.behave(Behaviour::status(503));
    let mut running =
        Flow { requests: 400, connections: 20, per_second: None }.start(stage.edge.address, get);
    running.watch(|_| ()).await;
    let (requests, made) = stage.upstream.distinct_and_repeated();
    assert_eq!(requests, 400);
    wait_granted(&stage.edge, "shop", made).await;
    let (denied, for_want) = (retries(&stage.edge, "denied").await, stage.edge.count(DENIED, &BUDGET).await);
    let short = (0..requests).filter(|number| stage.upstream.attempts(&number.to_string()) < 4).count();
    println!("{requests} requests: {made} retries granted, {denied} requests denied some");
    assert!(short > 0);
    assert_eq!((denied, for_want), (short as u64, denied), "each that had fewer than three");
    let labels = [("policy", "shop")];
    assert_eq!(stage.edge.count(DENIED, &labels).await, denied, "for this reason alone");
    stage.edge.wait_calls("shop", Calls { failure: 400, ..Calls::default() }).await;
    // What was spent comes back as it leaves the window, and what was paid goes.
    wait_balance(&stage.edge, "shop", 20).await;
    stage.upstream.behave(Behaviour::status(200));
    for number in 0..20 {
        assert_eq!(send_once(stage.edge.address, Protocol::Http1, get(number)).await.unwrap().status, 200);
    }
    assert_eq!(retries(&stage.edge, "denied").await, denied, "who does not fail is denied nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gauge_falls_in_an_outage_and_comes_back() {
    let mut stage = Stage::open(&shop(&json!({
        "retry": {"max_retries": 3},
        "retry_budget": {"percent_can_retry": 0, "min_retries_per_second": 4, "ttl": "5s"},
    })))
    .await;
    wait_balance(&stage.edge, "shop", 20).await;
    let mut last = 20;
    for number in 0..3 {
        let attempts = stage.attempts_of_failing(get(number)).await as u64;
        assert!(attempts > 1);
        last -= attempts - 1;
        wait_balance(&stage.edge, "shop", last).await;
    }
    wait_balance(&stage.edge, "shop", 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_budget_there_is_no_balance_to_show() {
    let sections = json!({"retry": {"max_retries": 1}, "retry_budget": null});
    let mut stage = Stage::open(&shop(&sections)).await;
    assert_eq!(stage.attempts_of_failing(get("one")).await, 2);
    wait_granted(&stage.edge, "shop", 1).await;
    let names = stage.edge.envoy.prometheus().await;
    assert!(!names.names().contains(&BALANCE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_in_shadow_denies_nothing_and_says_what_it_would_have() {
    let mut budget = fixed(5);
    budget["mode"] = "shadow".into();
    // Two of the route's could have had all they made of five; nobody that is in the filter's charge has more than a quarter.
    for (route, sections, least) in [
        (retrying_route(2), json!({"retry_budget": budget}), 18),
        (patient_route(), json!({"retry_budget": budget, "retry": {"max_retries": 2}}), 20),
    ] {
        let mut stage = Stage::routed(&[route], &[filter(&shop(&sections))]).await;
        for number in 0..20 {
            assert_eq!(stage.attempts_of_failing(get(number)).await, 3, "{sections}");
        }
        wait_granted(&stage.edge, "shop", 40).await;
        let labels = [("policy", "shop"), ("reason", "retry_denied")];
        let would = stage.edge.count(SHADOW, &labels).await;
        println!("shadow, 5 retries for 20 requests that make 2 each: {would} would have been denied some");
        assert!((least..=20).contains(&would), "{would}: {sections}");
        assert_eq!(retries(&stage.edge, "denied").await, 0);
        wait_balance(&stage.edge, "shop", 0).await;
    }
}

/// What may do harm a budget denies, too, or would: its route repeats it all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_budget_in_shadow_says_what_it_would_not_have_had_repeated() {
    let sections = json!({"retry_budget": {"mode": "shadow"}});
    let mut stage = Stage::routed(&[retrying_route(2)], &[filter(&shop(&sections))]).await;
    let would = [("policy", "shop"), ("reason", "retry_denied")];
    for posts in 1..=WORKERS {
        assert_eq!(stage.attempts_of_failing(Request::post("/shop", "a body")).await, 3);
        stage.edge.wait_count(SHADOW, &would, posts as u64).await;
        // What may be repeated is not among them, nor what need not be.
        assert_eq!(stage.attempts_of_failing(get(posts)).await, 3);
        assert_eq!(stage.ask(Request::post("/shop", "a body")).await.status, 200);
        wait_granted(&stage.edge, "shop", 4 * posts).await;
        assert_eq!(stage.edge.count(SHADOW, &would).await, posts as u64);
    }
    let calls = Calls { success: WORKERS as u64, failure: 2 * WORKERS as u64, ..Calls::default() };
    stage.edge.wait_calls("shop", calls).await;
    assert_eq!(stage.edge.count(SHADOW, &would).await, WORKERS as u64);
    assert_eq!(retries(&stage.edge, "denied").await, 0);
    assert_eq!(stage.edge.count(DENIED, &[("policy", "shop")]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_in_shadow_or_disabled_leave_the_route_as_it_is() {
    let post = || Request::post("/shop", "");
    for mode in ["shadow", "disabled"] {
        // The mode of the policy is that of its budget too; where only `retry` has one, the budget caps the route's own
        // retries, and sees to it that nothing is repeated that might do harm.
        for (retry_budget, of_policy, posts) in
            [(Value::Null, false, 3), (json!({}), true, 3), (json!({}), false, 1)]
        {
            let mut sections = json!({"retry": {"max_retries": 1}, "retry_budget": retry_budget});
            if of_policy {
                sections["mode"] = mode.into();
            } else {
                sections["retry"]["mode"] = mode.into();
            }
            let mut stage = Stage::routed(&[retrying_route(2)], &[filter(&shop(&sections))]).await;
            for number in 0..2 * WORKERS {
                assert_eq!(stage.attempts_of_failing(get(number)).await, 3, "{sections}");
            }
            assert_eq!(stage.attempts_of_failing(post()).await, posts, "{sections}");
        }
    }
}
