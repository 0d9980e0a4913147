//! Whatever form the failed answer has, the one in its place is well-formed, and the connection goes on.

mod headers;
mod streams;

use crate::*;

/// An answer of ours.
struct Ours {
    name: &'static str,
    entry: Value,
    status: u16,
    body: Vec<u8>,
}

/// Larger than Envoy's frames, and as large as a body may be.
const LARGE: usize = 256 << 10;

fn answers() -> Vec<Ours> {
    let text = |name, status: u16, text: &str| Ours {
        name,
        entry: json!({"static": {"status": status, "text": text}}),
        status,
        body: text.into(),
    };
    let bare = |name, status: u16| Ours {
        name,
        entry: json!({"static": {"status": status}}),
        status,
        body: Vec::new(),
    };
    let loud = br#"{"title":"Bad Gateway","status":502,"detail":"%"}"#.to_vec();
    vec![
        text("page", 200, "Later."),
        text("busy", 503, "Busy."),
        text("large", 200, &"ours ".repeat(LARGE / 5)),
        bare("empty", 200),
        bare("nothing", 204),
        bare("same", 304),
        Ours { name: "loud", entry: json!({"fail": {"status": 502}}), status: 502, body: loud },
    ]
}

/// An answer that fails.
struct Failed {
    name: &'static str,
    route: &'static str,
    words: &'static str,
    reason: &'static str,
    /// Whether it has a body that ours can be put in the place of.
    has_body: bool,
}

const fn failed(name: &'static str, route: &'static str, words: &'static str, has_body: bool) -> Failed {
    Failed { name, route, words, reason: "upstream_failure", has_body }
}

#[rustfmt::skip]
const FAILED: &[Failed] = &[
    failed("with a length", "plain", "status=500", true),
    failed("chunked", "plain", "status=500; chunked", true),
    failed("over HTTP/2, with a length", "h2", "status=500", true),
    failed("over HTTP/2, without a length", "h2", "status=500; chunked", true),
    failed("over HTTP/2, with trailers", "h2", "status=500; chunked; trailer=x-sum:7", true),
    failed("over HTTP/2, with a length and trailers", "h2", "status=500; trailer=x-sum:7", true),
    failed("large", "plain", "status=500; size=3000000", true),
    failed("large and chunked", "plain", "status=500; size=3000000; chunked", true),
    failed("large, over HTTP/2", "h2", "status=500; size=3000000", true),
    failed("large, over HTTP/2, without a length, with trailers", "h2", "status=500; size=3000000; chunked; trailer=x-sum:7", true),
    failed("empty", "plain", "status=500; body=", false),
    failed("empty, over HTTP/2", "h2", "status=500; body=", false),
    failed("empty, over HTTP/2, without a length", "h2", "status=500; body=; chunked", false),
    failed("204", "plain", "status=204; body=", false),
    failed("204 over HTTP/2", "h2", "status=204; body=; chunked", false),
    failed("304", "plain", "status=304; body=", false),
    failed("304 over HTTP/2", "h2", "status=304; body=; chunked", false),
    Failed { reason: "connect_failure", ..failed("Envoy's own", "refused", "", true) },
    Failed { reason: "reset", ..failed("Envoy's own, after a reset", "h2", "reset", true) },
];

/// The route whose policies have a budget, and so look at their requests' methods.
const LOOKS: &str = "h2";
const ROUTES: [&str; 3] = ["plain", "h2", "refused"];

/// Each answer with each route. What else than a 5xx fails is told.
fn policies(answers: &[Ours]) -> Vec<Value> {
    let of = |ours: &Ours, route: &str| {
        let name = format!("{}-{route}", ours.name);
        let outcome = json!({"failure": {"status": ["5xx", 204, 304]}});
        let matched = json!([{"path": {"prefix": format!("/{name}")}}]);
        let policy = json!({"name": name, "match": matched, "outcome": outcome, "fallback": [ours.entry]});
        if route == LOOKS { with(policy, json!({"retry_budget": {}})) } else { policy }
    };
    answers.iter().flat_map(|ours| ROUTES.map(|route| of(ours, route))).collect()
}

fn request(method: &Method, path: &str, words: &str) -> Request {
    if *method == Method::POST {
        return told(Request::post(path, vec![b'.'; 100_000]), &format!("whole; {words}"));
    }
    told(Request::new(method.clone(), path), words)
}

