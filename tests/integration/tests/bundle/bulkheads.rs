//! The bundle's bulkheads, and who may say of which class a request is.

use super::{PORTS, bundle, edited_bundle, exchanged};
use resilience_integration_tests::*;
use resilience_test_harness::*;
use std::net::{IpAddr, Ipv4Addr};

/// Where the edge holds the back office to be.
const BACK_OFFICE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
/// And two others, the second for those who compare only the beginning.
const ELSEWHERE: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 20))];

/// A request that says itself what it is, in every way there is.
fn claims() -> Vec<Request> {
    let checkout = || Request::post("/checkout", "");
    let critical = || checkout().header("x-priority", "critical");
    vec![
        checkout(),
        critical(),
        checkout().header("X-Priority", "batch"),
        critical().header("x-priority", "critical"),
        critical().header("x-forwarded-for", BACK_OFFICE.to_string()),
        critical().header("x-envoy-external-address", BACK_OFFICE.to_string()),
        critical().header("connection", "x-priority"),
    ]
}

/// An open breaker shows of which class a request is: every refusal is counted by class.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_picks_a_class_and_the_back_office_has_one() {
    let open_for_long = |yaml: String| {
        let wait = r#""wait_duration_in_open_state": "#;
        exchanged(&yaml, &format!(r#"{wait}"10s""#), &format!(r#"{wait}"10m""#))
    };
    let (edge, _) = edited_bundle(&PORTS, open_for_long).await;
    for _ in 0..5 {
        let failing = Request::post("/checkout", "").header("x-envoy-fault-abort-request", "503");
        let answer = send_once(edge.address, Protocol::Http1, failing).await.unwrap();
        assert_eq!(answer.header("x-resilience"), "checkout;reason=upstream_failure;source=static");
    }
    let sources = [(ELSEWHERE[0], "normal"), (ELSEWHERE[1], "normal"), (BACK_OFFICE, "critical")];
    let mut expected = [("critical", 0), ("normal", 0), ("batch", 0)];
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for (source, class) in sources {
            for (number, claim) in claims().into_iter().enumerate() {
                if protocol == Protocol::Http2 && number == claims().len() - 1 {
                    continue; // HTTP/2 has no such header
                }
                let mut connection = Connection::open_from(source, edge.address, protocol).await.unwrap();
                assert_eq!(connection.send(claim).await.unwrap().status, 202);
                for (of, count) in &mut expected {
                    *count += u64::from(*of == class);
                }
                for (of, count) in expected {
                    let labels = [("policy", "checkout"), ("reason", "circuit_open"), ("class", of)];
                    let counted = edge.count("resilience_rejections_total", &labels).await;
                    assert_eq!(counted, count, "{of} after claim {number} of {source} over {protocol:?}");
                }
            }
        }
    }
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compartment_that_is_full_is_nobody_elses_trouble() {
    let (edge, _) = bundle(&PORTS).await;
    let gauge = async |name: &str, policy: &str, expected: u64| {
        edge.wait_count(&format!("resilience_bulkhead_{name}"), &[("policy", policy)], expected).await;
    };
    for (policy, limit) in [("checkout", 50), ("catalogue", 30), ("product-replica", 20), ("admin", 10)] {
        gauge("limit", policy, limit).await;
    }
    let mut connection = Connection::open(edge.address, Protocol::Http2).await.unwrap();
    let report = || Request::get("/admin/report").header("x-envoy-fault-delay-request", "50000");
    let mut hanging = Vec::new();
    for _ in 0..10 {
        hanging.push(connection.start(report()).await.unwrap());
    }
    gauge("in_flight", "admin", 10).await;
    let refused = send_once(edge.address, Protocol::Http1, report()).await.unwrap();
    let marks = ["x-resilience", "retry-after", "x-envoy-ratelimited", "content-type"];
    let expected = ["admin;reason=bulkhead_full;source=none", "1", "true", "application/problem+json"];
    assert_eq!((refused.status, marks.map(|name| refused.header(name))), (503, expected.map(str::to_owned)));
    let labels = [("policy", "admin"), ("reason", "bulkhead_full"), ("class", "_")];
    assert_eq!(edge.count("resilience_rejections_total", &labels).await, 1);
    for request in [Request::get("/catalogue"), Request::post("/checkout", ""), Request::get("/health")] {
        let answer = send_once(edge.address, Protocol::Http1, request).await.unwrap();
        assert_eq!((answer.status, answer.header("x-resilience")), (200, String::new()));
    }
    hanging.into_iter().for_each(Pending::abandon);
    gauge("in_flight", "admin", 0).await;
    let answer = send_once(edge.address, Protocol::Http1, Request::get("/admin/report")).await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}
