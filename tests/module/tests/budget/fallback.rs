//! What fallbacks cost: nothing where nothing fails; and, to the call, what is done where something does.

use crate::bulkhead::{ADMISSION, BULKHEAD, COMPLETION, halves, warmed};
use crate::{Counts, HEALTHY, cost, show};
use resilience_module_tests::shop::{
    End, SERVICE_TIME, Shop, VIA_UPSTREAM, answer, arrive, describe, enter, policy_and, run,
};
use resilience_module_tests::{Action, Call, Map, headers};

/// Entries that answer whatever fails, and look at nothing of a request for it.
const STATIC: &str = r#"{"static": {"status": 200, "headers": {"x-a": "1"}, "text": "ours"}}"#;
const FAIL: &str = r#"{"fail": {"status": 502}}"#;
const BY_STATUS: &str = r#"{"status": [503], "static": {"status": 200}}, {"grpc_status": ["UNKNOWN"], "static": {"status": 200}}"#;
const REFUSALS: &str = r#"{"on": ["refusal"], "when": {"accept": ["text/html"]}, "static": {"status": 200, "text": "%REQUEST_ID%"}}"#;
/// One that looks.
const BY_CALLER: &str = r#"{"when": {"methods": ["GET"]}, "static": {"status": 200}}"#;

