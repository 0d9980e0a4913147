//! One document made into many that differ from it in one place.

use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Keys that no object knows, and names of headers that are none, or reserved.
const EXTRA: [&str; 13] = [
    "$schema",
    "cached",
    "a b",
    ":status",
    "Content-Length",
    "connection",
    "content-length",
    "grpc-message",
    "grpc-status",
    "transfer-encoding",
    "upgrade",
    "x-envoy-ratelimited",
    "x-resilience",
];

/// Values of every kind: the ends of the schema's ranges and what lies beyond them, and words that fit somewhere.
fn values() -> Vec<Value> {
    let mut values: Vec<_> = [
        json!(null),
        json!(true),
        json!(false),
        json!([]),
        json!({}),
        json!([1]),
        json!([null]),
        json!([{}]),
        json!(1.0),
        json!(0.5),
        json!(100.5),
        json!(4_294_967_297_u64),
        json!(1e300),
    ]
    .into();
    for end in [0, 1, 10, 100, 200, 204, 304, 400, 599, 1000, 1024, 2048, 3600, 4096, 10_000, 1_000_000] {
        values.extend([end - 1, end, end + 1].map(|number: i64| json!(number)));
    }
    let words = [
        // Durations.
        "0s",
        "0h0ms",
        "1ns",
        "1us",
        "999us",
        "1ms",
        "0h1ms",
        "30s",
        "1m30s",
        "10m",
        "10m1ns",
        "2s500us",
        "24h1ms",
        "168h",
        "168h1ns",
        "30s1m",
        "1s1s",
        "1d",
        "30",
        "1.5s",
        "-1s",
        // Words of the configuration.
        "enforce",
        "disabled",
        "forced_open",
        "high",
        "middle",
        "policy",
        "upstream_cluster",
        "count",
        "time",
        "refusal",
        "circuit_open",
        "bulkhead_full",
        "deadline_exceeded",
        "failure",
        "dependency_open",
        "timeout",
        "reset",
        "resets",
        "with_key",
        "never",
        "always",
        "5xx",
        "6xx",
        "UNAVAILABLE",
        "unavailable",
        // Matches.
        "/",
        "/a",
        "/a?b",
        "/a#b",
        "GET",
        "get",
        "G T",
        "*",
        "*.",
        "*.x",
        "*x",
        "a.*",
        "a:80",
        "[::1]",
        "[::1]:80",
        "a/b",
        // Media types, and what is none.
        "text/html",
        "a/b+c1",
        "a/b+c",
        "text/*",
        "*/*",
        "text/html;q=1",
        "text/html ",
        // Policies that are there, or nearly.
        "guard",
        "guardi",
        "checkout",
        "p0",
        // Headers that are spoken for, and not.
        "te",
        "Host",
        "hosts",
        "GRPC-Timeout",
        "x-envoy-deadline",
        // Anything else.
        "",
        "a",
        "a b",
        " a",
        "a ",
        "a\tb",
        "a\nb",
        "a\u{7f}",
        "\u{e9}",
        "A",
        "9",
        "a-b_c9",
        "aGk",
        "aGk=",
        "aGl=",
        "a===",
    ];
    values.extend(words.map(|word| json!(word)));
    values.extend([63, 64, 65, 128, 129, 255, 256].map(|length| json!("a".repeat(length))));
    // More bytes than letters.
    values.push(json!("\u{e9}".repeat(65)));
    values
}

/// The same document with one value, one key or one entry of it another.
pub fn of(document: &Value, known: &[String]) -> Vec<Value> {
    let mut mutants = Vec::new();
    let mut places = BTreeSet::new();
    for pointer in pointers(document) {
        let value = document.pointer(&pointer).expect("a value of the document");
        let mut put = |value: Value| {
            let mut mutant = document.clone();
            *mutant.pointer_mut(&pointer).expect("a value of the document") = value;
            mutants.push(mutant);
        };
        // One item of a list is like another.
        if places.insert(pointer.replace(|letter: char| letter.is_ascii_digit(), "")) {
            values().into_iter().for_each(&mut put);
        }
        match value {
            Value::Object(entries) => {
                objects(entries, known).into_iter().for_each(|entries| put(entries.into()))
            }
            Value::Array(items) => lists(items).into_iter().for_each(|items| put(items.into())),
            _ => {}
        }
    }
    mutants
}

/// Without each key, with each key misspelt or in capitals, and with each key of the schema that it does not have.
fn objects(entries: &Map<String, Value>, known: &[String]) -> Vec<Map<String, Value>> {
    let mut mutants = Vec::new();
    for name in entries.keys() {
        let mut without = entries.clone();
        let value = without.remove(name).expect("a key of the object");
        for misspelt in [name.to_uppercase(), format!("{name}s"), name.chars().skip(1).collect()] {
            mutants.push(without.clone().into_iter().chain([(misspelt, value.clone())]).collect());
        }
        mutants.push(without);
    }
    let extra = EXTRA.map(str::to_owned);
    for name in known.iter().chain(&extra).filter(|name| !entries.contains_key(*name)) {
        mutants.push(entries.clone().into_iter().chain([(name.clone(), json!("1"))]).collect());
    }
    mutants
}

/// Without each item, with each item twice, and with many of the last.
fn lists(items: &[Value]) -> Vec<Vec<Value>> {
    let mut mutants = vec![items.iter().chain(items).cloned().collect()];
    for index in 0..items.len() {
        mutants.push([&items[..index], &items[index + 1..]].concat());
    }
    mutants
}

/// Where the values of a document are, itself included.
fn pointers(document: &Value) -> Vec<String> {
    fn collect(value: &Value, pointer: String, pointers: &mut Vec<String>) {
        match value {
            Value::Object(entries) => entries.iter().for_each(|(name, value)| {
                let escaped = name.replace('~', "~0").replace('/', "~1");
                collect(value, format!("{pointer}/{escaped}"), pointers);
            }),
            Value::Array(items) => items.iter().enumerate().for_each(|(index, value)| {
                collect(value, format!("{pointer}/{index}"), pointers);
            }),
            _ => {}
        }
        pointers.push(pointer);
    }
    let mut pointers = Vec::new();
    collect(document, String::new(), &mut pointers);
    pointers
}
