//! What may lie in shared data.

use resilience_module_tests::Random;
use resilience_module_tests::shop::{
    End, FAILURES, KEY, OrFail, Shop, TICK, WAIT, answer, arrive, enter, policy_and, serve,
};
use std::time::Duration;

/// What may lie under a policy's key when a worker looks at it for the first time.
fn hostile_states() -> Vec<(String, Vec<u8>)> {
    let mut random = Random::new(5);
    let mut states: Vec<(String, Vec<u8>)> = [0, 1, 2, 3, 4, 5, 6, 7, 8, 20, 64, 500, 70_000]
        .into_iter()
        .map(|len| (format!("{len} random bytes"), random.bytes(len)))
        .collect();
    states.extend((0..64).map(|index| {
        let len = random.below(200);
        let bytes = [b"RS\x01\x01".to_vec(), random.bytes(len)].concat();
        (format!("random bytes {index} behind a good beginning"), bytes)
    }));
    for (what, good) in good_states() {
        let cuts = (0..good.len()).filter(|len| !ends_a_section(&good, *len));
        states.extend(cuts.map(|len| (format!("{what}, cut to {len}"), good[..len].to_vec())));
        states.push((format!("{what}, one byte too long"), [good.as_slice(), &[0]].concat()));
    }
    states
}

/// Whether what is left of a value is one that has fewer sections.
fn ends_a_section(value: &[u8], len: usize) -> bool {
    let mut end = 2;
    while end < len {
        let [low, high] = [value[end + 2], value[end + 3]];
        end += 4 + usize::from(u16::from_le_bytes([low, high]));
    }
    end == len && end > 2
}

