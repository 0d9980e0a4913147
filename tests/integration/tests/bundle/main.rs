//! What `make run` starts does what `make demo` shows.

mod bulkheads;
mod logs;
mod mails;
mod page;
mod retries;
mod traces;
mod validate;
mod validate_fallbacks;
mod validate_retries;
mod watch;

use resilience_integration_tests::*;
use resilience_test_harness::bundle::root;
use resilience_test_harness::*;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;
use std::sync::LazyLock;

/// Runs one of the project's scripts.
fn run(script: &str, arguments: &[&Path], environment: &[(&str, String)]) -> Output {
    let mut command = bundle::script(script);
    command.args(arguments).envs(environment.iter().map(|(name, value)| (name, value)));
    command.output().unwrap_or_else(|error| panic!("{script}: {error}"))
}

/// What switches run-time control on.
const CONTROL_PORT: &str = "RESILIENCE_CONTROL_PORT";
/// What has the state shown.
const STATE_PORT: &str = "RESILIENCE_STATE_PORT";
const PORTS: [&str; 3] = ["RESILIENCE_PORT", "RESILIENCE_ADMIN_PORT", "RESILIENCE_UPSTREAM_PORT"];

/// A text with one passage of it exchanged.
fn exchanged(text: &str, passage: &str, other: &str) -> String {
    assert!(text.contains(passage), "the bundle has no {passage:?} any more");
    text.replace(passage, other)
}

/// A bundle whose service has moved: to a port where nobody listens, for example.
fn moved(yaml: &str, service: &str, port: u16) -> String {
    let cluster = format!("      cluster_name: {service}\n");
    let (before, after) = yaml.split_once(&cluster).unwrap_or_else(|| panic!("there is no {cluster:?}"));
    let (head, tail) = after.split_once("port_value: ").expect("a port");
    let digits = tail.find(|c: char| !c.is_ascii_digit()).expect("something behind it");
    format!("{before}{cluster}{head}port_value: {port}{}", &tail[digits..])
}

/// A port where nobody listens: one of those that are nobody's but root's.
const NOWHERE: u16 = 1;

