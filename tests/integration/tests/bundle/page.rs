//! The product page: whichever of its five services is down, the page still comes.

use super::{NOWHERE, PORTS, bundle, edited_bundle, moved, root};
use resilience_integration_tests::*;
use resilience_test_harness::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Command;

/// One of the parts that the page says it is made of.
#[derive(Debug)]
struct Part {
    name: String,
    path: String,
    accept: String,
}

type Parts = BTreeMap<String, Answer>;

async fn send(edge: &Edge, request: Request) -> Answer {
    // Each over a connection of its own, which may be any worker's.
    send_once(edge.address, Protocol::Http1, request).await.expect("an answer")
}

/// The page's own list of its parts.
async fn parts(edge: &Edge) -> Vec<Part> {
    let page = send(edge, Request::get("/page").header("accept", "text/html")).await;
    let kind = (page.status, page.header("content-type"));
    assert_eq!(kind, (200, "text/html; charset=utf-8".to_owned()));
    let text = page.text();
    let (_, list) = text.split_once(r#"<script type="application/json" id="parts">"#).expect("a list");
    let (list, _) = list.split_once("</script>").expect("its end");
    let list: Vec<Value> = serde_json::from_str(list).expect("JSON");
    let word = |part: &Value, key: &str| part[key].as_str().expect("a word").to_owned();
    let part =
        |part| Part { name: word(part, "name"), path: word(part, "path"), accept: word(part, "accept") };
    let parts: Vec<_> = list.iter().map(part).collect();
    assert_eq!(parts.len(), 5, "{parts:?}");
    parts
}

/// All parts, asked for at once, as a browser does.
async fn load(edge: &Edge, parts: &[Part]) -> Parts {
    let ask = |part: &Part| {
        let request = Request::get(&part.path).header("accept", &part.accept);
        tokio::spawn(send_once(edge.address, Protocol::Http1, request))
    };
    let mut loaded = Parts::new();
    for (part, asked) in parts.iter().map(|part| (part, ask(part))).collect::<Vec<_>>() {
        let answer = asked.await.unwrap().unwrap_or_else(|error| panic!("{}: {error}", part.name));
        loaded.insert(part.name.clone(), answer);
    }
    loaded
}

/// The parts of a page where all is well.
async fn whole(edge: &Edge, parts: &[Part]) -> Parts {
    let loaded = load(edge, parts).await;
    for (name, answer) in &loaded {
        assert_eq!((answer.status, answer.header("x-resilience")), (200, String::new()), "{name}");
        assert!(!answer.body.is_empty() && answer.broken.is_none(), "{name}");
    }
    loaded
}

fn policy(name: &str) -> Value {
    let document = std::fs::read_to_string(root().join("envoy/policies.json")).unwrap();
    let document: Value = serde_json::from_str(&document).unwrap();
    let policies = document["policies"].as_array().unwrap();
    policies.iter().find(|policy| policy["name"] == name).expect("a policy for each part").clone()
}

/// What a part's policy says of it where its service has failed: the answer's status, marker, type and body.
fn by_policy(part: &Part, reason: &str) -> (u16, String, String, Value) {
    let policy = policy(&part.name);
    let applies = |entry: &&Value| {
        let on = entry["on"].as_array();
        let accept = entry["when"]["accept"].as_array();
        entry["reroute"].is_null()
            && on.is_none_or(|on| on.contains(&json!(reason)) || on.contains(&json!("failure")))
            && accept.is_none_or(|accept| accept.contains(&json!(part.accept)))
    };
    let entry = policy["fallback"].as_array().unwrap().iter().find(applies).expect("an entry that applies");
    let marker = |source: &str| format!("{};reason={reason};source={source}", part.name);
    if let Some(status) = entry["fail"]["status"].as_u64() {
        let body = json!({"title": "Service Unavailable", "status": status, "detail": reason});
        return (u16::try_from(status).unwrap(), marker("fail"), "application/problem+json".to_owned(), body);
    }
    let answer = &entry["static"];
    let status = answer["status"].as_u64().expect("a status");
    let kind = answer["headers"]["content-type"].as_str().unwrap_or("application/json");
    let body = if answer["json"].is_null() { &answer["text"] } else { &answer["json"] };
    (u16::try_from(status).unwrap(), marker("static"), kind.to_owned(), body.clone())
}

fn body(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| answer.text().into())
}

fn assert_by_policy(part: &Part, reason: &str, answer: &Answer) {
    let said = (answer.status, answer.header("x-resilience"), answer.header("content-type"), body(answer));
    assert_eq!(said, by_policy(part, reason));
    assert_eq!(answer.broken, None, "{part:?}");
}

/// Every part but the broken one is what it was, and that one is what its policy says.
fn assert_all_but_one(parts: &[Part], broken: &Part, reason: &str, loaded: &Parts, whole: &Parts) {
    for part in parts {
        let answer = &loaded[&part.name];
        if part.name == broken.name {
            assert_by_policy(part, reason, answer);
            continue;
        }
        let said = (answer.status, answer.header("x-resilience"), body(answer));
        let expected = (200, String::new(), body(&whole[&part.name]));
        assert_eq!(said, expected, "{} while {} is down: {reason}", part.name, broken.name);
    }
}

