//! Which of Envoy's timeouts run while a filter has paused a request in its headers: a wait has to be shorter than these.

use resilience_host_contract::{all_events, probe};
use resilience_test_harness::config::{self, cluster, connection_manager, listener, route, virtual_host};
use resilience_test_harness::{Envoy, raw_exchange};
use serde_json::{Value, json};

const SOON: &str = "0.5s";
/// After any that ends soon, so that it tells which of them do not run.
const LATER: &str = "2s";
const NEVER: &str = "0s";

/// Its name, what is set for all that a paused request meets and for its route, what has come of a body of four bytes
/// (none where there is none), and how it ends.
type Case = (&'static str, Value, Value, &'static str, &'static str);

fn cases() -> [Case; 8] {
    let last = json!({"max_stream_duration": LATER});
    let with_last = |name: &str| json!({name: SOON, "common_http_protocol_options": last});
    let idle = |after: &str| json!({"idle_timeout": after});
    [
        ("idle", json!({"stream_idle_timeout": SOON}), json!({}), "body", "stream_idle_timeout"),
        // A route's own is in the place of the listener's, be it shorter or longer.
        ("route-shorter", json!({"stream_idle_timeout": NEVER}), idle(SOON), "body", "stream_idle_timeout"),
        ("route-longer", with_last("stream_idle_timeout"), idle("60s"), "body", "max_duration_timeout"),
        // For all of a request that the filters have not let by, though the client has sent it whole.
        ("request", with_last("request_timeout"), json!({}), "bo", "request_overall_timeout"),
        ("request-whole", with_last("request_timeout"), json!({}), "body", "request_overall_timeout"),
        ("request-no-body", with_last("request_timeout"), json!({}), "", "request_overall_timeout"),
        ("headers", with_last("request_headers_timeout"), json!({}), "body", "max_duration_timeout"),
        (
            "route",
            json!({"common_http_protocol_options": last}),
            json!({"timeout": SOON}),
            "body",
            "max_duration_timeout",
        ),
    ]
}

fn with(mut config: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_request_is_ended_by_the_timeouts_of_its_stream_and_not_by_the_routers() {
    let listeners = cases().map(|(case, manager, action, _, _)| {
        let mut route = route("all", "/", "up");
        route["route"] = with(route["route"].take(), &action);
        let base = connection_manager(&[virtual_host("all", &[route])], &[probe("probe", "vm", "")]);
        listener(case, with(base, &manager))
    });
    let up = cluster("up", &[resilience_test_harness::refused_address()]);
    let envoy = Envoy::builder(config::bootstrap(&listeners, &[up])).start().await;
    let mut clients = Vec::new();
    for (case, _, _, body, _) in cases() {
        let length = if body.is_empty() { 0 } else { 4 };
        let head = format!("POST / HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}");
        let request = format!("{head}\r\nx-case: {case}\r\nx-probe: pause\r\n\r\n{body}");
        let address = envoy.addr(case).await;
        clients.push(tokio::spawn(async move { raw_exchange(address, request.as_bytes()).await }));
    }
    for (client, (case, _, _, _, details)) in clients.into_iter().zip(cases()) {
        client.await.expect("an answer");
        let events = all_events(&envoy, "probe", case).await;
        assert_eq!(events.last().unwrap().get("details"), details, "{case}");
    }
}
