//! Which policy a request belongs to.
//!
//! Patterns are indexed by what they name, the more specific first, so that a look-up costs about the same with one policy
//! and with ten thousand, and so that no request can make it cost more: of prefixes only those that the path begins with are
//! looked at, and of wildcards only those that the host ends in.
//! What does cost is each pair of namespace and key that metadata is matched by: each is read. Their number is limited.

mod index;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use crate::config::{HostPattern, Match, PathPattern};
use index::{Beginnings, Keyed};
use std::cmp::Reverse;
use std::collections::BTreeMap;

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
    /// The host from its end.
    reversed: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
    method: Option<Vec<u8>>,
    metadata: Vec<Vec<u8>>,
}

/// What was read of a request to find its policy, to see later whether that policy was the right one.
///
/// The host shows the route that it chose when the request arrived. Where a filter changes what routes are chosen by, before
/// us or behind us, the router chooses again, and what was read is of a route that the request does not take.
#[derive(Debug, Default)]
pub struct Seen {
    route: Option<Vec<u8>>,
    /// Of each pair that the matcher looks at, in its order.
    metadata: Vec<Vec<u8>>,
    host: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
    method: Option<Vec<u8>>,
}

impl Seen {
    /// The same request by the route that `facts` show now. What was not read of it then is taken as absent: by now its
    /// headers are gone.
    fn again<'a>(&self, facts: &'a mut dyn Facts) -> Request<'a> {
        let read = |fact: &Option<Vec<u8>>| Some(fact.clone().unwrap_or_default());
        Request {
            host: read(&self.host),
            path: read(&self.path),
            method: read(&self.method),
            ..Request::new(facts)
        }
    }
}

impl<'a> Request<'a> {
    /// A request of which nothing has been read yet.
    pub fn new(facts: &'a mut dyn Facts) -> Self {
        Self {
            facts,
            route: None,
            host: None,
            reversed: None,
            path: None,
            method: None,
            metadata: Vec::new(),
        }
    }

    // Something absent is read as empty, which no pattern can be.

    fn metadata(&mut self, namespace: &str, key: &str) -> &[u8] {
        let value = self.facts.metadata(namespace, key).unwrap_or_default();
        self.metadata.push(value);
        self.metadata.last().map_or(&[], Vec::as_slice)
    }

    /// What was read.
    #[must_use]
    pub fn seen(self) -> Seen {
        let Self { route, metadata, host, path, method, .. } = self;
        Seen { route, metadata, host, path, method }
    }

    fn route(&mut self) -> &[u8] {
        self.route.get_or_insert_with(|| self.facts.route().unwrap_or_default())
    }

    fn host(&mut self) -> &[u8] {
        self.host.get_or_insert_with(|| normalize_host(self.facts.host().unwrap_or_default()))
    }

    fn host_reversed(&mut self) -> &[u8] {
        if self.reversed.is_none() {
            self.reversed = Some(reversed(self.host()));
        }
        self.reversed.as_deref().unwrap_or_default()
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

fn reversed(text: &[u8]) -> Vec<u8> {
    text.iter().rev().copied().collect()
}

/// An index from requests to the position of what they match.
#[derive(Debug, Default)]
pub struct Matcher {
    /// By namespace and key, then by value.
    metadata: BTreeMap<(String, String), Keyed<Routes>>,
    rest: Routes,
}

/// Patterns that are equal so far, by what they say of the route.
#[derive(Debug, Default)]
struct Routes {
    named: Keyed<Paths>,
    none: Paths,
}

/// Patterns that are equal so far, by what they say of the path.
#[derive(Debug, Default)]
struct Paths {
    exact: Keyed<Hosts>,
    prefix: Beginnings<Hosts>,
    none: Hosts,
}

/// Patterns that are equal so far, by what they say of the host.
#[derive(Debug, Default)]
struct Hosts {
    exact: Keyed<Methods>,
    /// By what a host ends in, from its end.
    wildcard: Beginnings<Methods>,
    none: Methods,
}

/// Patterns that are equal so far, by what they say of the method: of each the first of the document, which the others can
/// never win against.
#[derive(Debug, Default)]
struct Methods {
    named: Keyed<Option<Found>>,
    none: Option<Found>,
}

/// A pattern's rank and target.
type Found = (Rank, usize);

/// A pattern on its way into the index.
#[derive(Clone, Copy)]
struct Item<'a> {
    pattern: &'a Match,
    target: usize,
    /// The position in the document.
    order: usize,
}

type Items<'a> = Vec<Item<'a>>;
type ByKey<'a> = Vec<(Vec<u8>, Item<'a>)>;

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
        let (mut metadata, mut rest) = (BTreeMap::<_, ByKey<'_>>::new(), Items::new());
        for (order, (target, pattern)) in alternatives.enumerate() {
            let item = Item { pattern, target, order };
            match &pattern.metadata {
                Some((namespace, key, value)) => {
                    let values = metadata.entry((namespace.clone(), key.clone())).or_default();
                    values.push((value.clone().into_bytes(), item));
                }
                None => rest.push(item),
            }
        }
        let metadata = metadata.into_iter().map(|(pair, values)| (pair, Keyed::new(values, Routes::new)));
        Self { metadata: metadata.collect(), rest: Routes::new(rest) }
    }

    /// The target of a request, if any alternative holds.
    #[must_use]
    pub fn find(&self, request: &mut Request<'_>) -> Option<usize> {
        let by_metadata = self.metadata.iter().filter_map(|((namespace, key), values)| {
            values.get(request.metadata(namespace, key))?.find(request)
        });
        let found = by_metadata.min().or_else(|| self.rest.find(request));
        found.map(|(_, target)| target)
    }

    /// Whether a request that was found to be of `target` went by a route that leads there, too, now that its answer is
    /// there. What cannot be read now says nothing against it.
    #[must_use]
    pub fn still_finds(&self, target: usize, seen: &Seen, facts: &mut dyn Facts) -> bool {
        let same = |now: Option<Vec<u8>>, then: &Vec<u8>| now.is_none_or(|now| now == *then);
        let mut metadata = self.metadata.keys().zip(&seen.metadata);
        let unchanged = seen.route.as_ref().is_none_or(|name| same(facts.route(), name))
            && metadata.all(|((namespace, key), value)| same(facts.metadata(namespace, key), value));
        unchanged || self.find(&mut seen.again(facts)) == Some(target)
    }
}

