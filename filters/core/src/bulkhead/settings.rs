//! What an operator says of a bulkhead.

use crate::bulkhead::Claim;
use std::time::Duration;

/// How many calls may be in flight at once, and what becomes of those for whom there is no room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// How many calls may be in flight, over all workers.
    pub max_concurrent_calls: u32,
    /// Whether requests wait for a permit; `None` where they are refused at once.
    pub queue: Option<Queue>,
    /// The classes of requests; `None` where all are alike.
    pub priority: Option<Priority>,
}

/// A queue for permits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Queue {
    /// How long a request waits at most.
    pub max_wait_duration: Duration,
    /// How many requests wait at most, over all workers.
    pub max_queue: u16,
}

/// `priority`: who is let in last when permits are short.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Priority {
    /// What tells the class of a request, where anything does.
    pub source: Option<ClassSource>,
    /// The class, by its index, of a request that nothing tells the class of.
    pub default: usize,
    /// The classes, from the highest to the lowest.
    pub classes: Vec<Class>,
}

/// What tells the class of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClassSource {
    /// A header of the request, its name in lower case.
    Header(String),
    /// Metadata of its route.
    Metadata {
        /// The metadata's namespace.
        namespace: String,
        /// The key within it; its value is the class.
        key: String,
    },
}

/// A class of requests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Class {
    /// Its name, as requests and metrics call it.
    pub name: String,
    /// It is let in while all that is in flight, of any class, is below this: its share of the permits.
    pub limit: u32,
}

impl Settings {
    /// How a request of a class stands towards others; `class` is an index of [`Priority::classes`].
    #[must_use]
    pub fn claim(&self, class: Option<usize>) -> Claim {
        let of_class = || {
            let class = class?;
            let limit = self.priority.as_ref()?.classes.get(class)?.limit;
            Some(Claim { rank: u8::try_from(class).unwrap_or(u8::MAX), limit })
        };
        of_class().unwrap_or(Claim { rank: 0, limit: self.max_concurrent_calls })
    }
}

impl Priority {
    /// The class that a request says it is of; the default where it says nothing, or names none that there is.
    #[must_use]
    pub fn class(&self, named: Option<&[u8]>) -> usize {
        let known = |name: &[u8]| self.classes.iter().position(|class| class.name.as_bytes() == name);
        named.and_then(known).unwrap_or(self.default)
    }
}
