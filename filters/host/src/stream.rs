//! One request, from its headers to its end.

use crate::call::{Call, Holds};
use crate::calls::{self, Direction, Level, LocalResponse, Map, log};
use crate::facts::{CurrentRequest, header, is_grpc, property};
use crate::root::{Arrived, Asked, Root};
use resilience_core::answer::{Refusal, Reply, Source, forged, refuse, timed_out};
use resilience_core::breaker::Outcome;
use resilience_core::bulkhead::Permit;
use resilience_core::decision::Decision;
use resilience_core::outcome::{self, Answer, Rules, Standing, Status, parse_status};
use resilience_core::steering::Edit;
use resilience_core::time::Timestamp;
use resilience_core::worker::{Pass, Resumed, Returned, Verdict};
use std::time::Duration;

/// A request that arrives with this header was routed by its sender.
const REROUTE: &str = "x-resilience-reroute";
const MARKER: &str = "x-resilience";

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
    /// The request while it is held back.
    held: Option<Held>,
    /// The call to the upstream whose outcome is still to be found out. `None` where the request is not ours, where we
    /// answered it ourselves, and once it is judged: then nothing that still comes is evidence.
    call: Option<Call>,
    /// What it holds, once it was let through.
    holds: Option<Holds>,
    /// When it ends, whoever answers it.
    alarm: Option<Timestamp>,
    /// Whether it was received whole.
    is_whole: bool,
    /// When that was, where it took its time.
    whole_since: Option<Timestamp>,
    /// Whether its answer has begun.
    answered: bool,
}

/// A request that is held back.
#[derive(Debug)]
struct Held {
    call: Call,
    asked: Asked,
}

