//! State over HTTP: what an operator may read of the policies, on a listener of its own. It only reads.
//!
//! | request | what it tells |
//! |---|---|
//! | `GET /policies?after=<name>&limit=<n>` | the state of each policy |
//! | `GET /policies/<name>` | that of one |
//! | `GET /dependencies?after=<name>&limit=<n>` | how well each dependency is that a policy guards |
//! | `GET /live` | that somebody answers |
//! | `GET /ready` | whether the VMs that take the traffic show signs of life |

mod clock;
mod dependencies;
mod policies;
#[cfg(test)]
mod properties;
mod question;
#[cfg(test)]
mod tests;

pub use clock::Clock;

use crate::answer::Reply;
use crate::config::Policy;
use crate::store::Unavailable;
use crate::worker::{Read, Worker};
use question::{MOST, Page, Question};
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::Duration;

/// A VM that has ticked within this time is alive: it ticks every half second.
const ALIVE: Duration = Duration::from_secs(2);

/// What is asked, and where to look it up.
pub struct Inspection<'a> {
    /// The prefix of the shared state.
    pub namespace: &'a str,
    /// The policies of the document.
    pub policies: &'a [Policy],
    /// Knows where their state is.
    pub worker: &'a Worker,
    /// Reads it.
    pub read: &'a mut Read<'a>,
    /// The present moment.
    pub clock: Clock,
}

/// Why there is nothing to tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Problem {
    /// There is no such path, or no such policy.
    NotFound,
    /// Nothing here changes anything.
    Method,
    /// A parameter that means nothing here, or not this.
    Parameter,
    /// The shared state could not be read.
    Store,
}

impl Problem {
    const fn status(self) -> u16 {
        match self {
            Self::NotFound => 404,
            Self::Method => 405,
            Self::Parameter => 400,
            Self::Store => 503,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::NotFound => {
                "no such path or policy; expected /policies, /policies/<name>, /dependencies, /live or /ready"
            }
            Self::Method => "expected GET or HEAD",
            Self::Parameter => "unknown parameter; expected after=<name of a policy> and limit=<1 to 1000>",
            Self::Store => "the shared state could not be read; try again",
        }
    }
}

impl From<Unavailable> for Problem {
    fn from(_: Unavailable) -> Self {
        Self::Store
    }
}

/// Answers a request by its `:method` and `:path`. One that is a HEAD gets the same; the host sends no body with it.
pub fn answer(method: &[u8], path: &[u8], mut inspection: Inspection<'_>) -> Reply {
    let told = question::parse(method, path).and_then(|question| inspection.tell(&question));
    told.unwrap_or_else(refused)
}

impl Inspection<'_> {
    fn tell(&mut self, question: &Question<'_>) -> Result<Reply, Problem> {
        match question {
            Question::Policies(page) => self.policies(page),
            Question::Policy(name) => {
                let index = self.index(name).ok_or(Problem::NotFound)?;
                let keys = self.worker.read_keys(self.read, index)?;
                Ok(json(200, &self.policy(index, keys.as_deref())?))
            }
            Question::Dependencies(page) => self.dependencies(page),
            Question::Live => Ok(json(200, &Live { live: true })),
            Question::Ready => self.ready(),
        }
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.policies.iter().position(|policy| policy.name == name)
    }

    /// Has `tell` tell of policy after policy, by index and with its upstream clusters. So many states are read that a worker
    /// is not held up for long. Returns the name of the last policy where others follow.
    fn page(
        &mut self,
        page: &Page<'_>,
        mut tell: impl FnMut(&mut Self, usize, Option<&[Vec<u8>]>) -> Result<(), Problem>,
    ) -> Result<Option<String>, Problem> {
        let first = match &page.after {
            Some(name) => self.index(name).ok_or(Problem::Parameter)?.saturating_add(1),
            None => 0,
        };
        let end = first.saturating_add(page.limit).min(self.policies.len());
        let (mut states, mut told): (usize, usize) = (0, first);
        while told < end {
            let keys = self.worker.read_keys(self.read, told)?;
            let more = keys.as_ref().map_or(1, |keys| keys.len().saturating_add(1));
            states = states.saturating_add(more);
            // One that is too large for any page has one of its own.
            if states > MOST && told > first {
                break;
            }
            tell(self, told, keys.as_deref())?;
            told = told.saturating_add(1);
        }
        let last = told.checked_sub(1).filter(|_| told < self.policies.len());
        Ok(last.and_then(|last| self.policies.get(last)).map(|policy| policy.name.clone()))
    }

    /// Does not depend on any policy: a dependency that is down is no reason to take this Envoy out of service.
    fn ready(&mut self) -> Result<Reply, Problem> {
        let members = self.worker.read_members(self.read, self.clock.now)?;
        let alive: Vec<_> = members.seen_within(ALIVE, self.clock.now).collect();
        let configurations: BTreeSet<_> = alive.iter().map(|member| member.configuration).collect();
        let ready = !alive.is_empty();
        let body = Ready { ready, vms_alive: alive.len(), configurations: configurations.len() };
        Ok(json(if ready { 200 } else { 503 }, &body))
    }
}

#[derive(Serialize)]
struct Live {
    live: bool,
}

#[derive(Serialize)]
struct Ready {
    ready: bool,
    vms_alive: usize,
    configurations: usize,
}

#[derive(Serialize)]
struct Refusal {
    error: &'static str,
}

fn refused(problem: Problem) -> Reply {
    let mut reply = json(problem.status(), &Refusal { error: problem.text() });
    if problem == Problem::Method {
        reply.headers.push(("allow".to_owned(), "GET, HEAD".to_owned()));
    }
    reply
}

fn json<T: Serialize>(status: u16, body: &T) -> Reply {
    Reply::for_operator(status, "resilience:state", body)
}
