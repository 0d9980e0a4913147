//! Of all lists, requests and bodies: who answers, and what becomes of what a client sends.

use super::{
    Caller, Cause, Entries, Fail, Fallback, Fallbacks, MAX_PLACES, Statuses, Strategy as Does, Type, When,
};
use crate::answer::{Instead, Reason, Reasons, instead};
use crate::config::{Document, Policy};
use crate::outcome::Status;
use proptest::prelude::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Lines of `Accept`, and how they take `text/html` and `application/json`: 2 by name, 1 with anything, 0 not at all.
const ACCEPTS: [(&[&str], [u8; 2]); 7] = [
    (&[], [1, 1]),
    (&["*/*"], [1, 1]),
    (&["text/html, */*;q=0.5"], [2, 1]),
    (&["text/*", "application/json;q=0"], [2, 0]),
    (&["application/*, text/html;q=0, */*"], [0, 2]),
    (&["image/png"], [0, 0]),
    (&["application/json, text/html"], [2, 2]),
];
const TYPES: [&str; 2] = ["text/html", "application/json"];
const METHODS: [&str; 3] = ["GET", "POST", "HEAD"];
const HEADERS: [(&str, &str); 3] = [("x-a", "1"), ("x-a", "2"), ("x-b", "1")];
const CODES: [u16; 3] = [500, 503, 504];
const GRPC_CODES: [u16; 2] = [0, 14];

/// An entry as it is written: each list holds places in the lists above.
#[derive(Clone, Debug)]
struct Written {
    on: Vec<Reason>,
    statuses: Option<(Vec<usize>, Vec<usize>)>,
    methods: Vec<usize>,
    headers: Vec<usize>,
    accept: Vec<usize>,
}

#[derive(Clone, Debug)]
struct Request {
    method: usize,
    headers: Vec<usize>,
    accept: usize,
}

/// Some of a list's places.
fn some_of(length: usize) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..length, 0..=length)
}

fn written() -> impl Strategy<Value = Written> {
    let on = prop::collection::vec(prop::sample::select(Reason::ALL.to_vec()), 1..8);
    let statuses = prop::option::weighted(0.3, (some_of(CODES.len()), some_of(GRPC_CODES.len())));
    (on, statuses, some_of(METHODS.len()), some_of(HEADERS.len()), some_of(TYPES.len())).prop_map(
        |(on, statuses, methods, headers, accept)| Written { on, statuses, methods, headers, accept },
    )
}

fn request() -> impl Strategy<Value = Request> {
    (0..METHODS.len(), some_of(HEADERS.len()), 0..ACCEPTS.len())
        .prop_map(|(method, headers, accept)| Request { method, headers, accept })
}

fn cause() -> impl Strategy<Value = Cause> {
    let status = |codes: &[u16]| prop::option::of(prop::sample::select(codes.to_vec()));
    (prop::sample::select(Reason::ALL.to_vec()), status(&CODES), status(&GRPC_CODES)).prop_map(
        |(reason, http, grpc)| match reason.is_refusal() {
            true => Cause::refusal(reason, None),
            false => Cause::failure(reason, Status { http, grpc }),
        },
    )
}

impl Written {
    fn entry(&self) -> Fallback {
        let codes = |places: &[usize]| places.iter().map(|place| CODES[*place]..=CODES[*place]).collect();
        let statuses = self.statuses.as_ref().map(|(http, grpc)| Statuses {
            http: codes(http),
            grpc: grpc.iter().map(|place| GRPC_CODES[*place]).collect(),
        });
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Fallback {
            on: self.on.iter().fold(Reasons::NONE, |all, reason| all.with(Reasons::from(*reason))),
            statuses,
            when: When {
                methods: self.methods.iter().map(|place| METHODS[*place].to_owned()).collect(),
                headers: self.headers.iter().map(|place| owned(HEADERS[*place])).collect(),
                accept: self.accept.iter().map(|place| Type::parse(TYPES[*place]).unwrap()).collect(),
            },
            strategy: Does::Fail(Fail { status: 500, retry_after: None }),
        }
    }

