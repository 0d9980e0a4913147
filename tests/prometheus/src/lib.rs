//! What is in `envoy/prometheus/` and `envoy/grafana/`, read as data.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The project's root.
///
/// # Panics
/// Never: this crate lies in it.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the workspace").to_owned()
}

/// The text of a file of the project.
///
/// # Panics
/// If it cannot be read.
#[must_use]
pub fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// An alert as `alerts.yml` writes it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Alert {
    /// Its name.
    pub name: String,
    /// How long the condition has to hold; empty for no time at all.
    pub wait: String,
    /// The label `severity`.
    pub severity: String,
    /// The annotation `runbook`.
    pub runbook: String,
}

/// All alerts, in the order of the file.
#[must_use]
pub fn alerts() -> Vec<Alert> {
    let mut alerts: Vec<Alert> = Vec::new();
    for line in text("envoy/prometheus/alerts.yml").lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("- alert: ") {
            alerts.push(Alert { name: name.to_owned(), ..Alert::default() });
        }
        let Some(alert) = alerts.last_mut() else { continue };
        for (key, value) in [
            ("for: ", &mut alert.wait),
            ("severity: ", &mut alert.severity),
            ("runbook: ", &mut alert.runbook),
        ] {
            if let Some(written) = line.strip_prefix(key) {
                written.clone_into(value);
            }
        }
    }
    alerts
}

/// The names of all recording rules, in the order of the file.
#[must_use]
pub fn records() -> Vec<String> {
    let rules = text("envoy/prometheus/rules.yml");
    rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ").map(str::to_owned)).collect()
}

/// The dashboard.
///
/// # Panics
/// If it is not JSON.
#[must_use]
pub fn dashboard() -> Value {
    serde_json::from_str(&text("envoy/grafana/resilience.json")).expect("the dashboard is JSON")
}

/// The panels that show something: those in rows as well, without the rows.
#[must_use]
pub fn panels(dashboard: &Value) -> Vec<&Value> {
    let top = dashboard["panels"].as_array().into_iter().flatten();
    let nested = |panel: &'_ Value| panel["panels"].as_array().is_some_and(|inside| !inside.is_empty());
    let mut found = Vec::new();
    for panel in top {
        if nested(panel) {
            found.extend(panel["panels"].as_array().into_iter().flatten());
        } else if panel["type"] != "row" {
            found.push(panel);
        }
    }
    found
}

/// The expressions of a panel.
#[must_use]
pub fn expressions(panel: &Value) -> Vec<&str> {
    let targets = panel["targets"].as_array().into_iter().flatten();
    targets.filter_map(|target| target["expr"].as_str()).collect()
}

/// An expression with the dashboard's variables replaced as Grafana does where all is chosen.
#[must_use]
pub fn substituted(expression: &str, rate_interval: &str) -> String {
    let all = ["$job", "$instance", "$policy"];
    let expression = expression.replace("$__rate_interval", rate_interval);
    all.iter().fold(expression, |text, name| text.replace(name, ".*"))
}

/// The words of an expression that begin with `envoy_` or `resilience_`: what is scraped, and labels of Envoy's. Recorded
/// series have colons in their names, and are none.
#[must_use]
pub fn words(expression: &str) -> BTreeSet<String> {
    // Every other piece stands between quotes.
    let outside: Vec<_> = expression.split('"').step_by(2).collect();
    let outside = outside.join(" ");
    let all =
        outside.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_' || letter == ':'));
    let ours =
        |word: &&str| !word.contains(':') && (word.starts_with("envoy_") || word.starts_with("resilience_"));
    all.filter(ours).map(str::to_owned).collect()
}
