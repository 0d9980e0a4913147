//! A scripted day, and what is told of it.

use super::*;
use std::time::{Duration, Instant};

fn document() -> Value {
    let breaker = |more: Value| {
        let mut breaker = json!({
            "consecutive_failures": 1,
            "wait_duration_in_open_state": "100ms",
            "permitted_number_of_calls_in_half_open_state": 3,
        });
        breaker.as_object_mut().unwrap().append(&mut more.as_object().unwrap().clone());
        breaker
    };
    let mut keyed = policy("keyed", breaker(json!({"wait_duration_in_open_state": "10m"})));
    keyed["key"] = "upstream_cluster".into();
    let ramp = json!({"permitted_number_of_calls_in_half_open_state": 1, "ramp_up": {"duration": "1h", "initial": 50}});
    super::document(&[
        policy("tripping", breaker(json!({"consecutive_failures": 2, "wait_duration_in_open_state": "10m"}))),
        policy("probing", breaker(json!({}))),
        policy("ramping", breaker(ramp)),
        policy("watched", breaker(json!({"mode": "shadow", "wait_duration_in_open_state": "10m"}))),
        policy("fixed", breaker(json!({"mode": "forced_open"}))),
        policy("forced", breaker(json!({}))),
        keyed,
        guarded(
            "crowded",
            &json!({"bulkhead": {"max_concurrent_calls": 2, "max_wait_duration": "60s", "max_queue": 4}}),
        ),
        // No retry leaves the window before the test has ended.
        guarded(
            "retrying",
            &json!({
                "retry": {"max_retries": 1},
                "retry_budget": {"percent_can_retry": 0, "min_retries_per_second": 1, "ttl": "60s"},
            }),
        ),
        json!({"name": "plain", "match": [{"path": {"prefix": "/plain"}}]}),
    ])
}

struct Day {
    upstream: Upstream,
    edge: Edge,
    clients: Clients,
    operator: Operator,
}

impl Day {
    async fn new() -> Self {
        let upstream = Upstream::start().await;
        let edge = edge_of(&module(), &upstream, &document()).await;
        // Over HTTP/2, so that what hangs or waits takes no connection.
        let clients = edge.clients(Protocol::Http2).await;
        let operator = Operator::new(&edge).await;
        Self { upstream, edge, clients, operator }
    }

    async fn fail(&mut self, path: &str) {
        assert_eq!(self.clients.get(path, "status=500").await, 500, "{path}");
    }

    async fn hang(&mut self, path: &str) -> Pending {
        let request = Request::get(path).header("x-behave", "hang");
        self.clients.next_worker().start(request).await.unwrap()
    }

    /// Refused by every worker: so far they agree on what is told.
    async fn refused(&mut self, path: &str) {
        for _ in 0..WORKERS {
            assert_eq!(self.clients.get(path, "status=200").await, 503, "{path}");
        }
    }