/// Whether ours goes into the place of a failed answer: its body does, or it needs none. That nothing comes after a HEAD is known
/// where its policy looks at methods, or there would have been something after a GET.
fn has_room(failed: &Failed, ours: &Ours, method: &Method) -> bool {
    let tells_of_bytes = failed.has_body && !failed.words.contains("chunked");
    let is_known = failed.route == LOOKS || tells_of_bytes;
    ours.body.is_empty() || if method == Method::HEAD { is_known } else { failed.has_body }
}

/// What is wrong with an answer.
fn faults(answer: &Answer, ours: &Ours, failed: &Failed, method: &Method, policy: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut check = |what: &str, holds: bool| {
        if !holds {
            faults.push(what.to_owned());
        }
    };
    let whole = String::from_utf8_lossy(&ours.body).replace('%', failed.reason).into_bytes();
    let is_head = method == Method::HEAD;
    let expected = if is_head { &[][..] } else { &whole };
    check("status", answer.status == ours.status);
    check("body", answer.body == expected);
    check("broken", answer.broken.is_none());
    check("trailers", answer.trailers.is_empty());
    let source = if ours.name == "loud" { "fail" } else { "static" };
    let marks = all(&answer.headers, "x-resilience");
    check("marks", marks == [mark(policy, failed.reason, source)]);
    let length = answer.header("content-length");
    let has_no_length = matches!(ours.status, 204 | 304);
    check("content-length", length.is_empty() || (length == whole.len().to_string() && !has_no_length));
    let lengths =
        all(&answer.headers, "content-length").len() + all(&answer.headers, "transfer-encoding").len();
    check("more than one length", lengths <= 1);
    faults
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_well_formed_in_the_place_of_every_other() {
    let answers = answers();
    let policies = policies(&answers);
    let routes: Vec<Value> = answers
        .iter()
        .flat_map(|ours| ROUTES.map(|route| route_of(route, &format!("/{}-{route}", ours.name))))
        .flatten()
        .collect();
    let mut scene = Scene::routed(&document(&policies), &routes).await;
    let (mut wrong, mut ways) = (Vec::new(), Vec::new());
    for protocol in [Protocol::Http1, Protocol::Http2] {
        // One connection for all of it.
        let mut connection = Connection::open(scene.edge.address, protocol).await.expect("a connection");
        for (ours, failed) in answers.iter().flat_map(|ours| FAILED.iter().map(move |failed| (ours, failed)))
        {
            for method in [Method::GET, Method::HEAD, Method::POST] {
                let policy = format!("{}-{}", ours.name, failed.route);
                let what =
                    format!("{method} of {}, {} in its place, over {protocol:?}", failed.name, ours.name);
                let case = scene.case();
                let failing = request(&method, &format!("/{policy}"), failed.words).header("x-case", &case);
                let answer = connection.send(failing).await.unwrap_or_else(|error| panic!("{what}: {error}"));
                let mut faults = faults(&answer, ours, failed, &method, &policy);
                if !connection.is_open() {
                    faults.push("the connection was closed".to_owned());
                    connection = Connection::open(scene.edge.address, protocol).await.expect("a connection");
                }
                let next = connection.send(Request::get("/healthy")).await;
                let next = next.unwrap_or_else(|error| panic!("after {what}: {error}"));
                if (next.status, next.text().as_str(), next.header("x-resilience"))
                    != (200, "upstream\n", String::new())
                {
                    faults.push(format!("the next answer: {next:?}"));
                }
                ways.push((case, has_room(failed, ours, &method), what.clone()));
                if !faults.is_empty() {
                    wrong.push(format!("{what}: {faults:?}: {} {:?}", answer.status, answer.headers));
                }
            }
        }
    }
    let played = ways.len();
    for (case, has_room, what) in ways {
        let is_in_place = !scene.logged(&case).await.contains("resilience:");
        if is_in_place != has_room {
            wrong.push(format!("{what}: in its place: {is_in_place}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {played} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(scene.edge.count(FALLBACKS, &[]).await, played as u64);
    assert_eq!(scene.edge.count(REJECTIONS, &[]).await, 0);
    scene.sound();
}
