//! A line for each transition: of which breaker, why, by which numbers, and which request led to it.

use crate::*;
use resilience_test_harness::config::{self, cluster, route, with_http2};

const WAIT: Duration = Duration::from_millis(300);

struct Scene {
    upstream: Upstream,
    edge: Edge,
    clients: Clients,
}

impl Scene {
    async fn open(policies: &[Value]) -> Self {
        let upstream = Upstream::start().await;
        let document = document(policies);
        let mut hurried = route("hurried", "/timeout", UPSTREAM);
        hurried["route"]["timeout"] = "0.3s".into();
        let mut retried = patient_route();
        retried["match"]["prefix"] = "/retried".into();
        retried["route"]["retry_policy"] = json!({"retry_on": "5xx", "num_retries": 2});
        let routes = [
            route("a", "/keyed/a", "a"),
            route("b", "/keyed/b", "b"),
            route("grpc", "/grpc", "h2"),
            route("refused", "/connect", "refused"),
            hurried,
            retried,
            patient_route(),
        ];
        let listeners = [routed_listener("edge", &routes, &[filter(&document)]), control_listener(&document)];
        let mut clusters: Vec<Value> =
            ["a", "b", UPSTREAM].map(|name| cluster(name, &[upstream.addr()])).into();
        clusters.push(with_http2(cluster("h2", &[upstream.addr()])));
        clusters.push(cluster("refused", &[refused_address()]));
        let edge = Edge::start(config::bootstrap(&listeners, &clusters)).await;
        let clients = edge.clients(Protocol::Http2).await;
        Self { upstream, edge, clients }
    }

    /// Sends a request of this identity by way of the next worker.
    async fn ask(&mut self, path: &str, behaviour: &str, id: &str) -> Answer {
        self.clients.send(named(path, behaviour, id)).await
    }

    /// The same, for the policy of this name and with this status.
    async fn get(&mut self, policy: &str, status: u16, id: &str) {
        let answer = self.ask(&format!("/{policy}"), &format!("status={status}"), id).await;
        assert_eq!(answer.status, status, "{policy} {id}");
    }

    async fn order(&self, path: &str, id: &str) {
        let address = self.edge.envoy.addr("control").await;
        let order = Request::post(path, "").header("x-request-id", id);
        assert_eq!(send_once(address, Protocol::Http1, order).await.unwrap().status, 200, "{path}");
    }
}

