//! Who looks on, whoever is looked at, and whatever breaks: each is apart from the others.

use super::*;
use std::time::Instant;

fn everything() -> Value {
    let once = json!({"consecutive_failures": 1, "wait_duration_in_open_state": "10m"});
    let mut keyed = policy("keyed", once.clone());
    keyed["key"] = "upstream_cluster".into();
    document(&[
        policy("once", once),
        keyed,
        guarded("crowded", &json!({"bulkhead": {"max_concurrent_calls": 1}})),
        policy("fixed", json!({"consecutive_failures": 1})),
    ])
}

/// A machine is told, sooner or later, that somebody is there and that every VM is: a process that is held up may look
/// silent for a moment.
async fn settled(operator: &mut Operator) {
    let live = operator.0.send(Request::get("/live")).await;
    assert_eq!((live.status, said(&live)), (200, json!({"live": true})));
    // One for each worker, and that of the main thread.
    let all = json!({"ready": true, "vms_alive": WORKERS + 1, "configurations": 1});
    eventually("a sign of life of every VM", PATIENCE, async || {
        let answer = operator.0.send(Request::get("/ready")).await;
        (answer.status == 200 && said(&answer) == all).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn liveness_and_readiness_do_not_depend_on_any_dependency() {
    let upstream = Upstream::start().await;
    let edge = edge_of(&module(), &upstream, &everything()).await;
    let mut operator = Operator::new(&edge).await;
    settled(&mut operator).await;
    let mut clients = edge.clients(Protocol::Http2).await;
    for path in ["/once", "/keyed/a", "/keyed/b"] {
        assert_eq!(clients.get(path, "status=500").await, 500, "{path}");
    }
    order(&edge, "/breakers/fixed/open?for=1h").await;
    let inside =
        clients.next_worker().start(Request::get("/crowded").header("x-behave", "hang")).await.unwrap();
    upstream.wait_in_flight(1).await;
    let told = operator.get("/dependencies").await;
    let health = |it: &Value| it["health"].as_str().unwrap().to_owned();
    let all: Vec<_> = told["dependencies"].as_array().unwrap().iter().map(health).collect();
    assert_eq!(all, ["down", "down", "down", "degraded", "down"]);
    assert_eq!(told["overall"], "down");
    for _ in 0..WORKERS {
        settled(&mut operator).await;
    }
    // Nor on there being anybody at all.
    drop(inside);
    drop(upstream);
    assert!([502, 503].contains(&clients.get("/elsewhere", "status=200").await));
    for _ in 0..WORKERS {
        settled(&mut operator).await;
    }
}

const TRAP: (&str, &str) = ("x-test-trap", "now");

/// Has a VM of operators die, by way of the connection to its worker, and waits until it is back.
async fn kill_state(edge: &Edge, connection: &mut Connection) {
    let answer = connection.send(Request::get("/live").header(TRAP.0, TRAP.1)).await.unwrap();
    assert_eq!(answer.status, 503);
    edge.envoy.wait_log("a test pulled the trap").await;
    let started = Instant::now();
    while connection.send(Request::get("/live")).await.unwrap().status != 200 {
        assert!(started.elapsed() < PATIENCE, "the worker does not come back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_dies_of_looking_on_leaves_the_traffic_alone() {
    let upstream = Upstream::start().await;
    let edge = edge_of(&test_module("resilience_trap"), &upstream, &everything()).await;
    let mut operator = Operator::new(&edge).await;
    let mut clients = edge.clients(Protocol::Http2).await;
    settled(&mut operator).await;
    let inside =
        clients.next_worker().start(Request::get("/crowded").header("x-behave", "hang")).await.unwrap();
    upstream.wait_in_flight(1).await;
    for worker in 0..WORKERS {
        let connection = operator.0.worker(worker);
        let answer = connection.send(Request::get("/live").header(TRAP.0, TRAP.1)).await.unwrap();
        assert_eq!(answer.status, 503);
        // While it is gone, on its own thread and on the others.
        for worker in 0..WORKERS {
            let answer = clients.worker(worker).send(Request::get("/once")).await.unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (200, "upstream\n"));
        }
    }
    assert_eq!(edge.envoy.stat(RELOADED).await, Some(0));
    for worker in 0..WORKERS {
        kill_state(&edge, operator.0.worker(worker)).await;
    }
    // What is told is as it was, and so is what is in flight.
    assert_eq!(operator.policy("crowded").await["bulkhead"]["in_flight"], 1);
    upstream.release();
    assert_eq!(inside.headers().await.unwrap().status, 200);
    settled(&mut operator).await;
    assert_eq!(edge.envoy.stat(RELOADED).await, Some(0));
    assert!(edge.envoy.stat("wasm.state.vm_reload_success").await > Some(0));
    assert!(!edge.envoy.log_lines().iter().any(|line| line.contains("gave back")));
}

#[tokio::test(flavor = "multi_thread")]
async fn vms_that_die_of_the_traffic_leave_those_alone_that_look_on() {
    let upstream = Upstream::start().await;
    let edge = edge_of(&test_module("resilience_trap"), &upstream, &everything()).await;
    let mut operator = Operator::new(&edge).await;
    let mut clients = edge.clients(Protocol::Http1).await;
    settled(&mut operator).await;
    assert_eq!(clients.get("/once", "status=500").await, 500);
    for worker in 0..WORKERS {
        let answer = clients.worker(worker).send(Request::get("/kill").header(TRAP.0, TRAP.1)).await.unwrap();
        assert_eq!(answer.status, 503);
    }
    edge.envoy.wait_log("a test pulled the trap").await;
    for _ in 0..WORKERS {
        assert_eq!(operator.breaker("once").await["state"], "open");
        assert_eq!(operator.get("/live").await, json!({"live": true}));
    }
    for worker in 0..WORKERS {
        let started = Instant::now();
        while clients.worker(worker).send(Request::get("/other")).await.unwrap().status != 200 {
            assert!(started.elapsed() < PATIENCE, "the worker does not come back");
        }
    }
    eventually("readiness again", PATIENCE, async || {
        (operator.0.send(Request::get("/ready")).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(operator.breaker("once").await["state"], "open");
    assert_eq!(edge.envoy.stat("wasm.state.vm_reload_success").await, Some(0));
    assert!(edge.envoy.stat(RELOADED).await > Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_look_on_take_nothing_from_the_traffic() {
    const LOOKS: usize = 250;
    let upstream = Upstream::start().await;
    let edge = edge_of(&module(), &upstream, &everything()).await;
    let operators = edge.clients_of("state", Protocol::Http1).await.into_connections();
    let mut clients = edge.clients(Protocol::Http1).await;
    let looking: Vec<_> = operators
        .into_iter()
        .map(|mut connection| {
            tokio::spawn(async move {
                for round in 0..LOOKS {
                    let path =
                        ["/policies", "/dependencies", "/policies/once", "/ready", "/nowhere"][round % 5];
                    let status = connection.send(Request::get(path)).await.unwrap().status;
                    let expected: &[u16] = match path {
                        "/nowhere" => &[404],
                        // Nobody may have ticked yet.
                        "/ready" => &[200, 503],
                        _ => &[200],
                    };
                    assert!(expected.contains(&status), "{path}: {status}");
                }
            })
        })
        .collect();
    let mut served = 0;
    while served < 200 || !looking.iter().all(tokio::task::JoinHandle::is_finished) {
        assert_eq!(clients.get("/crowded", "status=200").await, 200);
        served += 1;
    }
    for task in looking {
        task.await.unwrap();
    }
    assert_eq!(upstream.requests_to("/crowded"), served);
    assert_eq!(edge.count("resilience_store_give_ups_total", &[]).await, 0);
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}