/// What the bundle is made into, with these ports or its own.
fn rendered(ports: &[(&'static str, String)]) -> String {
    // Most tests only read it.
    static WITH_ITS_OWN: LazyLock<String> = LazyLock::new(|| bundle::rendered(&[]));
    if ports.is_empty() { WITH_ITS_OWN.clone() } else { bundle::rendered(ports) }
}

/// The bundle as it is rendered for an operator who names these ports, on free ones.
async fn bundle(names: &[&'static str]) -> (Edge, Vec<(&'static str, String)>) {
    edited_bundle(names, |yaml| yaml).await
}

/// The same with changes to what was rendered.
async fn edited_bundle(
    names: &[&'static str],
    edit: impl FnOnce(String) -> String,
) -> (Edge, Vec<(&'static str, String)>) {
    bundle_with(names, &[], edit).await
}

/// The same with more that the operator says.
async fn bundle_with(
    names: &[&'static str],
    more: &[(&'static str, String)],
    edit: impl FnOnce(String) -> String,
) -> (Edge, Vec<(&'static str, String)>) {
    // Nobody else's until Envoy has bound them.
    let held = bundle::Ports::hold(names);
    let ports = held.environment().to_vec();
    // The whole configuration is the bundle's: the harness adds nothing.
    let yaml = rendered(&[&ports, more].concat());
    let envoy = Envoy::builder(json!({})).overlay_yaml(edit(yaml));
    let edge = Edge::of(envoy.argument("--file-flush-interval-msec").argument("50")).await;
    assert_eq!(edge.address.port().to_string(), ports[0].1);
    assert_eq!(edge.envoy.admin_addr().port().to_string(), ports[1].1);
    (edge, ports)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_succeeds_on_the_bundle() {
    let (edge, ports) = bundle(&PORTS).await;
    let demo = tokio::task::spawn_blocking(move || run("envoy/demo.py", &[], &ports)).await.unwrap();
    let said = String::from_utf8_lossy(&demo.stdout);
    assert!(demo.status.success(), "{said}\n{}", String::from_utf8_lossy(&demo.stderr));
    assert!(said.ends_with("All as it should be.\n"), "{said}");
    for to in ["open", "half_open", "closed"] {
        let labels = [("policy", "checkout"), ("to", to)];
        let count = edge.count("resilience_circuit_breaker_transitions_total", &labels).await;
        // More only where the machine stood still while calls hung: then the demo waits for the breaker, and repeats.
        assert!(count >= if to == "closed" { 1 } else { 2 }, "{to}: {count}");
    }
    for class in ["normal", "critical"] {
        let labels = [("policy", "checkout"), ("reason", "bulkhead_full"), ("class", class)];
        assert!(edge.count("resilience_rejections_total", &labels).await > 0, "{class}: {said}");
    }
    for (policy, decision) in [("checkout", "granted"), ("pricing", "granted"), ("pricing", "denied")] {
        let labels = [("policy", policy), ("decision", decision)];
        assert!(edge.count("resilience_retries_total", &labels).await > 0, "{policy} {decision}: {said}");
    }
    // Each in a line of the access log.
    for reason in ["circuit_open", "bulkhead_full"] {
        let marker = format!(r#""marker":"checkout;reason={reason};source=static""#);
        edge.envoy.wait_log(&marker).await;
        edge.envoy.wait_log(&format!(r#""details":"resilience:checkout:{reason}""#)).await;
    }
    edge.envoy.wait_log(r#""marker":"product;reason=circuit_open;source=reroute""#).await;
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bundle_does_what_its_first_words_promise() {
    let (edge, _) = bundle(&PORTS).await;
    // Each over a connection of its own, which may be any worker's.
    let send = async |request| send_once(edge.address, Protocol::Http1, request).await.expect("an answer");
    let failing = |request: Request| request.header("x-envoy-fault-abort-request", "503");

    // A failure that says when to come back; a breaker in shadow mode, found by the metadata of the route.
    for _ in 0..5 {
        let answer = send(failing(Request::get("/pricing"))).await;
        let marker = "pricing;reason=upstream_failure;source=fail";
        let marks = ["x-resilience", "retry-after"].map(|name| answer.header(name));
        assert_eq!((answer.status, marks), (503, [marker, "5"].map(str::to_owned)));
    }
    let answer = send(Request::get("/pricing")).await;
    assert_eq!((answer.status, answer.header("x-resilience")), (200, String::new()));
    assert_eq!(edge.count("resilience_shadow_decisions_total", &[("policy", "pricing")]).await, 1);
    // Of its upstream cluster alone: the policy has a key for each.
    let mut states = Vec::new();
    for key in ["pricing", "_"] {
        let labels = [("policy", "pricing"), ("key", key)];
        states.push(edge.count("resilience_circuit_breaker_state", &labels).await);
    }
    assert_eq!(states, [2, 0]);

    // Headers that steer are stripped before anybody believes them.
    for cluster in ["email", "email_secondary", "product_replica"] {
        for path in ["/catalogue", "/product", "/email/welcome"] {
            let steered = Request::get(path).header("x-resilience-reroute", cluster);
            let answer = send(steered).await;
            assert_eq!(
                (answer.status, answer.header("x-resilience")),
                (200, String::new()),
                "{cluster} {path}"
            );
            assert!(
                !answer.text().contains("replica") && !answer.text().contains("secondary"),
                "{}",
                answer.text()
            );
        }
    }
    assert_eq!(send(Request::get("/health")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_have_a_listener_of_their_own_where_they_ask_for_it() {
    let names = [PORTS[0], PORTS[1], PORTS[2], CONTROL_PORT];
    let (edge, ports) = bundle(&names).await;
    let control = edge.envoy.addr("control").await;
    assert_eq!((control.ip().is_loopback(), control.port().to_string()), (true, ports[3].1.clone()));
    let order = async |address, path| {
        let answer = send_once(address, Protocol::Http1, Request::post(path, "")).await.unwrap();
        (answer.status, answer.text())
    };
    let checkout = async || {
        send_once(edge.address, Protocol::Http1, Request::get("/checkout")).await.expect("an answer").status
    };
    let (status, said) = order(control, "/breakers/checkout/open?for=1h").await;
    assert_eq!((status, said.contains(r#""breakers":1"#)), (200, true), "{said}");
    assert_eq!((checkout().await, edge.state("checkout").await), (202, Some(2)));
    // To the listener with the traffic it is a path like any other.
    assert_eq!(order(edge.address, "/breakers/checkout/reset").await.0, 404);
    assert_eq!(checkout().await, 202);
    assert_eq!(order(control, "/breakers/checkout/reset").await.0, 200);
    assert_eq!((checkout().await, edge.transitions("checkout", "closed", "forced").await), (200, 1));
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_looks_on_has_a_listener_of_its_own_where_it_is_asked_for() {
    let names = [PORTS[0], PORTS[1], PORTS[2], STATE_PORT];
    let (edge, ports) = bundle(&names).await;
    let state = edge.envoy.addr("state").await;
    assert_eq!((state.ip().is_loopback(), state.port().to_string()), (true, ports[3].1.clone()));
    let get = async |address, path| {
        let answer = send_once(address, Protocol::Http1, Request::get(path)).await.unwrap();
        (answer.status, answer.text())
    };
    for _ in 0..3 {
        let failing = Request::post("/email/x", "").header("x-envoy-fault-abort-request", "503");
        let failing = failing.authority("shop.example");
        assert_eq!(send_once(edge.address, Protocol::Http1, failing).await.unwrap().status, 503);
    }
    let (status, told) = get(state, "/policies/email").await;
    assert_eq!((status, told.contains(r#""state":"open""#)), (200, true), "{told}");
    let (status, told) = get(state, "/dependencies").await;
    // Another mailer takes over, so nobody is hurt.
    let email =
        r#"{"policy":"email","health":"down","reason":"circuit_open","enforced":true,"critical":false}"#;
    assert_eq!((status, told.contains(email)), (200, true), "{told}");
    // To the listener with the traffic these are paths like any other.
    for path in ["/policies", "/dependencies", "/ready", "/live"] {
        assert_eq!(get(edge.address, path).await.0, 404, "{path}");
    }
    // Whoever asks too often for what takes a worker time is told so; whether it lives may be asked as often as anybody likes.
    let often = async |path: &'static str| {
        let answers = burst(state, Protocol::Http1, 1000, 16, |_| Request::get(path)).await;
        answers.into_iter().map(|answer| answer.expect("an answer").status).collect::<BTreeSet<_>>()
    };
    assert_eq!(often("/policies/email").await, BTreeSet::from([200, 429]));
    assert_eq!([often("/live").await, often("/ready").await], [BTreeSet::from([200]), BTreeSet::from([200])]);
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_those_listeners_unasked() {
    let (edge, _) = bundle(&PORTS).await;
    let listeners = edge.envoy.get("/listeners").await.body;
    assert!(listeners.contains("edge"), "{listeners}");
    assert!(!listeners.contains("control") && !listeners.contains("state"), "{listeners}");
}
