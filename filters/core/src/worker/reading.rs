//! What the shared state holds, for those who only look.

use super::keys::{decode, state_of, table_of};
use super::{Scope, Target, Worker};
use crate::members::Members;
use crate::state::State;
use crate::store::{Store, Unavailable, Versioned};
use crate::time::Timestamp;
use std::collections::BTreeSet;

/// Reads the value of a key. Whoever has no more than this cannot change anything.
pub type Read<'a> = dyn FnMut(&[u8]) -> Result<Option<Versioned>, Unavailable> + 'a;

/// What there is of a policy, or of a key within it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reading {
    /// Whether anybody has written anything yet.
    pub written: bool,
    /// The state that the next request finds.
    pub state: State,
}

impl Worker {
    /// Whether a policy keeps anything in shared state.
    #[must_use]
    pub fn keeps_anything(&self, policy: usize) -> bool {
        self.scope(policy).is_some()
    }

    /// The upstream clusters that have a state of their own in a policy; `None` where all requests share one.
    ///
    /// # Errors
    /// [`Unavailable`] where the store does not answer.
    pub fn read_keys(&self, read: &mut Read<'_>, policy: usize) -> Result<Option<Vec<Vec<u8>>>, Unavailable> {
        let Some(Scope { guards, keys: Some(keys), .. }) = self.scope(policy) else { return Ok(None) };
        let Some(own) = guards.first() else { return Ok(None) };
        let table = read(&table_of(&own.key))?;
        let mut seen = BTreeSet::new();
        let mut names = decode(table.as_ref().map(Versioned::bytes));
        names.retain(|name| seen.insert(name.clone()));
        names.truncate(keys.bound());
        Ok(Some(names))
    }

    /// The state of a policy, or that of one of its upstream clusters; `None` where it keeps none.
    ///
    /// # Errors
    /// [`Unavailable`] where the store does not answer.
    pub fn read_state(
        &self,
        read: &mut Read<'_>,
        policy: usize,
        cluster: Option<&[u8]>,
        now: Timestamp,
    ) -> Result<Option<Reading>, Unavailable> {
        let Some(own) = self.scope(policy).and_then(|scope| scope.guards.first()) else { return Ok(None) };
        let found = match cluster {
            Some(name) => read(&state_of(&own.key, name))?,
            None => read(&own.key)?,
        };
        Ok(Some(Reading { written: found.is_some(), state: State::read(found.as_ref(), now) }))
    }

    /// What stands in shared state; `None` where the store does not tell, or nothing is kept.
    pub fn peek<S: Store + ?Sized>(&self, store: &mut S, target: Target, now: Timestamp) -> Option<State> {
        let guard = self.scope(target.policy)?.guards.get(target.key)?;
        let found = store.get(&guard.key).ok()?;
        Some(State::read(found.as_ref(), now))
    }

    /// The VMs that serve.
    ///
    /// # Errors
    /// [`Unavailable`] where the store does not answer.
    pub fn read_members(&self, read: &mut Read<'_>, now: Timestamp) -> Result<Members, Unavailable> {
        let found = read(&self.members_key())?;
        Ok(Members::decode(found.as_ref().map(Versioned::bytes), now))
    }
}