    /// How well it fits, by the reference's own words: 2 in the first round, 1 in the second, 0 in none.
    fn fits(&self, request: &Request, cause: &Cause) -> u8 {
        let is_status = |(http, grpc): &(Vec<usize>, Vec<usize>)| {
            http.iter().any(|place| Some(CODES[*place]) == cause.status.http)
                || grpc.iter().any(|place| Some(GRPC_CODES[*place]) == cause.status.grpc)
        };
        let holds = self.on.contains(&cause.reason)
            && self.statuses.as_ref().is_none_or(is_status)
            && (self.methods.is_empty() || self.methods.contains(&request.method))
            && (self.headers.is_empty() || self.headers.iter().any(|place| request.headers.contains(place)));
        let taken = self.accept.iter().map(|place| ACCEPTS[request.accept].1[*place]).max();
        if holds { taken.unwrap_or(2) } else { 0 }
    }
}

fn read(fallbacks: &Fallbacks, request: &Request) -> Caller {
    let mut headers = vec![(":method", METHODS[request.method])];
    headers.extend(request.headers.iter().map(|place| HEADERS[*place]));
    headers.extend(ACCEPTS[request.accept].0.iter().map(|line| ("accept", *line)));
    fallbacks.caller(headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
}

/// A policy that answers with this body, written as the keys of a fixed answer.
fn with_body(keys: &str) -> Policy {
    let document = format!(
        r#"{{"policies": [{{"name": "p", "match": [{{"any": true}}], "fallback": [{{"static": {{"status": 200, {keys}}}}}]}}]}}"#
    );
    Document::parse(document.as_bytes()).unwrap().policies.swap_remove(0)
}

/// What a caller gets whose request has this id.
fn body(policy: &Policy, expose: bool, id: &[u8]) -> Vec<u8> {
    let caller = policy.fallback.caller([(b"x-request-id".as_slice(), id)].into_iter());
    let cause = Cause::refusal(Reason::CircuitOpen, Some(u64::MAX));
    match instead(policy, expose, &cause, &caller, Entries::default()) {
        Instead::Answer(reply) => reply.body,
        other => panic!("{other:?}"),
    }
}

/// Bytes of which many mean something to somebody.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let parts = prop::sample::select(vec![
        b"<script>".to_vec(),
        b"</p>".to_vec(),
        b"\"".to_vec(),
        b"'".to_vec(),
        b"\\".to_vec(),
        b"&lt;".to_vec(),
        b"%POLICY%".to_vec(),
        b"%REQUEST_ID%".to_vec(),
        b"\",\"admin\":true,\"".to_vec(),
        b"\x00\n\x7f".to_vec(),
        "é\u{2028}".as_bytes().to_vec(),
        b"\xff\xc3".to_vec(),
    ]);
    let any = prop::collection::vec(any::<u8>(), 0..20);
    prop::collection::vec(prop_oneof![2 => parts, 1 => any], 0..40).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn the_first_that_fits_best_answers(
        list in prop::collection::vec(written(), 0..6),
        request in request(),
        cause in cause(),
        tried in prop::collection::vec(0..6_usize, 0..3),
    ) {
        let fallbacks = Fallbacks::new(list.iter().map(Written::entry).collect());
        let mut set = Entries::default();
        tried.iter().for_each(|place| set.insert(*place));
        let fit = |wanted: u8| {
            let fits = |place: &usize| !tried.contains(place) && list[*place].fits(&request, &cause) == wanted;
            (0..list.len()).find(fits)
        };
        let found = fallbacks.pick(&cause, &read(&fallbacks, &request), set).map(|(place, _)| place);
        prop_assert_eq!(found, fit(2).or_else(|| fit(1)));
        prop_assert!(found.is_none() || fallbacks.answers(cause.reason.into()));
    }

    #[test]
    fn what_is_said_to_need_no_look_at_a_request_needs_none(
        list in prop::collection::vec(written(), 0..4), request in request(), cause in cause(),
    ) {
        let fallbacks = Fallbacks::new(list.iter().map(Written::entry).collect());
        let seen = fallbacks.pick(&cause, &read(&fallbacks, &request), Entries::default());
        let unseen = fallbacks.pick(&cause, &fallbacks.stranger(false), Entries::default());
        prop_assert!(fallbacks.reads_request() || seen == unseen);
    }

    #[test]
    fn any_request_is_read(headers in prop::collection::vec((hostile(), hostile()), 0..8), id in hostile(), accept in hostile()) {
        let list = Fallbacks::new(vec![Fallback {
            on: Reasons::ALL,
            statuses: None,
            when: When { methods: vec![], headers: vec![], accept: vec![Type::parse("text/html").unwrap()] },
            strategy: Does::Fail(Fail { status: 500, retry_after: None }),
        }]);
        let own = [(b"x-request-id".as_slice(), id.as_slice()), (b"accept", &accept)];
        let headers = headers.iter().map(|(name, value)| (name.as_slice(), value.as_slice())).chain(own);
        let caller = list.caller(headers);
        // At most 256 bytes, each of which may be none of a letter.
        prop_assert!(caller.request_id.len() <= 3 * 256);
    }

    #[test]
    fn json_stays_json_whatever_is_put_in(id in hostile(), expose in any::<bool>(), markup in any::<bool>()) {
        let media = if markup { "application/xhtml+xml" } else { "application/hal+json" };
        let shape = r#"{"id": "%REQUEST_ID%", "%REQUEST_ID%x": ["%REASON%", {"n": "a %RETRY_AFTER% b %REQUEST_ID%"}]}"#;
        let policy = with_body(&format!(r#""headers": {{"content-type": "{media}"}}, "json": {shape}"#));
        let body = body(&policy, expose, &id);
        let parsed: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let id = parsed["id"].as_str().unwrap();
        let reason = if expose { "circuit_open" } else { "" };
        let expected = serde_json::json!({
            "id": id,
            format!("{id}x"): [reason, {"n": format!("a {} b {id}", u64::MAX)}],
        });
        prop_assert_eq!(parsed, expected);
    }

    #[test]
    fn text_of_a_json_type_stays_json(id in hostile()) {
        let policy = with_body(r#""headers": {"content-type": "application/problem+json"}, "text": "{\"id\": \"%REQUEST_ID%\"}""#);
        let parsed: serde_json::Value = serde_json::from_slice(&body(&policy, true, &id)).unwrap();
        prop_assert_eq!(parsed.as_object().map(serde_json::Map::len), Some(1));
    }

    #[test]
    fn no_tag_no_attribute_and_no_entity_is_opened(id in hostile(), xml in any::<bool>()) {
        let media = if xml { "application/atom+xml" } else { "text/html; charset=utf-8" };
        let keys = format!(
            r#""headers": {{"content-type": "{media}"}}, "text": "[<p title=\"%REQUEST_ID%\" class='%REQUEST_ID%'>%REQUEST_ID%</p>]""#
        );
        let body = String::from_utf8(body(&with_body(&keys), true, &id)).unwrap();
        let count = |letter| body.matches(letter).count();
        prop_assert_eq!([count('<'), count('>'), count('"'), count('\'')], [2, 2, 2, 2], "{}", body);
        // What looks like an entity is one that we wrote.
        let entities = body.split('&').skip(1);
        let known = ["lt;", "gt;", "amp;", "quot;", "#39;"];
        prop_assert!(entities.clone().all(|rest| known.iter().any(|name| rest.starts_with(name))), "{}", body);
    }

    #[test]
    fn a_body_has_a_bound_whatever_is_put_in(letter in prop::sample::select(vec![b'"', b'&', b'\\', 0, 0xff, b'a']), length in 0..2000_usize) {
        let places = "%REQUEST_ID%".repeat(MAX_PLACES);
        for keys in [
            format!(r#""headers": {{"content-type": "text/html"}}, "json": "{places}""#),
            format!(r#""headers": {{"content-type": "text/html"}}, "text": "{places}""#),
            format!(r#""text": "{places}""#),
        ] {
            // Of an id 256 bytes are shown, of which none becomes more than six.
            let most = MAX_PLACES * 256 * 6 + 2;
            prop_assert!(body(&with_body(&keys), true, &vec![letter; length]).len() <= most);
        }
    }
}
