//! Envoy's admin interface, read as data.

use crate::client::{Protocol, Request, send_once};
use hyper::Method;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;

/// An answer of the admin.
#[derive(Debug, Clone)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: String,
}

pub(crate) async fn try_call(admin: SocketAddr, method: Method, path: &str) -> Result<Reply, String> {
    let answer = send_once(admin, Protocol::Http1, Request::new(method, path)).await?;
    Ok(Reply { status: answer.status, body: answer.text() })
}

pub(crate) async fn call(admin: SocketAddr, method: Method, path: &str) -> Reply {
    match try_call(admin, method, path).await {
        Ok(reply) => reply,
        Err(error) => panic!("admin {path}: {error}"),
    }
}

/// The admin filters by regular expression: every character is made to stand for itself.
pub(crate) fn stat_query(name: &str) -> String {
    let mut pattern = String::from("/stats?filter=%5E");
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' {
            pattern.push(byte.into());
        } else {
            let _ = write!(pattern, "%5C%{byte:02X}");
        }
    }
    pattern + "%24"
}

pub(crate) fn stat(body: &str, name: &str) -> Option<u64> {
    body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.trim().parse().ok())
}

type Labels = BTreeMap<String, String>;

/// Samples of `/stats/prometheus`.
#[derive(Debug, Clone, Default)]
pub struct Metrics(BTreeMap<(String, Labels), f64>);

impl Metrics {
    pub(crate) fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(sample);
        Self(samples.collect())
    }

    /// The sample with exactly these labels.
    #[must_use]
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.0.get(&(name.to_owned(), labels)).copied()
    }

    /// The sum of all samples of a name that carry at least these labels; 0 where there are none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.of(name)
            .filter(|(have, _)| labels.iter().all(|(key, value)| have.get(*key).is_some_and(|v| v == value)))
            .map(|(_, value)| value)
            .sum()
    }

    /// All samples of a name.
    pub fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a Labels, f64)> {
        self.0.iter().filter(move |((have, _), _)| have == name).map(|((_, labels), value)| (labels, *value))
    }

    /// All names, in order, each once.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.keys().map(|(name, _)| name.as_str()).collect();
        names.dedup();
        names
    }
}

fn sample(line: &str) -> Option<((String, Labels), f64)> {
    let (name, mut rest) = line.split_at(line.find(['{', ' '])?);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (key, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(key.to_owned(), value);
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = rest.strip_prefix('}')?;
    }
    Some(((name.to_owned(), labels), rest.trim().parse().ok()?))
}

/// The text up to the closing quote, unescaped, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_with_and_without_labels() {
        let text = "# TYPE a counter\na{} 3\na{policy=\"x\\\"y,z}\",to=\"open\"} 4\nb 1.5\n\nnonsense\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.get("a", &[]), Some(3.0));
        assert_eq!(metrics.get("a", &[("to", "open"), ("policy", "x\"y,z}")]), Some(4.0));
        assert_eq!(metrics.get("b", &[]), Some(1.5));
        assert_eq!(metrics.sum("a", &[("to", "open")]), 4.0);
        assert_eq!(metrics.sum("a", &[]), 7.0);
        assert_eq!(metrics.sum("c", &[]), 0.0);
        assert_eq!(metrics.names(), ["a", "b"]);
    }

    #[test]
    fn a_stat_is_found_by_its_whole_name() {
        assert_eq!(stat("a.b: 3\na.bc: 4\n", "a.bc"), Some(4));
        assert_eq!(stat("a.bc: 4\n", "a.b"), None);
        assert_eq!(stat_query("a.b"), "/stats?filter=%5Ea%5C%2Eb%24");
    }
}
