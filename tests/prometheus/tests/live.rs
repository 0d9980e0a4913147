//! A real Prometheus scrapes the real bundle while the demo runs: every query has something to show, and every rule works.

use resilience_integration_tests::test_module;
use resilience_prometheus_tests::{
    Times, dashboard, expressions, legend, panels, records, root, substituted, targets, text, words,
};
use resilience_test_harness::*;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

const PORTS: [&str; 3] = ["RESILIENCE_PORT", "RESILIENCE_ADMIN_PORT", "RESILIENCE_UPSTREAM_PORT"];

/// What Grafana would take where the last hour is shown, and there is a second between two scrapes. The VMs began to serve
/// before Prometheus did: they are seen by an interval that is longer than that.
const TIMES: Times = Times { interval: 60, rate_interval: 4, range: 3600 };

/// What a healthy stack has none of, and the demo does not bring about: the filter defines these when they first happen,
/// which the suites of the filter itself see to.
const SELDOM: [&str; 5] = [
    "resilience_keys_exhausted_total",
    "resilience_metrics_dropped_total",
    "resilience_stale_routes_total",
    "resilience_store_conflicts_total",
    "resilience_store_give_ups_total",
];

/// Queries that may have nothing but zeros to show in a demo, by panel: those that end in a zero, and the one that looks only
/// every 15 s, are asked over series that are made up as well (`panels.rs`).
const ZEROS: [&str; 6] = [
    "Give-ups in 15 minutes",
    "Refused by Envoy itself",
    "Refused: deadline",
    "Store conflicts",
    "Time open in an hour",
    "What the filter could not tell apart",
];

/// The bulkhead of the reports, and the same for each upstream cluster and with a wait: waiting lasts too short in the demo
/// to be sure to be scraped.
const REPORTS: [&str; 2] = [
    r#""bulkhead": {"max_concurrent_calls": 10}"#,
    r#""key": "upstream_cluster", "bulkhead": {"max_concurrent_calls": 10, "max_wait_duration": "20s"}"#,
];
const PERMITS: usize = 10;

