//! Other filters in front of us and behind: what each place does. In front of us they refuse before we hear of a request, and are
//! asked also about those that we would refuse. Behind us what they refuse has been let in, and holds what that takes.

mod answers;

use crate::*;
use resilience_integration_tests::endings::filters_behind;
use std::time::{Duration, Instant};

/// Where a filter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Front,
    Behind,
}

const PLACES: [Place; 2] = [Place::Front, Place::Behind];

/// Filters that refuse, the statuses they do it with, and how the access log tells.
const REFUSING: &[(&str, u16, &str)] = &[
    ("rbac", 403, "rbac_access_denied"),
    ("ext_authz", 403, "ext_authz_denied"),
    ("rate_limit", 429, "local_rate_limited"),
    ("fault", 503, "fault_filter_abort"),
    ("lua", 503, "lua_response"),
];

async fn scene(document: &Value, place: Place, routes: &[Value]) -> Scene {
    let filters = filters_behind();
    match place {
        Place::Front => Scene::placed(document, routes, &filters, &[]).await,
        Place::Behind => Scene::placed(document, routes, &[], &filters).await,
    }
}

fn routes() -> Vec<Value> {
    let of = |(kind, ..): &(&str, u16, &str)| route_of(kind, &format!("/{}", name(kind))).expect("a route");
    REFUSING.iter().map(of).collect()
}

fn name(kind: &str) -> String {
    kind.replace('_', "-")
}

/// A token is in each bucket at first.
async fn empty_the_bucket(scene: &mut Scene) {
    let first = scene.get("/rate-limit-first", "").await;
    assert_eq!(first.status, 200);
}

fn later() -> Value {
    json!([{"static": {"status": 200, "text": "Later."}}])
}

/// What another filter answers is no failure, be it before us or behind: nothing takes its place, and nobody learns from it.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_filter_refuses_stays_its_answer() {
    for place in PLACES {
        let bulkhead = json!({"bulkhead": {"max_concurrent_calls": 1}});
        let policies: Vec<Value> = REFUSING
            .iter()
            .map(|(kind, ..)| with(fragile(&name(kind), 1, later()), bulkhead.clone()))
            .collect();
        let mut scene = scene(&document(&policies), place, &routes()).await;
        empty_the_bucket(&mut scene).await;
        for &(kind, status, details) in REFUSING {
            let policy = name(kind);
            let mut asked = 0;
            for protocol in [Protocol::Http1, Protocol::Http2] {
                for _ in 0..WORKERS {
                    let Played { case, answer } =
                        scene.ask(protocol, Request::get(&format!("/{policy}"))).await;
                    let what = format!("{kind} {place:?}");
                    assert_eq!(
                        (answer.status, answer.header("x-resilience")),
                        (status, String::new()),
                        "{what}"
                    );
                    assert!(scene.logged(&case).await.contains(details), "{what}");
                    asked += 1;
                    if place == Place::Behind {
                        // It took the permit, and gave it back.
                        scene.empty(&policy).await;
                    }
                }
            }
            let seen = if place == Place::Behind { asked } else { 0 };
            scene.edge.wait_calls(&policy, calls(0, 0, seen)).await;
            assert_eq!(
                (scene.opened(&policy).await, scene.edge.count(REJECTIONS, &[("policy", &policy)]).await),
                (0, 0)
            );
        }
        assert_eq!(scene.edge.count(FALLBACKS, &[]).await, 0, "{place:?}");
        assert_eq!(scene.world.upstream.requests(), 1, "{place:?}: the first token");
        scene.sound();
    }
}

/// In front they keep whom they keep out from our answers; behind they are never asked about what we refuse.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_in_front_is_asked_first() {
    for place in PLACES {
        let forced = json!({"circuit_breaker": {"mode": "forced_open", "consecutive_failures": 1}});
        let policies: Vec<Value> = REFUSING
            .iter()
            .map(|(kind, ..)| with(fragile(&name(kind), 1, later()), forced.clone()))
            .collect();
        let mut scene = scene(&document(&policies), place, &routes()).await;
        empty_the_bucket(&mut scene).await;
        for &(kind, status, _) in REFUSING {
            let policy = name(kind);
            for _ in 0..WORKERS {
                let answer = scene.ask(Protocol::Http1, Request::get(&format!("/{policy}"))).await.answer;
                let (expected, mark) = match place {
                    Place::Front => (status, String::new()),
                    Place::Behind => (200, mark(&policy, "circuit_open", "static")),
                };
                assert_eq!(
                    (answer.status, answer.header("x-resilience")),
                    (expected, mark),
                    "{kind} {place:?}"
                );
            }
            let refused = if place == Place::Behind { WORKERS as u64 } else { 0 };
            assert_eq!(scene.refused(&policy, "circuit_open").await, refused, "{kind} {place:?}");
        }
        scene.sound();
    }
}

