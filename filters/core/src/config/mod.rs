//! The operator's JSON document.
//!
//! Everything an operator wrote is either understood or refused, with its place, what was found and what was expected;
//! all errors of a document come at once, in its order.

#[cfg(test)]
mod accepted_tests;
mod breaker;
mod decode;
mod duration;
mod fallback;
#[cfg(test)]
mod hostile_tests;
mod json;
mod matching;
mod outcome;
#[cfg(test)]
mod outcome_tests;
mod policy;
#[cfg(test)]
mod tests;

pub use fallback::{Body, Fallback, Static};
pub use matching::{HostPattern, Match, PathPattern};
pub use policy::{BreakerMode, CircuitBreaker, Policy};

use decode::{Errors, Object};
use json::{Node, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The sections that `defaults` may hold.
const SECTIONS: [&str; 3] = ["outcome", "circuit_breaker", "fallback"];
/// A namespace longer than this would make every key of the shared state long.
const MAX_NAMESPACE: usize = 128;
/// Metadata that policies are matched by is read one by one.
const MAX_METADATA: usize = 16;

/// A whole configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Document {
    /// The prefix of all shared state.
    pub namespace: String,
    /// The policies, in the order of the document.
    pub policies: Vec<Policy>,
    /// What no policy touches.
    pub exempt: Vec<Match>,
    /// Whether answers tell outsiders the policy and the reason.
    pub expose: bool,
}

impl Document {
    /// Reads a document.
    ///
    /// # Errors
    /// Every mistake in it, one message each, in the order of the document.
    pub fn parse(text: &[u8]) -> Result<Self, Vec<String>> {
        let root = Node::parse(text).map_err(|error| vec![format!("document: not JSON: {error}")])?;
        let mut errors = Errors::default();
        let document = decode(&root, &mut errors);
        match (document, errors.into_messages()) {
            (Some(document), messages) if messages.is_empty() => Ok(document),
            (_, messages) => Err(messages),
        }
    }
}

fn decode(root: &Node, errors: &mut Errors) -> Option<Document> {
    let mut object = Object::new(root, errors)?;
    let namespace = object.get("namespace").map(|node| namespace(node, errors));
    let defaults = object.get("defaults").filter(|node| check_defaults(node, errors));
    let policies = object.require("policies", "a list of policies", errors);
    let exempt = object.get("exempt").and_then(|node| matching::alternatives(node, errors));
    let expose = object.get("expose").map(|node| decode::boolean(node, errors));
    object.finish(errors);
    let policies = decode::list(policies?, "a list of policies", errors)?;
    let decoded: Vec<_> = policies.iter().filter_map(|node| policy::decode(node, defaults, errors)).collect();
    check_names(policies, errors);
    check_metadata(policies, errors);
    Some(Document {
        namespace: namespace.unwrap_or_else(|| Some("default".to_owned()))?,
        policies: decoded,
        exempt: exempt.unwrap_or_default(),
        expose: expose.unwrap_or(Some(true))?,
    })
}

fn namespace(node: &Node, errors: &mut Errors) -> Option<String> {
    let expected = format!("a string of 1 to {MAX_NAMESPACE} bytes");
    let text = decode::string(node, &expected, errors)?;
    if text.is_empty() || text.len() > MAX_NAMESPACE {
        errors.expected(node, expected);
        return None;
    }
    Some(text.to_owned())
}

/// Checks what stands in `defaults` by itself, so that a mistake there shows even if no policy inherits it.
fn check_defaults(node: &Node, errors: &mut Errors) -> bool {
    let Some(mut object) = Object::new(node, errors) else { return false };
    for section in SECTIONS {
        let Some(node) = object.get(section) else { continue };
        match section {
            "outcome" => {
                outcome::decode(node, errors);
            }
            "circuit_breaker" => breaker::check_partial(node, errors),
            _ => {
                fallback::decode(node, errors);
            }
        }
    }
    object.finish(errors);
    true
}

/// Every request pays for a look at each pair of namespace and key.
fn check_metadata(policies: &[Node], errors: &mut Errors) {
    let mut pairs = BTreeSet::new();
    for metadata in policies.iter().flat_map(matching::metadata_of) {
        let pair = ["namespace", "key"].map(|key| metadata.get(key).map(ToString::to_string));
        pairs.insert(pair);
        if pairs.len() > MAX_METADATA {
            let expected = format!("at most {MAX_METADATA} pairs of namespace and key in a document");
            return errors.expected(metadata, expected);
        }
    }
}

fn check_names(policies: &[Node], errors: &mut Errors) {
    let mut seen = BTreeMap::new();
    for name in policies.iter().filter_map(|policy| policy.get("name")) {
        let Value::String(text) = &name.value else { continue };
        if let Some(first) = seen.insert(text.as_str(), name) {
            errors.expected(name, format_args!("a name that is not yet taken by {}", first.path));
            seen.insert(text, first);
        }
    }
}
