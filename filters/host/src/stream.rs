//! One request, from its headers to its end.

use crate::calls::{self, Direction, Level, LocalResponse, Map, log};
use crate::facts::{CurrentRequest, header, is_grpc, property};
use crate::root::{Arrived, Root, clock};
use resilience_core::answer::{Refusal, Reply, Source, forged, refuse};
use resilience_core::breaker::{Outcome, Ticket};
use resilience_core::bulkhead::Permit;
use resilience_core::decision::Decision;
use resilience_core::matcher::Seen;
use resilience_core::outcome::{
    self, Answer, Rules, Standing, Status, StreamInfo, is_via_upstream, parse_status,
};
use resilience_core::time::Timestamp;
use resilience_core::worker::{Pass, Resumed, Target, Verdict};
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
    held: Option<Call>,
    /// The call to the upstream whose outcome is still to be found out. `None` where the request is not ours, where we
    /// answered it ourselves, and once it is judged: then nothing that still comes is evidence.
    call: Option<Call>,
    /// What it gives back at its end, if it is in flight through a bulkhead.
    permit: Option<(Target, Permit)>,
}

/// A request that was let through, or is going to be.
#[derive(Debug)]
pub(crate) struct Call {
    /// Whose it is.
    pub(crate) target: Target,
    /// The breaker's, if one admitted it.
    pub(crate) ticket: Option<Ticket>,
    /// Its class, where its policy tells classes apart.
    class: Option<usize>,
    /// When it came, or its wait was over: waiting is no slowness of the upstream.
    began: Timestamp,
    /// How long it waited before.
    waited: Duration,
    /// What its policy was found by.
    pub(crate) seen: Seen,
    /// The upstream cluster that it was to go to, where each has a state of its own.
    pub(crate) cluster: Option<Vec<u8>>,
    /// Whether its answer was slow to begin, once it has and where anybody asks.
    slow: Option<bool>,
    /// What has been seen of the answer.
    answer: Answer,
}

impl Stream {
    pub(crate) const fn new(id: u32, root: u32) -> Self {
        Self { id, root, held: None, call: None, permit: None }
    }

    pub(crate) fn request_headers(&mut self, root: &mut Root) -> Action {
        // Once is enough: a second permit would not come back.
        if self.held.is_some() {
            return Action::Pause;
        }
        if self.call.is_some() || self.permit.is_some() {
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
        let cluster = root.cluster(policy);
        let Arrived { at, target, class, decision } = root.decide(policy, cluster.as_deref(), self.id);
        let answer = Answer::default();
        let call = Call {
            target,
            ticket: None,
            class,
            began: at,
            waited: Duration::ZERO,
            seen,
            cluster,
            slow: None,
            answer,
        };
        self.obey(root, call, decision)
    }

    /// Does with a request what was decided.
    fn obey(&mut self, root: &mut Root, call: Call, decision: Decision) -> Action {
        match decision {
            Decision::Call(pass) => {
                self.begin(root, call, pass);
                Action::Continue
            }
            Decision::Wait => {
                self.held = Some(call);
                Action::Pause
            }
            Decision::Refuse(refusal) => answer(root, call.target.policy, call.class, refusal),
        }
    }

    /// The request goes to the upstream.
    fn begin(&mut self, root: &mut Root, call: Call, pass: Pass) {
        let Pass { ticket, permit, shadowed } = pass;
        root.metrics(call.target.policy, |metrics| {
            shadowed.into_iter().for_each(|reason| metrics.shadow(reason));
        });
        self.permit = permit.map(|permit| (call.target, permit));
        self.call = Some(Call { ticket, ..call });
    }

    /// The end of a wait, heard of in a callback that is not this stream's.
    pub(crate) fn resume(&mut self, root: &mut Root, resumed: Resumed) {
        let Some(mut call) = self.held.take() else { return self.resume_in_name(root, resumed) };
        let policy = call.target.policy;
        if let Err(status) = calls::set_effective_context(self.id) {
            // It is gone, and what followed would be done to another stream.
            log(Level::Debug, &format!("a request that waited is gone: {status}"));
            return root.abandon(resumed);
        }
        root.metrics(policy, |metrics| metrics.waited(resumed.waited));
        (call.began, call.waited) = (root.now(), resumed.waited);
        let decision = root.decide_again(policy, resumed.verdict);
        if self.obey(root, call, decision) == Action::Continue
            && let Err(status) = calls::continue_stream(Direction::Request)
        {
            log(Level::Warn, &format!("a request that waited could not go on: {status}"));
        }
    }

    /// The end of a wait in name only, under a bulkhead in shadow mode: the request went on at once.
    fn resume_in_name(&mut self, root: &mut Root, resumed: Resumed) {
        match resumed.verdict {
            Verdict::Admitted(pass) => self.permit = pass.permit.map(|permit| (resumed.target, permit)),
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
        self.judge_headers(root);
        if !root.exposes() {
            // One that is not there is removed at no cost to speak of.
            let _ = calls::remove_header(Map::ResponseHeaders, MARKER);
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
        call.settle(root, outcome, None);
    }

    /// The end, however it came about. Runs once, when the host gives the stream up; nothing follows it.
    pub(crate) fn end(mut self, root: &mut Root) {
        root.withdraw(self.id);
        let permit = self.permit.take();
        let Some(call) = self.call.take() else {
            if let Some((target, permit)) = permit {
                root.release(target, permit);
            }
            return;
        };
        let upstream_answered = || property(b"upstream\0address").is_some();
        let judge = |rules| outcome::of_end(rules, call.answer, &call.stream_info(), upstream_answered);
        let outcome = root.rules(call.target.policy).map_or(Outcome::Ignored, judge);
        call.settle(root, outcome, permit.map(|(_, permit)| permit));
    }
}

impl Call {
    fn is_probe(&self) -> bool {
        self.ticket.is_some_and(|ticket| ticket.probe.is_some())
    }

    /// Why the stream is where it is. The flags are read only where the answer is not simply the upstream's.
    fn stream_info(&self) -> StreamInfo {
        let details = property(b"response\0code_details").unwrap_or_default();
        if is_via_upstream(&details) {
            return StreamInfo { details, ..StreamInfo::default() };
        }
        let flags = property(b"response\0flags").and_then(|bytes| bytes.try_into().ok());
        let now = if self.waited.is_zero() { None } else { clock() };
        StreamInfo {
            details,
            flags: flags.map_or(0, u64::from_le_bytes),
            waited: self.waited,
            called: now.map_or(Duration::ZERO, |now| now.since(self.began)),
        }
    }

    /// Counts what the call proved, and gives back its `permit`, if it ends with this.
    fn settle(self, root: &mut Root, outcome: Outcome, permit: Option<Permit>) {
        let policy = self.target.policy;
        let slow = self.slow.or_else(|| root.is_slow(policy, self.began)).unwrap_or(false);
        root.complete(&self, outcome.timed(slow), permit);
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
