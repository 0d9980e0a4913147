//! The ledger by itself; what stands in it is here a number.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn encoded(ledger: &Ledger<u32>) -> Vec<u8> {
    let mut out = Vec::new();
    ledger.encode(&mut out, |out, held| out.extend_from_slice(&held.to_le_bytes()));
    out
}

fn decoded(bytes: &[u8]) -> Option<Ledger<u32>> {
    let mut input = Reader::new(bytes);
    Ledger::decode(&mut input, |input| input.u32()).filter(|_| input.is_empty())
}

/// The epoch of a VM's entry, which holds `held` from now on.
fn hold(ledger: &mut Ledger<u32>, owner: u64, held: u32) -> u64 {
    let entry = ledger.entry(Owner(owner)).expect("room");
    entry.held = held;
    entry.epoch
}

#[test]
fn an_entry_is_made_once_and_keeps_its_epoch() {
    let mut ledger = Ledger::new(7);
    assert_eq!(hold(&mut ledger, 3, 1), 7);
    assert_eq!(hold(&mut ledger, 3, 2), 7);
    assert_eq!(hold(&mut ledger, 1, 5), 8);
    assert_eq!(ledger.get_mut(Owner(3)).map(|entry| entry.held), Some(2));
    assert_eq!(ledger.get_mut(Owner(2)), None);
    assert_eq!(ledger.owners().collect::<Vec<_>>(), [Owner(1), Owner(3)]);
    assert_eq!((ledger.place(Owner(3)), ledger.place(Owner(2))), (Ok(1), Err(1)));
}

#[test]
fn one_that_comes_back_has_another_epoch() {
    let mut ledger = Ledger::new(u64::MAX);
    assert_eq!(hold(&mut ledger, 1, 0), u64::MAX);
    ledger.tidy(Owner(1), |held| *held > 0);
    assert_eq!(ledger.entries().len(), 1, "it is not idle");
    ledger.tidy(Owner(2), |_| true);
    assert_eq!(ledger.entries().len(), 1, "it is another's");
    ledger.tidy(Owner(1), |held| *held == 0);
    assert_eq!(ledger.entries(), []);
    assert_eq!(hold(&mut ledger, 1, 0), 0, "they go round");
    ledger.retain(|entry| entry.owner != Owner(1));
    assert_eq!(hold(&mut ledger, 1, 0), 1);
}

#[test]
fn a_newcomer_finds_no_room_beyond_the_most() {
    let mut ledger = Ledger::new(0);
    let most = u64::try_from(MOST_HOLDERS).unwrap();
    (0..most).for_each(|owner| assert_eq!(hold(&mut ledger, owner, 1), owner));
    assert_eq!(ledger.entry(Owner(most)), None);
    assert_eq!(hold(&mut ledger, 0, 9), 0, "one that is there needs none");
    assert_eq!(decoded(&encoded(&ledger)), Some(ledger.clone()));
    ledger.tidy(Owner(5), |_| true);
    assert_eq!(hold(&mut ledger, most, 1), most);
}

#[test]
fn writes_the_layout_it_documents() {
    let mut ledger = Ledger::new(0x0102);
    hold(&mut ledger, 9, 6);
    hold(&mut ledger, 4, 5);
    let expected = [
        [4, 1, 0, 0, 0, 0, 0, 0].as_slice(), // next epoch
        &[2, 0],                             // VMs
        &[4, 0, 0, 0, 0, 0, 0, 0],           // owner
        &[3, 1, 0, 0, 0, 0, 0, 0],           // epoch
        &[5, 0, 0, 0],                       // held
        &[9, 0, 0, 0, 0, 0, 0, 0],           // owner
        &[2, 1, 0, 0, 0, 0, 0, 0],           // epoch
        &[6, 0, 0, 0],                       // held
    ];
    assert_eq!(encoded(&ledger), expected.concat());
}

#[test]
fn what_no_vm_can_have_written_is_none() {
    let bytes = |count: u16, owners: &[u64]| {
        let mut bytes = [[0; 8].as_slice(), &count.to_le_bytes()].concat();
        owners.iter().for_each(|owner| bytes.extend([&owner.to_le_bytes(), [0; 12].as_slice()].concat()));
        bytes
    };
    assert!(decoded(&bytes(2, &[1, 2])).is_some());
    assert_eq!(decoded(&bytes(2, &[2, 1])), None, "not in order");
    assert_eq!(decoded(&bytes(2, &[1, 1])), None, "twice");
    assert_eq!(decoded(&bytes(3, &[1, 2])), None, "fewer than it says");
    assert_eq!(decoded(&bytes(u16::MAX, &[])), None, "a length that lies");
    let most = u16::try_from(MOST_HOLDERS).unwrap();
    let many: Vec<u64> = (0..=u64::from(most)).collect();
    assert!(decoded(&bytes(most, &many[1..])).is_some());
    assert_eq!(decoded(&bytes(most + 1, &many)), None, "more than there is room for");
    let whole = bytes(2, &[1, 2]);
    (0..whole.len()).for_each(|length| assert_eq!(decoded(&whole[..length]), None, "{length}"));
}

proptest! {
    /// It is a map, whose entries each have a number that no other ever had.
    #[test]
    fn it_is_a_map_with_epochs(steps in prop::collection::vec((0..6_u64, any::<Option<u32>>()), 0..60)) {
        let mut ledger = Ledger::new(0);
        let (mut model, mut next) = (BTreeMap::new(), 0);
        for (owner, held) in steps {
            match held {
                Some(held) => {
                    let (epoch, _) = *model.entry(owner).or_insert_with(|| (next, 0));
                    next = next.max(epoch + 1);
                    model.insert(owner, (epoch, held));
                    prop_assert_eq!(hold(&mut ledger, owner, held), epoch);
                }
                None => {
                    ledger.tidy(Owner(owner), |_| true);
                    model.remove(&owner);
                }
            }
            let entries = ledger.entries().iter().map(|entry| (entry.owner.0, (entry.epoch, entry.held)));
            prop_assert!(entries.eq(model.iter().map(|(owner, entry)| (*owner, *entry))));
            ledger = decoded(&encoded(&ledger)).expect("what was written");
        }
    }
}
