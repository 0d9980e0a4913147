//! Host calls that fail: nothing traps, nobody goes past the limit, and nothing is left behind.

use crate::*;
use resilience_module_tests::{Failure, Guest, Random, SharedHost};

const GAVE_UP: &str = "resilience_store_give_ups_total;operation=";

/// A breaker that no test here trips, so that only the bulkhead refuses.
fn never_open(config: String) -> String {
    config.replace("\"consecutive_failures\": 3", "\"consecutive_failures\": 1000000")
}

/// The ways in which a call fails. No host forgets a value: what is not found was never written, and that is no failure.
fn faults(function: &str) -> impl Iterator<Item = u32> {
    let forgets = function == "proxy_get_shared_data";
    status::FAULTS.into_iter().filter(move |status| !forgets || *status != status::NOT_FOUND)
}

fn gave_up(shop: &Shop, operation: &str) -> u64 {
    shop.metric(&format!("{GAVE_UP}{operation}"))
}

#[test]
fn a_permit_that_the_store_does_not_give_is_none() {
    let shop = Shop::with(&strict(5), 1);
    for (round, status) in status::FAULTS.into_iter().enumerate() {
        shop.vm().fail_kind("proxy_set_shared_data", status);
        let reply = serve(shop.vm(), End::Status(200)).unwrap().expect("none goes past the bulkhead");
        assert!(reply.header("x-resilience").unwrap().contains("bulkhead_full"), "{status}");
        shop.vm().clear_faults();
        assert_eq!(gave_up(&shop, "admit"), round as u64 + 1);
        assert_eq!(serve(shop.vm(), End::Status(200)).unwrap(), None, "{status}");
        assert_eq!(crowd(&shop), (0, 0), "{status}");
    }
}

#[test]
fn where_requests_wait_it_is_tried_again() {
    let shop = Shop::with(&patient(1), 1);
    let holder = hold(shop.vm());
    shop.vm().cas_conflicts(usize::MAX);
    let waiter = wait(shop.vm());
    assert_eq!(shop.vm().tick_period(ROOT), Some(10));
    for _ in 0..20 {
        shop.host.advance(Duration::from_millis(10));
        shop.vm().tick(ROOT).unwrap();
    }
    assert_eq!((crowd(&shop), went_on(&waiter)), ((1, 0), 0));
    shop.vm().clear_faults();
    shop.host.advance(Duration::from_millis(10));
    shop.vm().tick(ROOT).unwrap();
    assert_eq!((crowd(&shop), went_on(&waiter)), ((1, 1), 0));
    leave(&holder, End::Status(200));
    deliver(&shop);
    assert_eq!(went_on(&waiter), 1);
    leave(&waiter, End::Status(200));

    // It may find a permit at once, or wait in vain.
    for well in [true, false] {
        shop.vm().cas_conflicts(usize::MAX);
        let waiter = wait(shop.vm());
        if well {
            shop.vm().clear_faults();
        }
        shop.pass(PATIENCE).unwrap();
        shop.vm().clear_faults();
        if well {
            assert_eq!(went_on(&waiter), 1);
            leave(&waiter, End::Status(200));
        } else {
            assert!(String::from_utf8_lossy(&refused(&waiter).details).contains("bulkhead_full"));
        }
        assert_eq!(crowd(&shop), (0, 0));
    }
}

#[test]
fn a_permit_that_the_store_does_not_take_back_is_kept_until_it_does() {
    for end in [End::Status(200), End::Status(500), End::ClientLeft] {
        let shop = Shop::with(&never_open(patient(1)), 2);
        let holder = hold(shop.vm());
        let waiter = wait(&shop.vms[1]);
        shop.vm().cas_conflicts(usize::MAX);
        leave(&holder, end);
        shop.pass(TICK * 4).unwrap();
        deliver(&shop);
        assert_eq!((crowd(&shop), went_on(&waiter)), ((1, 1), 0), "{end:?}");
        assert!(gave_up(&shop, "release") > 0);
        shop.vm().clear_faults();
        shop.pass(TICK).unwrap();
        deliver(&shop);
        assert_eq!((crowd(&shop), went_on(&waiter)), ((1, 0), 1), "{end:?}");
        leave(&waiter, End::Status(200));
        assert_eq!((crowd(&shop), shop.metric(LEASE_ENDED)), ((0, 0), 0), "{end:?}");
    }
}

#[test]
fn a_place_that_the_store_does_not_take_back_is_kept_until_it_does() {
    let shop = Shop::with(&patient(1), 1);
    let holder = hold(shop.vm());
    let leaver = wait(shop.vm());
    shop.vm().cas_conflicts(usize::MAX);
    leaver.finish().unwrap();
    assert_eq!(crowd(&shop), (1, 1));
    shop.vm().clear_faults();
    // Any callback takes the next try.
    let next = wait(shop.vm());
    assert_eq!(crowd(&shop), (1, 1));
    // The wait is over while the store takes nothing.
    shop.vm().cas_conflicts(usize::MAX);
    shop.pass(PATIENCE).unwrap();
    assert!(String::from_utf8_lossy(&refused(&next).details).contains("bulkhead_full"));
    shop.vm().clear_faults();
    shop.pass(TICK).unwrap();
    assert_eq!(crowd(&shop), (1, 0));
    leave(&holder, End::Status(200));
    assert_eq!(crowd(&shop), (0, 0));
}

