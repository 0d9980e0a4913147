//! What the headers that a filter writes make of the router's timeouts.

use crate::scene::Scene;
use resilience_host_contract::{Peer, all_events, envoy, listen, probe};
use resilience_test_harness::config::{cluster, route};
use resilience_test_harness::{Envoy, Protocol, Request, Upstream, send_once};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;

/// Its route, the headers that are written (without `x-envoy-`), what the upstream does each time, how it ends (flags in
/// the order of their bits), the tries, and which other headers of this kind the first of them had.
const CASES: [(&str, &str, &str, &str, usize, &str); 21] = [
    ("/default", "", "status=200", "via_upstream -", 1, "expected-rq-timeout-ms=15000"),
    ("/never", "", "status=200", "via_upstream -", 1, ""),
    // The timeout of all tries: the header's is in the place of the route's, be it shorter or longer.
    (
        "/default",
        "upstream-rq-timeout-ms=300",
        "hang",
        "response_timeout UT",
        1,
        "expected-rq-timeout-ms=300",
    ),
    ("/never", "upstream-rq-timeout-ms=300", "hang", "response_timeout UT", 1, "expected-rq-timeout-ms=300"),
    ("/short", "upstream-rq-timeout-ms=30000", SLOW, "via_upstream -", 1, "expected-rq-timeout-ms=30000"),
    ("/short", "upstream-rq-timeout-ms=0", SLOW, "via_upstream -", 1, ""),
    (
        "/retried",
        "upstream-rq-timeout-ms=100",
        "hang",
        "response_timeout UT",
        1,
        "expected-rq-timeout-ms=100",
    ),
    // That of a try, with a policy or without.
    (
        "/default",
        "upstream-rq-per-try-timeout-ms=200",
        "hang",
        "upstream_per_try_timeout UT",
        1,
        "expected-rq-timeout-ms=200",
    ),
    (
        "/never",
        "upstream-rq-per-try-timeout-ms=200",
        "hang",
        "upstream_per_try_timeout UT",
        1,
        "expected-rq-timeout-ms=200",
    ),
    (
        "/never",
        "upstream-rq-per-try-timeout-ms=200 retry-on=5xx max-retries=2",
        "hang",
        "upstream_per_try_timeout UT,URX",
        3,
        "expected-rq-timeout-ms=200",
    ),
    (
        "/default",
        "upstream-rq-timeout-ms=30000 upstream-rq-per-try-timeout-ms=200 retry-on=gateway-error max-retries=2",
        "hang",
        "upstream_per_try_timeout UT,URX",
        3,
        "expected-rq-timeout-ms=200",
    ),
    ("/retried", "", "hang", "upstream_per_try_timeout UT,URX", 2, "expected-rq-timeout-ms=200"),
    (
        "/retried",
        "upstream-rq-per-try-timeout-ms=400",
        "hang",
        "upstream_per_try_timeout UT,URX",
        2,
        "expected-rq-timeout-ms=400",
    ),
    // 0 is none.
    (
        "/retried",
        "upstream-rq-per-try-timeout-ms=0 upstream-rq-timeout-ms=500",
        "hang",
        "response_timeout UT",
        1,
        "expected-rq-timeout-ms=500",
    ),
    // It does not count where it is not the shorter one.
    (
        "/never",
        "upstream-rq-timeout-ms=300 upstream-rq-per-try-timeout-ms=300 retry-on=5xx max-retries=2",
        "hang",
        "response_timeout UT",
        1,
        "expected-rq-timeout-ms=300",
    ),
    (
        "/never",
        "upstream-rq-timeout-ms=300 upstream-rq-per-try-timeout-ms=400 retry-on=5xx max-retries=2",
        "hang",
        "response_timeout UT",
        1,
        "expected-rq-timeout-ms=300",
    ),
    (
        "/never",
        "upstream-rq-timeout-ms=6000 upstream-rq-per-try-timeout-ms=3500 retry-on=5xx max-retries=2",
        "hang",
        "response_timeout UT",
        2,
        "expected-rq-timeout-ms=3500",
    ),
    // A try's ends with the headers of its answer.
    (
        "/never",
        "upstream-rq-timeout-ms=6000 upstream-rq-per-try-timeout-ms=3000",
        "hang-mid-body",
        "response_timeout UT",
        1,
        "expected-rq-timeout-ms=3000",
    ),
    // What the upstream is told: the router's own, where it has one.
    (
        "/default",
        "expected-rq-timeout-ms=77",
        "status=200",
        "via_upstream -",
        1,
        "expected-rq-timeout-ms=15000",
    ),
    ("/never", "expected-rq-timeout-ms=77", "status=200", "via_upstream -", 1, "expected-rq-timeout-ms=77"),
    // The router takes away what it reads, and what it does not read goes on. A hedged try ends with all tries.
    (
        "/never",
        "retry-on=5xx retry-grpc-on=cancelled max-retries=2 retriable-status-codes=555 \
         retriable-header-names=x-a hedge-on-per-try-timeout=true upstream-rq-timeout-ms=9000 \
         upstream-rq-per-try-timeout-ms=8000 upstream-rq-timeout-alt-response=1 upstream-stream-duration-ms=7000 \
         upstream-rq-per-try-idle-timeout-ms=6000 attempt-count=3",
        "status=200",
        "via_upstream -",
        1,
        "attempt-count=3 expected-rq-timeout-ms=9000 upstream-rq-per-try-idle-timeout-ms=6000",
    ),
];

