//! What operators are told of requests: lines of refusals, and what access logs and traces find.

use super::Root;
use crate::calls::{Level, log};
use crate::facts::request_id;
use crate::port::{Asker, HostPort};
use resilience_core::annotation::{Annotation, Decided};
use resilience_core::answer::Reason;
use resilience_core::breaker::State;
use resilience_core::config::Document;
use resilience_core::decision::state_by_mode;
use resilience_core::refusals::{Due, Line, numbers};
use resilience_core::worker::Target;

impl Root {
    /// Counts the refusal of the current request, and has the log say so if it is the first of a burst.
    pub(crate) fn refused(&mut self, target: Target, reason: Reason, class: Option<usize>) {
        let class = self.class_name(target.policy, class).map(str::to_owned);
        self.metrics(target.policy, |metrics| metrics.rejection(reason, class.as_deref()));
        let Self { document, refusals, metrics, now, .. } = self;
        let Some(policy) = document.policies.get(target.policy) else { return };
        let mut port = HostPort { document, policies: metrics, asker: Asker::Current };
        if let Some(due) = refusals.refused(&mut port, &policy.name, target, reason, *now) {
            self.tell(due, request_id());
        }
    }

    /// With a sign of life: has the log say how many refusals had no line, where it is time.
    pub(super) fn tell_held_back(&mut self) {
        let Self { document, refusals, metrics, now, .. } = self;
        let mut port = HostPort { document, policies: metrics, asker: Asker::Nobody };
        let due = refusals.overdue(&mut port, |policy| name(document, policy), *now);
        due.into_iter().for_each(|due| self.tell(due, None));
    }

    /// At the end: leaves it to others to say so.
    pub(super) fn leave_held_back(&mut self) {
        let Self { document, refusals, metrics, now, .. } = self;
        let mut port = HostPort { document, policies: metrics, asker: Asker::Nobody };
        refusals.leave(&mut port, |policy| name(document, policy), *now);
    }

    fn tell(&mut self, due: Due, request_id: Option<String>) {
        let Self { document, worker, metrics, now, .. } = self;
        let mut port = HostPort { document, policies: metrics, asker: Asker::Nobody };
        let numbers = numbers(&mut port, worker, &document.policies, due.target, due.reason, *now);
        let name = port.name(due.target);
        let line = Line { due, name: &name, numbers: &numbers, request_id: request_id.as_deref() };
        log(Level::Warn, &line.to_string());
    }

    /// Leaves what was decided over the current request where access logs and traces find it, if the document wants that.
    pub(crate) fn annotate(&self, target: Target, decided: Decided, reason: Option<Reason>) {
        if !self.document.annotate {
            return;
        }
        let Some(policy) = self.policy(target.policy) else { return };
        let breaker = if decided.tells_breaker() { self.state_of(target) } else { None };
        let annotation = Annotation { policy: &policy.name, decided, reason, breaker };
        for (name, value) in annotation.properties() {
            if let Err(status) = crate::calls::set_property(name.as_bytes(), value.as_bytes()) {
                log(Level::Debug, &format!("{name} could not be set: {status}"));
            }
        }
    }

    /// The state of a breaker as this VM has seen it last, if the policy has one.
    fn state_of(&self, target: Target) -> Option<State> {
        state_by_mode(self.policy(target.policy)?).or_else(|| self.worker.last_seen(target))
    }
}

fn name(document: &Document, policy: usize) -> Option<&str> {
    document.policies.get(policy).map(|policy| policy.name.as_str())
}
