//! Rules and alerts, as promtool judges them, and what is written about them.

use resilience_prometheus_tests::{alerts, records, root, text};
use std::collections::BTreeSet;
use std::process::Command;

/// Where an alert is explained.
const DOCUMENT: &str = "docs/alerts.md";

fn promtool(arguments: &[&str]) {
    let mut command = Command::new("promtool");
    let output = command.current_dir(root().join("envoy/prometheus")).args(arguments).output();
    let output = output.expect("promtool is a program (`tools/setup prometheus` brings it)");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {arguments:?}:\n{said}");
}

#[test]
fn configuration_and_rules_are_valid() {
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["check", "rules", "rules.yml", "alerts.yml"]);
}

macro_rules! unit_tests {
    ($($name:ident),* $(,)?) => {
        const UNIT_TESTS: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $name() {
                promtool(&["test", "rules", concat!("tests/", stringify!($name), ".yml")]);
            }
        )*
    };
}

unit_tests![
    breaker_flapping,
    breaker_open,
    bulkhead_near_limit,
    edges,
    envoy_overloaded,
    error_budget_burn,
    fallback_active,
    latency_high,
    load_shedding,
    metrics_dropped,
    recording,
    retries_futile,
    retries_high,
    server_errors_high,
    store_give_ups,
    timeouts_high,
    vm_died,
];

#[test]
fn every_file_of_unit_tests_is_run() {
    let files = std::fs::read_dir(root().join("envoy/prometheus/tests")).unwrap();
    let names: BTreeSet<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    let run: BTreeSet<_> = UNIT_TESTS.iter().map(|name| format!("{name}.yml")).collect();
    assert_eq!(names, run);
}

#[test]
fn every_rule_has_a_unit_test() {
    let tests: String =
        UNIT_TESTS.iter().map(|name| text(&format!("envoy/prometheus/tests/{name}.yml"))).collect();
    for alert in alerts() {
        let fires = format!("alertname: {}\n    exp_alerts:", alert.name);
        let is_quiet = format!("alertname: {}, exp_alerts: []", alert.name);
        assert!(
            tests.contains(&fires) && tests.contains(&is_quiet),
            "{} fires and is quiet in some test",
            alert.name
        );
    }
    for record in records() {
        // As a sample that is expected, not only inside an expression.
        assert!(tests.contains(&record), "{record} is in no test");
    }
}

#[test]
fn every_rule_names_the_same_connection_managers_that_serve_no_callers() {
    let (rules, dashboard) = (text("envoy/prometheus/rules.yml"), text("envoy/grafana/resilience.json"));
    let matches = |text: &str| -> BTreeSet<String> {
        let after = text.split("envoy_http_conn_manager_prefix!~").skip(1);
        after
            .map(|rest| rest.trim_start_matches(['\\', '"']).split(['"', '\\']).next().unwrap().to_owned())
            .collect()
    };
    let named = matches(&rules);
    assert_eq!(named.len(), 1, "{named:?}");
    assert_eq!(matches(&dashboard), named);
    for prefix in ["admin", "control", "demo_upstream", "state"] {
        assert!(named.iter().all(|names| names.split('|').any(|name| name == prefix)), "{prefix}: {named:?}");
    }
    // And each rule that asks for connection managers names them.
    for metric in [
        "envoy_http_downstream_rq_completed{",
        "envoy_http_downstream_rq_xx{",
        "envoy_http_downstream_rq_time_bucket{",
    ] {
        for rest in rules.split(metric).skip(1) {
            let selector = rest.split('}').next().unwrap();
            assert!(selector.contains("envoy_http_conn_manager_prefix!~"), "{metric}{selector}");
        }
    }
}

#[test]
fn every_alert_is_explained() {
    let document = text(DOCUMENT);
    let sections: Vec<_> = document.split("\n## ").collect();
    let readme = text("README.md");
    let mut named = Vec::new();
    for alert in alerts() {
        assert!(matches!(alert.severity.as_str(), "critical" | "warning"), "{alert:?}");
        assert_eq!(alert.runbook, format!("{DOCUMENT}#{}", alert.name.to_lowercase()));
        let mut with_name = sections.iter().filter(|section| section.lines().next() == Some(&alert.name));
        let section = with_name.next().unwrap_or_else(|| panic!("{DOCUMENT} has no section {}", alert.name));
        let wait = if alert.wait.is_empty() { "at once".to_owned() } else { format!("after {}", alert.wait) };
        let first = format!("`{}`, {wait}.", alert.severity);
        assert!(section.contains(&first), "{DOCUMENT} does not say {first:?} of {}", alert.name);
        assert!(section.contains("**Do:**"), "{DOCUMENT} does not say what to do of {}", alert.name);
        assert!(readme.contains(&alert.name), "README.md does not name {}", alert.name);
        named.push(alert.name);
    }
    let titles: BTreeSet<_> = sections.iter().filter_map(|section| section.lines().next()).collect();
    let alerts: BTreeSet<_> = named.iter().map(String::as_str).collect();
    let gone: Vec<_> = titles.difference(&alerts).filter(|title| title.starts_with("Resilience")).collect();
    assert!(gone.is_empty(), "no such alerts: {gone:?}");
}
