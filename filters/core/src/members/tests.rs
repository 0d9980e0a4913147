//! Who is alive, who judges, who leads.

use super::*;
use crate::testing::ms;
use proptest::prelude::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const CONFIGURATION: u64 = 42;
const TICK_MS: u64 = 500;

/// A table of VMs that joined at 0, and their watches.
struct Table {
    members: Members,
    watch: Watch,
}

impl Table {
    fn new() -> Self {
        Self { members: Members::default(), watch: Watch::default() }
    }

    fn beat(&mut self, me: Option<Owner>, now: Timestamp) -> Owner {
        self.members.beat(me, CONFIGURATION, now, &self.watch)
    }

    fn observe(&mut self, now: Timestamp) {
        self.watch.observe(&self.members, &[], now);
    }

    fn lines(&self) -> Vec<Owner> {
        self.members.members.iter().map(|member| member.owner).collect()
    }
}

/// Ticks of the observer from `from` to `to` milliseconds, both included, during which only `beating` beat.
fn watched(table: &mut Table, from: u64, to: u64, beating: &[Owner]) {
    for moment in (from..=to).step_by(usize::try_from(TICK_MS).unwrap()) {
        for owner in beating {
            assert_eq!(table.beat(Some(*owner), ms(moment)), *owner);
        }
        table.observe(ms(moment));
    }
}

#[test]
fn each_that_joins_gets_an_identity_of_its_own() {
    let mut table = Table::new();
    let owners: Vec<_> = (0..5).map(|_| table.beat(None, ms(0))).collect();
    let mut distinct = owners.clone();
    distinct.dedup();
    assert_eq!(distinct, owners);
    // One that leaves in order takes its identity with it.
    table.members.leave(owners[4]);
    assert_eq!(table.lines(), owners[..4]);
    assert!(!owners.contains(&table.beat(None, ms(1))));
}

#[test]
fn a_beat_keeps_the_identity_and_moves_the_line() {
    let mut table = Table::new();
    let me = table.beat(None, ms(0));
    assert_eq!(table.beat(Some(me), ms(500)), me);
    let line =
        Member { owner: me, configuration: CONFIGURATION, beat: ms(500), slot: Some(0), more: Vec::new() };
    assert_eq!(table.members.members, [line]);
}

#[test]
fn one_without_a_line_joins_again_under_another_identity() {
    let mut table = Table::new();
    let me = table.beat(None, ms(0));
    table.members.leave(me);
    let again = table.beat(Some(me), ms(500));
    assert_ne!(again, me, "others have given back what the first identity held");
    assert_eq!(table.lines(), [again]);
}

#[test]
fn silent_for_the_lease_is_dead_and_not_a_moment_before() {
    let mut table = Table::new();
    let (me, silent) = (table.beat(None, ms(0)), table.beat(None, ms(0)));
    watched(&mut table, 0, 4500, &[me]);
    assert!(!table.watch.is_dead(silent, ms(4999)));
    watched(&mut table, 5000, 5000, &[me]);
    assert!(table.watch.is_dead(silent, ms(5000)));
    assert!(!table.watch.is_dead(me, ms(5000)));
    assert!(!table.watch.is_dead(Owner(99), ms(5000)), "nobody knows anything of that one");
}

#[test]
fn one_beat_within_the_lease_keeps_alive() {
    let mut table = Table::new();
    let (me, slow) = (table.beat(None, ms(0)), table.beat(None, ms(0)));
    for round in 0..5 {
        let start = round * 5000;
        watched(&mut table, start, start + 4500, &[me]);
        assert!(!table.watch.is_dead(slow, ms(start + 4500)));
        table.beat(Some(slow), ms(start + 4999));
    }
}

#[test]
fn a_beat_is_a_change_whatever_time_it_shows() {
    // Clocks are shared, but a watch goes by change alone: an old moment is a sign of life as well.
    let mut table = Table::new();
    let (me, odd) = (table.beat(None, ms(0)), table.beat(None, ms(90_000)));
    watched(&mut table, 0, 4500, &[me]);
    table.beat(Some(odd), ms(1));
    watched(&mut table, 5000, 9500, &[me]);
    assert!(!table.watch.is_dead(odd, ms(9999)));
    assert!(table.watch.is_dead(odd, ms(10_000)));
}

