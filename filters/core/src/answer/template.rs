//! Bodies with places to fill in.

use crate::fallback::Cause;

/// How a value is made safe for the body it goes into.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Escape {
    /// For the inside of a JSON string.
    json: bool,
    /// For HTML and XML text and attributes.
    markup: bool,
}

impl Escape {
    /// The escaping that a content type asks for.
    #[must_use]
    pub fn for_content_type(content_type: &str) -> Self {
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        Self {
            json: essence.ends_with("/json") || essence.ends_with("+json"),
            markup: essence.ends_with("/html") || essence.ends_with("/xml") || essence.ends_with("+xml"),
        }
    }

    /// The same, for a body that is JSON whatever it says it is.
    #[must_use]
    pub const fn in_json(self) -> Self {
        Self { json: true, ..self }
    }

    /// Markup first: its escapes are letters to JSON, and JSON's backslashes would not survive it.
    fn apply(self, value: &str, out: &mut String) {
        let value = if self.markup { escape_markup(value) } else { value.to_owned() };
        out.push_str(&if self.json { escape_json(&value) } else { value });
    }
}

fn escape_markup(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for letter in value.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// A string always serializes; without its quotes it is the escaped inside.
fn escape_json(value: &str) -> String {
    let quoted = serde_json::to_string(value).unwrap_or_default();
    quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or_default().to_owned()
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Policy,
    Reason,
    RetryAfter,
    RequestId,
}

const PLACES: [(&str, Place); 4] = [
    ("%POLICY%", Place::Policy),
    ("%REASON%", Place::Reason),
    ("%RETRY_AFTER%", Place::RetryAfter),
    ("%REQUEST_ID%", Place::RequestId),
];

/// A text with places to fill in; a percent sign that begins none of them is itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Template {
    /// Each a text and the place that follows it.
    parts: Box<[(Box<str>, Place)]>,
    tail: Box<str>,
    escape: Escape,
}

impl Template {
    /// Finds the places of a text.
    #[must_use]
    pub fn parse(text: &str, escape: Escape) -> Self {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, place, after)) = first_place(rest) {
            parts.push((before.into(), place));
            rest = after;
        }
        Self { parts: parts.into_boxed_slice(), tail: rest.into(), escape }
    }

    /// Whether it shows the request's id.
    #[must_use]
    pub fn shows_request_id(&self) -> bool {
        self.parts.iter().any(|(_, place)| *place == Place::RequestId)
    }

    /// How many places it has.
    #[must_use]
    pub const fn places(&self) -> usize {
        self.parts.len()
    }

    /// The body for one request. What outsiders are not told is left empty.
    pub(super) fn render(&self, policy: &str, expose: bool, cause: &Cause, request_id: &str) -> Vec<u8> {
        let mut out = String::new();
        for (text, place) in &self.parts {
            out.push_str(text);
            match place {
                Place::Policy | Place::Reason if !expose => {}
                Place::Policy => self.escape.apply(policy, &mut out),
                Place::Reason => self.escape.apply(cause.reason.name(), &mut out),
                Place::RetryAfter => {
                    if let Some(seconds) = cause.retry_after {
                        out.push_str(&seconds.to_string());
                    }
                }
                Place::RequestId => self.escape.apply(request_id, &mut out),
            }
        }
        out.push_str(&self.tail);
        out.into_bytes()
    }
}

fn first_place(text: &str) -> Option<(&str, Place, &str)> {
    PLACES
        .iter()
        .filter_map(|(name, place)| {
            let (before, after) = text.split_once(name)?;
            Some((before, *place, after))
        })
        .min_by_key(|(before, ..)| before.len())
}
