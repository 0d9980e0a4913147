//! What filters in front of us, and the connection manager, do to an answer that is ours.

use super::local::{CAUSES, Stage};
use super::scene::BOTH;
use resilience_test_harness::config::typed;
use resilience_test_harness::{Answer, Method, Protocol, Request};
use serde_json::{Value, json};

/// CORS, and behind it compression of what is longer than 30 bytes.
fn browsers(manager: &mut Value) {
    let cors = typed("envoy.filters.http.cors", "extensions.filters.http.cors.v3.Cors", json!({}));
    let library = typed("gzip", "extensions.compression.gzip.compressor.v3.Gzip", json!({}));
    let compressor = json!({"compressor_library": library});
    let gzip = typed("gzip", "extensions.filters.http.compressor.v3.Compressor", compressor);
    let filters = manager["http_filters"].as_array_mut().expect("filters");
    filters.splice(0..0, [cors, gzip]);
    manager["route_config"]["virtual_hosts"][0]["typed_per_filter_config"] = json!({
        "envoy.filters.http.cors": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
            "allow_origin_string_match": [{"exact": "http://shop"}],
        }
    });
}

/// Long enough to be compressed.
const LENGTH: usize = 100;

fn from_a_browser(request: Request, behave: &str) -> Request {
    let request = request.header("origin", "http://shop").header("accept-encoding", "gzip");
    if behave.is_empty() { request } else { request.header("x-behave", behave) }
}