async fn runtime(edge: &Edge, service: &str, knob: &str, value: &str) {
    let changed = edge.envoy.post(&format!("/runtime_modify?demo.{service}.{knob}={value}")).await;
    assert_eq!(changed.status, 200, "{changed:?}");
}

/// How many calls for a service the demo upstream has seen.
async fn seen(edge: &Edge, service: &str) -> u64 {
    let name = format!("http.demo_upstream.rbac.policy.{service}.allowed");
    edge.envoy.stat(&name).await.unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn any_one_that_fails_or_hangs_leaves_the_others_whole() {
    // Twice the time, so that on a machine that stands still only what hangs runs out of it.
    let patient = |yaml: String| super::exchanged(&yaml, " timeout: 2s\n", " timeout: 4s\n");
    let (edge, _) = edited_bundle(&PORTS, patient).await;
    let parts = parts(&edge).await;
    let healthy = whole(&edge, &parts).await;
    for broken in &parts {
        for (knob, reason) in [("abort_percent", "upstream_failure"), ("delay_percent", "timeout")] {
            runtime(&edge, &broken.name, knob, "100").await;
            let loaded = load(&edge, &parts).await;
            runtime(&edge, &broken.name, knob, "").await;
            assert_all_but_one(&parts, broken, reason, &loaded, &healthy);
            let source = if broken.name == "pricing" { "fail" } else { "static" };
            let labels = [("policy", broken.name.as_str()), ("reason", reason), ("source", source)];
            assert_eq!(edge.count("resilience_fallbacks_total", &labels).await, 1, "{labels:?}");
            // The breaker saw a failure, whatever the caller saw. In between come successes: none may open.
            assert_eq!(whole(&edge, &parts).await.len(), parts.len());
        }
        let calls = edge.calls(&broken.name).await;
        assert_eq!((calls.failure, calls.ignored), (2, 0), "{}", broken.name);
    }
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn any_one_that_cannot_be_reached_leaves_the_others_whole() {
    let (edge, _) = bundle(&PORTS).await;
    let parts = parts(&edge).await;
    let healthy = whole(&edge, &parts).await;
    drop(edge);
    for broken in &parts {
        let (edge, _) = edited_bundle(&PORTS, |yaml| moved(&yaml, &broken.name, NOWHERE)).await;
        let loaded = load(&edge, &parts).await;
        assert_all_but_one(&parts, broken, "connect_failure", &loaded, &healthy);
        assert_eq!(traps(&edge.envoy), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_all_of_them_down_each_is_what_its_policy_says() {
    let (edge, _) = bundle(&PORTS).await;
    let parts = parts(&edge).await;
    for part in &parts {
        runtime(&edge, &part.name, "abort_percent", "100").await;
    }
    let loaded = load(&edge, &parts).await;
    for part in &parts {
        assert_by_policy(part, "upstream_failure", &loaded[&part.name]);
    }
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}

/// The product's way down: the replica, then, whether that fails or is refused, what was last known.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_product_is_the_replicas_and_at_last_what_was_known() {
    let (edge, _) = edited_bundle(&PORTS, long_open).await;
    let product = async || send(&edge, Request::get("/product")).await;
    runtime(&edge, "product", "abort_percent", "100").await;
    for _ in 0..3 {
        let marker = "product;reason=upstream_failure;source=static";
        assert_eq!(product().await.header("x-resilience"), marker);
    }
    let before = seen(&edge, "product").await;
    let rerouted = "product;reason=circuit_open;source=reroute";
    let answer = product().await;
    assert_eq!((answer.status, answer.header("x-resilience").as_str()), (200, rerouted));
    assert_eq!(body(&answer)["replica"], true);

    runtime(&edge, "product_replica", "abort_percent", "100").await;
    let last_known = policy("product")["fallback"][1]["static"]["json"].clone();
    for _ in 0..3 {
        let answer = product().await;
        let markers = format!("{rerouted}, product-replica;reason=upstream_failure;source=static");
        assert_eq!((answer.status, answer.header("x-resilience")), (200, markers));
        assert_eq!(body(&answer), last_known);
    }
    let answer = product().await;
    let refused = "product;reason=circuit_open;source=static";
    assert_eq!((answer.status, answer.header("x-resilience").as_str()), (200, refused));
    assert_eq!(body(&answer), last_known);
    assert_eq!((seen(&edge, "product").await, seen(&edge, "product_replica").await), (before, 4));
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}

/// Opened breakers stay open for longer than any test takes.
fn long_open(yaml: String) -> String {
    super::exchanged(
        &yaml,
        r#""wait_duration_in_open_state": "5s""#,
        r#""wait_duration_in_open_state": "10m""#,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_recommended_while_nobody_knows_what_is_in_stock() {
    let (edge, _) = edited_bundle(&PORTS, long_open).await;
    let recommendations = async || send(&edge, Request::get("/recommendations")).await;
    let inventory = |accept: &str| Request::get("/inventory").header("accept", accept);
    runtime(&edge, "inventory", "abort_percent", "100").await;
    for _ in 0..3 {
        assert_eq!(recommendations().await.header("x-resilience"), "");
        send(&edge, inventory("text/html")).await;
    }
    let before = seen(&edge, "recommendations").await;
    let answer = recommendations().await;
    let marker = "recommendations;reason=dependency_open;source=static";
    assert_eq!((answer.status, answer.header("x-resilience").as_str()), (200, marker));
    assert_eq!(body(&answer), policy("recommendations")["fallback"][0]["static"]["json"]);
    assert_eq!(seen(&edge, "recommendations").await, before);

    // A piece of HTML to whoever asks for it by name; data to all others.
    let browsers = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    for (accept, kind) in [
        ("text/html", "text/html; charset=utf-8"),
        (browsers, "text/html; charset=utf-8"),
        ("application/json", "application/json"),
        ("*/*", "application/json"),
    ] {
        let answer = send(&edge, inventory(accept)).await;
        assert_eq!(answer.header("x-resilience"), "inventory;reason=circuit_open;source=static");
        assert_eq!((answer.status, answer.header("content-type").as_str()), (200, kind), "{accept}");
    }
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}

/// Filters in front of ours see what becomes of an answer, and of a request that is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_can_read_what_is_degraded() {
    let (edge, _) = edited_bundle(&PORTS, long_open).await;
    let ours = "https://app.shop.example";
    let reviews = |origin: &str| Request::get("/reviews").header("origin", origin);
    let exposed = "retry-after, x-request-id, x-resilience";
    runtime(&edge, "reviews", "abort_percent", "100").await;
    for reason in ["upstream_failure", "upstream_failure", "upstream_failure", "circuit_open"] {
        let answer = send(&edge, reviews(ours)).await;
        let marker = format!("reviews;reason={reason};source=static");
        assert_eq!((answer.status, answer.header("x-resilience")), (200, marker));
        assert_eq!(answer.header("access-control-allow-origin"), ours);
        assert_eq!(answer.header("access-control-expose-headers"), exposed);
    }
    assert_eq!(
        send(&edge, reviews("https://elsewhere.example")).await.header("access-control-allow-origin"),
        ""
    );

    // What a browser asks before it sends is no request of the policy's, and never refused.
    let rejections = [("policy", "reviews"), ("reason", "circuit_open")];
    let before = edge.count("resilience_rejections_total", &rejections).await;
    let preflight = Request::new(Method::OPTIONS, "/reviews").header("origin", ours);
    let answer = send(&edge, preflight.header("access-control-request-method", "GET")).await;
    assert_eq!((answer.status, answer.header("x-resilience")), (200, String::new()));
    assert_eq!(answer.header("access-control-allow-origin"), ours);
    assert_eq!(edge.count("resilience_rejections_total", &rejections).await, before);

    // Long enough to be compressed: as it stands on the way, and when refused.
    for knob in ["delay_percent", "abort_percent"] {
        runtime(&edge, "product", knob, "100").await;
        let answer = send(&edge, Request::get("/product").header("accept-encoding", "gzip")).await;
        assert_eq!((answer.status, answer.header("content-encoding").as_str()), (200, "gzip"), "{knob}");
        runtime(&edge, "product", knob, "").await;
    }
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}

/// The page's own script, run by what stands in for a browser: what each element shows.
async fn shown(edge: &Edge) -> BTreeMap<String, String> {
    let script = root().join("tests/integration/tests/bundle/page.mjs");
    let address = format!("http://{}", edge.address);
    let run = move || Command::new("node").arg(script).arg(address).output();
    let output =
        tokio::task::spawn_blocking(run).await.unwrap().expect("node (`tools/setup node` brings it)");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_what_it_got_and_what_is_degraded() {
    let (edge, _) = bundle(&PORTS).await;
    let parts = parts(&edge).await;
    let assert_shown = async |expected: [(&str, &str); 5], degraded: bool| {
        let shown = shown(&edge).await;
        for (part, beginning) in expected {
            assert!(shown[part].starts_with(beginning), "{part}: {shown:?}");
            let marked =
                shown[&format!("{part}-mark")].starts_with(&format!("{part};reason=upstream_failure;"));
            assert_eq!(marked, degraded, "{part}: {shown:?}");
        }
    };
    let healthy = [
        ("product", "Teapot. Holds four cups, pours"),
        ("pricing", "19.99 EUR"),
        ("inventory", "<b>12 in stock</b>"),
        ("recommendations", "kettle, cup"),
        ("reviews", "Pours as promised.\nMy third"),
    ];
    assert_shown(healthy, false).await;
    for part in &parts {
        runtime(&edge, &part.name, "abort_percent", "100").await;
    }
    let degraded = [
        ("product", "Teapot. Holds four cups. (As of yesterday.)"),
        ("pricing", "Not known right now. Please ask again in 5 s."),
        ("inventory", "<b>likely available</b>"),
        ("recommendations", "cup, saucer, what most people take"),
        ("reviews", "They cannot be shown right now."),
    ];
    assert_shown(degraded, true).await;
}
