//! What of a decision reaches the span of a request.

use crate::since;
use resilience_host_contract::{Peer, command, listen, probe};
use resilience_test_harness::config::{
    bootstrap, cluster, connection_manager, listener, route, typed, virtual_host,
};
use resilience_test_harness::{Builder, Envoy, Protocol, Upstream, send_once};
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::net::TcpListener;

/// Where Envoy sends its spans; one connection.
struct Collector {
    listener: TcpListener,
    address: SocketAddr,
    peer: Option<Peer>,
    read: usize,
}

impl Collector {
    async fn start() -> Self {
        let (listener, address) = listen().await;
        Self { listener, address, peer: None, read: 0 }
    }

    /// The tags of the next span.
    async fn tags(&mut self) -> Value {
        if self.peer.is_none() {
            self.peer = Some(Peer::accept(&self.listener).await);
        }
        let (peer, read) = (self.peer.as_mut().unwrap(), self.read);
        let bytes = peer.until("a span", |bytes| spans(&bytes[read..]).is_some()).await;
        let spans = spans(&bytes[read..]).unwrap();
        self.read = bytes.len();
        peer.send(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(spans.as_array().unwrap().len(), 1, "{spans}");
        spans[0]["tags"].clone()
    }
}

/// The list of spans in a request to the collector, once it is there as a whole.
fn spans(bytes: &[u8]) -> Option<Value> {
    let start = bytes.windows(2).position(|two| two == b"[{")?;
    serde_json::Deserializer::from_slice(&bytes[start..]).into_iter().next()?.ok()
}

/// An Envoy that traces every request to the collector, at once, with these tags.
fn tracing(collector: SocketAddr, upstream: SocketAddr, filters: &[Value], tags: Value) -> Builder {
    let provider = typed(
        "envoy.tracers.zipkin",
        "config.trace.v3.ZipkinConfig",
        json!({
            "collector_cluster": "collector",
            "collector_endpoint": "/api/v2/spans",
            "collector_endpoint_version": "HTTP_JSON",
        }),
    );
    let mut manager = connection_manager(&[virtual_host("all", &[route("all", "/", "up")])], filters);
    manager["generate_request_id"] = true.into();
    manager["tracing"] = json!({"provider": provider, "custom_tags": tags});
    let clusters = [cluster("up", &[upstream]), cluster("collector", &[collector])];
    let mut bootstrap = bootstrap(&[listener("edge", manager)], &clusters);
    let layer = json!({"tracing": {"zipkin": {"min_flush_spans": 1}}});
    bootstrap["layered_runtime"]["layers"][0] = json!({"name": "at once", "static_layer": layer});
    Envoy::builder(bootstrap).concurrency(1)
}

const ADMITTED: &str = "set-property path=shop.policy value=checkout; go";
const REFUSED: &str = "set-property path=shop.policy value=checkout; reply status=503 h:x-mark=refused";
const REPLACED: &str =
    "set-property path=shop.policy value=checkout; on-response reply status=504 h:x-mark=replaced";

/// Since 1.37 a tag may be written like a field of an access log; where there is nothing, there is no tag.
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_shows_filter_state() {
    let (upstream, mut collector) = (Upstream::start().await, Collector::start().await);
    let tags = json!([
        {"tag": "policy", "value": "%FILTER_STATE(wasm.shop.policy:PLAIN)%"},
        {"tag": "absent", "value": "%FILTER_STATE(wasm.shop.absent:PLAIN)%"},
    ]);
    let envoy = tracing(collector.address, upstream.addr(), &[probe("probe", "vm", "")], tags);
    if !since(1, 37) {
        let refused = envoy.try_start().await.expect_err("an unknown field");
        assert!(refused.log.contains("custom_tags[0]"), "{refused}");
        return;
    }
    let envoy = envoy.start().await;
    let edge = envoy.addr("edge").await;
    for (commands, expected) in [
        (ADMITTED, json!("checkout")),
        (REFUSED, json!("checkout")),
        (REPLACED, json!("checkout")),
        ("go", Value::Null),
    ] {
        send_once(edge, Protocol::Http1, command(commands)).await.unwrap();
        let tags = collector.tags().await;
        assert_eq!((&tags["policy"], &tags["absent"]), (&expected, &Value::Null), "{commands}");
    }
}

/// In every version a tag shows metadata, and a filter in front of ours makes that of a header of the answer. It does not
/// see an answer that ours sent in the place of another.
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_shows_a_header_of_the_answer_by_way_of_metadata() {
    let (upstream, mut collector) = (Upstream::start().await, Collector::start().await);
    let marked = typed(
        "envoy.filters.http.header_to_metadata",
        "extensions.filters.http.header_to_metadata.v3.Config",
        json!({"response_rules": [{
            "header": "x-mark",
            "on_header_present": {"metadata_namespace": "shop", "key": "mark"},
        }]}),
    );
    let tags = json!([{"tag": "mark", "metadata": {
        "kind": {"request": {}},
        "metadata_key": {"key": "shop", "path": [{"key": "mark"}]},
    }}]);
    let filters = [marked, probe("probe", "vm", "")];
    let envoy = tracing(collector.address, upstream.addr(), &filters, tags).start().await;
    let edge = envoy.addr("edge").await;
    let rewritten = "on-response rewrite status=200 h:x-mark=rewritten";
    for (commands, expected) in [
        ("go", Value::Null),
        (REFUSED, json!("refused")),
        (rewritten, json!("rewritten")),
        (REPLACED, Value::Null),
    ] {
        send_once(edge, Protocol::Http1, command(commands)).await.unwrap();
        assert_eq!(collector.tags().await["mark"], expected, "{commands}");
    }
}
