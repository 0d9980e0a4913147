//! The harness against an Envoy without any filter: what a test of a filter takes for granted.

use resilience_test_harness::config::{self, cluster, connection_manager, listener, route, virtual_host};
use resilience_test_harness::*;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

fn edge(upstream: SocketAddr, path: &str) -> (Value, Value) {
    let host = virtual_host("all", &[route("all", path, "upstream")]);
    (listener("edge", connection_manager(&[host], &[])), cluster("upstream", &[upstream]))
}

async fn started(upstream: SocketAddr) -> (Envoy, SocketAddr) {
    let (listener, cluster) = edge(upstream, "/");
    let envoy = Envoy::builder(config::bootstrap(&[listener], &[cluster])).start().await;
    let address = envoy.addr("edge").await;
    (envoy, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_reaches_the_upstream_through_every_worker_and_is_counted() {
    let upstream = Upstream::start().await;
    let (envoy, edge) = started(upstream.addr()).await;
    let hold = |_| Request::get("/hold").header("x-behave", "hang");
    let burst = tokio::spawn(burst(edge, Protocol::Http1, 64, 64, hold));
    upstream.wait_in_flight(64).await;
    upstream.release();
    for answer in burst.await.unwrap() {
        assert_eq!(answer.unwrap().status, 200);
    }
    assert_eq!((upstream.requests(), upstream.requests_to("/hold")), (64, 64));
    assert_eq!(upstream.max_in_flight(), 64);
    upstream.wait_in_flight(0).await;
    for worker in 0..4 {
        let name = format!("listener.127.0.0.1_0.worker_{worker}.downstream_cx_total");
        envoy.wait_stat(&name, |connections| connections > 0).await;
    }
    let answers = resilience_test_harness::burst(edge, Protocol::Http2, 50, 5, |_| Request::get("/")).await;
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer.status == 200)));
    assert_eq!(upstream.requests_to("/"), 50);
    let metrics = envoy.prometheus().await;
    assert_eq!(metrics.sum("envoy_cluster_upstream_rq_total", &[("envoy_cluster_name", "upstream")]), 114.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_behaves_as_told() {
    let upstream = Upstream::start().await;
    let at = upstream.addr();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let ask = |words: &str| send_once(at, protocol, Request::get("/x").header("x-behave", words));
        let answer = ask("status=503; body=no; header=x-a:b").await.unwrap();
        assert_eq!((answer.status, answer.text(), answer.header("x-a")), (503, "no".into(), "b".into()));
        let before = Instant::now();
        assert_eq!(ask("delay=50ms").await.unwrap().status, 200);
        assert!(before.elapsed() >= Duration::from_millis(50));
        for words in ["close", "reset"] {
            ask(words).await.expect_err(words);
        }
        for words in
            ["close-mid-body", "reset-mid-body", "chunked; close-mid-body", "chunked; reset-mid-body"]
        {
            let answer = ask(words).await.expect(words);
            assert_eq!((answer.status, answer.text()), (200, "upst".into()), "{words}");
            assert!(answer.broken.is_some(), "{words}");
        }
    }
    let grpc = async |words: &str| {
        let call = Request::grpc("/s/m").header("x-behave", words);
        send_once(at, Protocol::Http2, call).await.unwrap()
    };
    let answer = grpc("grpc=14").await;
    assert_eq!((answer.status, answer.body.len(), answer.trailer("grpc-status")), (200, 5, "14".into()));
    let answer = grpc("grpc-trailers-only=4").await;
    assert_eq!((answer.status, answer.body.len(), answer.header("grpc-status")), (200, 0, "4".into()));

    upstream.behave_on("/x", Behaviour::status(404));
    upstream.script([Behaviour::status(500), Behaviour::status(502)]);
    let mut connection = Connection::open(at, Protocol::Http1).await.unwrap();
    let mut statuses = Vec::new();
    for path in ["/x", "/x", "/x", "/y"] {
        statuses.push(connection.send(Request::get(path)).await.unwrap().status);
    }
    assert_eq!(statuses, [500, 502, 404, 200]);
    assert!(send_once(refused_address(), Protocol::Http1, Request::get("/")).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_noticed() {
    let upstream = Upstream::start().await;
    let (_envoy, edge) = started(upstream.addr()).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for words in ["hang", "hang-mid-body"] {
            let mut connection = Connection::open(edge, protocol).await.unwrap();
            let pending = connection.start(Request::get("/").header("x-behave", words)).await.unwrap();
            upstream.wait_in_flight(1).await;
            if words == "hang" {
                pending.abandon();
            } else {
                let mut streaming = pending.headers().await.unwrap();
                assert_eq!(streaming.chunk().await.unwrap().unwrap(), "upst");
                streaming.abandon();
            }
            upstream.wait_in_flight(0).await;
            if protocol == Protocol::Http2 {
                assert_eq!(connection.send(Request::get("/")).await.unwrap().status, 200);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_is_replaced_while_its_connections_live_on() {
    let upstream = Upstream::start().await;
    let scratch = Scratch::new();
    let (old, cluster) = edge(upstream.addr(), "/old");
    let (new, _) = edge(upstream.addr(), "/new");
    let mut file = DynamicFile::new(scratch.file("lds.json"), &[config::listener_resource(old)]);
    let bootstrap = config::with_listeners_from(config::bootstrap(&[], &[cluster]), file.path());
    let envoy = Envoy::builder(bootstrap).start().await;
    let address = envoy.addr("edge").await;
    let mut kept = Connection::open(address, Protocol::Http1).await.unwrap();
    assert_eq!(kept.send(Request::get("/old")).await.unwrap().status, 200);
    file.replace(&[config::listener_resource(new)]);
    envoy.wait_stat("listener_manager.listener_modified", |count| count == 1).await;
    eventually("the new listener", PATIENCE, async || {
        let answer = send_once(address, Protocol::Http1, Request::get("/new")).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    assert_eq!(envoy.addr("edge").await, address);
    assert_eq!(kept.send(Request::get("/old")).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_envoy_answers_after_it_is_resumed() {
    let upstream = Upstream::start().await;
    let (mut envoy, edge) = started(upstream.addr()).await;
    let mut connection = Connection::open(edge, Protocol::Http1).await.unwrap();
    assert_eq!(connection.send(Request::get("/")).await.unwrap().status, 200);
    envoy.pause();
    let pending = connection.start(Request::get("/")).await.unwrap();
    assert_eq!(upstream.requests(), 1);
    envoy.resume();
    assert_eq!(pending.headers().await.unwrap().status, 200);
    assert!(envoy.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_is_told_by_validation_and_at_the_start() {
    let (good, cluster) = edge(refused_address(), "/");
    let good = config::bootstrap(&[good], &[cluster]);
    let mut bad = good.clone();
    bad["static_resources"]["clusters"] = json!([{"name": "upstream", "no_such_key": 1}]);
    let validation = Envoy::builder(good.clone()).validate();
    assert_eq!(validation.code, Some(0), "{}", validation.output);
    let validation = Envoy::builder(bad.clone()).validate();
    assert_eq!(validation.code, Some(1), "{}", validation.output);
    assert!(validation.output.contains("no_such_key"), "{}", validation.output);
    let failure = Envoy::builder(bad).try_start().await.expect_err("a bad configuration");
    assert!(failure.log.contains("no_such_key"), "{failure}");
    let overlaid =
        Envoy::builder(good).overlay_yaml("stats_config: {use_all_default_tags: maybe}").validate();
    assert_eq!(overlaid.code, Some(1), "{}", overlaid.output);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_bytes_get_an_answer() {
    let upstream = Upstream::start().await;
    let (_envoy, edge) = started(upstream.addr()).await;
    let mut bytes = b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\nx-bytes: ".to_vec();
    bytes.extend([0xff, 0xfe, b'\r', b'\n', b'\r', b'\n']);
    assert_eq!(raw_exchange(edge, &bytes).await.status(), Some(200));
    assert_eq!(upstream.received()[0].headers["x-bytes"].as_bytes(), [0xff, 0xfe]);
    assert_eq!(raw_exchange(edge, b"NONSENSE\r\n\r\n").await.status(), Some(400));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_those_that_hang_is_released_and_one_that_leaves_is_not_counted() {
    let upstream = Upstream::start().await;
    let mut connection = Connection::open(upstream.addr(), Protocol::Http2).await.unwrap();
    let mut pending = Vec::new();
    for mark in ["a", "b", "c"] {
        let hang = Request::get("/").header("x-behave", "hang").header("x-mark", mark);
        pending.push(connection.start(hang).await.unwrap());
    }
    upstream.wait_in_flight(3).await;
    upstream.release_one();
    upstream.wait_in_flight(2).await;
    eventually("one answer", PATIENCE, async || pending.iter().any(Pending::is_over).then_some(())).await;
    pending.retain(|pending| !pending.is_over());
    assert_eq!(pending.len(), 2);
    // One of these has left already, and one leaves before the upstream knows of it.
    for mark in ["a", "b", "c", "d"] {
        upstream.client_leaves(mark);
    }
    assert_eq!(upstream.in_flight(), 0);
    let late = Request::get("/").header("x-behave", "hang").header("x-mark", "d");
    let late = connection.start(late).await.unwrap();
    upstream.wait_requests(4).await;
    assert_eq!((upstream.in_flight(), upstream.max_in_flight()), (0, 3));
    drop((pending, late));
    let last = Request::get("/").header("x-mark", "e");
    assert_eq!(connection.send(last).await.unwrap().status, 200);
    assert_eq!((upstream.in_flight(), upstream.max_in_flight()), (0, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_is_in_flight_until_it_ends() {
    let upstream = Upstream::start().await;
    let (mut listener, cluster) = edge(upstream.addr(), "/");
    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    manager["upgrade_configs"] = json!([{"upgrade_type": "websocket"}]);
    let envoy = Envoy::builder(config::bootstrap(&[listener], &[cluster])).start().await;
    let address = envoy.addr("edge").await;
    let mut socket = Upgraded::open(address, "/").await.unwrap();
    socket.echo(b"hello").await;
    socket.echo(b"again").await;
    assert_eq!(upstream.in_flight(), 1);
    drop(socket);
    upstream.wait_in_flight(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_knows_attempts_by_their_id() {
    let upstream = Upstream::start().await;
    let ask = async |id: &str| {
        let request =
            Request::get("/x").header("x-id", id).header("x-behave", "status=503|status=502|status=200");
        send_once(upstream.addr(), Protocol::Http1, request).await.unwrap().status
    };
    for (id, status) in [("a", 503), ("a", 502), ("b", 503), ("a", 200), ("a", 200)] {
        assert_eq!(ask(id).await, status);
    }
    assert_eq!((upstream.attempts("a"), upstream.attempts("b"), upstream.attempts("c")), (4, 1, 0));
    assert_eq!(upstream.distinct_and_repeated(), (2, 3));
    upstream.reset_counts();
    assert_eq!((upstream.attempts("a"), upstream.distinct_and_repeated()), (0, (0, 0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_wants_the_whole_request_keeps_the_connection() {
    let upstream = Upstream::start().await;
    let mut connection = Connection::open(upstream.addr(), Protocol::Http1).await.unwrap();
    for _ in 0..2 {
        let request = Request::post("/x", vec![b'.'; 3 << 20]).header("x-behave", "whole");
        assert_eq!(connection.send(request).await.unwrap().status, 200);
    }
    assert_eq!((upstream.requests(), upstream.connections()), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_sends_everything_once_and_no_sooner_than_its_rate() {
    let upstream = Upstream::start().await;
    let request = |number: usize| Request::get("/x").header("x-id", number.to_string());
    for per_second in [None, Some(400)] {
        upstream.reset_counts();
        let started = Instant::now();
        let mut running = Flow { requests: 100, connections: 7, per_second }.start(upstream.addr(), request);
        running.watch(|running| assert!(upstream.requests() <= running.sent())).await;
        assert_eq!((running.sent(), upstream.distinct_and_repeated()), (100, (100, 0)));
        assert_eq!(running.answers().get(&200), Some(&100));
        // The last of them is due a quarter of a second after the first.
        assert!(per_second.is_none() || started.elapsed() >= Duration::from_micros(247_500));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_that_are_held_are_given_to_nobody_and_can_be_bound_by_number() {
    let held = bundle::Ports::hold(&["FIRST", "SECOND"]);
    let ports: Vec<u16> = held.environment().iter().map(|(_, port)| port.parse().unwrap()).collect();
    assert_ne!(ports[0], ports[1]);
    let upstream = Upstream::start().await;
    let (mut listener, cluster) = edge(upstream.addr(), "/");
    listener["address"]["socket_address"]["port_value"] = ports[0].into();
    let mut bootstrap = config::bootstrap(&[listener], &[cluster]);
    bootstrap["admin"]["address"]["socket_address"]["port_value"] = ports[1].into();
    let envoy = Envoy::builder(bootstrap).start().await;
    assert_eq!(envoy.admin_addr().port(), ports[1]);
    let address = SocketAddr::from(([127, 0, 0, 1], ports[0]));
    let answers = async || send_once(address, Protocol::Http1, Request::get("/")).await.unwrap().status;
    assert_eq!(answers().await, 200);
    drop(held);
    assert_eq!((answers().await, upstream.requests()), (200, 2));
}
