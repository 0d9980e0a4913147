//! What becomes of a request: what it says is read, and its policy is asked.

use super::{Root, clock};
use crate::facts::{self, Read, named_class};
use crate::port::{Asker, HostPort};
use resilience_core::answer::Reasons;
use resilience_core::budget::Grant;
use resilience_core::bulkhead::ClassSource;
use resilience_core::config::Policy;
use resilience_core::decision::{
    Decision, Dependency, Plan, Sent, decide, dependency, needs_another, settle,
};
use resilience_core::fallback::{Caller, Fallbacks};
use resilience_core::steering::{Edit, edits};
use resilience_core::time::Timestamp;
use resilience_core::worker::{Arrival, Pass, Resumed, Target, Verdict, Worker};

/// A request of a policy, and what happens to it.
pub(crate) struct Arrived {
    pub(crate) at: Timestamp,
    pub(crate) target: Target,
    /// Its class, where the policy tells classes apart.
    pub(crate) class: Option<usize>,
    pub(crate) asked: Asked,
    pub(crate) decision: Decision,
}

/// What a request says of itself, and what it asks for.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    read: Read,
    pub(crate) plan: Plan,
}

impl Asked {
    /// Who asks, for an answer of ours for one of these `reasons`. A request that `is_bodiless` is not gRPC's, and nothing has
    /// to be read to know it.
    fn caller(&mut self, fallback: &Fallbacks, reasons: Reasons, is_bodiless: bool) -> Caller {
        let Read { said, caller } = &mut self.read;
        let known = said.as_ref().map(|said| said.is_grpc).or(is_bodiless.then_some(false));
        match (caller.take(), known) {
            (Some(caller), _) => caller,
            (None, Some(is_grpc)) if !fallback.reads_request() => fallback.stranger(is_grpc),
            _ if reasons == Reasons::FAILURES && !fallback.answers(reasons) => {
                fallback.stranger(known.unwrap_or_default())
            }
            _ => facts::caller(fallback, known),
        }
    }
}

impl Root {
    /// Decides over a request of a policy; `call` is its stream. One that was sent here has come before now, and may have a
    /// deadline already, which it keeps.
    pub(crate) fn decide(
        &mut self,
        index: usize,
        cluster: Option<&[u8]>,
        call: u32,
        sent: Option<Sent>,
    ) -> Arrived {
        self.now = clock().unwrap_or(self.now);
        let Self { document, worker, now, metrics, methods_matter, .. } = self;
        let at = *now;
        let Some(policy) = document.policies.get(index) else {
            let decision = Decision::Call(Pass::default());
            let (target, asked) = (Target::whole(index), Asked::default());
            return Arrived { at, target, class: None, asked, decision };
        };
        let Sent { came, deadline } = sent.unwrap_or(Sent { came: at, deadline: None });
        let method_matters = methods_matter.contains(&index);
        let read = facts::read(policy, document.trust_caller_headers, deadline.is_some(), method_matters);
        let class = policy.priority().map(|priority| match (&priority.source, &read.said) {
            // What was read with all the other headers need not be read once more.
            (Some(ClassSource::Header(_)), Some(said)) => priority.class(said.class.as_deref()),
            (Some(source), _) => priority.class(named_class(source).as_deref()),
            (None, _) => priority.class(None),
        });
        let plan = Plan::new(policy, read.said.as_ref(), came).within(deadline, at);
        let arrival = Arrival { call, class, time: plan.time, wanted: plan.wanted };
        let mut port = HostPort { document, policies: metrics, asker: Asker::Current };
        let target = worker.target(&mut port, index, cluster);
        let needs = dependency_of(&document.policies, policy, worker, &mut port, at);
        let decision = decide(policy, plan.late, needs, || worker.admit(&mut port, target, arrival, at));
        if self.worker.waits(call) {
            self.set_timer();
        }
        Arrived { at, target, class, asked: Asked { read, plan }, decision }
    }

    /// What is to be changed in the headers of a request that goes to the upstream.
    pub(crate) fn edits(&self, index: usize, asked: &Asked, grant: Option<Grant>) -> Vec<Edit<'_>> {
        let Some(policy) = self.policy(index) else { return Vec::new() };
        let Asked { read, plan } = asked;
        edits(policy, self.document.trust_caller_headers, read.said.as_ref(), &plan.time, grant, self.now)
    }

    /// Decides over a request whose wait is over, by what its patterns said.
    pub(crate) fn decide_again(&mut self, plan: &Plan, resumed: Resumed) -> Decision {
        let Self { document, worker, metrics, now, .. } = self;
        let Some(policy) = document.policies.get(resumed.target.policy) else {
            return Decision::Call(Pass::default());
        };
        let mut port = HostPort { document, policies: metrics, asker: Asker::Current };
        let needs = dependency_of(&document.policies, policy, worker, &mut port, *now);
        if let (Some(Dependency::Open(wait)), Verdict::Admitted(_)) = (needs, &resumed.verdict) {
            worker.abandon(&mut port, resumed, *now);
            return Decision::Refuse(needs_another(wait));
        }
        settle(policy, plan.late, needs, resumed.verdict)
    }

    /// Who asks, for an answer of ours to a request of a policy.
    pub(crate) fn caller(
        &self,
        index: usize,
        asked: &mut Asked,
        reasons: Reasons,
        is_bodiless: bool,
    ) -> Caller {
        let policy = self.policy(index);
        policy.map(|policy| asked.caller(&policy.fallback, reasons, is_bodiless)).unwrap_or_default()
    }
}

/// Whether a policy's requests are to be refused because of another one's breaker.
fn dependency_of(
    policies: &[Policy],
    policy: &Policy,
    worker: &mut Worker,
    port: &mut HostPort<'_>,
    now: Timestamp,
) -> Option<Dependency> {
    dependency(policies, policy, |needed| worker.open_for(port, Target::whole(needed), now))
}
