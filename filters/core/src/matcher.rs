//! Which policy a request belongs to.
//!
//! Patterns are indexed by the most specific thing they name, so that a look-up costs the same with one policy and with
//! ten thousand, and so that no request can make it cost more: only lengths that some pattern has are ever tried.

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
    metadata: BTreeMap<(String, String), Index>,
    routes: Index,
    exact_paths: Index,
    prefixes: Index,
    /// The lengths that prefixes have, longest first.
    prefix_lengths: Vec<usize>,
    hosts: Hosts,
    methods: Vec<Entry>,
    any: Option<usize>,
}

type Index = HashMap<Vec<u8>, Hosts>;

/// Patterns that are equal so far, by what they say of the host.
#[derive(Debug, Default)]
struct Hosts {
    exact: HashMap<Vec<u8>, Vec<Entry>>,
    wildcard: HashMap<Vec<u8>, Vec<Entry>>,
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

/// What decides between patterns of one kind, smallest first: an exact host, then a wildcard, then none; methods before
/// none; the document's order.
type Rank = (u8, bool, usize);

impl Matcher {
    /// An index of alternatives, each with the target it leads to, in the order of the document.
    #[must_use]
    pub fn new<'a>(alternatives: impl Iterator<Item = (usize, &'a Match)>) -> Self {
        let mut matcher = Self::default();
        for (order, (target, pattern)) in alternatives.enumerate() {
            matcher.add(Entry { pattern: pattern.clone(), target, order });
        }
        matcher.prefix_lengths = lengths(&matcher.prefixes);
        matcher.for_each_hosts(Hosts::finish);
        matcher
    }

    fn add(&mut self, entry: Entry) {
        let pattern = &entry.pattern;
        if let Some((namespace, key, value)) = &pattern.metadata {
            let name = (namespace.clone(), key.clone());
            let value = value.clone().into_bytes();
            self.metadata.entry(name).or_default().entry(value).or_default().add(entry);
        } else if let Some(route) = &pattern.route {
            self.routes.entry(route.clone().into_bytes()).or_default().add(entry);
        } else if let Some(PathPattern::Exact(path)) = &pattern.path {
            self.exact_paths.entry(path.clone().into_bytes()).or_default().add(entry);
        } else if let Some(PathPattern::Prefix(prefix)) = &pattern.path {
            self.prefixes.entry(prefix.clone().into_bytes()).or_default().add(entry);
        } else if pattern.host.is_some() {
            self.hosts.add(entry);
        } else if !pattern.methods.is_empty() {
            self.methods.push(entry);
        } else {
            self.any.get_or_insert(entry.target);
        }
    }

    fn for_each_hosts(&mut self, mut act: impl FnMut(&mut Hosts)) {
        let metadata = self.metadata.values_mut().flat_map(Index::values_mut);
        let paths = self.exact_paths.values_mut().chain(self.prefixes.values_mut());
        for hosts in metadata.chain(self.routes.values_mut()).chain(paths) {
            act(hosts);
        }
        act(&mut self.hosts);
    }

    /// The target of a request, if any alternative holds.
    #[must_use]
    pub fn find(&self, request: &mut Request<'_>) -> Option<usize> {
        self.by_metadata(request)
            .or_else(|| self.by_route(request))
            .or_else(|| self.by_exact_path(request))
            .or_else(|| self.by_prefix(request))
            .or_else(|| self.hosts.find(request).map(|(_, target)| target))
            .or_else(|| first(&self.methods, request).map(|entry| entry.target))
            .or(self.any)
    }

    fn by_metadata(&self, request: &mut Request<'_>) -> Option<usize> {
        let mut best: Option<(Rank, usize)> = None;
        for ((namespace, key), index) in &self.metadata {
            let value = request.metadata(namespace, key);
            let found = index.get(&value).and_then(|hosts| hosts.find(request));
            best = best.into_iter().chain(found).min();
        }
        best.map(|(_, target)| target)
    }

    // What no pattern asks for is not read.

    fn by_route(&self, request: &mut Request<'_>) -> Option<usize> {
        let hosts = if self.routes.is_empty() { None } else { self.routes.get(request.route()) };
        hosts?.find(request).map(|(_, target)| target)
    }

    fn by_exact_path(&self, request: &mut Request<'_>) -> Option<usize> {
        let hosts = if self.exact_paths.is_empty() { None } else { self.exact_paths.get(request.path()) };
        hosts?.find(request).map(|(_, target)| target)
    }

    fn by_prefix(&self, request: &mut Request<'_>) -> Option<usize> {
        for length in &self.prefix_lengths {
            let path = request.path();
            let Some((prefix, rest)) = path.split_at_checked(*length) else { continue };
            let on_boundary = rest.first().is_none_or(|next| *next == b'/') || prefix.ends_with(b"/");
            if !on_boundary {
                continue;
            }
            let found = self.prefixes.get(prefix).and_then(|hosts| hosts.find(request));
            if let Some((_, target)) = found {
                return Some(target);
            }
        }
        None
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
        match &entry.pattern.host {
            Some(HostPattern::Exact(host)) => {
                self.exact.entry(host.clone().into_bytes()).or_default().push(entry);
            }
            Some(HostPattern::Wildcard(suffix)) => {
                self.wildcard.entry(suffix.clone().into_bytes()).or_default().push(entry);
            }
            None => self.none.push(entry),
        }
    }

    fn finish(&mut self) {
        self.wildcard_lengths = lengths(&self.wildcard);
        let wildcards = self.wildcard.values_mut();
        for entries in self.exact.values_mut().chain(wildcards).chain([&mut self.none]) {
            entries.sort_by_key(|entry| (entry.pattern.methods.is_empty(), entry.order));
        }
    }

    fn find(&self, request: &mut Request<'_>) -> Option<(Rank, usize)> {
        if !self.exact.is_empty() {
            let entries = self.exact.get(request.host());
            if let Some(entry) = entries.and_then(|entries| first(entries, request)) {
                return Some(entry.ranked(0));
            }
        }
        self.by_wildcard(request).or_else(|| first(&self.none, request).map(|entry| entry.ranked(2)))
    }

    fn by_wildcard(&self, request: &mut Request<'_>) -> Option<(Rank, usize)> {
        let mut best: Option<(Rank, usize)> = None;
        for length in &self.wildcard_lengths {
            let host = request.host();
            let Some(start) = host.len().checked_sub(*length).filter(|start| *start > 0) else { continue };
            let entries = host.get(start..).and_then(|suffix| self.wildcard.get(suffix));
            let found = entries.and_then(|entries| first(entries, request)).map(|entry| entry.ranked(1));
            best = best.into_iter().chain(found).min();
        }
        best
    }
}

/// The first entry of which everything holds.
fn first<'e>(entries: &'e [Entry], request: &mut Request<'_>) -> Option<&'e Entry> {
    entries.iter().find(|entry| entry.holds(request))
}

impl Entry {
    fn ranked(&self, host: u8) -> (Rank, usize) {
        ((host, self.pattern.methods.is_empty(), self.order), self.target)
    }

    /// Whether everything but host and metadata holds: whoever found the entry has looked at those.
    fn holds(&self, request: &mut Request<'_>) -> bool {
        let pattern = &self.pattern;
        pattern.route.as_ref().is_none_or(|route| request.route() == route.as_bytes())
            && pattern.path.as_ref().is_none_or(|path| path.holds(request.path()))
            && (pattern.methods.is_empty()
                || pattern.methods.iter().any(|method| request.method() == method.as_bytes()))
    }
}

impl PathPattern {
    fn holds(&self, path: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => path == exact.as_bytes(),
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_bytes())
                .is_some_and(|rest| rest.first().is_none_or(|next| *next == b'/') || prefix.ends_with('/')),
        }
    }
}
