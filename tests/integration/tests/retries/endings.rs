//! Every way a request can end gives back what it had reserved and not used: those of the evidence's table, and what the
//! filter itself ends.

use crate::*;
use resilience_integration_tests::endings::{Row, TABLE, World, filters_behind, route_of};
use resilience_test_harness::config::{self, cluster, connection_manager, route, virtual_host, with_http2};
use std::sync::Arc;

/// Retried is what no ending of the table is, and the budget is the one retry that each reserves.
fn sections() -> Value {
    let retry = json!({"retry_on": ["retriable-4xx"], "non_idempotent": "always"});
    json!({"retry": retry, "retry_budget": fixed(1)})
}

/// The rows whose routes do not retry by themselves: those may use what they were given.
fn rows() -> impl Iterator<Item = (String, &'static Row)> {
    let retries = |row: &Row| ["flaky", "retried", "refused_retried", "per_try"].contains(&row.route);
    TABLE
        .iter()
        .enumerate()
        .filter(move |(_, row)| !retries(row))
        .map(|(at, row)| (format!("row{at:03}"), row))
}

fn conflict(name: &str) -> Request {
    Request::get(&format!("/{name}/conflict")).header("x-behave", "status=409")
}

/// As the evidence's test has it, with a route for what comes after by before each of its routes.
async fn started(world: &World) -> Edge {
    let policies: Vec<Value> = rows().map(|(name, _)| guarded(&name, &sections())).collect();
    let mut routes = Vec::new();
    for (name, row) in rows() {
        routes.push(route("conflict", &format!("/{name}/conflict"), "conflict"));
        routes.extend(route_of(row.route, &format!("/{name}")));
    }
    let mut filters = filters_behind();
    filters.insert(0, filter(&document(&policies)));
    let mut manager = connection_manager(&[virtual_host("all", &routes)], &filters);
    manager["route_config"]["validate_clusters"] = false.into();
    let mut clusters = world.clusters();
    clusters.push(with_http2(cluster("conflict", &[world.upstream.addr()])));
    Edge::start(config::bootstrap(&[listener("edge", manager)], &clusters)).await
}

