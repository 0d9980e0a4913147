//! One request, from its headers to its end.

mod request;
mod response;

use crate::answering::{Body, send};
use crate::call::{Call, Holds};
use crate::calls::{self, Direction, Level, Map, log};
use crate::facts::{CurrentRequest, header, property};
use crate::root::Root;
use request::Held;
use resilience_core::answer::{Reason, Source, TimedOut, forged, timed_out};
use resilience_core::breaker::Outcome;
use resilience_core::bulkhead::Permit;
use resilience_core::outcome;
use resilience_core::time::Timestamp;
use resilience_core::worker::{Resumed, Returned, Verdict};
use response::Way;

/// A request that arrives with this header was routed by its sender.
const REROUTE: &str = "x-resilience-reroute";

/// What a callback tells the host to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u32)]
pub enum Action {
    /// Go on.
    #[default]
    Continue = 0,
    /// Wait, or, after a local reply, stop.
    Pause = 1,
}

/// A stream of a root context.
#[derive(Debug)]
pub(crate) struct Stream {
    id: u32,
    pub(crate) root: u32,
    /// When its request came.
    came: Timestamp,
    /// The request while it is held back.
    held: Option<Held>,
    /// The call to the upstream whose outcome is still to be found out. `None` where the request is not ours, where we
    /// answered it ourselves, and once it is judged: then nothing that still comes is evidence.
    call: Option<Call>,
    /// What it holds, once it was let through.
    holds: Option<Holds>,
    /// When it ends, whoever answers it.
    alarm: Option<Timestamp>,
    /// Whether it has no body.
    is_bodiless: bool,
    /// Whether it was received whole.
    is_whole: bool,
    /// When that was, where it took its time.
    whole_since: Option<Timestamp>,
    /// Whether its answer has begun.
    answered: bool,
    /// What takes the place of its answer's body, if anything.
    body: Option<Body>,
}

impl Stream {
    pub(crate) const fn new(id: u32, root: u32) -> Self {
        Self {
            id,
            root,
            came: Timestamp::from_nanos(0),
            held: None,
            call: None,
            holds: None,
            alarm: None,
            is_bodiless: false,
            is_whole: false,
            whole_since: None,
            answered: false,
            body: None,
        }
    }

    pub(crate) fn request_headers(&mut self, root: &mut Root, is_whole: bool) -> Action {
        // Once is enough: a second permit would not come back.
        if self.held.is_some() {
            return Action::Pause;
        }
        if self.call.is_some() || self.holds.is_some() {
            return Action::Continue;
        }
        if header(Map::RequestHeaders, REROUTE).is_some() {
            return send(&forged());
        }
        if root.is_for_operators() {
            let [method, path] =
                [":method", ":path"].map(|name| header(Map::RequestHeaders, name).unwrap_or_default());
            return send(&root.serve_operator(&method, &path));
        }
        let Some((policy, seen)) = root.policy_of(&mut CurrentRequest) else { return Action::Continue };
        (self.is_bodiless, self.is_whole) = (is_whole, is_whole);
        self.arrive(root, policy, seen)
    }

    /// More of the request's body; `is_last` where it ends with this.
    pub(crate) fn request_body(&mut self, root: &mut Root, is_last: bool) -> Action {
        if is_last {
            self.is_whole = true;
            self.came_whole(root);
        }
        // A host that does not hold the body back with the headers would let the request go on.
        if self.held.is_some() { Action::Pause } else { Action::Continue }
    }

    /// The request is there whole, and the router's clock starts.
    fn came_whole(&mut self, root: &mut Root) {
        let (Some(_), Some(call)) = (self.alarm, &self.call) else { return };
        if root.has_just_begun(call.began) {
            // That clock is as good as ours. Of two that ran out together now one would answer and now the other.
            self.cancel_alarm(root);
        } else {
            self.whole_since = Some(root.now());
        }
    }

    /// The time of the request is over; heard of in a callback that is not this stream's.
    pub(crate) fn time_out(&mut self, root: &mut Root) {
        if self.alarm.take().is_none() || self.call.is_none() {
            return;
        }
        if let Err(status) = calls::set_effective_context(self.id) {
            // What follows would be done to another stream. What it proves is still to come, at its end.
            log(Level::Debug, &format!("a request whose time is over is gone: {status}"));
            return;
        }
        let way = self.way(root);
        let Some(timed_out) = self.timed_out(root, &way) else { return };
        let decided = timed_out.decided();
        let TimedOut { reply, shadowed } = timed_out;
        if send(&reply) == Action::Continue {
            return;
        }
        way.count(root);
        let Some(call) = self.call.take() else { return };
        let policy = call.target.policy;
        root.annotate(call.own(), decided, Some(Reason::Timeout));
        if reply.source != Source::None {
            root.metrics(policy, |metrics| metrics.fallback(Reason::Timeout, reply.source));
        } else if shadowed {
            root.metrics(policy, |metrics| metrics.shadow(Reason::Timeout));
        }
        let with_it = self.whole_since.map(|since| root.now().since(since));
        let before = self.whole_since.map(|since| call.waited.saturating_add(since.since(call.began)));
        let outcome = outcome::of_our_timeout(before.unwrap_or_default(), with_it);
        self.settle(root, Some((call, outcome)), true, None);
    }

