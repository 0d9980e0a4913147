//! Retries, their budget and timeouts in the real module: what a request is granted is settled exactly once, however it ends,
//! and no failure of the host costs more than the retries it is about.

mod any_failure;
mod endings;
mod failures;
mod headers;
mod shadow;
mod uploads;
mod waiting;

use resilience_core::config::Document;
use resilience_core::state::State;
use resilience_core::time::Timestamp;
use resilience_module_tests::shop::{
    End, KEY, ROOT, Shop, TICK, WAIT, answer, arrive, enter, policy_and, request,
};
use resilience_module_tests::{
    Action, FakeStream, FakeVm, Headers, LocalResponse, Map, MutationKind, status,
};
use std::time::Duration;

const ATTEMPTS: &[u8] = b"upstream\0request_attempt_count";
const GRANTED: &str = "resilience_retries_total;policy=checkout;decision=granted";
const DENIED: &str = "resilience_retries_total;policy=checkout;decision=denied";
const LEASE_ENDED: &str = "resilience_store_give_ups_total;operation=lease";
/// What a new budget of [`budget`] holds: no request pays for a retry, so that only retries change it.
const FLOOR: i64 = 10;

/// A breaker that no test here trips.
fn never_open(config: String) -> String {
    config.replace("\"consecutive_failures\": 3", "\"consecutive_failures\": 1000000")
}

/// The shop with these sections, where every second has one retry that nobody pays for.
fn shop_of(sections: &str) -> String {
    let floor = r#""retry_budget": {"percent_can_retry": 0, "min_retries_per_second": 1}"#;
    never_open(policy_and(
        &[floor, sections].into_iter().filter(|it| !it.is_empty()).collect::<Vec<_>>().join(", "),
    ))
}

/// A route that retries by itself, and is capped.
fn capped() -> String {
    shop_of("")
}

/// Retries that the filter is in charge of.
fn charged(max_retries: u32) -> String {
    shop_of(&format!(r#""retry": {{"max_retries": {max_retries}}}"#))
}

/// The policy's state as it is.
fn state(shop: &Shop) -> State {
    let bytes = shop.host.data(KEY).map(|(bytes, _)| bytes);
    State::decode(bytes.as_deref(), Timestamp::from_nanos(shop.host.now()))
}

/// How many retries the budget of `config` holds, and how many of them are kept for requests in flight.
fn balance(shop: &Shop, config: &str) -> (i64, i64) {
    let document = Document::parse(config.as_bytes()).expect("a configuration");
    let settings = document.policies[0].retry_budget.expect("a budget").settings;
    let mut budget = state(shop).budget;
    (budget.balance(&settings, Timestamp::from_nanos(shop.host.now())), budget.reserved())
}

/// What stands in the request's headers of what steers Envoy's router.
fn steering(stream: &FakeStream, name: &str) -> Option<String> {
    stream.header(Map::RequestHeaders, name)
}

/// How often a request may be retried, as it is told.
fn told(stream: &FakeStream) -> Option<u32> {
    steering(stream, "x-envoy-max-retries").map(|value| value.parse().expect("a number"))
}

/// A request that is let in and stays.
#[track_caller]
fn hold(vm: &FakeVm) -> FakeStream {
    let stream = arrive(vm);
    assert!(enter(&stream).unwrap().is_none(), "refused");
    stream
}

/// Has Envoy say how often a request was sent to an upstream.
fn attempted(stream: &FakeStream, attempts: u64) -> &FakeStream {
    stream.set_property(ATTEMPTS, attempts.to_le_bytes())
}

/// The answer and the end of a request that was sent so often.
fn leave(stream: &FakeStream, attempts: u64, end: End) {
    attempted(stream, attempts);
    answer(stream, end).unwrap();
    stream.finish().unwrap();
}

/// A request with more headers.
fn arrive_with(vm: &FakeVm, more: &[(&str, &str)]) -> FakeStream {
    let stream = arrive(vm);
    stream.set_request_headers(with(request("/checkout"), more));
    stream
}

/// Headers with these in place of any of the same name.
fn with(mut headers: Headers, more: &[(&str, &str)]) -> Headers {
    headers.retain(|(name, _)| more.iter().all(|(other, _)| other.as_bytes() != name));
    headers.extend(resilience_module_tests::headers(more));
    headers
}

/// Which headers of a request were written: `+name` and `-name`.
fn written(stream: &FakeStream) -> Vec<String> {
    let mutations = stream.mutations().into_iter().filter(|mutation| mutation.map == Map::RequestHeaders);
    let sign = |kind| if kind == MutationKind::Remove { '-' } else { '+' };
    mutations.map(|it| format!("{}{}", sign(it.kind), String::from_utf8_lossy(&it.name))).collect()
}

/// The end of one that was answered by the module.
fn refused(stream: &FakeStream) -> LocalResponse {
    let reply = stream.local_response().expect("a reply of the module's own");
    stream.deliver_local_response().unwrap();
    stream.finish().unwrap();
    reply
}

/// How often the module let a request that it held go on.
fn went_on(stream: &FakeStream) -> usize {
    stream.continued().len()
}

/// Has every worker read its messages; how many callbacks that took.
fn deliver(shop: &Shop) -> usize {
    shop.vms.iter().map(|vm| vm.deliver_queues().unwrap()).sum()
}
