//! A document that is wrong is refused, wherever it comes from, with all that is wrong in it; what serves goes on serving.

use resilience_integration_tests::*;
use resilience_test_harness::config;
use resilience_test_harness::*;
use serde_json::{Value, json};
use std::net::SocketAddr;

/// A filter with a document as text, whose order is the order of the messages.
fn filter_of(document: &str) -> Value {
    config::resilience_filter(&module(), "resilience", document)
}

fn bootstrap_of(document: &str) -> Value {
    let listener = plain_listener("edge", filter_of(document));
    bootstrap(&[listener], refused_address())
}

/// What the module said of a document, without Envoy's own words around it.
fn messages<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    lines
        .filter_map(|line| line.strip_prefix("[error][wasm] wasm log resilience")?.split_once(": "))
        .map(|(_, message)| message.to_owned())
        .collect()
}

fn assert_refused(document: &str, expected: &[&str]) {
    let validation = envoy(bootstrap_of(document)).validate();
    assert_eq!(messages(validation.output.lines()), expected, "{}", validation.output);
    assert_eq!(validation.code, Some(1), "{}", validation.output);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mistake_of_a_document_is_told_at_once_in_its_order() {
    // Deliberately not in the order of anything but itself.
    let document = r#"{
        "namespase": "shop",
        "policies": [
            {
                "name": "Checkout",
                "match": [{"route": "checkout", "pth": {"exact": "/"}}],
                "circuit_breaker": {
                    "wait_duration_in_open_state": 30,
                    "consecutive_failure": 3,
                    "failures_in_window": {"failures": 0, "window": "10"},
                    "mode": "open"
                },
                "fallback": [{"on": ["full"], "static": {"status": 99, "text": "a", "json": {}}}]
            },
            {"name": "a", "match": [], "mode": "forced_open"},
            {"match": [{"any": true}], "bulkhead": {}, "when_open": [], "cached": {}, "name": "a", "circuit_breaker": {}}
        ],
        "exempt": [{}],
        "expose": "no"
    }"#;
    assert_refused(
        document,
        &[
            r#"namespase: unknown key; did you mean "namespace"?"#,
            r#"policies[0].name: found "Checkout", expected a name such as "checkout" ([a-z][a-z0-9_-]{0,63})"#,
            r#"policies[0].match[0].pth: unknown key; did you mean "path"?"#,
            r#"policies[0].circuit_breaker.wait_duration_in_open_state: found 30, expected a duration such as "30s""#,
            r#"policies[0].circuit_breaker.consecutive_failure: unknown key; did you mean "consecutive_failures"?"#,
            "policies[0].circuit_breaker.failures_in_window.failures: found 0, expected a whole number from 1 to 1000",
            r#"policies[0].circuit_breaker.failures_in_window.window: found "10", expected a duration such as "30s""#,
            r#"policies[0].circuit_breaker.mode: found "open", expected one of "enforce", "shadow", "disabled", "forced_open""#,
            r#"policies[0].fallback[0].on[0]: found "full", expected one of "refusal", "failure", "circuit_open", "bulkhead_full", "dependency_open", "deadline_exceeded", "upstream_failure", "connect_failure", "reset", "timeout""#,
            "policies[0].fallback[0].static.status: found 99, expected a whole number from 200 to 599",
            r#"policies[0].fallback[0].static.json: a second body, expected one of "text", "json", "base64""#,
            r#"policies[1].match: found [], expected a list of matches such as [{"route": "checkout"}]"#,
            r#"policies[1].mode: found "forced_open", expected one of "enforce", "shadow", "disabled""#,
            r#"policies[2].bulkhead: missing key "max_concurrent_calls", expected how many calls may be in flight"#,
            r#"policies[2].when_open: found [], expected a list of 1 to 16 names of other policies"#,
            r#"policies[2].cached: unknown key, expected one of "name", "mode", "match", "outcome", "circuit_breaker", "bulkhead", "class", "timeout", "retry", "retry_budget", "fallback", "when_open", "key", "max_keys", "discourage_retries", "critical""#,
            r#"policies[2].name: found "a", expected a name that is not yet taken by policies[1].name"#,
            r#"policies[2].circuit_breaker: found {}, expected at least one trigger: "consecutive_failures", "failures_in_window", "failure_rate_threshold" or "slow_call_rate_threshold""#,
            r#"exempt[0]: found {}, expected at least one key, or {"any": true}"#,
            r#"expose: found "no", expected true or false"#,
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_in_matches_fallbacks_and_defaults_name_place_and_remedy() {
    let document = r#"{
        "defaults": {
            "circuit_breaker": {"wait_duration_in_open_state": "soon", "consecutive_failures": 3},
            "retry_budget": {"percent_can_retry": 140}
        },
        "policies": [
            {"name": "inherits", "match": [{"any": true}]},
            {
                "name": "a",
                "match": [
                    {"any": true, "route": "x"},
                    {"host": "a:80"},
                    {"path": {"prefix": "x"}},
                    {"methods": ["get"]},
                    {"metadata": {"namespace": "n", "key": "k"}},
                    7
                ],
                "discourage_retries": 1,
                "fallback": [
                    {"static": {"status": 200, "headers": {"x-resilience": "me", "a b": "c"}, "base64": "?"}},
                    {"fail": {}},
                    {"on": [], "static": {"status": "200"}}
                ]
            }
        ]
    }"#;
    assert_refused(
        document,
        &[
            r#"defaults.circuit_breaker.wait_duration_in_open_state: found "soon", expected a duration such as "30s""#,
            "defaults.retry_budget.percent_can_retry: found 140, expected a percentage from 0 to 100",
            r#"policies[1].match[0]: found {"any":true,"route":"x"}, expected "any" by itself"#,
            r#"policies[1].match[1].host: found "a:80", expected a host such as "shop.example" or "*.example.com", without a port"#,
            r#"policies[1].match[2].path.prefix: found "x", expected a path that begins with "/", without a query"#,
            r#"policies[1].match[3].methods[0]: found "get", expected an HTTP method such as "GET""#,
            r#"policies[1].match[4].metadata: missing key "value", expected a string"#,
            "policies[1].match[5]: found 7, expected an object",
            "policies[1].discourage_retries: found 1, expected true or false",
            "policies[1].fallback[0].static.headers.x-resilience: a header that Envoy or this filter writes, expected another",
            r#"policies[1].fallback[0].static.headers["a b"]: found no header name, expected a token (RFC 9110)"#,
            r#"policies[1].fallback[0].static.base64: found "?", expected base64 such as "aGk=" (RFC 4648, padded)"#,
            r#"policies[1].fallback[1].fail: missing key "status", expected an HTTP status from 400 to 599"#,
            "policies[1].fallback[2].on: found [], expected a list of reasons",
            r#"policies[1].fallback[2].static.status: found "200", expected a whole number from 200 to 599"#,
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_document_at_all_is_refused_too() {
    assert_refused("", &["document: not JSON: EOF while parsing a value at line 1 column 0"]);
    assert_refused("[]", &["document: found [], expected an object"]);
    assert_refused("{}", &[r#"document: missing key "policies", expected a list of policies"#]);
    // What is left when every mistake is mended.
    let validation = envoy(bootstrap_of(r#"{"policies": []}"#)).validate();
    assert_eq!(messages(validation.output.lines()), Vec::<String>::new());
    assert_eq!(validation.code, Some(0), "{}", validation.output);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_with_a_bad_document_does_not_start() {
    let document = r#"{"policies": [{"name": "a", "match": [{"any": true}], "circuit_breaker": {"consecutive_failures": 0}}, {}]}"#;
    let failure = envoy(bootstrap_of(document)).try_start().await.expect_err("a bad document");
    assert!(!failure.status.success(), "{failure}");
    assert_eq!(
        messages(failure.log.lines()),
        [
            "policies[0].circuit_breaker.consecutive_failures: found 0, expected a whole number from 1 to 1000000",
            r#"policies[1]: missing key "match", expected a list of matches"#,
            r#"policies[1]: missing key "name", expected a name such as "checkout" ([a-z][a-z0-9_-]{0,63})"#,
        ],
        "{failure}"
    );
}

/// Where the filter's configuration comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
enum From {
    /// A listener in a file.
    Listeners,
    /// The filter by itself in a file.
    Extensions,
}

struct Dynamic {
    edge: Edge,
    file: DynamicFile,
    from: From,
    /// Keeps the file.
    _scratch: Scratch,
}

impl From {
    fn resource(self, document: &str) -> Value {
        match self {
            Self::Listeners => config::listener_resource(plain_listener("edge", filter_of(document))),
            Self::Extensions => config::extension_resource(filter_of(document)),
        }
    }

    async fn start(self, upstream: SocketAddr, document: &str) -> Dynamic {
        let scratch = Scratch::new();
        let file = DynamicFile::new(scratch.file("discovered.json"), &[self.resource(document)]);
        let bootstrap = match self {
            Self::Listeners => config::with_listeners_from(bootstrap(&[], upstream), file.path()),
            Self::Extensions => {
                let filter = config::discovered_wasm_filter("resilience", file.path());
                bootstrap(&[plain_listener("edge", filter)], upstream)
            }
        };
        Dynamic { edge: Edge::start(bootstrap).await, file, from: self, _scratch: scratch }
    }
}

impl Dynamic {
    fn replace(&mut self, document: &str) {
        self.file.replace(&[self.from.resource(document)]);
    }

    async fn wait_rejected(&self, times: u64) {
        let stat = match self.from {
            From::Listeners => "listener_manager.lds.update_rejected",
            From::Extensions => "extension_config_discovery.http_filter.resilience.config_fail",
        };
        self.edge.envoy.wait_stat(stat, |count| count == times).await;
    }
}

fn guarded(failures: u32) -> Value {
    policy("guarded", json!({"failures_in_window": {"failures": failures, "window": "60s"}}))
}

/// Shows itself in the metrics if anybody so much as runs it.
fn leak() -> Value {
    policy("leaked", json!({"mode": "forced_open", "consecutive_failures": 1}))
}

async fn a_rejected_update_changes_nothing(from: From) {
    let upstream = Upstream::start().await;
    let mut dynamic = from.start(upstream.addr(), &document(&[guarded(4)]).to_string()).await;
    let mut kept = dynamic.edge.clients(Protocol::Http1).await;
    assert_eq!(kept.get("/guarded", "status=500").await, 500);

    // Too eager, and wrong in another place.
    let mut wrong = document(&[guarded(1), leak()]);
    wrong["policies"][1]["match"][0]["pth"] = 1.into();
    dynamic.replace(&wrong.to_string());
    dynamic.wait_rejected(1).await;
    let expected = [r#"policies[1].match[0].pth: unknown key; did you mean "path"?"#];
    let lines = dynamic.edge.envoy.log_lines();
    assert_eq!(messages(lines.iter().map(String::as_str)), expected);

    // What served, serves: connections that are kept as well as new ones, with the counts that were.
    let mut fresh = dynamic.edge.clients(Protocol::Http1).await;
    for clients in [&mut kept, &mut fresh] {
        assert_eq!(clients.get("/leaked", "status=200").await, 200);
        assert_eq!(clients.get("/guarded", "status=500").await, 500);
        for _ in 0..WORKERS {
            assert_eq!(clients.get("/guarded", "status=404").await, 404);
        }
    }
    if from == From::Listeners {
        // A document that the module takes, of a listener that Envoy rejects for another reason.
        let good = filter_of(&document(&[guarded(1), leak()]).to_string());
        let bad = json!({"name": "no.such.filter"});
        let rejected = routed_listener("edge", &[plain_route()], &[good, bad]);
        dynamic.file.replace(&[config::listener_resource(rejected)]);
        dynamic.wait_rejected(2).await;
        dynamic.edge.envoy.wait_log("no.such.filter").await;
    }
    // The fourth failure trips, as the configuration says that was never replaced.
    assert_eq!(upstream.requests_to("/guarded"), 3 + 2 * WORKERS);
    assert_eq!(dynamic.edge.transitions("guarded", "open", "failures_in_window").await, 0);
    assert_eq!(fresh.get("/guarded", "status=500").await, 500);
    assert_eq!(dynamic.edge.transitions("guarded", "open", "failures_in_window").await, 1);
    assert_eq!(kept.get("/guarded", "status=200").await, 503);
    assert_eq!(fresh.get("/guarded", "status=200").await, 503);
    assert_eq!(upstream.requests_to("/guarded"), 4 + 2 * WORKERS);
    // Time for ticks of whatever should not be there: a forced breaker shows its state on one.
    let until = std::time::Instant::now() + std::time::Duration::from_millis(1700);
    while std::time::Instant::now() < until {
        let metrics = dynamic.edge.envoy.get("/stats/prometheus").await.body;
        assert!(!metrics.contains("leaked"), "{metrics}");
    }

    // A good one is still taken, which says that this one would have shown.
    dynamic.replace(&document(&[guarded(1), leak()]).to_string());
    let leaks = [("policy", "leaked"), ("reason", "circuit_open")];
    eventually("the good update", PATIENCE, async || {
        let answer = send_once(dynamic.edge.address, Protocol::Http1, Request::get("/leaked")).await.unwrap();
        (answer.header("x-resilience") == "leaked;reason=circuit_open;source=none").then_some(())
    })
    .await;
    assert!(dynamic.edge.count("resilience_rejections_total", &leaks).await > 0);
    dynamic.edge.wait_count("resilience_circuit_breaker_state", &[("policy", "leaked")], 2).await;
    assert_eq!(dynamic.edge.count("resilience_circuit_breaker_state", &[("policy", "guarded")]).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_is_rejected_leaves_the_old_one_and_its_state() {
    a_rejected_update_changes_nothing(From::Listeners).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discovered_filter_that_is_rejected_leaves_the_old_one_and_its_state() {
    a_rejected_update_changes_nothing(From::Extensions).await;
}
