//! A bulkhead's bytes: round trips and damage.

use super::*;
use crate::ledger::MOST_HOLDERS;
use crate::testing::{Line, claim, vm};
use proptest::prelude::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn encoded(bulkhead: &Bulkhead) -> Vec<u8> {
    let mut out = Vec::new();
    bulkhead.encode(&mut out);
    out
}

/// Two VMs that hold and wait, and one permit that was given and not taken up.
fn busy() -> Bulkhead {
    let mut line = Line::default();
    let permit = line.enter(1, claim(0, 2));
    line.enter(2, claim(0, 2));
    assert!(line.wait(2, 0x0A0B_0C0D, claim(1, 2), 9));
    assert!(line.wait(1, 4, claim(3, 1), 9));
    line.release(permit);
    line.bulkhead
}

#[test]
fn writes_the_layout_it_documents() {
    let expected = [
        [2, 0, 0, 0, 0, 0, 0, 0].as_slice(), // next epoch
        &[2, 0],                             // VMs
        &[1, 0, 0, 0, 0, 0, 0, 0],           // owner
        &[0, 0, 0, 0, 0, 0, 0, 0],           // epoch
        &[0, 0, 0, 0],                       // held
        &[10, 0, 0, 0],                      // queue
        &[2, 0, 0, 0, 0, 0, 0, 0],           // owner
        &[1, 0, 0, 0, 0, 0, 0, 0],           // epoch
        &[1, 0, 0, 0],                       // held
        &[20, 0, 0, 0],                      // queue
        &[2, 0],                             // waiters
        &[1, 0],                             // the VM by its place
        &[0x0D, 0x0C, 0x0B, 0x0A],           // id
        &[2, 0, 0, 0],                       // limit
        &[1, 1],                             // rank, granted
        &[0, 0],                             // the VM by its place
        &[4, 0, 0, 0],                       // id
        &[1, 0, 0, 0],                       // limit
        &[3, 0],                             // rank, granted
    ];
    assert_eq!(encoded(&busy()), expected.concat());
    assert_eq!(Bulkhead::decode(&expected.concat()), Some(busy()));
}

#[test]
fn one_in_which_nothing_was_ever_in_flight_has_no_bytes() {
    assert!(encoded(&Bulkhead::default()).is_empty());
    // One that is empty now has: a permit of before must not fit what comes.
    let mut line = Line::default();
    let permit = line.enter(1, claim(0, 1));
    line.release(permit);
    let mut read = Bulkhead::decode(&encoded(&line.bulkhead)).unwrap();
    assert!(read.enter(vm(1), claim(0, 1)).is_some_and(|next| next != permit));
}

#[test]
fn the_fullest_there_can_be_fits_in_a_section() {
    let mut line = Line::default();
    let most = u32::try_from(MOST_HOLDERS).unwrap();
    for vm in 0..most {
        line.enter(vm, claim(0, most));
    }
    for id in 0..u32::from(MOST_WAITING) {
        assert!(line.wait(id % most, u32::MAX - id, claim(15, most), MOST_WAITING));
    }
    let bytes = encoded(&line.bulkhead);
    assert!(bytes.len() <= usize::from(u16::MAX), "{}", bytes.len());
    assert_eq!(Bulkhead::decode(&bytes), Some(line.bulkhead));
}

#[test]
fn bytes_cut_or_stretched_are_none() {
    let whole = encoded(&busy());
    for length in 0..whole.len() {
        assert_eq!(Bulkhead::decode(&whole[..length]), None, "{length}");
    }
    assert_eq!(Bulkhead::decode(&[whole.as_slice(), &[0]].concat()), None);
}

#[test]
fn what_no_vm_can_have_written_is_none() {
    let whole = encoded(&busy());
    for (place, byte, what) in [
        (34, 1, "two entries of one VM"),
        (60, 2, "a waiter of a VM that has no entry"),
        (71, 2, "neither granted nor not"),
    ] {
        let mut bytes = whole.clone();
        assert_ne!(bytes[place], byte);
        bytes[place] = byte;
        assert_eq!(Bulkhead::decode(&bytes), None, "{what}");
    }
    let holder = |owner: u64| [owner.to_le_bytes().as_slice(), &[0; 8], &[1, 0, 0, 0], &[0; 4]].concat();
    let with = |holders: u16, waiters: u16| {
        let mut bytes = [[9; 8].as_slice(), &holders.to_le_bytes()].concat();
        (0..u64::from(holders)).for_each(|owner| bytes.extend(holder(owner)));
        bytes.extend(waiters.to_le_bytes());
        bytes.extend([0; 12].repeat(usize::from(waiters)));
        Bulkhead::decode(&bytes)
    };
    let most = u16::try_from(MOST_HOLDERS).unwrap();
    assert!(with(most, MOST_WAITING).is_some());
    assert_eq!((with(most + 1, 0), with(1, MOST_WAITING + 1)), (None, None));
}

/// Everything that can happen to a bulkhead, at once.
fn shake(mut bulkhead: Bulkhead) -> Bulkhead {
    let mut wakes = Vec::new();
    for owner in bulkhead.owners().collect::<Vec<_>>().into_iter().chain([Owner(1), Owner(2)]) {
        let address = Address { owner, queue: 3 };
        let permit = bulkhead.enter(address, claim(0, u32::MAX));
        bulkhead.enqueue(address, 4, claim(0, 1), 5, &mut wakes);
        bulkhead.take_up(address, 4);
        bulkhead.withdraw(owner, 0x0A0B_0C0D, &mut wakes);
        permit.map(|permit| bulkhead.release(permit, &mut wakes));
    }
    bulkhead.reclaim(|owner| owner.0 % 2 == 0, &mut wakes);
    bulkhead
}

proptest! {
    #[test]
    fn any_bytes_are_a_bulkhead_or_none(
        head in prop::collection::vec(any::<u8>(), 0..200),
        small in any::<bool>(),
    ) {
        // Random bytes seldom say a length that fits: these begin as a bulkhead does.
        let bytes = if small { [[0; 8].as_slice(), &[1, 0], &head].concat() } else { head };
        if let Some(bulkhead) = Bulkhead::decode(&bytes) {
            if bulkhead != Bulkhead::default() {
                prop_assert_eq!(encoded(&bulkhead), bytes);
            }
            let shaken = shake(bulkhead);
            prop_assert_eq!(Bulkhead::decode(&encoded(&shaken)), Some(shaken));
        }
    }

    #[test]
    fn one_changed_byte_never_traps(place in any::<prop::sample::Index>(), flip in 1..=255_u8) {
        let mut bytes = encoded(&busy());
        let place = place.index(bytes.len());
        bytes[place] ^= flip;
        if let Some(bulkhead) = Bulkhead::decode(&bytes) {
            let shaken = shake(bulkhead);
            prop_assert_eq!(Bulkhead::decode(&encoded(&shaken)), Some(shaken));
        }
    }
}
