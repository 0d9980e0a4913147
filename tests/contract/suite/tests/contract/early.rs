//! What the connection manager writes into a request before it has a route: where the edge says who a caller is.

use resilience_host_contract::{all_events, probe};
use resilience_test_harness::config::{self, connection_manager, listener, route, typed, virtual_host};
use resilience_test_harness::{Connection, Envoy, Protocol, Request, Upstream};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr};

const INSIDER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The header is taken from everybody, and written for one source by an expression. Where the expression says nothing, for
/// it is false or asks for what the connection does not have, there is no header. The route is chosen by what is written.
#[tokio::test(flavor = "multi_thread")]
async fn an_early_mutation_strips_a_header_and_writes_it_for_whom_the_edge_knows() {
    let upstream = Upstream::start().await;
    let for_those_with = |name: &str, header: Value| {
        let mut route = route(name, "/", "up");
        route["match"]["headers"] = json!([header]);
        route
    };
    let routes = [
        for_those_with("certified", json!({"name": "x-certified", "present_match": true})),
        for_those_with("insiders", json!({"name": "x-class", "string_match": {"exact": "critical"}})),
        for_those_with("named", json!({"name": "x-class", "present_match": true})),
        route("strangers", "/", "up"),
    ];
    let mut manager = connection_manager(&[virtual_host("all", &routes)], &[probe("probe", "vm", "")]);
    manager["use_remote_address"] = true.into();
    let written = |name: &str, expression: &str| {
        json!({"append": {
            "header": {"key": name, "value": format!("%CEL({expression})%")},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }})
    };
    let mutations = json!({"mutations": [
        {"remove": "x-class"},
        {"remove": "x-certified"},
        written("x-class", "source.address.startsWith('127.0.0.2:') ? 'critical' : ''"),
        written("x-certified", "connection.uri_san_peer_certificate == 'spiffe://shop/office' ? 'critical' : ''"),
    ]});
    let early = "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation";
    manager["early_header_mutation_extensions"] = json!([typed("class", early, mutations)]);
    let bootstrap =
        config::bootstrap(&[listener("edge", manager)], &[config::cluster("up", &[upstream.addr()])]);
    let envoy = Envoy::builder(bootstrap).start().await;
    let edge = envoy.addr("edge").await;
    for (case, source, expected) in [
        ("insider", INSIDER, "insiders"),
        ("stranger", STRANGER, "strangers"),
        ("again", INSIDER, "insiders"),
    ] {
        let mut connection = Connection::open_from(source, edge, Protocol::Http1).await.unwrap();
        let request = Request::get("/")
            .header("x-case", case)
            .header("x-class", "critical")
            .header("X-Class", "batch")
            .header("x-certified", "critical")
            .header("x-forwarded-for", INSIDER.to_string());
        assert_eq!(connection.send(request).await.unwrap().status, 200);
        let events = all_events(&envoy, "probe", case).await;
        assert_eq!((events[0].name(), events[0].get("route")), ("request_headers", expected), "{case}");
    }
}

/// What tells the router how to try and how long, for a caller whom Envoy itself would believe.
const OF_THE_ROUTER: [&str; 14] = [
    "x-envoy-max-retries",
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-per-try-idle-timeout-ms",
    "x-envoy-upstream-stream-duration-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-attempt-count",
    "grpc-previous-rpc-attempts",
];

/// Envoy itself takes most of these from a caller from outside. It leaves him these, and before 1.40 that of the duration.
fn left_to_strangers() -> Vec<&'static str> {
    let left = [
        "x-envoy-upstream-rq-per-try-idle-timeout-ms",
        "x-envoy-upstream-stream-duration-ms",
        "x-envoy-attempt-count",
        "grpc-previous-rpc-attempts",
    ];
    let taken_since = |name: &str| name == left[1] && crate::since(1, 40);
    left.into_iter().filter(|name| !taken_since(name)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_mutation_takes_the_headers_of_the_router_before_there_is_a_route() {
    let upstream = Upstream::start().await;
    let claimed = OF_THE_ROUTER.map(|name| {
        let mut route = route(name, "/", "up");
        route["match"]["headers"] = json!([{"name": name, "present_match": true}]);
        route
    });
    let routes = [&claimed[..], &[route("none", "/", "up")]].concat();
    let listener_of = |name: &str, inside: &str, mutations: &[Value]| {
        let mut manager = connection_manager(&[virtual_host("all", &routes)], &[probe("probe", "vm", "")]);
        if !inside.is_empty() {
            manager["use_remote_address"] = true.into();
            manager["internal_address_config"] =
                json!({"cidr_ranges": [{"address_prefix": inside, "prefix_len": 8}]});
        }
        let early = "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation";
        if !mutations.is_empty() {
            let mutations = json!({"mutations": mutations});
            manager["early_header_mutation_extensions"] = json!([typed("strip", early, mutations)]);
        }
        listener(name, manager)
    };
    let removed = OF_THE_ROUTER.map(|name| json!({"remove": name}));
    let listeners = [
        listener_of("inside", "127.0.0.0", &[]),
        listener_of("outside", "10.0.0.0", &[]),
        listener_of("unknown", "", &[]),
        listener_of("stripped", "127.0.0.0", &removed),
    ];
    let bootstrap = config::bootstrap(&listeners, &[config::cluster("up", &[upstream.addr()])]);
    let envoy = Envoy::builder(bootstrap).start().await;
    for (listener, left) in [
        ("inside", OF_THE_ROUTER.to_vec()),
        ("outside", left_to_strangers()),
        ("unknown", left_to_strangers()),
        ("stripped", vec![]),
    ] {
        let mut connection = Connection::open(envoy.addr(listener).await, Protocol::Http1).await.unwrap();
        let mut found = Vec::new();
        for name in OF_THE_ROUTER {
            let case = format!("{listener}-{name}");
            let request = Request::get("/").header("x-case", &case).header(name, "1").header(name, "2");
            let names = connection.send(request.header("x-probe", "names")).await.unwrap().text();
            let events = all_events(&envoy, "probe", &case).await;
            let there = names.split(',').any(|seen| seen == name);
            // The route was chosen after that.
            assert_eq!(events[0].get("route"), if there { name } else { "none" }, "{case}");
            found.extend(there.then_some(name));
        }
        assert_eq!(found, left, "{listener}");
    }
}
