//! Which policy a request belongs to.
//!
//! Patterns are indexed by what they name, the more specific first, so that a look-up costs about the same with one policy
//! and with ten thousand, and so that no request can make it cost more: only lengths that some pattern has are ever tried.
//! What does cost is each pair of namespace and key that metadata is matched by: each is read. Their number is limited.

#[cfg(test)]
mod tests;

use crate::config::{HostPattern, Match, PathPattern};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

/// What a request is, asked for piece by piece: reading is what a filter pays for.
pub trait Facts {
    /// The value of a key in the matched route's metadata.
    fn metadata(&mut self, namespace: &str, key: &str) -> Option<Vec<u8>>;
    /// The name of the matched route.
    fn route(&mut self) -> Option<Vec<u8>>;
    /// `:authority`.
    fn host(&mut self) -> Option<Vec<u8>>;
    /// `:path`.
    fn path(&mut self) -> Option<Vec<u8>>;
    /// `:method`.
    fn method(&mut self) -> Option<Vec<u8>>;
}

/// Facts read once, in the form patterns are compared with.
pub struct Request<'a> {
    facts: &'a mut dyn Facts,
    route: Option<Vec<u8>>,
    host: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
    method: Option<Vec<u8>>,
}

impl<'a> Request<'a> {
    /// A request of which nothing has been read yet.
    pub fn new(facts: &'a mut dyn Facts) -> Self {
        Self { facts, route: None, host: None, path: None, method: None }
    }

    // Something absent is read as empty, which no pattern can be.

    fn metadata(&mut self, namespace: &str, key: &str) -> Vec<u8> {
        self.facts.metadata(namespace, key).unwrap_or_default()
    }

    fn route(&mut self) -> &[u8] {
        self.route.get_or_insert_with(|| self.facts.route().unwrap_or_default())
    }

    fn host(&mut self) -> &[u8] {
        self.host.get_or_insert_with(|| normalize_host(self.facts.host().unwrap_or_default()))
    }

    fn path(&mut self) -> &[u8] {
        self.path.get_or_insert_with(|| without_query(self.facts.path().unwrap_or_default()))
    }

    fn method(&mut self) -> &[u8] {
        self.method.get_or_insert_with(|| self.facts.method().unwrap_or_default())
    }
}

/// Lower case, without the port.
fn normalize_host(mut host: Vec<u8>) -> Vec<u8> {
    host.make_ascii_lowercase();
    let colon = host.iter().rposition(|b| *b == b':');
    let bracket = host.iter().rposition(|b| *b == b']');
    if let Some(colon) = colon.filter(|colon| bracket.is_none_or(|bracket| bracket < *colon)) {
        host.truncate(colon);
    }
    host
}

fn without_query(mut path: Vec<u8>) -> Vec<u8> {
    if let Some(end) = path.iter().position(|b| matches!(b, b'?' | b'#')) {
        path.truncate(end);
    }
    path
}

/// An index from requests to the position of what they match.
#[derive(Debug, Default)]
pub struct Matcher {
    /// By namespace and key, then by value.
    metadata: BTreeMap<(String, String), HashMap<Vec<u8>, Routes>>,
    rest: Routes,
}

/// Patterns that are equal so far, by what they say of the route.
#[derive(Debug, Default)]
struct Routes {
    named: HashMap<Vec<u8>, Paths>,
    none: Paths,
}

/// Patterns that are equal so far, by what they say of the path.
#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<Vec<u8>, Hosts>,
    prefix: HashMap<Vec<u8>, Hosts>,
    /// The lengths that prefixes have, longest first.
    prefix_lengths: Vec<usize>,
    none: Hosts,
}

/// Patterns that are equal so far, by what they say of the host.
#[derive(Debug, Default)]
struct Hosts {
    exact: HashMap<Vec<u8>, Vec<Entry>>,
    wildcard: HashMap<Vec<u8>, Vec<Entry>>,
    /// The lengths that wildcards have.
    wildcard_lengths: Vec<usize>,
    none: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    pattern: Match,
    target: usize,
    /// The position in the document.
    order: usize,
}

/// What decides between patterns that hold, smallest first: one that names the route, then an exact path, then the longest
/// prefix, then an exact host before a wildcard before none, then methods before none, then the document's order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Rank {
    any_route: bool,
    path: PathRank,
    host: HostRank,
    any_method: bool,
    order: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum PathRank {
    Exact,
    Prefix(Reverse<usize>),
    Any,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum HostRank {
    Exact,
    Wildcard,
    Any,
}

impl Matcher {
    /// An index of alternatives, each with the target it leads to, in the order of the document.
    #[must_use]
    pub fn new<'a>(alternatives: impl Iterator<Item = (usize, &'a Match)>) -> Self {
        let mut matcher = Self::default();
        for (order, (target, pattern)) in alternatives.enumerate() {
            matcher.add(Entry { pattern: pattern.clone(), target, order });
        }
        matcher.rest.finish();
        matcher.metadata.values_mut().flat_map(HashMap::values_mut).for_each(Routes::finish);
        matcher
    }

    fn add(&mut self, entry: Entry) {
        let routes = match &entry.pattern.metadata {
            Some((namespace, key, value)) => {
                let values = self.metadata.entry((namespace.clone(), key.clone())).or_default();
                values.entry(value.clone().into_bytes()).or_default()
            }
            None => &mut self.rest,
        };
        routes.add(entry);
    }

    /// The target of a request, if any alternative holds.
    #[must_use]
    pub fn find(&self, request: &mut Request<'_>) -> Option<usize> {
        let by_metadata = self.metadata.iter().filter_map(|((namespace, key), values)| {
            let value = request.metadata(namespace, key);
            values.get(&value)?.find(request)
        });
        let found = by_metadata.min().or_else(|| self.rest.find(request));
        found.map(|(_, target)| target)
    }
}

