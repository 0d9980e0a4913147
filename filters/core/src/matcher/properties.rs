//! The index against looking through all alternatives one by one, and against what makes it deep.

use super::*;
use crate::config::{HostPattern, PathPattern};
use proptest::prelude::*;
use proptest::{option, sample};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const PATHS: [&str; 9] = ["/", "//", "/a", "/a/", "/a/b", "/a/b/", "/ab", "/a/bc", "/b"];
const HOSTS: [&str; 6] = ["x", "a.x", "b.a.x", "xx", "a.xx", ".x"];
const ENDS: [&str; 4] = [".x", ".a.x", ".xx", "..x"];
const METHODS: [&str; 3] = ["GET", "PUT", "POST"];

#[derive(Clone, Debug)]
struct Asked {
    route: &'static str,
    host: &'static str,
    path: &'static str,
    method: &'static str,
    tags: [&'static str; 2],
}

impl Facts for Asked {
    fn metadata(&mut self, _: &str, key: &str) -> Option<Vec<u8>> {
        Some(if key == "k" { self.tags[0] } else { self.tags[1] }.into())
    }
    fn route(&mut self) -> Option<Vec<u8>> {
        Some(self.route.into())
    }
    fn host(&mut self) -> Option<Vec<u8>> {
        Some(self.host.into())
    }
    fn path(&mut self) -> Option<Vec<u8>> {
        Some(self.path.into())
    }
    fn method(&mut self) -> Option<Vec<u8>> {
        Some(self.method.into())
    }
}

fn pattern() -> impl Strategy<Value = Match> {
    let text = |words: &'static [&'static str]| sample::select(words).prop_map(str::to_owned);
    let metadata =
        (text(&["k", "l"]), text(&["1", "2"])).prop_map(|(key, value)| ("n".to_owned(), key, value));
    let host =
        prop_oneof![text(&HOSTS).prop_map(HostPattern::Exact), text(&ENDS).prop_map(HostPattern::Wildcard)];
    let path =
        prop_oneof![text(&PATHS).prop_map(PathPattern::Exact), text(&PATHS).prop_map(PathPattern::Prefix)];
    let methods =
        prop_oneof![Just(Vec::new()), sample::subsequence(METHODS.map(str::to_owned).to_vec(), 1..=2)];
    (
        option::weighted(0.3, metadata),
        option::weighted(0.3, text(&["r", "s"])),
        option::of(host),
        option::of(path),
        methods,
    )
        .prop_map(|(metadata, route, host, path, methods)| Match {
            metadata,
            route,
            host,
            path,
            methods,
        })
}

fn asked() -> impl Strategy<Value = Asked> {
    let tag = || sample::select(vec!["1", "2", "3"]);
    let words = (sample::select(vec!["r", "s", "t"]), sample::select(&HOSTS[..]), sample::select(&PATHS[..]));
    (words, sample::select(&METHODS[..]), tag(), tag()).prop_map(|((route, host, path), method, one, two)| {
        Asked { route, host, path, method, tags: [one, two] }
    })
}

/// Whether everything that a pattern names holds, by the words of the configuration reference.
fn holds(pattern: &Match, asked: &mut Asked) -> bool {
    let metadata = pattern.metadata.as_ref().is_none_or(|(namespace, key, value)| {
        asked.metadata(namespace, key) == Some(value.clone().into_bytes())
    });
    let host = match &pattern.host {
        Some(HostPattern::Exact(host)) => asked.host == host,
        Some(HostPattern::Wildcard(end)) => asked.host.ends_with(end.as_str()) && asked.host != end,
        None => true,
    };
    let path = match &pattern.path {
        Some(PathPattern::Exact(path)) => asked.path == path,
        Some(PathPattern::Prefix(prefix)) => asked
            .path
            .strip_prefix(prefix.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/')),
        None => true,
    };
    let route = pattern.route.as_ref().is_none_or(|route| asked.route == route);
    let method = pattern.methods.is_empty() || pattern.methods.iter().any(|method| asked.method == method);
    metadata && host && path && route && method
}

fn one_by_one(patterns: &[Match], asked: &mut Asked) -> Option<usize> {
    let all = patterns.iter().enumerate().filter(|(_, pattern)| holds(pattern, asked));
    let ranked = all
        .map(|(order, pattern)| (pattern.metadata.is_none(), Item { pattern, target: order, order }.found()));
    ranked.min().map(|(_, (_, target))| target)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_index_finds_what_looking_through_all_finds(
        patterns in proptest::collection::vec(pattern(), 0..12),
        requests in proptest::collection::vec(asked(), 1..12),
    ) {
        let matcher = Matcher::new(patterns.iter().enumerate());
        for mut asked in requests {
            let expected = one_by_one(&patterns, &mut asked);
            prop_assert_eq!(matcher.find(&mut Request::new(&mut asked)), expected);
        }
    }
}

#[test]
fn beginnings_of_beginnings_are_all_found_longest_first() {
    // Each holds of the path, and only the host tells them apart: the look-up has to go through them all.
    let depth = 2000;
    let nested = |host: usize| {
        let path = |length: usize| Some(PathPattern::Prefix("/".repeat(length)));
        let host = move |length: usize| Some(HostPattern::Exact(format!("h{}", length % host)));
        let of = move |length| Match { path: path(length), host: host(length), ..Match::default() };
        (1..=depth).map(of).collect::<Vec<_>>()
    };
    let mut facts =
        Asked { host: "h1", path: "/".repeat(60_000).leak(), route: "r", method: "GET", tags: ["", ""] };
    let (alone, many) = (nested(depth), nested(3));
    let found = Matcher::new(alone.iter().enumerate()).find(&mut Request::new(&mut facts));
    assert_eq!(found, Some(0), "the shortest is the only one of this host");
    let found = Matcher::new(many.iter().enumerate()).find(&mut Request::new(&mut facts));
    assert_eq!(found, Some(1998), "the longest of those of this host");
    facts.path = facts.path.split_at(1000).0;
    let found = Matcher::new(many.iter().enumerate()).find(&mut Request::new(&mut facts));
    assert_eq!(found, Some(999), "the longest that the path is long enough for");
    facts.host = "h";
    assert_eq!(Matcher::new(many.iter().enumerate()).find(&mut Request::new(&mut facts)), None);
}
