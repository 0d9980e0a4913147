//! Requests that end at a certain time, whoever answers them.

use crate::time::Timestamp;
use std::collections::BTreeSet;

/// When to look after which request.
#[derive(Debug, Default)]
pub struct Alarms(BTreeSet<(Timestamp, u32)>);

impl Alarms {
    /// Has a request looked after at `at`.
    pub fn set(&mut self, call: u32, at: Timestamp) {
        self.0.insert((at, call));
    }

    /// Forgets it. Does nothing for one that is not there.
    pub fn cancel(&mut self, call: u32, at: Timestamp) {
        self.0.remove(&(at, call));
    }

    /// When the next is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes out those that are due.
    pub fn due(&mut self, now: Timestamp) -> Vec<u32> {
        let mut due = Vec::new();
        while let Some(first) = self.0.pop_first() {
            let (at, call) = first;
            if at > now {
                self.0.insert(first);
                break;
            }
            due.push(call);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ms;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn each_is_due_once_at_its_time() {
        let mut alarms = Alarms::default();
        assert_eq!(alarms.next_due(), None);
        assert!(alarms.due(ms(9000)).is_empty());
        alarms.set(1, ms(300));
        alarms.set(2, ms(100));
        alarms.set(3, ms(300));
        assert_eq!(alarms.next_due(), Some(ms(100)));
        assert!(alarms.due(ms(99)).is_empty());
        assert_eq!(alarms.due(ms(100)), vec![2]);
        assert_eq!(alarms.next_due(), Some(ms(300)));
        assert_eq!(alarms.due(ms(301)), vec![1, 3]);
        assert_eq!(alarms.next_due(), None);
    }

    #[test]
    fn one_that_is_forgotten_is_never_due() {
        let mut alarms = Alarms::default();
        alarms.set(1, ms(100));
        alarms.set(2, ms(100));
        alarms.cancel(1, ms(100));
        alarms.cancel(1, ms(100));
        alarms.cancel(3, ms(100));
        assert_eq!(alarms.due(ms(100)), vec![2]);
    }
}
