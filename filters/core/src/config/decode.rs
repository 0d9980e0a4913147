//! Reading a document with all its errors.

use super::duration;
use super::json::{Node, Order, Value, quote, shown};
use crate::breaker::Percentage;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

pub(super) const DUPLICATE: &str = "duplicate key";

/// The errors of a document. An error stands once, however often the value is read, at its place in the document's order.
#[derive(Debug, Default)]
pub(super) struct Errors(Vec<(Order, String)>);

impl Errors {
    /// An error at a value.
    pub(super) fn at(&mut self, node: &Node, message: impl Display) {
        let place = if node.path.is_empty() { "document" } else { &node.path };
        self.0.push((node.order, on_one_line(&format!("{place}: {message}"))));
    }

    /// A value that is not what it should be.
    pub(super) fn expected(&mut self, node: &Node, expected: impl Display) {
        let found = node.to_string();
        self.at(node, format_args!("found {}, expected {expected}", shown(&found)));
    }

    /// The messages, in the order of the document.
    pub(super) fn into_messages(mut self) -> Vec<String> {
        self.0.sort();
        self.0.dedup();
        self.0.into_iter().map(|(_, message)| message).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// A message as one line of a log. JSON escapes what is below a space; terminals and readers of logs also act on what JSON
/// leaves alone.
fn on_one_line(message: &str) -> String {
    let mut line = String::with_capacity(message.len());
    for letter in message.chars() {
        if letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}') {
            line.push_str(&format!("\\u{:04x}", u32::from(letter)));
        } else {
            line.push(letter);
        }
    }
    line
}

/// An object whose keys are asked for one by one; what was not asked for is an error.
pub(super) struct Object<'a> {
    pub(super) node: &'a Node,
    entries: &'a [(String, Node)],
    known: Vec<&'static str>,
}

impl<'a> Object<'a> {
    pub(super) fn new(node: &'a Node, errors: &mut Errors) -> Option<Self> {
        let Value::Object(entries) = &node.value else {
            errors.expected(node, "an object");
            return None;
        };
        let mut seen = BTreeSet::new();
        for (_, duplicate) in entries.iter().filter(|(key, _)| !seen.insert(key)) {
            errors.at(duplicate, DUPLICATE);
        }
        Some(Self { node, entries, known: Vec::new() })
    }

    /// The value of a key.
    pub(super) fn get(&mut self, key: &'static str) -> Option<&'a Node> {
        self.known.push(key);
        self.entries.iter().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    /// The value of a key that must be there.
    pub(super) fn require(
        &mut self,
        key: &'static str,
        expected: &str,
        errors: &mut Errors,
    ) -> Option<&'a Node> {
        let found = self.get(key);
        if found.is_none() {
            errors.at(self.node, format_args!("missing key {}, expected {expected}", quote(key)));
        }
        found
    }

    /// Every key that nobody asked for is an error, with the nearest one that exists. Returns whether there was none.
    pub(super) fn finish(self, errors: &mut Errors) -> bool {
        let before = errors.len();
        for (key, node) in self.entries.iter().filter(|(key, _)| !self.known.contains(&key.as_str())) {
            match nearest(key, self.known.iter().copied()) {
                Some(known) => errors.at(node, format_args!("unknown key; did you mean {}?", quote(known))),
                None => errors.at(node, format_args!("unknown key, expected {}", one_of(&self.known))),
            }
        }
        errors.len() == before
    }
}

/// The known word that is so near that it was probably meant.
pub(super) fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let length = word.chars().count();
    known
        // Words are at least as far apart as their lengths; the distance itself costs memory by the product of them.
        .filter(|candidate| length.abs_diff(candidate.len()).saturating_mul(3) <= candidate.len())
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| distance.saturating_mul(3) <= candidate.len())
        .min()
        .map(|(_, candidate)| candidate)
}

/// `one of "a", "b"`.
pub(super) fn one_of(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| quote(word)).collect();
    format!("one of {}", quoted.join(", "))
}

pub(super) fn string<'a>(node: &'a Node, expected: &str, errors: &mut Errors) -> Option<&'a str> {
    let Value::String(value) = &node.value else {
        errors.expected(node, expected);
        return None;
    };
    Some(value)
}

pub(super) fn list<'a>(node: &'a Node, expected: &str, errors: &mut Errors) -> Option<&'a [Node]> {
    let Value::List(items) = &node.value else {
        errors.expected(node, expected);
        return None;
    };
    Some(items)
}

/// An absent value is fine, a wrong one is not.
pub(super) fn flip<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    value.map_or(Some(None), |decoded| decoded.map(Some))
}

