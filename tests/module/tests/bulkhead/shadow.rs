//! A bulkhead in shadow mode: it takes part in the count, and holds nobody up.

use crate::*;

fn shadow(more: &str) -> String {
    policy_and(&format!(r#""bulkhead": {{"mode": "shadow", "max_concurrent_calls": 1{more}}}"#))
}

const SHORT: &str = r#", "max_wait_duration": "1s", "max_queue": 1"#;

#[test]
fn what_it_would_have_refused_is_counted_and_goes_on() {
    let shop = Shop::with(&shadow(""), 2);
    let holder = hold(shop.vm());
    let others = [hold(shop.vm()), hold(&shop.vms[1])];
    assert_eq!((crowd(&shop), shop.metric(SHADOWED)), ((1, 0), 2));
    others.iter().for_each(|stream| leave(stream, End::Status(200)));
    assert_eq!(crowd(&shop), (1, 0));
    leave(&holder, End::Status(200));
    assert_eq!((crowd(&shop), shop.metric(FULL)), ((0, 0), 0));
    assert_eq!(shop.metric("resilience_calls_total;policy=checkout;outcome=success;slow=false"), 3);
}

#[test]
fn one_that_would_have_waited_goes_on_at_once_and_waits_in_name_only() {
    let shop = Shop::with(&shadow(SHORT), 2);
    let holder = hold(shop.vm());
    let in_name = hold(&shop.vms[1]);
    assert_eq!((crowd(&shop), shop.metric(SHADOWED)), ((1, 1), 0));
    // The queue has room for one.
    let more = hold(shop.vm());
    assert_eq!((crowd(&shop), shop.metric(SHADOWED)), ((1, 1), 1));
    leave(&more, End::Status(200));
    leave(&holder, End::Status(200));
    assert_eq!(deliver(&shop), 1);
    assert_eq!((crowd(&shop), went_on(&in_name)), ((1, 0), 0));
    shop.pass(Duration::from_secs(5)).unwrap();
    leave(&in_name, End::Status(200));
    assert_eq!((crowd(&shop), shop.metric(SHADOWED), shop.metric(LEASE_ENDED)), ((0, 0), 1, 0));
}

#[test]
fn a_wait_in_name_that_ends_without_a_permit_is_counted_once() {
    let shop = Shop::with(&shadow(SHORT), 1);
    let holder = hold(shop.vm());
    let in_name = hold(shop.vm());
    shop.pass(Duration::from_secs(3)).unwrap();
    assert_eq!((crowd(&shop), shop.metric(SHADOWED)), ((1, 0), 1));
    assert_eq!((went_on(&in_name), in_name.local_response()), (0, None));
    leave(&in_name, End::Status(200));
    assert_eq!(crowd(&shop), (1, 0));
    // One that ends before it got a permit would have been refused by nobody.
    let short = hold(shop.vm());
    leave(&short, End::Status(200));
    assert_eq!((crowd(&shop), shop.metric(SHADOWED)), ((1, 0), 1));
    leave(&holder, End::Status(200));
    assert_eq!((crowd(&shop), shop.metric(FULL)), ((0, 0), 0));
}

#[test]
fn one_that_failed_meanwhile_still_gives_back_what_it_got() {
    let shop = Shop::with(&shadow(SHORT), 1);
    let holder = hold(shop.vm());
    let in_name = hold(shop.vm());
    answer(&in_name, End::Status(500)).unwrap();
    leave(&holder, End::Status(200));
    deliver(&shop);
    assert_eq!(crowd(&shop), (1, 0));
    in_name.finish().unwrap();
    assert_eq!(crowd(&shop), (0, 0));
}
