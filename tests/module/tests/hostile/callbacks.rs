//! Callbacks that Envoy never makes, in an order or at a time of their own.

use resilience_module_tests::Action;
use resilience_module_tests::shop::{End, OrFail, ROOT, Shop, answer, arrive, arrive_at, serve};

#[test]
fn callbacks_for_contexts_that_do_not_exist_do_nothing() {
    let shop = Shop::open(1);
    let vm = shop.vm();
    for id in [0, 999, u32::MAX] {
        for (export, arguments) in [
            ("proxy_on_request_headers", vec![id, 5, 1]),
            ("proxy_on_response_headers", vec![id, 5, 1]),
            ("proxy_on_response_trailers", vec![id, 5]),
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