// Each level looks at the more specific first, and reads only what some pattern asks for.

impl Routes {
    fn new(items: Items<'_>) -> Self {
        let (mut named, mut none) = (ByKey::new(), Items::new());
        for item in items {
            match &item.pattern.route {
                Some(route) => named.push((route.clone().into_bytes(), item)),
                None => none.push(item),
            }
        }
        Self { named: Keyed::new(named, Paths::new), none: Paths::new(none) }
    }

    fn find(&self, request: &mut Request<'_>) -> Option<Found> {
        let named = if self.named.is_empty() { None } else { self.named.get(request.route()) };
        named.and_then(|paths| paths.find(request)).or_else(|| self.none.find(request))
    }
}

impl Paths {
    fn new(items: Items<'_>) -> Self {
        let (mut exact, mut prefix, mut none) = (ByKey::new(), ByKey::new(), Items::new());
        for item in items {
            match &item.pattern.path {
                Some(PathPattern::Exact(path)) => exact.push((path.clone().into_bytes(), item)),
                Some(PathPattern::Prefix(path)) => prefix.push((path.clone().into_bytes(), item)),
                None => none.push(item),
            }
        }
        Self {
            exact: Keyed::new(exact, Hosts::new),
            prefix: Beginnings::new(prefix, Hosts::new),
            none: Hosts::new(none),
        }
    }

    fn find(&self, request: &mut Request<'_>) -> Option<Found> {
        let exact = if self.exact.is_empty() { None } else { self.exact.get(request.path()) };
        exact
            .and_then(|hosts| hosts.find(request))
            .or_else(|| self.by_prefix(request))
            .or_else(|| self.none.find(request))
    }

    fn by_prefix(&self, request: &mut Request<'_>) -> Option<Found> {
        if self.prefix.is_empty() {
            return None;
        }
        self.prefix.of(request.path()).find_map(|(length, hosts)| {
            let (prefix, rest) = request.path().split_at_checked(length)?;
            let on_boundary = rest.first().is_none_or(|next| *next == b'/') || prefix.ends_with(b"/");
            if on_boundary { hosts.find(request) } else { None }
        })
    }
}

impl Hosts {
    fn new(items: Items<'_>) -> Self {
        let (mut exact, mut wildcard, mut none) = (ByKey::new(), ByKey::new(), Items::new());
        for item in items {
            match &item.pattern.host {
                Some(HostPattern::Exact(host)) => exact.push((host.clone().into_bytes(), item)),
                Some(HostPattern::Wildcard(end)) => wildcard.push((reversed(end.as_bytes()), item)),
                None => none.push(item),
            }
        }
        Self {
            exact: Keyed::new(exact, Methods::new),
            wildcard: Beginnings::new(wildcard, Methods::new),
            none: Methods::new(none),
        }
    }

    fn find(&self, request: &mut Request<'_>) -> Option<Found> {
        let exact = if self.exact.is_empty() { None } else { self.exact.get(request.host()) };
        exact
            .and_then(|methods| methods.find(request))
            .or_else(|| self.by_wildcard(request))
            .or_else(|| self.none.find(request))
    }

    /// Wildcards are equals, whatever their length.
    fn by_wildcard(&self, request: &mut Request<'_>) -> Option<Found> {
        if self.wildcard.is_empty() {
            return None;
        }
        let length = request.host().len();
        let something_before = |end: usize| end < length;
        let ends = self.wildcard.of(request.host_reversed()).filter(|(end, _)| something_before(*end));
        ends.filter_map(|(_, methods)| methods.find(request)).min()
    }
}

impl Methods {
    fn new(items: Items<'_>) -> Self {
        let (mut named, mut none) = (ByKey::new(), None);
        for item in items {
            for method in &item.pattern.methods {
                named.push((method.clone().into_bytes(), item));
            }
            if item.pattern.methods.is_empty() && none.is_none() {
                none = Some(item.found());
            }
        }
        Self { named: Keyed::new(named, |items| items.first().map(|item| item.found())), none }
    }

    fn find(&self, request: &mut Request<'_>) -> Option<Found> {
        let named = if self.named.is_empty() { None } else { self.named.get(request.method()) };
        named.copied().flatten().or(self.none)
    }
}

impl Item<'_> {
    fn found(self) -> Found {
        let pattern = self.pattern;
        let rank = Rank {
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
        };
        (rank, self.target)
    }
}
