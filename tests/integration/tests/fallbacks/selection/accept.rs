//! Which media types the caller takes: what browsers and libraries really send.

use super::{entry, pair};
use crate::*;

const CHROME: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7";
const FIREFOX: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/png,image/svg+xml,*/*;q=0.8";
const SAFARI: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
const JAVA: &str = "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2";
const AXIOS: &str = "application/json, text/plain, */*";
const JQUERY: &str = "application/json, text/javascript, */*; q=0.01";
const IMAGE: &str = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8";
const STYLE: &str = "text/css,*/*;q=0.1";
const LYNX: &str = "text/html, text/plain, text/sgml, text/css, application/xhtml+xml, */*;q=0.01";
const EXPLORER: &str = "image/jpeg, application/x-ms-application, image/gif, application/xaml+xml, */*";
const FEED: &str =
    "application/rss+xml, application/rdf+xml;q=0.8, application/atom+xml;q=0.6, text/xml;q=0.4";
const GITHUB: &str = "application/vnd.github+json";
const GO_OPENAPI: &str = "application/json;charset=utf-8";

/// What is asked for, and who answers of three policies: a page for browsers before an answer for all others, the other way
/// round, and two entries that both ask for a type.
type Row = (&'static [&'static str], [Option<&'static str>; 3]);

const HTML: Option<&str> = Some("html");
const ALL: Option<&str> = Some("json");
const PLAIN: Option<&str> = None;

#[rustfmt::skip]
const ROWS: &[Row] = &[
    // Browsers that load a page name HTML.
    (&[CHROME], [HTML, ALL, HTML]),
    (&[FIREFOX], [HTML, ALL, HTML]),
    (&[SAFARI], [HTML, ALL, HTML]),
    (&[LYNX], [HTML, ALL, HTML]),
    (&[JAVA], [HTML, ALL, HTML]),
    // Nobody who takes anything is a browser; where nothing else is there they get that.
    (&["*/*"], [ALL, ALL, HTML]),
    (&[], [ALL, ALL, HTML]),
    (&["*/*;q=0.1"], [ALL, ALL, HTML]),
    (&[STYLE], [ALL, ALL, HTML]),
    (&[IMAGE], [ALL, ALL, HTML]),
    (&[EXPLORER], [ALL, ALL, HTML]),
    // Clients of an API name JSON, and take the rest.
    (&[AXIOS], [ALL, ALL, ALL]),
    (&[JQUERY], [ALL, ALL, ALL]),
    (&["application/json"], [ALL, ALL, ALL]),
    (&[GO_OPENAPI], [ALL, ALL, ALL]),
    (&["application/*"], [ALL, ALL, ALL]),
    (&["application/*;q=0.2, image/png"], [ALL, ALL, ALL]),
    // Those who take neither.
    (&[GITHUB], [ALL, ALL, PLAIN]),
    (&[FEED], [ALL, ALL, PLAIN]),
    (&["image/png"], [ALL, ALL, PLAIN]),
    (&["text/plain"], [ALL, ALL, PLAIN]),
    // A group names its types.
    (&["text/*"], [HTML, ALL, HTML]),
    (&["text/*;q=0.5, application/xml"], [HTML, ALL, HTML]),
    // Letters, parameters, spaces, several headers.
    (&["TEXT/HTML"], [HTML, ALL, HTML]),
    (&["text/html;level=1"], [HTML, ALL, HTML]),
    (&["text/html ; charset=\"utf-8\" ; q=0.7"], [HTML, ALL, HTML]),
    (&["  text/html  "], [HTML, ALL, HTML]),
    (&["image/png", "text/html"], [HTML, ALL, HTML]),
    (&["application/json", "text/html"], [HTML, ALL, HTML]),
    (&["text/html;q=0.001"], [HTML, ALL, HTML]),
    (&["text/html;Q=1.000"], [HTML, ALL, HTML]),
    // What is not wanted, by what names it most closely.
    (&["text/html;q=0"], [ALL, ALL, PLAIN]),
    (&["text/html;q=0.000"], [ALL, ALL, PLAIN]),
    (&["text/html;q=0, */*"], [ALL, ALL, ALL]),
    (&["text/*;q=0, */*"], [ALL, ALL, ALL]),
    (&["text/*;q=0, text/html"], [HTML, ALL, HTML]),
    (&["*/*;q=0"], [ALL, ALL, PLAIN]),
    (&["*/*;q=0, text/html;q=0.1"], [HTML, ALL, HTML]),
    (&["application/json;q=0, text/html;q=0, */*;q=0.5"], [ALL, ALL, PLAIN]),
    // What is no media type does not take others along.
    (&["text/html, ;;;, =, /"], [HTML, ALL, HTML]),
    (&["html"], [ALL, ALL, HTML]),
    (&["text/html2"], [ALL, ALL, PLAIN]),
    (&["xtext/html"], [ALL, ALL, PLAIN]),
    (&["text/htm"], [ALL, ALL, PLAIN]),
    // What says nothing is as good as none.
    (&[""], [ALL, ALL, HTML]),
    (&[" , ,"], [ALL, ALL, HTML]),
];

fn policies() -> Vec<Value> {
    let html = || entry("html", json!({"when": {"accept": ["text/html"]}}));
    let json = || entry("json", json!({"when": {"accept": ["application/json"]}}));
    let all = || entry("json", json!({}));
    [pair("first", &[html(), all()]), pair("last", &[all(), html()]), pair("both", &[html(), json()])]
        .concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_gets_a_page_and_an_api_client_json() {
    let mut scene = Scene::open(&document(&policies())).await;
    let mut wrong = Vec::new();
    for (values, expected) in ROWS {
        for (name, expected) in ["first", "last", "both"].into_iter().zip(expected) {
            for (prefix, protocol) in [("", Protocol::Http1), ("shut-", Protocol::Http2)] {
                let request = told(Request::get(&format!("/{prefix}{name}")), "status=500");
                let request = values.iter().fold(request, |request, value| request.header("accept", value));
                let answer = scene.ask(protocol, request).await.answer;
                let seen = super::chosen(&answer);
                if seen.as_deref() != *expected {
                    wrong.push(format!("{values:?} at {prefix}{name}: {seen:?}, not {expected:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    scene.sound();
}

/// Whoever can set a header can send what no library would.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_values_choose_some_entry_and_harm_nobody() {
    let mut scene = Scene::open(&document(&policies())).await;
    let long = "text/html;q=0.1;".repeat(3000);
    let many = "a/b,".repeat(10_000);
    let values: &[&[u8]] = &[
        long.as_bytes(),
        many.as_bytes(),
        b"\xff\xfe/\x80, text/html",
        b"text/html;q=nan, text/html;q=-1, text/html;q=inf",
        b"text/html;q=1e400",
        b"\"text/html",
        b"text/html;x=\"\\",
        b",,,,,,,,;;;;;====////****",
    ];
    for value in values {
        for name in ["first", "shut-first", "both", "shut-both"] {
            for protocol in [Protocol::Http1, Protocol::Http2] {
                let request = told(Request::get(&format!("/{name}")), "status=500").header("accept", value);
                let answer = scene.ask(protocol, request).await.answer;
                let status = answer.status;
                assert!([200, 500, 503].contains(&status) && answer.broken.is_none(), "{name}: {answer:?}");
            }
        }
    }
    let healthy = scene.get("/first", "status=200").await;
    assert_eq!((healthy.status, healthy.text().as_str()), (200, "upstream\n"));
    scene.sound();
}
