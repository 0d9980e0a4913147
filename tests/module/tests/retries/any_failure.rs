//! Any host call fails at any time: nothing traps, nothing stays kept, and no retry that was made is forgotten.

use crate::failures::faults;
use crate::*;
use resilience_module_tests::{Failure, Guest, Random, SharedHost};

/// How often the filter has a request retried.
const MOST: i64 = 2;
/// What the budget of [`brief`] holds: its retries leave the window long after these lives.
const FULL: i64 = 60;

/// What the lives below are played with.
fn brief() -> String {
    let budget = r#""retry_budget": {"percent_can_retry": 0, "min_retries_per_second": 1, "ttl": "60s"}"#;
    let bulkhead = r#""bulkhead": {"max_concurrent_calls": 1, "max_wait_duration": "1s", "max_queue": 100}"#;
    let timeout = r#""timeout": {"total": "2s", "per_try": "100ms"}"#;
    let retry = r#""retry": {"max_retries": 2}"#;
    never_open(policy_and(&[budget, bulkhead, timeout, retry].join(", ")))
}

/// What a router made of what it was told.
#[derive(Default)]
struct Tally {
    made: i64,
    requests: i64,
}

/// A request somewhere between its first callback and its last.
struct Open {
    stream: FakeStream,
    first: Action,
}

impl Tally {
    fn come(&mut self, vm: &FakeVm, is_whole: bool) -> Result<Open, Failure> {
        let stream = arrive(vm);
        attempted(&stream, 0);
        self.requests += 1;
        let first = stream.request_headers(is_whole)?;
        Ok(Open { stream, first })
    }

    /// The router makes every retry that it may.
    fn end(&mut self, Open { stream, first }: Open, end: End) -> Result<(), Failure> {
        if stream.local_response().is_some() {
            stream.deliver_local_response()?;
        } else if first == Action::Continue || went_on(&stream) > 0 {
            // A request that nobody knows for ours is not the budget's to count.
            let is_told = written(&stream).iter().any(|header| header == "+x-envoy-max-retries");
            let retries = told(&stream).filter(|_| is_told).unwrap_or(0);
            self.made += i64::from(retries);
            attempted(&stream, u64::from(retries) + 1);
            answer(&stream, end)?;
        }
        stream.finish()
    }
}

fn messages(shop: &Shop) -> Result<(), Failure> {
    for vm in &shop.vms {
        vm.deliver_queues()?;
    }
    Ok(())
}

/// Requests that are let in, wait, go on, leave, trickle in and are refused. What becomes of each is not looked at: with a host
/// that fails it may be anything.
fn live(shop: &Shop, config: &str, tally: &mut Tally) -> Result<(), Failure> {
    for vm in &shop.vms {
        if !vm.configure(ROOT, config)? {
            return Ok(());
        }
    }
    let vm = |worker: usize| &shop.vms[worker % shop.vms.len()];
    shop.pass(TICK)?;
    let holder = tally.come(vm(0), true)?;
    let goes_on = tally.come(vm(1), true)?;
    let leaves = tally.come(vm(0), false)?;
    let overdue = tally.come(vm(0), true)?;
    leaves.stream.request_body(true)?;
    tally.end(holder, End::Status(500))?;
    messages(shop)?;
    leaves.stream.finish()?;
    shop.pass(TICK * 3)?;
    tally.end(goes_on, End::Status(200))?;
    tally.end(overdue, End::ResetInBody)?;
    messages(shop)?;
    let trickles = tally.come(vm(0), false)?;
    trickles.stream.request_body(false)?;
    shop.pass(TICK * 5)?;
    tally.end(trickles, End::Status(200))?;
    let forged = arrive_with(vm(1), &[("x-envoy-max-retries", "9"), ("grpc-timeout", "1H")]);
    attempted(&forged, 0);
    let first = forged.request_headers(true)?;
    tally.requests += 1;
    tally.end(Open { stream: forged, first }, End::Grpc(14))?;
    shop.pass(TICK)
}

fn crowd(shop: &Shop) -> (u32, u32) {
    let state = state(shop);
    (state.bulkhead.in_flight(), state.bulkhead.waiting())
}

/// Brings a shop back whose host is well again, and says what it still gets wrong.
fn recover(shop: &Shop, config: &str, tally: &Tally) -> Result<(), String> {
    let told_of = |failure: Failure| failure.to_string();
    for vm in &shop.vms {
        vm.clear_faults();
        if !vm.configure(ROOT, config).map_err(told_of)? {
            return Err(format!("refuses the configuration: {:?}", vm.logs()));
        }
    }
    // Longer than any lease, seen by workers that tick all through it.
    shop.pass(Duration::from_secs(8)).map_err(told_of)?;
    messages(shop).map_err(told_of)?;
    let (left, kept) = balance(shop, config);
    if (kept, crowd(shop)) != (0, (0, 0)) {
        return Err(format!("{kept} retries are kept, {:?} in flight and waiting", crowd(shop)));
    }
    let (made, most) = (tally.made, tally.requests * MOST);
    if !(made..=most).contains(&(FULL - left)) {
        return Err(format!("{} are spent, {made} were made, {most} could have been", FULL - left));
    }
    // And it still is a budget.
    let next = hold(shop.vm());
    if told(&next) != Some(2) || balance(shop, config) != (left, MOST) {
        return Err(format!("grants {:?} of {:?}", told(&next), balance(shop, config)));
    }
    leave(&next, 2, End::Status(200));
    if balance(shop, config) != (left - 1, 0) {
        return Err(format!("does not settle: {:?}", balance(shop, config)));
    }
    Ok(())
}

