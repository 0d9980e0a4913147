//! The schema and the parser accept the same documents, apart from what a schema cannot say.

use super::{documents, keys, mutations, parse, schema};
use jsonschema::Validator;
use serde_json::{Value, json};

/// What the parser refuses and the schema cannot: by a part of the parser's message.
const BEYOND_A_SCHEMA: [(&str, &str); 21] = [
    ("durations are strings, which have no range", "expected a duration from "),
    ("a schema sees no difference between 1 and 1.0", "found 1.0, expected "),
    ("a schema compares no two items by one of their keys", "expected a name that is not yet taken by"),
    ("a schema counts letters, the parser bytes", "expected a string of 1 to 128 bytes"),
    ("a schema does not count over several places", "expected at most 16 pairs of namespace and key"),
    ("a schema has no case-insensitive list of words", RESERVED),
    (
        "a schema does not count different items in any case of letters",
        "expected at most 16 different headers",
    ),
    ("a schema compares no two durations: waits", "the wait_duration_in_open_state"),
    ("a schema compares no two durations: timeouts", ", which is "),
    ("a schema does not know what comes to a whole millisecond", "expected whole milliseconds"),
    ("a schema merges no objects: the size may be inherited where the type is not", "from 1 to 3600"),
    ("a schema looks no word up among those beside it: the default", ".default: found "),
    ("a schema looks no word up among those beside it: the class", "].class: found "),
    ("a schema knows no names of policies", "expected the name of another policy of this document"),
    ("a schema knows no names of policies that are near", "; did you mean the policy "),
    (
        "a schema does not know the name of the policy that it looks at",
        "expected another policy than the one",
    ),
    ("a schema does not know who inherits a guard", "inherits a fallback that it guards itself"),
    ("a schema does not look at another policy's breaker", "expected a policy that has "),
    ("a schema counts letters, the parser bytes: bodies", "a body of "),
    ("a schema does not add up", "the bodies of this document are "),
    ("a schema does not count what a text holds", " places to fill in"),
];

const RESERVED: &str = "a header that Envoy or this filter writes";

/// Says how the two differ, and which of the differences were expected.
#[derive(Default)]
struct Comparison {
    accepted: usize,
    refused: usize,
    met: [usize; BEYOND_A_SCHEMA.len()],
    differences: Vec<String>,
}

impl Comparison {
    fn compare(&mut self, validator: &Validator, document: &Value) {
        match (validator.is_valid(document), parse(document)) {
            (true, Ok(_)) => self.accepted += 1,
            (false, Err(_)) => self.refused += 1,
            (false, Ok(_)) => {
                let errors = validator
                    .iter_errors(document)
                    .map(|error| format!("{}: {error}", error.instance_path()));
                self.differences
                    .push(format!("refused by the schema only: {:?}", errors.collect::<Vec<_>>()));
            }
            (true, Err(messages)) => messages.iter().for_each(|message| self.expect(message)),
        }
    }

    fn expect(&mut self, message: &str) {
        let place = message.split(": ").next().unwrap_or_default();
        let in_capitals = place.contains(|letter: char| letter.is_ascii_uppercase());
        let known = BEYOND_A_SCHEMA
            .iter()
            .position(|(_, part)| message.contains(part))
            // These two the schema says in part.
            .filter(|_| in_capitals || !message.contains(RESERVED))
            .filter(|_| !message.contains("found \"0s\""));
        match known {
            Some(index) => self.met[index] += 1,
            None => self.differences.push(format!("refused by the parser only: {message}")),
        }
    }
}

