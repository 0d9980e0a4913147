//! What the bundle's access log says of a request: a line of JSON.

use super::*;
use serde_json::Value;

/// The line of a request, by its path, without what differs from run to run.
async fn line(edge: &Edge, path: &str) -> Value {
    let mut line = eventually(&format!("the line of {path}"), PATIENCE, async || {
        let lines = edge.envoy.log_lines().into_iter().filter_map(|line| serde_json::from_str(&line).ok());
        lines.into_iter().find(|line: &Value| line["path"] == path)
    })
    .await;
    let fields = line.as_object_mut().unwrap();
    let mut take = |field: &str| fields.remove(field).unwrap_or_else(|| panic!("no {field}"));
    let (time, id) = (take("time"), take("request_id"));
    assert!(time.as_str().is_some_and(|time| time.starts_with("20") && time.ends_with('Z')), "{time}");
    assert_eq!(id.as_str().map(str::len), Some(36), "{id}");
    assert!(take("duration_ms").is_u64());
    let upstream = take("upstream_ms");
    // Whoever was not answered by an upstream has not waited for one.
    assert_eq!(upstream.is_u64(), fields["attempts"] != 0, "{upstream}");
    line
}

/// A line, of what is the same in most.
fn expected(path: &str, status: u16, more: Value) -> Value {
    let mut line = json!({
        "listener": "edge", "method": "GET", "path": path, "status": status,
        "policy": null, "decision": null, "reason": null, "breaker": null, "marker": null,
        "attempts": 1, "route": null, "cluster": null, "flags": "-", "details": "via_upstream",
    });
    line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    line
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_leaves_a_line_of_json() {
    let names = [PORTS[0], PORTS[1], PORTS[2], CONTROL_PORT];
    let (edge, _) = bundle(&names).await;
    let control = edge.envoy.addr("control").await;
    let force = async |policy: &str| {
        let order = Request::post(&format!("/breakers/{policy}/open?for=1h"), "");
        assert_eq!(send_once(control, Protocol::Http1, order).await.unwrap().status, 200);
    };
    let send = async |path: &str, failing: bool| {
        let request = Request::get(path);
        let request = if failing { request.header("x-envoy-fault-abort-request", "503") } else { request };
        send_once(edge.address, Protocol::Http1, request).await.expect("an answer").status
    };

    // Let in.
    assert_eq!(send("/catalogue?a", false).await, 200);
    let catalogue = json!({
        "policy": "catalogue", "decision": "admitted", "breaker": "closed", "route": "catalogue", "cluster": "catalogue",
    });
    assert_eq!(line(&edge, "/catalogue?a").await, expected("/catalogue?a", 200, catalogue));

    // Failed at every attempt, and answered by the fallback.
    assert_eq!(send("/checkout?b", true).await, 202);
    let checkout = json!({
        "policy": "checkout", "decision": "fallback", "reason": "upstream_failure", "breaker": "closed",
        "marker": "checkout;reason=upstream_failure;source=static", "route": "checkout", "cluster": "checkout",
        "attempts": 3, "flags": "URX",
    });
    assert_eq!(line(&edge, "/checkout?b").await, expected("/checkout?b", 202, checkout));

    // Refused, and answered by the fallback.
    force("checkout").await;
    assert_eq!(send("/checkout?c", false).await, 202);
    let checkout = json!({
        "policy": "checkout", "decision": "fallback", "reason": "circuit_open", "breaker": "open",
        "marker": "checkout;reason=circuit_open;source=static", "route": "checkout", "cluster": "checkout",
        "attempts": 0, "details": "resilience:checkout:circuit_open",
    });
    assert_eq!(line(&edge, "/checkout?c").await, expected("/checkout?c", 202, checkout));

    // Refused plainly.
    force("email-secondary").await;
    force("email").await;
    let mail = Request::post("/email/d", "").authority("shop.example");
    assert_eq!(send_once(edge.address, Protocol::Http1, mail).await.unwrap().status, 503);
    let email = json!({
        "method": "POST", "policy": "email", "decision": "refused", "reason": "circuit_open", "breaker": "open",
        "marker": "email;reason=circuit_open;source=none", "route": "email", "cluster": "email",
        "attempts": 0, "details": "resilience:email:circuit_open",
    });
    assert_eq!(line(&edge, "/email/d").await, expected("/email/d", 503, email));

    // Sent elsewhere: the policy that refused it, and where it went.
    force("product").await;
    assert_eq!(send("/product?e", false).await, 200);
    let product = json!({
        "policy": "product", "decision": "rerouted", "reason": "circuit_open", "breaker": "open",
        "marker": "product;reason=circuit_open;source=reroute", "route": "product-replica", "cluster": "product_replica",
    });
    assert_eq!(line(&edge, "/product?e").await, expected("/product?e", 200, product));

    // Nobody's: exempt, and without a route.
    assert_eq!(send("/health?f", false).await, 200);
    let health = json!({"route": "health", "cluster": "health"});
    assert_eq!(line(&edge, "/health?f").await, expected("/health?f", 200, health));
    assert_eq!(send("/nowhere", false).await, 404);
    let nowhere = json!({"attempts": 0, "flags": "NR", "details": "route_not_found"});
    assert_eq!(line(&edge, "/nowhere").await, expected("/nowhere", 404, nowhere));

    // Whatever a stranger writes into his path is one value.
    let hostile = r#"/health?","policy":"forged\"#;
    let raw = format!("GET {hostile} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n");
    assert_eq!(raw_exchange(edge.address, raw.as_bytes()).await.status(), Some(200));
    assert_eq!(line(&edge, hostile).await["policy"], Value::Null);
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_without_a_breaker_has_no_state_of_one() {
    let (edge, _) = bundle(&PORTS).await;
    let report = async |path: &str| {
        let slow = Request::get(path).header("x-envoy-fault-delay-request", "60000");
        let mut connection = Connection::open(edge.address, Protocol::Http1).await.unwrap();
        let pending = connection.start(slow).await.unwrap();
        (connection, pending)
    };
    let mut reports = Vec::new();
    for _ in 0..10 {
        reports.push(report("/admin/report").await);
    }
    edge.wait_count("resilience_bulkhead_in_flight", &[("policy", "admin")], 10).await;
    let one_more = send_once(edge.address, Protocol::Http1, Request::get("/admin/refused")).await.unwrap();
    assert_eq!(one_more.status, 503);
    let refused = line(&edge, "/admin/refused").await;
    let said = ["policy", "decision", "reason", "breaker"].map(|field| refused[field].clone());
    assert_eq!(said, [json!("admin"), json!("refused"), json!("bulkhead_full"), Value::Null]);
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_of_operators_are_logged_too() {
    let names = [PORTS[0], PORTS[1], PORTS[2], CONTROL_PORT];
    let (edge, _) = bundle(&names).await;
    let control = edge.envoy.addr("control").await;
    let order = Request::post("/breakers/checkout/reset", "");
    assert_eq!(send_once(control, Protocol::Http1, order).await.unwrap().status, 200);
    let line: Value = eventually("the line of an order", PATIENCE, async || {
        let lines = edge.envoy.log_lines().into_iter().filter_map(|line| serde_json::from_str(&line).ok());
        lines.into_iter().find(|line: &Value| line["listener"] == "control")
    })
    .await;
    let said = ["method", "path", "status"].map(|field| line[field].clone());
    assert_eq!(said, [json!("POST"), json!("/breakers/checkout/reset"), json!(200)]);
    assert!(line["from"].as_str().is_some_and(|from| from.starts_with("127.0.0.1:")), "{line}");
}
