//! Which media types a caller takes (RFC 9110, 12.5.1).

use mediatype::{MediaType, MediaTypeList, ReadParams, names};

/// Of a header that is longer, in bytes, no more is read.
const LONGEST: usize = 4096;
const ANY: &str = "*";

/// A type such as `text/html`, in lower case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Type {
    main: Box<str>,
    /// With its suffix, if it has one.
    sub: Box<str>,
}

/// How a caller takes a type.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Takes {
    /// It does not.
    #[default]
    Not,
    /// As it takes any other: it says so, or says nothing.
    Any,
    /// It names it, or the group that it belongs to.
    Named,
}

impl Type {
    /// Reads a type; `None` where it is none, or has wildcards or parameters.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let found = MediaType::parse(text).ok()?;
        let parsed = Self::of(&found);
        let is_whole = parsed.main.len().saturating_add(parsed.sub.len()).saturating_add(1) == text.len();
        (is_whole && !text.contains(ANY)).then_some(parsed)
    }

    fn of(found: &MediaType<'_>) -> Self {
        let suffix = found.suffix.map(|suffix| format!("+{suffix}")).unwrap_or_default();
        Self {
            main: found.ty.as_str().to_ascii_lowercase().into_boxed_str(),
            sub: (found.subty.as_str().to_ascii_lowercase() + &suffix.to_ascii_lowercase()).into_boxed_str(),
        }
    }
}

/// What a caller's `Accept` says.
#[derive(Debug, Default)]
pub struct Accept {
    /// Each with whether it is wanted at all: its quality is above zero.
    ranges: Vec<(Type, bool)>,
}

impl Accept {
    /// Reads the values of the header, several of which make one list. What cannot be read is left out, and where that is all
    /// of it the header says nothing.
    pub fn read<'a>(values: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut accept = Self::default();
        let mut left = LONGEST;
        for value in values {
            let read = match value.get(..left) {
                Some(cut) if cut.len() < value.len() => whole_ranges(cut),
                _ => value,
            };
            left = left.saturating_sub(value.len());
            let Ok(text) = std::str::from_utf8(read) else { continue };
            let ranges = MediaTypeList::new(text).flatten();
            accept.ranges.extend(ranges.map(|range| (Type::of(&range), is_wanted(&range))));
        }
        accept
    }

    /// How the caller takes a type: by what names it most closely. Where that stands there more than once, one that wants it
    /// is enough.
    #[must_use]
    pub fn takes(&self, wanted: &Type) -> Takes {
        let any = |name: &str| name == ANY;
        let said = |matches: &dyn Fn(&Type) -> bool| {
            self.ranges.iter().filter(|(range, _)| matches(range)).map(|(_, wanted)| *wanted).max()
        };
        let by_name = said(&|range| range == wanted)
            .or_else(|| said(&|range| range.main == wanted.main && any(&range.sub)));
        if let Some(is_wanted) = by_name {
            return if is_wanted { Takes::Named } else { Takes::Not };
        }
        let by_wildcard = said(&|range| any(&range.main) && any(&range.sub));
        if by_wildcard.unwrap_or(self.ranges.is_empty()) { Takes::Any } else { Takes::Not }
    }
}

/// What is left of a list that was cut off: the range that the cut went through might say the opposite.
fn whole_ranges(cut: &[u8]) -> &[u8] {
    let comma = cut.iter().rposition(|letter| *letter == b',');
    comma.and_then(|end| cut.get(..end)).unwrap_or_default()
}

/// Whether a range's quality is above zero. One that cannot be read is left out of account.
fn is_wanted(range: &MediaType<'_>) -> bool {
    let quality = range.get_param(names::Q).and_then(|value| value.as_str().parse::<f32>().ok());
    quality.is_none_or(|quality| quality.is_nan() || quality > 0.0)
}