fn probing(stay: &str) -> Value {
    json!({
        "consecutive_failures": 3,
        "wait_duration_in_open_state": "300ms",
        "permitted_number_of_calls_in_half_open_state": 1,
        "max_wait_duration_in_half_open_state": stay,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn each_transition_is_told_once_with_the_request_that_led_to_it() {
    let rate = |key: &str| {
        json!({
            key: 50, "sliding_window_size": 4, "minimum_number_of_calls": 4,
            "slow_call_duration_threshold": "2s", "wait_duration_in_open_state": FOR_EVER,
        })
    };
    let mut keyed = policy("keyed", once());
    keyed["key"] = "upstream_cluster".into();
    let mut scene = Scene::open(&[
        policy("probing", probing(FOR_EVER)),
        policy("overstayed", probing("400ms")),
        policy("window", json!({"failures_in_window": {"failures": 2, "window": "60s"}})),
        policy("rate", rate("failure_rate_threshold")),
        policy("slow", rate("slow_call_rate_threshold")),
        policy("steered", once()),
        keyed,
    ])
    .await;

    // Three in a row, each on another worker.
    for id in ["p-1", "p-2", "p-3"] {
        scene.get("probing", 500, id).await;
    }
    let tripped = "warning circuit breaker closed -> open cause=consecutive_failures count=3 limit=3 generation=1 request_id=p-3";
    pass(Instant::now(), WAIT).await;
    scene.get("probing", 500, "p-4").await;
    pass(Instant::now(), WAIT).await;
    scene.get("probing", 200, "p-5").await;
    wait_said(
        &scene.edge,
        "probing",
        &[
            tripped,
            "info circuit breaker open -> half_open cause=wait_over generation=2 request_id=p-4",
            "warning circuit breaker half_open -> open cause=probes calls=1 failed=1 slow=0 generation=3 request_id=p-4",
            "info circuit breaker open -> half_open cause=wait_over generation=4 request_id=p-5",
            "info circuit breaker half_open -> closed cause=probes calls=1 failed=0 slow=0 generation=5 request_id=p-5",
        ],
    )
    .await;

    // Time ends a stay in half-open, and no request.
    for id in ["o-1", "o-2", "o-3"] {
        scene.get("overstayed", 500, id).await;
    }
    pass(Instant::now(), WAIT).await;
    let before = scene.upstream.requests();
    let request = named("/overstayed", "hang", "o-4");
    let late = scene.clients.next_worker().start(request).await.unwrap();
    scene.upstream.wait_requests(before + 1).await;
    wait_said(
        &scene.edge,
        "overstayed",
        &[
            &tripped.replace("p-3", "o-3"),
            "info circuit breaker open -> half_open cause=wait_over generation=2 request_id=o-4",
            "warning circuit breaker half_open -> open cause=half_open_timeout generation=3",
        ],
    )
    .await;
    scene.upstream.release();
    assert_eq!(late.headers().await.unwrap().finish().await.status, 200);

    for (id, status) in [("w-1", 500), ("w-2", 200), ("w-3", 500)] {
        scene.get("window", status, id).await;
    }
    let opened = |words: &str, id: &str| {
        format!("warning circuit breaker closed -> open cause={words} generation=1 request_id={id}")
    };
    wait_said(&scene.edge, "window", &[&opened("failures_in_window count=2 limit=2", "w-3")]).await;

    // The last one decides, though it succeeds.
    for (id, status) in [("r-1", 500), ("r-2", 200), ("r-3", 500), ("r-4", 200)] {
        scene.get("rate", status, id).await;
    }
    let words = "failure_rate_threshold failure_rate=50 threshold=50 calls=4 failed=2 slow=0";
    wait_said(&scene.edge, "rate", &[&opened(words, "r-4")]).await;

    for (id, status) in [("s-1", 500), ("s-2", 200), ("s-3", 200)] {
        let behaviour = format!("status={status};delay={}ms", if id == "s-3" { 2100 } else { 0 });
        assert_eq!(scene.ask("/slow", &behaviour, id).await.status, status);
    }
    assert_eq!(scene.ask("/slow", "status=200;delay=2100ms", "s-4").await.status, 200);
    let words = "slow_call_rate_threshold slow_call_rate=50 threshold=50 calls=4 failed=1 slow=2";
    wait_said(&scene.edge, "slow", &[&opened(words, "s-4")]).await;

    assert_eq!(scene.ask("/keyed/a", "status=500", "k-1").await.status, 500);
    assert_eq!(scene.ask("/keyed/b", "status=500", "k-2").await.status, 500);
    let words = opened("consecutive_failures count=1 limit=1", "k-");
    let key = |key: &str, id: u32| words.replace("circuit", &format!("key {key}: circuit")) + &id.to_string();
    wait_said(&scene.edge, "keyed", &[&key("a", 1), &key("b", 2)]).await;

    // The order is a request, too.
    scene.order("/breakers/steered/open?for=1s", "c-1").await;
    pass(Instant::now(), Duration::from_secs(1)).await;
    scene.get("steered", 500, "c-2").await;
    scene.order("/breakers/steered/reset", "c-3").await;
    wait_said(
        &scene.edge,
        "steered",
        &[
            "warning circuit breaker closed -> open cause=forced generation=1 request_id=c-1",
            "info circuit breaker open -> half_open cause=wait_over generation=2 request_id=c-2",
            "warning circuit breaker half_open -> open cause=probes calls=1 failed=1 slow=0 generation=3 request_id=c-2",
            "warning circuit breaker open -> closed cause=forced generation=4 request_id=c-3",
        ],
    )
    .await;
    assert_eq!(traps(&scene.edge.envoy), Vec::<String>::new());
}

/// One failure after the other, by workers that have each seen some of them and believe that for a moment.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_of_many_failures_is_named_whoever_saw_the_others() {
    let limits: Vec<usize> = (2..=12).collect();
    let policies = limits.iter().map(|limit| {
        let breaker = json!({"consecutive_failures": limit, "wait_duration_in_open_state": FOR_EVER});
        policy(&format!("shop-{limit}"), breaker)
    });
    let policies: Vec<Value> = policies.collect();
    let mut scene = Scene::open(&policies).await;
    for limit in limits {
        let name = format!("shop-{limit}");
        // Each worker believes that all is well.
        for _ in 0..WORKERS {
            scene.get(&name, 200, "well").await;
        }
        for number in 1..=limit {
            scene.get(&name, 500, &number.to_string()).await;
        }
        let words =
            format!("closed -> open cause=consecutive_failures count={limit} limit={limit} generation=1");
        wait_said(&scene.edge, &name, &[&format!("warning circuit breaker {words} request_id={limit}")])
            .await;
    }
}

/// However the request ends that led to it, and wherever in it that is known.
#[tokio::test(flavor = "multi_thread")]
async fn however_a_request_fails_it_is_named() {
    let ways = ["status", "reset", "close", "timeout", "connect", "grpc", "total", "body", "retried"];
    let policies = ways.map(|name| {
        let mut policy = policy(name, once());
        if name == "total" {
            policy["timeout"] = json!({"total": "300ms"});
        }
        policy
    });
    let mut scene = Scene::open(&policies).await;
    for (name, behaviour) in [
        ("status", "status=503"),
        ("reset", "reset"),
        ("close", "close"),
        ("timeout", "hang"),
        ("connect", "status=200"),
        ("total", "hang"),
        ("body", "reset-mid-body"),
        ("retried", "status=503"),
    ] {
        let request = named(&format!("/{name}"), behaviour, &format!("id-{name}"));
        let answer = scene.clients.next_worker().start(request).await.unwrap().headers().await.unwrap();
        let answer = answer.finish().await;
        assert!(answer.status >= 500 || answer.broken.is_some(), "{name}: {answer:?}");
    }
    let call =
        Request::grpc("/grpc/Shop/Buy").header("x-request-id", "id-grpc").header("x-behave", "grpc=14");
    assert_eq!(scene.clients.send(call).await.trailer("grpc-status"), "14");
    for name in ways {
        let words = "closed -> open cause=consecutive_failures count=1 limit=1 generation=1";
        let line = format!("warning circuit breaker {words} request_id=id-{name}");
        wait_said(&scene.edge, name, &[&line]).await;
    }
    scene.upstream.release();
}

/// All workers at once: one of the failures is the last that counts.
#[tokio::test(flavor = "multi_thread")]
async fn many_failures_at_once_lead_to_one_line() {
    const LIMIT: usize = 40;
    let breaker = json!({"consecutive_failures": LIMIT, "wait_duration_in_open_state": FOR_EVER});
    let names: Vec<String> = (0..5).map(|number| format!("shop-{number}")).collect();
    let policies: Vec<Value> = names.iter().map(|name| policy(name, breaker.clone())).collect();
    let scene = Scene::open(&policies).await;
    for name in &names {
        let ask = |number: usize| named(&format!("/{name}"), "status=500", &format!("{name}-{number}"));
        let answers = burst(scene.edge.address, Protocol::Http1, 200, 16, ask).await;
        assert!(answers.iter().all(Result::is_ok));
        assert_eq!(
            scene.edge.count("resilience_circuit_breaker_transitions_total", &[("policy", name)]).await,
            1
        );
        let lines = said(&scene.edge, name);
        let turned: Vec<_> = lines.iter().filter(|line| line.contains("circuit breaker")).collect();
        let words = "warning circuit breaker closed -> open cause=consecutive_failures count=40 limit=40 generation=1";
        let [line] = turned[..] else { panic!("{lines:#?}") };
        let id = line.strip_prefix(&format!("{words} request_id={name}-")).expect(line);
        assert!(id.parse::<usize>().is_ok_and(|number| number < 200), "{line}");
    }
}
