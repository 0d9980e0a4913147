//! The way in: what becomes of a request, and where a refused one goes.

use super::{REROUTE, Stream};
use crate::answering::send;
use crate::call::{Call, Holds, Rerouted};
use crate::calls::{self, Level, Map, log};
use crate::facts::request_id;
use crate::root::{Arrived, Asked, Root};
use crate::stream::Action;
use resilience_core::annotation::Decided;
use resilience_core::answer::{Instead, Reasons, Refusal, instead, plain};
use resilience_core::decision::{Decision, Sent};
use resilience_core::fallback::{Caller, Cause, Entries};
use resilience_core::matcher::Seen;
use resilience_core::outcome::Answer;
use resilience_core::steering::Edit;
use resilience_core::time::Timestamp;
use resilience_core::worker::{Pass, Resumed, Target, Verdict};
use std::time::Duration;

/// A request that is held back, or about to be let in or refused.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) call: Call,
    pub(super) asked: Asked,
    /// What its own policy said, where that is not the one that is asked now.
    refused: Option<Refused>,
}

/// A request that its own policy has refused.
#[derive(Debug)]
struct Refused {
    target: Target,
    /// When that was.
    at: Timestamp,
    cause: Cause,
    caller: Caller,
    /// The entries of its fallback that could not help.
    tried: Entries,
    /// What it has of time wherever it goes.
    sent: Sent,
    waited: Duration,
}

impl Stream {
    /// A request of a policy comes.
    pub(super) fn arrive(&mut self, root: &mut Root, policy: usize, seen: Seen) -> Action {
        let cluster = root.cluster(policy);
        let arrived = root.decide(policy, cluster.as_deref(), self.id, None);
        self.came = arrived.at;
        let (call, asked, decision) = begun(arrived, seen, cluster);
        self.obey(root, Held { call, asked, refused: None }, decision)
    }

    /// Does with a request what was decided.
    pub(super) fn obey(&mut self, root: &mut Root, held: Held, decision: Decision) -> Action {
        match decision {
            Decision::Call(pass) => self.begin(root, held, pass),
            Decision::Wait => {
                self.held = Some(held);
                Action::Pause
            }
            Decision::Refuse(refusal) => self.refuse(root, held, refusal),
        }
    }

    /// The request goes to the upstream.
    fn begin(&mut self, root: &mut Root, held: Held, pass: Pass) -> Action {
        let Held { call, mut asked, refused } = held;
        let target = call.target;
        if let (Some(rerouted), Some(refused)) = (&call.rerouted, refused)
            && let Err(status) =
                calls::replace_header(Map::RequestHeaders, REROUTE, rerouted.cluster.as_bytes())
        {
            log(Level::Warn, &format!("a request could not be sent elsewhere: {status}"));
            let (verdict, waited) = (Verdict::Admitted(pass), Duration::ZERO);
            root.abandon(Resumed { call: self.id, target, verdict, waited });
            // In shadow mode it may stand in the queue all the same.
            root.withdraw(self.id);
            return self.answer(root, refused);
        }
        let Pass { ticket, permit, grant, shadowed } = pass;
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
        self.holds = Some(Holds { target, permit, grant, failed: false, lingers: false });
        match &call.rerouted {
            Some(rerouted) => root.annotate(rerouted.from, Decided::Rerouted, Some(rerouted.reason)),
            None => root.annotate(target, Decided::Admitted, None),
        }
        let caller = root.caller(target.policy, &mut asked, Reasons::FAILURES, self.is_bodiless);
        let request_id = if root.may_decide(target) { request_id() } else { None };
        self.call = Some(Call { ticket, caller, request_id, ..call });
        Action::Continue
    }

    /// The request is not let in by the policy that was asked.
    fn refuse(&mut self, root: &mut Root, held: Held, refusal: Refusal) -> Action {
        let Held { call, mut asked, refused } = held;
        let policy = call.target.policy;
        root.refused(call.target, refusal.reason, call.class);
        if refused.is_none() {
            root.annotate(call.target, Decided::Refused, Some(refusal.reason));
        }
        let refused = refused.map(|own| Refused { waited: call.waited, ..own });
        let refused = refused.unwrap_or_else(|| Refused {
            target: call.target,
            at: root.now(),
            cause: Cause::refusal(refusal.reason, refusal.retry_after),
            caller: root.caller(policy, &mut asked, Reasons::REFUSALS, false),
            tried: Entries::default(),
            sent: Sent::for_refusal(refusal.reason, &asked.plan, self.came, root.now()),
            waited: call.waited,
        });
        self.answer(root, refused)
    }

    /// Has its fallback answer a refused request, by the next entry that applies.
    fn answer(&mut self, root: &mut Root, mut refused: Refused) -> Action {
        let Refused { target, at, cause, .. } = refused;
        let policy = target.policy;
        // It may have waited elsewhere since.
        let cause = cause.later(root.now().since(at));
        let expose = root.exposes();
        let Some(own) = root.policy(policy) else { return Action::Continue };
        match instead(own, expose, &cause, &refused.caller, refused.tried) {
            Instead::Nothing | Instead::Shadowed => send(&plain(own, expose, &cause, &refused.caller)),
            Instead::Answer(reply) => {
                let sent = send(&reply);
                if sent == Action::Pause {
                    root.metrics(policy, |metrics| metrics.fallback(cause.reason, reply.source));
                    root.annotate(target, Decided::Fallback, Some(cause.reason));
                }
                sent
            }
            Instead::Reroute { place, to } => {
                let (cluster, guard) = (to.cluster.clone(), to.guard);
                refused.tried.insert(place);
                self.reroute(root, refused, cluster, guard)
            }
        }
    }

    /// Asks the guard of another cluster.
    fn reroute(&mut self, root: &mut Root, refused: Refused, cluster: String, guard: usize) -> Action {
        let arrived = root.decide(guard, Some(cluster.as_bytes()), self.id, Some(refused.sent));
        let (mut call, asked, decision) = begun(arrived, Seen::default(), None);
        call.waited = refused.waited;
        call.rerouted = Some(Rerouted { from: refused.target, reason: refused.cause.reason, cluster });
        self.obey(root, Held { call, asked, refused: Some(refused) }, decision)
    }
}

fn begun(arrived: Arrived, seen: Seen, cluster: Option<Vec<u8>>) -> (Call, Asked, Decision) {
    let Arrived { at, target, class, asked, decision } = arrived;
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
        answer: Answer::default(),
        caller: Caller::default(),
        request_id: None,
        rerouted: None,
    };
    (call, asked, decision)
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
