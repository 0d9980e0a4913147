//! Operators' orders, given to a VM that guards nothing.

use resilience_module_tests::shop::{
    CONFIG, End, KEY, ROOT, Shop, WAIT, arrive, config_and, enter, serve, worker,
};
use resilience_module_tests::{FakeVm, LocalResponse, headers};

const MEMBERS: &str = "resilience/shop/#members";

/// A VM that answers operators, beside those of a shop.
fn operators(shop: &Shop) -> FakeVm {
    worker(&shop.host, &config_and(r#""control": true"#))
}

fn send(vm: &FakeVm, method: &str, path: &str) -> LocalResponse {
    let stream = vm.stream(ROOT);
    stream.set_request_headers(headers(&[(":method", method), (":path", path), (":authority", "control")]));
    let reply = enter(&stream).unwrap().expect("an order is always answered");
    stream.deliver_local_response().unwrap();
    stream.finish().unwrap();
    reply
}

fn order(vm: &FakeVm, path: &str) -> u32 {
    send(vm, "POST", path).status
}

#[test]
fn workers_obey_at_once() {
    let shop = Shop::open(3);
    let control = operators(&shop);
    assert_eq!(order(&control, "/breakers/checkout/open?for=90s"), 200);
    for vm in &shop.vms {
        let reply = serve(vm, End::Status(200)).unwrap().expect("every worker refuses");
        assert_eq!(reply.header("retry-after").as_deref(), Some("90"));
    }
    assert_eq!(order(&control, "/breakers/checkout/reset"), 200);
    for vm in &shop.vms {
        assert_eq!(serve(vm, End::Status(200)).unwrap(), None);
    }
    let forced = |to: &str| {
        shop.metric(&format!(
            "resilience_circuit_breaker_transitions_total;policy=checkout;to={to};cause=forced"
        ))
    };
    assert_eq!((forced("open"), forced("closed")), (1, 1));
    let warnings = control.logs().into_iter().filter(|line| line.level == 3).count();
    assert_eq!(warnings, 2);
}

#[test]
fn a_vm_for_operators_is_no_member_and_never_ticks() {
    let shop = Shop::open(2);
    shop.pass(WAIT).unwrap();
    let members = || shop.host.data(MEMBERS).expect("workers give signs of life").0;
    let before = members();
    assert_eq!(shop.metric("resilience_vm_starts_total"), 2);
    let control = operators(&shop);
    assert_eq!(control.tick_period(ROOT), None);
    for path in
        ["/breakers/checkout/open?for=1h", "/breakers/checkout/closed?for=1h", "/breakers/checkout/reset"]
    {
        assert_eq!(order(&control, path), 200);
    }
    assert_eq!(members(), before);
    assert_eq!(shop.metric("resilience_vm_starts_total"), 2, "it is no part of what serves");
    // Its end is nobody's business either.
    control.delete_root(ROOT).unwrap();
    assert_eq!(members(), before);
    let keys: Vec<_> = shop.host.keys().into_iter().map(|key| String::from_utf8(key).unwrap()).collect();
    assert_eq!(keys, [MEMBERS, KEY]);
}

/// The shape of a window is decided by those that serve, also where an operators' configuration is the newer one.
#[test]
fn a_vm_for_operators_decides_over_no_window() {
    let rates = |size: usize| {
        CONFIG.replace(
            "\"consecutive_failures\": 3",
            &format!(
                "\"failure_rate_threshold\": 50, \"sliding_window_size\": {size}, \"minimum_number_of_calls\": {size}"
            ),
        )
    };
    let shop = Shop::with(&rates(4), 1);
    let control = worker(&shop.host, &rates(2).replacen('{', "{\"control\": true,", 1));
    assert_eq!(order(&control, "/breakers/checkout/reset"), 200);
    for _ in 0..4 {
        assert_eq!(serve(shop.vm(), End::Status(500)).unwrap(), None);
    }
    assert!(serve(shop.vm(), End::Status(200)).unwrap().is_some(), "four failures of four");
}

#[test]
fn what_is_no_order_is_answered_and_writes_nothing() {
    let shop = Shop::open(1);
    let control = operators(&shop);
    let writes = shop.host.data_writes();
    for (method, path, status) in [
        ("GET", "/breakers/checkout/reset", 405),
        ("POST", "/breakers/email/reset", 404),
        ("POST", "/breakers/checkout/reset?key=a", 404),
        ("POST", "/breakers/checkout/open", 400),
        ("POST", "", 404),
        ("", "", 404),
    ] {
        assert_eq!(send(&control, method, path).status, status, "{method} {path}");
    }
    assert_eq!(shop.host.data_writes(), writes);
    // A listener with traffic knows no orders.
    let stream = arrive(shop.vm());
    stream.set_request_headers(headers(&[(":method", "POST"), (":path", "/breakers/checkout/open?for=1h")]));
    assert_eq!(enter(&stream).unwrap(), None);
    stream.finish().unwrap();
}

#[test]
fn an_order_that_the_store_does_not_take_says_so() {
    let shop = Shop::open(1);
    let control = operators(&shop);
    control.fail_kind("proxy_set_shared_data", 10);
    assert_eq!(order(&control, "/breakers/checkout/open?for=1h"), 503);
    assert_eq!(shop.metric("resilience_store_give_ups_total;operation=force"), 1);
    control.clear_faults();
    assert_eq!(order(&control, "/breakers/checkout/open?for=1h"), 200);
}
