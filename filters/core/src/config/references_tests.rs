//! Policies that name each other: before and behind, in `defaults`, themselves, and not at all.

use super::tests::errors;
use super::{Document, Policy};
use crate::fallback::Strategy;
use std::sync::Arc;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const BREAKER: &str = r#", "circuit_breaker": {"consecutive_failures": 1}"#;

fn policy(name: &str, keys: &str) -> String {
    format!(r#"{{"name": "{name}", "match": [{{"any": true}}]{keys}}}"#)
}

fn document(policies: &[String], around: &str) -> String {
    format!(r#"{{"policies": [{}]{around}}}"#, policies.join(","))
}

fn parse(policies: &[String], around: &str) -> Vec<Policy> {
    let document = document(policies, around);
    Document::parse(document.as_bytes())
        .unwrap_or_else(|messages| panic!("{document}: {messages:?}"))
        .policies
}

/// The entries of a list that lead to a cluster each, guarded by these policies.
fn reroutes(guards: &[&str]) -> String {
    let entries: Vec<_> = guards
        .iter()
        .map(|guard| format!(r#"{{"reroute": {{"cluster": "c", "policy": "{guard}"}}}}"#))
        .collect();
    format!("[{}]", entries.join(","))
}

fn needs(names: &[&str]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
    format!(r#", "when_open": [{}]"#, names.join(","))
}

/// The guards of a policy's fallback.
fn guards(policy: &Policy) -> Vec<usize> {
    let guard = |strategy: &Strategy| match strategy {
        Strategy::Reroute(to) => Some(to.guard),
        Strategy::Static(_) | Strategy::Fail(_) => None,
    };
    policy.fallback.entries().iter().filter_map(|entry| guard(&entry.strategy)).collect()
}

#[test]
fn a_name_is_found_before_and_behind() {
    let list = format!(r#", "fallback": {}"#, reroutes(&["c", "a"]));
    let policies = parse(
        &[
            policy("a", &format!("{BREAKER}{}", needs(&["c", "b"]))),
            policy("b", &format!("{BREAKER}{list}{}", needs(&["a"]))),
            policy("c", &format!("{BREAKER}{}", needs(&["a", "b"]))),
        ],
        "",
    );
    let needed: Vec<_> = policies.iter().map(|policy| policy.when_open.to_vec()).collect();
    assert_eq!(needed, [vec![2, 1], vec![0], vec![0, 1]]);
    assert_eq!([0, 1, 2].map(|index| guards(&policies[index])), [vec![], vec![2, 0], vec![]]);
}

#[test]
fn what_is_inherited_is_resolved_once_and_stays_shared() {
    let defaults = format!(
        r#", "defaults": {{"fallback": [{{"static": {{"status": 200, "text": "page"}}}}, {}]}}"#,
        reroutes(&["z", "y"]).trim_matches(['[', ']'])
    );
    let own = format!(r#", "fallback": {}"#, reroutes(&["a"]));
    let off = r#", "fallback": null"#;
    let list = [policy("a", ""), policy("b", ""), policy("own", &own), policy("y", off), policy("z", off)];
    // Defaults may stand behind what inherits them.
    let policies = document(&list, "");
    let before =
        format!("{{{}, {}", defaults.trim_start_matches([',', ' ']), policies.trim_start_matches('{'));
    for document in [before, document(&list, &defaults)] {
        let policies = Document::parse(document.as_bytes()).unwrap().policies;
        assert!(Arc::ptr_eq(&policies[0].fallback, &policies[1].fallback));
        let found: Vec<_> = policies.iter().map(guards).collect();
        assert_eq!(found, [vec![4, 3], vec![4, 3], vec![0], vec![], vec![]]);
        assert_eq!(policies[0].fallback.entries().len(), 3);
    }
}

#[test]
fn a_policy_does_not_guard_its_own_fallback() {
    let own = format!(r#", "fallback": {}"#, reroutes(&["q", "p"]));
    assert_eq!(
        errors(&document(&[policy("p", &own), policy("q", "")], "")),
        [
            r#"policies[0].fallback[1].reroute.policy: found "p", expected another policy than the one that it stands in"#
        ]
    );
    let defaults = format!(r#", "defaults": {{"fallback": {}}}"#, reroutes(&["p", "q"]));
    let inherits = |index: usize, entry: usize| {
        format!(
            "policies[{index}]: inherits a fallback that it guards itself (defaults.fallback[{entry}].reroute.policy), expected \"fallback\": null or a list of its own"
        )
    };
    let list = [policy("a", ""), policy("q", ""), policy("b", ""), policy("p", "")];
    assert_eq!(errors(&document(&list, &defaults)), [inherits(1, 1), inherits(3, 0)]);
    let list = [policy("a", ""), policy("q", r#", "fallback": []"#), policy("p", r#", "fallback": null"#)];
    assert_eq!(guards(&parse(&list, &defaults)[0]), [2, 1]);
}

#[test]
fn a_name_in_defaults_is_checked_even_if_nobody_inherits_it() {
    let defaults = format!(r#", "defaults": {{"fallback": {}}}"#, reroutes(&["chekout"]));
    let place = "defaults.fallback[0].reroute.policy";
    let heir = [policy("checkout", r#", "fallback": null"#), policy("a", "")];
    for list in [heir.as_slice(), &heir[..1]] {
        assert_eq!(
            errors(&document(list, &defaults)),
            [format!(r#"{place}: found "chekout"; did you mean the policy "checkout"?"#)]
        );
    }
    assert_eq!(
        errors(&document(&[], &defaults)),
        [format!(r#"{place}: found "chekout", expected the name of another policy of this document"#)]
    );
}

#[test]
fn when_open_names_policies_that_have_one_breaker() {
    let message = |needs: &str, keys: &str| errors(&document(&[policy("p", needs), policy("q", keys)], ""));
    let place = "policies[0].when_open";
    assert_eq!(
        message(&needs(&["q"]), ""),
        [format!(r#"{place}[0]: found "q", expected a policy that has a "circuit_breaker""#)]
    );
    assert_eq!(
        message(&needs(&["q"]), &format!(r#"{BREAKER}, "key": "upstream_cluster""#)),
        [format!(
            r#"{place}[0]: found "q", expected a policy that has one breaker, not one for each cluster ("key": "upstream_cluster")"#
        )]
    );
    assert_eq!(
        message(&needs(&["p"]), ""),
        [format!(r#"{place}[0]: found "p", expected another policy than the one that it stands in"#)]
    );
    assert_eq!(
        message(&needs(&["q", "q"]), BREAKER),
        [format!(r#"{place}[1]: found "q", expected a name that is not yet in the list"#)]
    );
    let list = "expected a list of 1 to 16 names of other policies";
    for (value, shown) in [("[]", "[]"), ("\"q\"", "\"q\""), ("{}", "{}"), ("null", "null")] {
        assert_eq!(
            message(&format!(r#", "when_open": {value}"#), BREAKER),
            [format!("{place}: found {shown}, {list}")]
        );
    }
    assert_eq!(
        message(r#", "when_open": ["q", 5]"#, BREAKER),
        [format!("{place}[1]: found 5, expected the name of a policy")]
    );
    // A breaker that is inherited is one, whatever its mode.
    let defaults = r#", "defaults": {"circuit_breaker": {"consecutive_failures": 1, "mode": "disabled"}}"#;
    let found = parse(&[policy("p", &needs(&["q"])), policy("q", "")], defaults);
    assert_eq!(*found[0].when_open, [1]);
    // One that is switched off is none.
    let list = [policy("p", &needs(&["q"])), policy("q", r#", "circuit_breaker": null"#)];
    assert_eq!(errors(&document(&list, defaults)).len(), 1);
}

#[test]
fn when_open_has_an_end() {
    let names: Vec<_> = (0..17).map(|n| format!("n{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let all = |count: usize| {
        let mut list: Vec<_> = names[..count].iter().map(|name| policy(name, BREAKER)).collect();
        list.push(policy("p", &needs(&names[..count])));
        document(&list, "")
    };
    assert!(Document::parse(all(16).as_bytes()).is_ok());
    let messages = errors(&all(17));
    assert!(
        messages.len() == 1 && messages[0].starts_with("policies[17].when_open: found ["),
        "{messages:?}"
    );
}

#[test]
fn errors_of_references_stand_among_the_others_in_the_order_of_the_document() {
    let document = format!(
        r#"{{"expose": 1, "policies": [
            {{"when_open": ["nobody", "b"], "name": "a", "mode": "on", "match": [{{"any": true}}],
              "fallback": {}}},
            {{"name": "b", "match": [{{"any": true}}], "fallback": {}, "discourage_retries": 0}}],
          "defaults": {{"fallback": {}}}, "namespace": 2}}"#,
        reroutes(&["nobody", "a"]),
        reroutes(&["b", "a", "nobody"]),
        reroutes(&["nobody"]),
    );
    let places: Vec<_> =
        errors(&document).into_iter().map(|message| message.split(": ").next().unwrap().to_owned()).collect();
    let expected = [
        "expose",
        "policies[0].when_open[0]",
        "policies[0].mode",
        "policies[0].fallback[0].reroute.policy",
        "policies[0].fallback[1].reroute.policy",
        "policies[1].fallback[0].reroute.policy",
        "policies[1].fallback[2].reroute.policy",
        "policies[1].discourage_retries",
        "defaults.fallback[0].reroute.policy",
        "namespace",
    ];
    assert_eq!(places, expected);
}

#[test]
fn a_policy_with_mistakes_of_its_own_is_not_said_to_lack_a_breaker() {
    let broken = policy("q", r#", "circuit_breaker": {"consecutive_failures": 0}"#);
    assert_eq!(
        errors(&document(&[policy("p", &needs(&["q"])), broken], "")),
        [
            "policies[1].circuit_breaker.consecutive_failures: found 0, expected a whole number from 1 to 1000000"
        ]
    );
}

#[test]
fn the_first_of_two_with_one_name_is_meant() {
    let list = [policy("p", &needs(&["q"])), policy("q", BREAKER), policy("q", "")];
    assert_eq!(
        errors(&document(&list, "")),
        [r#"policies[2].name: found "q", expected a name that is not yet taken by policies[1].name"#]
    );
}

#[test]
fn a_name_that_is_near_is_suggested_but_never_ones_own() {
    let found = |needed: &str| {
        errors(&document(&[policy("checkout2", &needs(&[needed])), policy("checkout", BREAKER)], ""))
    };
    let place = "policies[0].when_open[0]";
    assert_eq!(
        found("checkouts"),
        [format!(r#"{place}: found "checkouts"; did you mean the policy "checkout"?"#)]
    );
    assert_eq!(
        found("Checkout"),
        [format!(r#"{place}: found "Checkout"; did you mean the policy "checkout"?"#)]
    );
    let none = |name: &str| {
        [format!(r#"{place}: found {name}, expected the name of another policy of this document"#)]
    };
    assert_eq!(found("x"), none(r#""x""#));
    assert_eq!(found(""), none(r#""""#));
    assert_eq!(
        found("checkout3")[0],
        format!(r#"{place}: found "checkout3"; did you mean the policy "checkout"?"#)
    );
    // Both are as near, and ones own would be the first of them.
    let list = [policy("checkoua", &needs(&["checkouc"])), policy("checkoub", BREAKER)];
    assert_eq!(
        errors(&document(&list, "")),
        [format!(r#"{place}: found "checkouc"; did you mean the policy "checkoub"?"#)]
    );
    let long = "n".repeat(100_000);
    assert_eq!(found(&long), none(&format!("\"{}...", "n".repeat(79))));
}
