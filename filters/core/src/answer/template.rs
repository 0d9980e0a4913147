//! Bodies with places to fill in.

use super::{Caller, Refusal};

/// How a value is made safe for the body it goes into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Escape {
    /// As it is.
    Plain,
    /// For the inside of a JSON string.
    Json,
    /// For HTML and XML text and attributes.
    Markup,
}

impl Escape {
    /// The escaping that a content type asks for.
    #[must_use]
    pub fn for_content_type(content_type: &str) -> Self {
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if essence.ends_with("/json") || essence.ends_with("+json") {
            Self::Json
        } else if essence.ends_with("/html") || essence.ends_with("/xml") || essence.ends_with("+xml") {
            Self::Markup
        } else {
            Self::Plain
        }
    }

    fn apply(self, value: &str, out: &mut String) {
        match self {
            Self::Plain => out.push_str(value),
            Self::Json => {
                // A string always serializes; without its quotes it is the escaped inside.
                let quoted = serde_json::to_string(value).unwrap_or_default();
                let inside = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
                out.push_str(inside.unwrap_or_default());
            }
            Self::Markup => {
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
            }
        }
    }
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
    parts: Vec<(String, Place)>,
    tail: String,
    escape: Escape,
}

impl Template {
    /// Finds the places of a text.
    #[must_use]
    pub fn parse(text: &str, escape: Escape) -> Self {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, place, after)) = first_place(rest) {
            parts.push((before.to_owned(), place));
            rest = after;
        }
        Self { parts, tail: rest.to_owned(), escape }
    }

    /// The body for one refusal. What a client sends is shown with replacement characters where it is not UTF-8; what
    /// outsiders are not told is left empty.
    pub(super) fn render(
        &self,
        policy: &str,
        expose: bool,
        refusal: Refusal,
        caller: &mut dyn Caller,
    ) -> Vec<u8> {
        let mut out = String::new();
        for (text, place) in &self.parts {
            out.push_str(text);
            match place {
                Place::Policy | Place::Reason if !expose => {}
                Place::Policy => self.escape.apply(policy, &mut out),
                Place::Reason => self.escape.apply(refusal.reason.name(), &mut out),
                Place::RetryAfter => {
                    if let Some(seconds) = refusal.retry_after {
                        out.push_str(&seconds.to_string());
                    }
                }
                Place::RequestId => {
                    self.escape.apply(&String::from_utf8_lossy(&caller.request_id()), &mut out);
                }
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