pub(super) fn fallback(entries: &str) -> String {
    format!(r#""fallback": [{entries}]"#)
}

/// A request with a body, of this content type if any, up to its upstream; what that cost.
fn upload(shop: &Shop, content_type: Option<&str>) -> Vec<Call> {
    let stream = arrive(shop.vm());
    let mut request = stream.headers(Map::RequestHeaders);
    request.extend(content_type.into_iter().flat_map(|value| headers(&[("content-type", value)])));
    stream.set_request_headers(request);
    assert_eq!(stream.request_headers(false).unwrap(), Action::Continue);
    assert_eq!(stream.request_body(true).unwrap(), Action::Continue);
    let calls = stream.calls();
    answer(&stream, End::Status(200)).unwrap();
    stream.finish().unwrap();
    calls
}

#[test]
fn a_healthy_request_without_a_body_pays_nothing_for_a_fallback() {
    for entries in [STATIC, FAIL, BY_STATUS, REFUSALS] {
        let shop = warmed(&policy_and(&fallback(entries)));
        let counts = cost(&format!("healthy, with {entries}"), &arrive(shop.vm()), End::Status(200));
        assert_eq!(counts, HEALTHY, "{entries}");
        let shop = warmed(&policy_and(&format!("{BULKHEAD}, {}", fallback(entries))));
        assert_eq!(halves(&shop, entries), (ADMISSION, COMPLETION), "{entries}");
    }
}

#[test]
fn one_with_a_body_has_its_content_type_looked_at_where_a_failure_may_be_replaced() {
    let budget = r#""retry_budget": {}"#;
    let capped = Counts { reads_with_bytes: ADMISSION.reads_with_bytes + 1, ..ADMISSION };
    for (sections, base, looks) in [
        (fallback(STATIC), ADMISSION, 1),
        (fallback(FAIL), ADMISSION, 1),
        (fallback(BY_STATUS), ADMISSION, 1),
        // It is looked at when it is refused.
        (fallback(REFUSALS), ADMISSION, 0),
        // It is among the headers that are read anyway.
        (format!("{}, {budget}", fallback(STATIC)), capped, 0),
    ] {
        let shop = warmed(&policy_and(&format!("{BULKHEAD}, {sections}")));
        let without = show("a body without a type", &upload(&shop, None));
        let reads_of_nothing = base.reads_of_nothing + looks;
        assert_eq!(without, Counts { reads_of_nothing, ..base }, "{sections}");
        let with = show("a body with a type", &upload(&shop, Some("application/grpc")));
        let reads_with_bytes = base.reads_with_bytes + looks;
        assert_eq!(with, Counts { reads_with_bytes, ..base }, "{sections}");
    }
}

#[test]
fn conditions_on_the_request_cost_one_read_of_all_headers_where_a_failure_may_be_replaced() {
    let shop = warmed(&policy_and(&format!("{BULKHEAD}, {}", fallback(BY_CALLER))));
    let admission = Counts { reads_with_bytes: ADMISSION.reads_with_bytes + 1, ..ADMISSION };
    assert_eq!(halves(&shop, "conditions"), (admission, COMPLETION));
    // With everything else that reads them, once for all.
    let shop = warmed(&policy_and(&format!(r#"{BULKHEAD}, "retry_budget": {{}}, {}"#, fallback(BY_CALLER))));
    let (admission_of_both, _) = halves(&shop, "conditions and a budget");
    assert_eq!(admission_of_both, admission);
}

/// Envoy adds to an answer how long the upstream took, unless it is told not to. Without that a success may be an answer of
/// Envoy's own that the operator has given another status.
#[test]
fn where_envoy_does_not_say_how_long_an_answer_took_it_is_asked_whose_it_is() {
    for (entries, looks) in [(STATIC, 1), (REFUSALS, 0), ("", 0)] {
        let shop = warmed(&policy_and(&fallback(entries)));
        let stream = arrive(shop.vm());
        enter(&stream).unwrap();
        describe(&stream, VIA_UPSTREAM, 0);
        stream.set_response_headers(headers(&[(":status", "200")]));
        stream.response_headers(true).unwrap();
        stream.finish().unwrap();
        let counts = show("healthy, of an Envoy that adds no headers", &stream.calls());
        let reads_with_bytes = HEALTHY.reads_with_bytes + looks;
        assert_eq!(counts, Counts { reads_with_bytes, ..HEALTHY }, "{entries}");
    }
}

/// The calls, as functions and what they were about.
pub(super) fn told(calls: &[Call]) -> Vec<String> {
    let say = |call: &Call| {
        let argument = String::from_utf8_lossy(&call.argument).replace('\0', ".");
        format!("{} {argument}", call.function.trim_start_matches("proxy_"))
    };
    calls.iter().map(say).collect()
}

/// A request of a policy with this fallback fails with what the upstream answers; what its way out costs, after that of one that
/// defined the metrics.
fn fails(entries: &str, answered: &[(&str, &str)], pieces: &[&str]) -> Vec<String> {
    let shop = warmed(&policy_and(&fallback(entries)));
    let one = || {
        let stream = arrive(shop.vm());
        assert_eq!(enter(&stream).unwrap(), None);
        let before = stream.calls().len();
        describe(&stream, VIA_UPSTREAM, 0);
        stream.set_response_headers(headers(&[answered, &[SERVICE_TIME]].concat()));
        stream.response_headers(pieces.is_empty()).unwrap();
        for (number, piece) in pieces.iter().enumerate() {
            stream.response_body(piece, number + 1 == pieces.len()).unwrap();
        }
        stream.finish().unwrap();
        stream.calls().split_off(before)
    };
    one();
    // It clears the failures, which else would trip the breaker.
    run(&arrive(shop.vm()), End::Status(200)).unwrap();
    let calls = one();
    show("an answer that failed", &calls);
    told(&calls)
}

/// What a failed answer costs that nobody replaces.
const JUDGED: [&str; 8] = [
    "get_header_map_pairs ",
    "get_property response.code_details",
    "clock_time_get ",
    "get_property xds.route_name",
    "get_shared_data resilience/shop/checkout",
    "set_shared_data resilience/shop/checkout",
    "increment_metric resilience_store_changes_total;policy=checkout;key=_",
    "increment_metric resilience_calls_total;policy=checkout;outcome=failure;slow=false",
];

#[test]
fn a_failure_that_nobody_replaces_costs_what_it_did() {
    let answered = [(":status", "503"), ("content-length", "6")];
    assert_eq!(fails("", &answered, &["broken"]), JUDGED);
    assert_eq!(fails(REFUSALS, &answered, &["broken"]), JUDGED);
    assert_eq!(fails(r#"{"status": [500], "static": {"status": 200}}"#, &answered, &["broken"]), JUDGED);
}

#[test]
fn a_failure_that_is_replaced_in_place_costs_a_second_look_and_what_is_written() {
    let answered =
        [(":status", "503"), ("content-length", "6"), ("set-cookie", "a=b"), ("x-request-id", "1")];
    let calls = fails(STATIC, &answered, &["bro", "ken", ""]);
    let replaced = [
        "get_header_map_pairs ",
        "remove_header_map_value set-cookie",
        "replace_header_map_value :status",
        "replace_header_map_value x-a",
        "replace_header_map_value content-type",
        "replace_header_map_value x-resilience",
        "replace_header_map_value content-length",
        "increment_metric resilience_fallbacks_total;policy=checkout;reason=upstream_failure;source=static",
        // Into the first piece: the middle is dropped, and the last is empty.
        "set_buffer_bytes ",
    ];
    assert_eq!(calls, [&JUDGED[..], &replaced].concat());
}

#[test]
fn a_failure_that_is_replaced_by_a_reply_costs_a_second_look_and_the_reply() {
    let calls = fails(STATIC, &[(":status", "503"), ("content-length", "0")], &[]);
    let replaced = [
        "get_header_map_pairs ",
        "send_local_response resilience:checkout:upstream_failure",
        "increment_metric resilience_fallbacks_total;policy=checkout;reason=upstream_failure;source=static",
    ];
    assert_eq!(calls, [&JUDGED[..], &replaced].concat());
}

/// A request that is refused by an open breaker with this fallback; what that costs, after the first.
fn refused(entries: &str, whole: bool) -> Vec<String> {
    let shop = Shop::with(&policy_and(&fallback(entries)), 1);
    shop.trip();
    let one = || {
        let stream = arrive(shop.vm());
        assert_eq!(stream.request_headers(whole).unwrap(), Action::Pause);
        let calls = stream.calls();
        stream.deliver_local_response().unwrap();
        stream.finish().unwrap();
        assert_eq!(stream.calls().len(), calls.len(), "its way out costs nothing");
        calls
    };
    one();
    let calls = one();
    show("refused", &calls);
    told(&calls)
}

#[test]
fn a_refusal_looks_at_what_it_needs_of_the_request() {
    let begin = [
        "get_header_map_value x-resilience-reroute",
        "get_property xds.route_name",
        "clock_time_get ",
        "get_metric resilience_store_changes_total;policy=checkout;key=_",
        "increment_metric resilience_rejections_total;policy=checkout;reason=circuit_open;class=_",
    ];
    let reply = "send_local_response resilience:checkout:circuit_open";
    let counted = |source: &str| {
        format!(
            "increment_metric resilience_fallbacks_total;policy=checkout;reason=circuit_open;source={source}"
        )
    };
    for (entries, look, source) in [
        ("", "get_header_map_value content-type", None),
        (STATIC, "get_header_map_value content-type", Some("static")),
        (FAIL, "get_header_map_value content-type", Some("fail")),
        (BY_STATUS, "get_header_map_value content-type", None),
        (BY_CALLER, "get_header_map_pairs ", Some("static")),
    ] {
        let source = source.map(counted);
        // With conditions on failures as well they have been read before anybody was asked.
        let read_before = entries == BY_CALLER;
        let mut expected: Vec<_> = begin.to_vec();
        expected.insert(if read_before { 3 } else { 5 }, look);
        expected.push(reply);
        expected.extend(source.as_deref());
        for whole in [true, false] {
            assert_eq!(refused(entries, whole), expected, "{entries}");
        }
    }
    let mut expected: Vec<_> = begin.to_vec();
    let source = counted("static");
    expected.extend(["get_header_map_pairs ", reply, &source]);
    assert_eq!(refused(REFUSALS, true), expected);
}