/// One retry is there, once it has come back, and not two.
async fn one_is_left(
    edge: &Edge,
    clients: &mut Clients,
    upstream: &Upstream,
    name: &str,
) -> Result<(), String> {
    let path = format!("/{name}/conflict");
    let started = Instant::now();
    loop {
        let before = upstream.requests_to(&path);
        assert_eq!(clients.send(conflict(name)).await.status, 409);
        match upstream.requests_to(&path) - before {
            2 => break,
            // What comes too early has none, and takes none.
            1 if started.elapsed() < PATIENCE / 4 => tokio::time::sleep(Duration::from_millis(5)).await,
            attempts => return Err(format!("{attempts} attempts: the retry did not come back")),
        }
    }
    wait_granted(edge, name, 1).await;
    let before = upstream.requests_to(&path);
    for _ in 0..WORKERS {
        clients.send(conflict(name)).await;
    }
    let attempts = upstream.requests_to(&path) - before;
    if attempts == WORKERS { Ok(()) } else { Err(format!("{attempts} attempts: more than one came back")) }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_ending_gives_back_what_it_did_not_use() {
    let world = Arc::new(World::new().await);
    let edge = started(&world).await;
    let address = edge.address;
    // A bucket has at least one token: a path that is the route's but not the policy's takes it.
    for (name, _) in rows().filter(|(_, row)| row.route == "rate_limit") {
        let first = Request::get(&format!("/{name}-first"));
        assert_eq!(send_once(address, Protocol::Http1, first).await.unwrap().status, 200);
    }
    let mut playing = Vec::new();
    for (name, row) in rows() {
        let (world, client, path) = (Arc::clone(&world), row.client, format!("/{name}"));
        playing.push(tokio::spawn(async move { client.play(address, &world.upstream, &path).await }));
    }
    for ((_, row), task) in rows().zip(playing) {
        assert_eq!(task.await.unwrap(), Ok(()), "{}", row.ending);
    }
    let mut clients = edge.clients(Protocol::Http2).await;
    let mut wrong = Vec::new();
    for (name, row) in rows() {
        if let Err(error) = one_is_left(&edge, &mut clients, &world.upstream, &name).await {
            wrong.push(format!("{}: {error}", row.ending));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(edge.count("resilience_store_give_ups_total", &[]).await, 0);
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}

/// A stage whose policy `shop` has one retry, a bulkhead of one and a breaker.
async fn narrow() -> Stage {
    let mut sections = sections();
    sections["bulkhead"] = json!({"max_concurrent_calls": 1, "max_wait_duration": "5m", "max_queue": 1});
    Stage::open(&shop(&sections)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_in_vain_or_is_refused_keeps_nothing() {
    let mut stage = narrow().await;
    for _ in 0..WORKERS {
        let held = stage.hold(Request::get("/shop").header("x-behave", "hang")).await;
        let waiting = stage.start(Request::get("/shop")).await;
        let in_queue = [("policy", "shop")];
        stage.edge.wait_count("resilience_bulkhead_waiting", &in_queue, 1).await;
        let refused = stage.ask(Request::get("/shop")).await;
        assert_eq!(refused.header("x-resilience"), "shop;reason=bulkhead_full;source=none");
        waiting.abandon();
        stage.edge.wait_count("resilience_bulkhead_waiting", &in_queue, 0).await;
        stage.upstream.release();
        assert_eq!(held.headers().await.expect("an answer").finish().await.status, 200);
        stage.edge.wait_count("resilience_bulkhead_in_flight", &in_queue, 0).await;
    }
    let Stage { upstream, edge, mut clients } = stage;
    one_is_left(&edge, &mut clients, &upstream, "shop").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_open_breaker_refuses_keeps_nothing() {
    let mut sections = sections();
    sections["circuit_breaker"] = json!({"consecutive_failures": 1, "wait_duration_in_open_state": "300ms"});
    let mut stage = Stage::open(&shop(&sections)).await;
    assert_eq!(stage.attempts_of_failing(Request::get("/shop")).await, 1);
    let opened = Instant::now();
    for _ in 0..WORKERS {
        let answer = stage.ask(Request::get("/shop")).await;
        // On a machine that stood still meanwhile it may be a probe.
        assert!(answer.status == 503 || opened.elapsed() > Duration::from_millis(300), "{answer:?}");
    }
    eventually("a closed breaker", PATIENCE, async || {
        stage.ask(Request::get("/shop")).await;
        (stage.edge.state("shop").await == Some(0)).then_some(())
    })
    .await;
    let Stage { upstream, edge, mut clients } = stage;
    one_is_left(&edge, &mut clients, &upstream, "shop").await.unwrap();
}

/// The same where the last one is what is left of many.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_of_many_comes_back_too() {
    let mut sections = sections();
    sections["retry_budget"] = json!({"percent_can_retry": 0, "min_retries_per_second": 1, "ttl": "60s"});
    let stage = Stage::open(&shop(&sections)).await;
    let Stage { upstream, edge, mut clients } = stage;
    for _ in 0..59 {
        let before = upstream.requests();
        clients.send(conflict("shop")).await;
        assert_eq!(upstream.requests(), before + 2);
    }
    wait_granted(&edge, "shop", 59).await;
    for worker in 0..WORKERS {
        let hanging = Request::get("/shop").header("x-behave", "hang");
        let reached = upstream.requests();
        let pending = clients.worker(worker).start(hanging).await.unwrap();
        upstream.wait_requests(reached + 1).await;
        // While it is reserved nobody else has it.
        let before = upstream.requests();
        clients.send(conflict("shop")).await;
        assert_eq!(upstream.requests(), before + 1);
        pending.abandon();
        wait_balance(&edge, "shop", 1).await;
    }
    let before = upstream.requests();
    clients.send(conflict("shop")).await;
    assert_eq!(upstream.requests(), before + 2);
    wait_granted(&edge, "shop", 60).await;
    wait_balance(&edge, "shop", 0).await;
}
