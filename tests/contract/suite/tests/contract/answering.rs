//! A request that is not paused and is answered from a tick of the root, at each stage of its way: what a timer of our own
//! may do to it.

use crate::scene::{Place, Scene, place};
use resilience_host_contract::{Event, Peer, all_events, envoy, listen, probe};
use resilience_test_harness::config::{cluster, route};
use resilience_test_harness::{Connection, Protocol, Request, Upstream};
use serde_json::json;

/// More than Envoy, and the kernel on the way, hold for an upstream that does not read.
const LARGE: usize = 32 << 20;

/// The callbacks, each with code details, flags and tries.
fn seen(events: &[Event]) -> Vec<String> {
    let seen = |event: &Event| {
        let fields = [event.name(), event.get("details"), &event.flags(), event.get("attempts")];
        fields.join(" ")
    };
    events.iter().map(seen).collect()
}

/// What is seen of one that was answered: our response headers run, once, and then it is over.
const ANSWERED: [&str; 5] = [
    "request_headers - - 0",
    "response_headers refused_while_waiting - 1",
    "log refused_while_waiting - 1",
    "done refused_while_waiting - 1",
    "delete refused_while_waiting - 1",
];

async fn answer(scene: &mut Scene, at: Place, case: &str) {
    let refuse = format!("refuse stream={}", at.stream);
    assert_eq!(scene.at_tick(at.vm, &format!("{case}-told"), &refuse).await, ["ok"], "{case}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_its_body_comes_the_client_gets_the_answer_and_the_upstream_loses_the_request() {
    let (upstream, address) = listen().await;
    let mut scene = Scene::to(address).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let case = format!("{protocol:?}");
        let mut client = Connection::open(scene.edge, protocol).await.unwrap();
        let request = Request::post("/", vec![b'#'; LARGE]).header("x-case", &case);
        let pending = client.start(request).await.unwrap();
        let mut server = Peer::accept(&upstream).await;
        server.until_text("####").await;
        let at = place(&scene.envoy, "probe", &case).await;
        answer(&mut scene, at, &case).await;
        assert_eq!(pending.headers().await.unwrap().status, 429, "{case}");
        server.until_closed().await;
        assert_eq!(seen(&all_events(&scene.envoy, "probe", &case).await), ANSWERED, "{case}");
    }
    assert!(scene.envoy.is_running());
}

