//! `match` and `exempt`: which requests are meant.

use super::decode::{Errors, Object, all, flip, list, some as some_items, string};
use super::json::{Node, Value};

/// One alternative: everything it names must hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Match {
    /// The route's metadata: namespace, key, value.
    pub metadata: Option<(String, String, String)>,
    /// The route's name.
    pub route: Option<String>,
    /// The host the request is for.
    pub host: Option<HostPattern>,
    /// The path, without the query.
    pub path: Option<PathPattern>,
    /// The methods, any of them; empty for all.
    pub methods: Vec<String>,
}

/// A host, in lower case and without a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HostPattern {
    /// This host.
    Exact(String),
    /// Any host that ends in this, dot included, and has something before it.
    Wildcard(String),
}

/// A path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PathPattern {
    /// This path.
    Exact(String),
    /// This path or any below it.
    Prefix(String),
}

const EXPECTED: &str = "a list of matches such as [{\"route\": \"checkout\"}]";

/// Alternatives, of which there may be none.
pub(super) fn alternatives(node: &Node, errors: &mut Errors) -> Option<Vec<Match>> {
    decode_all(list(node, EXPECTED, errors)?, errors)
}

/// At least one alternative.
pub(super) fn some(node: &Node, errors: &mut Errors) -> Option<Vec<Match>> {
    decode_all(some_items(node, EXPECTED, errors)?, errors)
}

/// Where the alternatives of a policy name metadata.
pub(super) fn metadata_of(policy: &Node) -> impl Iterator<Item = &Node> {
    let alternatives = match policy.get("match").map(|node| &node.value) {
        Some(Value::List(items)) => items.as_slice(),
        _ => &[],
    };
    alternatives.iter().filter_map(|alternative| alternative.get("metadata"))
}

fn decode_all(items: &[Node], errors: &mut Errors) -> Option<Vec<Match>> {
    all(items, |node| decode(node, errors))
}

fn decode(node: &Node, errors: &mut Errors) -> Option<Match> {
    let mut object = Object::new(node, errors)?;
    let metadata = object.get("metadata").map(|node| metadata(node, errors));
    let route = object.get("route").map(|node| text(node, "a route name", errors));
    let host = object.get("host").map(|node| host(node, errors));
    let path = object.get("path").map(|node| path(node, errors));
    let methods = object.get("methods").map(|node| methods(node, errors));
    let any = object.get("any").map(|node| any(node, errors));
    object.finish(errors);
    let empty =
        metadata.is_none() && route.is_none() && host.is_none() && path.is_none() && methods.is_none();
    if empty && any.is_none() {
        errors.expected(node, "at least one key, or {\"any\": true}");
        return None;
    }
    if !empty && any.is_some() {
        errors.expected(node, "\"any\" by itself");
        return None;
    }
    any.unwrap_or(Some(()))?;
    Some(Match {
        metadata: flip(metadata)?,
        route: flip(route)?,
        host: flip(host)?,
        path: flip(path)?,
        methods: methods.unwrap_or_else(|| Some(Vec::new()))?,
    })
}

fn any(node: &Node, errors: &mut Errors) -> Option<()> {
    if matches!(node.value, Value::Bool(true)) {
        return Some(());
    }
    errors.expected(node, "true");
    None
}

/// A string that is not empty.
pub(super) fn text(node: &Node, expected: &str, errors: &mut Errors) -> Option<String> {
    let value = string(node, expected, errors)?;
    if value.is_empty() {
        errors.expected(node, expected);
        return None;
    }
    Some(value.to_owned())
}

fn metadata(node: &Node, errors: &mut Errors) -> Option<(String, String, String)> {
    let mut object = Object::new(node, errors)?;
    let mut part =
        |key| object.require(key, "a string", errors).and_then(|node| text(node, "a string", errors));
    let (namespace, key, value) = (part("namespace"), part("key"), part("value"));
    object.finish(errors);
    Some((namespace?, key?, value?))
}

fn host(node: &Node, errors: &mut Errors) -> Option<HostPattern> {
    const EXPECTED: &str = "a host such as \"shop.example\" or \"*.example.com\", without a port";
    let text = text(node, EXPECTED, errors)?.to_ascii_lowercase();
    let (wildcard, name) = match text.strip_prefix('*') {
        Some(rest) => (true, rest),
        None => (false, text.as_str()),
    };
    // An IPv6 address in brackets has colons of its own.
    let port = name.contains(':') && !(name.starts_with('[') && name.ends_with(']'));
    let labels = if wildcard { name.strip_prefix('.').unwrap_or_default() } else { name };
    if labels.is_empty() || labels.contains(['*', '/', ' ']) || port {
        errors.expected(node, EXPECTED);
        return None;
    }
    Some(if wildcard { HostPattern::Wildcard(name.to_owned()) } else { HostPattern::Exact(text) })
}

fn path(node: &Node, errors: &mut Errors) -> Option<PathPattern> {
    const EXPECTED: &str = "{\"exact\": \"/...\"} or {\"prefix\": \"/...\"}";
    let mut object = Object::new(node, errors)?;
    let exact = object.get("exact");
    let prefix = object.get("prefix");
    object.finish(errors);
    match (exact, prefix) {
        (Some(node), None) => absolute(node, errors).map(PathPattern::Exact),
        (None, Some(node)) => absolute(node, errors).map(PathPattern::Prefix),
        _ => {
            errors.expected(node, EXPECTED);
            None
        }
    }
}

fn absolute(node: &Node, errors: &mut Errors) -> Option<String> {
    const EXPECTED: &str = "a path that begins with \"/\", without a query";
    let text = string(node, EXPECTED, errors)?;
    if !text.starts_with('/') || text.contains(['?', '#']) {
        errors.expected(node, EXPECTED);
        return None;
    }
    Some(text.to_owned())
}

/// At least one method.
pub(super) fn methods(node: &Node, errors: &mut Errors) -> Option<Vec<String>> {
    let items = some_items(node, "a list of HTTP methods", errors)?;
    all(items, |item| method(item, errors))
}

fn method(node: &Node, errors: &mut Errors) -> Option<String> {
    const EXPECTED: &str = "an HTTP method such as \"GET\"";
    let text = string(node, EXPECTED, errors)?;
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-' || b == b'_') {
        errors.expected(node, EXPECTED);
        return None;
    }
    Some(text.to_owned())
}
