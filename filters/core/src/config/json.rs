//! A JSON document in which every value knows its place, so that an error can name it.

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    /// The JSON path, `policies[0].name`.
    pub(super) path: String,
    /// The position in the document's order.
    pub(super) order: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    String(String),
    List(Vec<Node>),
    /// In the order of the document, duplicates included.
    Object(Vec<(String, Node)>),
}

impl Node {
    /// Parses a document. The error is the parser's, with line and column.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let mut root = Self { value, path: String::new(), order: 0 };
        root.place(String::new(), &mut 0);
        Ok(root)
    }

    fn place(&mut self, path: String, next: &mut usize) {
        self.order = *next;
        *next = next.saturating_add(1);
        match &mut self.value {
            Value::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    item.place(format!("{path}[{index}]"), next);
                }
            }
            Value::Object(entries) => {
                for (key, item) in entries {
                    item.place(join(&path, key), next);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
        self.path = path;
    }

    /// The value of a key, if this is an object that has it.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let Value::Object(entries) = &self.value else { return None };
        entries.iter().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    /// This value with what `base` says beyond it: objects merge key by key, all else replaces.
    pub(super) fn over(&self, base: &Self) -> Self {
        let (Value::Object(mine), Value::Object(inherited)) = (&self.value, &base.value) else {
            return self.clone();
        };
        let merged = mine.iter().map(|(key, node)| {
            let node = base.get(key).map_or_else(|| node.clone(), |beneath| node.over(beneath));
            (key.clone(), node)
        });
        let rest = inherited.iter().filter(|(key, _)| self.get(key).is_none()).cloned();
        Self {
            value: Value::Object(merged.chain(rest).collect()),
            path: self.path.clone(),
            order: self.order,
        }
    }
}

/// Longer keys and values are cut where a message or a path shows them.
const SHOWN: usize = 80;

/// A text as far as it is shown.
pub(super) fn shown(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(SHOWN).and_then(|(end, _)| text.get(..end)) {
        Some(cut) => Cow::Owned(format!("{cut}...")),
        None => Cow::Borrowed(text),
    }
}

/// The path of a key. One that is no plain word is quoted: it may hold anything. A long one is cut: every value beneath it
/// repeats it.
pub(super) fn join(path: &str, key: &str) -> String {
    let key = &*shown(key);
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    match (path.is_empty(), plain) {
        (true, true) => key.to_owned(),
        (false, true) => format!("{path}.{key}"),
        (_, false) => format!("{path}[{}]", quote(key)),
    }
}

/// A string as JSON writes it.
pub(super) fn quote(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

/// The value as compact JSON.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Number(value) => write!(f, "{value}"),
            Value::String(value) => f.write_str(&quote(value)),
            Value::List(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { "," })?;
                    write!(f, "{item}")?;
                }
                f.write_str("]")
            }
            Value::Object(entries) => {
                f.write_str("{")?;
                for (index, (key, item)) in entries.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { "," })?;
                    write!(f, "{}:{item}", quote(key))?;
                }
                f.write_str("}")
            }
        }
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number out of range"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = items.next_element()? {
            list.push(unplaced(value));
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Vec::new();
        while let Some((key, value)) = entries.next_entry()? {
            object.push((key, unplaced(value)));
        }
        Ok(Value::Object(object))
    }
}

const fn unplaced(value: Value) -> Node {
    Node { value, path: String::new(), order: 0 }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}