/// Every item of a list decoded, in no more memory than that takes; `None` if one of them cannot be.
pub(super) fn all<T>(items: &[Node], mut decode: impl FnMut(&Node) -> Option<T>) -> Option<Vec<T>> {
    let mut decoded = Vec::with_capacity(items.len());
    decoded.extend(items.iter().filter_map(&mut decode));
    (decoded.len() == items.len()).then_some(decoded)
}

/// A list of at least one.
pub(super) fn some<'a>(node: &'a Node, expected: &str, errors: &mut Errors) -> Option<&'a [Node]> {
    let items = list(node, expected, errors)?;
    if items.is_empty() {
        errors.expected(node, expected);
        return None;
    }
    Some(items)
}

pub(super) fn boolean(node: &Node, errors: &mut Errors) -> Option<bool> {
    let Value::Bool(value) = node.value else {
        errors.expected(node, "true or false");
        return None;
    };
    Some(value)
}

/// A whole number of a range.
pub(super) fn integer(node: &Node, range: RangeInclusive<u32>, errors: &mut Errors) -> Option<u32> {
    let number = match &node.value {
        Value::Number(number) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
        _ => None,
    };
    let found = number.filter(|number| range.contains(number));
    if found.is_none() {
        errors.expected(node, format_args!("a whole number from {} to {}", range.start(), range.end()));
    }
    found
}

/// A number of a range.
pub(super) fn number(node: &Node, range: RangeInclusive<f64>, errors: &mut Errors) -> Option<f64> {
    let found = as_number(node).filter(|number| range.contains(number));
    if found.is_none() {
        errors.expected(node, format_args!("a number from {} to {}", range.start(), range.end()));
    }
    found
}

const PERCENTAGE: &str = "a percentage from 0 to 100";

/// A percentage.
#[expect(clippy::cast_possible_truncation, reason = "rates are compared in single precision")]
pub(super) fn percentage(node: &Node, errors: &mut Errors) -> Option<Percentage> {
    let found = as_number(node).and_then(|number| Percentage::new(number as f32));
    if found.is_none() {
        errors.expected(node, PERCENTAGE);
    }
    found
}

/// A percentage in millionths of a percent, to count with exactly.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a hundred million fits, and a cast of a float saturates"
)]
pub(super) fn millionths(node: &Node, errors: &mut Errors) -> Option<u32> {
    let found = as_number(node).filter(|number| (0.0..=100.0).contains(number));
    if found.is_none() {
        errors.expected(node, PERCENTAGE);
    }
    found.map(|number| (number * 1_000_000.0).round() as u32)
}

fn as_number(node: &Node) -> Option<f64> {
    match &node.value {
        Value::Number(number) => number.as_f64(),
        _ => None,
    }
}

/// A duration of a range.
pub(super) fn duration(
    node: &Node,
    range: &RangeInclusive<Duration>,
    errors: &mut Errors,
) -> Option<Duration> {
    let parsed = match &node.value {
        Value::String(text) => duration::parse(text),
        _ => None,
    };
    let Some(value) = parsed else {
        errors.expected(node, "a duration such as \"30s\"");
        return None;
    };
    if !range.contains(&value) {
        let (least, most) = (duration::display(*range.start()), duration::display(*range.end()));
        errors.expected(node, format_args!("a duration from \"{least}\" to \"{most}\""));
        return None;
    }
    Some(value)
}

/// One of a few words.
pub(super) fn word<T: Copy>(node: &Node, words: &[(&str, T)], errors: &mut Errors) -> Option<T> {
    let names: Vec<_> = words.iter().map(|(name, _)| *name).collect();
    let found = match &node.value {
        Value::String(text) => words.iter().find(|(name, _)| name == text).map(|(_, value)| *value),
        _ => None,
    };
    if found.is_none() {
        errors.expected(node, one_of(&names));
    }
    found
}

/// The name of a header, in lower case.
pub(super) fn header(node: &Node, expected: &str, errors: &mut Errors) -> Option<String> {
    let name = header_name(string(node, expected, errors)?);
    if name.is_none() {
        errors.expected(node, expected);
    }
    name
}

/// The name of a header in lower case; `None` where it is no token (RFC 9110), as pseudo-headers are none.
pub(super) fn header_name(text: &str) -> Option<String> {
    (!text.is_empty() && text.bytes().all(is_token)).then(|| text.to_ascii_lowercase())
}

/// A letter of a token, RFC 9110 section 5.6.2.
fn is_token(letter: u8) -> bool {
    letter.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&letter)
}

/// Whether a header can have this value.
pub(super) fn is_header_value(text: &str) -> bool {
    text.chars().all(|letter| letter == '\t' || !letter.is_control())
}
