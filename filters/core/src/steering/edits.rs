//! What is written to a request's headers before the router reads them.

use super::{
    EXPECTED_TIMEOUT, GRPC_TIMEOUT, MAX_RETRIES, PER_TRY_TIMEOUT, RETRY_GRPC_ON, RETRY_ON, STEERING, Said,
    TIMEOUT,
};
use crate::budget::Grant;
use crate::config::{PatternMode, Policy};
use crate::time::Timestamp;
use crate::timeout::Allowance;
use std::borrow::Cow;
use std::time::Duration;

/// A change of a request's headers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Edit<'a> {
    /// This value in place of any.
    Set(&'a str, Cow<'a, str>),
    /// None of this name.
    Remove(&'a str),
}

/// What is to be changed in the headers of a request of `policy` that goes to the upstream at `now`. To change any has Envoy
/// match its route again, so nothing is written that would be so anyway. `said` is `None` where the headers cannot be
/// read.
#[must_use]
pub fn edits<'a>(
    policy: &'a Policy,
    trusted: bool,
    said: Option<&Said>,
    time: &Allowance,
    grant: Option<Grant>,
    now: Timestamp,
) -> Vec<Edit<'a>> {
    let mut edits = Vec::new();
    if !trusted && policy.steers() {
        // Where nobody can tell which are there, all of them go.
        let found = said.map_or(&STEERING[..], |said| &said.steering);
        edits.extend(found.iter().map(|name| Edit::Remove(name)));
    }
    if let Some(grant) = grant {
        retries(policy, said, grant, &mut edits);
    }
    // A deadline may also be one that it brought with it, from the policy that sent it here.
    if policy.enforced_timeout().is_some() || time.deadline.is_some() {
        timeouts(said, time, now, &mut edits);
        pass_on(policy, trusted, said, time.rest(now), &mut edits);
    }
    edits
}

fn retries<'a>(policy: &'a Policy, said: Option<&Said>, grant: Grant, edits: &mut Vec<Edit<'a>>) {
    let caps = policy.retry_budget.as_ref().is_some_and(|budget| budget.mode == PatternMode::Enforce);
    match policy.enforced_retry().map(|retry| &retry.settings) {
        Some(retry) if grant.retries > 0 => {
            for (name, words) in [(RETRY_ON, &retry.retry_on), (RETRY_GRPC_ON, &retry.retry_grpc_on)] {
                if !words.is_empty() {
                    edits.push(Edit::Set(name, Cow::Borrowed(words)));
                }
            }
        }
        Some(_) if asks_for(said, 0) => return,
        Some(_) => {}
        None if !caps || grant.uncapped || asks_for(said, grant.retries) => return,
        None => {}
    }
    edits.push(Edit::Set(MAX_RETRIES, grant.retries.to_string().into()));
}

/// Whether the request says so itself, and is believed.
fn asks_for(said: Option<&Said>, retries: u8) -> bool {
    // The most there can be stands for all that are more.
    retries < u8::MAX && said.is_some_and(|said| said.max_retries == Some(retries))
}

fn timeouts(said: Option<&Said>, time: &Allowance, now: Timestamp, edits: &mut Vec<Edit<'_>>) {
    let rest = time.rest(now);
    if let Some(rest) = rest.filter(|rest| said.and_then(|said| said.timeout) != Some(*rest)) {
        edits.push(Edit::Set(TIMEOUT, millis(rest).into()));
    }
    // Also one that is no shorter than the whole, which Envoy takes for none: it stands in place of the route's.
    let per_try = time.per_try.map(|per_try| rest.map_or(per_try, |rest| rest.min(per_try)));
    if let Some(per_try) = per_try.filter(|per_try| said.and_then(|said| said.per_try) != Some(*per_try)) {
        edits.push(Edit::Set(PER_TRY_TIMEOUT, millis(per_try).into()));
    }
}

/// Tells the upstream what is left of the time, in the words that the request has for it.
fn pass_on<'a>(
    policy: &'a Policy,
    trusted: bool,
    said: Option<&Said>,
    rest: Option<Duration>,
    edits: &mut Vec<Edit<'a>>,
) {
    let has = |is: fn(&Said) -> bool| said.map_or(!trusted, is);
    let mut replace = |name: &'a str, value: Option<String>| match value.filter(|_| said.is_some()) {
        Some(value) => edits.push(Edit::Set(name, value.into())),
        None if !trusted => edits.push(Edit::Remove(name)),
        None => {}
    };
    if has(|said| said.has_grpc_timeout) {
        replace(GRPC_TIMEOUT, rest.map(|rest| format!("{}m", millis(rest))));
    }
    let header = policy.enforced_timeout().and_then(|timeout| timeout.deadline_header.as_deref());
    if let Some(header) = header.filter(|_| rest.is_some() || has(|said| said.has_deadline_header)) {
        replace(header, rest.map(millis));
    }
    // From a stranger it is gone already; the router says its own.
    if trusted && has(|said| said.steering.contains(&EXPECTED_TIMEOUT)) {
        replace(EXPECTED_TIMEOUT, rest.map(millis));
    }
}

/// Whole milliseconds, at least one: to Envoy none is no timeout at all.
fn millis(span: Duration) -> String {
    span.as_millis().max(1).to_string()
}
