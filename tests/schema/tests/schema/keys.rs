//! The keys that the schema knows.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A key, by the place where a document has it.
pub struct Key<'s> {
    /// Keys from the top, `[]` for each list: `policies[].name`.
    pub place: String,
    /// What the schema says beside the key.
    pub said: &'s Value,
    /// Whether its object cannot do without it.
    pub required: bool,
}

impl<'s> Key<'s> {
    /// The key itself.
    pub fn name(&self) -> &str {
        self.place.rsplit('.').next().unwrap_or_default()
    }

    /// The place of its object; empty for the document.
    pub fn object(&self) -> &str {
        self.place.rsplit_once('.').map_or("", |(object, _)| object)
    }

    pub fn default(&self) -> Option<&'s Value> {
        self.said.get("default")
    }

    pub fn description(&self) -> &'s str {
        self.said["description"].as_str().unwrap_or_default()
    }
}

/// Every key of every object, in the order of the schema.
pub fn all(schema: &Value) -> Vec<Key<'_>> {
    let mut keys = Vec::new();
    collect(schema, schema, "", &mut keys);
    keys
}

fn collect<'s>(root: &'s Value, schema: &'s Value, place: &str, keys: &mut Vec<Key<'s>>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let pointer = reference.strip_prefix('#').expect("a reference into the schema itself");
        collect(root, root.pointer(pointer).expect(reference), place, keys);
    }
    for branch in schema["anyOf"].as_array().into_iter().flatten() {
        collect(root, branch, place, keys);
    }
    if let Some(items) = schema.get("items") {
        collect(root, items, &format!("{place}[]"), keys);
    }
    let properties = schema["properties"].as_object();
    // Beside a reference, properties only narrow those of what it refers to.
    for (name, said) in properties.filter(|_| schema.get("$ref").is_none()).into_iter().flatten() {
        let place = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
        let required = is_required(root, schema, &place, name);
        keys.push(Key { place: place.clone(), said, required });
        collect(root, said, &place, keys);
    }
}

/// Sections whose parts may be inherited: for those the schema says at the top what a whole document requires.
const MERGED: [&str; 2] = ["circuit_breaker", "bulkhead"];

fn is_required(root: &Value, schema: &Value, place: &str, name: &str) -> bool {
    let names = |list: &Value| list.as_array().is_some_and(|names| names.iter().any(|known| known == name));
    let merged = place.split('.').skip_while(|key| !MERGED.contains(key));
    let mut narrowed = &root["properties"]["defaults"];
    let mut inside: Vec<_> = merged.collect();
    inside.pop();
    for key in &inside {
        narrowed = &narrowed["properties"][key];
    }
    let by_the_policy = inside == ["bulkhead"] && names(&root["$defs"]["permits"]["required"]);
    names(&schema["required"]) || by_the_policy || (!inside.is_empty() && names(&narrowed["required"]))
}

#[test]
fn every_key_has_a_description_with_its_default_and_unit() {
    let schema = super::schema();
    let keys = all(&schema);
    assert!(keys.len() > 60, "{}", keys.len());
    for key in keys {
        let (place, description) = (&key.place, key.description());
        let told = match key.default() {
            _ if key.required => description.contains("Required."),
            None => description.contains("Default: none"),
            // Long lists are told without their quotes.
            Some(Value::Array(items)) if items.len() > 1 => {
                items.iter().all(|item| description.contains(item.as_str().unwrap()))
            }
            Some(default) => description.contains(&format!("Default: {default}")),
        };
        assert!(told, "{place}: {description:?} does not say the default {:?}", key.default());
        let measured = matches!(key.said["type"].as_str(), Some("integer" | "number"));
        let lasting = ["#/$defs/duration", "#/$defs/wait"].iter().any(|it| key.said["$ref"] == *it);
        assert_eq!(description.contains("Unit: "), measured || lasting, "{place}: {description:?}");
    }
}

/// The keys that the parser names, where it meets one that it does not know, by the place of their object.
fn named_by_the_parser(schema: &Value) -> BTreeMap<String, BTreeSet<String>> {
    const UNKNOWN: &str = "nothing-like-it";
    let mut named = BTreeMap::new();
    let objects: BTreeSet<_> = all(schema).iter().map(|key| key.object().to_owned()).collect();
    for (object, mut document) in objects
        .iter()
        .flat_map(|object| super::documents::valid().into_iter().map(move |document| (object, document)))
    {
        super::defaults::edit(&mut document, object, &mut |object| {
            if let Some(entries) = object.as_object_mut() {
                entries.insert(UNKNOWN.to_owned(), json!(1));
            }
        });
        for message in super::parse(&document).err().unwrap_or_default() {
            let Some((_, listed)) = message.split_once(": unknown key, expected one of ") else { continue };
            let keys = listed.split(", ").map(|key| key.trim_matches('"').to_owned());
            named.entry(object.clone()).or_insert_with(BTreeSet::new).extend(keys);
        }
    }
    named
}

#[test]
fn the_schema_and_the_parser_know_the_same_keys() {
    let schema = super::schema();
    let mut known = BTreeMap::<_, BTreeSet<_>>::new();
    for key in all(&schema) {
        known.entry(key.object().to_owned()).or_default().insert(key.name().to_owned());
    }
    assert_eq!(known, named_by_the_parser(&schema));
}
