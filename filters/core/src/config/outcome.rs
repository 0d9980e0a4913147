//! `outcome`: what is evidence.

use super::decode::{Errors, Object, all, header as header_name, is_header_value, list, string, word};
use super::json::{Node, Value};
use crate::outcome::{Criteria, Rules};
use std::borrow::Cow;
use std::ops::RangeInclusive;

const STATUS: RangeInclusive<u16> = 100..=599;
const CLASSES: [(&str, RangeInclusive<u16>); 5] =
    [("1xx", 100..=199), ("2xx", 200..=299), ("3xx", 300..=399), ("4xx", 400..=499), ("5xx", 500..=599)];
/// `google.rpc.Code`.
const GRPC_STATUS: [(&str, u16); 17] = [
    ("OK", 0),
    ("CANCELLED", 1),
    ("UNKNOWN", 2),
    ("INVALID_ARGUMENT", 3),
    ("DEADLINE_EXCEEDED", 4),
    ("NOT_FOUND", 5),
    ("ALREADY_EXISTS", 6),
    ("PERMISSION_DENIED", 7),
    ("RESOURCE_EXHAUSTED", 8),
    ("FAILED_PRECONDITION", 9),
    ("ABORTED", 10),
    ("OUT_OF_RANGE", 11),
    ("UNIMPLEMENTED", 12),
    ("INTERNAL", 13),
    ("UNAVAILABLE", 14),
    ("DATA_LOSS", 15),
    ("UNAUTHENTICATED", 16),
];
pub(super) const STATUSES: &str = "a list of statuses such as [429, \"5xx\"]";
pub(super) const GRPC_STATUSES: &str = "a list of gRPC statuses such as [\"UNAVAILABLE\"]";
pub(super) const HEADERS: &str =
    "a list of headers such as [{\"name\": \"x-degraded\", \"value\": \"true\"}]";
/// Every header of every answer is compared with each.
const MAX_HEADERS: usize = 16;

pub(super) fn decode(node: &Node, errors: &mut Errors) -> Option<Rules> {
    let mut object = Object::new(node, errors)?;
    let failure = object.get("failure").map(|node| criteria(node, Criteria::FAILURE, errors));
    let ignore = object.get("ignore").map(|node| criteria(node, Criteria::NONE, errors));
    object.finish(errors);
    Some(Rules {
        failure: failure.unwrap_or(Some(Criteria::FAILURE))?,
        ignore: ignore.unwrap_or(Some(Criteria::NONE))?,
    })
}

/// Each key replaces its own default only.
fn criteria(node: &Node, default: Criteria, errors: &mut Errors) -> Option<Criteria> {
    let mut object = Object::new(node, errors)?;
    let status = object.get("status").map(|node| statuses(node, errors));
    let grpc_status = object.get("grpc_status").map(|node| grpc_statuses(node, errors));
    let headers = object.get("headers").map(|node| headers(node, errors));
    object.finish(errors);
    Some(Criteria {
        status: status.map_or(Some(default.status), |found| found.map(Cow::Owned))?,
        grpc_status: grpc_status.map_or(Some(default.grpc_status), |found| found.map(Cow::Owned))?,
        headers: headers.unwrap_or(Some(default.headers))?,
    })
}

/// Statuses and classes of them.
pub(super) fn statuses(node: &Node, errors: &mut Errors) -> Option<Vec<RangeInclusive<u16>>> {
    let items = list(node, STATUSES, errors)?;
    let mut statuses = all(items, |item| status(item, errors))?;
    statuses.sort_by_key(|range| (*range.start(), *range.end()));
    statuses.dedup();
    Some(statuses)
}

fn status(node: &Node, errors: &mut Errors) -> Option<RangeInclusive<u16>> {
    let found = match &node.value {
        Value::Number(number) => {
            let code = number.as_u64().and_then(|code| u16::try_from(code).ok());
            code.filter(|code| STATUS.contains(code)).map(|code| code..=code)
        }
        Value::String(text) => CLASSES.iter().find(|(name, _)| name == text).map(|(_, class)| class.clone()),
        _ => None,
    };
    if found.is_none() {
        errors.expected(node, "a status from 100 to 599, or a class from \"1xx\" to \"5xx\"");
    }
    found
}

/// gRPC statuses by their names.
pub(super) fn grpc_statuses(node: &Node, errors: &mut Errors) -> Option<Vec<u16>> {
    let items = list(node, GRPC_STATUSES, errors)?;
    let mut statuses = all(items, |item| word(item, &GRPC_STATUS, errors))?;
    statuses.sort_unstable();
    statuses.dedup();
    Some(statuses)
}

/// Headers as `[{"name", "value"}]`, names in lower case.
pub(super) fn headers(node: &Node, errors: &mut Errors) -> Option<Vec<(String, String)>> {
    let items = list(node, HEADERS, errors)?;
    let mut headers = all(items, |item| header(item, errors))?;
    headers.sort_unstable();
    headers.dedup();
    if headers.len() > MAX_HEADERS {
        errors.expected(node, format_args!("at most {MAX_HEADERS} different headers"));
        return None;
    }
    Some(headers)
}

fn header(node: &Node, errors: &mut Errors) -> Option<(String, String)> {
    const NAME: &str = "the name of a header such as \"x-degraded\" (a token, RFC 9110)";
    const VALUE: &str = "the whole value of a header such as \"true\"";
    let mut object = Object::new(node, errors)?;
    let name = object.require("name", NAME, errors).and_then(|node| header_name(node, NAME, errors));
    let value = object.require("value", VALUE, errors).and_then(|node| value(node, VALUE, errors));
    object.finish(errors);
    Some((name?, value?))
}

/// White space around a value is no part of it: one that is written with it is never met.
fn value(node: &Node, expected: &str, errors: &mut Errors) -> Option<String> {
    let value = string(node, expected, errors)?;
    if !is_header_value(value) || value.trim_matches([' ', '\t']) != value {
        errors.expected(node, format_args!("{expected}, without control characters or space around it"));
        return None;
    }
    Some(value.to_owned())
}
