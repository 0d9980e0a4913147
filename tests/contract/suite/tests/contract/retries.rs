//! What the headers that a filter writes make of the router's retries.

use crate::scene::Scene;
use resilience_host_contract::{Peer, all_events, envoy, listen, probe};
use resilience_test_harness::config::{bootstrap, cluster, route};
use resilience_test_harness::{Behaviour, Connection, Envoy, Protocol, Request, Upstream};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// Its route, the headers that are written (without `x-envoy-`), what the upstream does each time, and how often it is
/// asked.
const CASES: [(&str, &str, &str, usize); 24] = [
    // Where the route has no policy.
    ("/plain", "retry-on=5xx max-retries=2", "status=503", 3),
    ("/plain", "retry-on=5xx max-retries=6", "status=503", 7),
    ("/plain", "retry-on=5xx", "status=503", 2),
    ("/plain", "retry-on=5xx max-retries=0", "status=503", 1),
    ("/plain", "max-retries=3", "status=503", 1),
    ("/plain", "retry-on=gateway-error max-retries=2", "status=503", 3),
    ("/plain", "retry-on=gateway-error max-retries=2", "status=500", 1),
    ("/plain", "retry-on=nonsense,gateway-error max-retries=2", "status=503", 3),
    ("/plain", "retry-on=retriable-4xx,5xx max-retries=2", "status=409", 3),
    ("/plain", "retry-on=reset max-retries=2", "reset", 3),
    ("/plain", "retry-grpc-on=unavailable max-retries=2", "grpc-trailers-only=14", 3),
    ("/plain", "retry-grpc-on=unavailable max-retries=2", "grpc-trailers-only=8", 1),
    // A status that comes in trailers is too late for the router.
    ("/plain", "retry-grpc-on=unavailable max-retries=2", "grpc=14", 1),
    // Where it has one, the number is the header's, and what is retried is either's.
    ("/one", "none=none", "status=503", 2),
    ("/one", "max-retries=3", "status=503", 4),
    ("/three", "max-retries=1", "status=503", 2),
    ("/three", "max-retries=0", "status=503", 1),
    ("/three", "retry-on=5xx max-retries=0", "status=503", 1),
    ("/three", "retry-on=reset max-retries=1", "status=503", 2),
    ("/three", "retry-on=retriable-4xx", "status=409", 4),
    ("/three", "retry-on=retriable-4xx max-retries=1", "status=409", 2),
    ("/narrow", "retry-on=5xx max-retries=2", "status=503", 1),
    ("/narrow", "x-retry-me=yes", "status=503", 3),
    ("/narrow", "x-retry-me=yes retry-on=retriable-4xx max-retries=1", "status=409", 2),
];

fn routes() -> Vec<Value> {
    let retried = |name: &str, policy: Value| {
        let mut route = route(name, &format!("/{name}"), "up");
        route["route"]["retry_policy"] = policy;
        route
    };
    vec![
        route("plain", "/plain", "up"),
        retried("one", json!({"retry_on": "5xx", "num_retries": 1})),
        retried("three", json!({"retry_on": "5xx", "num_retries": 3})),
        retried(
            "narrow",
            json!({
                "retry_on": "5xx",
                "num_retries": 2,
                "retriable_request_headers": [{"name": "x-retry-me", "present_match": true}],
            }),
        ),
        retried(
            "slow",
            json!({
                "retry_on": "5xx",
                "num_retries": 2,
                "retry_back_off": {"base_interval": "36000s", "max_interval": "36000s"},
            }),
        ),
        {
            let mut tight = route("tight", "/tight", "tight");
            tight["route"]["retry_policy"] = json!({"retry_on": "5xx", "num_retries": 3});
            tight
        },
    ]
}

async fn start(upstream: &Upstream) -> (Envoy, SocketAddr) {
    let mut tight = cluster("tight", &[upstream.addr()]);
    tight["circuit_breakers"]["thresholds"] = json!([{"max_retries": 1}]);
    let clusters = [cluster("up", &[upstream.addr()]), tight];
    let envoy = envoy(&[probe("probe", "vm", "queue")], &routes(), &clusters).start().await;
    let edge = envoy.addr("edge").await;
    (envoy, edge)
}

