//! What must hold of every bulkhead, whatever happens to it: it is held against a plain list of what should be there.

use super::*;
use crate::testing::{claim, vm};
use proptest::prelude::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

type Index = prop::sample::Index;

#[derive(Clone, Debug)]
enum Step {
    /// A newcomer; it waits where it can.
    Arrive {
        vm: u32,
        claim: Claim,
        max_queue: u16,
    },
    Release(Index),
    /// A permit that came back already, or was reclaimed.
    ReleaseAgain(Index),
    /// A VM looks after one that waits; it may have been sent away.
    LookAfter(Index),
    Leave(Index),
    Die {
        vm: u32,
    },
}

fn step() -> impl Strategy<Value = Step> {
    // Two configurations, three classes each, the lower with the smaller share.
    let claims = [claim(0, 4), claim(1, 3), claim(2, 1), claim(0, 6), claim(1, 2), claim(2, 2)];
    let arrive = (0..4_u32, prop::sample::select(claims.to_vec()), 0..6_u16);
    let index = any::<Index>;
    prop_oneof![
        6 => arrive.prop_map(|(vm, claim, max_queue)| Step::Arrive { vm, claim, max_queue }),
        3 => index().prop_map(Step::Release),
        1 => index().prop_map(Step::ReleaseAgain),
        2 => index().prop_map(Step::LookAfter),
        1 => index().prop_map(Step::Leave),
        1 => (0..4_u32).prop_map(|vm| Step::Die { vm }),
    ]
}

/// One that waits, as it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Expected {
    vm: u32,
    id: u32,
    claim: Claim,
    granted: bool,
}

/// A bulkhead, and what should be in it.
#[derive(Default)]
struct Model {
    bulkhead: Bulkhead,
    /// By the VM; those that were given back stand in `gone`.
    permits: Vec<(u32, Permit)>,
    gone: Vec<Permit>,
    waiters: Vec<Expected>,
    next_id: u32,
    told: Vec<Wake>,
    to_tell: Vec<Wake>,
}

impl Model {
    fn in_flight(&self) -> usize {
        self.permits.len() + self.waiters.iter().filter(|waiter| waiter.granted).count()
    }

    fn tell(&mut self, vm_: u32, id: u32) {
        let queue = vm(vm_).queue;
        self.to_tell.extend((queue != 0).then_some(Wake { queue, id }));
    }

    fn serve(&mut self) {
        for rank in 0..=2 {
            for index in 0..self.waiters.len() {
                let Expected { vm, id, claim, granted } = self.waiters[index];
                if claim.rank == rank && !granted && self.in_flight() < usize::try_from(claim.limit).unwrap()
                {
                    self.waiters[index].granted = true;
                    self.tell(vm, id);
                }
            }
        }
    }

    fn arrive(&mut self, vm_: u32, claim: Claim, max_queue: u16) {
        let room = self.in_flight() < usize::try_from(claim.limit).unwrap();
        let permit = self.bulkhead.enter(vm(vm_), claim);
        assert_eq!(permit.is_some(), room);
        if let Some(permit) = permit {
            return self.permits.push((vm_, permit));
        }
        let id = self.next_id;
        self.next_id += 1;
        let waiting = self.waiters.iter().filter(|waiter| !waiter.granted);
        let full = waiting.clone().count() >= usize::from(max_queue);
        let lowest = waiting.map(|waiter| waiter.claim.rank).max();
        let lowest = lowest.filter(|rank| *rank > claim.rank && max_queue > 0);
        let youngest =
            self.waiters.iter().rposition(|waiter| !waiter.granted && Some(waiter.claim.rank) == lowest);
        let waits = self.bulkhead.enqueue(vm(vm_), id, claim, max_queue, &mut self.told);
        assert_eq!(waits, !full || youngest.is_some());
        if !waits {
            return;
        }
        if let Some(index) = youngest.filter(|_| full) {
            let evicted = self.waiters.remove(index);
            self.tell(evicted.vm, evicted.id);
        }
        self.waiters.push(Expected { vm: vm_, id, claim, granted: false });
    }

    fn look_after(&mut self, vm_: u32, id: u32) {
        let index = self.waiters.iter().position(|waiter| (waiter.vm, waiter.id) == (vm_, id));
        match (self.bulkhead.take_up(vm(vm_), id), index) {
            (Turn::Granted(permit), Some(index)) => {
                assert!(self.waiters.remove(index).granted);
                self.permits.push((vm_, permit));
            }
            (Turn::Waits, Some(index)) => assert!(!self.waiters[index].granted),
            (Turn::Gone, None) => {}
            (turn, index) => panic!("{turn:?} {index:?}"),
        }
    }

