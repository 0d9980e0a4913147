//! Callbacks that Envoy never makes, in an order or at a time of their own.

use resilience_module_tests::orders::{Callback, orders};
use resilience_module_tests::shop::{
    End, OrFail, ROOT, SERVICE_TIME, Shop, VIA_UPSTREAM, answer, arrive, arrive_at, describe, enter,
    policy_and, serve,
};
use resilience_module_tests::{Action, headers};

#[test]
fn callbacks_for_contexts_that_do_not_exist_do_nothing() {
    let shop = Shop::open(1);
    let vm = shop.vm();
    for id in [0, 999, u32::MAX] {
        for (export, arguments) in [
            ("proxy_on_request_headers", vec![id, 5, 1]),
            ("proxy_on_response_headers", vec![id, 5, 1]),
            ("proxy_on_response_trailers", vec![id, 5]),
            ("proxy_on_request_body", vec![id, 5, 1]),
            ("proxy_on_request_trailers", vec![id, 5]),
            ("proxy_on_response_body", vec![id, 5, 1]),
            ("proxy_on_tick", vec![id]),
            ("proxy_on_delete", vec![id]),
            ("proxy_on_done", vec![id]),
            ("proxy_on_log", vec![id]),
            ("proxy_on_queue_ready", vec![id, 1]),
        ] {
            vm.call(export, &arguments).or_fail(export);
        }
    }
    assert_eq!(serve(vm, End::Status(200)).unwrap(), None);
    // A stream of a root that was never configured, or is gone.
    let orphan = arrive_at(vm, 77);
    assert_eq!(orphan.request_headers(true).unwrap(), Action::Continue);
    orphan.finish().unwrap();
}

#[test]
fn callbacks_in_an_order_that_envoy_never_uses() {
    let shop = Shop::open(1);
    let vm = shop.vm();
    let stream = arrive(vm);
    stream.response_headers(false).unwrap();
    stream.trailers().unwrap();
    stream.request_headers(true).unwrap();
    stream.request_headers(true).unwrap();
    answer(&stream, End::Status(500)).unwrap();
    answer(&stream, End::Status(500)).unwrap();
    stream.finish().unwrap();
    stream.delete().unwrap();
    stream.trailers().unwrap();
    vm.call("proxy_on_context_create", &[stream.id(), ROOT]).unwrap();
    vm.call("proxy_on_context_create", &[stream.id(), stream.id()]).unwrap();
    vm.call("proxy_on_context_create", &[ROOT, 0]).unwrap();
    assert_eq!(serve(vm, End::Status(200)).unwrap(), None, "one request is one outcome");
}

/// One failed answer is replaced once, in whatever order a host shows it.
#[test]
fn every_order_of_the_parts_of_a_failed_answer() {
    const PARTS: [Callback; 5] = [
        ("headers", |stream| _ = stream.response_headers(false).unwrap()),
        ("headers again", |stream| _ = stream.response_headers(false).unwrap()),
        ("piece", |stream| _ = stream.response_body("broken", false).unwrap()),
        ("last piece", |stream| _ = stream.response_body("broken", true).unwrap()),
        ("trailers", |stream| _ = stream.trailers().unwrap()),
    ];
    let fallback = r#""fallback": [{"static": {"status": 200, "text": "ours"}}]"#;
    let never =
        policy_and(fallback).replace("\"consecutive_failures\": 3", "\"consecutive_failures\": 1000000");
    let shop = Shop::with(&never, 1);
    let counted = |name: &str| shop.metric(&format!("resilience_{name}"));
    for (number, order) in orders(&PARTS).into_iter().enumerate() {
        let names: Vec<_> = order.iter().map(|(name, _)| *name).collect();
        let stream = arrive(shop.vm());
        assert_eq!(enter(&stream).unwrap(), None);
        describe(&stream, VIA_UPSTREAM, 0);
        stream.set_response_headers(headers(&[(":status", "503"), SERVICE_TIME]));
        stream.set_response_trailers(headers(&[("x-sum", "1")]));
        order.iter().for_each(|(_, callback)| callback(&stream));
        stream.finish().or_fail(&format!("{names:?}"));
        let ours = stream.received().pieces.iter().filter(|piece| *piece == b"ours").count();
        assert!(ours <= 1, "{names:?}");
        let failures = counted("calls_total;policy=checkout;outcome=failure;slow=false");
        assert_eq!(failures, number as u64 + 1, "{names:?}");
        let replaced = counted("fallbacks_total;policy=checkout;reason=upstream_failure;source=static");
        assert!(replaced <= failures, "{names:?}");
    }
}

#[test]
fn a_clock_that_jumps() {
    let shop = Shop::open(2);
    let start = shop.host.now();
    for now in [0, u64::MAX, start, 1, u64::MAX - 1, start] {
        shop.host.set_clock(now);
        for vm in &shop.vms {
            vm.tick(ROOT).unwrap();
            for end in [End::Status(500), End::Status(200), End::ClientLeft] {
                serve(vm, end).unwrap();
            }
        }
    }
}