/// Commands that write headers of a case.
fn writes(headers: &str) -> Vec<String> {
    let header = |header: &str| {
        let (name, value) = header.split_once('=').unwrap();
        let prefix = if name.starts_with("x-") { "" } else { "x-envoy-" };
        format!("set-header name={prefix}{name} value={value}")
    };
    headers.split(' ').map(header).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_filter_writes_in_request_headers_makes_and_limits_retries() {
    let upstream = Upstream::start().await;
    let (envoy, edge) = start(&upstream).await;
    let mut client = Connection::open(edge, Protocol::Http1).await.unwrap();
    for (number, (path, headers, behave, asked)) in CASES.into_iter().enumerate() {
        upstream.reset_counts();
        let commands = format!("{}; go", writes(headers).join("; "));
        let case = format!("case-{number}");
        let request = Request::get(path).header("x-probe", commands);
        client.send(request.header("x-behave", behave).header("x-case", &case)).await.unwrap();
        assert_eq!(upstream.requests(), asked, "{path} {headers} {behave}");
        let events = all_events(&envoy, "probe", &case).await;
        assert_eq!(events.last().unwrap().get("attempts"), asked.to_string(), "{path} {headers} {behave}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_while_it_waits_makes_and_limits_retries_too() {
    let upstream = Upstream::start().await;
    let (envoy, edge) = start(&upstream).await;
    let mut scene = Scene::of(upstream, envoy, edge).await;
    let (vm, other) = scene.two();
    for (number, (path, headers, behave, asked)) in CASES.into_iter().enumerate() {
        let case = format!("case-{number}");
        // What a client, or a filter before us, wrote is removed there too.
        let request = Request::get(path).header("x-behave", behave).header("x-retry-me", "yes");
        let (pending, at) = scene.pause_this(vm, &case, request).await;
        scene.upstream.reset_counts();
        let written = writes(headers);
        let commands = format!(
            "effective stream={} & remove-header name=x-retry-me & {} & resume",
            at.stream,
            written.join(" & ")
        );
        let told = format!("{case}-told");
        let said = match number % 2 {
            0 => scene.tell(other, vm, &told, &commands).await,
            _ => scene.at_tick(vm, &told, &commands).await,
        };
        assert_eq!(said, vec!["ok"; 3 + written.len()], "{path} {headers}");
        pending.headers().await.unwrap().finish().await;
        assert_eq!(scene.upstream.requests(), asked, "{path} {headers} {behave}");
    }
}

/// What Envoy's buffer holds by default.
const BUFFER: usize = 1 << 20;
const LARGE: usize = 2 * BUFFER;

/// Counts the answers that were not passed on, when the router decides to try again.
const RETRIED: &str = "cluster.up.retry.upstream_rq_503";

/// One try more is counted when it begins, not when it is decided on.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_in_mid_retry_leaves_the_number_of_tries_that_began() {
    let upstream = Upstream::start().await;
    let (envoy, edge) = start(&upstream).await;
    for (case, path, second, tries) in
        [("backing-off", "/slow", "status=200", "1"), ("second-try", "/three", "hang", "2")]
    {
        upstream.reset_counts();
        let before = envoy.stat(RETRIED).await.unwrap_or(0);
        upstream.script([503].map(Behaviour::status));
        upstream.behave(Behaviour::parse(second));
        let mut client = Connection::open(edge, Protocol::Http2).await.unwrap();
        let pending = client.start(Request::get(path).header("x-case", case)).await.unwrap();
        envoy.wait_stat(RETRIED, |answers| answers == before + 1).await;
        upstream.wait_requests(tries.parse().unwrap()).await;
        pending.abandon();
        let events = all_events(&envoy, "probe", case).await;
        let end = events.last().unwrap();
        assert_eq!((end.get("attempts"), end.flags().as_str()), (tries, "DR"), "{case}");
    }
}

/// Nothing tells that there should have been one, but a flag and a counter.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_above_the_limit_of_the_cluster_is_not_made_and_not_counted_as_a_try() {
    let upstream = Upstream::start().await;
    let (envoy, edge) = start(&upstream).await;
    upstream.script([503].map(Behaviour::status));
    upstream.behave(Behaviour::hang());
    let mut holder = Connection::open(edge, Protocol::Http1).await.unwrap();
    let held = holder.start(Request::get("/tight")).await.unwrap();
    // Its retry takes the one place.
    upstream.wait_requests(2).await;
    let mut client = Connection::open(edge, Protocol::Http1).await.unwrap();
    let request = Request::get("/tight").header("x-case", "over").header("x-behave", "status=503");
    assert_eq!(client.send(request).await.unwrap().status, 503);
    let events = all_events(&envoy, "probe", "over").await;
    let end = events.last().unwrap();
    assert_eq!([end.get("details"), &end.flags(), end.get("attempts")], ["via_upstream", "UO", "1"]);
    envoy.wait_stat("cluster.tight.upstream_rq_retry_overflow", |times| times == 1).await;
    assert_eq!(upstream.requests(), 3);
    upstream.release();
    assert_eq!(held.headers().await.unwrap().status, 200);
}

/// Envoy keeps no body that is larger than its buffer, so that it cannot send it again. Where the rest of one comes when
/// an answer was not passed on already, there is none left to give: it makes one of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_larger_than_the_buffer_is_not_retried() {
    let (upstream, address) = listen().await;
    let envoy =
        envoy(&[probe("probe", "vm", "")], &routes(), &[cluster("up", &[address]), cluster("tight", &[])]);
    let envoy = envoy.start().await;
    let edge = envoy.addr("edge").await;
    let head = |case: &str| {
        let head = "POST /slow HTTP/1.1\r\nhost: test\r\nconnection: close";
        format!("{head}\r\nx-case: {case}\r\ncontent-length: {}\r\n\r\n#", LARGE + 1)
    };
    let busy = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";
    for (case, early, seen) in [
        ("after", false, ["503", "via_upstream", "-", "1"]),
        ("before", true, ["507", "request_payload_exceeded_retry_buffer_limit", "-", "1"]),
    ] {
        let mut client = Peer::connect(edge).await;
        client.send(head(case).as_bytes()).await;
        let mut server = Peer::accept(&upstream).await;
        server.until_text("\r\n\r\n#").await;
        if early {
            server.send(busy).await;
            envoy.wait_stat(RETRIED, |answers| answers == 1).await;
            // No more than it takes: what is on the way when Envoy answers may not find a reader.
            client.send(&[b'#'; BUFFER + (64 << 10)]).await;
        } else {
            client.send(&[b'#'; LARGE]).await;
            let whole = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'#').count() > LARGE;
            server.until("the whole body", whole).await;
            server.send(busy).await;
        }
        client.until_text("\r\n\r\n").await;
        let events = all_events(&envoy, "probe", case).await;
        let end = events.last().unwrap();
        let found = [end.get("code"), end.get("details"), &end.flags(), end.get("attempts")];
        assert_eq!(found, seen, "{case}");
    }
    assert_eq!(envoy.stat("cluster.up.retry_or_shadow_abandoned").await, Some(2));
}

