//! Documents that both accept, and that together have every key. No value of theirs is a default.

use serde_json::{Value, json};
use std::collections::BTreeSet;

fn breaker() -> Value {
    json!({
        "mode": "shadow",
        "consecutive_failures": 5,
        "failures_in_window": {"failures": 5, "window": "10s"},
        "failure_rate_threshold": 50,
        "slow_call_rate_threshold": 80.5,
        "slow_call_duration_threshold": "2s",
        "sliding_window_type": "time",
        "sliding_window_size": 10,
        "minimum_number_of_calls": 20,
        "permitted_number_of_calls_in_half_open_state": 1,
        "wait_duration_in_open_state": "30s",
        "max_wait_duration_in_half_open_state": "15s",
        "wait_duration_growth": {"multiplier": 2, "max": "5m", "jitter": 20, "reset_after": "1h"},
        "ramp_up": {"duration": "1m30s", "initial": 5}
    })
}

fn bulkhead() -> Value {
    json!({
        "mode": "shadow",
        "max_concurrent_calls": 50,
        "max_wait_duration": "250ms",
        "max_queue": 100,
        "priority": {
            "header": "X-Priority",
            "default": "middle",
            "classes": [
                {"name": "high", "max_share": 100}, {"name": "middle", "max_share": 80.5}, {"name": "low", "max_share": 0}
            ]
        }
    })
}

/// As [`bulkhead`], with the class from metadata.
fn by_metadata() -> Value {
    let mut bulkhead = bulkhead();
    let priority = bulkhead["priority"].as_object_mut().expect("an object");
    priority.remove("header");
    priority.insert("metadata".to_owned(), json!({"namespace": "shop", "key": "class"}));
    bulkhead
}

fn timeout() -> Value {
    json!({"mode": "shadow", "total": "10s", "per_try": "2500ms", "deadline_header": "X-Deadline-Ms", "margin": "20ms"})
}

fn retry() -> Value {
    json!({
        "mode": "shadow", "max_retries": 3, "retry_on": ["gateway-error", "unavailable"],
        "idempotency_key": "X-Request-Key", "non_idempotent": "with_key"
    })
}

fn retry_budget() -> Value {
    json!({
        "mode": "shadow", "percent_can_retry": 12.5, "min_retries_per_second": 5, "ttl": "2s500ms", "max_balance": 50
    })
}

/// What timeouts and retries inherit, and what they say where they inherit nothing.
fn retries() -> Vec<Value> {
    let nothing = json!(false);
    let never = json!({"non_idempotent": "never"});
    vec![
        json!({
            "defaults": {"timeout": timeout(), "retry": retry(), "retry_budget": retry_budget()},
            "policies": each_with("retry", &[nothing.clone(), json!(null), json!({"retry_on": ["reset"]}), never.clone()])
        }),
        json!({"defaults": {"timeout": timeout()}, "policies": each_with("timeout", &[
            nothing.clone(), json!(null), json!({"per_try": "1s"}), json!({"total": "5s", "margin": "0s"})
        ])}),
        json!({"defaults": {"retry": never}, "policies": each_with("retry", &[
            nothing.clone(), json!({}), json!({"non_idempotent": "with_key", "idempotency_key": "x-key"})
        ])}),
        // With nothing inherited, and at work.
        json!({"policies": each_with("timeout", &[json!({"total": "5s"}), json!({"mode": "disabled", "per_try": "5s"})])}),
        json!({"policies": each_with("retry", &[
            json!({"mode": "disabled"}), json!({"non_idempotent": "always"}), json!({"max_retries": 10, "retry_on": ["5xx"]})
        ])}),
        json!({"policies": each_with("retry_budget", &[
            json!({"mode": "disabled"}), json!({"percent_can_retry": 0, "min_retries_per_second": 0}), json!(null), nothing
        ])}),
    ]
}

fn outcome() -> Value {
    let headers = json!([{"name": "x-degraded", "value": "true"}, {"name": "X-Empty", "value": ""}]);
    json!({
        "failure": {"status": [429, "5xx"], "grpc_status": ["ABORTED"], "headers": headers},
        "ignore": {"status": [501, "1xx"], "grpc_status": ["OK"], "headers": headers}
    })
}