#[test]
fn a_few_conflicts_change_nothing() {
    let shop = Shop::with(&patient(1), 1);
    let holder = hold(shop.vm());
    shop.vm().cas_conflicts(3);
    let waiter = wait(shop.vm());
    shop.vm().cas_conflicts(3);
    leave(&holder, End::Status(200));
    shop.vm().cas_conflicts(3);
    deliver(&shop);
    assert_eq!(went_on(&waiter), 1);
    leave(&waiter, End::Status(200));
    assert_eq!(crowd(&shop), (0, 0));
    let conflicts =
        |operation| shop.metric(&format!("resilience_store_conflicts_total;operation={operation}"));
    assert_eq!((conflicts("admit"), conflicts("release")), (6, 3));
}

/// Without messages a worker finds on its tick what has become of its own waiters.
#[test]
fn a_message_that_does_not_arrive_is_a_delay() {
    for function in
        ["proxy_register_shared_queue", "proxy_enqueue_shared_queue", "proxy_dequeue_shared_queue"]
    {
        for status in status::FAULTS {
            let shop = Shop::with(&patient(1), 2);
            shop.vms.iter().for_each(|vm| vm.fail_kind(function, status));
            let holder = hold(shop.vm());
            let waiter = wait(&shop.vms[1]);
            leave(&holder, End::Status(200));
            deliver(&shop);
            assert_eq!(went_on(&waiter), 0, "{function} {status}");
            shop.pass(TICK).unwrap();
            assert_eq!(went_on(&waiter), 1, "{function} {status}");
            leave(&waiter, End::Status(200));
            assert_eq!(crowd(&shop), (0, 0), "{function} {status}");
        }
    }
}

/// Nothing is done to another stream in its place, and the permit goes on to the next.
#[test]
fn a_stream_that_cannot_be_reached_gives_back_its_permit() {
    for status in status::FAULTS {
        let shop = Shop::with(&patient(2), 2);
        let holders = [hold(shop.vm()), hold(shop.vm())];
        let waiters = [wait(&shop.vms[1]), wait(&shop.vms[1])];
        let next = wait(shop.vm());
        shop.vms[1].fail_kind("proxy_set_effective_context", status);
        holders.iter().for_each(|holder| leave(holder, End::Status(200)));
        while deliver(&shop) > 0 {}
        for waiter in &waiters {
            assert_eq!((went_on(waiter), waiter.local_response()), (0, None), "{status}");
        }
        assert_eq!((crowd(&shop), went_on(&next)), ((1, 0), 1), "{status}");
        waiters.iter().for_each(|waiter| waiter.finish().unwrap());
        leave(&next, End::Status(200));
        assert_eq!((crowd(&shop), shop.metric(LEASE_ENDED)), ((0, 0), 0), "{status}");
    }
}

#[test]
fn a_stream_that_the_host_does_not_let_go_on_gives_back_its_permit_at_its_end() {
    for status in status::FAULTS {
        let shop = Shop::with(&patient(1), 1);
        let holder = hold(shop.vm());
        let waiter = wait(shop.vm());
        shop.vm().fail_kind("proxy_continue_stream", status);
        leave(&holder, End::Status(200));
        deliver(&shop);
        assert_eq!((crowd(&shop), went_on(&waiter)), ((1, 0), 0), "{status}");
        waiter.finish().unwrap();
        assert_eq!(crowd(&shop), (0, 0), "{status}");
    }
}

/// To hold it for ever would be worse.
#[test]
fn one_whose_refusal_the_host_does_not_send_goes_on() {
    for status in status::FAULTS {
        let shop = Shop::with(&patient(1), 1);
        let holder = hold(shop.vm());
        let waiter = wait(shop.vm());
        shop.vm().fail_kind("proxy_send_local_response", status);
        shop.pass(PATIENCE).unwrap();
        assert_eq!((went_on(&waiter), waiter.local_response()), (1, None), "{status}");
        waiter.finish().unwrap();
        leave(&holder, End::Status(200));
        assert_eq!(crowd(&shop), (0, 0), "{status}");
    }
}

#[test]
fn a_timer_that_the_host_refuses_is_set_the_next_time() {
    for status in status::FAULTS {
        let shop = Shop::with(&patient(1).replace(r#""10s""#, r#""50ms""#), 1);
        let holder = hold(shop.vm());
        shop.vm().fail_kind("proxy_set_tick_period_milliseconds", status);
        let waiter = wait(shop.vm());
        assert_eq!(shop.vm().tick_period(ROOT), Some(500), "{status}");
        shop.host.advance(TICK);
        shop.vm().tick(ROOT).unwrap();
        assert!(String::from_utf8_lossy(&refused(&waiter).details).contains("bulkhead_full"), "{status}");
        shop.vm().clear_faults();
        shop.pass(TICK * 2).unwrap();
        assert_eq!(shop.vm().tick_period(ROOT), Some(500), "{status}");
        leave(&holder, End::Status(200));
        assert_eq!(crowd(&shop), (0, 0), "{status}");
    }
}

// ------------------------------------------------------------------------------------------------- whole lives

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
