//! Fallbacks in the real module: what becomes of an answer that failed, and of a request that is refused.

mod direct;
mod grpc;
mod in_place;
mod ours;
mod reasons;

use resilience_module_tests::shop::{
    SERVICE_TIME, Shop, VIA_UPSTREAM, answer, arrive, describe, enter, policy_and, request,
};
use resilience_module_tests::{
    Action, FakeStream, FakeVm, Headers, LocalResponse, Received, headers, status,
};

/// Takes the place of whatever failed, and looks at nothing of a request for it.
const OURS: &str = r#"{"static": {"status": 200, "headers": {"x-a": "1"}, "text": "ours"}}"#;
/// The same, where the request was looked at.
const OURS_KNOWING: &str = r#"{"when": {"methods": ["GET", "HEAD", "POST"]}, "static": {"status": 200, "headers": {"x-a": "1"}, "text": "ours"}}"#;
const MARK: &str = "checkout;reason=upstream_failure;source=static";
const FAILED: &str = "resilience_calls_total;policy=checkout;outcome=failure;slow=false";

/// The shop with these entries, and a breaker that no test here trips by accident.
fn shop(entries: &str) -> Shop {
    Shop::with(&with_fallback(entries), 1)
}

fn with_fallback(entries: &str) -> String {
    never_open(policy_and(&format!(r#""fallback": [{entries}]"#)))
}

fn never_open(config: String) -> String {
    config.replace("\"consecutive_failures\": 3", "\"consecutive_failures\": 1000000")
}

/// What an upstream answers.
#[derive(Clone)]
struct Given<'a> {
    headers: Vec<(&'a str, &'a str)>,
    pieces: Vec<&'a str>,
    trailers: Vec<(&'a str, &'a str)>,
}

/// An answer with these headers, and a body in these pieces.
fn given<'a>(headers: &[(&'a str, &'a str)], pieces: &[&'a str]) -> Given<'a> {
    Given { headers: headers.to_vec(), pieces: pieces.to_vec(), trailers: Vec::new() }
}

/// What became of an answer.
#[derive(Debug)]
enum Came {
    /// It went on, as it was or with something of ours in its place.
    On(Received),
    /// Something else was sent.
    Reply(LocalResponse),
}

impl Came {
    #[track_caller]
    fn on(self) -> Received {
        match self {
            Self::On(received) => received,
            Self::Reply(reply) => panic!("{reply:?}"),
        }
    }

    #[track_caller]
    fn reply(self) -> LocalResponse {
        match self {
            Self::On(received) => panic!("{received:?}"),
            Self::Reply(reply) => reply,
        }
    }
}

/// A request with this method, and these headers more, that is let through.
#[track_caller]
fn ask(vm: &FakeVm, method: &str, more: &[(&str, &str)]) -> FakeStream {
    let stream = arrive(vm);
    stream.set_request_headers(asking(method, more));
    let whole = method != "POST";
    assert_eq!(stream.request_headers(whole).unwrap(), Action::Continue);
    if !whole {
        assert_eq!(stream.request_body(true).unwrap(), Action::Continue);
    }
    stream
}

fn asking(method: &str, more: &[(&str, &str)]) -> Headers {
    let mut request = request("/checkout");
    request.retain(|(name, _)| name != b":method");
    request.extend(headers(&[(":method", method)]));
    request.extend(headers(more));
    request
}

/// The upstream answers.
#[track_caller]
fn answers(stream: &FakeStream, given: &Given<'_>) -> Came {
    describe(stream, VIA_UPSTREAM, 0);
    stream.set_property(b"upstream\0address", "127.0.0.1:8080");
    let mut given = given.clone();
    if !given.headers.iter().any(|(name, _)| *name == SERVICE_TIME.0) {
        given.headers.push(SERVICE_TIME);
    }
    plays(stream, &given)
}

/// An answer comes, whosever it is.
#[track_caller]
fn plays(stream: &FakeStream, given: &Given<'_>) -> Came {
    let Given { headers: answered, pieces, trailers } = given;
    stream.set_response_headers(headers(answered));
    let action = stream.response_headers(pieces.is_empty() && trailers.is_empty()).unwrap();
    if let Some(reply) = stream.local_response() {
        assert_eq!(action, Action::Pause);
        return Came::Reply(reply);
    }
    assert_eq!(action, Action::Continue, "it hangs");
    for (number, piece) in pieces.iter().enumerate() {
        let last = trailers.is_empty() && number + 1 == pieces.len();
        let action = stream.response_body(piece, last).unwrap();
        assert!(matches!(action, Action::Continue | Action::Drop), "{action:?}");
    }
    if !trailers.is_empty() {
        stream.set_response_trailers(headers(trailers));
        assert_eq!(stream.trailers().unwrap(), Action::Continue);
    }
    Came::On(stream.received())
}

/// A request with this method gets this answer, and ends.
#[track_caller]
fn served(shop: &Shop, method: &str, given: &Given<'_>) -> Came {
    let stream = ask(shop.vm(), method, &[]);
    let came = answers(&stream, given);
    stream.finish().unwrap();
    if let Came::On(received) = &came {
        received.is_well_formed(method).unwrap_or_else(|error| panic!("{error}: {received:?}"));
    }
    came
}

fn fallbacks(shop: &Shop, reason: &str, source: &str) -> u64 {
    shop.metric(&format!("resilience_fallbacks_total;policy=checkout;reason={reason};source={source}"))
}

/// All values of a header, as text.
fn values(headers: &Headers, name: &str) -> Vec<String> {
    let of_name = headers.iter().filter(|(known, _)| known == name.as_bytes());
    of_name.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
}

fn names(headers: &Headers) -> Vec<String> {
    let mut names: Vec<_> =
        headers.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect();
    names.sort();
    names
}