/// How a filter can tell a caller's retry: by what an Envoy in front was told to say, and does with each try.
#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_in_front_says_which_try_it_is() {
    let upstream = Upstream::start().await;
    upstream.behave(Behaviour::status(503));
    let (_back, edge) = start(&upstream).await;
    let mut retried = route("retried", "/", "back");
    retried["route"]["retry_policy"] = json!({"retry_on": "5xx", "num_retries": 2});
    for (says, expected) in [(true, ["1", "2", "3"]), (false, ["-"; 3])] {
        let mut listener = resilience_host_contract::edge(&[], &[retried.clone()]);
        let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
        manager["route_config"]["virtual_hosts"][0]["include_request_attempt_count"] = says.into();
        let front = Envoy::builder(bootstrap(&[listener], &[cluster("back", &[edge])])).start().await;
        let mut client = Connection::open(front.addr("edge").await, Protocol::Http1).await.unwrap();
        upstream.reset_counts();
        assert_eq!(client.send(Request::get("/plain")).await.unwrap().status, 503);
        let said = upstream.received().into_iter().map(|request| {
            let said = request.headers.get("x-envoy-attempt-count");
            said.map_or("-".to_owned(), |said| said.to_str().unwrap().to_owned())
        });
        assert_eq!(said.collect::<Vec<_>>(), expected);
    }
}