/// The bundle as it is rendered for an operator who names a module and ports, on free ones; with an edit.
async fn started(
    module: Option<PathBuf>,
    edit: impl Fn(String) -> String,
) -> (Envoy, Vec<(&'static str, String)>) {
    // Nobody else's until Envoy has bound them.
    let held = bundle::Ports::hold(&PORTS);
    let mut environment = held.environment().to_vec();
    environment.extend(module.map(|path| ("RESILIENCE_WASM", path.display().to_string())));
    let rendered = edit(bundle::rendered(&environment));
    let envoy = Envoy::builder(json!({})).overlay_yaml(rendered).start().await;
    (envoy, environment)
}

/// The configuration that operators get, for these Envoys, and faster.
fn configuration(targets: &[String]) -> String {
    let directory = root().join("envoy/prometheus");
    let mut written = text("envoy/prometheus/prometheus.yml");
    for (passage, other) in [
        ("targets: [127.0.0.1:9901]", format!("targets: [{}]", targets.join(", "))),
        ("scrape_interval: 15s", "scrape_interval: 1s".to_owned()),
        ("scrape_timeout: 10s", "scrape_timeout: 1s".to_owned()),
        ("evaluation_interval: 15s", "evaluation_interval: 1s".to_owned()),
        ("- rules.yml", format!("- {}", directory.join("rules.yml").display())),
        ("- alerts.yml", format!("- {}", directory.join("alerts.yml").display())),
    ] {
        assert!(written.contains(passage), "prometheus.yml has no {passage:?} any more");
        written = written.replace(passage, &other);
    }
    written
}

/// Kills the VM of one worker while it holds a permit.
async fn kill_a_vm(envoy: &Envoy) {
    let address = envoy.addr("edge").await;
    // One connection of HTTP/2, so one worker.
    let mut connection = Connection::open(address, Protocol::Http2).await.unwrap();
    let hanging = Request::get("/admin/report").header("x-envoy-fault-delay-request", "60000");
    let _held = connection.start(hanging).await.unwrap();
    eventually("the permit that is held", PATIENCE, async || {
        let in_flight = envoy.prometheus().await.sum("resilience_bulkhead_in_flight", &[("policy", "admin")]);
        (in_flight == 1.0).then_some(())
    })
    .await;
    let answer = connection.send(Request::get("/kill").header("x-test-trap", "now")).await.unwrap();
    assert_eq!(answer.status, 503);
    eventually("the worker to come back", PATIENCE, async || {
        let answer = connection.send(Request::get("/health")).await.unwrap();
        (answer.status == 200).then_some(())
    })
    .await;
}

/// Asks for more reports at once than there are permits, until Prometheus has seen those that wait.
async fn some_wait(prometheus: &Prometheus, envoy: &Envoy, since: u64) {
    let mut connection = Connection::open(envoy.addr("edge").await, Protocol::Http2).await.unwrap();
    let mut hanging = Vec::new();
    for _ in 0..PERMITS + 2 {
        let report = Request::get("/admin/report").header("x-envoy-fault-delay-request", "60000");
        hanging.push(connection.start(report).await.unwrap());
    }
    shows(prometheus, "resilience_bulkhead_waiting", since, true, "reports that wait").await;
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_demo_runs_every_query_has_data() {
    let (envoy, ports) = started(None, |yaml| yaml).await;
    // A second one, for what a demo does not show: a VM that dies, and requests that wait for long. And there are two then.
    let with_a_wait = |yaml: String| {
        assert_eq!(yaml.matches(REPORTS[0]).count(), 1, "the bundle's reports have another bulkhead now");
        yaml.replace(REPORTS[0], REPORTS[1])
    };
    let (mortal, _) = started(Some(test_module("resilience_trap")), with_a_wait).await;
    let targets = [&envoy, &mortal].map(|one| one.admin_addr().to_string());
    let since = now();
    let prometheus = Prometheus::start(&configuration(&targets)).await;

    let demo = tokio::task::spawn_blocking(move || {
        let mut demo = bundle::script("envoy/demo.py");
        demo.envs(ports).output().unwrap()
    });
    kill_a_vm(&mortal).await;
    some_wait(&prometheus, &mortal, since).await;
    let demo = demo.await.unwrap();
    assert!(demo.status.success(), "{}", String::from_utf8_lossy(&demo.stdout));

    every_query_has_data(&prometheus, since).await;
    bulkheads_of_upstream_clusters_are_known(&prometheus, since, &targets[1]).await;
    every_variable_has_values(&prometheus).await;
    every_rule_works(&prometheus, since).await;
    every_name_is_scraped(&prometheus).await;
    alerts_are_those_of_the_story(&prometheus, since, &targets).await;
}

/// Waits for a query that shows something (anything but zeros, if it should): the last scrape of a metric, and what is
/// recorded of it, come some seconds later.
async fn shows(prometheus: &Prometheus, query: &str, since: u64, something: bool, what: &str) {
    let mut last = None;
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            let found = prometheus
                .range(query, since, now())
                .await
                .unwrap_or_else(|error| panic!("{what}: {query}: {error}"));
            let mut values = found.iter().flat_map(|series| &series.values);
            if values.any(|value| !something || *value != 0.0) {
                return;
            }
            last = Some(found);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}: nothing to show for {query}: {last:?}");
}

async fn every_query_has_data(prometheus: &Prometheus, since: u64) {
    let dashboard = dashboard();
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        let something = !ZEROS.contains(&title);
        for target in targets(panel) {
            let query = substituted(target["expr"].as_str().unwrap(), TIMES);
            shows(prometheus, &query, since, something, title).await;
            if something {
                every_line_has_a_name(prometheus, &query, since, &legend(target)).await;
            }
        }
    }
}

/// What the legend names are labels of what is shown.
async fn every_line_has_a_name(prometheus: &Prometheus, query: &str, since: u64, labels: &[&str]) {
    for series in prometheus.range(query, since, now()).await.unwrap() {
        for label in labels {
            let named = series.labels.get(*label).is_some_and(|value| !value.is_empty());
            assert!(named, "{query}: a line without {label}: {:?}", series.labels);
        }
    }
}

