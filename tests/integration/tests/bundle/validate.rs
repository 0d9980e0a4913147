//! What `make validate` says of the bundle, and of one that an operator has changed for the worse.

use super::{CONTROL_PORT, STATE_PORT, exchanged, rendered, run};
use resilience_test_harness::*;
use std::path::PathBuf;

const CHECKOUT: &str = "50, the max_concurrent_calls of policy checkout:";
const CATALOGUE: &str = "30, the max_concurrent_calls of policy catalogue:";
const WAIT: &str = "250ms, the max_wait_duration of policy checkout:";

/// How all limits of the bundle's clusters begin.
const LIMITS: &str = "- max_connections: 4096
        max_pending_requests: 4096
        max_requests: 4096
";

fn written(scratch: &Scratch, yaml: &str) -> PathBuf {
    let file = scratch.file("envoy.yaml");
    std::fs::write(&file, yaml).unwrap();
    file
}

/// The warnings, without their beginning.
fn warnings(stderr: &[u8]) -> Vec<String> {
    let said = String::from_utf8_lossy(stderr);
    let warning = |line: &str| line.strip_prefix("validate: warning: ").map(str::to_owned);
    said.lines().map(|line| warning(line).unwrap_or_else(|| panic!("{said}"))).collect()
}

/// What is found in a changed bundle. Whatever it is, it is no failure.
pub(super) fn found(yaml: &str) -> Vec<String> {
    let scratch = Scratch::new();
    let output = run("tools/limits", &[&written(&scratch, yaml)], &[]);
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    warnings(&output.stderr)
}

/// Each warning begins like the one that is expected in its place.
pub(super) fn assert_found(yaml: &str, expected: &[&str]) {
    let found = found(yaml);
    let same = found.len() == expected.len()
        && found.iter().zip(expected).all(|(said, beginning)| said.starts_with(beginning));
    assert!(same, "{found:#?}\nexpected {expected:#?}");
}

fn with_limits(limits: &str) -> String {
    exchanged(&rendered(&[]), LIMITS, limits)
}

#[test]
fn the_bundle_is_good_and_there_is_nothing_to_warn_of() {
    let own = [(CONTROL_PORT, "10099".to_owned()), (STATE_PORT, "10098".to_owned())];
    for ports in [vec![], vec![own[0].clone()], own.to_vec()] {
        let scratch = Scratch::new();
        let output = run("tools/validate", &[&written(&scratch, &rendered(&ports))], &[]);
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).ends_with("envoy.yaml is good\n"), "{output:?}");
        assert_eq!(warnings(&output.stderr), Vec::<String>::new());
    }
}

#[test]
fn a_listener_for_operators_in_the_wrong_place_is_told() {
    for (port, key, harm) in
        [(CONTROL_PORT, "control", "stop what the policies guard"), (STATE_PORT, "state", "read the names")]
    {
        let yaml = rendered(&[(port, "10099".to_owned())]);
        let bound = |address: &str| {
            let here = "socket_address: {address: 127.0.0.1, port_value: 10099}";
            exchanged(&yaml, here, &here.replace("127.0.0.1", address))
        };
        for address in ["0.0.0.0", "10.1.2.3", "\"::\""] {
            let shown = address.trim_matches('"');
            let expected = format!("listener {key}: \"{key}\" on {shown}: whoever reaches it can {harm}");
            assert_found(&bound(address), &[&expected]);
        }
        for address in ["127.0.0.2", "\"::1\""] {
            assert_found(&bound(address), &[]);
        }
        // On the listener with the traffic, behind the filter that guards it.
        let filter = "          - name: resilience\n";
        let (before, after) = yaml.split_once(filter).unwrap();
        let own = yaml.split_once(&format!("  - name: {key}\n")).unwrap().1;
        let own = own
            .split_once(filter)
            .unwrap()
            .1
            .split_once("          - name: envoy.filters.http.router")
            .unwrap()
            .0;
        let expected = format!("listener edge: a filter with \"{key}\" answers every request itself");
        assert_found(&format!("{before}{filter}{own}{filter}{after}"), &[&expected]);
    }
}

