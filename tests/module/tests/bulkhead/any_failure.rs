//! Any host call fails at any time, and bytes lie: nothing traps, and once the host recovers nothing is left behind.

use super::failures::{faults, never_open};
use crate::*;
use resilience_module_tests::{Failure, Guest, Random, SharedHost};

/// What the lives below are played with.
fn brief() -> String {
    never_open(patient(1)).replace(r#""10s", "max_queue""#, r#""1s", "max_queue""#)
}

/// Requests that are let in, wait, go on, leave and are refused. What becomes of each is not looked at: with a host that fails it
/// may be anything.
fn live(shop: &Shop, config: &str) -> Result<(), Failure> {
    for vm in &shop.vms {
        if !vm.configure(ROOT, config)? {
            return Ok(());
        }
    }
    let come = |worker: usize| -> Result<FakeStream, Failure> {
        let stream = arrive(&shop.vms[worker % shop.vms.len()]);
        stream.request_headers(true)?;
        Ok(stream)
    };
    let end = |stream: FakeStream, end: End| -> Result<(), Failure> {
        if stream.local_response().is_some() {
            stream.deliver_local_response()?;
        } else if went_on(&stream) > 0 {
            answer(&stream, end)?;
        }
        stream.finish()
    };
    let messages = || -> Result<(), Failure> {
        for vm in &shop.vms {
            vm.deliver_queues()?;
        }
        Ok(())
    };
    shop.pass(TICK)?;
    let holder = come(0)?;
    let [goes_on, leaves, last, overdue] = [come(1)?, come(0)?, come(1)?, come(0)?];
    answer(&holder, End::Status(500))?;
    holder.finish()?;
    messages()?;
    end(goes_on, End::Status(200))?;
    leaves.finish()?;
    messages()?;
    shop.pass(TICK * 3)?;
    end(overdue, End::ResetInBody)?;
    messages()?;
    end(last, End::Grpc(0))?;
    shop.pass(TICK)
}

/// Brings a shop back whose host is well again, and says what it still gets wrong.
fn recover(shop: &Shop, config: &str) -> Result<(), String> {
    let told = |failure: Failure| failure.to_string();
    for vm in &shop.vms {
        vm.clear_faults();
        if !vm.configure(ROOT, config).map_err(told)? {
            return Err(format!("refuses the configuration: {:?}", vm.logs()));
        }
    }
    // Longer than any lease, seen by workers that tick all through it.
    shop.pass(Duration::from_secs(8)).map_err(told)?;
    for vm in &shop.vms {
        vm.deliver_queues().map_err(told)?;
    }
    if crowd(shop) != (0, 0) {
        return Err(format!("{:?} are left in flight and waiting", crowd(shop)));
    }
    // And it still is a bulkhead, whose waiters are woken.
    let holder = arrive(shop.vm());
    if holder.request_headers(true).map_err(told)? != Action::Continue {
        return Err("a request does not go through".to_owned());
    }
    let waiter = arrive(&shop.vms[shop.vms.len() - 1]);
    if waiter.request_headers(true).map_err(told)? != Action::Pause || waiter.local_response().is_some() {
        return Err("a request does not wait".to_owned());
    }
    holder.finish().map_err(told)?;
    for vm in &shop.vms {
        vm.deliver_queues().map_err(told)?;
    }
    if went_on(&waiter) != 1 {
        return Err("a waiter is not woken".to_owned());
    }
    waiter.finish().map_err(told)?;
    if crowd(shop) == (0, 0) { Ok(()) } else { Err("a permit is not given back".to_owned()) }
}

fn unconfigured(workers: usize) -> Shop {
    let host = SharedHost::new();
    let vms = (0..workers).map(|_| FakeVm::load(&Guest::under_test(), &host).unwrap()).collect();
    Shop { host, vms }
}

#[test]
fn any_single_call_of_a_life_with_waiters_may_fail() {
    let config = brief();
    let clean = unconfigured(1);
    live(&clean, &config).unwrap();
    let calls: Vec<_> =
        clean.vm().calls().into_iter().filter(|call| FakeVm::can_fail(&call.function)).collect();
    assert!(calls.len() > 100, "only {} calls: this life is too short", calls.len());
    for function in ["proxy_register_shared_queue", "proxy_dequeue_shared_queue", "proxy_continue_stream"] {
        assert!(calls.iter().any(|call| call.function == function), "no {function}");
    }
    recover(&clean, &config).unwrap();

    let mut wrong = Vec::new();
    for (nth, call) in calls.iter().enumerate() {
        for status in faults(&call.function) {
            let shop = unconfigured(1);
            shop.vm().fail_nth(nth, status);
            let lived = live(&shop, &config).map_err(|failure| failure.to_string());
            if let Err(what) = lived.and_then(|()| recover(&shop, &config)) {
                wrong.push(format!("call {nth} ({call}) answering {status}: {what}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn any_function_may_fail_for_good_while_requests_wait() {
    let config = brief();
    for import in Guest::under_test().imports() {
        let Some((_, function)) = import.split_once('.') else { continue };
        for status in faults(function) {
            let shop = unconfigured(2);
            shop.vms.iter().for_each(|vm| vm.fail_kind(function, status));
            let lived = live(&shop, &config).map_err(|failure| failure.to_string());
            let recovered = lived.and_then(|()| recover(&shop, &config));
            assert_eq!(recovered, Ok(()), "{function} always answering {status}");
        }
    }
}

/// A request somewhere between its first callback and its last.
struct Open(FakeStream);

/// Workers, requests that wait and overlap, time and faults, all by one seed.
fn chaos(seed: u64, config: &str, fault: impl Fn(&FakeVm, u64)) -> Shop {
    let mut random = Random::new(seed);
    let shop = Shop::with(config, 2);
    shop.vms.iter().zip(0..).for_each(|(vm, index)| fault(vm, seed * 100 + index));
    let mut open: Vec<Open> = Vec::new();
    let mut step = |open: &mut Vec<Open>| -> Result<(), Failure> {
        match random.below(12) {
            0..4 => {
                let stream = arrive(&shop.vms[random.below(2)]);
                stream.request_headers(true)?;
                open.push(Open(stream));
            }
            4..8 if !open.is_empty() => {
                let Open(stream) = open.swap_remove(random.below(open.len()));
                if stream.local_response().is_some() {
                    stream.deliver_local_response()?;
                } else if random.chance(0.5) {
                    answer(&stream, *random.pick(&[End::Status(200), End::Status(500), End::Grpc(14)]))?;
                }
                stream.finish()?;
            }
            8..10 => {
                shop.vms[random.below(2)].deliver_queues()?;
            }
            10 => shop.pass(TICK)?,
            _ => shop.host.advance(Duration::from_millis([1, 15, 300, 2_500, 11_000][random.below(5)])),
        }
        Ok(())
    };
    for number in 0..1000 {
        step(&mut open).unwrap_or_else(|failure| panic!("seed {seed}, step {number}: {failure}"));
    }
    for Open(stream) in open {
        stream.finish().unwrap_or_else(|failure| panic!("seed {seed}, at the end: {failure}"));
    }
    shop
}

#[test]
fn random_failures_leave_nothing_in_flight_and_nobody_waiting() {
    for seed in 0..8 {
        let config = never_open(patient([1, 3][seed as usize % 2]));
        let often = [0.02, 0.2, 0.6][seed as usize % 3];
        let shop = chaos(seed, &config, |vm, seed| vm.fail_random(seed, often));
        shop.vms.iter().for_each(FakeVm::clear_faults);
        shop.pass(Duration::from_secs(8)).unwrap();
        assert_eq!(crowd(&shop), (0, 0), "seed {seed}");
    }
}

#[test]
fn bytes_that_lie_trap_nothing_where_requests_wait() {
    for seed in 0..6 {
        let often = [0.02, 0.2, 0.9][seed as usize % 3];
        chaos(seed, &never_open(patient(2)), |vm, seed| vm.scramble_random(seed, often));
    }
}