/// Every way to answer, and every condition. It needs a [`guard`] beside it.
fn fallback() -> Value {
    let when = json!({
        "methods": ["GET", "M-SEARCH"],
        "headers": [{"name": "X-Beta", "value": "yes"}],
        "accept": ["text/html", "Application/vnd.shop+json"]
    });
    json!([
        {"on": ["circuit_open", "bulkhead_full"], "static": {"status": 202, "headers": {"X-Of": "ours"}, "text": "%POLICY%"}},
        {"on": ["refusal", "dependency_open"], "reroute": {"cluster": "mail-2", "policy": "guard"}},
        {"when": when, "reroute": {"cluster": "queue|eu", "policy": "guard"}},
        {"on": ["refusal", "timeout"], "status": [503, "4xx"], "grpc_status": ["INTERNAL"], "static": {"status": 599, "json": {"any": [1, null]}}},
        {"status": [502], "when": {"accept": ["text/html"]}, "static": {"status": 200, "base64": "aGk="}},
        {"grpc_status": ["UNKNOWN", "OK"], "static": {"status": 204}},
        {"on": ["failure"], "fail": {"status": 503, "retry_after": "1500ms"}},
        {"when": {"methods": ["POST"]}, "fail": {"status": 400}}
    ])
}

/// A policy that guards where the fallback leads, and that others need.
fn guard() -> Value {
    json!({
        "name": "guard", "match": [{"any": true}], "circuit_breaker": {"consecutive_failures": 1}, "fallback": null
    })
}

/// One policy with all keys, all ways to match, and all at the top.
pub fn full() -> Value {
    json!({
        "namespace": "shop",
        "exempt": [{"path": {"prefix": "/health"}}, {"any": true}, matching("GET")],
        "trust_caller_headers": true,
        "expose": false,
        "control": true,
        "state": true,
        "annotate": true,
        "max_metrics": 1000,
        "policies": [{
            "name": "checkout",
            "match": [matching("POST"), {"host": "[::1]"}, {"host": "*.example.com"}, {"path": {"prefix": "/a"}}, {"any": true}],
            "mode": "shadow",
            "key": "upstream_cluster",
            "max_keys": 8,
            "outcome": outcome(),
            "circuit_breaker": breaker(),
            "bulkhead": bulkhead(),
            "class": "high",
            "timeout": timeout(),
            "retry": retry(),
            "retry_budget": retry_budget(),
            "fallback": fallback(),
            "when_open": ["guard"],
            "discourage_retries": false,
            "critical": false
        }, guard()]
    })
}

fn matching(method: &str) -> Value {
    json!({
        "metadata": {"namespace": "shop", "key": "policy", "value": "checkout"},
        "route": "checkout",
        "host": "shop.example",
        "path": {"exact": "/checkout"},
        "methods": [method, "M-SEARCH"]
    })
}

/// What bulkheads inherit, and what they say where they inherit nothing.
fn bulkheads() -> Vec<Value> {
    let nothing = json!(false);
    let limit = json!({"max_concurrent_calls": 5});
    let classes = json!({"default": "top", "classes": [{"name": "top", "max_share": 10}]});
    vec![
        json!({"policies": with_bulkheads(&[limit.clone(), by_metadata(), json!(null), nothing.clone()])}),
        json!({"policies": with_bulkheads(&[
            json!({"max_concurrent_calls": 5, "max_wait_duration": "5s", "max_queue": 0}),
            json!({"max_concurrent_calls": 5, "mode": "shadow", "priority": classes}),
        ])}),
        json!({"defaults": {"bulkhead": bulkhead()}, "policies": with_bulkheads(&[
            nothing.clone(), json!(null), json!({}), limit.clone(), json!({"max_wait_duration": "0s"}),
            json!({"priority": {"metadata": {"namespace": "n", "key": "k"}}}), json!({"priority": classes})
        ])}),
        json!({"defaults": {"bulkhead": by_metadata()}, "policies": with_bulkheads(&[
            nothing, json!({"priority": {"header": "x"}}), json!({"priority": {"metadata": {"key": "other"}}})
        ])}),
        // Without a limit or a wait to inherit.
        json!({"defaults": {"bulkhead": {"max_queue": 9}}, "policies": with_bulkheads(&[
            json!(null), json!({"max_concurrent_calls": 5, "max_wait_duration": "1s"}),
            json!({"max_concurrent_calls": 5, "max_wait_duration": "0s"})
        ])}),
        json!({"defaults": {"bulkhead": {"max_wait_duration": "1s"}}, "policies": with_bulkheads(&[
            json!(null), limit.clone(), json!({"max_concurrent_calls": 5, "max_queue": 6})
        ])}),
        // A wait alone, said and inherited.
        json!({"policies": with_bulkheads(&[json!({"max_concurrent_calls": 5, "max_wait_duration": "5s"})])}),
        json!({"defaults": {"bulkhead": {"max_wait_duration": "1s"}}, "policies": with_bulkheads(std::slice::from_ref(&limit))}),
        json!({"defaults": {"bulkhead": {"max_wait_duration": "0s", "max_concurrent_calls": 7}}, "policies": with_bulkheads(&[limit])}),
    ]
}