#[test]
fn a_bundle_that_is_good_and_unwise_is_warned_of() {
    let scratch = Scratch::new();
    let unwise = exchanged(&rendered(&[]), "max_requests: 4096", "max_requests: 49");
    let output = run("tools/validate", &[&written(&scratch, &unwise)], &[]);
    assert!(output.status.success(), "{output:?}");
    let said = warnings(&output.stderr);
    let [warning] = said.as_slice() else { panic!("{said:?}") };
    assert!(warning.starts_with(&format!("cluster checkout: max_requests 49 is smaller than {CHECKOUT}")));
    assert!(
        warning.contains("set max_requests in the cluster's circuit_breakers (priority DEFAULT) above 50")
    );
}

#[test]
fn a_configuration_that_is_refused_is_not_looked_at() {
    let scratch = Scratch::new();
    let yaml = exchanged(&rendered(&[]), "max_requests: 4096", "max_requests: 49");
    let bad = exchanged(&yaml, "max_wait_duration", "max_wait_duratoin");
    let output = run("tools/validate", &[&written(&scratch, &bad)], &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && !said.contains("validate: warning"), "{said}");
    assert!(said.contains("policies[0].bulkhead.max_wait_duratoin: unknown key"), "{said}");
}

/// Over HTTP/1 a connection is a request, over HTTP/2 it is not; what is not said is 1024.
#[test]
fn limits_are_compared_with_the_bulkheads_that_lead_to_the_cluster() {
    let connections = with_limits("- max_connections: 40\n        max_requests: 50\n");
    assert_found(
        &connections,
        &[&format!("cluster checkout: max_connections 40 is smaller than {CHECKOUT}")],
    );
    assert_found(&exchanged(&connections, "http_protocol_options: {}", "http2_protocol_options: {}"), &[]);

    let pending = with_limits("- max_pending_requests: 29\n");
    let both = [
        format!("cluster checkout: max_pending_requests 29 is smaller than {CHECKOUT}"),
        format!("cluster catalogue: max_pending_requests 29 is smaller than {CATALOGUE}"),
    ];
    assert_found(&pending, &[&both[0], &both[1]]);
    assert_found(
        &exchanged(&pending, "http_protocol_options: {}", "http2_protocol_options: {}"),
        &[&both[0], &both[1]],
    );

    let nothing_said = with_limits("- max_retries: 4096\n      - ");
    let nothing_said =
        nothing_said.replace("\n      -         max_retries: 4096\n", "\n      - priority: HIGH\n");
    assert_found(&nothing_said, &[]);
    let many = exchanged(&nothing_said, r#""max_concurrent_calls": 30"#, r#""max_concurrent_calls": 1025"#);
    let defaults = ["max_connections", "max_pending_requests", "max_requests"]
        .map(|name| format!("cluster catalogue: {name} 1024 (the default) is smaller than 1025, "));
    assert_found(&many, &defaults.each_ref().map(String::as_str));
}

#[test]
fn limits_hold_for_routes_of_their_priority() {
    let high = with_limits("- max_retries: 4096\n      - priority: HIGH\n        max_requests: 5\n");
    assert_found(&high, &[]);
    let route = "                  cluster: checkout\n";
    let yaml = exchanged(&high, route, &format!("{route}                  priority: HIGH\n"));
    assert_found(&yaml, &[&format!("cluster checkout: max_requests 5 is smaller than {CHECKOUT}")]);
}

#[test]
fn policies_that_share_a_cluster_need_room_for_all() {
    let yaml = exchanged(&rendered(&[]), "cluster: catalogue\n", "cluster: checkout\n");
    let narrow = exchanged(&yaml, "max_requests: 4096", "max_requests: 79");
    assert_found(
        &narrow,
        &[
            "cluster checkout: max_requests 79 is smaller than 80, the max_concurrent_calls of policies checkout, catalogue:",
        ],
    );
    assert_found(&exchanged(&yaml, "max_requests: 4096", "max_requests: 80"), &[]);
}

/// However the document says which requests are a policy's, and whatever it inherits.
#[test]
fn policies_are_found_as_the_filter_finds_them() {
    let narrow = exchanged(&rendered(&[]), "max_requests: 4096", "max_requests: 49");
    let warned = format!("cluster checkout: max_requests 49 is smaller than {CHECKOUT}");
    let by_route = r#""match": [{"route": "checkout"}]"#;
    for (found_by, leads) in [
        (r#"{"path": {"prefix": "/checkout/cards"}}"#, true),
        (r#"{"path": {"exact": "/checkout"}, "methods": ["POST"]}"#, true),
        (r#"{"host": "*.example"}"#, true),
        (r#"{"route": "checkout", "path": {"prefix": "/checkout"}}"#, true),
        (r#"{"route": "nowhere"}"#, false),
        (r#"{"path": {"prefix": "/nowhere"}}"#, false),
        (r#"{"metadata": {"namespace": "shopfast", "key": "policy", "value": "checkout"}}"#, false),
    ] {
        let yaml = exchanged(&narrow, by_route, &format!(r#""match": [{found_by}]"#));
        let is_said = found(&yaml).iter().any(|warning| *warning == warned || warning.starts_with(&warned));
        assert_eq!(is_said, leads, "{found_by}");
    }
    let permits = r#""max_concurrent_calls": 50"#;
    for (mode, expected) in [("shadow", vec![warned.as_str()]), ("disabled", vec![])] {
        let with_mode = format!(r#""mode": "{mode}", {permits}"#);
        assert_found(&exchanged(&narrow, permits, &with_mode), &expected);
    }
    let defaults = r#""defaults": {"#;
    let inherited =
        exchanged(&narrow, defaults, &format!(r#"{defaults}"bulkhead": {{"max_concurrent_calls": 60}}, "#));
    let said = found(&inherited);
    let pricing =
        "cluster pricing: max_requests 49 is smaller than 60, the max_concurrent_calls of policy pricing:";
    assert!(said.iter().any(|warning| warning.starts_with(pricing)), "{said:#?}");
    assert!(said.iter().any(|warning| warning.starts_with(&warned)), "{said:#?}");
}

/// A wait must fit into every timeout that runs meanwhile; the bundle's route has an idle timeout of its own.
#[test]
fn timeouts_are_compared_with_the_longest_wait() {
    // Without the total, which is longer than the wait.
    let edge = exchanged(&rendered(&[]), r#""total": "10s", "#, "");
    let request = exchanged(
        &edge,
        "          request_timeout: 30s\n          stream_idle",
        "          request_timeout: 0.25s\n          stream_idle",
    );
    assert_found(&request, &[&format!("listener edge: request_timeout 0.25s is not longer than {WAIT}")]);
    let whole = exchanged(&edge, "max_stream_duration: 120s", "max_stream_duration: 0.1s");
    assert_found(&whole, &[&format!("listener edge: max_stream_duration 0.1s is not longer than {WAIT}")]);
    let own = "idle_timeout: 15s\n                  max_stream_duration: {max_stream_duration: 0.2s}";
    let route = exchanged(&edge, "idle_timeout: 15s", own);
    assert_found(&route, &[&format!("route checkout: max_stream_duration 0.2s is not longer than {WAIT}")]);
    let route = exchanged(&edge, "idle_timeout: 15s", "idle_timeout: 0.2s");
    assert_found(&route, &[&format!("route checkout: idle_timeout 0.2s is not longer than {WAIT}")]);
    let shadowed = exchanged(&edge, "stream_idle_timeout: 30s", "stream_idle_timeout: 0.2s");
    assert_found(&shadowed, &[]);
    let listener = exchanged(&shadowed, "                  idle_timeout: 15s\n", "");
    assert_found(&listener, &[&format!("listener edge: stream_idle_timeout 0.2s is not longer than {WAIT}")]);
    let off = exchanged(&listener, "stream_idle_timeout: 0.2s", "stream_idle_timeout: 0s");
    assert_found(&off, &[]);
    let unsaid = exchanged(&listener, "          stream_idle_timeout: 0.2s\n", "");
    assert_found(&unsaid, &[]);
    let patient = exchanged(&unsaid, r#""max_wait_duration": "250ms""#, r#""max_wait_duration": "5m""#);
    let said = found(&patient);
    assert!(
        said[0].starts_with("listener edge: stream_idle_timeout 300s is not longer than 5m, "),
        "{said:#?}"
    );
}

#[test]
fn yaml_that_is_not_understood_is_said_to_be() {
    for (line, written) in
        [("circuit_breakers:\n", "circuit_breakers: *nothing\n"), ("interval: 5s", "interval: {a: [1")]
    {
        let said = found(&exchanged(&rendered(&[]), line, written));
        assert!(
            said.len() == 1
                && said[0].contains("limits, timeouts and fallbacks were not compared with the policies"),
            "{said:?}"
        );
    }
}
