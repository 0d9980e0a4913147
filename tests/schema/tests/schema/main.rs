//! Holds the JSON Schema of the configuration, which editors use, and its reference, which people read, against the parser
//! of the module: what one of them says of a key has to be true in the others.

mod agreement;
mod defaults;
mod documents;
mod keys;
mod mutations;
mod reference;

use resilience_core::config::Document;
use serde_json::Value;
use std::path::Path;

/// A file of the project.
fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn schema() -> Value {
    serde_json::from_str(&read("envoy/policies.schema.json")).expect("the schema is JSON")
}

/// What the module makes of a document.
fn parse(document: &Value) -> Result<Document, Vec<String>> {
    Document::parse(document.to_string().as_bytes())
}
