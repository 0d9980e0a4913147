//! What began is never touched; what is in the place of an answer is whole, or seen to be broken, whatever that does later.

use crate::*;

fn shop(fallback: Value) -> Value {
    document(&[fragile("shop", 1000, fallback)])
}

fn page() -> Value {
    json!([{"static": {"status": 200, "text": "Later."}}])
}

/// Both kinds of upstream.
fn routes() -> [Value; 1] {
    [route_of("grpc", "/shop/h2").expect("a route")]
}

/// Answers of these words that break off in mid-body, in every way: each with what it was. Played at once, because Envoy takes its
/// time to close a connection.
async fn dying(scene: &Scene, words: &str) -> Vec<(String, Answer)> {
    let mut playing = Vec::new();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for path in ["/shop", "/shop/h2"] {
            for form in ["size=1000", "size=1000; chunked", "size=500000", "size=500000; chunked"] {
                // To close a connection of HTTP/2 would break the others on it.
                let ends = ["reset-mid-body", "close-mid-body"];
                for end in if path == "/shop" { &ends[..] } else { &ends[..1] } {
                    let request = told(Request::get(path), &format!("{words}; {form}; {end}"));
                    let what = format!("{form}; {end} at {path} over {protocol:?}");
                    playing.push((what, tokio::spawn(send_once(scene.edge.address, protocol, request))));
                }
            }
        }
    }
    let mut played = Vec::new();
    for (what, task) in playing {
        let answer = task.await.expect("no panic").unwrap_or_else(|error| panic!("{what}: {error}"));
        played.push((what, answer));
    }
    played
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_dies_in_mid_body_is_seen_to_break() {
    let mut scene = Scene::routed(&shop(page()), &routes()).await;
    let played = dying(&scene, "header=x-shop:open").await;
    for (what, answer) in &played {
        assert_eq!((answer.status, answer.header("x-shop")), (200, "open".to_owned()), "{what}");
        assert!(answer.broken.is_some() && answer.trailers.is_empty(), "{what}: {answer:?}");
        assert!(answer.body.iter().all(|byte| *byte == b'.'), "{what}");
        assert_eq!(all(&answer.headers, "x-resilience"), Vec::<String>::new(), "{what}");
    }
    scene.edge.wait_calls("shop", calls(0, played.len() as u64, 0)).await;
    assert_eq!(scene.edge.count(FALLBACKS, &[]).await, 0);
    assert_eq!(scene.get("/shop", "status=500").await.text(), "Later.");
    scene.sound();
}

/// Its headers went on before anybody knew.
#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_status_that_comes_in_trailers_is_not_touched() {
    let mut scene = Scene::routed(&shop(page()), &routes()).await;
    let codes = [2, 4, 13, 14, 15];
    for code in codes {
        for body in ["", "; body="] {
            let words = format!("grpc={code}{body}; trailer=grpc-message:as told");
            let request = told(Request::grpc("/shop/h2"), &words);
            let answer = scene.ask(Protocol::Http2, request).await.answer;
            assert_eq!((answer.status, answer.header("grpc-status")), (200, String::new()), "{words}");
            assert_eq!(answer.trailer("grpc-status"), code.to_string(), "{words}");
            assert_eq!(answer.trailer("grpc-message"), "as told", "{words}");
            assert_eq!((answer.body.len(), &answer.broken), (if body.is_empty() { 5 } else { 0 }, &None));
            for of in [&answer.headers, &answer.trailers] {
                assert_eq!(all(of, "x-resilience"), Vec::<String>::new(), "{words}");
            }
        }
    }
    scene.edge.wait_calls("shop", calls(0, 2 * codes.len() as u64, 0)).await;
    assert_eq!(scene.edge.count(FALLBACKS, &[]).await, 0);
    // One in the headers is.
    let answer =
        scene.ask(Protocol::Http2, told(Request::grpc("/shop/h2"), "grpc-trailers-only=13")).await.answer;
    assert_eq!(
        (answer.header("grpc-status"), answer.header("grpc-message")),
        ("14".into(), "upstream_failure".into())
    );
    assert_eq!(scene.fallbacks("shop", "upstream_failure", "static").await, 1);
    scene.sound();
}

/// The caller has ours, or sees that it has not got it whole: never a part of it that seems to be all.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_answer_that_dies_in_mid_body_is_replaced_whole_or_seen_to_break() {
    let large = "ours ".repeat(40_000);
    let fallback = json!([{"static": {"status": 200, "text": large}}]);
    let mut scene = Scene::routed(&shop(fallback), &routes()).await;
    let dying = dying(&scene, "status=500").await;
    for (what, answer) in &dying {
        assert_eq!(answer.status, 200, "{what}");
        assert_eq!(answer.header("x-resilience"), mark("shop", "upstream_failure", "static"), "{what}");
        let is_whole = answer.text() == large;
        assert!(large.starts_with(&answer.text()), "{what}: not ours");
        assert!(is_whole || answer.broken.is_some(), "{what}: a part of it, as if it were all");
    }
    let played = dying.len() as u64;
    // Each was one failure, and not another when it broke.
    scene.edge.wait_calls("shop", calls(0, played, 0)).await;
    assert_eq!(scene.fallbacks("shop", "upstream_failure", "static").await, played);
    assert_eq!(scene.get("/shop", "status=200").await.text(), "upstream\n");
    scene.edge.wait_calls("shop", calls(1, played, 0)).await;
    scene.sound();
}

/// Ours does not wait for the rest of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_answer_that_stops_in_mid_body_keeps_nobody_waiting() {
    let scene = Scene::routed(&shop(page()), &routes()).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for (path, form) in
            [("/shop", ""), ("/shop", "; chunked"), ("/shop/h2", ""), ("/shop/h2", "; chunked")]
        {
            let what = format!("{form} at {path} over {protocol:?}");
            let words = format!("status=500; size=100000{form}; hang-mid-body");
            let mut connection = Connection::open(scene.edge.address, protocol).await.unwrap();
            let pending = connection.start(told(Request::get(path), &words)).await.unwrap();
            let mut streaming = pending.headers().await.unwrap();
            assert_eq!(streaming.status, 200, "{what}");
            let first = streaming.chunk().await.unwrap().expect("a body");
            assert_eq!(first, "Later.", "{what}");
            scene.world.upstream.release();
            let rest = streaming.finish().await;
            assert_eq!((rest.body.len(), rest.broken), (0, None), "{what}");
            // And the connection goes on.
            let next = connection.send(Request::get("/shop")).await.unwrap();
            assert_eq!((next.status, next.text().as_str()), (200, "upstream\n"), "{what}");
        }
    }
    scene.edge.wait_calls("shop", calls(8, 8, 0)).await;
    scene.sound();
}

/// The upstream need not have the whole request to fail.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_before_the_request_is_whole_is_replaced() {
    let scene = Scene::routed(&shop(page()), &routes()).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for form in ["", "; chunked", "; body="] {
            let request = Request::post("/shop/h2", vec![b'.'; 10_000]).unfinished();
            let request = told(request, &format!("status=500{form}"));
            let mut connection = Connection::open(scene.edge.address, protocol).await.unwrap();
            let answer = connection.send(request).await.unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (200, "Later."), "{form} over {protocol:?}");
        }
    }
    assert_eq!(scene.fallbacks("shop", "upstream_failure", "static").await, 6);
    scene.sound();
}