/// What an HTTP/1.1 client has not sent cannot be told from its next request: its connection is closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stopped_in_its_body_gets_the_answer_and_its_connection_is_closed() {
    let (upstream, address) = listen().await;
    let mut scene = Scene::to(address).await;
    let mut client = Peer::connect(scene.edge).await;
    client.send(b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 8\r\nx-case: half\r\n\r\nhalf").await;
    let mut server = Peer::accept(&upstream).await;
    server.until_text("half").await;
    let at = place(&scene.envoy, "probe", "half").await;
    answer(&mut scene, at, "half").await;
    let head = client.until_text("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 429 ") && head.contains("connection: close\r\n"), "{head}");
    client.until_closed().await;
    server.until_closed().await;
    assert_eq!(seen(&all_events(&scene.envoy, "probe", "half").await), ANSWERED);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_upstream_works_the_client_gets_the_answer_and_keeps_its_connection() {
    let mut scene = Scene::new().await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut client = Connection::open(scene.edge, protocol).await.unwrap();
        for (what, request) in [("get", Request::get("/")), ("post", Request::post("/", "body"))] {
            let case = format!("{what}-{protocol:?}");
            let request = request.header("x-behave", "hang").header("x-case", &case);
            let pending = client.start(request).await.unwrap();
            scene.upstream.wait_in_flight(1).await;
            let at = place(&scene.envoy, "probe", &case).await;
            answer(&mut scene, at, &case).await;
            assert_eq!(pending.headers().await.unwrap().finish().await.status, 429, "{case}");
            scene.upstream.wait_in_flight(0).await;
            assert_eq!(seen(&all_events(&scene.envoy, "probe", &case).await), ANSWERED, "{case}");
        }
        assert_eq!(client.send(Request::get("/")).await.unwrap().status, 200);
    }
    assert!(scene.envoy.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tick_answers_several_of_one_connection() {
    let mut scene = Scene::new().await;
    let (vm, _) = scene.two();
    let (mut pending, mut commands) = (Vec::new(), Vec::new());
    for number in 0..8 {
        let case = format!("several-{number}");
        let request = if number % 2 == 0 { Request::get("/") } else { Request::post("/", "body") };
        let request = request.header("x-behave", "hang").header("x-case", &case);
        pending.push(scene.worker(vm).start(request).await.unwrap());
        commands.push(format!("refuse stream={}", place(&scene.envoy, "probe", &case).await.stream));
    }
    scene.upstream.wait_in_flight(8).await;
    assert_eq!(scene.at_tick(vm, "told", &commands.join(" & ")).await, ["ok"; 8]);
    for (number, pending) in pending.into_iter().enumerate() {
        assert_eq!(pending.headers().await.unwrap().status, 429);
        let events = all_events(&scene.envoy, "probe", &format!("several-{number}")).await;
        assert_eq!(seen(&events), ANSWERED);
    }
    scene.upstream.wait_in_flight(0).await;
    assert!(scene.envoy.is_running());
}

/// One that waits for a connection counts as a try, and a back-off as the tries before it.
#[tokio::test(flavor = "multi_thread")]
async fn before_there_is_an_upstream_and_between_two_tries_it_is_answered_too() {
    let upstream = Upstream::start().await;
    let mut one = cluster("one", &[upstream.addr()]);
    one["circuit_breakers"]["thresholds"] = json!([{"max_connections": 1, "max_pending_requests": 9}]);
    let mut slow = route("slow", "/slow", "up");
    slow["route"]["retry_policy"] = json!({
        "retry_on": "5xx",
        "retry_back_off": {"base_interval": "36000s", "max_interval": "36000s"},
    });
    let (routes, clusters) = (
        [slow, route("one", "/one", "one"), route("all", "/", "up")],
        [cluster("up", &[upstream.addr()]), one],
    );
    let envoy = envoy(&[probe("probe", "vm", "queue")], &routes, &clusters).start().await;
    let edge = envoy.addr("edge").await;
    let mut scene = Scene::of(upstream, envoy, edge).await;
    let (vm, _) = scene.two();
    // On the same worker, as each may have a connection of its own whatever the limit.
    let holder = scene.worker(vm).start(Request::get("/one").header("x-behave", "hang")).await.unwrap();
    scene.upstream.wait_in_flight(1).await;
    for (path, counted, behave) in [
        ("/one", "cluster.one.upstream_rq_pending_active", "status=200"),
        ("/slow", "cluster.up.retry.upstream_rq_503", "status=503"),
    ] {
        for (what, request) in [("get", Request::get(path)), ("post", Request::post(path, "body"))] {
            let case = format!("{path}-{what}");
            let before = scene.envoy.stat(counted).await.unwrap_or(0);
            let request = request.header("x-behave", behave).header("x-case", &case);
            let pending = scene.worker(vm).start(request).await.unwrap();
            scene.envoy.wait_stat(counted, |now| now == before + 1).await;
            let at = place(&scene.envoy, "probe", &case).await;
            answer(&mut scene, at, &case).await;
            assert_eq!(pending.headers().await.unwrap().finish().await.status, 429, "{case}");
            assert_eq!(seen(&all_events(&scene.envoy, "probe", &case).await), ANSWERED, "{case}");
        }
    }
    scene.upstream.release();
    assert_eq!(holder.headers().await.unwrap().status, 200);
    // Two of them never came there.
    assert_eq!(scene.upstream.requests(), 3);
}

/// Why it must not be done: the stream is reset, and details that are not true of what the client got are in its log.
#[tokio::test(flavor = "multi_thread")]
async fn once_the_answer_has_begun_it_is_broken_off() {
    let mut scene = Scene::new().await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let case = format!("{protocol:?}");
        let mut client = Connection::open(scene.edge, protocol).await.unwrap();
        let request = Request::get("/").header("x-behave", "hang-mid-body").header("x-case", &case);
        let mut answering = client.start(request).await.unwrap().headers().await.unwrap();
        answering.chunk().await.unwrap().expect("a part of the body");
        let at = place(&scene.envoy, "probe", &case).await;
        answer(&mut scene, at, &case).await;
        let answer = answering.finish().await;
        // Before 1.37 Envoy resets the client's HTTP/2 stream without an error.
        let broken = protocol == Protocol::Http1 || crate::since(1, 37);
        assert_eq!((answer.status, answer.broken.is_some()), (200, broken), "{case}");
        scene.upstream.wait_in_flight(0).await;
        let mut events = all_events(&scene.envoy, "probe", &case).await;
        events.retain(|event| event.name() != "response_body");
        let mut expected = ANSWERED.map(str::to_owned);
        expected[1] = "response_headers via_upstream - 1".to_owned();
        assert_eq!(seen(&events), expected, "{case}");
    }
    assert!(scene.envoy.is_running());
}
