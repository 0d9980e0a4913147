//! `fallback`: what answers instead.

mod conditions;
mod fixed;

use super::decode::{Errors, Object, duration, flip, integer, list, one_of, string};
use super::json::Node;
use super::references::{UNRESOLVED, Whole};
use crate::answer::retry_after;
use crate::fallback::{Fail, Fallback, Fallbacks, MAX_ENTRIES, Reroute, Strategy, When};
use conditions::On;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// The largest body, in bytes.
const MAX_BODY: usize = 256 * 1024;
/// All bodies of a document, in bytes. Every worker keeps them all.
const MAX_BODIES: usize = 4 * 1024 * 1024;

const STRATEGIES: [&str; 3] = ["static", "reroute", "fail"];
const CLUSTER: &str = "the name of a cluster, of 1 to 255 visible ASCII letters";
const CLUSTER_LENGTH: RangeInclusive<usize> = 1..=255;
const LOUD: RangeInclusive<u32> = 400..=599;
const RETRY_AFTER: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

pub(super) fn decode(node: &Node, whole: &mut Whole, errors: &mut Errors) -> Option<Arc<Fallbacks>> {
    let items = list(node, "a list of fallbacks", errors)?;
    if items.len() > MAX_ENTRIES {
        errors.expected(node, format_args!("at most {MAX_ENTRIES} fallbacks"));
        return None;
    }
    let mut entries = Vec::with_capacity(items.len());
    for (place, item) in items.iter().enumerate() {
        let before = whole.bodies;
        entries.extend(entry(item, place, whole, errors));
        let all = whole.bodies;
        if before <= MAX_BODIES && all > MAX_BODIES {
            let message = format_args!(
                "the bodies of this document are {all} bytes with this one, expected at most {MAX_BODIES}"
            );
            errors.at(item, message);
        }
    }
    (entries.len() == items.len()).then(|| Arc::new(Fallbacks::new(entries)))
}

fn entry(node: &Node, place: usize, whole: &mut Whole, errors: &mut Errors) -> Option<Fallback> {
    let mut object = Object::new(node, errors)?;
    let on = flip(object.get("on").map(|node| On::read(node, errors)));
    let (http, grpc) = (object.get("status"), object.get("grpc_status"));
    let statuses = conditions::statuses(http, grpc, errors);
    let when = object.get("when").map(|node| conditions::when(node, errors));
    let strategies = STRATEGIES.map(|key| object.get(key).map(|node| (key, node)));
    let all_known = object.finish(errors);
    let mut written = Vec::new();
    for (key, node) in strategies.into_iter().flatten() {
        written.push((key, node, strategy(key, node, place, whole, errors)));
    }
    if let Some((_, second, _)) = written.get(1) {
        errors.at(second, format_args!("a second way to answer, expected only {}", one_of(&STRATEGIES)));
        return None;
    }
    let Some((key, _, strategy)) = written.pop() else {
        // An unknown key may be one of them that is misspelt, and is told as that.
        if all_known {
            errors.expected(node, format_args!("exactly {}", one_of(&STRATEGIES)));
        }
        return None;
    };
    let on = on?;
    let statuses_asked = [http, grpc].into_iter().flatten();
    let on = match key {
        "reroute" => conditions::before_sent(on.as_ref(), statuses_asked, errors),
        _ if statuses_asked.count() > 0 => conditions::after_answer(on.as_ref(), errors),
        _ => Some(conditions::anything(on.as_ref())),
    };
    Some(Fallback {
        on: on?,
        statuses: statuses?,
        when: when.unwrap_or_else(|| Some(When::default()))?,
        strategy: strategy?,
    })
}

fn strategy(
    key: &str,
    node: &Node,
    place: usize,
    whole: &mut Whole,
    errors: &mut Errors,
) -> Option<Strategy> {
    match key {
        "static" => fixed::decode(node, whole, errors).map(Strategy::Static),
        "reroute" => reroute(node, place, whole, errors).map(Strategy::Reroute),
        _ => fail(node, errors).map(Strategy::Fail),
    }
}

fn reroute(node: &Node, place: usize, whole: &mut Whole, errors: &mut Errors) -> Option<Reroute> {
    const POLICY: &str = "the name of the policy that guards it";
    let mut object = Object::new(node, errors)?;
    let cluster = object.require("cluster", CLUSTER, errors).and_then(|node| cluster(node, errors));
    let policy = object.require("policy", POLICY, errors);
    object.finish(errors);
    let policy = policy?;
    whole.references.guard(place, policy, string(policy, POLICY, errors)?);
    Some(Reroute { cluster: cluster?, guard: UNRESOLVED })
}

/// It goes into a header.
fn cluster(node: &Node, errors: &mut Errors) -> Option<String> {
    let name = string(node, CLUSTER, errors)?;
    if !CLUSTER_LENGTH.contains(&name.len()) || !name.bytes().all(|letter| letter.is_ascii_graphic()) {
        errors.expected(node, CLUSTER);
        return None;
    }
    Some(name.to_owned())
}

fn fail(node: &Node, errors: &mut Errors) -> Option<Fail> {
    let mut object = Object::new(node, errors)?;
    let status = object
        .require("status", "an HTTP status from 400 to 599", errors)
        .and_then(|node| integer(node, LOUD, errors));
    let wait = object.get("retry_after").map(|node| duration(node, &RETRY_AFTER, errors));
    object.finish(errors);
    Some(Fail { status: u16::try_from(status?).ok()?, retry_after: flip(wait)?.map(retry_after) })
}
