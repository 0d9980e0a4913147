//! `timeout`.

use super::decode::{Errors, Object, duration, flip, header, word};
use super::duration::display;
use super::json::Node;
use super::mode::{Mode, PATTERN_MODES, PatternMode};
use crate::timeout::Settings;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The pattern `timeout`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timeout {
    /// How long a request may take.
    pub settings: Settings,
    /// What is done about it.
    pub mode: PatternMode,
}

const SPAN: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(24 * 3600);
const MARGIN: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);
const DEFAULT_MARGIN: Duration = Duration::from_millis(10);
/// The header is rewritten: it must not be one that HTTP itself, gRPC, Envoy or this filter reads.
const RESERVED: [&str; 6] = ["connection", "content-length", "host", "te", "transfer-encoding", "upgrade"];
const RESERVED_PREFIXES: [&str; 3] = ["grpc-", "x-envoy-", "x-resilience"];

impl Timeout {
    /// As it is in a policy of the mode `outer`.
    pub(super) fn within(self, outer: Mode) -> Self {
        Self { mode: self.mode.within(outer), ..self }
    }
}

/// A section, whole or a part of one: nothing in it is required.
pub(super) fn decode(node: &Node, errors: &mut Errors) -> Option<Timeout> {
    let mut object = Object::new(node, errors)?;
    let mode = object.get("mode").map(|node| word(node, &PATTERN_MODES, errors));
    let total_node = object.get("total");
    let total = total_node.map(|node| milliseconds(node, errors));
    let per_try_node = object.get("per_try");
    let per_try = per_try_node.map(|node| milliseconds(node, errors));
    let header = object.get("deadline_header").map(|node| deadline_header(node, errors));
    let margin = object.get("margin").map(|node| duration(node, &MARGIN, errors));
    object.finish(errors);
    if let (Some(total_node), Some(per_try_node)) = (total_node, per_try_node) {
        fits(node, (total_node, total.flatten()), (per_try_node, per_try.flatten()), errors)?;
    }
    let settings = Settings {
        total: flip(total)?,
        per_try: flip(per_try)?,
        deadline_header: flip(header)?,
        margin: margin.unwrap_or(Some(DEFAULT_MARGIN))?,
    };
    Some(Timeout { settings, mode: mode.unwrap_or(Some(PatternMode::Enforce))? })
}

/// Whether an attempt can end before the whole does. The error is told where the policy has a word in it: another policy may
/// well live with what both inherit.
fn fits(
    section: &Node,
    (total_node, total): (&Node, Option<Duration>),
    (per_try_node, per_try): (&Node, Option<Duration>),
    errors: &mut Errors,
) -> Option<()> {
    let (total, per_try) = (total?, per_try?);
    if per_try <= total {
        return Some(());
    }
    let own = |node: &Node| node.path.starts_with(&section.path);
    if own(total_node) && !own(per_try_node) {
        let (least, place) = (display(per_try), &per_try_node.path);
        errors.expected(total_node, format_args!("at least \"{least}\", which is {place}"));
    } else {
        let (most, place) = (display(total), &total_node.path);
        errors.expected(per_try_node, format_args!("at most \"{most}\", which is {place}"));
    }
    None
}

/// Envoy's headers count in whole milliseconds: what is less would be lost without a word.
fn milliseconds(node: &Node, errors: &mut Errors) -> Option<Duration> {
    let found = duration(node, &SPAN, errors)?;
    if found.subsec_nanos().checked_rem(1_000_000) != Some(0) {
        errors.expected(node, "whole milliseconds such as \"250ms\"");
        return None;
    }
    Some(found)
}

fn deadline_header(node: &Node, errors: &mut Errors) -> Option<String> {
    let name = header(node, "the name of a header such as \"x-deadline-ms\" (a token, RFC 9110)", errors)?;
    let reserved = RESERVED.contains(&name.as_str());
    if reserved || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        errors.expected(node, "a header that HTTP, gRPC, Envoy and this filter do not use themselves");
        return None;
    }
    Some(name)
}
