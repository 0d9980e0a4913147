//! Precedence, the form of each fact, and that nothing is read which no pattern asks for.

use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// A request that counts how often each of its parts is read.
#[derive(Clone, Default)]
struct Fake {
    metadata: Vec<(&'static str, &'static str, &'static str)>,
    route: Option<&'static str>,
    host: Vec<u8>,
    path: Vec<u8>,
    method: &'static str,
    reads: Vec<String>,
}

impl Facts for Fake {
    fn metadata(&mut self, namespace: &str, key: &str) -> Option<Vec<u8>> {
        self.reads.push(format!("metadata {namespace}.{key}"));
        let of = |found: &&(&str, &str, &str)| (found.0, found.1) == (namespace, key);
        self.metadata.iter().find(of).map(|(_, _, value)| (*value).into())
    }
    fn route(&mut self) -> Option<Vec<u8>> {
        self.reads.push("route".to_owned());
        self.route.map(Into::into)
    }
    fn host(&mut self) -> Option<Vec<u8>> {
        self.reads.push("host".to_owned());
        (!self.host.is_empty()).then(|| self.host.clone())
    }
    fn path(&mut self) -> Option<Vec<u8>> {
        self.reads.push("path".to_owned());
        (!self.path.is_empty()).then(|| self.path.clone())
    }
    fn method(&mut self) -> Option<Vec<u8>> {
        self.reads.push("method".to_owned());
        (!self.method.is_empty()).then(|| self.method.into())
    }
}

/// A request that every pattern below matches.
fn request() -> Fake {
    Fake {
        metadata: vec![("shop", "policy", "pricing"), ("shop", "tier", "gold")],
        route: Some("checkout"),
        host: b"api.shop.example".to_vec(),
        path: b"/api/orders/7?x=1".to_vec(),
        method: "POST",
        reads: Vec::new(),
    }
}

/// The alternatives of one JSON list, as a configuration reads them.
fn alternatives(json: &str) -> Vec<Match> {
    let document = format!(r#"{{"policies": [{{"name": "p", "match": {json}}}]}}"#);
    crate::config::Document::parse(document.as_bytes()).unwrap().policies.swap_remove(0).matches
}

/// Which of the alternatives a request belongs to.
fn find(json: &str, request: &mut Fake) -> Option<usize> {
    let alternatives = alternatives(json);
    Matcher::new(alternatives.iter().enumerate()).find(&mut Request::new(request))
}

fn matches(json: &str, change: impl FnOnce(&mut Fake)) -> bool {
    let mut request = request();
    change(&mut request);
    find(&format!("[{json}]"), &mut request).is_some()
}

/// Every kind of pattern in the order in which they win, the strongest first.
const BY_RANK: [&str; 36] = [
    r#"{"metadata": {"namespace": "shop", "key": "policy", "value": "pricing"}, "route": "checkout", "path": {"prefix": "/api"}}"#,
    r#"{"metadata": {"namespace": "shop", "key": "policy", "value": "pricing"}, "route": "checkout"}"#,
    r#"{"metadata": {"namespace": "shop", "key": "policy", "value": "pricing"}, "path": {"exact": "/api/orders/7"}}"#,
    r#"{"metadata": {"namespace": "shop", "key": "policy", "value": "pricing"}, "host": "api.shop.example", "methods": ["POST"]}"#,
    r#"{"metadata": {"namespace": "shop", "key": "policy", "value": "pricing"}, "host": "api.shop.example"}"#,
    r#"{"metadata": {"namespace": "shop", "key": "policy", "value": "pricing"}, "host": "*.shop.example", "methods": ["POST"]}"#,
    r#"{"metadata": {"namespace": "shop", "key": "policy", "value": "pricing"}, "host": "*.shop.example"}"#,
    r#"{"metadata": {"namespace": "shop", "key": "policy", "value": "pricing"}, "methods": ["POST"]}"#,
    r#"{"metadata": {"namespace": "shop", "key": "policy", "value": "pricing"}}"#,
    r#"{"route": "checkout", "path": {"exact": "/api/orders/7"}, "host": "*.shop.example"}"#,
    r#"{"route": "checkout", "path": {"exact": "/api/orders/7"}}"#,
    r#"{"route": "checkout", "path": {"prefix": "/api/orders"}}"#,
    r#"{"route": "checkout", "path": {"prefix": "/api"}, "host": "api.shop.example"}"#,
    r#"{"route": "checkout", "host": "api.shop.example", "methods": ["POST"]}"#,
    r#"{"route": "checkout", "host": "api.shop.example"}"#,
    r#"{"route": "checkout", "host": "*.shop.example", "methods": ["POST"]}"#,
    r#"{"route": "checkout", "host": "*.shop.example"}"#,
    r#"{"route": "checkout", "methods": ["POST"]}"#,
    r#"{"route": "checkout"}"#,
    r#"{"path": {"exact": "/api/orders/7"}, "host": "api.shop.example", "methods": ["POST"]}"#,
    r#"{"path": {"exact": "/api/orders/7"}, "host": "*.shop.example"}"#,
    r#"{"path": {"exact": "/api/orders/7"}, "methods": ["POST"]}"#,
    r#"{"path": {"exact": "/api/orders/7"}}"#,
    r#"{"path": {"prefix": "/api/orders"}, "host": "api.shop.example"}"#,
    r#"{"path": {"prefix": "/api/orders"}, "host": "*.shop.example"}"#,
    r#"{"path": {"prefix": "/api/orders"}, "methods": ["POST"]}"#,
    r#"{"path": {"prefix": "/api/orders"}}"#,
    r#"{"path": {"prefix": "/api"}, "host": "api.shop.example", "methods": ["POST"]}"#,
    r#"{"path": {"prefix": "/api"}}"#,
    r#"{"path": {"prefix": "/"}, "host": "api.shop.example", "methods": ["POST"]}"#,
    r#"{"host": "api.shop.example", "methods": ["POST"]}"#,
    r#"{"host": "api.shop.example"}"#,
    r#"{"host": "*.shop.example", "methods": ["POST"]}"#,
    r#"{"host": "*.shop.example"}"#,
    r#"{"methods": ["POST"]}"#,
    r#"{"any": true}"#,
];

#[test]
fn each_kind_wins_over_every_weaker_one_in_either_order() {
    for (rank, stronger) in BY_RANK.iter().enumerate() {
        assert_eq!(find(&format!("[{stronger}]"), &mut request()), Some(0), "{stronger} matches");
        for weaker in &BY_RANK[rank + 1..] {
            assert_eq!(
                find(&format!("[{stronger}, {weaker}]"), &mut request()),
                Some(0),
                "{stronger} {weaker}"
            );
            assert_eq!(
                find(&format!("[{weaker}, {stronger}]"), &mut request()),
                Some(1),
                "{weaker} {stronger}"
            );
        }
    }
}

#[test]
fn among_equals_the_first_of_the_document_wins() {
    for pattern in BY_RANK {
        assert_eq!(find(&format!("[{pattern}, {pattern}, {pattern}]"), &mut request()), Some(0), "{pattern}");
    }
    // Equal in rank without being the same.
    for (first, second) in [
        (r#"{"host": "*.shop.example"}"#, r#"{"host": "*.example"}"#),
        (r#"{"methods": ["POST", "PUT"]}"#, r#"{"methods": ["POST"]}"#),
    ] {
        assert_eq!(find(&format!("[{first}, {second}]"), &mut request()), Some(0));
        assert_eq!(find(&format!("[{second}, {first}]"), &mut request()), Some(0));
    }
}

#[test]
fn patterns_of_different_metadata_are_equals_until_host_and_methods_tell() {
    let pattern = |key: &str, value: &str, more: &str| {
        format!(r#"{{"metadata": {{"namespace": "shop", "key": "{key}", "value": "{value}"}}{more}}}"#)
    };
    let ranks = [
        r#", "host": "api.shop.example", "methods": ["POST"]"#,
        r#", "host": "api.shop.example""#,
        r#", "host": "*.shop.example", "methods": ["POST"]"#,
        r#", "host": "*.shop.example""#,
        r#", "methods": ["POST"]"#,
        "",
    ];
    for (rank, stronger) in ranks.iter().enumerate() {
        let (policy, tier) = (pattern("policy", "pricing", stronger), pattern("tier", "gold", stronger));
        assert_eq!(find(&format!("[{policy}, {tier}]"), &mut request()), Some(0));
        assert_eq!(find(&format!("[{tier}, {policy}]"), &mut request()), Some(0));
        for weaker in &ranks[rank + 1..] {
            let (weak_policy, weak_tier) =
                (pattern("policy", "pricing", weaker), pattern("tier", "gold", weaker));
            assert_eq!(
                find(&format!("[{weak_tier}, {policy}]"), &mut request()),
                Some(1),
                "{stronger} {weaker}"
            );
            assert_eq!(
                find(&format!("[{weak_policy}, {tier}]"), &mut request()),
                Some(1),
                "{stronger} {weaker}"
            );
        }
    }
}

#[test]
fn a_stronger_pattern_that_does_not_hold_leaves_the_request_to_weaker_ones() {
    for stronger in [
        r#"{"metadata": {"namespace": "shop", "key": "policy", "value": "pricing"}, "methods": ["GET"]}"#,
        r#"{"metadata": {"namespace": "shop", "key": "policy", "value": "pricing"}, "route": "other"}"#,
        r#"{"metadata": {"namespace": "shop", "key": "policy", "value": "pricing"}, "path": {"exact": "/"}}"#,
        r#"{"metadata": {"namespace": "shop", "key": "policy", "value": "pricing"}, "host": "other"}"#,
        r#"{"route": "checkout", "path": {"prefix": "/ap"}}"#,
        r#"{"route": "checkout", "host": "*.other"}"#,
        r#"{"path": {"exact": "/api/orders/7"}, "methods": ["GET"]}"#,
        r#"{"path": {"prefix": "/api/orders"}, "host": "other"}"#,
        r#"{"host": "api.shop.example", "methods": ["GET"]}"#,
        r#"{"host": "*.shop.example", "methods": ["GET"]}"#,
    ] {
        assert_eq!(find(&format!(r#"[{stronger}, {{"any": true}}]"#), &mut request()), Some(1), "{stronger}");
        assert_eq!(find(&format!("[{stronger}]"), &mut request()), None, "{stronger}");
    }
}

#[test]
fn alternatives_lead_to_their_target() {
    let (first, second) =
        (alternatives(r#"[{"route": "a"}, {"route": "b"}]"#), alternatives(r#"[{"route": "c"}]"#));
    let targets = first.iter().map(|pattern| (10, pattern)).chain(second.iter().map(|pattern| (20, pattern)));
    let matcher = Matcher::new(targets);
    for (route, target) in [("a", Some(10)), ("b", Some(10)), ("c", Some(20)), ("d", None)] {
        let mut facts = Fake { route: Some(route), ..Fake::default() };
        assert_eq!(matcher.find(&mut Request::new(&mut facts)), target);
    }
}

#[test]
fn metadata_needs_namespace_key_and_value() {
    let pattern = r#"{"metadata": {"namespace": "shop", "key": "policy", "value": "pricing"}}"#;
    assert!(matches(pattern, |_| {}));
    for metadata in [
        None,
        Some(("shop", "policy", "pricing2")),
        Some(("shop", "policy", "")),
        Some(("shop", "other", "pricing")),
        Some(("other", "policy", "pricing")),
    ] {
        assert!(
            !matches(pattern, |request| request.metadata = metadata.into_iter().collect()),
            "{metadata:?}"
        );
    }
}

#[test]
fn a_host_matches_in_any_case_and_without_its_port() {
    for (pattern, host, expected) in [
        ("shop.example", "shop.example", true),
        ("Shop.Example", "SHOP.eXAMPLE", true),
        ("shop.example", "shop.example:8443", true),
        ("shop.example", "shop.example:", true),
        ("shop.example", "shop.example.", false),
        ("shop.example", "www.shop.example", false),
        ("shop.example", "shop.example:80:80", false),
        ("shop.example", "", false),
        ("*.example.com", "a.example.com", true),
        ("*.Example.com", "A.b.EXAMPLE.com:443", true),
        ("*.example.com", "example.com", false),
        ("*.example.com", ".example.com", false),
        ("*.example.com", "badexample.com", false),
        ("*.example.com", "a.example.com.evil", false),
        ("[2001:DB8::1]", "[2001:db8::1]", true),
        ("[2001:db8::1]", "[2001:DB8::1]:8080", true),
        ("[2001:db8::1]", "[2001:db8::2]", false),
        ("127.0.0.1", "127.0.0.1:10000", true),
    ] {
        let found = matches(&format!(r#"{{"host": "{pattern}"}}"#), |request| request.host = host.into());
        assert_eq!(found, expected, "{pattern} {host}");
    }
}

#[test]
fn a_path_matches_exactly_or_on_segment_boundaries() {
    for (pattern, path, expected) in [
        (r#"{"exact": "/a"}"#, "/a", true),
        (r#"{"exact": "/a"}"#, "/a?b=/c", true),
        (r#"{"exact": "/a"}"#, "/a#b", true),
        (r#"{"exact": "/a"}"#, "/a?", true),
        (r#"{"exact": "/a"}"#, "/a/", false),
        (r#"{"exact": "/a"}"#, "/A", false),
        (r#"{"exact": "/a"}"#, "/", false),
        (r#"{"exact": "/a"}"#, "?/a", false),
        (r#"{"prefix": "/api"}"#, "/api", true),
        (r#"{"prefix": "/api"}"#, "/api/", true),
        (r#"{"prefix": "/api"}"#, "/api/x", true),
        (r#"{"prefix": "/api"}"#, "/api?x", true),
        (r#"{"prefix": "/api"}"#, "/api?/x", true),
        (r#"{"prefix": "/api"}"#, "/apis", false),
        (r#"{"prefix": "/api"}"#, "/api.json", false),
        (r#"{"prefix": "/api"}"#, "/ap", false),
        (r#"{"prefix": "/api"}"#, "/x?/api/", false),
        (r#"{"prefix": "/api/"}"#, "/api/", true),
        (r#"{"prefix": "/api/"}"#, "/api/x", true),
        (r#"{"prefix": "/api/"}"#, "/api", false),
        (r#"{"prefix": "/"}"#, "/anything", true),
        (r#"{"prefix": "/"}"#, "/", true),
        (r#"{"prefix": "/"}"#, "*", false),
        (r#"{"prefix": "/"}"#, "", false),
    ] {
        // Alone, where the index decides, and beside a route, where the pattern itself does.
        for beside in ["", r#""route": "checkout", "#] {
            let json = format!(r#"{{{beside}"path": {pattern}}}"#);
            assert_eq!(matches(&json, |request| request.path = path.into()), expected, "{json} {path}");
        }
    }
}

#[test]
fn methods_match_in_their_own_case() {
    for (method, expected) in [("GET", true), ("HEAD", true), ("POST", false), ("get", false), ("", false)] {
        let found = matches(r#"{"methods": ["GET", "HEAD"]}"#, |request| request.method = method);
        assert_eq!(found, expected, "{method}");
    }
}

#[test]
fn without_patterns_nothing_matches_and_nothing_is_read() {
    let mut facts = request();
    assert_eq!(Matcher::default().find(&mut Request::new(&mut facts)), None);
    assert_eq!(facts.reads, Vec::<String>::new());
}

#[test]
fn only_what_some_pattern_asks_for_is_read_and_only_once() {
    for (json, reads) in [
        (r#"[{"any": true}]"#, [].as_slice()),
        (r#"[{"route": "checkout"}, {"any": true}]"#, &["route"]),
        (r#"[{"route": "x"}, {"route": "y"}, {"any": true}]"#, &["route"]),
        (
            r#"[{"path": {"prefix": "/x"}}, {"path": {"exact": "/y"}}, {"path": {"prefix": "/xyz"}}]"#,
            &["path"],
        ),
        (r#"[{"host": "a"}, {"host": "*.b"}, {"host": "*.c.d"}]"#, &["host"]),
        (r#"[{"methods": ["GET"]}, {"methods": ["PUT"]}]"#, &["method"]),
        // What could still tell alternatives apart is read only where the stronger part holds.
        (r#"[{"route": "checkout", "methods": ["GET"]}]"#, &["route", "method"]),
        (r#"[{"route": "other", "methods": ["GET"]}]"#, &["route"]),
        (r#"[{"route": "other", "host": "a", "path": {"exact": "/"}}]"#, &["route"]),
        // Found by what is strongest: the weaker patterns cost nothing.
        (
            r#"[{"route": "checkout"}, {"path": {"prefix": "/"}}, {"host": "a"}, {"methods": ["GET"]}]"#,
            &["route"],
        ),
        (
            r#"[{"metadata": {"namespace": "n", "key": "k", "value": "1"}},
                {"metadata": {"namespace": "n", "key": "k", "value": "2"}}]"#,
            &["metadata n.k"],
        ),
    ] {
        let mut facts = request();
        find(json, &mut facts);
        assert_eq!(facts.reads, reads, "{json}");
    }
}

#[test]
fn two_indexes_share_what_one_of_them_has_read() {
    let (exempt, policies) = (
        alternatives(r#"[{"path": {"prefix": "/health"}, "host": "h"}]"#),
        alternatives(r#"[{"path": {"prefix": "/api"}, "host": "*.shop.example"}]"#),
    );
    let mut facts = request();
    let mut request = Request::new(&mut facts);
    assert_eq!(Matcher::new(exempt.iter().enumerate()).find(&mut request), None);
    assert_eq!(Matcher::new(policies.iter().enumerate()).find(&mut request), Some(0));
    assert_eq!(facts.reads, ["path", "host"]);
}

#[test]
fn hostile_requests_cost_no_more_than_a_look_up() {
    // Many lengths of prefixes and of wildcards, and long lists behind one host that all have to be looked through.
    let patterns: Vec<_> = (1..=300)
        .map(|length| {
            let letters = "a".repeat(length);
            format!(
                r#"{{"path": {{"prefix": "/{letters}"}}}}, {{"host": "*.{letters}"}},
                   {{"host": "*.x", "methods": ["GET"]}}"#
            )
        })
        .collect();
    let alternatives = alternatives(&format!("[{}]", patterns.join(",")));
    let matcher = Matcher::new(alternatives.iter().enumerate());
    let bytes = |letter: u8| vec![letter; 60_000];
    let longs =
        [bytes(b'/'), bytes(b'a'), bytes(0xFF), bytes(b':'), b"]:[".repeat(20_000), b"a.".repeat(30_000)];
    for long in longs {
        let mut facts = Fake { host: long.clone(), path: long, ..request() };
        assert_eq!(matcher.find(&mut Request::new(&mut facts)), None);
        assert_eq!(facts.reads, ["path", "host"], "each once, however many lengths are tried");
    }
    let mut listed = Fake { host: b"h.x".to_vec(), ..request() };
    assert_eq!(matcher.find(&mut Request::new(&mut listed)), None);
    assert_eq!(listed.reads, ["path", "host", "method"]);
}

#[test]
fn what_is_absent_is_no_match_and_no_trap() {
    for pattern in BY_RANK.iter().filter(|pattern| !pattern.contains("any")) {
        assert_eq!(find(&format!("[{pattern}]"), &mut Fake::default()), None, "{pattern}");
    }
    assert_eq!(find(r#"[{"any": true}]"#, &mut Fake::default()), Some(0));
}

#[test]
fn a_request_that_goes_by_another_route_is_looked_up_again() {
    let matcher = |json: &str| {
        let alternatives = alternatives(json);
        Matcher::new(alternatives.iter().enumerate())
    };
    let find = |matcher: &Matcher, facts: &mut Fake| {
        let mut request = Request::new(facts);
        (matcher.find(&mut request), request.seen())
    };
    // What can still be read once the answer is there: the route, and nothing of the request's headers.
    let late = |route| Fake { route: Some(route), metadata: request().metadata, ..Fake::default() };

    let by_route = matcher(r#"[{"route": "checkout"}, {"route": "other"}]"#);
    let (found, seen) = find(&by_route, &mut request());
    assert_eq!(found, Some(0));
    for (route, leads_there) in [("checkout", true), ("other", false), ("third", false)] {
        assert_eq!(by_route.still_finds(0, &seen, &mut late(route)), leads_there, "{route}");
    }

    // By its path it belongs to the same policy, whatever its route is called, unless that has one of its own.
    let by_path = matcher(r#"[{"route": "third"}, {"path": {"prefix": "/api"}, "methods": ["POST"]}]"#);
    let (found, seen) = find(&by_path, &mut request());
    assert_eq!(found, Some(1));
    for (route, leads_there) in [("checkout", true), ("other", true), ("third", false)] {
        assert_eq!(by_path.still_finds(1, &seen, &mut late(route)), leads_there, "{route}");
    }

    let by_metadata =
        matcher(r#"[{"metadata": {"namespace": "shop", "key": "policy", "value": "pricing"}}]"#);
    let (found, seen) = find(&by_metadata, &mut request());
    assert_eq!(found, Some(0));
    assert!(by_metadata.still_finds(0, &seen, &mut late("other")), "the route's name was not asked for");
    assert!(by_metadata.still_finds(0, &seen, &mut Fake::default()), "what cannot be read says nothing");
    let other = vec![("shop", "policy", "search")];
    assert!(!by_metadata.still_finds(0, &seen, &mut Fake { metadata: other, ..Fake::default() }));
}
