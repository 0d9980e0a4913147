//! `static`: a fixed answer.

use super::{MAX_BODY, Whole};
use crate::answer::{Escape, Template};
use crate::config::decode::{
    DUPLICATE, Errors, Object, header_name, integer, is_header_value, one_of, string,
};
use crate::config::json::{Node, Value};
use crate::fallback::{Body, MAX_PLACES, Static};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

const STATUS: RangeInclusive<u32> = 200..=599;
/// Statuses whose answers have no content (RFC 9110, 15.3.5, 15.3.6 and 15.4.5).
const BODILESS: [u32; 3] = [204, 205, 304];
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

pub(super) fn decode(node: &Node, whole: &mut Whole, errors: &mut Errors) -> Option<Static> {
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
    let first = written.next();
    let body = first.map(|(kind, node)| decode_body(kind, node, &mut complete, whole, errors));
    if let Some((_, second)) = written.next() {
        errors.at(second, format_args!("a second body, expected {}", one_of(&BODIES)));
        return None;
    }
    if let (Some((_, node)), Some(status)) = (first, status.filter(|status| BODILESS.contains(status))) {
        errors.at(node, format_args!("a body, expected none with the status {status}"));
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
    whole: &mut Whole,
    errors: &mut Errors,
) -> Option<Body> {
    match kind {
        "json" => {
            let escape = Escape::for_content_type(&content_type(headers, "application/json")).in_json();
            template(node, &node.to_string(), escape, whole, errors)
        }
        "text" => {
            let escape = Escape::for_content_type(&content_type(headers, "text/plain; charset=utf-8"));
            template(node, string(node, "a string", errors)?, escape, whole, errors)
        }
        _ => {
            const EXPECTED: &str = "base64 such as \"aGk=\" (RFC 4648, padded)";
            content_type(headers, "application/octet-stream");
            let Ok(bytes) = STANDARD.decode(string(node, EXPECTED, errors)?) else {
                errors.expected(node, EXPECTED);
                return None;
            };
            fits(node, bytes.len(), whole, errors)?;
            Some(Body::Bytes(bytes))
        }
    }
}

fn template(node: &Node, text: &str, escape: Escape, whole: &mut Whole, errors: &mut Errors) -> Option<Body> {
    fits(node, text.len(), whole, errors)?;
    let template = Template::parse(text, escape);
    let places = template.places();
    if places > MAX_PLACES {
        errors.at(node, format_args!("{places} places to fill in, expected at most {MAX_PLACES}"));
        return None;
    }
    Some(Body::Template(template))
}

/// Counts a body as it is written, places included: they take as much where it is kept.
fn fits(node: &Node, length: usize, whole: &mut Whole, errors: &mut Errors) -> Option<()> {
    if length > MAX_BODY {
        errors.at(node, format_args!("a body of {length} bytes, expected at most {MAX_BODY}"));
        return None;
    }
    whole.bodies = whole.bodies.saturating_add(length);
    Some(())
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
