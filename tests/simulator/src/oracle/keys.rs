//! Which clusters have a breaker of their own: a table that only grows, and to whose bound everybody keeps.

use super::{Deed, Oracle, Verdict, VmId};
use crate::view;
use crate::vm::Task;
use resilience_core::worker::Operation;

impl Oracle {
    /// The clusters of a policy that have a key.
    pub(super) fn keys_of(&self, policy: usize) -> &[usize] {
        &self.keys[policy]
    }

    /// Where a cluster stands in a policy's table of keys.
    #[must_use]
    pub fn place_of(&self, policy: usize, cluster: usize) -> Option<u16> {
        self.keys[policy].iter().position(|known| *known == cluster).map(|place| place as u16)
    }

    /// A VM has written a policy's table of keys.
    ///
    /// # Errors
    /// What is wrong.
    pub fn wrote_keys(&mut self, vm: VmId, policy: usize, bytes: &[u8]) -> Verdict {
        let names = view::keys(bytes).unwrap_or_default();
        let cluster = |name: &Vec<u8>| crate::CLUSTERS.iter().position(|known| known.as_bytes() == *name);
        let clusters: Vec<_> = names.iter().filter_map(cluster).collect();
        let asked =
            match self.task(vm) {
                Some(
                    Task::Admit { policy: asked, cluster, .. } | Task::Force { policy: asked, cluster, .. },
                ) if asked == policy => cluster,
                _ => None,
            };
        let mut right = self.keys[policy].clone();
        right.extend(asked.filter(|asked| !right.contains(asked)));
        let room = self.room(vm, policy).is_some_and(|room| clusters.len() <= room);
        if clusters != right || names.len() != clusters.len() || right == self.keys[policy] || !room {
            return Err(format!(
                "VM {vm} wrote a table of keys with {clusters:?}, and there were {:?}",
                self.keys[policy]
            ));
        }
        self.keys[policy] = clusters;
        Ok(())
    }

    /// How many keys a VM's configuration has; `None` for none at all.
    fn room(&self, vm: VmId, policy: usize) -> Option<usize> {
        let configuration = self.vms.get(&vm)?.configuration;
        self.configurations[configuration].1[policy].1.as_ref()?.max_keys.map(usize::from)
    }

    /// A request, or what an operator said, was of this breaker.
    pub(super) fn aimed(&self, vm: VmId, deed: &Deed, breaker: usize) -> Verdict {
        let (Task::Admit { policy, cluster, .. } | Task::Force { policy, cluster, .. }) = deed.task else {
            return Ok(());
        };
        let room = self.room(vm, policy);
        let place = cluster.and_then(|cluster| self.place_of(policy, cluster)).map(usize::from);
        let right = match (cluster, room) {
            (Some(cluster), Some(room)) => {
                let has_key = place.is_some_and(|place| place < room);
                let own = breaker == crate::breaker(policy, None);
                let full = self.keys[policy].len() >= room || deed.times(Operation::Keys) > 0;
                let gave_up = own && deed.times(Operation::Keys) > 0;
                let one_of_all = own && deed.exhausted && full && (!has_key || gave_up);
                one_of_all || (has_key && !deed.exhausted && breaker == crate::breaker(policy, Some(cluster)))
            }
            _ => !deed.exhausted && breaker == crate::breaker(policy, None),
        };
        if right {
            return Ok(());
        }
        Err(format!(
            "VM {vm} took breaker {breaker} for {:?}, and the keys are {:?}",
            deed.task, self.keys[policy]
        ))
    }
}