impl Stream {
    pub(crate) const fn new(id: u32, root: u32) -> Self {
        Self {
            id,
            root,
            held: None,
            call: None,
            holds: None,
            alarm: None,
            is_whole: false,
            whole_since: None,
            answered: false,
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
        if root.is_control() {
            let [method, path] =
                [":method", ":path"].map(|name| header(Map::RequestHeaders, name).unwrap_or_default());
            return send(&root.control(&method, &path));
        }
        let Some((policy, seen)) = root.policy_of(&mut CurrentRequest) else { return Action::Continue };
        self.is_whole = is_whole;
        let cluster = root.cluster(policy);
        let Arrived { at, target, class, asked, decision } = root.decide(policy, cluster.as_deref(), self.id);
        let answer = Answer::default();
        let call = Call {
            target,
            ticket: None,
            class,
            began: at,
            waited: Duration::ZERO,
            has_deadline: asked.plan.time.deadline.is_some(),
            seen,
            cluster,
            slow: None,
            answer,
        };
        self.obey(root, Held { call, asked }, decision)
    }

    /// Does with a request what was decided.
    fn obey(&mut self, root: &mut Root, held: Held, decision: Decision) -> Action {
        match decision {
            Decision::Call(pass) => {
                self.begin(root, held, pass);
                Action::Continue
            }
            Decision::Wait => {
                self.held = Some(held);
                Action::Pause
            }
            Decision::Refuse(refusal) => answer(root, held.call.target.policy, held.call.class, refusal),
        }
    }

    /// The request goes to the upstream.
    fn begin(&mut self, root: &mut Root, held: Held, pass: Pass) {
        let Held { call, asked } = held;
        let Pass { ticket, permit, grant, shadowed } = pass;
        let target = call.target;
        root.metrics(target.policy, |metrics| {
            shadowed.into_iter().for_each(|reason| metrics.shadow(reason));
        });
        root.edits(target.policy, &asked, grant).iter().for_each(write);
        if !self.is_whole
            && let Some(deadline) = asked.plan.time.deadline
        {
            // The router's own clock starts when it has the whole request.
            self.alarm = Some(deadline);
            root.set_alarm(self.id, deadline);
        }
        self.holds =
            Some(Holds { target, permit, grant, is_grpc: asked.is_grpc(), failed: false, lingers: false });
        self.call = Some(Call { ticket, ..call });
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
        let is_grpc = self.holds.as_ref().is_some_and(|holds| holds.is_grpc);
        let policy = self.call.as_ref().and_then(|call| root.policy(call.target.policy));
        let Some(reply) = policy.map(|policy| timed_out(policy, root.exposes(), is_grpc)) else { return };
        if send(&reply) == Action::Continue {
            return;
        }
        let Some(call) = self.call.take() else { return };
        let with_it = self.whole_since.map(|since| root.now().since(since));
        let before = self.whole_since.map(|since| call.waited.saturating_add(since.since(call.began)));
        let outcome = outcome::of_our_timeout(before.unwrap_or_default(), with_it);
        self.settle(root, Some((call, outcome)), true, None);
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
        (held.call.began, held.call.waited) = (root.now(), resumed.waited);
        let decision = root.decide_again(policy, &held.asked.plan, resumed.verdict);
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

    pub(crate) fn response_headers(&mut self, root: &mut Root) {
        if self.held.take().is_some() {
            // Somebody else has answered it: it waits for nothing any more.
            root.withdraw(self.id);
        }
        self.cancel_alarm(root);
        self.judge_headers(root);
        self.answered = true;
        if !root.exposes() {
            // One that is not there is removed at no cost to speak of.
            let _ = calls::remove_header(Map::ResponseHeaders, MARKER);
        }
    }

    fn cancel_alarm(&mut self, root: &mut Root) {
        if let Some(alarm) = self.alarm.take() {
            root.cancel_alarm(self.id, alarm);
        }
    }

    fn judge_headers(&mut self, root: &mut Root) {
        let Some(call) = &mut self.call else { return };
        call.slow = root.is_slow(call.target.policy, call.began);
        let Some(rules) = root.rules(call.target.policy) else { return };
        call.answer = read_answer(rules);
        let settled = match rules.standing(call.answer, call.is_probe()) {
            Standing::Settled => true,
            Standing::SettledUnlessGrpc => !is_grpc(header(Map::ResponseHeaders, "content-type")),
            Standing::Provisional => false,
        };
        if settled {
            self.judge_answer(root);
        }
    }

    pub(crate) fn response_trailers(&mut self, root: &mut Root) {
        let Some(call) = &mut self.call else { return };
        let Some(rules) = root.rules(call.target.policy) else { return };
        call.answer.status.grpc = grpc_status(Map::ResponseTrailers).or(call.answer.status.grpc);
        // A success may still be cut off.
        if call.is_probe() || rules.judge(call.answer) != Outcome::Success {
            self.judge_answer(root);
        }
    }

    /// Counts what the answer proves, before the stream ends.
    fn judge_answer(&mut self, root: &mut Root) {
        let Some(call) = self.call.take() else { return };
        let judge = |rules| outcome::of_answer(rules, call.answer, &call.stream_info());
        let outcome = root.rules(call.target.policy).map_or(Outcome::Ignored, judge);
        // With what is written anyway: else the retries wait for the end.
        let writes = call.ticket.is_some_and(|ticket| ticket.tells(outcome));
        self.settle(root, Some((call, outcome)), writes, None);
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

fn answer(root: &mut Root, policy: usize, class: Option<usize>, refusal: Refusal) -> Action {
    let expose = root.exposes();
    let Some(reply) = root.policy(policy).map(|policy| refuse(policy, expose, refusal, &mut CurrentRequest))
    else {
        return Action::Continue;
    };
    let class = root.class_name(policy, class).map(str::to_owned);
    root.metrics(policy, |metrics| {
        metrics.rejection(refusal.reason, class.as_deref());
        if reply.source != Source::None {
            metrics.fallback(refusal.reason, reply.source);
        }
    });
    send(&reply)
}

/// Changes the request's headers.
fn write(edit: &Edit<'_>) {
    let written = match edit {
        Edit::Set(name, value) => calls::replace_header(Map::RequestHeaders, name, value.as_bytes()),
        Edit::Remove(name) => calls::remove_header(Map::RequestHeaders, name),
    };
    if let Err(status) = written {
        log(Level::Warn, &format!("a header of a request could not be changed: {status}"));
    }
}

/// Sends a reply. If the host does not take it the request goes on: to pause it would hang it.
fn send(reply: &Reply) -> Action {
    let sent = calls::send_local_response(&LocalResponse {
        status: reply.status,
        details: &reply.details,
        headers: &reply.headers,
        body: &reply.body,
        grpc_status: reply.grpc_status,
    });
    match sent {
        Ok(()) => Action::Pause,
        Err(status) => {
            log(Level::Warn, &format!("a reply could not be sent, the request goes on: {status}"));
            Action::Continue
        }
    }
}

/// What the answer's headers say. All of them in one read cost no more than the two that every answer is judged by.
fn read_answer(rules: &Rules) -> Answer {
    let answer = calls::header_pairs(Map::ResponseHeaders).ok().map(|headers| rules.read(headers.iter()));
    // Nothing that could be read has no status; one by one each may still be had.
    answer.filter(|answer| answer.status.http.is_some()).unwrap_or_else(|| {
        let http = header(Map::ResponseHeaders, ":status").and_then(|value| parse_status(&value));
        Answer::from(Status { http, grpc: grpc_status(Map::ResponseHeaders) })
    })
}

fn grpc_status(map: Map) -> Option<u16> {
    parse_status(&header(map, "grpc-status")?)
}
