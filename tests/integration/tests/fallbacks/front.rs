//! What stands in front of us does to an answer of ours what it does to any other, if that is where the failed one was, or comes
//! with the request. One that is sent past it has what its entry says.

use crate::*;
use flate2::read::GzDecoder;
use resilience_test_harness::config::typed;
use std::io::Read;

const ORIGIN: &str = "https://shop.example";
const ALLOW: &str = "access-control-allow-origin";

fn cors_and_gzip() -> [Value; 2] {
    let library = json!({
        "name": "gzip",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.compression.gzip.compressor.v3.Gzip",
        },
    });
    let types = ["text/plain", "application/json", "application/problem+json"];
    let compressor = json!({
        "compressor_library": library,
        "response_direction_config": {"common_config": {"min_content_length": 30, "content_type": types}},
    });
    [
        typed("envoy.filters.http.cors", "extensions.filters.http.cors.v3.Cors", json!({})),
        typed(
            "envoy.filters.http.compressor",
            "extensions.filters.http.compressor.v3.Compressor",
            compressor,
        ),
    ]
}

fn allowing(manager: &mut Value) {
    manager["route_config"]["virtual_hosts"][0]["typed_per_filter_config"] = json!({
        "envoy.filters.http.cors": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
            "allow_origin_string_match": [{"exact": ORIGIN}],
            "expose_headers": "x-resilience",
        },
    });
}

fn page() -> String {
    "The shop is closed for the moment. ".repeat(100)
}

/// The entry's own header is one that no filter sets.
fn entry() -> Value {
    json!({"static": {
        "status": 200,
        "headers": {"access-control-max-age": "60"},
        "text": page(),
    }})
}

fn from_a_browser(request: Request) -> Request {
    request.header("origin", ORIGIN).header("accept-encoding", "gzip, deflate, br")
}

fn unzipped(answer: &Answer) -> String {
    assert_eq!(all(&answer.headers, "content-encoding"), ["gzip"], "{:?}", answer.headers);
    let mut text = String::new();
    GzDecoder::new(&*answer.body).read_to_string(&mut text).expect("gzip");
    text
}

async fn scene(policies: &[Value], routes: &[Value]) -> Scene {
    Scene::shaped(&document(policies), routes, &cors_and_gzip(), &[], allowing).await
}

fn routes(path: &str) -> Vec<Value> {
    let of = |route: &str| route_of(route, &format!("{path}/{route}")).expect("a route");
    ["h2", "refused", "no_host", "timeout"].map(of).to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_in_the_place_of_another_keeps_cors_and_gzip() {
    let policy = with(fragile("shop", 1000, json!([entry()])), json!({"retry_budget": {}}));
    let mut scene = scene(&[policy], &routes("/shop")).await;
    let zipped = "status=503; size=5000; header=content-encoding:gzip; header=content-type:text/plain";
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for (path, words) in [
            ("/shop", "status=500"),
            ("/shop", "status=500; size=100000"),
            ("/shop", "status=500; chunked"),
            ("/shop", zipped),
            ("/shop/h2", "status=500"),
            ("/shop/h2", "status=500; chunked; trailer=x-sum:7"),
            ("/shop/h2", "reset"),
            ("/shop/refused", ""),
            ("/shop/no_host", ""),
            ("/shop/timeout", "hang"),
        ] {
            let request = from_a_browser(told(Request::get(path), words));
            let Played { case, answer } = scene.ask(protocol, request).await;
            let what = format!("{path} {words} over {protocol:?}");
            assert_eq!((answer.status, unzipped(&answer)), (200, page()), "{what}");
            assert_eq!(all(&answer.headers, ALLOW), [ORIGIN], "{what}");
            assert_eq!(answer.header("access-control-expose-headers"), "x-resilience", "{what}");
            assert_eq!(answer.header("access-control-max-age"), "60", "{what}");
            assert!(answer.header("x-resilience").ends_with("source=static"), "{what}");
            assert!(answer.header("vary").to_lowercase().contains("accept-encoding"), "{what}");
            assert!(!scene.logged(&case).await.contains("resilience:"), "{what}");
        }
        // Who does not ask for it gets it plain.
        let request = told(Request::get("/shop"), "status=500").header("origin", ORIGIN);
        let answer = scene.ask(protocol, request).await.answer;
        assert_eq!((answer.text(), all(&answer.headers, ALLOW)), (page(), vec![ORIGIN.to_owned()]));
    }
    scene.sound();
}

