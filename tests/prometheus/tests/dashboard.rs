//! The dashboard as a document: what Grafana would show crooked, or not at all.

use resilience_prometheus_tests::{dashboard, expressions, panels, targets};
use serde_json::Value;
use std::collections::BTreeSet;

/// What the queries may ask for beside [`TIMES`].
const VARIABLES: [&str; 3] = ["job", "instance", "policy"];

/// What Grafana itself knows.
const TIMES: [&str; 5] = ["__rate_interval", "__interval", "__interval_ms", "__range", "__range_s"];

#[test]
fn it_has_the_variables_that_its_queries_use() {
    let dashboard = dashboard();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let named =
        |name: &str| variables.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("{name}"));
    assert_eq!(
        (named("datasource")["type"].as_str(), named("datasource")["query"].as_str()),
        (Some("datasource"), Some("prometheus"))
    );
    for name in VARIABLES {
        let variable = named(name);
        let switches = ["multi", "includeAll"].map(|key| variable[key].as_bool());
        assert_eq!(switches, [Some(true); 2], "{name}");
        assert_eq!(variable["allValue"], ".*", "{name}");
    }
    for panel in panels(&dashboard) {
        for expression in expressions(panel) {
            for used in expression.split('$').skip(1) {
                let name: String = used
                    .chars()
                    .take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '_')
                    .collect();
                assert!(
                    TIMES.contains(&name.as_str()) || VARIABLES.contains(&name.as_str()),
                    "{}: ${name}",
                    panel["title"]
                );
            }
        }
    }
}

#[test]
fn every_panel_says_what_it_shows_and_where_from() {
    let dashboard = dashboard();
    let all = panels(&dashboard);
    assert!(all.len() > 20, "{}", all.len());
    for panel in &all {
        let title = panel["title"].as_str().unwrap_or_default();
        assert!(!title.is_empty(), "{panel}");
        assert!(panel["description"].as_str().is_some_and(|text| text.len() > 20), "{title}");
        let own = |target: &&Value| target["datasource"]["uid"] == "${datasource}";
        assert!(
            panel["targets"].as_array().unwrap().iter().all(|target| own(&target)) && own(panel),
            "{title}"
        );
        assert!(!expressions(panel).is_empty(), "{title}");
        if panel["type"] != "table" && panel["type"] != "state-timeline" {
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title}: no unit");
        }
    }
    let titles: BTreeSet<_> = all.iter().map(|panel| panel["title"].to_string()).collect();
    assert_eq!(
        titles.len(),
        all.len() - 1,
        "only the share of fallbacks is there twice: as a number and as a line"
    );
}

/// A window that is longer than a step shows an event in more than one bar, and increase() over one that is as long misses
/// what happens between the last scrape of one and the first of the next.
#[test]
fn bars_count_each_event_once() {
    let dashboard = dashboard();
    let bars: Vec<_> = panels(&dashboard)
        .into_iter()
        .filter(|panel| panel["fieldConfig"]["defaults"]["custom"]["drawStyle"] == "bars")
        .collect();
    let titles: Vec<_> = bars.iter().map(|panel| panel["title"].as_str().unwrap()).collect();
    assert_eq!(titles, ["Transitions", "Probes", "Leases reclaimed", "VMs"]);
    for target in bars.into_iter().flat_map(targets) {
        let expression = target["expr"].as_str().unwrap();
        assert!(expression.contains(" - ") && !expression.contains('['), "{expression}");
        // Not shorter than the time between two scrapes.
        assert_eq!(target["interval"], "1m", "{expression}");
    }
}

#[test]
fn no_panel_covers_another() {
    let dashboard = dashboard();
    let mut ids = BTreeSet::new();
    let mut cells = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{}: its number is another's", panel["title"]);
        assert!(place("x") + place("w") <= 24, "{}: wider than the grid", panel["title"]);
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(cells.insert((x, y)), "{}: covers another at {x}, {y}", panel["title"]);
            }
        }
    }
}

#[test]
fn there_is_a_row_for_each_pattern() {
    let dashboard = dashboard();
    let rows = dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] == "row");
    let titles: Vec<_> = rows.map(|row| row["title"].as_str().unwrap().to_lowercase()).collect();
    assert!(titles[0].contains("at a glance"), "{titles:?}");
    for pattern in [
        "circuit breakers",
        "bulkheads",
        "retries",
        "budgets",
        "deadlines",
        "fallbacks",
        "store",
        "vms",
        "envoy",
    ] {
        assert!(titles[1..].iter().any(|title| title.contains(pattern)), "{pattern}: {titles:?}");
    }
}