/// A bucket in front pays for what we refuse; one behind is for what goes to the upstream.
#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_in_front_counts_what_we_refuse() {
    for place in PLACES {
        let forced = json!({"circuit_breaker": {"mode": "forced_open", "consecutive_failures": 1}});
        let document = document(&[with(fragile("rate-limit", 1, later()), forced)]);
        let mut scene = scene(&document, place, &routes()).await;
        // One token: of two that we refuse the second never comes to us where the bucket is in front.
        let mut statuses = Vec::new();
        for _ in 0..2 {
            statuses.push(scene.ask(Protocol::Http1, Request::get("/rate-limit")).await.answer.status);
        }
        let after = scene.get("/rate-limit-first", "").await.status;
        let expected = if place == Place::Front { ([200, 429], 429) } else { ([200, 200], 200) };
        assert_eq!((statuses.as_slice(), after), (expected.0.as_slice(), expected.1), "{place:?}");
    }
}

/// Behind us a refusal takes a probe with it; it says nothing, and the next request probes.
#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_another_filter_refuses_is_handed_back() {
    for place in PLACES {
        let breaker = json!({"circuit_breaker": {
            "consecutive_failures": 1,
            "wait_duration_in_open_state": "50ms",
            "permitted_number_of_calls_in_half_open_state": 1,
            "max_wait_duration_in_half_open_state": FOR_EVER,
        }});
        let mut routes = routes();
        // Only who says so is denied.
        for route in &mut routes {
            route["match"]["headers"] = json!([{"name": "x-deny", "present_match": true}]);
        }
        let policies: Vec<Value> = REFUSING
            .iter()
            .map(|(kind, ..)| with(fragile(&name(kind), 1, json!([])), breaker.clone()))
            .collect();
        let mut scene = scene(&document(&policies), place, &routes).await;
        for &(kind, status, _) in REFUSING {
            let policy = name(kind);
            let path = format!("/{policy}");
            if kind == "rate_limit" {
                let first = Request::get("/rate-limit-first").header("x-deny", "1");
                assert_eq!(scene.ask(Protocol::Http1, first).await.answer.status, 200);
            }
            assert_eq!(scene.get(&path, "status=500").await.status, 500);
            pass(Instant::now(), Duration::from_millis(50)).await;
            for _ in 0..WORKERS {
                let denied =
                    scene.ask(Protocol::Http1, Request::get(&path).header("x-deny", "1")).await.answer;
                assert_eq!(
                    (denied.status, denied.header("x-resilience")),
                    (status, String::new()),
                    "{kind} {place:?}"
                );
            }
            let state = if place == Place::Behind { 1 } else { 2 };
            assert_eq!(scene.edge.state(&policy).await, Some(state), "{kind} {place:?}");
            assert_eq!(scene.get(&path, "status=200").await.status, 200, "{kind} {place:?}");
            assert_eq!(scene.edge.transitions(&policy, "closed", "probes").await, 1, "{kind} {place:?}");
        }
        scene.sound();
    }
}

/// An authorization server that does not answer holds our permits where it is asked behind us.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_pauses_behind_us_does_so_with_our_permits() {
    for place in PLACES {
        let policy = with(fragile("shop", 1000, later()), json!({"bulkhead": {"max_concurrent_calls": 1}}));
        let mut route = route_of("ext_authz", "/shop").expect("a route");
        route["typed_per_filter_config"]["envoy.filters.http.ext_authz"]["check_settings"] = json!({});
        let mut filters = filters_behind();
        let authz = filters.iter_mut().find(|it| it["name"] == "envoy.filters.http.ext_authz").expect("it");
        let service = json!({"uri": "http://upstream", "cluster": "upstream", "timeout": "60s"});
        authz["typed_config"]["http_service"] = json!({"server_uri": service, "path_prefix": "/authz"});
        let (front, behind) =
            if place == Place::Front { (&filters[..], &[][..]) } else { (&[][..], &filters[..]) };
        let mut scene = Scene::placed(&document(&[policy]), &[route], front, behind).await;
        scene.world.upstream.behave_on("/authz/shop", Behaviour::hang());
        let first = scene.http2.next_worker().start(Request::get("/shop")).await.expect("a connection");
        scene.world.upstream.wait_requests(1).await;
        let second = scene.http2.next_worker().start(Request::get("/shop")).await.expect("a connection");
        if place == Place::Behind {
            let answer = second.headers().await.expect("an answer").finish().await;
            assert_eq!(answer.header("x-resilience"), mark("shop", "bulkhead_full", "static"));
            assert_eq!(scene.world.upstream.requests_to("/authz/shop"), 1, "it was not asked about that one");
        } else {
            scene.world.upstream.wait_requests(2).await;
            assert_eq!(scene.edge.gauge(IN_FLIGHT, "shop").await.unwrap_or(0), 0);
            assert_eq!(scene.world.upstream.requests_to("/authz/shop"), 2);
            second.abandon();
            // It must not be there any more when the authorizations come.
            scene.world.upstream.wait_in_flight(1).await;
        }
        scene.world.upstream.release();
        let answer = first.headers().await.expect("an answer").finish().await;
        assert_eq!((answer.status, answer.header("x-resilience")), (200, String::new()), "{place:?}");
        scene.empty("shop").await;
        scene.sound();
    }
}
