//! What the schema calls a default is what the parser takes where nothing is said, and makes a difference where something is.

use super::{documents, keys, parse, schema};
use serde_json::Value;
use std::collections::BTreeSet;

/// What `edit` makes of each object that lies at a place such as `policies[].match[]`.
pub fn edit(value: &mut Value, place: &str, edit_one: &mut impl FnMut(&mut Value)) {
    let (step, rest) = match place.split_once(['.', '[']) {
        _ if place.is_empty() => return edit_one(value),
        _ if place.starts_with("[]") => {
            let rest = place[2..].trim_start_matches('.');
            return value.as_array_mut().into_iter().flatten().for_each(|item| edit(item, rest, edit_one));
        }
        Some((step, _)) => (step, place[step.len()..].trim_start_matches('.')),
        None => (place, ""),
    };
    if let Some(inner) = value.get_mut(step) {
        edit(inner, rest, edit_one);
    }
}

#[test]
fn the_schema_and_the_parser_have_the_same_defaults() {
    let schema = schema();
    let mut unheeded = BTreeSet::new();
    for key in keys::all(&schema) {
        let Some(default) = key.default() else { continue };
        let mut heeded = false;
        for document in documents::valid() {
            // What is left out of a policy may be inherited, and is then no default.
            if document.get("defaults").is_some() && key.place.starts_with("policies") {
                continue;
            }
            let [mut absent, mut said] = [document.clone(), document.clone()];
            edit(&mut absent, key.object(), &mut |object| {
                object.as_object_mut().map(|entries| entries.remove(key.name()));
            });
            edit(&mut said, key.object(), &mut |object| {
                // Only where the document has the key: what it stands beside may be what gives it a default.
                if let Some(value) = object.get_mut(key.name()) {
                    *value = default.clone();
                }
            });
            let (Ok(as_written), Ok(absent), Ok(said)) = (parse(&document), parse(&absent), parse(&said))
            else {
                continue;
            };
            assert_eq!(absent, said, "{} is not {default} where it is not said", key.place);
            heeded |= as_written != said;
        }
        if !heeded {
            unheeded.insert(key.place);
        }
    }
    assert!(unheeded.is_empty(), "what is said of these makes no difference: {unheeded:?}");
}