#[test]
fn an_observer_that_was_away_itself_judges_nobody() {
    let mut table = Table::new();
    let (me, other) = (table.beat(None, ms(0)), table.beat(None, ms(0)));
    watched(&mut table, 0, 1000, &[me]);
    // A process that was stopped: nobody has beaten, and the observer's first tick comes before the others' do.
    assert!(!table.watch.is_dead(other, ms(600_000)), "before its own tick");
    watched(&mut table, 600_000, 604_500, &[me]);
    assert!(!table.watch.is_dead(other, ms(604_999)), "it begins to count anew");
    watched(&mut table, 605_000, 605_000, &[me]);
    assert!(table.watch.is_dead(other, ms(605_000)));
}

#[test]
fn an_observer_may_miss_ticks_for_two_seconds() {
    for (pause, dead) in [(2000, true), (2001, false)] {
        let mut table = Table::new();
        let (me, silent) = (table.beat(None, ms(0)), table.beat(None, ms(0)));
        watched(&mut table, 0, 3000, &[me]);
        watched(&mut table, 3000 + pause, 5500, &[me]);
        assert_eq!(table.watch.is_dead(silent, ms(5500)), dead, "{pause} ms");
    }
}

#[test]
fn one_who_dies_knows_it_not_and_takes_another_identity() {
    let mut table = Table::new();
    let (me, stopped) = (table.beat(None, ms(0)), table.beat(None, ms(0)));
    let mut theirs = Watch::default();
    theirs.observe(&table.members, &[], ms(0));
    watched(&mut table, 0, 14_500, &[me]);
    assert_eq!(table.lines(), [me, stopped], "dead, and its line still there");
    watched(&mut table, 15_000, 15_000, &[me]);
    assert_eq!(table.lines(), [me], "forgotten");
    let again = table.members.beat(Some(stopped), CONFIGURATION, ms(16_000), &theirs);
    assert_ne!(again, stopped);
}

#[test]
fn nobody_forgets_itself_or_what_it_has_not_seen() {
    let mut table = Table::new();
    let (me, _) = (table.beat(None, ms(0)), table.beat(None, ms(0)));
    // It observes, but nothing of what anybody beats gets written.
    watched(&mut table, 0, 20_000, &[]);
    assert_eq!(table.beat(Some(me), ms(20_000)), me);
    assert_eq!(table.lines(), [me]);

    // A watch that has been away removes no line.
    let other = table.members.beat(None, CONFIGURATION, ms(20_000), &Watch::default());
    table.observe(ms(20_500));
    table.beat(Some(me), ms(90_000));
    assert_eq!(table.lines(), [me, other]);
}

#[test]
fn holders_without_a_line_die_too() {
    let mut table = Table::new();
    let me = table.beat(None, ms(0));
    let ghost = Owner(1000);
    for moment in (0..=5000).step_by(500) {
        assert!(!table.watch.is_dead(ghost, ms(4999)));
        table.beat(Some(me), ms(moment));
        table.watch.observe(&table.members, &[me, ghost], ms(moment));
    }
    assert!(table.watch.is_dead(ghost, ms(5000)));
    assert!(!table.watch.is_dead(me, ms(5000)), "a holder's line speaks for it");
    // One that shows up again has a line again.
    table.members.members.push(Member {
        owner: ghost,
        configuration: 0,
        beat: ms(5000),
        slot: None,
        more: Vec::new(),
    });
    table.watch.observe(&table.members, &[ghost], ms(5500));
    assert!(!table.watch.is_dead(ghost, ms(5500)));
}

#[test]
fn the_oldest_of_the_living_leads_its_configuration() {
    let mut table = Table::new();
    let (first, second) = (table.beat(None, ms(0)), table.beat(None, ms(0)));
    let other = table.members.beat(None, 7, ms(0), &table.watch);
    watched(&mut table, 0, 4500, &[second]);
    let leads =
        |table: &Table, me, configuration, now| table.members.is_leader(me, configuration, now, &table.watch);
    assert!(leads(&table, first, CONFIGURATION, ms(4500)));
    assert!(!leads(&table, second, CONFIGURATION, ms(4500)));
    assert!(leads(&table, other, 7, ms(4500)), "each configuration has a leader of its own");
    assert!(!leads(&table, other, CONFIGURATION, ms(4500)));

    watched(&mut table, 5000, 5000, &[second]);
    assert!(leads(&table, second, CONFIGURATION, ms(5000)), "the first is dead");
    table.beat(Some(first), ms(5000));
    table.observe(ms(5500));
    assert!(leads(&table, first, CONFIGURATION, ms(5500)), "and is back");
    assert!(!leads(&table, second, CONFIGURATION, ms(5500)));
}