/// Documents that no single change leads to.
fn further() -> Vec<Value> {
    let policies = |policies: &[Value]| json!({"policies": policies});
    let policy =
        |name: &str, key: &str, value: Value| json!({"name": name, "match": [{"any": true}], key: value});
    let breaker = |breaker: Value| policies(&[policy("p", "circuit_breaker", breaker)]);
    let pairs: Vec<_> = (0..17)
        .map(|n| json!({"metadata": {"namespace": "n", "key": format!("k{n}"), "value": "v"}}))
        .collect();
    let headers: Vec<_> = (0..17).map(|n| json!({"name": format!("x-{n}"), "value": "v"})).collect();
    let guarded = json!([{"reroute": {"cluster": "c", "policy": "q"}}]);
    let bodies = |texts: &[String]| {
        let entries: Vec<_> =
            texts.iter().map(|text| json!({"static": {"status": 200, "text": text}})).collect();
        policies(&[policy("p", "fallback", entries.into())])
    };
    vec![
        bodies(&["\u{e9}".repeat(131_073)]),
        bodies(&vec!["x".repeat(262_144); 17]),
        bodies(&["%REASON%".repeat(65)]),
        json!({"defaults": {"fallback": guarded}, "policies": [{"name": "q", "match": [{"any": true}]}]}),
        policies(&[policy("p", "when_open", json!(["q"])), policy("q", "circuit_breaker", json!(null))]),
        policies(&[policy("p", "match", pairs.into())]),
        policies(&[policy("p", "outcome", json!({"failure": {"headers": headers}}))]),
        breaker(json!({"failure_rate_threshold": 1, "sliding_window_size": 3601})),
        breaker(json!({"failure_rate_threshold": 1, "sliding_window_size": 10_001})),
        breaker(
            json!({"failure_rate_threshold": 1, "sliding_window_type": "time", "sliding_window_size": 3601}),
        ),
        breaker(
            json!({"consecutive_failures": 1, "wait_duration_in_open_state": "2h", "wait_duration_growth": {"max": "1h"}}),
        ),
        breaker(json!({"consecutive_failures": 1, "ramp_up": {}})),
        json!({
            "defaults": {"circuit_breaker": {"failure_rate_threshold": 1, "sliding_window_size": 5000}},
            "policies": [policy("p", "circuit_breaker", json!({"sliding_window_type": "time"}))]
        }),
    ]
}

#[test]
fn the_schema_is_one_of_its_draft() {
    if let Err(error) = jsonschema::draft202012::meta::validate(&schema()) {
        panic!("{}: {error}", error.instance_path());
    }
}

#[test]
fn both_accept_and_refuse_the_same_documents() {
    let schema = schema();
    let validator = jsonschema::draft202012::new(&schema).expect("the schema is valid");
    let mut known: Vec<_> = keys::all(&schema).iter().map(|key| key.name().to_owned()).collect();
    known.sort();
    known.dedup();

    let mut comparison = Comparison::default();
    for document in documents::valid() {
        let refused = parse(&document).err();
        assert!(refused.is_none(), "{document}: {refused:?}");
        comparison.compare(&validator, &document);
        mutations::of(&document, &known).iter().for_each(|mutant| comparison.compare(&validator, mutant));
    }
    // The example says nothing that those do not: what differs from it in one place is theirs to show.
    comparison.compare(&validator, &documents::example());
    assert!(parse(&documents::example()).is_ok());
    further().iter().for_each(|document| comparison.compare(&validator, document));

    let Comparison { accepted, refused, met, mut differences } = comparison;
    let found = differences.len();
    differences.sort();
    differences.dedup();
    differences.truncate(20);
    assert!(found == 0, "{found} differences, such as {differences:#?}");
    println!("{accepted} documents accepted and {refused} refused by both, beyond a schema {met:?}");
    assert!(accepted > 1000 && refused > 10_000, "{accepted} {refused}");
    for ((why, part), met) in BEYOND_A_SCHEMA.iter().zip(met) {
        assert!(met > 0, "{why}: no document was refused with {part:?}");
    }
}

/// A duplicate is gone before a schema looks.
#[test]
fn only_the_parser_sees_duplicate_keys() {
    for text in [
        r#"{"policies": [], "policies": []}"#,
        r#"{"policies": [{"name": "p", "match": [{"any": true}], "fallback": [{"static": {"status": 200, "headers": {"a": "1", "A": "2"}}}]}]}"#,
    ] {
        let messages = resilience_core::config::Document::parse(text.as_bytes()).unwrap_err();
        assert!(messages.len() == 1 && messages[0].ends_with(": duplicate key"), "{messages:?}");
        assert!(jsonschema::is_valid(&schema(), &serde_json::from_str(text).unwrap()));
    }
}
