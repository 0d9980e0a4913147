//! A JSON document in which every value knows its place, so that an error can name it.

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// A position in the document's order: that of a value outside the list of policies, then, inside, that within the list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct Order(usize, usize);

/// A value and where it stands.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    pub(super) value: Value,
    /// The JSON path, `policies[0].name`.
    pub(super) path: String,
    /// The position in the document's order.
    pub(super) order: Order,
}

#[derive(Clone, Debug, Default)]
pub(super) enum Value {
    #[default]
    Null,
    Bool(bool),
    Number(serde_json::Number),
    String(String),
    List(Vec<Node>),
    /// In the order of the document, duplicates included.
    Object(Vec<(String, Node)>),
}

impl Node {
    /// Parses all of a document but the policies: their list, if it is one, is left empty for [`Policies::read`]. Ten
    /// thousand policies as a tree would take ten times the memory of what is made of them, and a module's memory never
    /// shrinks.
    ///
    /// # Errors
    /// The parser's, with line and column.
    pub(super) fn outline(text: &[u8]) -> Result<Self, String> {
        let mut root = unplaced(parse(text, Tree::Outline)?);
        let mut order = Order::default();
        root.place(String::new(), &mut || {
            order.0 = order.0.saturating_add(1);
            order
        });
        Ok(root)
    }

    fn place(&mut self, path: String, next: &mut impl FnMut() -> Order) {
        self.order = next();
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

    /// Takes out what stands at a path of keys.
    pub(super) fn remove(&mut self, path: &[&str]) {
        let Value::Object(entries) = &mut self.value else { return };
        match path {
            [] => {}
            [last] => entries.retain(|(key, _)| key != last),
            [first, rest @ ..] => {
                entries.iter_mut().filter(|(key, _)| key == first).for_each(|(_, node)| node.remove(rest));
            }
        }
    }

    /// This value with what `base` says beyond it: objects merge key by key, all else replaces.
    pub(super) fn over(mut self, base: &Self) -> Self {
        let (Value::Object(mine), Value::Object(inherited)) = (&mut self.value, &base.value) else {
            return self;
        };
        let rest: Vec<_> =
            inherited.iter().filter(|(key, _)| !mine.iter().any(|(own, _)| own == key)).cloned().collect();
        for (key, node) in mine.iter_mut() {
            if let Some(beneath) = base.get(key) {
                *node = std::mem::take(node).over(beneath);
            }
        }
        mine.extend(rest);
        self
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

/// How much of a value becomes a tree.
#[derive(Clone, Copy)]
enum Tree {
    Whole,
    /// Of an object all but the items of the list [`POLICIES`].
    Outline,
    /// Of a list nothing.
    Skipped,
}

/// The key of the list that is read item by item.
const POLICIES: &str = "policies";

impl<'de> DeserializeSeed<'de> for Tree {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree {
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
        if let Self::Skipped = self {
            while items.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Value::List(list));
        }
        while let Some(value) = items.next_element_seed(Self::Whole)? {
            list.push(unplaced(value));
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Vec::new();
        while let Some(key) = entries.next_key::<String>()? {
            let tree = match self {
                Self::Outline if key == POLICIES => Self::Skipped,
                _ => Self::Whole,
            };
            object.push((key, unplaced(entries.next_value_seed(tree)?)));
        }
        Ok(Value::Object(object))
    }
}

const fn unplaced(value: Value) -> Node {
    Node { value, path: String::new(), order: Order(0, 0) }
}

fn parse<'de, S: DeserializeSeed<'de>>(text: &'de [u8], seed: S) -> Result<S::Value, String> {
    let mut parser = serde_json::Deserializer::from_slice(text);
    let parsed = seed.deserialize(&mut parser).and_then(|value| parser.end().map(|()| value));
    parsed.map_err(|error| error.to_string())
}

/// The policies of a document, one after the other.
pub(super) struct Policies<F> {
    each: F,
    order: Order,
    path: String,
    done: bool,
}

impl<F: FnMut(Node)> Policies<F> {
    /// Parses the document again and hands over each item of `list`, which is that of [`Node::outline`].
    ///
    /// # Errors
    /// The parser's, with line and column: of what was handed over until then nothing holds.
    pub(super) fn read(text: &[u8], list: &Node, each: F) -> Result<(), String> {
        parse(text, &mut Self { each, order: list.order, path: list.path.clone(), done: false })
    }
}

impl<'de, F: FnMut(Node)> DeserializeSeed<'de> for &mut Policies<F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// First the document, then, inside, the list.
impl<'de, F: FnMut(Node)> Visitor<'de> for &mut Policies<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a document with policies")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(key) = entries.next_key::<String>()? {
            if key == POLICIES && !self.done {
                self.done = true;
                entries.next_value_seed(&mut *self)?;
            } else {
                entries.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut index: usize = 0;
        while let Some(value) = items.next_element_seed(Tree::Whole)? {
            let mut node = unplaced(value);
            let order = &mut self.order;
            node.place(format!("{}[{index}]", self.path), &mut || {
                order.1 = order.1.saturating_add(1);
                *order
            });
            (self.each)(node);
            index = index.saturating_add(1);
        }
        Ok(())
    }
}
