//! Any bytes as the headers of a request and of the answer that failed it, and what its caller gets instead.

use crate::input::Input;
use resilience_core::answer::{
    Failed, Instead, Reason, Replacement, Reply, Rewrite, Source, instead, plain, replace,
};
use resilience_core::config::{Document, Policy};
use resilience_core::fallback::{Caller, Cause, Entries};
use resilience_core::outcome::Status;
use std::collections::BTreeSet;
use std::sync::LazyLock;

const CONFIGURATIONS: &[u8] = include_bytes!("../../fallbacks.json");

static POLICIES: LazyLock<Vec<Policy>> =
    LazyLock::new(|| Document::parse(CONFIGURATIONS).expect("fallbacks.json is a configuration").policies);

const REQUEST: [&str; 6] = [":method", "accept", "accept", "content-type", "x-request-id", "x-key"];
const ANSWER: [&str; 10] = [
    ":status",
    "content-type",
    "content-length",
    "transfer-encoding",
    "content-encoding",
    "x-resilience",
    "grpc-status",
    "access-control-allow-origin",
    "set-cookie",
    "vary",
];
/// Values that mean something somewhere; the others are bytes of the input.
const VALUES: [&str; 20] = [
    "GET",
    "HEAD",
    "POST",
    "1",
    "0",
    "17",
    "503",
    "application/grpc",
    "application/grpc+proto",
    "text/html",
    "text/*;q=0.5",
    "text/html;q=0, */*",
    "application/hal+json, */*;q=0.1",
    "application/json;q=0",
    "chunked",
    "<script>alert('\"&')</script>",
    "\",\"x\":\"y",
    "%REQUEST_ID%",
    "other;reason=timeout;source=static",
    "id-1",
];
/// More headers than this reach nothing new.
const HEADERS: usize = 24;
/// A value of the input stands so often.
const TIMES: [usize; 4] = [1, 1, 1, 1000];
/// The longest body in `fallbacks.json` is far below this, and what is put into it is bounded.
const LONGEST_BODY: usize = 8 * 1024;
/// The longest header value of ours that holds nothing of an answer.
const LONGEST_VALUE: usize = 200;

type Headers = Vec<(Vec<u8>, Vec<u8>)>;

/// Has a policy's fallback answer a request for the reason that the bytes say, first as a refusal would be answered, then in the
/// place of an answer.
///
/// # Panics
/// If anybody's bytes reach what is not theirs, a body is not what its type says, or what replaces an answer does not go together.
pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let policy = &POLICIES[usize::from(input.u8()) % POLICIES.len()];
    let flags = input.u8();
    let [expose, ends, knows_request, marks] = [1, 2, 4, 8].map(|bit| flags & bit != 0);
    let cause = cause(&mut input);
    let request = headers(&mut input, &REQUEST);
    let answer = headers(&mut input, &ANSWER);
    let caller = if knows_request {
        policy.fallback.caller(pairs(&request))
    } else {
        policy.fallback.stranger(flags & 16 != 0)
    };
    let Some(reply) = reply(policy, expose, &cause, &caller) else { return };
    check_reply(policy, &reply, expose, &cause, &caller);
    let failed = Failed { headers: pairs(&answer).collect(), ends };
    let mark = marks.then_some("other;reason=circuit_open;source=reroute");
    let (grpc_status, is_head) = (reply.grpc_status, caller.is_head);
    match replace(reply, &failed, &caller, mark) {
        Replacement::Direct(reply) => check_marks(&reply.headers, &failed, mark),
        Replacement::InPlace(rewrite) => {
            check_rewrite(&rewrite, &failed, is_head, grpc_status);
            check_marks(&rewrite.set, &failed, mark);
        }
    }
}

fn pairs(headers: &Headers) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
    headers.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))
}

fn cause(input: &mut Input<'_>) -> Cause {
    let reason = input.choice(&Reason::ALL);
    let (http, grpc) = (input.u16(), input.u8());
    if reason.is_refusal() {
        return Cause::refusal(reason, (http > 0).then_some(u64::from(http)));
    }
    let grpc = (grpc < 32).then_some(u16::from(grpc));
    Cause::failure(reason, Status { http: (http > 0).then_some(http), grpc })
}

/// Names are sorted out by Envoy and come in lower case; values are what they are.
fn headers(input: &mut Input<'_>, names: &[&str]) -> Headers {
    let mut headers = Headers::new();
    let count = usize::from(input.u8()) % HEADERS;
    while !input.is_empty() && headers.len() < count {
        let name = match usize::from(input.u8()) {
            which if which < 200 => names[which % names.len()].as_bytes().to_vec(),
            len => input.bytes(len % 8),
        };
        let value = match usize::from(input.u8()) {
            which if which < 128 => VALUES[which % VALUES.len()].as_bytes().to_vec(),
            len => {
                let times = input.choice(&TIMES);
                input.bytes(len % 16).repeat(times)
            }
        };
        headers.push((name, value));
    }
    headers
}

/// What answers after every cluster that the request might be sent to was tried.
fn reply(policy: &Policy, expose: bool, cause: &Cause, caller: &Caller) -> Option<Reply> {
    let mut tried = Entries::default();
    for _ in 0..=policy.fallback.entries().len() {
        match instead(policy, expose, cause, caller, tried) {
            Instead::Answer(reply) => return Some(reply),
            Instead::Shadowed => {
                assert!(policy.shadow, "{policy:?}");
                return None;
            }
            Instead::Nothing if cause.reason.is_refusal() => {
                return Some(plain(policy, expose, cause, caller));
            }
            Instead::Nothing => return None,
            Instead::Reroute { place, to } => {
                assert!(cause.reason.is_refusal(), "sent twice: {cause:?}");
                assert!(!tried.contains(place), "tried twice: {place}");
                assert!(POLICIES.get(to.guard).is_some_and(|guard| guard.name != policy.name), "{to:?}");
                tried.insert(place);
            }
        }
    }
    panic!("no end to clusters to try");
}