fn unconfigured(workers: usize) -> Shop {
    let host = SharedHost::new();
    let vms = (0..workers).map(|_| FakeVm::load(&Guest::under_test(), &host).unwrap()).collect();
    Shop { host, vms }
}

/// Lives once with a host that fails as it is told, and says what went wrong.
fn outlive(workers: usize, config: &str, fault: impl Fn(&FakeVm)) -> Result<(), String> {
    let (shop, mut tally) = (unconfigured(workers), Tally::default());
    shop.vms.iter().for_each(fault);
    live(&shop, config, &mut tally).map_err(|failure| failure.to_string())?;
    recover(&shop, config, &tally)
}

#[test]
fn any_single_call_of_a_life_with_retries_may_fail() {
    let config = brief();
    let (clean, mut tally) = (unconfigured(1), Tally::default());
    live(&clean, &config, &mut tally).unwrap();
    assert_eq!((tally.made, tally.requests), (6, 6), "three were let in and are not too late");
    let calls: Vec<_> =
        clean.vm().calls().into_iter().filter(|call| FakeVm::can_fail(&call.function)).collect();
    for (function, argument) in [
        ("proxy_get_header_map_pairs", &b""[..]),
        ("proxy_replace_header_map_value", b"x-envoy-max-retries"),
        ("proxy_remove_header_map_value", b"x-envoy-max-retries"),
        ("proxy_get_property", ATTEMPTS),
        ("proxy_send_local_response", b""),
        ("proxy_set_effective_context", b""),
        ("proxy_continue_stream", b""),
    ] {
        let is = |call: &&resilience_module_tests::Call| {
            call.function == function && (argument.is_empty() || call.argument == argument)
        };
        assert!(calls.iter().any(|call| is(&call)), "no {function}");
    }
    recover(&clean, &config, &tally).unwrap();

    let mut wrong = Vec::new();
    for (nth, call) in calls.iter().enumerate() {
        for status in faults(&call.function) {
            if let Err(what) = outlive(1, &config, |vm| vm.fail_nth(nth, status)) {
                wrong.push(format!("call {nth} ({call}) answering {status}: {what}"));
            }
        }
    }
    println!("{} calls, each failing in every way", calls.len());
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn any_function_may_fail_for_good() {
    let config = brief();
    for import in Guest::under_test().imports() {
        let Some((_, function)) = import.split_once('.') else { continue };
        for status in faults(function) {
            let outlived = outlive(2, &config, |vm| vm.fail_kind(function, status));
            assert_eq!(outlived, Ok(()), "{function} always answering {status}");
        }
    }
}

/// Workers, requests that wait, trickle in and overlap, time and faults, all by one seed.
fn chaos(seed: u64, config: &str, fault: impl Fn(&FakeVm, u64)) -> Shop {
    let mut random = Random::new(seed);
    let (shop, mut tally) = (Shop::with(config, 2), Tally::default());
    shop.vms.iter().zip(0..).for_each(|(vm, index)| fault(vm, seed * 100 + index));
    let mut open: Vec<Open> = Vec::new();
    let mut step = |open: &mut Vec<Open>| -> Result<(), Failure> {
        match random.below(14) {
            0..4 => {
                let come = tally.come(&shop.vms[random.below(2)], random.chance(0.5))?;
                open.push(come);
            }
            4..8 if !open.is_empty() => {
                let ended = open.swap_remove(random.below(open.len()));
                tally.end(ended, *random.pick(&[End::Status(200), End::Status(500), End::Grpc(14)]))?;
            }
            8..10 if !open.is_empty() => {
                let _ = open[random.below(open.len())].stream.request_body(random.chance(0.5))?;
            }
            10..12 => messages(&shop)?,
            12 => shop.pass(TICK)?,
            _ => shop.host.advance(Duration::from_millis([1, 15, 300, 2_500, 11_000][random.below(5)])),
        }
        Ok(())
    };
    for number in 0..600 {
        step(&mut open).unwrap_or_else(|failure| panic!("seed {seed}, step {number}: {failure}"));
    }
    for Open { stream, .. } in open {
        stream.finish().unwrap_or_else(|failure| panic!("seed {seed}, at the end: {failure}"));
    }
    shop
}

#[test]
fn random_failures_leave_nothing_kept() {
    for seed in 0..8 {
        let config = brief();
        let often = [0.02, 0.2, 0.6][seed as usize % 3];
        let shop = chaos(seed, &config, |vm, seed| vm.fail_random(seed, often));
        shop.vms.iter().for_each(FakeVm::clear_faults);
        shop.pass(Duration::from_secs(8)).unwrap();
        let (left, kept) = balance(&shop, &config);
        assert_eq!((kept, crowd(&shop)), (0, (0, 0)), "seed {seed}");
        assert!(left <= FULL, "seed {seed}: {left}");
    }
}

#[test]
fn bytes_that_lie_trap_nothing() {
    for seed in 0..6 {
        let often = [0.02, 0.2, 0.9][seed as usize % 3];
        chaos(seed, &brief(), |vm, seed| vm.scramble_random(seed, often));
    }
}
