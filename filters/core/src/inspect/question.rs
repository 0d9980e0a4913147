//! Reads what is asked.

use super::Problem;
use std::borrow::Cow;

/// At most so many states in one reply, lest a worker be held up.
pub(super) const MOST: usize = 1000;
/// So many policies in one where nothing is said.
const USUAL: usize = 500;

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Question<'a> {
    /// The states of all policies.
    Policies(Page<'a>),
    /// That of the policy of this name.
    Policy(&'a str),
    /// The health of all dependencies.
    Dependencies(Page<'a>),
    /// Whether anybody is there.
    Live,
    /// Whether the traffic is looked after.
    Ready,
}

/// Some of the policies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Page<'a> {
    /// Those behind this one; all where `None`.
    pub(super) after: Option<Cow<'a, str>>,
    /// So many of them at most.
    pub(super) limit: usize,
}

/// Reads a request by its `:method` and `:path`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse<'a>(method: &[u8], path: &'a [u8]) -> Result<Question<'a>, Problem> {
    let path = std::str::from_utf8(path).map_err(|_| Problem::NotFound)?;
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let question = match path {
        "/policies" => page(query).map(Question::Policies),
        "/dependencies" => page(query).map(Question::Dependencies),
        // Whoever asks these two is a machine, and may add what it likes.
        "/live" => Ok(Question::Live),
        "/ready" => Ok(Question::Ready),
        _ => match path.strip_prefix("/policies/") {
            Some(_) if !query.is_empty() => Err(Problem::Parameter),
            Some(name) => Ok(Question::Policy(name)),
            None => return Err(Problem::NotFound),
        },
    };
    if !matches!(method, b"GET" | b"HEAD") {
        return Err(Problem::Method);
    }
    question
}

fn page(query: &str) -> Result<Page<'_>, Problem> {
    let mut page = Page { after: None, limit: USUAL };
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("after", name)) => {
                let name = percent_encoding::percent_decode_str(name).decode_utf8();
                page.after = Some(name.map_err(|_| Problem::Parameter)?);
            }
            Some(("limit", number)) => page.limit = limit(number)?,
            _ => return Err(Problem::Parameter),
        }
    }
    Ok(page)
}

fn limit(number: &str) -> Result<usize, Problem> {
    let is_plain = number.bytes().all(|digit| digit.is_ascii_digit());
    let limit = number.parse().ok().filter(|limit| is_plain && (1..=MOST).contains(limit));
    limit.ok_or(Problem::Parameter)
}
