//! A request that goes by another route than the one it showed when it arrived.

use resilience_module_tests::FakeVm;
use resilience_module_tests::shop::{CONFIG, End, FAILURES, Shop, TICK, WAIT, answer, arrive, enter, serve};

const STALE: &str = "resilience_stale_routes_total;policy=checkout";
const IGNORED: &str = "resilience_calls_total;policy=checkout;outcome=ignored;slow=false";

/// A request that arrives by the guarded route, and by the time of its answer has another one.
fn rerouted(vm: &FakeVm, end: End) {
    let stream = arrive(vm);
    assert_eq!(enter(&stream).unwrap(), None);
    stream.set_property(b"xds\0route_name", "elsewhere");
    answer(&stream, end).unwrap();
    stream.finish().unwrap();
}

#[test]
fn it_trips_nobody_however_it_ends() {
    let shop = Shop::open(1);
    let ends = [End::Status(500), End::ConnectFailure, End::ResetInBody, End::Grpc(14)];
    for end in ends {
        for _ in 0..FAILURES {
            rerouted(shop.vm(), end);
        }
    }
    let all = (ends.len() * FAILURES) as u64;
    assert_eq!((shop.metric(STALE), shop.metric(IGNORED)), (all, all));
    assert_eq!(serve(shop.vm(), End::Status(200)).unwrap(), None);
    // What is no evidence anyway is not looked at.
    rerouted(shop.vm(), End::ClientLeft);
    assert_eq!((shop.metric(STALE), shop.metric(IGNORED)), (all, all + 1));
}

#[test]
fn a_probe_gives_its_place_back() {
    let shop = Shop::open(1);
    shop.trip();
    shop.pass(WAIT + TICK).unwrap();
    for (end, stale) in [(End::Status(200), 1), (End::Status(500), 2)] {
        rerouted(shop.vm(), end);
        assert_eq!(shop.metric(STALE), stale, "{end:?}");
    }
    assert_eq!(serve(shop.vm(), End::Status(200)).unwrap(), None, "the place is free");
    let closed = "resilience_circuit_breaker_transitions_total;policy=checkout;to=closed;cause=probes";
    assert_eq!(shop.metric(closed), 1);
}

#[test]
fn another_route_of_the_same_policy_is_as_good() {
    let both =
        CONFIG.replace(r#"[{"route": "checkout"}]"#, r#"[{"route": "checkout"}, {"route": "elsewhere"}]"#);
    let shop = Shop::with(&both, 1);
    for _ in 0..FAILURES {
        rerouted(shop.vm(), End::Status(500));
    }
    assert_eq!(shop.metric(STALE), 0);
    assert!(serve(shop.vm(), End::Status(200)).unwrap().is_some(), "tripped");
}
