//! The way out: what an answer proves, and what takes its place if it failed.

use super::Stream;
use crate::answering::{self, BodyAction, send};
use crate::call::Rerouted;
use crate::calls::{self, Map};
use crate::facts::{header, is_grpc};
use crate::root::Root;
use crate::stream::Action;
use resilience_core::annotation::Decided;
use resilience_core::answer::{
    Failed, Instead, MARKER, Reasons, Replacement, Source, instead, marker, replace,
};
use resilience_core::breaker::Outcome;
use resilience_core::fallback::{Caller, Cause, Entries};
use resilience_core::outcome::{self, Answer, Rules, Standing, Status, StreamInfo, parse_status};
use resilience_core::worker::Target;

/// An answer that failed, and has not begun for the caller.
struct Failure {
    /// The policy that is asked for a fallback.
    policy: usize,
    /// Whose request it is.
    own: Target,
    cause: Cause,
    caller: Caller,
}

/// Where a request has gone.
pub(super) enum Way {
    /// To its own upstream.
    Own,
    /// To another, as its fallback says.
    Elsewhere {
        rerouted: Rerouted,
        /// What is to be said of that, if outsiders are told.
        mark: Option<String>,
    },
    /// Not where its fallback says.
    Astray(Rerouted),
}

impl Way {
    pub(super) fn mark(&self) -> Option<&str> {
        match self {
            Self::Elsewhere { mark, .. } => mark.as_deref(),
            Self::Own | Self::Astray(_) => None,
        }
    }

    /// Counts it, or says what is wrong with it.
    pub(super) fn count(&self, root: &mut Root) {
        match self {
            Self::Own => {}
            Self::Elsewhere { rerouted: Rerouted { from, reason, .. }, .. } => {
                root.metrics(from.policy, |metrics| metrics.fallback(*reason, Source::Reroute));
            }
            Self::Astray(rerouted) => root.went_astray(rerouted),
        }
    }
}

impl Stream {
    /// The headers of an answer; it `ends` with them where no body and no trailers follow.
    pub(crate) fn response_headers(&mut self, root: &mut Root, ends: bool) -> Action {
        if self.held.take().is_some() {
            // Somebody else has answered it: it waits for nothing any more.
            root.withdraw(self.id);
        }
        self.cancel_alarm(root);
        let way = self.way(root);
        way.count(root);
        let failure = self.judge_headers(root);
        self.answered = true;
        // What the wrong one answers is no business of the guard's.
        let mark = way.mark();
        if let Some(failure) = failure.filter(|_| !matches!(way, Way::Astray(_)))
            && let Some(action) = self.replace(root, &failure, mark, ends)
        {
            return action;
        }
        if let Some(mark) = mark {
            answering::mark(mark);
        } else if !root.exposes() {
            // One that is not there is removed at no cost to speak of.
            let _ = calls::remove_header(Map::ResponseHeaders, MARKER);
        }
        Action::Continue
    }

    /// A piece of an answer's body, of `size` bytes.
    pub(crate) fn response_body(&mut self, size: usize, is_last: bool) -> BodyAction {
        self.body.as_mut().map_or(BodyAction::Continue, |body| body.next(size, is_last))
    }

    pub(crate) fn response_trailers(&mut self, root: &mut Root) {
        if self.body.is_some() {
            answering::drop_trailers();
        }
        let Some(call) = &mut self.call else { return };
        let Some(rules) = root.rules(call.target.policy) else { return };
        call.answer.status.grpc = grpc_status(Map::ResponseTrailers).or(call.answer.status.grpc);
        // A success may still be cut off.
        if call.is_probe() || rules.judge(call.answer) != Outcome::Success {
            let info = call.stream_info();
            self.judge_answer(root, &info);
        }
    }

    /// Where the request has gone, once that is known.
    pub(super) fn way(&self, root: &Root) -> Way {
        let Some(rerouted) = self.call.as_ref().and_then(|call| call.rerouted.clone()) else {
            return Way::Own;
        };
        if !rerouted.has_arrived() {
            return Way::Astray(rerouted);
        }
        let exposed = root.policy(rerouted.from.policy).filter(|_| root.exposes());
        let mark = exposed.map(|policy| marker(&policy.name, rerouted.reason, Source::Reroute));
        Way::Elsewhere { rerouted, mark }
    }

    /// Counts what an answer's headers prove, as far as they do, and tells whether it is a failure that can be replaced.
    fn judge_headers(&mut self, root: &mut Root) -> Option<Failure> {
        let call = self.call.as_mut()?;
        call.slow = root.is_slow(call.target.policy, call.began);
        let policy = root.policy(call.target.policy)?;
        let rules = policy.rules();
        call.answer = read_answer(rules);
        let is_settled = match rules.standing(call.answer, call.is_probe()) {
            Standing::Settled => true,
            Standing::SettledUnlessGrpc => !is_grpc(header(Map::ResponseHeaders, "content-type")),
            Standing::Provisional => false,
        };
        let replaces = policy.fallback.answers(Reasons::FAILURES);
        let is_suspect = replaces && (is_settled || call.answer.may_be_envoys());
        if !is_settled && !is_suspect {
            return None;
        }
        let info = call.stream_info();
        let reason = if is_suspect { outcome::failure(rules, call.answer, is_settled, &info) } else { None };
        let failure = reason.map(|reason| {
            let mut caller = std::mem::take(&mut call.caller);
            caller.is_grpc |= call.answer.is_grpc();
            Failure {
                policy: call.target.policy,
                own: call.own(),
                cause: Cause::failure(reason, call.answer.status),
                caller,
            }
        });
        if is_settled || failure.is_some() {
            self.judge_answer(root, &info);
        }
        failure
    }

    /// Counts what the answer proves, before the stream ends.
    fn judge_answer(&mut self, root: &mut Root, info: &StreamInfo) {
        let Some(call) = self.call.take() else { return };
        let judge = |rules| outcome::of_answer(rules, call.answer, info);
        let outcome = root.rules(call.target.policy).map_or(Outcome::Ignored, judge);
        // With what is written anyway: else the retries wait for the end.
        let writes = call.ticket.is_some_and(|ticket| ticket.tells(outcome));
        self.settle(root, Some((call, outcome)), writes, None);
    }

    /// Has the fallback take a failed answer's place; `None` where it stays as it is.
    fn replace(
        &mut self,
        root: &mut Root,
        failure: &Failure,
        mark: Option<&str>,
        ends: bool,
    ) -> Option<Action> {
        let Failure { policy: index, own, cause, caller } = failure;
        let policy = root.policy(*index)?;
        let reply = match instead(policy, root.exposes(), cause, caller, Entries::default()) {
            Instead::Answer(reply) => reply,
            Instead::Shadowed => {
                root.metrics(*index, |metrics| metrics.shadow(cause.reason));
                return None;
            }
            Instead::Reroute { .. } | Instead::Nothing => return None,
        };
        let source = reply.source;
        let headers = calls::header_pairs(Map::ResponseHeaders).ok()?;
        let failed = Failed { headers: headers.iter().collect(), ends };
        let action = match replace(reply, &failed, caller, mark) {
            Replacement::Direct(reply) => {
                if failed.depends_on_method(caller) {
                    root.look_at_methods(*index);
                }
                if send(&reply) == Action::Continue {
                    return None;
                }
                Action::Pause
            }
            Replacement::InPlace(rewrite) => {
                self.body = Some(answering::rewrite(rewrite));
                Action::Continue
            }
        };
        root.metrics(*index, |metrics| metrics.fallback(cause.reason, source));
        root.annotate(*own, Decided::Fallback, Some(cause.reason));
        Some(action)
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
