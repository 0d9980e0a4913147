//! What the world answers to a VM's calls.

use crate::oracle::VmId;
use crate::store::Put;
use crate::vm::{Answer, Call};
use crate::world::World;
use resilience_core::store::{PutError, Unavailable};

impl World {
    /// Does what a VM asks for.
    pub(crate) fn perform(&mut self, id: VmId, call: &Call) -> Result<Answer, String> {
        let refused = self.outage && self.rng.chance(self.plan.outage);
        if let Call::Get(key) | Call::Put(key, ..) = call
            && let Some(breaker) = self.breaker_at(key).filter(|_| refused)
        {
            self.oracle.unanswered(id, breaker);
        }
        Ok(match call {
            Call::Get(_) if refused => Answer::Value(Err(Unavailable)),
            Call::Get(key) => {
                if let Some(breaker) = self.breaker_at(key) {
                    self.oracle.knows(id, breaker);
                }
                Answer::Value(Ok(self.store.get(key)))
            }
            Call::Put(..) if refused => Answer::Written(Err(PutError::Unavailable)),
            Call::Put(key, bytes, expected) => {
                let unlucky = !self.calm && self.rng.chance(self.plan.conflicts);
                let put = if unlucky { None } else { self.store.put(key, bytes, *expected).ok() };
                match put {
                    None => {
                        self.oracle.conflicted(id)?;
                        Answer::Written(Err(PutError::Conflict))
                    }
                    Some(put) => {
                        self.ambiguous |= put == Put::Ambiguous;
                        let table =
                            (0..self.plan.policies).find(|policy| key == crate::keys_key(*policy).as_bytes());
                        match (self.breaker_at(key), table) {
                            _ if self.ambiguous => {}
                            (Some(breaker), _) => self.oracle.wrote(id, breaker, bytes, *expected)?,
                            (_, Some(policy)) => self.oracle.wrote_keys(id, policy, bytes)?,
                            _ if key == crate::MEMBERS => self.oracle.wrote_members(id, bytes)?,
                            _ => return Err(format!("VM {id} wrote a key nobody knows: {key:?}")),
                        }
                        Answer::Written(Ok(()))
                    }
                }
            }
            Call::Changes(breaker) => Answer::Changes((!refused).then(|| self.changes[*breaker])),
            Call::Changed(breaker) => {
                self.changes[*breaker] += 1;
                self.oracle.announced(id, *breaker)?;
                Answer::Noted
            }
            Call::Listen(_) if refused => self.listens(id, None)?,
            Call::Listen(name) => self.listens(id, Some(name))?,
            Call::Wake(wake) => {
                self.oracle.woke(id, *wake)?;
                self.post(*wake)?;
                Answer::Noted
            }
            Call::Report(..) | Call::Idle(_) => return Err(format!("VM {id} is not to be asked: {call:?}")),
        })
    }

    pub(crate) fn breaker_at(&self, key: &[u8]) -> Option<usize> {
        self.keys.iter().position(|known| known.as_bytes() == key)
    }
}

pub(crate) fn shown(call: &Call) -> String {
    match call {
        Call::Get(key) => format!("reads {}", String::from_utf8_lossy(key)),
        Call::Put(key, bytes, expected) => {
            let value = crate::view::value(bytes).breaker;
            let value = value.map_or_else(
                || format!("{:?}", crate::view::members(bytes)),
                |breaker| {
                    let crate::view::Value { room, budget, .. } = crate::view::value(bytes);
                    format!("{breaker:?} {room:?} {budget:?}")
                },
            );
            format!("writes {} over {expected:?}: {value}", String::from_utf8_lossy(key))
        }
        other => format!("{other:?}"),
    }
}

pub(crate) fn shown_answer(answer: &Answer) -> String {
    match answer {
        Answer::Value(Ok(found)) => {
            found.as_ref().map_or_else(|| "nothing".into(), |found| format!("#{}", found.version))
        }
        other => format!("{other:?}"),
    }
}
