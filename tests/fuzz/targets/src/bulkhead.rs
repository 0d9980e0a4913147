//! Any bytes as a policy's value in shared data, and what workers of any configurations then do to the bulkhead in it.

use crate::input::Input;
use crate::state::LONGEST_VALUE;
use resilience_core::breaker::Owner;
use resilience_core::bulkhead::{Address, Bulkhead, Claim, Permit, Turn, Wake};
use resilience_core::state::State;
use resilience_core::time::Timestamp;

/// More steps than this reach nothing new.
const STEPS: usize = 64;
/// How many VMs take part. Others may stand in the value.
const VMS: u8 = 4;
/// How many numbers they have for waiters.
const IDS: u8 = 8;
const LIMITS: [u32; 8] = [0, 1, 2, 3, 5, 50, 1_000_000, u32::MAX];
const QUEUES: [u16; 5] = [0, 1, 3, 4096, u16::MAX];

/// Reads the value that the bytes begin with, takes the steps that the rest describes, and looks at what came of it.
///
/// # Panics
/// If the value does not survive its own bytes or outgrows its limit, a permit is given past a limit, is lost or comes twice, or
/// somebody is forgotten who waits.
pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let now = input.timestamp();
    let value = input.value();
    let given = (!value.is_empty()).then_some(value.as_slice());
    let mut play = Play { state: State::decode(given, now), now, permits: Vec::new(), waiting: Vec::new() };
    play.check();
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        play.step(&mut input);
        play.check();
    }
    play.end();
}

struct Play {
    state: State,
    now: Timestamp,
    permits: Vec<Permit>,
    /// Who was put into the queue and has not been taken out by itself: its VM and number.
    waiting: Vec<(Owner, u32)>,
}

impl Play {
    fn step(&mut self, input: &mut Input<'_>) {
        let address = Address {
            owner: Owner(u64::from(input.u8() % VMS)),
            // Now and then there is none.
            queue: u32::from(input.u8() % 3),
        };
        match input.u8() % 8 {
            0..=2 => self.come(input, address),
            3 => self.release(usize::from(input.u8())),
            // A message may name anybody.
            4 => self.take_up(address, self.named(input)),
            5 => self.withdraw(address.owner, self.named(input)),
            6 => self.reclaim(address.owner),
            // Another worker, or another version of the module, has written in between: nothing is known any more.
            _ => {
                self.state = State::decode(Some(&input.value()), self.now);
                self.waiting.clear();
            }
        }
    }

    fn named(&self, input: &mut Input<'_>) -> u32 {
        match input.u8() {
            u8::MAX => input.u32(),
            id => u32::from(id % IDS),
        }
    }

    /// A permit, or else a place in the queue.
    fn come(&mut self, input: &mut Input<'_>, address: Address) {
        let claim = Claim { rank: input.u8() % 3, limit: input.choice(&LIMITS) };
        let (id, max_queue) = (u32::from(input.u8() % IDS), input.choice(&QUEUES));
        // A VM gives each of its requests a number of its own.
        if self.waiting.contains(&(address.owner, id)) {
            return;
        }
        let bulkhead = &mut self.state.bulkhead;
        let (before, waited) = (bulkhead.in_flight(), bulkhead.waiting());
        if let Some(permit) = bulkhead.enter(address, claim) {
            assert!(before < claim.limit, "{before} were in flight, of {}", claim.limit);
            assert_eq!(bulkhead.in_flight(), before + 1);
            self.permits.push(permit);
            return;
        }
        assert_eq!(bulkhead.in_flight(), before, "refused, and taken all the same");
        let mut wakes = Vec::new();
        let queued = bulkhead.enqueue(address, id, claim, max_queue, &mut wakes);
        // One for one, where another had to make room.
        let more = bulkhead.waiting() - waited;
        assert!(more <= u32::from(queued) && wakes.len() <= 1);
        assert!(!queued || bulkhead.waiting() <= waited.max(u32::from(max_queue)));
        if queued {
            self.waiting.push((address.owner, id));
        }
    }

    fn release(&mut self, which: usize) {
        if self.permits.is_empty() {
            return;
        }
        let permit = self.permits.swap_remove(which % self.permits.len());
        let bulkhead = &mut self.state.bulkhead;
        let (before, unchanged) = (bulkhead.in_flight(), bulkhead.clone());
        let mut wakes = Vec::new();
        if bulkhead.release(permit, &mut wakes) {
            served(bulkhead, before.saturating_sub(1), &wakes);
        } else {
            assert_eq!(*bulkhead, unchanged);
        }
    }

