//! What the guard does with what comes to it: as with any request of its own, but for its reroutes, and for its refusals, which
//! leave the request to the next entry.

use super::*;

fn text(text: &str) -> Value {
    json!({"static": {"status": 200, "text": text}})
}

/// A rerouted request whose failure is the guard's evidence, then what is refused by it.
#[tokio::test(flavor = "multi_thread")]
async fn its_breaker_opens_and_leaves_the_request_to_the_next_entry() {
    let fragile_guard =
        json!({"circuit_breaker": {"consecutive_failures": 2, "wait_duration_in_open_state": FOR_EVER}});
    let policies = [
        shut("next", json!([elsewhere(), text("next")])),
        shut("none", json!([elsewhere()])),
        shut("loud", json!([elsewhere(), {"fail": {"status": 502, "retry_after": "7s"}}])),
        guard(fragile_guard),
    ];
    let mut scene = Scene::open(&document(&policies)).await;
    for _ in 0..2 {
        let request = told(Request::get("/next"), "status=500");
        let answer = scene.ask(Protocol::Http1, request).await.answer;
        assert_eq!((answer.status, marked(&answer)), (500, vec![mark("next", "circuit_open", "reroute")]));
    }
    scene.edge.wait_calls("guard", calls(0, 2, 0)).await;
    assert_eq!(scene.edge.transitions("guard", "open", "consecutive_failures").await, 1);
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for _ in 0..WORKERS {
            for (path, status, source, again) in
                [("/next", 200, "static", ""), ("/none", 503, "none", ""), ("/loud", 502, "fail", "7")]
            {
                let Played { case, answer } = scene.ask(protocol, Request::get(path)).await;
                let mark = mark(&path[1..], "circuit_open", source);
                assert_eq!((answer.status, marked(&answer)), (status, vec![mark]), "{path}");
                assert_eq!(answer.header("retry-after"), again, "{path}: the guard's wait is not its own");
                assert!(
                    scene.logged(&case).await.ends_with(&format!("resilience:{}:circuit_open", &path[1..]))
                );
            }
        }
    }
    let each = 2 * WORKERS as u64;
    assert_eq!((scene.spare.requests(), scene.world.upstream.requests()), (2, 0));
    // Each request was refused by both, and answered by one.
    assert_eq!(scene.refused("guard", "circuit_open").await, 3 * each);
    assert_eq!(scene.refused("next", "circuit_open").await, each + 2);
    assert_eq!(scene.fallbacks("next", "circuit_open", "reroute").await, 2);
    assert_eq!(scene.fallbacks("next", "circuit_open", "static").await, each);
    assert_eq!(scene.fallbacks("loud", "circuit_open", "fail").await, each);
    assert_eq!(scene.edge.count(FALLBACKS, &[("policy", "none")]).await, 0);
    assert_eq!(scene.edge.count(FALLBACKS, &[("policy", "guard")]).await, 0);
    scene.edge.wait_calls("guard", calls(0, 2, 0)).await;
    scene.sound();
}

