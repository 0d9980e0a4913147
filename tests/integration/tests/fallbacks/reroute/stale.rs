//! The operator's route is missing, or leads elsewhere: the request goes where it would have gone, nothing says that it is
//! degraded, and nobody learns from it.

use super::*;

/// A guard that one failure would open, and that holds what is in flight.
fn policies() -> Value {
    let sections = json!({
        "circuit_breaker": {"consecutive_failures": 1, "wait_duration_in_open_state": FOR_EVER},
        "bulkhead": {"max_concurrent_calls": 1},
        "fallback": [{"static": {"status": 202, "text": "the guard's"}}],
    });
    document(&[shut("shop", json!([elsewhere()])), guard(sections)])
}

fn without_a_route(manager: &mut Value) {
    manager["route_config"]["virtual_hosts"][0]["routes"].as_array_mut().expect("routes").remove(0);
}

fn to_another_cluster(manager: &mut Value) {
    manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]["cluster"] = "h2".into();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_elsewhere_than_it_was_sent_is_not_marked_and_proves_nothing() {
    for (way, shape) in
        [("no route", without_a_route as fn(&mut Value)), ("another cluster", to_another_cluster)]
    {
        let mut scene = Scene::shaped(&policies(), &[], &[], &[], shape).await;
        let mut sent = 0;
        for protocol in [Protocol::Http1, Protocol::Http2] {
            for (words, status) in
                [("status=500", 500), ("status=200", 200), ("status=500; body=", 500), ("close", 503)]
            {
                let request = told(Request::get("/shop"), words);
                let answer = scene.ask(protocol, request).await.answer;
                // Its answer is not the guard's to replace either.
                assert_eq!((answer.status, marked(&answer)), (status, Vec::new()), "{way}: {words}");
                sent += 1;
                // The one permit comes back.
                scene.empty("guard").await;
            }
            let theirs = told(Request::get("/shop"), "status=200; header=x-resilience:far");
            assert_eq!(marked(&scene.ask(protocol, theirs).await.answer), ["far"], "{way}");
            sent += 1;
            scene.empty("guard").await;
        }
        assert_eq!((scene.world.upstream.requests() as u64, scene.spare.requests()), (sent, 0), "{way}");
        let seen = scene.edge.calls("guard").await;
        // Of successes each worker looks at one in so many.
        assert_eq!((seen.failure, scene.opened("guard").await), (0, 0), "{way}: {seen:?}");
        assert_eq!(seen.success + seen.ignored, sent, "{way}");
        assert!(seen.ignored >= 6, "{way}: {seen:?}");
        assert_eq!(scene.edge.count(STALE, &[("policy", "guard")]).await, seen.ignored, "{way}");
        assert_eq!(scene.refused("shop", "circuit_open").await, sent, "{way}");
        assert_eq!(scene.edge.count(FALLBACKS, &[]).await, 0, "{way}: nothing was degraded");
        let warning = scene.edge.envoy.wait_log("x-resilience-reroute").await;
        assert!(
            warning.contains("[warning]") && warning.contains("policy shop") && warning.contains(SPARE),
            "{warning}"
        );
        scene.sound();
    }
}

/// The header names a cluster that this Envoy does not have.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_does_not_exist_is_nobodys_failure() {
    let nowhere = json!({"reroute": {"cluster": "nowhere", "policy": "guard"}});
    let sections = json!({
        "circuit_breaker": {"consecutive_failures": 1, "wait_duration_in_open_state": FOR_EVER},
        "bulkhead": {"max_concurrent_calls": 1},
    });
    let document = document(&[shut("shop", json!([nowhere])), guard(sections)]);
    let mut scene = Scene::shaped(&document, &[], &[], &[], by_cluster_header).await;
    for _ in 0..WORKERS {
        let Played { case, answer } = scene.ask(Protocol::Http1, Request::get("/shop")).await;
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(scene.logged(&case).await.contains("cluster_not_found"));
        scene.empty("guard").await;
    }
    assert_eq!(scene.opened("guard").await, 0);
    assert_eq!(scene.edge.calls("guard").await, calls(0, 0, WORKERS as u64));
    assert_eq!((scene.world.upstream.requests(), scene.spare.requests()), (0, 0));
    scene.sound();
}