/// A policy for each value of a section; for `false` one without it.
fn each_with(section: &str, values: &[Value]) -> Value {
    let policy = |(index, value): (usize, &Value)| {
        let mut policy = json!({"name": format!("p{index}"), "match": [{"any": true}]});
        if !value.is_boolean() {
            policy[section] = value.clone();
        }
        policy
    };
    values.iter().enumerate().map(policy).collect()
}

fn policies(breakers: &[Value]) -> Value {
    each_with("circuit_breaker", breakers)
}

fn with_bulkheads(bulkheads: &[Value]) -> Value {
    each_with("bulkhead", bulkheads)
}

fn with_guard(mut policies: Value) -> Value {
    policies.as_array_mut().expect("a list").push(guard());
    policies
}

pub fn valid() -> Vec<Value> {
    let inherits = json!(false);
    let mut documents = vec![
        full(),
        json!({"policies": []}),
        json!({
            "defaults": {"outcome": outcome(), "circuit_breaker": breaker(), "bulkhead": by_metadata(), "fallback": fallback()},
            "policies": with_guard(policies(&[inherits.clone(), json!(null), json!({}), json!({
                "failures_in_window": {"failures": 3}, "ramp_up": {"initial": 50}
            })]))
        }),
        // Without a trigger to inherit.
        json!({
            "defaults": {"circuit_breaker": {"wait_duration_in_open_state": "5s"}},
            "policies": policies(&[json!(null), json!({"consecutive_failures": 2})])
        }),
        json!({"policies": [{
            "name": "p", "match": [{"any": true}], "outcome": null, "circuit_breaker": null, "bulkhead": null,
            "timeout": null, "retry": null, "retry_budget": null, "fallback": null
        }]}),
    ];
    // A policy that is off, around a breaker that is not, and keys without their bound.
    documents.push(json!({"policies": [{
        "name": "p", "match": [{"any": true}], "mode": "disabled", "key": "upstream_cluster", "circuit_breaker": {"consecutive_failures": 1}
    }]}));
    // Each trigger by itself.
    let breaker = breaker();
    for key in
        ["consecutive_failures", "failures_in_window", "failure_rate_threshold", "slow_call_rate_threshold"]
    {
        documents.push(json!({"policies": policies(&[json!({key: breaker[key]})])}));
    }
    documents.extend(bulkheads());
    documents.extend(retries());
    // A breaker that only looks on, with nothing inherited.
    documents.push(json!({"policies": policies(&[json!({"consecutive_failures": 2, "mode": "shadow"})])}));
    documents
}

pub fn example() -> Value {
    serde_json::from_str(&super::read("envoy/policies.json")).expect("the example is JSON")
}

/// The places of all keys in a document, as the schema names them.
pub fn places(document: &Value) -> Vec<String> {
    fn collect(value: &Value, place: &str, places: &mut Vec<String>) {
        match value {
            Value::Object(entries) => {
                for (name, value) in entries {
                    let place = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
                    places.push(place.clone());
                    collect(value, &place, places);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| collect(item, &format!("{place}[]"), places)),
            _ => {}
        }
    }
    let mut places = Vec::new();
    collect(document, "", &mut places);
    places
}

#[test]
fn they_have_every_key_of_the_schema() {
    let schema = super::schema();
    let had: BTreeSet<_> = valid().iter().flat_map(places).collect();
    let missing: Vec<_> = super::keys::all(&schema)
        .into_iter()
        .map(|key| key.place)
        .filter(|place| !had.contains(place))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
