//! What `make validate` says of a bundle in which something works against retries, their budget or deadlines.

use super::validate::{assert_found, found};
use super::{exchanged, rendered};

const RETRIES: &str = "        max_retries: 4096\n";
const TOTAL: &str = "10s, the total of policy checkout:";
const BACK_OFF: &str = "                    retry_back_off: {base_interval: 0.025s, max_interval: 0.25s}\n";
const IDLE: &str = "                    per_try_idle_timeout: 3s\n";
/// The beginning of checkout's policy.
const CHECKOUT: &str = r#""name": "checkout","#;

fn with_retries(limit: &str) -> String {
    exchanged(&rendered(&[]), RETRIES, limit)
}

/// The bundle with one more line in the retry policy of the route of checkout, which is the first.
fn with_line(line: &str) -> String {
    let edge = rendered(&[]);
    let place = edge.find(IDLE).expect("checkout's retry policy");
    let (before, after) = edge.split_at(place);
    format!("{before}                    {line}\n{after}")
}

/// A cluster needs room for as many retries as may be under way at once: a bulkhead's permits, or what the budget gives.
#[test]
fn a_clusters_limit_of_retries_is_compared_with_what_may_be_retried_at_once() {
    let short = |of: &str, limit: &str, need: u32, cluster: &str| {
        format!(
            "cluster {cluster}: max_retries {limit} is smaller than {need}, which policy {of} may have under way"
        )
    };
    let default = "3 (the default)";
    let all = [
        short("checkout", default, 50, "checkout"),
        short("catalogue", default, 30, "catalogue"),
        short("email", default, 100, "email"),
        short("pricing", default, 100, "pricing"),
    ];
    assert_found(&with_retries(""), &all.each_ref().map(String::as_str));
    let below = with_retries("        max_retries: 99\n");
    let two = [short("email", "99", 100, "email"), short("pricing", "99", 100, "pricing")];
    assert_found(&below, &[&two[0], &two[1]]);
    assert_found(&with_retries("        max_retries: 100\n"), &[]);

    let capped = exchanged(&below, r#""ttl": "10s""#, r#""ttl": "10s", "max_balance": 99"#);
    assert_found(&capped, &[]);
    let longer = exchanged(&capped, r#", "max_balance": 99"#, "");
    assert_found(&exchanged(&longer, r#""ttl": "10s""#, r#""ttl": "9s900ms""#), &[]);
    let shared =
        exchanged(&with_retries("        max_retries: 79\n"), "cluster: catalogue\n", "cluster: checkout\n");
    let together =
        "cluster checkout: max_retries 79 is smaller than 80, which policies checkout, catalogue may have";
    assert!(found(&shared).iter().any(|said| said.starts_with(together)), "{:#?}", found(&shared));
}

/// Who has no say in retries is not warned of them, and who has no bound is held to have many.
#[test]
fn only_retries_of_policies_are_compared() {
    let none = with_retries("        max_retries: 3\n");
    let of_checkout =
        |yaml: &str| found(yaml).into_iter().find(|said| said.starts_with("cluster checkout: max_retries"));
    let retry = r#""retry": {"max_retries": 2,"#;
    assert!(of_checkout(&none).is_some());
    // In shadow mode it is the route that retries, and this one does not.
    let shadow = exchanged(&none, retry, r#""retry": {"mode": "shadow", "max_retries": 2,"#);
    assert_eq!(of_checkout(&shadow), None);
    let whole = exchanged(&none, CHECKOUT, &format!(r#"{CHECKOUT} "mode": "disabled","#));
    assert_eq!(of_checkout(&whole), None);
    let unbounded = format!(r#"{CHECKOUT} "retry_budget": null,"#);
    let unbounded = exchanged(&none, CHECKOUT, &unbounded);
    assert!(of_checkout(&unbounded).unwrap().contains("smaller than 50,"));
    let permits = r#""max_concurrent_calls": 50,"#;
    let without_permits = |yaml: &str| exchanged(yaml, permits, &format!(r#""mode": "shadow", {permits}"#));
    assert!(of_checkout(&without_permits(&unbounded)).unwrap().contains("smaller than 4,"));
    // Retries have the default budget where nothing is written of one.
    let defaults = r#""retry_budget": {"percent_can_retry": 20, "min_retries_per_second": 10, "ttl": "10s"}"#;
    let unsaid = exchanged(&without_permits(&none), defaults, r#""retry_budget": null"#);
    assert!(of_checkout(&unsaid).unwrap().contains("smaller than 100,"));
    // Without a budget a route retries as it likes.
    let catalogue = r#""name": "catalogue","#;
    let uncapped = exchanged(&none, catalogue, &format!(r#"{catalogue} "retry_budget": null,"#));
    assert!(
        !found(&uncapped).iter().any(|said| said.starts_with("cluster catalogue")),
        "{:#?}",
        found(&uncapped)
    );
}

#[test]
fn a_budget_of_the_clusters_own_is_warned_of() {
    let budget = "        retry_budget: {min_retry_concurrency: 3}\n";
    let said = found(&with_retries(budget));
    let expected = ["checkout", "catalogue", "email", "pricing"];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, name) in said.iter().zip(expected) {
        let beginning = format!("cluster {name}: retry_budget also limits the retries of policy {name}:");
        assert!(said.starts_with(&beginning), "{said}");
    }
}

/// A word of the route's adds to those of a policy that is in charge, unless one of these says as much.
#[test]
fn routes_of_a_policy_in_charge_retry_on_nothing_else() {
    for words in ["5xx,reset", "gateway-error, connect-failure", "refused-stream,reset-before-request"] {
        assert_found(&with_line(&format!("retry_on: {words}")), &[]);
    }
    let wider = with_line("retry_on: 5xx,retriable-4xx,unavailable");
    assert_found(
        &wider,
        &["route checkout: retry_on also has retriable-4xx, unavailable, which policy checkout does not"],
    );
    let narrow = r#""retry_on": ["5xx", "reset", "connect-failure"]"#;
    let implied = exchanged(&with_line("retry_on: connect-failure"), narrow, r#""retry_on": ["reset"]"#);
    assert_found(&implied, &[]);
    let narrower = exchanged(&with_line("retry_on: 5xx"), narrow, r#""retry_on": ["reset"]"#);
    assert_found(
        &narrower,
        &["route checkout: retry_on also has 5xx, which policy checkout does not retry:"],
    );
    let unsaid = |line: &str| exchanged(&with_line(line), &format!("{narrow}, "), "");
    assert_found(
        &unsaid("retry_on: retriable-4xx"),
        &["route checkout: retry_on also has retriable-4xx, which"],
    );
    assert_found(&unsaid("retry_on: 5xx"), &[]);
    // A virtual host's holds for the routes that have none, and for no others.
    let host = "              routes:\n";
    let of_host = |yaml: &str| {
        yaml.replacen(host, &format!("              retry_policy: {{retry_on: retriable-4xx}}\n{host}"), 1)
    };
    assert_found(&of_host(&rendered(&[])), &[]);
    let bare = exchanged(&rendered(&[]), &format!("                  retry_policy:\n{IDLE}{BACK_OFF}"), "");
    assert_found(&bare, &[]);
    assert_found(
        &of_host(&bare),
        &["route checkout: retry_on also has retriable-4xx, which policy checkout does not retry:"],
    );
}

#[test]
fn routes_neither_take_retries_from_a_policy_nor_give_any() {
    let headers = "retriable_request_headers: [{name: idempotency-key, present_match: true}]";
    assert_found(
        &with_line(headers),
        &["route checkout: retriable_request_headers keeps requests from the retries"],
    );
    let off = exchanged(&rendered(&[]), "num_retries: 3", "num_retries: 0");
    assert_found(&off, &["route {'path_separated_prefix': '/pricing'}: num_retries 0 does not"]);
    assert_found(&with_line("num_retries: 0"), &[]);
    let often = exchanged(&rendered(&[]), "num_retries: 3", "num_retries: 4");
    assert_found(&often, &["route {'path_separated_prefix': '/pricing'}: num_retries 4 is more than the 3"]);
}

/// Retries are fitted into the time with Envoy's default back-off.
#[test]
fn a_longer_back_off_than_retries_are_fitted_with_is_warned_of() {
    let warned = "route checkout: retry_back_off waits longer";
    let first = |interval: &str| {
        rendered(&[]).replacen(BACK_OFF, &format!("                    retry_back_off: {interval}\n"), 1)
    };
    for interval in [
        "{base_interval: 0.1s, max_interval: 0.25s}",
        "{base_interval: 0.025s, max_interval: 0.3s}",
        "{base_interval: 0.03s}",
    ] {
        assert_found(&first(interval), &[warned]);
    }
    for interval in ["{base_interval: 0.01s}", "{base_interval: 0.025s}"] {
        assert_found(&first(interval), &[]);
    }
    // Envoy's own longest is ten times the first.
    assert!(found(&first("{base_interval: 0.03s}"))[0].contains("(0.03s, at most 0.3s)"));
    let unfitted = exchanged(&first("{base_interval: 0.1s}"), r#", "per_try": "3s""#, "");
    assert_found(&unfitted, &[]);
}

/// Whatever runs beside the filter's clock has to be longer than it.
#[test]
fn timeouts_are_compared_with_the_longest_total() {
    let edge = rendered(&[]);
    let route = exchanged(&edge, "idle_timeout: 15s", "idle_timeout: 10s");
    assert_found(&route, &[&format!("route checkout: idle_timeout 10s is not longer than {TOTAL}")]);
    let listener = exchanged(&edge, "max_stream_duration: 120s", "max_stream_duration: 5s");
    assert_found(&listener, &[&format!("listener edge: max_stream_duration 5s is not longer than {TOTAL}")]);
    let upload = exchanged(
        &edge,
        "          request_timeout: 30s\n          stream_idle",
        "          request_timeout: 10s\n          stream_idle",
    );
    assert_found(&upload, &[&format!("listener edge: request_timeout 10s is not longer than {TOTAL}")]);
    let section = r#""timeout": {"total": "10s","#;
    let off = exchanged(&route, section, r#""timeout": {"mode": "disabled", "total": "10s","#);
    assert_found(&off, &[]);
    let inherited = exchanged(&edge, r#""defaults": {"#, r#""defaults": {"timeout": {"total": "10s"}, "#);
    let said = found(&inherited);
    let catalogue =
        "route catalogue: idle_timeout 10s is not longer than 10s, the total of policy catalogue:";
    assert!(said.iter().any(|said| said.starts_with(catalogue)), "{said:#?}");
}

#[test]
fn a_filter_that_cannot_hold_a_request_is_warned_of() {
    let policy = "                failure_policy: FAIL_RELOAD\n";
    let line = |value: &str| format!("{policy}                allow_on_headers_stop_iteration: {value}\n");
    let yaml = |value: &str| rendered(&[]).replacen(policy, &line(value), 1);
    assert_found(&yaml("true"), &["listener edge: allow_on_headers_stop_iteration is true:"]);
    assert_found(&yaml("false"), &[]);
}
