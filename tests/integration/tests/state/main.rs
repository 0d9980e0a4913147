//! What operators read of the state, on a listener of its own, is what clients and upstream know.

mod apart;
mod listener;
mod told;

use resilience_integration_tests::*;
use resilience_test_harness::config::{self, cluster, direct_response, resilience_filter, route};
use resilience_test_harness::*;
use serde_json::{Value, json};
use std::path::Path;

/// A listener for operators, as in the bundle: the same policies and vm_id, and a VM of its own.
fn operators(name: &str, module: &Path, document: &Value) -> Value {
    let mut document = document.clone();
    document[name] = true.into();
    let mut filter = resilience_filter(module, "resilience", &document.to_string());
    let plugin = &mut filter["typed_config"]["config"];
    plugin["name"] = name.into();
    plugin["vm_config"]["configuration"] =
        json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": name});
    routed_listener(name, &[direct_response("lost", "/", 404, "")], &[filter])
}

/// An Envoy before one upstream, with listeners for traffic, for orders and for looking on, whose filters are of this module.
async fn edge_of(module: &Path, upstream: &Upstream, document: &Value) -> Edge {
    let routes = [route("a", "/keyed/a", "a"), route("b", "/keyed/b", "b"), patient_route()];
    let guard = resilience_filter(module, "resilience", &document.to_string());
    let listeners = [
        routed_listener("edge", &routes, &[guard]),
        operators("control", module, document),
        operators("state", module, document),
    ];
    let clusters = ["a", "b", UPSTREAM].map(|name| cluster(name, &[upstream.addr()]));
    Edge::start(config::bootstrap(&listeners, &clusters)).await
}

/// What an answer in JSON says.
fn said(answer: &Answer) -> Value {
    assert_eq!(answer.header("content-type"), "application/json", "{answer:?}");
    serde_json::from_slice(&answer.body).unwrap()
}

/// One who looks on, from every worker in turn.
struct Operator(Clients);

impl Operator {
    async fn new(edge: &Edge) -> Self {
        Self(edge.clients_of("state", Protocol::Http1).await)
    }

    async fn get(&mut self, path: &str) -> Value {
        let answer = self.0.send(Request::get(path)).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        said(&answer)
    }

    async fn policy(&mut self, name: &str) -> Value {
        self.get(&format!("/policies/{name}")).await
    }

    async fn breaker(&mut self, name: &str) -> Value {
        self.policy(name).await["circuit_breaker"].take()
    }

    /// The health of a dependency and the reason.
    async fn health(&mut self, policy: &str, key: Option<&str>) -> (String, String) {
        let all = self.get("/dependencies").await;
        let is_it = |it: &&Value| it["policy"] == policy && it["key"].as_str() == key;
        let found = all["dependencies"].as_array().unwrap().iter().find(is_it).unwrap();
        let word = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        (word("health"), word("reason"))
    }
}

async fn order(edge: &Edge, path: &str) {
    let address = edge.envoy.addr("control").await;
    let answer = send_once(address, Protocol::Http1, Request::post(path, "")).await.unwrap();
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
}