    /// What answers a request whose time is over, where it has gone this way.
    fn timed_out(&self, root: &Root, way: &Way) -> Option<TimedOut> {
        let call = self.call.as_ref()?;
        let policy = root.policy(call.target.policy)?;
        let own = call.rerouted.as_ref().and_then(|rerouted| root.policy(rerouted.from.policy));
        let arrived = !matches!(way, Way::Astray(_));
        let mut timed_out = timed_out(policy, own, arrived, root.exposes(), &call.caller);
        timed_out.reply.marked_after(way.mark().unwrap_or_default());
        Some(timed_out)
    }

    /// The end of a wait, heard of in a callback that is not this stream's.
    pub(crate) fn resume(&mut self, root: &mut Root, resumed: Resumed) {
        let Some(mut held) = self.held.take() else { return self.resume_in_name(root, resumed) };
        let policy = held.call.target.policy;
        if let Err(status) = calls::set_effective_context(self.id) {
            // It is gone, and what followed would be done to another stream.
            log(Level::Debug, &format!("a request that waited is gone: {status}"));
            return root.abandon(resumed);
        }
        root.metrics(policy, |metrics| metrics.waited(resumed.waited));
        held.call.began = root.now();
        held.call.waited = held.call.waited.saturating_add(resumed.waited);
        let decision = root.decide_again(&held.asked.plan, resumed);
        if self.obey(root, held, decision) == Action::Continue
            && let Err(status) = calls::continue_stream(Direction::Request)
        {
            log(Level::Warn, &format!("a request that waited could not go on: {status}"));
        }
    }

    /// The end of a wait in name only, under a bulkhead in shadow mode: the request went on at once.
    fn resume_in_name(&mut self, root: &mut Root, resumed: Resumed) {
        match resumed.verdict {
            Verdict::Admitted(pass) => match &mut self.holds {
                Some(holds) => holds.permit = pass.permit,
                None => root.abandon(Resumed { verdict: Verdict::Admitted(pass), ..resumed }),
            },
            Verdict::Refused(refused) => {
                root.metrics(resumed.target.policy, |metrics| metrics.shadow(refused.reason));
            }
            Verdict::Waits => {}
        }
    }

    fn cancel_alarm(&mut self, root: &mut Root) {
        if let Some(alarm) = self.alarm.take() {
            root.cancel_alarm(self.id, alarm);
        }
    }

    /// Counts what a call has proved, and gives back its retries, if there are `no_more`, and its `permit`, if it ends with this.
    fn settle(
        &mut self,
        root: &mut Root,
        call: Option<(Call, Outcome)>,
        no_more: bool,
        permit: Option<Permit>,
    ) {
        let Some(holds) = &mut self.holds else { return };
        // Nothing is retried once the answer has begun.
        let failed = call.as_ref().is_some_and(|(_, outcome)| outcome.is_failure());
        holds.failed |= failed && !self.answered;
        let (target, retries) = (holds.target, if no_more { holds.take_retries() } else { None });
        let returned = Returned { permit, spent: retries.and_then(|retries| retries.spent()) };
        match call {
            Some((call, outcome)) => call.settle(root, outcome, returned),
            None => root.release(target, returned),
        }
        // After the state: whoever sees the count can rely on what it did.
        if let Some(retries) = retries {
            root.metrics(target.policy, |metrics| retries.count(metrics));
        }
    }

    /// With a sign of life: gives back the retries that are kept for a request whose answer had begun at the one before. Returns
    /// whether there were any. Heard of in a callback that is not this stream's.
    pub(crate) fn give_back_retries(&mut self, root: &mut Root) -> bool {
        let Some(holds) = self.holds.as_mut().filter(|holds| self.answered && holds.keeps_retries()) else {
            return false;
        };
        // Most answers are whole by then, and their retries come back with the rest.
        let lingers = std::mem::replace(&mut holds.lingers, true);
        if !lingers || calls::set_effective_context(self.id).is_err() {
            return false;
        }
        self.settle(root, None, true, None);
        true
    }

    /// The end, however it came about. Runs once, when the host gives the stream up; nothing follows it.
    pub(crate) fn end(mut self, root: &mut Root) {
        root.withdraw(self.id);
        self.cancel_alarm(root);
        if !self.answered
            && let way @ Way::Elsewhere { .. } = self.way(root)
        {
            // Its caller left before there was an answer to say so.
            way.count(root);
        }
        let judged = self.call.take().map(|call| {
            let upstream_answered = || property(b"upstream\0address").is_some();
            let judge = |rules| outcome::of_end(rules, call.answer, &call.stream_info(), upstream_answered);
            let outcome = root.rules(call.target.policy).map_or(Outcome::Ignored, judge);
            (call, outcome)
        });
        let permit = self.holds.as_mut().and_then(|holds| holds.permit.take());
        self.settle(root, judged, true, permit);
    }
}
