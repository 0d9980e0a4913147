//! The keys of a policy that keeps a breaker for each upstream cluster: a table in shared data, so that all workers agree
//! on which clusters have one of their own.
//!
//! `"RK", n u16`, then `n` names, each behind its length (u16). A name is never taken off again: nothing in shared data
//! is, and the table's bound keeps it small.

use super::{Event, Guard, Operation, Port, Scope, Target, Worker, report_conflicts};
use crate::codec::{Reader, put_list};
use crate::planted::{Bug, active};
use crate::store::{Change, Versioned, update};
use std::collections::HashMap;

const MAGIC: &[u8] = b"RK";
/// Names of clusters may come from a client, by a route's `cluster_header`.
const LONGEST_NAME: usize = 256;

/// Which keys a worker knows.
#[derive(Debug)]
pub(super) struct Keys {
    max: usize,
    known: HashMap<Vec<u8>, usize>,
}

impl Keys {
    pub(super) fn new(max: u16) -> Self {
        Self { max: usize::from(max), known: HashMap::new() }
    }

    /// How many keys there may be.
    pub(super) fn bound(&self) -> usize {
        self.max.saturating_add(usize::from(active(Bug::KeyTooMany)))
    }
}

/// The table; one that cannot be read starts afresh.
pub(super) fn decode(bytes: Option<&[u8]>) -> Vec<Vec<u8>> {
    let read = |bytes: &[u8]| {
        let mut input = Reader::new(bytes.strip_prefix(MAGIC)?);
        let names = input.list(|input| {
            let len = usize::from(input.u16()?);
            input.bytes(len).filter(|name| !name.is_empty() && len <= LONGEST_NAME).map(<[u8]>::to_vec)
        })?;
        input.is_empty().then_some(names)
    };
    bytes.and_then(read).unwrap_or_default()
}

/// Where the table of a policy is, by the policy's own place. No policy has a name like this.
pub(super) fn table_of(own: &[u8]) -> Vec<u8> {
    [own, b"#keys"].concat()
}

/// Where the state of a key is.
pub(super) fn state_of(own: &[u8], name: &[u8]) -> Vec<u8> {
    [own, b"#key/", name].concat()
}

fn encode(names: &[Vec<u8>]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    put_list(&mut out, names, |out, name| put_list(out, name, |out, byte| out.push(*byte)));
    out
}

impl Worker {
    /// The breaker for a request of `policy` to this upstream cluster, where one is known. Where the policy keeps one
    /// breaker for all, or has no key left, it is the policy's own.
    pub fn target<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        policy: usize,
        cluster: Option<&[u8]>,
    ) -> Target {
        let whole = Target::whole(policy);
        let Some(name) = cluster.filter(|name| !name.is_empty()) else { return whole };
        let known = |worker: &Self| {
            let keys = worker.scope(policy)?.keys.as_ref()?;
            Some((keys.known.get(name).copied(), keys.known.len() < keys.bound()))
        };
        let Some((found, room)) = known(self) else { return whole };
        if let Some(key) = found {
            return Target { policy, key };
        }
        if room && name.len() <= LONGEST_NAME {
            self.learn_keys(port, policy, Some(name));
        }
        if let Some((Some(key), _)) = known(self) {
            return Target { policy, key };
        }
        port.report(Event::KeysExhausted { policy });
        whole
    }

    /// The breakers of a policy: that of one upstream cluster, if it has one, or all.
    pub fn targets<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        policy: usize,
        cluster: Option<&[u8]>,
    ) -> Vec<Target> {
        self.learn_keys(port, policy, None);
        let Some(scope) = self.scope(policy) else { return Vec::new() };
        let Some(name) = cluster else {
            return (0..scope.guards.len()).map(|key| Target { policy, key }).collect();
        };
        let known = scope.keys.as_ref().and_then(|keys| keys.known.get(name));
        known.map(|key| Target { policy, key: *key }).into_iter().collect()
    }

    /// Whether each upstream cluster has a breaker of its own.
    #[must_use]
    pub fn has_keys(&self, policy: usize) -> bool {
        self.scope(policy).is_some_and(|scope| scope.keys.is_some())
    }

    /// Takes note of the keys that others have made, and makes one for `new` if there is room.
    pub(super) fn learn_keys<P: Port + ?Sized>(&mut self, port: &mut P, policy: usize, new: Option<&[u8]>) {
        let Some(Scope { guards, keys: Some(keys), .. }) =
            self.scopes.get_mut(policy).and_then(Option::as_mut)
        else {
            return;
        };
        let Some(own) = guards.first().map(|guard| guard.key.clone()) else { return };
        let table = table_of(&own);
        let learnt = update(port, &table, |found| {
            let mut names = decode(found.map(Versioned::bytes));
            match new.filter(|new| names.len() < keys.bound() && !names.iter().any(|name| name == new)) {
                Some(new) => {
                    names.push(new.to_vec());
                    Change::Write(encode(&names), names)
                }
                None => Change::Keep(names),
            }
        });
        report_conflicts(port, Operation::Keys, learnt.conflicts);
        let Some(names) = learnt.answer else {
            return port.report(Event::GaveUp { operation: Operation::Keys });
        };
        for name in names.into_iter().take(keys.bound()) {
            if keys.known.contains_key(&name) {
                continue;
            }
            let target = Target { policy, key: guards.len() };
            guards.push(Guard::new(state_of(&own, &name)));
            port.introduce(target, &name);
            keys.known.insert(name, target.key);
        }
    }
}
