//! `retry`.

use super::decode::{Errors, Object, header, integer, nearest, one_of, some, word};
use super::json::{Node, Value, quote, shown};
use super::mode::{Mode, PATTERN_MODES, PatternMode};
use crate::retry::{NonIdempotent, Safety, Settings};
use std::borrow::Cow;
use std::ops::RangeInclusive;

/// The pattern `retry`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Retry {
    /// Which retries a request has.
    pub settings: Settings,
    /// Which requests have any.
    pub safety: Safety,
    /// What is done about it.
    pub mode: PatternMode,
}

const RETRIES: RangeInclusive<u32> = 1..=10;
/// Envoy's.
const DEFAULT_RETRIES: u32 = 1;
const DEFAULT_RETRY_ON: &str = "5xx";

/// What `x-envoy-retry-on` can name.
const HTTP: [&str; 11] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "http3-post-connect-failure",
];
/// What `x-envoy-retry-grpc-on` can name.
const GRPC: [&str; 5] = ["cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"];

const WITH_KEY: &str = "with_key";
const NON_IDEMPOTENT: [(&str, NonIdempotent); 3] =
    [(WITH_KEY, NonIdempotent::WithKey), ("never", NonIdempotent::Never), ("always", NonIdempotent::Always)];

impl Retry {
    /// As it is in a policy of the mode `outer`.
    pub(super) fn within(self, outer: Mode) -> Self {
        Self { mode: self.mode.within(outer), ..self }
    }
}

/// What a policy inherits beneath its own section: a key is not asked for where the policy itself says that none counts.
pub(super) fn inherited(own: &Node, defaults: &Node) -> Node {
    let mut rest = defaults.clone();
    let says = own.get("non_idempotent").map(|node| &node.value);
    if says.is_some_and(|value| !matches!(value, Value::String(word) if word == WITH_KEY)) {
        rest.remove(&["idempotency_key"]);
    }
    rest
}

/// A section, whole or a part of one: nothing in it is required.
pub(super) fn decode(node: &Node, errors: &mut Errors) -> Option<Retry> {
    let mut object = Object::new(node, errors)?;
    let mode = object.get("mode").map(|node| word(node, &PATTERN_MODES, errors));
    let max_retries = object.get("max_retries").map(|node| integer(node, RETRIES, errors));
    let on = object.get("retry_on").map(|node| retry_on(node, errors));
    let key_node = object.get("idempotency_key");
    let key = key_node.map(|node| idempotency_key(node, errors));
    let others = object.get("non_idempotent").map(|node| word(node, &NON_IDEMPOTENT, errors));
    object.finish(errors);
    let unsaid = Safety::DEFAULT;
    let non_idempotent = others.unwrap_or(Some(unsaid.non_idempotent));
    let counts = matches!(non_idempotent, None | Some(NonIdempotent::WithKey));
    if let Some(node) = key_node.filter(|_| !counts) {
        errors.expected(node, format_args!("\"non_idempotent\": \"{WITH_KEY}\" beside it"));
        return None;
    }
    let (retry_on, retry_grpc_on) = on.unwrap_or_else(|| Some(by_header(&[DEFAULT_RETRY_ON])))?;
    let max_retries = u8::try_from(max_retries.unwrap_or(Some(DEFAULT_RETRIES))?).ok()?;
    Some(Retry {
        settings: Settings { max_retries, retry_on, retry_grpc_on },
        safety: Safety {
            idempotency_key: key.map_or(Some(unsaid.idempotency_key), |key| key.map(Cow::Owned))?,
            non_idempotent: non_idempotent?,
        },
        mode: mode.unwrap_or(Some(PatternMode::Enforce))?,
    })
}

/// The words, sorted by the header that they belong in.
fn retry_on(node: &Node, errors: &mut Errors) -> Option<(String, String)> {
    let items = some(node, "a list of what is retried such as [\"5xx\", \"reset\"]", errors)?;
    let words: Vec<_> = items.iter().filter_map(|item| condition(item, errors)).collect();
    (words.len() == items.len()).then(|| by_header(&words))
}

/// One of Envoy's words.
fn condition(node: &Node, errors: &mut Errors) -> Option<&'static str> {
    let known = || HTTP.into_iter().chain(GRPC);
    let Value::String(text) = &node.value else {
        errors.expected(node, one_of(&known().collect::<Vec<_>>()));
        return None;
    };
    let found = known().find(|word| word == text);
    if found.is_none() {
        // As gRPC itself writes it, and Envoy does not.
        let meant = text.to_ascii_lowercase().replace('_', "-");
        // Whoever writes 4xx does not mean 5xx.
        let candidates = known().filter(|word| word.len() > DEFAULT_RETRY_ON.len() || *word == meant);
        match nearest(&meant, candidates) {
            Some(word) => {
                let found = node.to_string();
                errors.at(node, format_args!("found {}; did you mean {}?", shown(&found), quote(word)));
            }
            None => errors.expected(node, one_of(&known().collect::<Vec<_>>())),
        }
    }
    found
}

/// The values of `x-envoy-retry-on` and `x-envoy-retry-grpc-on`, each word once.
fn by_header(words: &[&str]) -> (String, String) {
    let listed = |of: &[&str]| {
        let mut list: Vec<&str> = Vec::new();
        for word in words.iter().filter(|word| of.contains(word)) {
            if !list.contains(word) {
                list.push(word);
            }
        }
        list.join(",")
    };
    (listed(&HTTP), listed(&GRPC))
}

fn idempotency_key(node: &Node, errors: &mut Errors) -> Option<String> {
    header(node, "the name of a header such as \"idempotency-key\" (a token, RFC 9110)", errors)
}
