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
    targets(panel).into_iter().filter_map(|target| target["expr"].as_str()).collect()
}

/// The times that Grafana puts into queries, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// From one point of a graph to the next.
    pub interval: u64,
    /// What a rate looks at: at least four times the interval between two scrapes.
    pub rate_interval: u64,
    /// All that is shown.
    pub range: u64,
}

/// An expression with the dashboard's variables replaced as Grafana does where all is chosen.
#[must_use]
pub fn substituted(expression: &str, times: Times) -> String {
    let Times { interval, rate_interval, range } = times;
    // Longer names first: others begin them.
    let values = [
        ("$__rate_interval", format!("{rate_interval}s")),
        ("$__interval_ms", (interval * 1000).to_string()),
        ("$__interval", format!("{interval}s")),
        ("$__range_s", range.to_string()),
        ("$__range", format!("{range}s")),
        ("$job", ".*".to_owned()),
        ("$instance", ".*".to_owned()),
        ("$policy", ".*".to_owned()),
    ];
    values.iter().fold(expression.to_owned(), |text, (name, value)| text.replace(name, value))
}

/// What stands in a query before the zero that a graph shows where there is nothing; `None` where it ends in none.
#[must_use]
pub fn before_zero(expression: &str) -> Option<&str> {
    if let Some(before) = expression.strip_suffix(" or vector(0)") {
        return Some(before);
    }
    let (before, zero) = expression.rsplit_once(" or label_replace(vector(0), ")?;
    (zero.matches('(').count() == 0 && zero.ends_with(')')).then_some(before)
}

/// The labels that a legend names, such as `policy` in `{{policy}}`.
#[must_use]
pub fn legend(target: &Value) -> Vec<&str> {
    let text = target["legendFormat"].as_str().unwrap_or_default();
    text.split("{{").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0)).collect()
}

/// The queries of a panel.
#[must_use]
pub fn targets(panel: &Value) -> Vec<&Value> {
    panel["targets"].as_array().into_iter().flatten().collect()
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
