//! Requests that their own policy refuses, and that go elsewhere: past a guard of their own, at most once, and said so.

mod any_failure;
mod going;
mod modes;
mod play;
mod timing;
mod troubles;
mod waiting;

use resilience_core::state::State;
use resilience_core::time::Timestamp;
use resilience_module_tests::shop::{
    BREAKER, End, FAILURES, SERVICE_TIME, Shop, VIA_UPSTREAM, WAIT, answer, arrive, arrive_on, describe,
    enter, policies, run,
};
use resilience_module_tests::{Action, FakeStream, FakeVm, LocalResponse, Map, headers, status};
use std::time::Duration;

const REROUTE: &str = r#"{"reroute": {"cluster": "backup", "policy": "backup"}}"#;
const SECOND: &str = r#"{"reroute": {"cluster": "spare", "policy": "spare"}}"#;
const STATIC: &str = r#"{"static": {"status": 200, "text": "ours"}}"#;
const MARK: &str = "checkout;reason=circuit_open;source=reroute";
const FORCED: &str = r#""circuit_breaker": {"mode": "forced_open", "consecutive_failures": 3}"#;
const FULL: &str = r#""bulkhead": {"max_concurrent_calls": 1}"#;
const PATIENT: &str =
    r#""bulkhead": {"max_concurrent_calls": 1, "max_wait_duration": "10s", "max_queue": 100}"#;
const PATIENCE: Duration = Duration::from_secs(10);

/// The policy `checkout`, which refuses everything, with this fallback, and its guards.
fn shop(entries: &str, guards: &[(&str, &str)]) -> Shop {
    shop_of(FORCED, entries, guards)
}

/// The same with other patterns.
fn shop_of(patterns: &str, entries: &str, guards: &[(&str, &str)]) -> Shop {
    Shop::with(&document(patterns, entries, guards), 1)
}

fn document(patterns: &str, entries: &str, guards: &[(&str, &str)]) -> String {
    let own = format!(r#"{patterns}, "fallback": [{entries}]"#);
    let mut all = vec![("checkout", own.as_str())];
    all.extend(guards);
    policies(&all)
}

/// Where a request is sent.
fn sent_to(stream: &FakeStream) -> Option<String> {
    stream.header(Map::RequestHeaders, "x-resilience-reroute")
}

/// The routes do as they are told.
fn arrives(stream: &FakeStream) -> &FakeStream {
    let cluster = sent_to(stream).expect("it goes elsewhere");
    stream.set_property(b"xds\0cluster_name", cluster)
}

/// A request that goes elsewhere, and stays there.
#[track_caller]
fn goes(vm: &FakeVm) -> FakeStream {
    let stream = arrive(vm);
    assert_eq!(enter(&stream).unwrap(), None);
    arrives(&stream);
    stream
}

/// Its answer and its end; the marks on it.
fn leave(stream: &FakeStream, end: End) -> Option<String> {
    answer(stream, end).unwrap();
    let mark = stream.header(Map::ResponseHeaders, "x-resilience");
    stream.finish().unwrap();
    mark
}

/// The end of one that was answered by the module.
#[track_caller]
fn refused(stream: &FakeStream) -> LocalResponse {
    let reply = stream.local_response().expect("a reply of the module's own");
    assert_eq!(sent_to(stream), None, "it goes nowhere");
    stream.deliver_local_response().unwrap();
    stream.finish().unwrap();
    reply
}

fn state(shop: &Shop, policy: &str) -> State {
    let bytes = shop.host.data(format!("resilience/shop/{policy}")).map(|(bytes, _)| bytes);
    State::decode(bytes.as_deref(), Timestamp::from_nanos(shop.host.now()))
}

/// How many calls of a policy are in flight, and how many requests wait.
fn crowd(shop: &Shop, policy: &str) -> (u32, u32) {
    let bulkhead = state(shop, policy).bulkhead;
    (bulkhead.in_flight(), bulkhead.waiting())
}

fn rejections(shop: &Shop, policy: &str, reason: &str) -> u64 {
    shop.metric(&format!("resilience_rejections_total;policy={policy};reason={reason};class=_"))
}

fn fallbacks(shop: &Shop, reason: &str, source: &str) -> u64 {
    shop.metric(&format!("resilience_fallbacks_total;policy=checkout;reason={reason};source={source}"))
}

/// Calls of a policy: successes, failures, ignored.
fn calls(shop: &Shop, policy: &str) -> [u64; 3] {
    ["success", "failure", "ignored"].map(|outcome| {
        shop.metric(&format!("resilience_calls_total;policy={policy};outcome={outcome};slow=false"))
    })
}

/// Opens the breaker of a policy by requests on its own route.
fn trip(shop: &Shop, policy: &str) {
    shop.trip_by(|| run(&arrive_on(shop.vm(), policy), End::Status(500)).unwrap());
}

/// Takes the permits of a policy, by a request on its own route.
#[track_caller]
fn hold(shop: &Shop, policy: &str) -> FakeStream {
    let stream = arrive_on(shop.vm(), policy);
    assert_eq!(enter(&stream).unwrap(), None);
    stream
}

/// Has every worker read its messages.
fn deliver(shop: &Shop) {
    while shop.vms.iter().map(|vm| vm.deliver_queues().unwrap()).sum::<usize>() > 0 {}
}