#[test]
fn nobody_leads_without_a_line() {
    let table = Table::new();
    assert!(!table.members.is_leader(Owner(0), CONFIGURATION, ms(0), &table.watch));
}

#[test]
fn the_table_makes_the_round_trip_and_none_is_an_empty_one() {
    let mut table = Table::new();
    table.beat(None, ms(1));
    table.members.beat(None, u64::MAX, ms(2), &table.watch);
    assert_eq!(Members::decode(Some(&table.members.encode()), ms(9)), table.members);
    assert_eq!(Members::decode(None, ms(9)), Members::default());
}

#[test]
fn what_a_later_version_adds_is_carried_along() {
    let mut table = Table::new();
    let me = table.beat(None, ms(1));
    // A line of theirs with eight bytes more, and more at the end of the table.
    let theirs = Owner(7);
    table.members.members.push(Member {
        owner: theirs,
        configuration: CONFIGURATION,
        beat: ms(1),
        slot: Some(9),
        more: vec![1, 2, 3, 4, 5, 6, 7, 8],
    });
    table.members.more = b"more".to_vec();
    table.members.reigns(CONFIGURATION);
    let mut read = Members::decode(Some(&table.members.encode()), ms(2));
    assert_eq!(read.beat(Some(me), CONFIGURATION, ms(2), &table.watch), me, "both are still who they were");
    assert_eq!(read.reigns(CONFIGURATION), 1);
    assert_eq!(read.more, b"more");
    assert_eq!(read.members[1], table.members.members[1]);
}

#[test]
fn a_damaged_table_starts_afresh_with_identities_of_its_own() {
    let mut table = Table::new();
    let known: Vec<_> = (0..3).map(|_| table.beat(None, ms(1))).collect();
    let whole = table.members.encode();
    let mut damaged: Vec<Vec<u8>> = (0..whole.len()).map(|length| whole[..length].to_vec()).collect();
    damaged.push([&[0], &whole[1..]].concat());
    for bytes in damaged {
        let mut fresh = Members::decode(Some(&bytes), ms(5));
        assert_eq!(fresh.members, []);
        let owner = fresh.beat(Some(known[0]), CONFIGURATION, ms(5), &Watch::default());
        assert!(!known.contains(&owner), "{owner:?}");
    }
}

#[test]
fn a_table_longer_than_any_is_damage_and_a_full_one_grows_no_more() {
    let line =
        |owner| Member { owner: Owner(owner), configuration: 0, beat: ms(0), slot: None, more: Vec::new() };
    let lines = (0..4096).map(line).collect();
    let mut full = Members { next: 5000, members: lines, ..Members::default() };
    assert_eq!(Members::decode(Some(&full.encode()), ms(1)), full);
    assert_eq!(full.beat(None, CONFIGURATION, ms(0), &Watch::default()), Owner(5000));
    assert_eq!(full.members.len(), MAX_MEMBERS);
    full.members.push(line(4096));
    assert_eq!(Members::decode(Some(&full.encode()), ms(1)).members, []);
}

const REIGN: Reign = Reign { generation: 7, configuration: 3 };

#[test]
fn each_configuration_that_takes_over_is_one_more() {
    let mut table = Members::default();
    let reigned = [4, 4, 9, 4, 4].map(|configuration| {
        table = Members::decode(Some(&table.encode()), ms(0));
        table.reigns(configuration)
    });
    assert_eq!(reigned, [1, 1, 2, 3, 3]);
    // A table of a version that has no generations yet.
    let old = Members { reign: None, ..table };
    let mut read = Members::decode(Some(&old.encode()), ms(0));
    assert_eq!((read.reign, read.reigns(4)), (None, 1));
}