    fn release(&mut self, index: usize) {
        let (_, permit) = self.permits.swap_remove(index);
        assert!(self.bulkhead.release(permit, &mut self.told));
        self.gone.push(permit);
        self.serve();
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Arrive { vm, claim, max_queue } => self.arrive(vm, claim, max_queue),
            Step::Release(which) if !self.permits.is_empty() => {
                self.release(which.index(self.permits.len()));
            }
            Step::ReleaseAgain(which) if !self.gone.is_empty() => {
                let permit = self.gone[which.index(self.gone.len())];
                // A VM gives back each of its own once; what it is guarded from is the permits of a time that is over.
                if self.permits.iter().all(|(_, present)| *present != permit) {
                    let before = self.bulkhead.clone();
                    assert!(!self.bulkhead.release(permit, &mut self.told));
                    assert_eq!(self.bulkhead, before);
                }
            }
            Step::LookAfter(which) if self.next_id > 0 => {
                let id = u32::try_from(which.index(usize::try_from(self.next_id).unwrap())).unwrap();
                let home = self.waiters.iter().find(|waiter| waiter.id == id).map(|waiter| waiter.vm);
                self.look_after(home.unwrap_or(1), id);
            }
            Step::Leave(which) if !self.waiters.is_empty() => {
                let left = self.waiters.remove(which.index(self.waiters.len()));
                self.bulkhead.withdraw(vm(left.vm).owner, left.id, &mut self.told);
                self.serve();
            }
            Step::Die { vm: dead } => {
                let before = self.in_flight();
                let (lost, kept) = self.permits.iter().partition(|(vm, _)| *vm == dead);
                self.permits = kept;
                self.gone.extend(lost.into_iter().map(|(_, permit): (u32, Permit)| permit));
                self.waiters.retain(|waiter| waiter.vm != dead);
                let lost = before - self.in_flight();
                let owner = vm(dead).owner;
                let reclaimed = self.bulkhead.reclaim(|known| known == owner, &mut self.told);
                assert_eq!(usize::try_from(reclaimed).unwrap(), lost);
                self.serve();
            }
            _ => {}
        }
    }

    fn check(&mut self) {
        assert_eq!(std::mem::take(&mut self.told), std::mem::take(&mut self.to_tell));
        assert_eq!(usize::try_from(self.bulkhead.in_flight()).unwrap(), self.in_flight());
        let permits = self.bulkhead.ledger.entries().iter().map(|entry| entry.held.permits);
        let held: u32 = permits.sum();
        assert_eq!(usize::try_from(held).unwrap(), self.permits.len());
        let present = self.bulkhead.waiters.iter().map(|waiter| (waiter.owner, waiter.id, waiter.granted));
        let expected = self.waiters.iter().map(|waiter| (vm(waiter.vm).owner, waiter.id, waiter.granted));
        assert!(present.eq(expected), "{:?}", self.bulkhead);
        let in_flight = self.bulkhead.in_flight();
        let forgotten = |waiter: &&Waiter| !waiter.granted && in_flight < waiter.claim.limit;
        assert_eq!(self.bulkhead.waiters.iter().find(forgotten), None);
        // An entry for each VM that something stands there for, and for no other.
        for number in 0..4 {
            let has_entry = self.bulkhead.owners().any(|owner| owner == vm(number).owner);
            let needs_one = self.permits.iter().any(|(vm, _)| *vm == number)
                || self.waiters.iter().any(|waiter| waiter.vm == number);
            assert_eq!(has_entry, needs_one);
        }
        let mut bytes = Vec::new();
        self.bulkhead.encode(&mut bytes);
        if self.bulkhead != Bulkhead::default() {
            assert_eq!(Bulkhead::decode(&bytes), Some(self.bulkhead.clone()));
        }
    }
}

proptest! {
    #[test]
    fn any_bulkhead_is_what_happened_to_it(
        first in prop_oneof![3 => Just(0), 1 => any::<u64>()],
        steps in prop::collection::vec(step(), 0..150),
    ) {
        let mut model = Model { bulkhead: Bulkhead::new(first), ..Model::default() };
        for step in steps {
            model.take(&step);
            model.check();
        }
        // The count is back to zero when traffic ends, and nobody was forgotten: each that waits is served.
        for _ in 0..1000 {
            if !model.permits.is_empty() {
                model.release(0);
            } else if let Some(next) = model.waiters.iter().copied().find(|waiter| waiter.granted) {
                model.look_after(next.vm, next.id);
            }
            model.check();
        }
        prop_assert_eq!((model.waiters.len(), model.bulkhead.owners().count()), (0, 0));
    }
}