/// What `ResilienceBulkheadNearLimit` leaves such policies out by, of one without a breaker; and nothing else of the kind.
async fn bulkheads_of_upstream_clusters_are_known(prometheus: &Prometheus, since: u64, instance: &str) {
    let changes = |labels: &str| format!("resilience_store_changes_total{{{labels}}}");
    let keyed = changes(&format!(r#"policy="admin", key!="_", instance="{instance}""#));
    shows(prometheus, &keyed, since, true, "a key of the reports").await;
    let whole = prometheus.range(&changes(r#"key="_""#), since, now()).await.unwrap();
    assert!(whole.is_empty(), "{whole:?}");
}

async fn every_variable_has_values(prometheus: &Prometheus) {
    let dashboard = dashboard();
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    for variable in variables.filter(|variable| variable["type"] == "query") {
        let query = substituted(variable["query"]["query"].as_str().unwrap(), TIMES);
        let inside = query
            .strip_prefix("label_values(")
            .and_then(|rest| rest.strip_suffix(')'))
            .expect("label values");
        let (selector, label) = inside.rsplit_once(", ").expect("a selector and a label");
        let values = prometheus.label_values(label, selector).await.unwrap();
        let known = match label {
            "policy" => {
                values.iter().filter(|value| ["checkout", "admin", "email"].contains(&value.as_str())).count()
                    == 3
            }
            "instance" => values.len() == 2,
            _ => values == ["envoy"],
        };
        assert!(known, "{query}: {values:?}");
    }
}

async fn every_rule_works(prometheus: &Prometheus, since: u64) {
    for rule in prometheus.rules().await {
        assert_eq!(rule["health"], "ok", "{}: {}", rule["name"], rule["lastError"]);
    }
    for record in records() {
        let rare = ["give_ups", "metrics_dropped"].iter().any(|name| record.contains(name));
        if !rare {
            shows(prometheus, &record, since, false, "a recording rule").await;
        }
    }
}

/// Every name of Envoy's or ours that a query uses is in Envoy's scrape, or one of [`SELDOM`].
async fn every_name_is_scraped(prometheus: &Prometheus) {
    let dashboard = dashboard();
    let mut used: BTreeSet<_> =
        panels(&dashboard).into_iter().flat_map(expressions).flat_map(words).collect();
    for rule in prometheus.rules().await {
        used.extend(words(rule["query"].as_str().unwrap()));
    }
    let labels = prometheus.labels().await.unwrap();
    let scraped: BTreeSet<_> = prometheus.label_values("__name__", "").await.unwrap().into_iter().collect();
    let known_to_core = text("filters/core/src/metrics.rs");
    let mut missing = Vec::new();
    for name in used {
        let seldom = SELDOM.contains(&name.as_str()) && known_to_core.contains(&name);
        if !(labels.contains(&name) || scraped.contains(&name) || seldom) {
            missing.push(name);
        }
    }
    assert!(missing.is_empty(), "in no scrape: {missing:?}");
}

/// The demo's failures burn the error budget of its edge, and of nothing else; a dead VM is one of its own Envoy.
async fn alerts_are_those_of_the_story(prometheus: &Prometheus, since: u64, targets: &[String; 2]) {
    let firing = |name: &str| format!(r#"ALERTS{{alertstate="firing", alertname="{name}"}}"#);
    shows(prometheus, &firing("ResilienceErrorBudgetBurnFast"), since, true, "an alert").await;
    let burning = prometheus.range(&firing("ResilienceErrorBudgetBurnFast"), since, now()).await.unwrap();
    let edges: BTreeSet<_> =
        burning.iter().map(|series| series.labels["envoy_http_conn_manager_prefix"].as_str()).collect();
    assert_eq!(edges, BTreeSet::from(["edge"]));
    shows(prometheus, &firing("ResilienceVmDied"), since, true, "an alert").await;
    let died = prometheus.range(&firing("ResilienceVmDied"), since, now()).await.unwrap();
    let instances: BTreeSet<_> = died.iter().map(|series| series.labels["instance"].clone()).collect();
    assert_eq!(instances, BTreeSet::from([targets[1].clone()]));
}