/// It guards: for whom it refuses, others have entries. For what fails it has its own.
#[tokio::test(flavor = "multi_thread")]
async fn its_own_fallback_answers_for_failures_only() {
    let fallback = json!([text("the guard's"), {"on": ["refusal"], "reroute": {"cluster": "upstream", "policy": "shop"}}]);
    let sections = json!({
        "circuit_breaker": {"consecutive_failures": 5, "wait_duration_in_open_state": FOR_EVER},
        "timeout": {"total": "2s"},
        "fallback": fallback,
    });
    let policies = [shut("shop", json!([elsewhere(), text("the shop's")])), guard(sections)];
    let mut scene = Scene::open(&document(&policies)).await;
    let elsewhere = mark("shop", "circuit_open", "reroute");
    for (words, reason) in [
        ("status=500", "upstream_failure"),
        ("status=500; body=", "upstream_failure"),
        ("close", "reset"),
        ("hang", "timeout"),
        ("status=503; header=x-resilience:far", "upstream_failure"),
    ] {
        let answer = scene.ask(Protocol::Http1, told(Request::get("/shop"), words)).await.answer;
        let marks = format!("{elsewhere}, {}", mark("guard", reason, "static"));
        let marks = if words.contains("far") { format!("far, {marks}") } else { marks };
        assert_eq!(
            (answer.status, answer.text().as_str(), marked(&answer)),
            (200, "the guard's", vec![marks]),
            "{words}"
        );
    }
    scene.edge.wait_calls("guard", calls(0, 5, 0)).await;
    let answer = scene.ask(Protocol::Http1, Request::get("/shop")).await.answer;
    assert_eq!(
        (answer.text().as_str(), marked(&answer)),
        ("the shop's", vec![mark("shop", "circuit_open", "static")])
    );
    assert_eq!((scene.spare.requests(), scene.world.upstream.requests()), (5, 0));
    for (policy, reason, source, times) in [
        ("guard", "upstream_failure", "static", 3),
        ("guard", "reset", "static", 1),
        ("guard", "timeout", "static", 1),
        ("shop", "circuit_open", "reroute", 5),
        ("shop", "circuit_open", "static", 1),
    ] {
        assert_eq!(scene.fallbacks(policy, reason, source).await, times, "{policy} {reason}");
    }
    assert_eq!(scene.edge.count(FALLBACKS, &[]).await, 11);
    scene.sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_the_first_whose_guard_lets_it_in_takes_it_and_no_other() {
    let third = json!({"reroute": {"cluster": "upstream", "policy": "third"}});
    let policies = [
        shut("shop", json!([elsewhere(), third, text("nobody")])),
        guard(
            json!({"circuit_breaker": {"consecutive_failures": 1, "wait_duration_in_open_state": FOR_EVER}}),
        ),
        fragile("third", 1, json!([])),
    ];
    let document = document(&policies);
    let mut scene = Scene::shaped(&document, &[], &[], &[], by_cluster_header).await;
    for (words, status, body, source, reached) in [
        ("status=500", 500, "upstream\n", "reroute", (1, 0)),
        ("status=200", 200, "upstream\n", "reroute", (1, 1)),
        ("status=500", 500, "upstream\n", "reroute", (1, 2)),
        ("status=200", 200, "nobody", "static", (1, 2)),
    ] {
        let answer = scene.ask(Protocol::Http2, told(Request::get("/shop"), words)).await.answer;
        assert_eq!((answer.status, answer.text().as_str()), (status, body));
        assert_eq!(marked(&answer), [mark("shop", "circuit_open", source)]);
        assert_eq!((scene.spare.requests(), scene.world.upstream.requests()), reached);
    }
    assert_eq!(scene.fallbacks("shop", "circuit_open", "reroute").await, 3);
    assert_eq!(
        (scene.refused("guard", "circuit_open").await, scene.refused("third", "circuit_open").await),
        (3, 1)
    );
    scene.edge.wait_calls("third", calls(1, 1, 0)).await;
    scene.edge.wait_calls("guard", calls(0, 1, 0)).await;
    scene.sound();
}

/// What is tried again is tried where it went, by the guard's word.
#[tokio::test(flavor = "multi_thread")]
async fn its_retries_and_its_time_are_the_requests() {
    let retries = json!({"retry": {"max_retries": 2, "retry_on": ["5xx"]}});
    let policies = [shut("shop", json!([elsewhere()])), guard(retries)];
    let mut scene = Scene::open(&document(&policies)).await;
    let answer = scene.ask(Protocol::Http1, told(Request::get("/shop"), "status=503")).await.answer;
    assert_eq!((answer.status, scene.spare.requests()), (503, 3));
    scene.edge.wait_calls("guard", calls(0, 1, 0)).await;

    let timeout = json!({"timeout": {"total": "300ms"}});
    let policies = [shut("shop", json!([elsewhere()])), guard(timeout)];
    let mut scene = Scene::open(&document(&policies)).await;
    for request in
        [Request::get("/shop"), Request::post("/shop", "a body"), Request::post("/shop", "half").unfinished()]
    {
        let answer = scene.ask(Protocol::Http2, told(request, "whole; hang")).await.answer;
        assert_eq!(answer.status, 504);
        assert!(marked(&answer)[0].starts_with(&mark("shop", "circuit_open", "reroute")), "{answer:?}");
    }
    scene.edge.wait_calls("guard", calls(0, 2, 1)).await;
    assert_eq!(scene.spare.requests(), 3);
    assert_eq!(scene.fallbacks("shop", "circuit_open", "reroute").await, 3);
    assert_eq!(scene.edge.count(FALLBACKS, &[]).await, 3);
    scene.sound();
}

/// A deadline goes on with the request; the policy's own is over for what it has refused for it.
#[tokio::test(flavor = "multi_thread")]
async fn the_requests_own_deadline_shortens_the_guards_time() {
    let own = json!({"timeout": {"deadline_header": "x-deadline-ms"}});
    let policies =
        [with(shut("shop", json!([elsewhere()])), own), guard(json!({"timeout": {"total": "5m"}}))];
    let mut document = document(&policies);
    document["trust_caller_headers"] = true.into();
    let mut scene = Scene::open(&document).await;
    for _ in 0..WORKERS {
        let hurried = told(Request::get("/shop"), "hang").header("x-deadline-ms", "300");
        let answer = scene.ask(Protocol::Http1, hurried).await.answer;
        assert_eq!((answer.status, marked(&answer)), (504, vec![mark("shop", "circuit_open", "reroute")]));
    }
    let patient = told(Request::get("/shop"), "delay=500ms");
    assert_eq!(scene.ask(Protocol::Http1, patient).await.answer.status, 200);
    assert_eq!(scene.spare.requests(), WORKERS + 1);
    scene.sound();
}