/// Longer than the timeout of the short route.
const SLOW: &str = "delay=700ms";

fn routes() -> Vec<Value> {
    let timed = |name: &str, timeout: &str| {
        let mut route = route(name, &format!("/{name}"), "up");
        route["route"]["timeout"] = timeout.into();
        route
    };
    let mut retried = timed("retried", "0s");
    retried["route"]["retry_policy"] =
        json!({"retry_on": "5xx", "num_retries": 1, "per_try_timeout": "0.2s"});
    let mut ended = timed("ended", "0.2s");
    ended["route"]["max_stream_duration"] = json!({"max_stream_duration": "1.5s"});
    vec![route("default", "/default", "up"), timed("never", "0s"), timed("short", "0.2s"), retried, ended]
}

async fn start(upstream: SocketAddr) -> (Envoy, SocketAddr) {
    let envoy =
        envoy(&[probe("probe", "vm", "queue")], &routes(), &[cluster("up", &[upstream])]).start().await;
    let edge = envoy.addr("edge").await;
    (envoy, edge)
}

fn commands(headers: &str) -> String {
    let set = |header: &str| {
        let (name, value) = header.split_once('=').unwrap();
        format!("set-header name=x-envoy-{name} value={value}; ")
    };
    headers.split_whitespace().map(set).chain(["go".to_owned()]).collect()
}

