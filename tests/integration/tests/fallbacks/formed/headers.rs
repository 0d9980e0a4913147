//! What of a failed answer's headers stays, and what goes.

use crate::*;

const ANSWER: &str = "{\"items\":[]}";

fn entry() -> Value {
    json!({"static": {
        "status": 200,
        "headers": {"Content-Type": "application/vnd.shop+json", "cache-control": "no-store", "x-shop": "closed"},
        "text": ANSWER,
    }})
}

/// Everything that an answer may say, twice where it may.
const SAYS: &[&str] = &[
    "content-type:text/html",
    "content-encoding:gzip",
    "content-language:de",
    "content-disposition:attachment",
    "content-md5:Q2hlY2s=",
    "content-range:bytes 0-8/9",
    "accept-ranges:bytes",
    "etag:W/\"7\"",
    "last-modified:Sat, 21 Nov 2026 08:00:00 GMT",
    "expires:Sat, 21 Nov 2027 08:00:00 GMT",
    "cache-control:public, max-age=3600",
    "age:7",
    "pragma:cache",
    "set-cookie:session=1",
    "set-cookie:basket=2",
    "location:/elsewhere",
    "link:</x>; rel=next",
    "retry-after:120",
    "www-authenticate:Basic",
    "warning:199 - stale",
    "digest:x",
    "x-shop:open",
    "x-powered-by:php",
    "x-envoy-ratelimited:true",
    "x-envoy-overloaded:true",
    "grpc-status:14",
];

const STAYS: &[&str] = &[
    "access-control-allow-credentials:true",
    "access-control-allow-origin:https://shop.example",
    "access-control-expose-headers:x-shop",
    "vary:origin",
    "x-request-id:of-the-upstream",
    "x-envoy-attempt-count:1",
];

fn words(more: &str) -> String {
    // A semicolon would end the word.
    let said = SAYS.iter().chain(STAYS).filter(|line| !line.contains(';'));
    let said: Vec<String> = said.map(|line| format!("header={line}")).collect();
    format!("status=503; {more}; {}", said.join("; "))
}

fn sorted<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut lines: Vec<String> = lines.into_iter().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_still_holds_stays() {
    let mut scene = Scene::open(&document(&[fragile("shop", 1000, json!([entry()]))])).await;
    let own = ["cache-control: no-store", "content-type: application/vnd.shop+json", "x-shop: closed"];
    let marked = "x-resilience: shop;reason=upstream_failure;source=static";
    let length = format!("content-length: {}", ANSWER.len());
    let stays: Vec<String> = STAYS.iter().map(|line| line.replacen(':', ": ", 1)).collect();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for (form, has_body, tells_length) in
            [("body=html", true, true), ("body=html; chunked", true, false), ("body=", false, true)]
        {
            for method in [Method::GET, Method::HEAD] {
                let request = told(Request::new(method.clone(), "/shop"), &words(form));
                let answer = scene.ask(protocol, request).await.answer;
                let what = format!("{method} of {form:?} over {protocol:?}");
                let body = if method == Method::HEAD { "" } else { ANSWER };
                assert_eq!((answer.status, answer.text().as_str()), (200, body), "{what}");
                // After a HEAD only a length says that there is something to rewrite.
                let in_place = has_body && (method == Method::GET || tells_length);
                let mut expected: Vec<&str> = own.to_vec();
                expected.push(marked);
                let lines: Vec<String> = headers(&answer);
                if lines.contains(&length) || !in_place || tells_length {
                    expected.push(&length);
                } else if protocol == Protocol::Http1 {
                    expected.push("transfer-encoding: chunked");
                }
                if in_place {
                    expected.extend(stays.iter().map(String::as_str));
                }
                assert_eq!(lines, sorted(expected), "{what}");
                let is_timed = answer.headers.contains_key("x-envoy-upstream-service-time");
                assert_eq!(is_timed, in_place, "{what}");
            }
        }
    }
    scene.sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_entry_says_goes_before_what_stays() {
    let mut entry = entry();
    entry["static"]["headers"]["vary"] = "accept".into();
    entry["static"]["headers"]["access-control-allow-origin"] = "*".into();
    let mut scene = Scene::open(&document(&[fragile("shop", 1000, json!([entry]))])).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let answer = scene.ask(protocol, told(Request::get("/shop"), &words("body=html"))).await.answer;
        assert_eq!(all(&answer.headers, "vary"), ["accept"]);
        assert_eq!(all(&answer.headers, "access-control-allow-origin"), ["*"]);
        assert_eq!(all(&answer.headers, "access-control-expose-headers"), ["x-shop"]);
    }
}

/// A list of those who had to do something about it, the nearest last.
#[tokio::test(flavor = "multi_thread")]
async fn our_mark_follows_those_of_the_upstream() {
    let fail = json!([{"fail": {"status": 502}}]);
    let policies = [
        fragile("shop", 1000, json!([entry()])),
        fragile("loud", 1000, fail),
        fragile("none", 1000, json!([])),
    ];
    let routes = [route_of("h2", "/shop/h2").expect("a route")];
    let mut scene = Scene::routed(&document(&policies), &routes).await;
    let theirs = "header=x-resilience:far, farther; header=x-resilience:near";
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for form in ["body=x", "body=x; chunked", "body="] {
            for (path, source) in [("/shop", "static"), ("/shop/h2", "static"), ("/loud", "fail")] {
                let request = told(Request::get(path), &format!("status=500; {form}; {theirs}"));
                let answer = scene.ask(protocol, request).await.answer;
                let name = path.split('/').nth(1).expect("a name");
                let marks = format!("far, farther, near, {}", mark(name, "upstream_failure", source));
                assert_eq!(all(&answer.headers, "x-resilience"), [marks], "{path} {form} {protocol:?}");
            }
            // An answer that stays is passed on as it is.
            let request = told(Request::get("/none"), &format!("status=500; {form}; {theirs}"));
            let answer = scene.ask(protocol, request).await.answer;
            assert_eq!(all(&answer.headers, "x-resilience"), ["far, farther", "near"]);
        }
        let status = "grpc-trailers-only=14; header=x-resilience:far";
        let answer = scene.ask(Protocol::Http2, told(Request::grpc("/shop"), status)).await.answer;
        let marks = format!("far, {}", mark("shop", "upstream_failure", "static"));
        assert_eq!(all(&answer.headers, "x-resilience"), [marks]);
    }
    scene.sound();
}