#[test]
fn the_silent_are_buried_once_and_who_asks_is_not() {
    let mut table = Table::new();
    let (me, _, _) = (table.beat(None, ms(0)), table.beat(None, ms(0)), table.beat(None, ms(0)));
    for moment in (0..=15_000).step_by(500).map(ms) {
        table.members.beat(Some(me), CONFIGURATION, moment, &Watch::default());
        table.observe(moment);
    }
    assert_eq!(table.members.bury(Some(me), ms(15_000), &table.watch), 2);
    assert_eq!(table.members.bury(Some(me), ms(15_000), &table.watch), 0);
    assert_eq!(table.members.members.len(), 1);
}

#[test]
fn what_no_vm_can_have_written_is_damage() {
    let line = |owner, more| Member {
        owner: Owner(owner),
        configuration: 0,
        beat: ms(0),
        slot: u16::try_from(owner).ok(),
        more: vec![0; more],
    };
    let table = |members| Members { next: 3, members, more: vec![0; MAX_MORE - 10], reign: Some(REIGN) };
    let sound = table(vec![line(2, 5), line(0, 5)]);
    assert_eq!(Members::decode(Some(&sound.encode()), ms(1)), sound);
    // An identity twice; a slot twice; more than any version adds.
    let same_slot = vec![line(2, 0), Member { slot: Some(2), ..line(1, 0) }];
    for lines in
        [vec![line(2, 0), Member { slot: None, ..line(2, 0) }], same_slot, vec![line(2, 5), line(0, 6)]]
    {
        assert_eq!(Members::decode(Some(&table(lines).encode()), ms(1)).members, []);
    }
}

#[test]
fn an_identity_that_a_line_has_is_not_given_out_again() {
    let line =
        |owner| Member { owner: Owner(owner), configuration: 0, beat: ms(0), slot: None, more: Vec::new() };
    let mut table =
        Members { next: u64::MAX, members: vec![line(u64::MAX), line(0), line(2)], ..Members::default() };
    let mut join = || table.beat(None, CONFIGURATION, ms(1), &Watch::default());
    assert_eq!([join(), join()], [Owner(1), Owner(3)]);
}

proptest! {
    #[test]
    fn any_bytes_are_a_table(bytes in prop::collection::vec(any::<u8>(), 0..200), version in any::<bool>()) {
        let bytes = if version { [Members::MAGIC, bytes.as_slice()].concat() } else { bytes };
        let mut table = Members::decode(Some(&bytes), ms(1));
        prop_assert_eq!(&Members::decode(Some(&table.encode()), ms(2)), &table);
        let mut watch = Watch::default();
        watch.observe(&table, &[], ms(2));
        let me = table.beat(None, CONFIGURATION, ms(2), &watch);
        prop_assert!(table.members.iter().any(|member| member.owner == me));
    }
}

#[test]
fn a_newer_configuration_that_comes_back_is_the_newest_again() {
    let mut table = Table::new();
    let mine = table.beat(None, ms(0));
    let newer = table.members.beat(None, CONFIGURATION + 1, ms(0), &table.watch);
    watched(&mut table, 0, 6000, &[mine]);
    let standing = |table: &Table| table.members.standing(CONFIGURATION, ms(6400), &table.watch);
    assert_eq!(standing(&table), Standing::Alone, "the other shows no sign of life");
    table.members.beat(Some(newer), CONFIGURATION + 1, ms(6300), &table.watch);
    assert_eq!(standing(&table), Standing::Superseded, "it does, and nobody has looked yet");
}

#[test]
fn each_line_has_a_slot_of_its_own_and_that_of_one_who_left_is_used_again() {
    let mut table = Table::new();
    let owners: Vec<_> = (0..3).map(|_| table.beat(None, ms(0))).collect();
    let slots = |table: &Table| owners.iter().map(|owner| table.members.slot(*owner)).collect::<Vec<_>>();
    assert_eq!(slots(&table), [Some(0), Some(1), Some(2)]);
    table.members.leave(owners[1]);
    let fourth = table.beat(None, ms(1));
    assert_eq!(table.members.slot(fourth), Some(1));
    // A line of the first version of the module has none, and is left as it is.
    let first = Member { owner: Owner(9), configuration: 0, beat: ms(1), slot: None, more: Vec::new() };
    table.members.members.push(first.clone());
    let read = Members::decode(Some(&table.members.encode()), ms(2));
    assert_eq!(read, table.members);
    assert_eq!(read.slot(Owner(9)), None);
}