/// The values of `x-envoy-` headers of the tries of a case.
fn told(upstream: &Upstream, case: &str) -> Vec<String> {
    let received = upstream.received();
    let tries = received.iter().filter(|request| request.headers["x-case"] == case);
    let told = tries.map(|request| {
        let headers = request.headers.iter();
        let of_envoy = headers.filter_map(|(name, value)| {
            Some(format!("{}={}", name.as_str().strip_prefix("x-envoy-")?, value.to_str().unwrap()))
        });
        let mut told: Vec<String> = of_envoy.collect();
        told.sort_unstable();
        told.join(" ")
    });
    told.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_filter_writes_sets_the_timeouts_of_the_router() {
    let upstream = Arc::new(Upstream::start().await);
    let (envoy, edge) = start(upstream.addr()).await;
    let mut clients = Vec::new();
    for (number, (path, headers, behave, ..)) in CASES.into_iter().enumerate() {
        let request = Request::get(path).header("x-probe", commands(headers)).header("x-behave", behave);
        let request = request.header("x-case", format!("case-{number}"));
        clients.push(tokio::spawn(async move { send_once(edge, Protocol::Http1, request).await }));
    }
    for (number, (client, case)) in clients.into_iter().zip(CASES).enumerate() {
        client.await.unwrap().unwrap();
        let (path, headers, _, ending, tries, first) = case;
        let name = format!("case-{number}");
        let events = all_events(&envoy, "probe", &name).await;
        let end = events.last().unwrap();
        let told = told(&upstream, &name);
        let found = (format!("{} {}", end.get("details"), end.flags()), end.get("attempts").to_owned());
        assert_eq!(found, (ending.to_owned(), tries.to_string()), "{path} {headers}");
        assert_eq!((told.len(), told[0].as_str()), (tries, first), "{path} {headers}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_while_it_waits_sets_them_too() {
    let upstream = Upstream::start().await;
    let (envoy, edge) = start(upstream.addr()).await;
    let mut scene = Scene::of(upstream, envoy, edge).await;
    let (vm, other) = scene.two();
    for (case, headers, ending) in [
        ("total", "set-header name=x-envoy-upstream-rq-timeout-ms value=200", "response_timeout"),
        (
            "try",
            "set-header name=x-envoy-upstream-rq-per-try-timeout-ms value=200",
            "upstream_per_try_timeout",
        ),
    ] {
        for by in ["queue", "tick"] {
            let case = format!("{case}-{by}");
            let request = Request::get("/never").header("x-behave", "hang");
            let (pending, at) = scene.pause_this(vm, &case, request).await;
            let (told, commands) =
                (format!("{case}-told"), format!("effective stream={} & {headers} & resume", at.stream));
            let said = match by {
                "queue" => scene.tell(other, vm, &told, &commands).await,
                _ => scene.at_tick(vm, &told, &commands).await,
            };
            assert_eq!(said, ["ok"; 3], "{case}");
            assert_eq!(pending.headers().await.unwrap().status, 504, "{case}");
            let events = all_events(&scene.envoy, "probe", &case).await;
            assert_eq!(events.last().unwrap().get("details"), ending, "{case}");
        }
    }
}

/// Unless its route says otherwise, the deadline of a gRPC call is its caller's and its callee's business.
#[tokio::test(flavor = "multi_thread")]
async fn the_router_neither_obeys_nor_changes_the_deadline_of_a_grpc_call() {
    let upstream = Upstream::start().await;
    let (_envoy, edge) = start(upstream.addr()).await;
    for (case, commands, told) in
        [("callers", "go", "100m"), ("ours", "set-header name=grpc-timeout value=150m; go", "150m")]
    {
        upstream.reset_counts();
        let call = Request::grpc("/default").header("grpc-timeout", "100m").header("x-case", case);
        let call =
            call.header("x-behave", format!("grpc-trailers-only=0;{SLOW}")).header("x-probe", commands);
        assert_eq!(
            send_once(edge, Protocol::Http2, call).await.unwrap().header("grpc-status"),
            "0",
            "{case}"
        );
        assert_eq!(upstream.received()[0].headers["grpc-timeout"], told, "{case}");
    }
}

/// A later try is told what is left, where that is less than a try may take.
#[tokio::test(flavor = "multi_thread")]
async fn each_try_is_told_its_own_timeout() {
    let upstream = Upstream::start().await;
    let (_envoy, edge) = start(upstream.addr()).await;
    let headers =
        "upstream-rq-timeout-ms=6000 upstream-rq-per-try-timeout-ms=3500 retry-on=5xx max-retries=1";
    let request = Request::get("/never").header("x-probe", commands(headers)).header("x-case", "told");
    let answer = send_once(edge, Protocol::Http1, request.header("x-behave", "hang")).await.unwrap();
    assert_eq!(answer.status, 504);
    let told = told(&upstream, "told");
    let left: Vec<u32> = told
        .iter()
        .map(|told| told.strip_prefix("expected-rq-timeout-ms=").unwrap().parse().unwrap())
        .collect();
    assert!(left.len() == 2 && left[0] == 3500 && left[1] < 3500, "{left:?}");
}

/// The router's timeouts begin when it has the whole request: none of them ends a slow upload.
#[tokio::test(flavor = "multi_thread")]
async fn the_timeouts_of_the_router_do_not_run_while_the_request_comes() {
    let (upstream, address) = listen().await;
    let (envoy, edge) = start(address).await;
    let mut client = Peer::connect(edge).await;
    let probe = commands("upstream-rq-timeout-ms=200 upstream-rq-per-try-timeout-ms=100");
    let head = "POST /ended HTTP/1.1\r\nhost: test\r\ncontent-length: 8\r\nx-case: slow";
    client.send(format!("{head}\r\nx-probe: {probe}\r\n\r\nhalf").as_bytes()).await;
    let mut server = Peer::accept(&upstream).await;
    server.until_text("half").await;
    let events = all_events(&envoy, "probe", "slow").await;
    assert_eq!(events.last().unwrap().get("details"), "max_duration_timeout");
    client.until_text("HTTP/1.1 408").await;
}
