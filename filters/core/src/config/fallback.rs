//! `fallback`: what answers instead.

use super::decode::{
    DUPLICATE, Errors, Object, all, header_name, integer, is_header_value, list, one_of, some, string, word,
};
use super::json::{Node, Value};
use crate::answer::{Escape, Reason, Reasons, Template};
use crate::fallback::{Body, Fallback, Fallbacks, Static, Strategy, When};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeSet;
use std::sync::Arc;

const STATUS: std::ops::RangeInclusive<u32> = 200..=599;
/// Headers that are Envoy's to write, or ours.
const RESERVED: [&str; 8] = [
    "connection",
    "content-length",
    "grpc-message",
    "grpc-status",
    "transfer-encoding",
    "upgrade",
    "x-envoy-ratelimited",
    "x-resilience",
];
const BODIES: [&str; 3] = ["text", "json", "base64"];

pub(super) fn decode(node: &Node, errors: &mut Errors) -> Option<Arc<Fallbacks>> {
    let entries = list(node, "a list of fallbacks", errors)?;
    all(entries, |entry| decode_entry(entry, errors)).map(|entries| Arc::new(Fallbacks::new(entries)))
}

fn decode_entry(node: &Node, errors: &mut Errors) -> Option<Fallback> {
    let mut object = Object::new(node, errors)?;
    let on = object.get("on").map(|node| reasons(node, errors));
    let answer =
        object.require("static", "a fixed answer", errors).and_then(|node| decode_static(node, errors));
    object.finish(errors);
    Some(Fallback {
        on: on.unwrap_or(Some(Reasons::ALL))?,
        statuses: None,
        when: When::default(),
        strategy: Strategy::Static(answer?),
    })
}

fn reasons(node: &Node, errors: &mut Errors) -> Option<Reasons> {
    const GROUPS: [(&str, Reasons); 2] = [("refusal", Reasons::REFUSALS), ("failure", Reasons::FAILURES)];
    let mut words = GROUPS.to_vec();
    words.extend(Reason::ALL.map(|reason| (reason.name(), Reasons::from(reason))));
    let items = some(node, "a list of reasons", errors)?;
    let named = all(items, |item| word(item, &words, errors))?;
    Some(named.into_iter().fold(Reasons::NONE, Reasons::with))
}

fn decode_static(node: &Node, errors: &mut Errors) -> Option<Static> {
    let mut object = Object::new(node, errors)?;
    let status = object
        .require("status", "an HTTP status from 200 to 599", errors)
        .and_then(|node| integer(node, STATUS, errors));
    let headers = object.get("headers").map(|node| decode_headers(node, errors));
    let bodies = BODIES.map(|key| object.get(key).map(|node| (key, node)));
    object.finish(errors);
    let headers = headers.unwrap_or_else(|| Some(Vec::new()));
    // Wrong headers must not hide what is wrong with the body.
    let mut complete = headers.clone().unwrap_or_default();
    let mut written = bodies.into_iter().flatten();
    let body = written.next().map(|(kind, node)| decode_body(kind, node, &mut complete, errors));
    if let Some((_, second)) = written.next() {
        errors.at(second, format_args!("a second body, expected {}", one_of(&BODIES)));
        return None;
    }
    headers?;
    let body = body.unwrap_or(Some(Body::None))?;
    Some(Static { status: u16::try_from(status?).ok()?, headers: complete.into_boxed_slice(), body })
}

/// Reads a body and says what it is, unless the operator did.
fn decode_body(
    kind: &str,
    node: &Node,
    headers: &mut Vec<(String, String)>,
    errors: &mut Errors,
) -> Option<Body> {
    match kind {
        "json" => {
            let escape = Escape::for_content_type(&content_type(headers, "application/json")).in_json();
            Some(Body::Template(Template::parse(&node.to_string(), escape)))
        }
        "text" => {
            let escape = Escape::for_content_type(&content_type(headers, "text/plain; charset=utf-8"));
            Some(Body::Template(Template::parse(string(node, "a string", errors)?, escape)))
        }
        _ => {
            const EXPECTED: &str = "base64 such as \"aGk=\" (RFC 4648, padded)";
            content_type(headers, "application/octet-stream");
            let decoded = STANDARD.decode(string(node, EXPECTED, errors)?);
            if decoded.is_err() {
                errors.expected(node, EXPECTED);
            }
            decoded.ok().map(Body::Bytes)
        }
    }
}

fn content_type(headers: &mut Vec<(String, String)>, default: &str) -> String {
    const NAME: &str = "content-type";
    if let Some((_, value)) = headers.iter().find(|(name, _)| name == NAME) {
        return value.clone();
    }
    headers.push((NAME.to_owned(), default.to_owned()));
    default.to_owned()
}

fn decode_headers(node: &Node, errors: &mut Errors) -> Option<Vec<(String, String)>> {
    Object::new(node, errors)?;
    let Value::Object(entries) = &node.value else { return None };
    let mut seen = BTreeSet::new();
    for (_, duplicate) in entries.iter().filter(|(name, _)| !seen.insert(name.to_ascii_lowercase())) {
        // Two values of one name: which of them counts is up to whoever reads the answer.
        errors.at(duplicate, DUPLICATE);
    }
    let decoded: Vec<_> = entries.iter().filter_map(|(name, node)| header(name, node, errors)).collect();
    (decoded.len() == entries.len()).then_some(decoded)
}

fn header(name: &str, node: &Node, errors: &mut Errors) -> Option<(String, String)> {
    let Some(lower) = header_name(name) else {
        errors.at(node, "found no header name, expected a token (RFC 9110)");
        return None;
    };
    if RESERVED.contains(&lower.as_str()) {
        errors.at(node, "a header that Envoy or this filter writes, expected another");
        return None;
    }
    let value = string(node, "a header value", errors)?;
    if !is_header_value(value) {
        errors.expected(node, "a header value without control characters");
        return None;
    }
    Some((lower, value.to_owned()))
}
