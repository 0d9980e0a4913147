//! Any bytes as the table of living VMs, and what VMs then do to it.

use crate::input::Input;
use resilience_core::breaker::Owner;
use resilience_core::members::{Members, TICK, Watch};
use resilience_core::time::Timestamp;

/// No table is longer, in bytes: its head, its lines with what later versions add to each, and to all.
const LONGEST_TABLE: usize = 512 * 1024;
const STEPS: usize = 32;
/// How many VMs take part.
const VMS: usize = 3;
/// Ticks after which the dead are forgotten, with some to spare.
const LONG: usize = 40;
const LATE: Timestamp = Timestamp::from_nanos(u64::MAX / 2);

/// Reads the table that the bytes begin with, lets VMs tick, leave and be away as the rest describes, and then one VM
/// alone.
///
/// # Panics
/// If the table does not survive its own bytes, outgrows its limit, has two leaders in one pair of eyes, gives a
/// slot twice, or keeps the last VM from leading.
pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut now = input.timestamp();
    let value = input.value();
    let mut table = Members::decode((!value.is_empty()).then_some(value.as_slice()), now);
    let mut vms: [Vm; VMS] = Default::default();
    let mut latest = now;
    check_bytes(&table, now);
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        now = input.moved(now);
        latest = latest.max(now);
        let vm = &mut vms[usize::from(input.u8()) % VMS];
        match input.u8() % 8 {
            0..=5 => vm.tick(&mut table, u64::from(input.u8() % 2), now),
            6 => vm.leave(&mut table),
            _ => table = Members::decode(Some(&input.value()), now),
        }
        check_bytes(&table, now);
        check_leaders(&table, &vms, now);
        check_slots(&table, &vms);
    }
    if latest < LATE {
        alone(table, latest);
    }
}

#[derive(Default)]
struct Vm {
    me: Option<Owner>,
    watch: Watch,
}

impl Vm {
    fn tick(&mut self, table: &mut Members, configuration: u64, now: Timestamp) {
        let holders: Vec<_> = self.me.into_iter().chain([Owner(7)]).collect();
        self.watch.observe(table, &holders, now);
        self.me = Some(table.beat(self.me, configuration, now, &self.watch));
    }

    fn leave(&mut self, table: &mut Members) {
        if let Some(me) = self.me.take() {
            table.leave(me);
        }
    }

    fn leads(&self, table: &Members, configuration: u64, now: Timestamp) -> bool {
        self.me.is_some_and(|me| table.is_leader(me, configuration, now, &self.watch))
    }
}

fn check_bytes(table: &Members, now: Timestamp) {
    let bytes = table.encode();
    assert!(bytes.len() <= LONGEST_TABLE, "{} bytes", bytes.len());
    assert_eq!(Members::decode(Some(&bytes), now), *table);
}

/// Each VM believes in one leader at most, whoever that is.
fn check_leaders(table: &Members, vms: &[Vm; VMS], now: Timestamp) {
    for eyes in vms {
        for configuration in 0..2 {
            let mut leaders: Vec<_> = vms
                .iter()
                .filter_map(|vm| vm.me)
                .filter(|me| table.is_leader(*me, configuration, now, &eyes.watch))
                .collect();
            leaders.dedup();
            assert!(leaders.len() <= 1, "{leaders:?}");
        }
    }
}

/// No two are woken by one queue.
fn check_slots(table: &Members, vms: &[Vm; VMS]) {
    let mut owners: Vec<_> = vms.iter().filter_map(|vm| vm.me).collect();
    owners.sort_unstable();
    // VMs take one another's identity where the table was lost in between, and that is another matter.
    owners.dedup();
    let slots: Vec<_> = owners.into_iter().filter_map(|owner| table.slot(owner)).collect();
    for (index, slot) in slots.iter().enumerate() {
        assert!(!slots[..index].contains(slot), "{slots:?}: {table:?}");
    }
}

/// A VM that is left alone with any table forgets the dead, and leads.
fn alone(mut table: Members, mut now: Timestamp) {
    let mut vm = Vm::default();
    for _ in 0..LONG {
        now = now.after(TICK);
        vm.tick(&mut table, 1, now);
    }
    vm.watch.observe(&table, &[], now);
    assert!(vm.leads(&table, 1, now), "{:?} does not lead: {table:?}", vm.me);
}
