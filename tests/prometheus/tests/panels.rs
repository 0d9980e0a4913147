//! Queries of the dashboard over series that are made up: what a demo has no values for, or only by chance. The series are
//! named by the filter's own code, so that a query with a label that they do not have shows nothing.

use resilience_core::answer::Reason;
use resilience_core::breaker::{Cause, Outcome, State};
use resilience_core::metrics as names;
use resilience_core::metrics::Lease;
use resilience_core::worker::Operation;
use resilience_prometheus_tests::{
    Times, before_zero, dashboard, legend, panels, root, substituted, targets,
};
use resilience_test_harness::Scratch;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Command;

/// What Grafana takes where an hour is shown, and scraped every 15 s.
const TIMES: Times = Times { interval: 60, rate_interval: 60, range: 3600 };
const POLICY: &str = "checkout";

/// A series as promtool wants it, by the name that the filter gives it.
fn series(name: &str, values: &str) -> Value {
    more(name, "", "", values)
}

/// The same with what Envoy puts behind the name, and labels of its own.
fn more(name: &str, suffix: &str, label: &str, values: &str) -> Value {
    let (metric, labels) = name.split_once(';').unwrap_or((name, ""));
    let labels = labels.split(';').filter_map(|label| label.split_once('='));
    let labels: String = labels.map(|(name, value)| format!(r#", {name}="{value}""#)).collect();
    json!({
        "series": format!(r#"{metric}{suffix}{{job="envoy", instance="a"{labels}{label}}}"#),
        "values": values,
    })
}

/// What is known of every Envoy, over half an hour.
fn envoy() -> Vec<Value> {
    vec![series("up", "1x120"), series("envoy_server_uptime", "90000+15x120")]
}

fn calls(policy: &str, values: &str) -> Value {
    series(&names::calls(policy, Outcome::Success), values)
}

/// The counters of what happens seldom.
fn counters() -> Vec<String> {
    vec![
        names::rejections(POLICY, Reason::DeadlineExceeded, None),
        names::transitions(POLICY, State::Open, Cause::ConsecutiveFailures),
        names::probes(POLICY, Outcome::Failure),
        names::keys_exhausted(POLICY),
        names::stale_routes(POLICY),
        names::leases_reclaimed(POLICY, Lease::Permit),
        names::conflicts(Operation::Admit),
        names::give_ups(Operation::Admit),
        names::VM_STARTS.to_owned(),
        names::vm_deaths("shopfast"),
        names::DROPPED.to_owned(),
    ]
}

/// What the labels of a legend are in these series.
fn expected(labels: &[&str]) -> String {
    let values = BTreeMap::from([
        ("policy", POLICY),
        ("instance", "a"),
        ("operation", "admit"),
        ("kind", "permit"),
        ("reason", "deadline_exceeded"),
        ("to", "open"),
        ("cause", "consecutive_failures"),
        ("outcome", "failure"),
    ]);
    let pairs: Vec<_> = labels.iter().map(|label| format!(r#"{label}="{}""#, values[label])).collect();
    format!("{{{}}}", pairs.join(", "))
}

/// An expression that has one sample then: with these labels and this value.
fn sample(expression: &str, minute: u32, labels: &str, value: u32) -> Value {
    let samples = [json!({"labels": labels, "value": value})];
    json!({"expr": expression, "eval_time": format!("{minute}m"), "exp_samples": samples})
}

fn promtool(series: &[Value], samples: &[Value]) {
    let rules = root().join("envoy/prometheus/rules.yml");
    let test = json!({
        "rule_files": [rules],
        "evaluation_interval": "15s",
        "group_eval_order": ["resilience_policies", "resilience_rare", "envoy_edges", "envoy_clusters"],
        "tests": [{"interval": "15s", "input_series": series, "promql_expr_test": samples}],
    });
    let scratch = Scratch::new();
    let file = scratch.file("panels.yml");
    // JSON is YAML.
    std::fs::write(&file, test.to_string()).unwrap();
    let output = Command::new("promtool").args(["test", "rules"]).arg(file).output();
    let output = output.expect("promtool is a program (`tools/setup prometheus` brings it)");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// The queries of a panel, ready to be asked.
fn queries(title: &str) -> Vec<String> {
    let dashboard = dashboard();
    let panel = panels(&dashboard).into_iter().find(|panel| panel["title"] == title);
    let panel = panel.unwrap_or_else(|| panic!("there is no panel {title}"));
    let all = targets(panel).into_iter().map(|target| substituted(target["expr"].as_str().unwrap(), TIMES));
    all.collect()
}

/// A query that ends in a zero has data whatever stands before that: it must have some as well, under the labels that the
/// legend names, both of counters that grow and of those that are just born.
#[test]
fn before_each_zero_stands_something_that_has_data() {
    let dashboard = dashboard();
    let mut samples = Vec::new();
    for target in panels(&dashboard).into_iter().flat_map(targets) {
        let Some(before) = before_zero(target["expr"].as_str().unwrap()) else { continue };
        let (labels, before) = (legend(target), substituted(before, TIMES));
        let counted = format!("count by ({}) (({before}) > 0)", labels.join(", "));
        samples.push(sample(&counted, 18, &expected(&labels), 1));
    }
    assert!(samples.len() >= 8, "{samples:?}");
    for values in ["5+7x100", "_x71 5x30"] {
        let mut all = envoy();
        all.push(series(&names::breaker_state(POLICY, ""), "2x100"));
        all.push(calls(POLICY, "0+7x100"));
        all.extend(counters().iter().map(|name| series(name, values)));
        promtool(&all, &samples);
    }
}

/// Three at the birth, two and one within a minute of each other, and one after Envoy was started again.
#[test]
fn each_event_is_counted_once() {
    let dashboard = dashboard();
    let mut samples = Vec::new();
    for target in panels(&dashboard).into_iter().flat_map(targets) {
        let expression = target["expr"].as_str().unwrap();
        if !expression.contains("$__interval_ms") {
            continue;
        }
        let labels = legend(target);
        let query = substituted(before_zero(expression).unwrap_or(expression), TIMES);
        let summed = format!("sum by ({}) (sum_over_time(({query})[30m:1m]))", labels.join(", "));
        samples.push(sample(&summed, 30, &expected(&labels), 7));
    }
    assert!(samples.len() >= 7, "{samples:?}");
    // Watched for longer than a step.
    let mut all = vec![series("up", "_x30 1x90"), series("envoy_server_uptime", "_x30 90000+15x90")];
    all.extend(counters().iter().map(|name| series(name, "_x40 3x9 5 6x29 1x60")));
    promtool(&all, &samples);
    // Of one that Prometheus has not watched nobody knows when the first came.
    let unwatched = [series("up", "_x40 1x80"), series("envoy_server_uptime", "_x40 90000+15x80")];
    let mut late = unwatched.to_vec();
    late.extend(counters().iter().map(|name| series(name, "_x40 3x9 5 6x29 1x60")));
    let since: Vec<_> = samples
        .into_iter()
        .map(|mut sample| {
            sample["exp_samples"][0]["value"] = 4.into();
            sample
        })
        .collect();
    promtool(&late, &since);
}

/// One that is still open counts, one whose policy an update has removed does not.
#[test]
fn time_in_open_is_that_of_breakers_that_are_open_now_as_well() {
    let [query]: [_; 1] = queries("Time open in an hour").try_into().unwrap();
    let mut all = envoy();
    all.push(series(&names::breaker_state(POLICY, ""), "0x40 2x80"));
    all.push(calls(POLICY, "0+7x120"));
    all.push(series(&names::breaker_state("gone", ""), "2x400"));
    all.push(calls("gone", "700x400"));
    promtool(&all, &[sample(&query, 20, &expected(&["policy"]), 600)]);
}

#[test]
fn breakers_of_policies_that_nobody_asks_any_more_are_not_shown() {
    let first = |title| queries(title).swap_remove(0);
    let mut all = envoy();
    for (policy, values) in [(POLICY, "0+7x600"), ("gone", "0+7x40 280x600"), ("never", "700x600")] {
        all.push(series(&names::breaker_state(policy, ""), "2x600"));
        all.push(calls(policy, values));
    }
    let state = first("Policies");
    let of = |policy: &str| json!({"labels": format!(r#"{{policy="{policy}"}}"#), "value": 2});
    let both = json!({"expr": &state, "eval_time": "60m", "exp_samples": [of(POLICY), of("gone")]});
    let not_closed = first("Breakers not closed");
    let over_time = first("Breakers over time");
    promtool(
        &all,
        &[
            both,
            sample(&state, 90, &expected(&["policy"]), 2),
            sample(&not_closed, 60, "{}", 2),
            sample(&not_closed, 90, "{}", 1),
            sample(&over_time, 90, &format!(r#"{{policy="{POLICY}", key="_"}}"#), 2),
        ],
    );
}

/// A hundred outages of a second before, and ten of up to a minute in the last hour.
#[test]
fn recovery_is_that_of_the_time_shown() {
    let name = names::recovery(POLICY);
    let bucket = |least: &str, values: &str| more(&name, "_bucket", &format!(r#", le="{least}""#), values);
    let mut all = envoy();
    all.push(bucket("1000", "0+2x50 100x400"));
    all.push(bucket("60000", "0+2x50 100x229 110x120"));
    all.push(bucket("+Inf", "0+2x50 100x229 110x120"));
    let queries: Vec<_> = queries("Recovery").iter().map(|query| format!("round({query})")).collect();
    let [median, most] = &queries[..] else { panic!("{queries:?}") };
    let policy = expected(&["policy"]);
    promtool(&all, &[sample(median, 80, &policy, 30_500), sample(most, 80, &policy, 57_050)]);
    // Just born, and all within the hour.
    let mut all = envoy();
    all.push(bucket("1000", "_x280 0x60"));
    all.push(bucket("60000", "_x280 10x60"));
    all.push(bucket("+Inf", "_x280 10x60"));
    promtool(&all, &[sample(median, 80, &policy, 30_500)]);
}
