//! Shadow mode: nothing is written, nobody is refused, and what would have been is counted.

use crate::*;

const RETRY_DENIED: &str = "resilience_shadow_decisions_total;policy=checkout;reason=retry_denied";
const LATE: &str = "resilience_shadow_decisions_total;policy=checkout;reason=deadline_exceeded";

fn shadowed(min: u32) -> String {
    let section = format!(
        r#""retry_budget": {{"mode": "shadow", "percent_can_retry": 0, "min_retries_per_second": {min}, "ttl": "1s"}}"#
    );
    never_open(policy_and(&section))
}

#[test]
fn a_budget_lets_all_retry_and_counts_those_it_would_not_have() {
    let shop = Shop::with(&shadowed(0), 1);
    for (attempts, beyond) in [(1, 0), (2, 1), (4, 2), (1, 2)] {
        let stream = hold(shop.vm());
        assert_eq!(written(&stream), [""; 0]);
        leave(&stream, attempts, End::Status(200));
        assert_eq!(shop.metric(RETRY_DENIED), beyond, "{attempts} attempts");
    }
    assert_eq!((shop.metric(GRANTED), shop.metric(DENIED)), (4, 0));
}

#[test]
fn what_it_would_have_granted_is_spent_and_nothing_beyond() {
    let config = shadowed(1);
    let shop = Shop::with(&config, 1);
    let stream = hold(shop.vm());
    assert_eq!(balance(&shop, &config), (1, 1));
    leave(&stream, 4, End::Status(200));
    assert_eq!((balance(&shop, &config), shop.metric(RETRY_DENIED)), ((0, 0), 1));
}

#[test]
fn it_counts_nothing_where_nobody_tells_how_often_a_request_was_retried() {
    let shop = Shop::with(&shadowed(0), 1);
    let stream = hold(shop.vm());
    answer(&stream, End::Status(200)).unwrap();
    stream.finish().unwrap();
    assert_eq!((shop.metric(RETRY_DENIED), shop.metric(GRANTED)), (0, 0));
}

#[test]
fn timeouts_bound_nobody() {
    let config =
        policy_and(r#""timeout": {"mode": "shadow", "total": "300ms", "deadline_header": "x-deadline-ms"}"#)
            .replacen("\"namespace\"", "\"trust_caller_headers\": true, \"namespace\"", 1);
    let shop = Shop::with(&config, 1);
    let late = arrive_with(shop.vm(), &[("x-deadline-ms", "5")]);
    assert_eq!(enter(&late).unwrap(), None);
    assert_eq!((written(&late).len(), shop.metric(LATE)), (0, 1));
    leave(&late, 1, End::Status(200));
    let upload = arrive(shop.vm());
    assert_eq!(upload.request_headers(false).unwrap(), Action::Continue);
    shop.pass(TICK * 4).unwrap();
    assert_eq!((upload.local_response(), written(&upload).len(), shop.metric(LATE)), (None, 0, 1));
    leave(&upload, 1, End::Status(200));
}
