//! What an entry answers: `on`, `status`, `grpc_status` and `when`.

use crate::answer::{Reason, Reasons};
use crate::config::decode::{Errors, Object, all, flip, one_of, some, string, word};
use crate::config::json::Node;
use crate::config::{matching, outcome};
use crate::fallback::{Statuses, Type, When};

/// Each is looked for in what a caller accepts.
const MAX_TYPES: usize = 16;

/// `on`: each item with the reasons that it names, by itself or as a group.
pub(super) struct On<'a> {
    node: &'a Node,
    items: Vec<(&'a Node, Reasons)>,
}

impl<'a> On<'a> {
    pub(super) fn read(node: &'a Node, errors: &mut Errors) -> Option<Self> {
        let words = words();
        let items = some(node, "a list of reasons", errors)?;
        let named: Vec<_> =
            items.iter().filter_map(|item| Some((item, word(item, &words, errors)?))).collect();
        (named.len() == items.len()).then_some(Self { node, items: named })
    }

    fn all(&self) -> Reasons {
        self.items.iter().fold(Reasons::NONE, |all, (_, reasons)| all.with(*reasons))
    }
}

/// Every word of `on`.
fn words() -> Vec<(&'static str, Reasons)> {
    let mut words = vec![("refusal", Reasons::REFUSALS), ("failure", Reasons::FAILURES)];
    words.extend(Reason::ALL.map(|reason| (reason.name(), Reasons::from(reason))));
    words
}

/// What an entry answers that sends a request elsewhere: what was not sent before. `statuses` are where an answer's status is
/// asked for.
pub(super) fn before_sent<'a>(
    on: Option<&On<'a>>,
    statuses: impl Iterator<Item = &'a Node>,
    errors: &mut Errors,
) -> Option<Reasons> {
    const LATE: &str = "exists only after the request was sent, and \"reroute\" takes what was not";
    let before = errors.len();
    for node in statuses {
        errors.at(node, format_args!("the status of an answer {LATE}, expected no such key beside it"));
    }
    let items = on.map(|on| on.items.as_slice()).unwrap_or_default();
    for (item, _) in items.iter().filter(|(_, reasons)| !reasons.among(Reasons::FAILURES).is_empty()) {
        let words = words();
        let known: Vec<_> = words
            .iter()
            .filter(|(_, reasons)| reasons.among(Reasons::FAILURES).is_empty())
            .map(|(name, _)| *name)
            .collect();
        errors.at(item, format_args!("found {item}, which {LATE}, expected {}", one_of(&known)));
    }
    (errors.len() == before).then(|| on.map_or(Reasons::REFUSALS, On::all))
}

/// What an entry answers that asks for the status of a failed answer: a refusal has none.
pub(super) fn after_answer(on: Option<&On<'_>>, errors: &mut Errors) -> Option<Reasons> {
    let Some(on) = on else { return Some(Reasons::FAILURES) };
    let failures = on.all().among(Reasons::FAILURES);
    if failures.is_empty() {
        let expected =
            "a failure among them: a refused request has no answer, so no \"status\" or \"grpc_status\"";
        errors.expected(on.node, expected);
        return None;
    }
    Some(failures)
}

/// What any other entry answers.
pub(super) fn anything(on: Option<&On<'_>>) -> Reasons {
    on.map_or(Reasons::ALL, On::all)
}

/// `status` and `grpc_status`; `None` within where neither is written.
pub(super) fn statuses(
    http: Option<&Node>,
    grpc: Option<&Node>,
    errors: &mut Errors,
) -> Option<Option<Statuses>> {
    // A list of nothing would be an entry that never answers.
    let http = http.map(|node| {
        some(node, outcome::STATUSES, errors)?;
        outcome::statuses(node, errors)
    });
    let grpc = grpc.map(|node| {
        some(node, outcome::GRPC_STATUSES, errors)?;
        outcome::grpc_statuses(node, errors)
    });
    if http.is_none() && grpc.is_none() {
        return Some(None);
    }
    Some(Some(Statuses { http: flip(http)?.unwrap_or_default(), grpc: flip(grpc)?.unwrap_or_default() }))
}

pub(super) fn when(node: &Node, errors: &mut Errors) -> Option<When> {
    let mut object = Object::new(node, errors)?;
    let methods = object.get("methods").map(|node| matching::methods(node, errors));
    let headers = object.get("headers").map(|node| headers(node, errors));
    let accept = object.get("accept").map(|node| accept(node, errors));
    let any = methods.is_some() || headers.is_some() || accept.is_some();
    if object.finish(errors) && !any {
        errors.expected(node, format_args!("at least {}", one_of(&["methods", "headers", "accept"])));
        return None;
    }
    Some(When {
        methods: flip(methods)?.unwrap_or_default(),
        headers: flip(headers)?.unwrap_or_default(),
        accept: flip(accept)?.unwrap_or_default(),
    })
}

fn headers(node: &Node, errors: &mut Errors) -> Option<Vec<(String, String)>> {
    some(node, outcome::HEADERS, errors)?;
    outcome::headers(node, errors)
}

fn accept(node: &Node, errors: &mut Errors) -> Option<Vec<Type>> {
    let items = some(node, "a list of media types such as [\"text/html\"]", errors)?;
    if items.len() > MAX_TYPES {
        errors.expected(node, format_args!("at most {MAX_TYPES} media types"));
        return None;
    }
    all(items, |item| media_type(item, errors))
}

fn media_type(node: &Node, errors: &mut Errors) -> Option<Type> {
    const EXPECTED: &str = "a media type such as \"text/html\"";
    let found = Type::parse(string(node, EXPECTED, errors)?);
    if found.is_none() {
        errors.expected(node, format_args!("{EXPECTED}, without wildcards and parameters"));
    }
    found
}