    /// Lets a breaker's wait of 100 ms pass.
    async fn wait(&self) {
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_is_told_from_trip_to_ramp() {
    let mut day = Day::new().await;
    assert_eq!(day.operator.health("tripping", None).await, ("healthy".to_owned(), String::new()));

    day.fail("/tripping").await;
    let told = day.operator.breaker("tripping").await;
    assert_eq!((&told["state"], &told["generation"]), (&json!("closed"), &json!(0)));
    assert_eq!(told["evidence"]["consecutive_failures"], json!({"count": 1, "limit": 2}));
    let before = Instant::now();
    day.fail("/tripping").await;
    let told = day.operator.breaker("tripping").await;
    assert_eq!((&told["state"], &told["generation"]), (&json!("open"), &json!(1)));
    // Milliseconds are rounded down.
    let (rest, wait) = (told["wait_remaining_ms"].as_u64().unwrap(), 600_000);
    assert!(
        rest <= wait && u128::from(rest) + before.elapsed().as_millis() + 1 >= u128::from(wait),
        "{rest}"
    );
    let [change] = told["transitions"].as_array().unwrap().as_slice() else { panic!("{told}") };
    assert_eq!((&change["from"], &change["to"]), (&json!("closed"), &json!("open")));
    assert_eq!(change["cause"], "consecutive_failures");
    assert_eq!(change["numbers"], json!({"count": 2, "limit": 2}));
    assert!(change["age_ms"].as_u64().unwrap() <= u64::try_from(before.elapsed().as_millis()).unwrap());
    day.refused("/tripping").await;
    assert_eq!(day.operator.health("tripping", None).await.0, "down");
    assert_eq!(day.operator.get("/dependencies").await["overall"], "down");

    // Half-open with two of three probes out.
    day.fail("/probing").await;
    day.wait().await;
    assert_eq!(day.operator.health("probing", None).await, ("down".to_owned(), "awaiting_probe".to_owned()));
    let probes = [day.hang("/probing").await, day.hang("/probing").await];
    day.upstream.wait_in_flight(2).await;
    let told = day.operator.breaker("probing").await;
    let out = json!({"permitted": 3, "in_flight": 2, "answered": 0, "failed": 0, "slow": 0});
    assert_eq!((&told["state"], &told["probes"]), (&json!("half_open"), &out));
    assert_eq!(day.operator.health("probing", None).await, ("degraded".to_owned(), "half_open".to_owned()));
    day.upstream.release();
    for probe in probes {
        assert_eq!(probe.headers().await.unwrap().status, 200);
    }
    let probes = async || {
        let probes = day.operator.breaker("probing").await["probes"].take();
        (probes["answered"] == 2).then_some(probes)
    };
    let told = eventually("two answers", PATIENCE, probes).await;
    assert_eq!(told["in_flight"], 0);
    assert_eq!(day.clients.get("/probing", "status=200").await, 200);
    let told = eventually("a breaker that has closed", PATIENCE, async || {
        let told = day.operator.breaker("probing").await;
        (told["state"] == "closed").then_some(told)
    })
    .await;
    let changes = told["transitions"].as_array().unwrap();
    let causes: Vec<_> = changes.iter().map(|change| change["cause"].as_str().unwrap()).collect();
    assert_eq!(causes, ["consecutive_failures", "wait_over", "probes"]);
    assert_eq!(changes[2]["numbers"], json!({"calls": 3, "failed": 0, "slow": 0}));
    let times: Vec<_> = changes.iter().map(|change| change["at"].as_str().unwrap()).collect();
    assert!(
        times.is_sorted() && times.iter().all(|time| time.len() == 24 && time.ends_with('Z')),
        "{times:?}"
    );
    let ages: Vec<_> = changes.iter().map(|change| change["age_ms"].as_u64().unwrap()).collect();
    assert!(ages.is_sorted_by(|earlier, later| earlier >= later) && ages[0] >= ages[1] + 100, "{ages:?}");
    let generations: Vec<_> = changes.iter().map(|change| change["generation"].as_u64().unwrap()).collect();
    assert_eq!(generations, [1, 2, 3]);
    assert_eq!(day.edge.transitions("probing", "closed", "probes").await, 1);

    // Ramping up: an hour from a half to the whole.
    day.fail("/ramping").await;
    day.wait().await;
    assert_eq!(day.clients.get("/ramping", "status=200").await, 200);
    let told = eventually("a breaker that ramps up", PATIENCE, async || {
        let told = day.operator.breaker("ramping").await;
        (told["state"] == "closed").then_some(told)
    })
    .await;
    let share = told["ramp_up_percent"].as_f64().unwrap();
    assert!((50.0..52.0).contains(&share), "{share}");
    assert_eq!(day.operator.health("ramping", None).await, ("degraded".to_owned(), "ramping_up".to_owned()));
    assert_eq!(traps(&day.edge.envoy), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn modes_keys_and_orders_are_told() {
    let mut day = Day::new().await;
    day.fail("/watched").await;
    let told = day.operator.breaker("watched").await;
    assert_eq!((&told["mode"], &told["state"]), (&json!("shadow"), &json!("open")));
    // On paper only: everybody is let in, and the one word is not the worse for it.
    assert_eq!(day.clients.get("/watched", "status=200").await, 200);
    let dependencies = day.operator.get("/dependencies").await;
    let watched =
        dependencies["dependencies"].as_array().unwrap().iter().find(|it| it["policy"] == "watched");
    let expected = json!({
        "policy": "watched", "health": "down", "reason": "circuit_open", "enforced": false, "critical": true
    });
    assert_eq!(watched, Some(&expected));

    assert_eq!(day.operator.breaker("fixed").await, json!({"mode": "forced_open", "state": "open"}));
    assert_eq!(day.operator.health("fixed", None).await, ("down".to_owned(), "forced_open".to_owned()));

    order(&day.edge, "/breakers/forced/open?for=1h").await;
    let told = day.operator.breaker("forced").await;
    let change = &told["transitions"][0];
    assert_eq!(
        (&told["state"], &change["cause"], &change["to"]),
        (&json!("open"), &json!("forced"), &json!("open"))
    );
    assert!((3_000_000..=3_600_000).contains(&told["wait_remaining_ms"].as_u64().unwrap()), "{told}");
    order(&day.edge, "/breakers/forced/closed?for=1h").await;
    let told = day.operator.breaker("forced").await;
    assert!((3_000_000..=3_600_000).contains(&told["held_closed_remaining_ms"].as_u64().unwrap()), "{told}");
    assert_eq!(day.operator.health("forced", None).await, ("unknown".to_owned(), "held_closed".to_owned()));

    // Each upstream cluster by itself.
    assert_eq!(day.operator.policy("keyed").await["keys"], json!([]));
    assert_eq!(day.clients.get("/keyed/b", "status=200").await, 200);
    day.fail("/keyed/a").await;
    day.refused("/keyed/a").await;
    let told = day.operator.policy("keyed").await;
    let states: Vec<_> = told["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (&it["key"], &it["circuit_breaker"]["state"]))
        .collect();
    assert_eq!(states, [(&json!("b"), &json!("closed")), (&json!("a"), &json!("open"))]);
    assert_eq!(told["circuit_breaker"]["state"], "closed");
    assert_eq!(day.operator.health("keyed", Some("a")).await.0, "down");
    assert_eq!(day.operator.health("keyed", Some("b")).await.0, "healthy");

    assert_eq!(day.operator.policy("plain").await, json!({"name": "plain", "mode": "enforce"}));
    assert_eq!(traps(&day.edge.envoy), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_waits_or_is_left_of_a_budget_is_told() {
    let mut day = Day::new().await;
    assert_eq!(day.operator.health("crowded", None).await, ("unknown".to_owned(), "never_used".to_owned()));
    let mut inside = vec![day.hang("/crowded").await, day.hang("/crowded").await];
    day.upstream.wait_in_flight(2).await;
    for _ in 0..3 {
        inside.push(day.hang("/crowded").await);
    }
    let crowd = json!({"mode": "enforce", "in_flight": 2, "limit": 2, "waiting": 3, "max_queue": 4});
    eventually("three that wait", PATIENCE, async || {
        (day.operator.policy("crowded").await["bulkhead"] == crowd).then_some(())
    })
    .await;
    assert_eq!(day.upstream.in_flight(), 2);
    assert_eq!(
        day.operator.health("crowded", None).await,
        ("degraded".to_owned(), "bulkhead_full".to_owned())
    );
    // Every worker tells the same.
    for _ in 0..WORKERS {
        assert_eq!(day.operator.policy("crowded").await["bulkhead"], crowd);
    }
    // The two in flight end, two of those that wait follow, and so on.
    for (arrived, left) in [(2, (2, 1)), (4, (1, 0)), (5, (0, 0))] {
        day.upstream.wait_requests(arrived).await;
        day.upstream.release();
        let seen = async || {
            let told = day.operator.policy("crowded").await["bulkhead"].take();
            ((&told["in_flight"], &told["waiting"]) == (&json!(left.0), &json!(left.1))).then_some(())
        };
        eventually("what is left", PATIENCE, seen).await;
    }
    for pending in inside {
        assert_eq!(pending.headers().await.unwrap().status, 200);
    }
    assert_eq!(day.operator.health("crowded", None).await.0, "healthy");

    // Sixty retries are there, and the upstream knows how many were made.
    for number in 0..5 {
        let request = Request::get("/retrying")
            .header("x-id", format!("r{number}"))
            .header("x-behave", "status=503|status=200");
        assert_eq!(day.clients.send(request).await.status, 200);
    }
    let (requests, repeated) = (5, day.upstream.requests_to("/retrying") - 5);
    assert_eq!(repeated, requests);
    let told = eventually("all retries settled", PATIENCE, async || {
        let told = day.operator.policy("retrying").await["retry_budget"].take();
        (told["reserved"] == 0).then_some(told)
    })
    .await;
    assert_eq!(told["balance"], 60 - repeated);
    assert_eq!(traps(&day.edge.envoy), Vec::<String>::new());
}
