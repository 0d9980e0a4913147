//! Large documents, which somebody will write.

use super::Document;
use super::tests::errors;
use crate::matcher::Matcher;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn ten_thousand_policies_are_read_and_indexed() {
    let policies: Vec<_> = (0..10_000)
        .map(|n| {
            format!(
                r#"{{"name": "p{n}", "match": [{{"route": "r{n}"}}, {{"path": {{"prefix": "/p{n}"}}, "host": "h{n}"}}],
                    "outcome": {{"failure": {{"status": [429, "5xx"]}}}},
                    "circuit_breaker": {{"failures_in_window": {{"failures": 5, "window": "10s"}}}},
                    "fallback": [{{"static": {{"status": 200, "json": {{"n": {n}}}}}}}]}}"#
            )
        })
        .collect();
    let document = format!(
        r#"{{"defaults": {{"circuit_breaker": {{"wait_duration_in_open_state": "5s"}}}}, "policies": [{}]}}"#,
        policies.join(",")
    );
    let parsed = Document::parse(document.as_bytes()).unwrap();
    let all = parsed.policies.iter().enumerate();
    let _ = Matcher::new(
        all.flat_map(|(target, policy)| policy.matches.iter().map(move |found| (target, found))),
    );
    assert_eq!(parsed.policies.len(), 10_000);
}

/// Ten thousand policies with a breaker each, of which every one names sixteen others, by what `named` makes of their places.
fn web(named: impl Fn(usize) -> String) -> String {
    let policies: Vec<_> = (0..10_000)
        .map(|n| {
            let needed: Vec<_> =
                (1..=16).map(|step| format!("\"{}\"", named((n + step * 613) % 10_000))).collect();
            format!(
                r#"{{"name": "p{n}", "match": [{{"route": "r{n}"}}], "when_open": [{}],
                    "circuit_breaker": {{"consecutive_failures": 1}},
                    "fallback": [{{"reroute": {{"cluster": "c", "policy": "{}"}}}}]}}"#,
                needed.join(","),
                named((n + 5_000) % 10_000)
            )
        })
        .collect();
    format!(r#"{{"policies": [{}]}}"#, policies.join(","))
}

#[test]
fn ten_thousand_policies_that_need_each_other_are_looked_up_at_once() {
    let (known, unknown) = (web(|n| format!("p{n}")), web(|n| format!("q{n}")));
    let parsed = Document::parse(known.as_bytes()).unwrap();
    assert_eq!(parsed.policies[9_999].when_open[..2], [612, 1225]);
    let messages = errors(&unknown);
    assert_eq!(messages.len(), 170_000);
    // To find what was meant takes a look at every name: it is done for a few.
    let suggested = messages.iter().filter(|message| message.contains("did you mean")).count();
    assert_eq!(suggested, 16);
}