    fn take_up(&mut self, address: Address, id: u32) {
        let bulkhead = &mut self.state.bulkhead;
        let (in_flight, waiting, unchanged) = (bulkhead.in_flight(), bulkhead.waiting(), bulkhead.clone());
        match bulkhead.take_up(address, id) {
            Turn::Granted(permit) => {
                assert_eq!((bulkhead.in_flight(), bulkhead.waiting()), (in_flight, waiting));
                self.permits.push(permit);
                self.forget(address.owner, id);
            }
            Turn::Waits => assert_eq!(*bulkhead, unchanged),
            Turn::Gone => {
                assert_eq!(*bulkhead, unchanged);
                self.forget(address.owner, id);
            }
        }
    }

    fn withdraw(&mut self, owner: Owner, id: u32) {
        let bulkhead = &mut self.state.bulkhead;
        let (before, unchanged) = (bulkhead.in_flight(), bulkhead.clone());
        let mut wakes = Vec::new();
        bulkhead.withdraw(owner, id, &mut wakes);
        if *bulkhead != unchanged {
            served(bulkhead, before.saturating_sub(1), &wakes);
        }
        self.forget(owner, id);
    }

    fn reclaim(&mut self, dead: Owner) {
        let bulkhead = &mut self.state.bulkhead;
        let (before, unchanged) = (bulkhead.in_flight(), bulkhead.clone());
        let mut wakes = Vec::new();
        let count = bulkhead.reclaim(|owner| owner == dead, &mut wakes);
        assert!(bulkhead.owners().all(|owner| owner != dead));
        if *bulkhead != unchanged {
            served(bulkhead, before - count, &wakes);
        }
        self.waiting.retain(|(owner, _)| *owner != dead);
    }

    fn forget(&mut self, owner: Owner, id: u32) {
        self.waiting.retain(|waiter| *waiter != (owner, id));
    }

    /// What is written is what the next worker reads.
    fn check(&self) {
        let bytes = self.state.encode();
        assert!(bytes.len() <= LONGEST_VALUE, "{} bytes", bytes.len());
        let again = State::decode(Some(&bytes), self.now);
        assert_eq!(again.bulkhead, self.state.bulkhead);
        assert_eq!(again.encode(), bytes);
    }

    /// Everything goes: nothing is left in flight, nobody waits, and what was given out before is worth nothing.
    fn end(mut self) {
        for (owner, id) in std::mem::take(&mut self.waiting) {
            self.withdraw(owner, id);
        }
        while !self.permits.is_empty() {
            self.release(0);
        }
        let known = |owner: &Owner| owner.0 < u64::from(VMS);
        let late = self.state.bulkhead.owners().find(known).map(|owner| Address { owner, queue: 0 });
        let late =
            late.and_then(|address| self.state.bulkhead.enter(address, Claim { rank: 0, limit: u32::MAX }));
        let owners: Vec<_> = self.state.bulkhead.owners().collect();
        owners.into_iter().for_each(|owner| self.reclaim(owner));
        let bulkhead = &mut self.state.bulkhead;
        assert_eq!((bulkhead.in_flight(), bulkhead.waiting()), (0, 0));
        let address = Address { owner: Owner(0), queue: 0 };
        let permit = bulkhead.enter(address, Claim { rank: 0, limit: 1 }).expect("there is room");
        if let Some(late) = late {
            assert!(!bulkhead.release(late, &mut Vec::new()), "a permit from before the lease ended");
        }
        assert!(bulkhead.release(permit, &mut Vec::new()));
        assert_eq!(bulkhead.in_flight(), 0);
        self.check();
    }
}

/// Whose turn it was has a permit: `kept` were in flight before anybody was served, and each who was served has been told, if it
/// can be.
fn served(bulkhead: &Bulkhead, kept: u32, wakes: &[Wake]) {
    let given = bulkhead.in_flight().checked_sub(kept).expect("a permit was lost");
    assert!(wakes.len() <= given as usize, "{wakes:?} for {given} permits");
    assert!(wakes.iter().all(|wake| wake.queue != 0));
    // Nobody waits for whom there is a permit: to serve again gives nobody one.
    let (mut again, mut more) = (bulkhead.clone(), Vec::new());
    let nobody = Owner(u64::MAX - 1);
    if again.enter(Address { owner: nobody, queue: 0 }, Claim { rank: 0, limit: u32::MAX }).is_some() {
        again.reclaim(|owner| owner == nobody, &mut more);
    }
    assert_eq!(
        (again.in_flight(), more.len()),
        (bulkhead.in_flight(), 0),
        "somebody was forgotten: {bulkhead:?}"
    );
}