/// What a breaker leaves in its key when it is closed with failures, open, and half-open.
fn good_states() -> Vec<(&'static str, Vec<u8>)> {
    let state = |shop: &Shop| shop.host.data(KEY).expect("a state").0;
    let shop = Shop::with(
        &policy_and("\"discourage_retries\": true")
            .replace("\"wait", r#""failures_in_window": {"failures": 5, "window": "10s"}, "wait"#),
        1,
    );
    serve(shop.vm(), End::Status(500)).unwrap();
    let closed = state(&shop);
    let shop = Shop::open(1);
    shop.trip();
    let open = state(&shop);
    shop.pass(WAIT + TICK).unwrap();
    enter(&arrive(shop.vm())).unwrap();
    vec![("closed", closed), ("open", open), ("half-open", state(&shop))]
}

#[test]
fn what_cannot_be_read_in_shared_data_is_a_fresh_start() {
    for (what, bytes) in hostile_states() {
        let shop = Shop::open(1);
        shop.host.set_data(KEY, &bytes, 0).unwrap();
        let about = what.clone();
        let refused = serve(shop.vm(), End::Status(200)).or_fail(&about);
        assert_eq!(refused, None, "{what}: refused");
        shop.pass(TICK * 2).or_fail(&about);
        shop.trip();
        shop.pass(WAIT + TICK).or_fail(&about);
        assert_eq!(serve(shop.vm(), End::Status(200)).or_fail(&about), None, "{what}: no probe");
        assert_eq!(serve(shop.vm(), End::Status(200)).or_fail(&about), None, "{what}: not closed");
    }
}

#[test]
fn sections_of_another_version_are_carried_along() {
    let future_section = [&[9u8, 1, 5, 0][..], b"hello"].concat();
    let future_breaker = [&[1u8, 200, 3, 0][..], b"new"].concat();
    let shop = Shop::open(1);
    let bytes = [&b"RS"[..], &future_section, &future_breaker].concat();
    shop.host.set_data(KEY, &bytes, 0).unwrap();
    shop.trip();
    let state = shop.host.data(KEY).unwrap().0;
    for section in [future_section, future_breaker] {
        assert!(state.windows(section.len()).any(|part| part == section), "{section:?} is lost in {state:?}");
    }
}

#[test]
fn an_outcome_from_before_the_damage_is_dropped() {
    let shop = Shop::open(1);
    serve(shop.vm(), End::Status(500)).unwrap();
    let before: Vec<_> = (0..FAILURES).map(|_| arrive(shop.vm())).collect();
    before.iter().for_each(|stream| assert_eq!(enter(stream).unwrap(), None));
    shop.host.set_data(KEY, "garbage", 0).unwrap();
    shop.host.advance(Duration::from_secs(1));
    for stream in &before {
        answer(stream, End::Status(500)).unwrap();
        stream.finish().unwrap();
    }
    assert_eq!(serve(shop.vm(), End::Status(200)).unwrap(), None, "they knew another breaker");
}

/// Layout as the module writes it, with numbers that no breaker reaches.
#[test]
fn numbers_that_no_breaker_reaches_do_not_last_for_ever() {
    let breaker = |generation: u64, state: u8, rest: &[u8]| {
        let section = [&generation.to_le_bytes()[..], &u32::MAX.to_le_bytes(), &[state], rest].concat();
        [b"RS\x01\x01", &(section.len() as u16).to_le_bytes()[..], &section].concat()
    };
    let half_open = |until: u64, permitted: u32, succeeded: u32, probes: &[(u64, u32)]| {
        let mut rest = until.to_le_bytes().to_vec();
        rest.extend(permitted.to_le_bytes());
        rest.extend(succeeded.to_le_bytes());
        rest.extend((probes.len() as u16).to_le_bytes());
        for (owner, id) in probes {
            rest.extend(owner.to_le_bytes());
            rest.extend(id.to_le_bytes());
        }
        rest
    };
    let now = Shop::open(1).host.now();
    let soon = now + 1_000_000_000;
    let strangers: Vec<_> = (0..2000).map(|id| (u64::MAX - 7, id)).collect();
    let states = [
        ("closed, the last generation", breaker(u64::MAX, 0, &[0; 8])),
        ("closed, all counts full", breaker(1, 0, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0])),
        ("open, the last generation", breaker(u64::MAX, 2, &soon.to_le_bytes())),
        ("half-open, nothing permitted", breaker(5, 1, &half_open(soon, 0, 0, &[]))),
        ("half-open, more answered than permitted", breaker(5, 1, &half_open(soon, 1, u32::MAX, &[]))),
        (
            "half-open, thousands of probes of a stranger",
            breaker(5, 1, &half_open(soon, u32::MAX, 0, &strangers)),
        ),
        ("half-open, everything permitted", breaker(5, 1, &half_open(soon, u32::MAX, 0, &[(0, 0)]))),
    ];
    for (what, bytes) in states {
        let shop = Shop::open(1);
        shop.host.set_data(KEY, &bytes, 0).unwrap();
        let about = what;
        serve(shop.vm(), End::Status(200)).or_fail(about);
        shop.pass(WAIT * 3).or_fail(about);
        serve(shop.vm(), End::Status(200)).or_fail(about);
        assert_eq!(serve(shop.vm(), End::Status(200)).or_fail(about), None, "{what}: still refused");
    }
}

#[test]
fn a_damaged_table_of_members_starts_afresh() {
    const MEMBERS: &str = "resilience/shop/#members";
    let shop = Shop::open(2);
    shop.pass(TICK * 3).unwrap();
    let good = shop.host.data(MEMBERS).expect("a table").0;
    let mut random = Random::new(3);
    let cut = (0..good.len()).map(|len| good[..len].to_vec());
    let random = (0..40).map(|_| {
        let len = random.below(300);
        [vec![1], random.bytes(len)].concat()
    });
    let full = [&[1][..], &[0xff; 8], &4097u16.to_le_bytes(), &[7; 4097 * 24]].concat();
    for bytes in cut.chain(random).chain([full]) {
        shop.host.set_data(MEMBERS, &bytes, 0).unwrap();
        shop.pass(TICK * 2).unwrap();
        shop.trip();
        shop.pass(WAIT + TICK).unwrap();
        assert_eq!(serve(&shop.vms[1], End::Status(200)).unwrap(), None, "{bytes:?}: no probe");
        assert_eq!(serve(shop.vm(), End::Status(200)).unwrap(), None, "{bytes:?}: not closed");
    }
    shop.pass(Duration::from_secs(30)).unwrap();
    let table = shop.host.data(MEMBERS).unwrap().0;
    assert_eq!(table.len(), good.len(), "both workers are in it again, and nobody else");
}
