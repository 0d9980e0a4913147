//! What operators ask of the state, of a VM that guards nothing and changes nothing.

use resilience_module_tests::shop::{
    End, KEY, ROOT, Shop, TICK, WAIT, arrive, config_and, enter, policy_and, serve, worker,
};
use resilience_module_tests::{FakeVm, LocalResponse, headers, status};
use serde_json::{Value, json};
use std::time::Duration;

const MEMBERS: &str = "resilience/shop/#members";

/// A VM that shows operators the state, beside those of a shop.
fn window(shop: &Shop) -> FakeVm {
    worker(&shop.host, &config_and(r#""state": true"#))
}

fn send(vm: &FakeVm, method: &str, path: &str) -> LocalResponse {
    let stream = vm.stream(ROOT);
    stream.set_request_headers(headers(&[(":method", method), (":path", path), (":authority", "state")]));
    let reply = enter(&stream).unwrap().expect("a question is always answered");
    stream.deliver_local_response().unwrap();
    stream.finish().unwrap();
    reply
}

fn get(vm: &FakeVm, path: &str) -> (u32, Value) {
    let reply = send(vm, "GET", path);
    assert_eq!(reply.header("content-type").as_deref(), Some("application/json"), "{path}");
    (reply.status, serde_json::from_slice(&reply.body).unwrap())
}

fn breaker(vm: &FakeVm) -> Value {
    let (status, mut told) = get(vm, "/policies/checkout");
    assert_eq!(status, 200, "{told}");
    told["circuit_breaker"].take()
}

#[test]
fn what_workers_have_done_is_told_at_once() {
    let shop = Shop::open(3);
    let window = window(&shop);
    assert_eq!(breaker(&window)["state"], "closed");
    serve(&shop.vms[0], End::Status(500)).unwrap();
    assert_eq!(breaker(&window)["evidence"]["consecutive_failures"], json!({"count": 1, "limit": 3}));
    serve(&shop.vms[1], End::Status(500)).unwrap();
    serve(&shop.vms[2], End::Status(500)).unwrap();
    let told = breaker(&window);
    assert_eq!((&told["state"], &told["wait_remaining_ms"]), (&json!("open"), &json!(10_000)));
    shop.pass(WAIT + TICK).unwrap();
    assert_eq!(get(&window, "/dependencies").1["dependencies"][0]["reason"], "awaiting_probe");
    let probe = arrive(&shop.vms[1]);
    assert_eq!(enter(&probe).unwrap(), None);
    let told = breaker(&window);
    assert_eq!((&told["state"], &told["probes"]["in_flight"]), (&json!("half_open"), &json!(1)));
    let causes: Vec<_> = told["transitions"].as_array().unwrap().iter().map(|it| &it["cause"]).collect();
    assert_eq!(causes, ["consecutive_failures", "wait_over"]);
    probe.finish().unwrap();
}

#[test]
fn a_vm_that_shows_the_state_writes_nothing_and_never_ticks() {
    let shop = Shop::open(2);
    shop.pass(WAIT).unwrap();
    shop.trip();
    let window = window(&shop);
    assert_eq!(window.tick_period(ROOT), None);
    let (writes, metrics, keys) = (shop.host.data_writes(), shop.host.metrics(), shop.host.keys());
    for path in [
        "/policies",
        "/policies/checkout",
        "/dependencies",
        "/live",
        "/ready",
        "/nowhere",
        "/policies?limit=x",
    ] {
        for method in ["GET", "HEAD", "POST"] {
            send(&window, method, path);
        }
    }
    window.delete_root(ROOT).unwrap();
    assert_eq!((shop.host.data_writes(), shop.host.metrics(), shop.host.keys()), (writes, metrics, keys));
    assert_eq!(window.logs(), []);
}

#[test]
fn ready_follows_the_workers_and_nothing_else() {
    let shop = Shop::open(2);
    let window = window(&shop);
    // Nobody has ticked yet.
    assert_eq!(get(&window, "/ready").0, 503);
    shop.pass(TICK).unwrap();
    let ready = (200, json!({"ready": true, "vms_alive": 2, "configurations": 1}));
    assert_eq!(get(&window, "/ready"), ready);
    shop.trip();
    assert_eq!(get(&window, "/ready"), ready);
    assert_eq!(get(&window, "/dependencies").1["overall"], "down");
    // The workers fall silent, their line stays.
    shop.host.advance(Duration::from_millis(2001));
    assert_eq!(get(&window, "/ready").0, 503);
    assert_eq!(get(&window, "/live"), (200, json!({"live": true})));
    shop.pass(TICK).unwrap();
    assert_eq!(get(&window, "/ready"), ready);
}

#[test]
fn who_also_obeys_does_both() {
    let shop = Shop::open(1);
    let both = worker(&shop.host, &config_and(r#""state": true, "control": true"#));
    assert_eq!(send(&both, "POST", "/breakers/checkout/open?for=90s").status, 200);
    let told = breaker(&both);
    assert_eq!((&told["state"], &told["transitions"][0]["cause"]), (&json!("open"), &json!("forced")));
    assert_eq!(send(&both, "GET", "/breakers/checkout/reset").header("allow").as_deref(), Some("POST"));
    assert_eq!(send(&both, "POST", "/policies").header("allow").as_deref(), Some("GET, HEAD"));
    assert_eq!(send(&both, "GET", "/").status, 404);
    // Who only shows obeys nobody, and who only obeys shows nothing.
    assert_eq!(send(&window(&shop), "POST", "/breakers/checkout/reset").status, 404);
    let control = worker(&shop.host, &config_and(r#""control": true"#));
    assert_eq!(send(&control, "GET", "/policies").status, 404);
    assert_eq!(breaker(&both)["state"], "open");
}

#[test]
fn without_the_key_the_paths_are_anybodys() {
    let shop = Shop::open(1);
    for path in ["/policies", "/dependencies", "/live", "/ready"] {
        let stream = arrive(shop.vm());
        stream.set_request_headers(headers(&[(":method", "GET"), (":path", path)]));
        assert_eq!(enter(&stream).unwrap(), None, "{path}");
        stream.finish().unwrap();
    }
}

#[test]
fn what_the_host_does_not_give_is_said_or_left_out() {
    let shop = Shop::open(1);
    shop.pass(TICK).unwrap();
    shop.trip();
    let window = window(&shop);
    window.fail_kind("proxy_get_shared_data", status::INTERNAL_FAILURE);
    for path in ["/policies", "/policies/checkout", "/dependencies", "/ready"] {
        let (status, told) = get(&window, path);
        assert_eq!((status, told["error"].is_string()), (503, true), "{path}");
    }
    assert_eq!(get(&window, "/live").0, 200);
    window.clear_faults();
    // Without a clock the last moment that was told stands in, and no moment is told in UTC.
    window.fail_kind("clock_time_get", status::INTERNAL_FAILURE);
    let told = breaker(&window);
    assert_eq!((&told["state"], &told["since"]), (&json!("open"), &Value::Null));
    window.clear_faults();
    assert!(breaker(&window)["since"].is_string());
    assert_eq!(window.logs(), []);
}

#[test]
fn bytes_that_nobody_wrote_are_told_as_damage() {
    let shop = Shop::with(&policy_and(r#""key": "upstream_cluster""#), 1);
    let window =
        worker(&shop.host, &policy_and(r#""key": "upstream_cluster""#).replacen('{', "{\"state\": true,", 1));
    for bytes in [&b""[..], b"RS", b"RM", b"RK\xff\xff", &[0xff; 300]] {
        for key in [KEY, MEMBERS, "resilience/shop/checkout#keys"] {
            let cas = shop.host.data(key).map_or(0, |(_, cas)| cas);
            shop.host.set_data(key, bytes, cas).unwrap();
        }
        let (status, told) = get(&window, "/policies/checkout");
        assert_eq!((status, &told["damaged"], &told["keys"]), (200, &json!(true), &json!([])), "{bytes:?}");
        assert_eq!(get(&window, "/dependencies").1["dependencies"][0]["health"], "unknown");
        assert_eq!(get(&window, "/ready").0, 503);
    }
}
