//! Another filter clears the cached route: which name the route then has for us, in which callback.

use resilience_host_contract::{all_events, command, envoy, names, probe};
use resilience_test_harness::config::{cluster, route, typed, with_http2};
use resilience_test_harness::{Envoy, Protocol, Request, Upstream, send_once};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// A filter that sends the requests that name it by the route `pinned` instead of `first`. To all others it only looks
/// whether their route has settings for it: to answer that, Envoy finds the route again if it was cleared.
fn rerouting(name: &str) -> Value {
    let code = format!(
        "function envoy_on_request(handle)
           local headers = handle:headers()
           if headers:get('x-by') == '{name}' then
             headers:replace('x-pin', '1')
             handle:clearRouteCache()
           end
         end"
    );
    let source = json!({"default_source_code": {"inline_string": code}});
    typed(name, "extensions.filters.http.lua.v3.Lua", source)
}

/// A route and an HTTP/2 cluster of the same name, and metadata that say it too.
fn named(name: &str, upstream: &Upstream) -> (Value, Value) {
    let mut route = route(name, "/", name);
    route["metadata"] = json!({"filter_metadata": {"shop": {"name": name}}});
    (route, with_http2(cluster(name, &[upstream.addr()])))
}

struct Stage {
    first: Upstream,
    pinned: Upstream,
    envoy: Envoy,
    edge: SocketAddr,
}

impl Stage {
    async fn new() -> Self {
        let (first, pinned) = (Upstream::start().await, Upstream::start().await);
        let ((to_first, first_cluster), (mut to_pinned, pinned_cluster)) =
            (named("first", &first), named("pinned", &pinned));
        to_pinned["match"]["headers"] = json!([{"name": "x-pin", "present_match": true}]);
        let filters = [rerouting("early"), rerouting("before"), probe("probe", "vm", ""), rerouting("after")];
        let envoy = envoy(&filters, &[to_pinned, to_first], &[first_cluster, pinned_cluster]).start().await;
        let edge = envoy.addr("edge").await;
        Self { first, pinned, envoy, edge }
    }

    /// The route's name in each callback of a call, and by which route the call went.
    async fn names(&self, case: &str, call: Request) -> (Vec<String>, &str) {
        self.first.reset_counts();
        self.pinned.reset_counts();
        let call = call.header("x-case", case).header("x-behave", "grpc=0");
        send_once(self.edge, Protocol::Http2, call).await.unwrap();
        let mut events = all_events(&self.envoy, "probe", case).await;
        events.retain(|event| !event.name().starts_with("response_body"));
        let went = match (self.first.requests(), self.pinned.requests()) {
            (1, 0) => "first",
            (0, 1) => "pinned",
            other => panic!("{other:?}"),
        };
        let callbacks = ["request_headers", "response_headers", "response_trailers", "log", "done", "delete"];
        assert_eq!(names(&events), callbacks);
        (events.iter().map(|event| event.get("route").to_owned()).collect(), went)
    }
}

/// In request headers the name may be an old one, and nothing there tells. From response headers to the end it is that
/// of the route that the request took, because the router has found it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_cleared_route_keeps_its_name_until_somebody_looks() {
    let stage = Stage::new().await;
    let call = || Request::grpc("/shop.Cart/Add");
    for (by, in_request_headers, went) in [
        ("nobody", "first", "first"),
        // Two filters before us; the one in between has looked.
        ("early", "pinned", "pinned"),
        ("before", "first", "pinned"),
        ("after", "first", "pinned"),
    ] {
        let (names, took) = stage.names(by, call().header("x-by", by)).await;
        assert_eq!(took, went, "{by}");
        let (arriving, later) = names.split_first().unwrap();
        assert_eq!(arriving, in_request_headers, "{by}");
        assert!(later.iter().all(|name| name == went), "{by}: {later:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_and_the_cluster_are_as_old_as_the_name() {
    let stage = Stage::new().await;
    let look =
        "property path=xds.route_metadata.filter_metadata.shop.name; property path=xds.cluster_name; go";
    for (by, seen) in [("early", "pinned|pinned"), ("before", "first|first")] {
        let answer = send_once(stage.edge, Protocol::Http2, command(look).header("x-by", by)).await.unwrap();
        assert_eq!(answer.header("x-probe-answer"), seen, "{by}");
    }
}

/// The names that other hosts and older Envoys gave them.
#[tokio::test(flavor = "multi_thread")]
async fn the_route_and_the_cluster_have_their_names_under_xds_only() {
    let stage = Stage::new().await;
    let look = "property path=route_name; property path=cluster_name; property path=xds.cluster_name";
    let answer = send_once(stage.edge, Protocol::Http2, command(look)).await.unwrap();
    assert_eq!(answer.text(), "-\n-\nfirst");
}
