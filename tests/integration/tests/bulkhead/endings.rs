//! Every way a request can end gives its permit back, once: those of the evidence's table, and what is no evidence.

use crate::*;
use resilience_integration_tests::endings::{TABLE, World, filters_behind, route_of};
use resilience_test_harness::config::{self, cluster, connection_manager, route, virtual_host, with_http2};
use std::sync::Arc;

/// A policy, which holds two, and is held by one when an ending is played.
struct Compartment {
    name: String,
    ending: &'static str,
}

impl Compartment {
    fn hold(&self) -> Request {
        Request::get(&format!("/{}/hold", self.name)).header("x-behave", "hang")
    }

    fn path(&self) -> String {
        format!("/{}/hold", self.name)
    }
}

fn compartments() -> Vec<Compartment> {
    TABLE
        .iter()
        .enumerate()
        .map(|(at, row)| Compartment { name: format!("row{at:03}"), ending: row.ending })
        .collect()
}

/// As the evidence's test has it, with a route to hold requests by before each of its routes.
async fn started(world: &World, compartments: &[Compartment]) -> Edge {
    let policies: Vec<Value> = compartments.iter().map(|it| compartment(&it.name, limit(2))).collect();
    let mut routes = Vec::new();
    for (it, row) in compartments.iter().zip(TABLE) {
        let mut hold = route("hold", &it.path(), "held");
        hold["route"]["timeout"] = "0s".into();
        routes.push(hold);
        routes.extend(route_of(row.route, &format!("/{}", it.name)));
    }
    let mut filters = filters_behind();
    filters.insert(0, filter(&document(&policies)));
    let mut manager = connection_manager(&[virtual_host("all", &routes)], &filters);
    manager["route_config"]["validate_clusters"] = false.into();
    let mut clusters = world.clusters();
    clusters.push(with_http2(cluster("held", &[world.upstream.addr()])));
    Edge::start(config::bootstrap(&[listener("edge", manager)], &clusters)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_ending_gives_its_permit_back_once() {
    let world = Arc::new(World::new().await);
    let compartments = compartments();
    let edge = started(&world, &compartments).await;
    let address = edge.address;
    let mut clients = edge.clients(Protocol::Http2).await;
    let mut held = Vec::new();
    for it in &compartments {
        held.push(clients.next_worker().start(it.hold()).await.unwrap());
    }
    for it in &compartments {
        let what = format!("a held request beside: {}", it.ending);
        eventually(&what, PATIENCE, async || (world.upstream.requests_to(&it.path()) == 1).then_some(()))
            .await;
    }
    // A bucket has at least one token: a path that is the route's but not the policy's takes it.
    for (it, _) in compartments.iter().zip(TABLE).filter(|(_, row)| row.route == "rate_limit") {
        let first = Request::get(&format!("/{}-first", it.name));
        assert_eq!(send_once(address, Protocol::Http1, first).await.unwrap().status, 200);
    }

    let mut playing = Vec::new();
    for (it, row) in compartments.iter().zip(TABLE) {
        let (world, client, path) = (Arc::clone(&world), row.client, format!("/{}", it.name));
        playing.push(tokio::spawn(async move { client.play(address, &world.upstream, &path).await }));
    }
    for (it, task) in compartments.iter().zip(playing) {
        assert_eq!(task.await.unwrap(), Ok(()), "{}", it.ending);
    }
    let full = |name: &str| format!("{name};reason=bulkhead_full;source=none");

    // One permit came back, soon after the client knew, and not two.
    let (mut wrong, started) = (Vec::new(), Instant::now());
    for it in &compartments {
        while world.upstream.requests_to(&it.path()) == 1 && started.elapsed() < PATIENCE {
            let pending = clients.next_worker().start(it.hold()).await.unwrap();
            eventually("an answer or a call", PATIENCE, async || {
                (pending.is_over() || world.upstream.requests_to(&it.path()) > 1).then_some(())
            })
            .await;
            if pending.is_over() {
                assert_eq!(pending.headers().await.unwrap().headers["x-resilience"], full(&it.name));
            } else {
                held.push(pending);
            }
        }
        if world.upstream.requests_to(&it.path()) != 2 {
            wrong.push(format!("no permit came back: {}", it.ending));
            continue;
        }
        for _ in 0..WORKERS {
            let more = Request::get(&it.path());
            if clients.send(more).await.header("x-resilience") != full(&it.name) {
                wrong.push(format!("more than one permit came back: {}", it.ending));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    world.upstream.release();
    for pending in held {
        served(pending).await;
    }
    for it in &compartments {
        wait_gauge(&edge, IN_FLIGHT, &it.name, 0).await;
    }
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_permit_is_enough_for_one_after_the_other() {
    // Answers without a body, and tries behind one permit, end as all others do.
    let upstream = Upstream::start().await;
    let mut retried = patient_route();
    retried["route"]["retry_policy"] = json!({"retry_on": "5xx", "num_retries": 2, "per_try_timeout": "0.2s", "retry_back_off": {"base_interval": "0.01s"}});
    let filter = filter(&document(&[compartment("shop", limit(1))]));
    let edge = Edge::routed(upstream.addr(), &[retried], &[filter]).await;
    let mut shop = Shop::of(upstream, edge).await;
    let words = ["status=200", "status=204; body=", "status=304; body=", "status=503", "close", "hang"];
    let told = words.map(|words| Request::get("/shop").header("x-behave", words));
    let others = [Request::new(Method::HEAD, "/shop"), Request::post("/shop", "a body")];
    for request in told.into_iter().chain(others) {
        shop.ask_when_free("shop", &request).await;
    }
    shop.in_flight("shop", 0).await;
    // A try that hangs, and the next one, which answers: one permit.
    shop.upstream.script([Behaviour::hang(), Behaviour::status(200)]);
    let reached = shop.upstream.requests();
    let pending = shop.start(self::shop()).await;
    shop.upstream.wait_requests(reached + 1).await;
    shop.full_for_all("shop").await;
    served(pending).await;
    assert_eq!(shop.upstream.requests(), reached + 2);
    shop.empty("shop").await;
}