fn check_reply(policy: &Policy, reply: &Reply, expose: bool, cause: &Cause, caller: &Caller) {
    assert!((200..=599).contains(&reply.status), "{reply:?}");
    assert_eq!(reply.details, format!("resilience:{}:{}", policy.name, cause.reason));
    assert_eq!(reply.grpc_status.is_some(), caller.is_grpc);
    let mut names = BTreeSet::new();
    for (name, value) in &reply.headers {
        assert!(names.insert(name), "{name} twice");
        assert!(
            value.len() <= LONGEST_VALUE && value.bytes().all(|byte| (b' '..0x7f).contains(&byte)),
            "{name}: {value}"
        );
    }
    let mark = reply.headers.iter().find(|(name, _)| name == "x-resilience").map(|(_, value)| value.as_str());
    let told = format!("{};reason={};source={}", policy.name, cause.reason, reply.source);
    assert_eq!(mark, expose.then_some(told.as_str()));
    if reply.source == Source::None {
        assert!(cause.reason.is_refusal(), "{reply:?}");
    }
    if caller.is_grpc {
        assert!(reply.body.len() < 20 && reply.body.iter().all(u8::is_ascii_graphic), "{reply:?}");
        return;
    }
    check_body(reply);
}

/// What a client sends stays within the strings and the text that it was put into.
fn check_body(reply: &Reply) {
    assert!(reply.body.len() <= LONGEST_BODY, "{} bytes", reply.body.len());
    let content_type = reply.headers.iter().find(|(name, _)| name == "content-type");
    let Some((_, content_type)) = content_type else {
        assert!(reply.body.is_empty(), "{reply:?}");
        return;
    };
    let text = || std::str::from_utf8(&reply.body).expect("text");
    if content_type.contains("json") {
        let parsed = serde_json::from_slice::<serde_json::Value>(&reply.body);
        assert!(parsed.is_ok_and(|value| value.is_object()), "{}", text());
    } else if content_type.contains("html") || content_type.contains("xml") {
        let count = |letter| text().matches(letter).count();
        let tags = if content_type.contains("xhtml") { 1 } else { 2 };
        assert_eq!([count('<'), count('>'), count('"'), count('\'')], [tags, tags, 2, 0], "{}", text());
    }
}

fn check_rewrite(rewrite: &Rewrite, failed: &Failed<'_>, is_head: Option<bool>, grpc_status: Option<u8>) {
    let Rewrite { remove, set, body, .. } = rewrite;
    let names: BTreeSet<_> = set.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.len(), set.len(), "set twice: {set:?}");
    assert!(remove.iter().all(|name| !names.contains(name.as_str())), "{rewrite:?}");
    let value = |name: &str| set.iter().find(|(set, _)| set == name).map(|(_, value)| value.as_str());
    let status: u16 = value(":status").expect("a status").parse().expect("a number");
    let is_kept = |name: &str| {
        name.starts_with("access-control-")
            || ["vary", "x-request-id", "x-envoy-attempt-count", "x-envoy-upstream-service-time"]
                .contains(&name)
    };
    for name in failed.headers.iter().filter_map(|(name, _)| std::str::from_utf8(name).ok()) {
        let goes = remove.iter().any(|gone| gone == name) || names.contains(name);
        assert!(goes != is_kept(name) || (goes && names.contains(name)), "{name}: {rewrite:?}");
    }
    let has_none = matches!(status, 204 | 304) || failed.ends || is_head == Some(true);
    assert!(body.is_empty() || !has_none, "a body where there is none: {rewrite:?}");
    if let Some(length) = value("content-length") {
        let length: usize = length.parse().expect("a length");
        assert!(!matches!(status, 204 | 304), "{rewrite:?}");
        // After a HEAD it is that of a body that is not sent.
        assert!(length == body.len() || body.is_empty(), "{rewrite:?}");
        assert!(
            length == 0 || !failed.ends || is_head != Some(false),
            "a length that nothing follows: {rewrite:?}"
        );
    }
    assert_eq!(value("grpc-status"), grpc_status.map(|status| status.to_string()).as_deref());
    assert!(grpc_status.is_none() || (status == 200 && body.is_empty() && failed.ends), "{rewrite:?}");
}

/// What others said stands before what we say, and no other header holds anything of theirs.
fn check_marks(headers: &[(String, String)], failed: &Failed<'_>, mark: Option<&str>) {
    // What no header may have is nothing that anybody said.
    let is_text = |value: &[u8]| !value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t');
    let theirs = failed.headers.iter().filter(|(name, value)| *name == b"x-resilience" && is_text(value));
    let said: Vec<_> = theirs.map(|(_, value)| String::from_utf8_lossy(value)).collect();
    let Some((_, marker)) = headers.iter().find(|(name, _)| name == "x-resilience") else { return };
    let earlier = said.iter().map(AsRef::as_ref).chain(mark).collect::<Vec<_>>().join(", ");
    let own = marker.strip_prefix(&earlier).expect("what others said").trim_start_matches(", ");
    assert!(own.matches(';').count() == 2 && !own.contains(','), "{marker}");
    let others = headers.iter().filter(|(name, _)| name != "x-resilience");
    assert!(others.clone().all(|(_, value)| value.len() <= LONGEST_VALUE), "{headers:?}");
}