/// Over HTTP/2 and without a length only the request's method tells whether a body can take the place of another. Who has no other
/// reason to look at it does so from the first such answer on.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_looks_at_methods_once_it_has_to() {
    let mut scene = scene(&[fragile("shop", 1000, json!([entry()]))], &routes("/shop")).await;
    let mut connection = Connection::open(scene.edge.address, Protocol::Http1).await.expect("a connection");
    for (words, in_place) in
        [("status=500", true), ("status=500; chunked", false), ("status=500; chunked", true)]
    {
        let case = scene.case();
        let request = from_a_browser(told(Request::get("/shop/h2"), words)).header("x-case", &case);
        let answer = connection.send(request).await.expect("an answer");
        let text = if in_place { unzipped(&answer) } else { answer.text() };
        assert_eq!((answer.status, text), (200, page()), "{words}");
        assert_eq!(!scene.logged(&case).await.contains("resilience:"), in_place, "{words}");
    }
    let head = connection.send(told(Request::new(Method::HEAD, "/shop/h2"), "status=500; chunked")).await;
    assert_eq!(head.expect("an answer").body.len(), 0);
    assert!(connection.is_open());
    scene.sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_sent_past_them_has_what_its_entry_says() {
    let mut allowed = entry();
    allowed["static"]["headers"][ALLOW] = "https://own.example".into();
    let policies = [fragile("shop", 1000, json!([entry()])), fragile("allowed", 1000, json!([allowed]))];
    let mut scene = scene(&policies, &[route_of("h2", "/shop/h2").expect("a route")]).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for (path, words, allow) in [
            ("/shop", "status=500; body=", None),
            ("/shop/h2", "status=500; body=; chunked", None),
            ("/allowed", "status=500; body=", Some("https://own.example")),
        ] {
            let request = from_a_browser(told(Request::get(path), words));
            let Played { case, answer } = scene.ask(protocol, request).await;
            let what = format!("{path} {words} over {protocol:?}");
            assert_eq!((answer.status, answer.text()), (200, page()), "{what}");
            let allow: Vec<&str> = allow.into_iter().collect();
            assert_eq!(all(&answer.headers, ALLOW), allow, "{what}");
            assert_eq!(all(&answer.headers, "content-encoding"), Vec::<String>::new(), "{what}");
            assert_eq!(answer.header("access-control-max-age"), "60", "{what}");
            assert!(scene.logged(&case).await.contains(":upstream_failure"), "{what}");
        }
        // One that has no body needs none of that: it is in the place of the other.
        let request = from_a_browser(told(Request::new(Method::HEAD, "/shop"), "status=500"));
        let Played { case, answer } = scene.ask(protocol, request).await;
        assert_eq!((answer.status, all(&answer.headers, ALLOW)), (200, vec![ORIGIN.to_owned()]));
        assert!(!scene.logged(&case).await.contains("resilience:"));
    }
    scene.sound();
}

/// A refusal comes with the request: it passes everybody on its way back, as Envoy's own answers do.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_keeps_cors_and_gzip() {
    let upload = with(fragile("upload", 1, json!([entry()])), json!({"timeout": {"total": "500ms"}}));
    let fail = json!([{"fail": {"status": 503}}]);
    let policies = [
        fragile("shop", 1, json!([entry()])),
        fragile("loud", 1, fail),
        fragile("none", 1, json!([])),
        upload,
    ];
    let mut scene = scene(&policies, &[]).await;
    for path in ["/shop", "/loud", "/none"] {
        scene.get(path, "status=500").await;
    }
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for (path, body, source) in
            [("/shop", page(), "static"), ("/loud", problem(), "fail"), ("/none", problem(), "none")]
        {
            let Played { case, answer } = scene.ask(protocol, from_a_browser(Request::get(path))).await;
            assert_eq!(unzipped(&answer), body, "{path}");
            assert_eq!(all(&answer.headers, ALLOW), [ORIGIN], "{path}");
            assert!(answer.header("x-resilience").ends_with(&format!("source={source}")), "{path}");
            assert!(scene.logged(&case).await.ends_with(":circuit_open"), "{path}");
        }
        // So does one that comes while the request is still on its way.
        let slow = told(Request::post("/upload", "half").unfinished(), "whole");
        let answer = scene.ask(protocol, from_a_browser(slow)).await.answer;
        assert_eq!((unzipped(&answer), all(&answer.headers, ALLOW)), (page(), vec![ORIGIN.to_owned()]));
        scene.http1 = scene.edge.clients(Protocol::Http1).await;
    }
    scene.sound();
}

fn problem() -> String {
    r#"{"title":"Service Unavailable","status":503,"detail":"circuit_open"}"#.to_owned()
}