// Each level looks at the more specific first, and reads only what some pattern asks for.

impl Routes {
    fn add(&mut self, entry: Entry) {
        let paths = match &entry.pattern.route {
            Some(route) => self.named.entry(route.clone().into_bytes()).or_default(),
            None => &mut self.none,
        };
        paths.add(entry);
    }

    fn finish(&mut self) {
        self.named.values_mut().chain([&mut self.none]).for_each(Paths::finish);
    }

    fn find(&self, request: &mut Request<'_>) -> Option<(Rank, usize)> {
        let named = if self.named.is_empty() { None } else { self.named.get(request.route()) };
        named.and_then(|paths| paths.find(request)).or_else(|| self.none.find(request))
    }
}

impl Paths {
    fn add(&mut self, entry: Entry) {
        let hosts = match &entry.pattern.path {
            Some(PathPattern::Exact(path)) => self.exact.entry(path.clone().into_bytes()).or_default(),
            Some(PathPattern::Prefix(prefix)) => self.prefix.entry(prefix.clone().into_bytes()).or_default(),
            None => &mut self.none,
        };
        hosts.add(entry);
    }

    fn finish(&mut self) {
        self.prefix_lengths = lengths(&self.prefix);
        let paths = self.exact.values_mut().chain(self.prefix.values_mut());
        paths.chain([&mut self.none]).for_each(Hosts::finish);
    }

    fn find(&self, request: &mut Request<'_>) -> Option<(Rank, usize)> {
        let exact = if self.exact.is_empty() { None } else { self.exact.get(request.path()) };
        exact
            .and_then(|hosts| hosts.find(request))
            .or_else(|| self.by_prefix(request))
            .or_else(|| self.none.find(request))
    }

    fn by_prefix(&self, request: &mut Request<'_>) -> Option<(Rank, usize)> {
        self.prefix_lengths.iter().find_map(|length| {
            let (prefix, rest) = request.path().split_at_checked(*length)?;
            let on_boundary = rest.first().is_none_or(|next| *next == b'/') || prefix.ends_with(b"/");
            self.prefix.get(prefix).filter(|_| on_boundary)?.find(request)
        })
    }
}

/// The lengths of an index's keys, longest first.
fn lengths<V>(index: &HashMap<Vec<u8>, V>) -> Vec<usize> {
    let mut lengths: Vec<_> = index.keys().map(Vec::len).collect();
    lengths.sort_unstable_by_key(|length| Reverse(*length));
    lengths.dedup();
    lengths
}

impl Hosts {
    fn add(&mut self, entry: Entry) {
        let entries = match &entry.pattern.host {
            Some(HostPattern::Exact(host)) => self.exact.entry(host.clone().into_bytes()).or_default(),
            Some(HostPattern::Wildcard(suffix)) => {
                self.wildcard.entry(suffix.clone().into_bytes()).or_default()
            }
            None => &mut self.none,
        };
        entries.push(entry);
    }

    fn finish(&mut self) {
        self.wildcard_lengths = lengths(&self.wildcard);
        let entries = self.exact.values_mut().chain(self.wildcard.values_mut());
        entries.chain([&mut self.none]).for_each(|entries| entries.sort_by_key(Entry::rank));
    }

    fn find(&self, request: &mut Request<'_>) -> Option<(Rank, usize)> {
        let exact = if self.exact.is_empty() { None } else { self.exact.get(request.host()) };
        exact
            .and_then(|entries| first(entries, request))
            .or_else(|| self.by_wildcard(request))
            .or_else(|| first(&self.none, request))
    }

    /// Wildcards are equals, whatever their length.
    fn by_wildcard(&self, request: &mut Request<'_>) -> Option<(Rank, usize)> {
        let by_length = self.wildcard_lengths.iter().filter_map(|length| {
            let host = request.host();
            let start = host.len().checked_sub(*length).filter(|start| *start > 0)?;
            first(self.wildcard.get(host.get(start..)?)?, request)
        });
        by_length.min()
    }
}

/// The first entry whose methods hold: whoever found the entries has looked at all else.
fn first(entries: &[Entry], request: &mut Request<'_>) -> Option<(Rank, usize)> {
    let entry = entries.iter().find(|entry| {
        let methods = &entry.pattern.methods;
        methods.is_empty() || methods.iter().any(|method| request.method() == method.as_bytes())
    })?;
    Some((entry.rank(), entry.target))
}

impl Entry {
    fn rank(&self) -> Rank {
        let pattern = &self.pattern;
        Rank {
            any_route: pattern.route.is_none(),
            path: match &pattern.path {
                Some(PathPattern::Exact(_)) => PathRank::Exact,
                Some(PathPattern::Prefix(prefix)) => PathRank::Prefix(Reverse(prefix.len())),
                None => PathRank::Any,
            },
            host: match &pattern.host {
                Some(HostPattern::Exact(_)) => HostRank::Exact,
                Some(HostPattern::Wildcard(_)) => HostRank::Wildcard,
                None => HostRank::Any,
            },
            any_method: pattern.methods.is_empty(),
            order: self.order,
        }
    }
}
