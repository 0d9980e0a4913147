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
