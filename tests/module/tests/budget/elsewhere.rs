//! What it costs that policies name each other: a request that goes elsewhere, and one that needs another policy.

use crate::bulkhead::BULKHEAD;
use crate::fallback::{fallback, told};
use crate::{Counts, HEALTHY, cost, show};
use resilience_module_tests::shop::{BREAKER, End, Shop, answer, arrive, arrive_on, enter, policies, run};

/// The shop with another policy that guards where its refused requests go.
fn rerouting(guard: &str) -> Shop {
    let own = format!("{BREAKER}, {}", fallback(r#"{"reroute": {"cluster": "backup", "policy": "backup"}}"#));
    let shop = Shop::with(&policies(&[("checkout", &own), ("backup", guard)]), 1);
    shop.trip_by(|| {
        let stream = arrive(shop.vm());
        run(&stream, End::Status(500)).unwrap();
    });
    shop
}

/// A request that goes elsewhere, and its answer: what the way in and the way out cost.
fn goes_elsewhere(shop: &Shop) -> [Vec<String>; 2] {
    let one = || {
        let stream = arrive(shop.vm());
        assert_eq!(enter(&stream).unwrap(), None);
        let way_in = stream.calls();
        stream.set_property(b"xds\0cluster_name", "backup");
        answer(&stream, End::Status(200)).unwrap();
        stream.finish().unwrap();
        let way_out = stream.calls().split_off(way_in.len());
        show("rerouted, in", &way_in);
        show("rerouted, out", &way_out);
        [told(&way_in), told(&way_out)]
    };
    one();
    one()
}

#[test]
fn a_request_that_goes_elsewhere_costs_a_refusal_a_guard_a_header_and_a_mark() {
    let shop = rerouting(BREAKER);
    let [way_in, way_out] = goes_elsewhere(&shop);
    let expected = [
        "get_header_map_value x-resilience-reroute",
        "get_property xds.route_name",
        "clock_time_get ",
        "get_metric resilience_store_changes_total;policy=checkout;key=_",
        "increment_metric resilience_rejections_total;policy=checkout;reason=circuit_open;class=_",
        "get_header_map_value content-type",
        "clock_time_get ",
        "get_metric resilience_store_changes_total;policy=backup;key=_",
        "replace_header_map_value x-resilience-reroute",
    ];
    assert_eq!(way_in, expected);
    let expected = [
        // Whether it came where it was sent.
        "get_property xds.cluster_name",
        "increment_metric resilience_fallbacks_total;policy=checkout;reason=circuit_open;source=reroute",
        "get_header_map_pairs ",
        "get_header_map_pairs ",
        "replace_header_map_value x-resilience",
        "get_property response.code_details",
        "clock_time_get ",
        // Once more at its end: it may have been routed anew.
        "get_property xds.cluster_name",
        "get_metric resilience_store_changes_total;policy=backup;key=_",
        "increment_metric resilience_calls_total;policy=backup;outcome=success;slow=false",
    ];
    assert_eq!(way_out, expected);
}

/// The shop whose policy needs others.
fn needing(others: usize, own: &str) -> Shop {
    let names: Vec<_> = (0..others).map(|other| format!("needed-{other}")).collect();
    let own = format!(r#"{BREAKER}, "when_open": {names:?}{own}"#);
    let mut all = vec![("checkout", own.as_str())];
    all.extend(names.iter().map(|name| (name.as_str(), BREAKER)));
    let shop = Shop::with(&policies(&all), 1);
    run(&arrive(shop.vm()), End::Status(200)).unwrap();
    shop
}

#[test]
fn a_healthy_request_looks_at_one_counter_for_each_policy_that_it_needs() {
    for others in [1, 2, 16] {
        let shop = needing(others, "");
        let counts = cost(&format!("healthy, needs {others}"), &arrive(shop.vm()), End::Status(200));
        assert_eq!(counts, Counts { metric_reads: HEALTHY.metric_reads + others, ..HEALTHY });
        // Every so often it looks at their state: that of those which never failed does not exist.
        shop.host.advance(std::time::Duration::from_millis(101));
        let looked = cost("the same, looking at the shared state", &arrive(shop.vm()), End::Status(200));
        let reads_of_nothing = HEALTHY.reads_of_nothing + 1 + others;
        let metric_reads = HEALTHY.metric_reads + others;
        assert_eq!(looked, Counts { reads_of_nothing, metric_reads, ..HEALTHY });
    }
}

#[test]
fn a_request_that_is_refused_for_another_policy_asks_nothing_of_its_own() {
    for own in [String::new(), format!(", {BULKHEAD}")] {
        let shop = needing(1, &own);
        shop.trip_by(|| {
            let stream = arrive_on(shop.vm(), "needed-0");
            run(&stream, End::Status(500)).unwrap();
        });
        let one = || {
            let stream = arrive(shop.vm());
            let reply = enter(&stream).unwrap().expect("needs what is open");
            assert_eq!(reply.details, b"resilience:checkout:dependency_open");
            told(&stream.calls())
        };
        one();
        let expected = [
            "get_header_map_value x-resilience-reroute",
            "get_property xds.route_name",
            "clock_time_get ",
            "get_metric resilience_store_changes_total;policy=needed-0;key=_",
            "increment_metric resilience_rejections_total;policy=checkout;reason=dependency_open;class=_",
            "get_header_map_value content-type",
            "send_local_response resilience:checkout:dependency_open",
        ];
        assert_eq!(one(), expected);
    }
}
