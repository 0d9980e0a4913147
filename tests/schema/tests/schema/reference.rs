//! The reference for people, `docs/configuration.md`, has a row for every key of the schema, with its default.

use super::{keys, read, schema};
use keys::Key;
use std::collections::BTreeMap;

const REFERENCE: &str = "docs/configuration.md";

/// The heading under which the keys of an object are, by the object's place. What `defaults` and `exempt` hold is what
/// policies hold.
fn heading(object: &str) -> Option<String> {
    let name = object.rsplit('.').next().unwrap_or_default().trim_end_matches("[]");
    match name {
        _ if object.starts_with("defaults.") || object.starts_with("exempt") => None,
        "" => Some("Top level".to_owned()),
        "policies" => Some("Policy".to_owned()),
        "defaults" => None,
        "failure" | "ignore" => Some("`failure` and `ignore`".to_owned()),
        "headers" => Some("`headers`".to_owned()),
        name => Some(format!("`{name}`")),
    }
}

/// The rows of tables under each heading, cut into cells.
fn rows(text: &str) -> BTreeMap<String, Vec<Vec<String>>> {
    let mut rows = BTreeMap::<_, Vec<_>>::new();
    let mut heading = String::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix('#') {
            heading = title.trim_start_matches('#').trim().to_owned();
        }
        if let Some(row) = line.strip_prefix("| ").and_then(|row| row.strip_suffix(" |")) {
            rows.entry(heading.clone()).or_default().push(row.split(" | ").map(str::to_owned).collect());
        }
    }
    rows
}

fn default(key: &Key<'_>) -> String {
    match key.default() {
        _ if key.required => "required".to_owned(),
        None => "none".to_owned(),
        Some(default) => format!("`{}`", default.to_string().replace("\",\"", "\", \"")),
    }
}

#[test]
fn the_reference_has_every_key_with_its_default() {
    let rows = rows(&read(REFERENCE));
    let schema = schema();
    let mut wrong = Vec::new();
    for key in keys::all(&schema) {
        let Some(heading) = heading(key.object()) else { continue };
        let (name, default) = (format!("`{}`", key.name()), default(&key));
        let rows = rows.get(&heading).map(Vec::as_slice).unwrap_or_default();
        if !rows.iter().any(|row| row[0] == name && row[1..row.len() - 1].contains(&default)) {
            wrong.push(format!("{}: under {heading:?} no row for {name} with {default}", key.place));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_reference_has_no_key_that_the_schema_has_not() {
    let schema = schema();
    let known = keys::all(&schema);
    for (heading, rows) in rows(&read(REFERENCE)) {
        for name in rows.iter().filter_map(|row| row[0].strip_prefix('`')?.strip_suffix('`')) {
            let is_here = |key: &Key<'_>| {
                key.name() == name && self::heading(key.object()).as_deref() == Some(&heading)
            };
            assert!(known.iter().any(is_here), "{heading}: {name}");
        }
    }
}

/// The examples in JSON: blocks of lines that stand four spaces in.
fn examples(text: &str) -> Vec<String> {
    let mut examples = vec![String::new()];
    for line in text.lines() {
        match (line.strip_prefix("    "), examples.last_mut()) {
            (Some(code), Some(last)) => last.extend([code, "\n"]),
            _ => examples.push(String::new()),
        }
    }
    examples.retain(|example| example.starts_with(['{', '"']) && !example.starts_with("\"json.schemas\""));
    examples
}

/// A document of what an example shows: keys of a policy, or policies. Whom it names and does not show stands behind it.
fn around(example: &str) -> String {
    let shown = if example.starts_with('{') {
        example.to_owned()
    } else {
        format!(r#"{{"name": "shown", "match": [{{"any": true}}], {example}}}"#)
    };
    let named = ["inventory", "reviews-replica"].map(|name| format!("\"name\": \"{name}\""));
    let others = named.iter().filter(|name| !shown.contains(*name)).map(|name| {
        format!(
            r#", {{{name}, "match": [{{"any": true}}], "circuit_breaker": {{"consecutive_failures": 1}}}}"#
        )
    });
    format!(r#"{{"policies": [{shown}{}]}}"#, others.collect::<String>())
}

#[test]
fn the_examples_of_the_reference_are_taken() {
    let examples = examples(&read(REFERENCE));
    assert!(examples.len() >= 7, "{examples:#?}");
    for example in examples {
        let parsed = resilience_core::config::Document::parse(around(&example).as_bytes());
        assert!(parsed.is_ok(), "{example}: {parsed:?}");
    }
}