/// Whether CORS let it pass, and whether it was compressed: then it is a stream of gzip that says at its end how long it
/// was.
fn treated(answer: &Answer, length: usize) -> (bool, bool) {
    let cors = answer.header("access-control-allow-origin") == "http://shop";
    let gzip = answer.header("content-encoding") == "gzip";
    if gzip {
        assert!(answer.body.starts_with(&[0x1f, 0x8b]) && answer.body.len() < LENGTH, "{:?}", answer.body);
        let trailing = answer.body.last_chunk::<4>().expect("a length");
        assert_eq!(u32::from_le_bytes(*trailing) as usize, length);
    } else {
        assert_eq!(answer.body.len(), length);
    }
    (cors, gzip)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rewritten_in_place_passes_cors_and_compression_and_a_reply_from_response_headers_neither() {
    let mut stage = Stage::new(browsers).await;
    let lengthy = "status=500;header=content-type:image/png;body=uuuuuuuu";
    let chunks = "status=500;chunked;body=uuuuuuuu";
    for (path, behave) in [("/", lengthy), ("/", chunks), ("/none", ""), ("/refused", "")] {
        for down in BOTH {
            let head = "status=503 h:content-type=text/plain";
            let body = "o".repeat(LENGTH);
            for (told, length, expected) in [
                (
                    format!("on-response rewrite {head} remove=content-length fill=100; go"),
                    LENGTH,
                    (true, true),
                ),
                (
                    format!("on-response rewrite {head} h:content-length=100 fill=100; go"),
                    LENGTH,
                    (true, true),
                ),
                // How long it is shows only in a length.
                (format!("on-response rewrite {head} h:content-length=4 body=ours; go"), 4, (true, false)),
                (format!("on-response rewrite {head} remove=content-length body=ours; go"), 4, (true, true)),
                (format!("on-response reply status=503 body={body}; go"), LENGTH, (false, false)),
                (format!("reply status=503 body={body}"), LENGTH, (true, true)),
            ] {
                let request = from_a_browser(Request::get(path), behave);
                let (answer, ..) = stage.send(down, request, &told).await;
                assert_eq!(answer.status, 503, "{told}");
                assert_eq!(treated(&answer, length), expected, "{path} {behave} {down:?} {told}");
            }
        }
    }
}

/// Without a body there is still CORS.
#[tokio::test(flavor = "multi_thread")]
async fn headers_that_are_all_of_an_answer_pass_cors() {
    let mut stage = Stage::new(browsers).await;
    for (path, behave) in [("/", "status=500;body="), ("/unknown", "")] {
        for down in BOTH {
            let told = "on-response rewrite status=503 remove=content-length; go";
            let (answer, ..) = stage.send(down, from_a_browser(Request::get(path), behave), told).await;
            assert_eq!((answer.status, treated(&answer, 0)), (503, (true, false)), "{path} {down:?}");
        }
    }
}

/// It describes a body that is not there any more.
#[tokio::test(flavor = "multi_thread")]
async fn the_upstreams_content_encoding_must_go_with_its_body() {
    let mut stage = Stage::new(browsers).await;
    let behave = "status=500;header=content-encoding:br;header=content-type:text/plain;body=uuuu";
    for (removed, encoding) in [("content-length", "br"), ("content-length,content-encoding", "gzip")] {
        let told = format!("on-response rewrite status=503 remove={removed} fill=100; go");
        let request = from_a_browser(Request::get("/"), behave);
        let (answer, ..) = stage.send(Protocol::Http1, request, &told).await;
        assert_eq!(answer.header("content-encoding"), encoding);
        treated(&answer, LENGTH);
    }
}

/// A failure becomes 418 with another body and a header, and every body is formatted.
fn local_replies(manager: &mut Value) {
    let failed = json!({"op": "GE", "value": {"default_value": 400, "runtime_key": "none"}});
    manager["local_reply_config"] = json!({
        "mappers": [{
            "filter": {"status_code_filter": {"comparison": failed}},
            "status_code": 418,
            "body": {"inline_string": "mapped"},
            "headers_to_add": [{"header": {"key": "x-mapped", "value": "yes"}}],
        }],
        "body_format": {
            "text_format_source": {"inline_string": "%LOCAL_REPLY_BODY% %RESPONSE_CODE%"},
            "content_type": "text/formatted",
        },
    });
}

fn seen(answer: &Answer) -> (u16, String, String, bool) {
    let mapped = answer.headers.contains_key("x-mapped");
    (answer.status, answer.header("content-type"), answer.text(), mapped)
}

#[tokio::test(flavor = "multi_thread")]
async fn local_reply_config_rewrites_our_replies_wherever_they_come_from() {
    let mut stage = Stage::new(local_replies).await;
    for (path, behave) in
        [("/", "whole;status=500;body=theirs"), ("/", "whole;status=500;body="), ("/none", "")]
    {
        for down in BOTH {
            for (told, expected) in [
                ("reply status=503 body=ours", (418, "mapped 418", true)),
                ("on-response reply status=503 body=ours; go", (418, "mapped 418", true)),
                ("on-response reply status=200 body=ours; go", (200, "ours 200", false)),
            ] {
                for method in [Method::GET, Method::HEAD] {
                    let request = Request::new(method.clone(), path);
                    let request =
                        if behave.is_empty() { request } else { request.header("x-behave", behave) };
                    let (answer, ..) = stage.send(down, request, told).await;
                    let (status, body, mapped) = expected;
                    let body = if method == Method::HEAD { "" } else { body };
                    let expected = (status, "text/formatted".to_owned(), body.to_owned(), mapped);
                    assert_eq!(seen(&answer), expected, "{path} {behave} {down:?} {told}");
                }
            }
            // A gRPC status of ours stays, the message does not.
            let told = "on-response reply status=503 grpc=8 body=ours; go";
            let call = Request::grpc(path);
            let call = if behave.is_empty() { call } else { call.header("x-behave", behave) };
            let (answer, ..) = stage.send(Protocol::Http2, call, told).await;
            assert_eq!(
                (answer.header("grpc-status"), answer.header("grpc-message")),
                ("8".to_owned(), "mapped 418".to_owned())
            );
        }
    }
}

/// Not the upstream's, and of Envoy's own it is first: what we see is mapped, and what we write stays.
#[tokio::test(flavor = "multi_thread")]
async fn local_reply_config_does_not_rewrite_what_was_rewritten_in_place() {
    let mut stage = Stage::new(local_replies).await;
    let told = "on-response rewrite status=503 h:content-type=text/ours remove=content-length body=ours; go";
    let ours = |mapped| (503, "text/ours".to_owned(), "ours".to_owned(), mapped);
    for down in BOTH {
        let request = Request::get("/").header("x-behave", "status=500;body=theirs");
        let (answer, ..) = stage.send(down, request, told).await;
        assert_eq!(seen(&answer), ours(false), "{down:?}");
        for cause in CAUSES {
            let (answer, _, end) = stage.send(down, cause.request(&Method::GET), "go").await;
            let expected = (418, "text/formatted".to_owned(), "mapped 418".to_owned(), true);
            assert_eq!(seen(&answer), expected, "{cause:?} {down:?}");
            assert!(end[2].starts_with(cause.end[1]), "{cause:?} {end:?}");
            let (answer, ..) = stage.send(down, cause.request(&Method::GET), told).await;
            assert_eq!(seen(&answer), ours(true), "{cause:?} {down:?}");
        }
    }
}
