//! Several workers, several configurations, one breaker.

use resilience_module_tests::shop::{
    CONFIG, End, FAILURES, KEY, ROOT, Shop, TICK, WAIT, answer, arrive, arrive_at, enter, run, serve, worker,
};
use resilience_module_tests::{FakeVm, LogLine};
use std::thread;
use std::time::Duration;

#[test]
fn failures_of_all_workers_add_up_and_all_refuse() {
    let shop = Shop::open(3);
    for vm in &shop.vms {
        assert_eq!(serve(vm, End::Status(500)).unwrap(), None);
    }
    for vm in &shop.vms {
        let reply = serve(vm, End::Status(200)).unwrap().expect("every worker refuses");
        assert_eq!(reply.header("retry-after").as_deref(), Some("10"));
        assert_eq!(reply.header("x-resilience").as_deref(), Some("checkout;reason=circuit_open;source=none"));
    }
    let to_open =
        "resilience_circuit_breaker_transitions_total;policy=checkout;to=open;cause=consecutive_failures";
    assert_eq!(shop.metric(to_open), 1);
    let refused = "resilience_rejections_total;policy=checkout;reason=circuit_open;class=_";
    assert_eq!(shop.metric(refused), 3);
    let logged = |what: &str| {
        let of = |vm: &FakeVm| vm.logs().iter().filter(|line| line.message.contains(what)).count();
        shop.vms.iter().map(of).sum::<usize>()
    };
    assert_eq!(logged("policy checkout: circuit breaker closed -> open"), 1, "one transition, one line");
    assert_eq!(logged("policy checkout: refused reason=circuit_open"), 1, "one burst, one line");
    assert_eq!(logged("checkout"), 2);
}

/// A VM may die of its first request, before its first tick: then it has started all the same.
#[test]
fn a_vm_counts_as_started_once_with_its_first_request_or_its_first_tick() {
    let starts = "resilience_vm_starts_total";
    let shop = Shop::open(3);
    assert_eq!(shop.host.metric(starts), None, "a configuration may yet be refused");
    for (worker, vm) in (1..).zip(&shop.vms) {
        if worker == 2 {
            vm.tick(ROOT).unwrap();
        } else {
            serve(vm, End::Status(200)).unwrap();
        }
        assert_eq!(shop.metric(starts), worker);
        serve(vm, End::Status(200)).unwrap();
        vm.tick(ROOT).unwrap();
        assert_eq!(shop.metric(starts), worker);
    }
}

#[test]
fn one_probe_for_all_workers() {
    let shop = Shop::open(3);
    shop.trip();
    shop.pass(WAIT + TICK).unwrap();
    let streams: Vec<_> = shop.vms.iter().map(arrive).collect();
    let admitted: Vec<bool> = streams.iter().map(|stream| enter(stream).unwrap().is_none()).collect();
    assert_eq!(admitted, [true, false, false]);
    answer(&streams[0], End::Status(200)).unwrap();
    streams[0].finish().unwrap();
    for vm in &shop.vms {
        assert_eq!(serve(vm, End::Status(200)).unwrap(), None, "closed for everyone");
    }
}

#[test]
fn workers_on_threads_of_their_own_admit_exactly_the_permitted_probes() {
    for round in 0..10 {
        let shop = Shop::open(4);
        shop.trip();
        shop.pass(WAIT + TICK).unwrap();
        let admitted: usize = thread::scope(|scope| {
            let workers: Vec<_> = shop
                .vms
                .iter()
                .map(|vm| {
                    scope.spawn(move || {
                        let streams: Vec<_> = (0..50).map(|_| arrive(vm)).collect();
                        streams.iter().filter(|stream| enter(stream).unwrap().is_none()).count()
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(admitted, 1, "round {round}");
    }
}

#[test]
fn failures_on_threads_of_their_own_are_all_counted() {
    let patient = CONFIG.replace("\"consecutive_failures\": 3", "\"consecutive_failures\": 161");
    for round in 0..5 {
        let shop = Shop::with(&patient, 4);
        thread::scope(|scope| {
            for vm in &shop.vms {
                scope.spawn(move || (0..40).for_each(|_| drop(serve(vm, End::Status(500)).unwrap())));
            }
        });
        let dropped = shop.metric("resilience_store_give_ups_total;operation=record");
        assert_eq!(dropped, 0, "round {round}");
        assert_eq!(serve(shop.vm(), End::Status(500)).unwrap(), None, "160 failures do not trip");
        assert!(serve(shop.vm(), End::Status(500)).unwrap().is_some(), "161 do, in round {round}");
    }
}

#[test]
fn the_probe_of_a_worker_that_died_is_given_back() {
    let shop = Shop::open(2);
    shop.trip();
    shop.pass(WAIT + TICK).unwrap();
    let lost = arrive(shop.vm());
    assert_eq!(enter(&lost).unwrap(), None);
    // The first worker never ticks again; the second sees it for longer than the lease, but not than the stay.
    let survivor = shop.only(1);
    assert!(serve(survivor.vm(), End::Status(200)).unwrap().is_some(), "the probe is out");
    survivor.pass(Duration::from_secs(8)).unwrap();
    let replacement = worker(&shop.host, CONFIG);
    survivor.pass(WAIT + TICK).unwrap();
    assert_eq!(serve(&replacement, End::Status(200)).unwrap(), None, "a probe");
    assert_eq!(serve(survivor.vm(), End::Status(200)).unwrap(), None, "closed");
    // Its answer comes late.
    answer(&lost, End::Status(500)).unwrap();
    lost.finish().unwrap();
    assert_eq!(serve(survivor.vm(), End::Status(200)).unwrap(), None, "closed still");
}

#[test]
fn one_request_is_one_outcome_however_it_is_told() {
    let shop = Shop::open(1);
    for _ in 0..FAILURES - 1 {
        let stream = arrive(shop.vm());
        enter(&stream).unwrap();
        answer(&stream, End::Status(500)).unwrap();
        answer(&stream, End::Grpc(14)).unwrap();
        answer(&stream, End::ResetInBody).unwrap();
        stream.finish().unwrap();
    }
    assert_eq!(serve(shop.vm(), End::Status(500)).unwrap(), None, "{} were counted", FAILURES - 1);
    assert!(serve(shop.vm(), End::Status(200)).unwrap().is_some());
    assert_eq!(
        shop.metric("resilience_calls_total;policy=checkout;outcome=failure;slow=false"),
        FAILURES as u64
    );
}

#[test]
fn our_own_answers_are_no_evidence() {
    let shop = Shop::open(1);
    shop.trip();
    let before = shop.host.data(KEY);
    for _ in 0..20 {
        assert!(serve(shop.vm(), End::Status(200)).unwrap().is_some());
    }
    assert_eq!(shop.host.data(KEY), before);
    assert_eq!(shop.metric("resilience_calls_total;policy=checkout;outcome=ignored;slow=false"), 0);
}

#[test]
fn outcomes_from_before_a_transition_are_dropped() {
    let shop = Shop::open(1);
    let late: Vec<_> = (0..FAILURES).map(|_| arrive(shop.vm())).collect();
    late.iter().for_each(|stream| assert_eq!(enter(stream).unwrap(), None));
    shop.trip();
    shop.pass(WAIT + TICK).unwrap();
    assert_eq!(serve(shop.vm(), End::Status(200)).unwrap(), None, "the probe");
    for stream in &late {
        answer(stream, End::Status(500)).unwrap();
        stream.finish().unwrap();
    }
    assert_eq!(serve(shop.vm(), End::Status(200)).unwrap(), None, "closed still");
}

#[test]
fn the_end_of_each_request_means_what_the_table_says() {
    for (end, failure) in [
        (End::Status(200), false),
        (End::Status(404), false),
        (End::Status(500), true),
        (End::Status(599), true),
        (End::Grpc(0), false),
        (End::Grpc(5), false),
        (End::Grpc(14), true),
        (End::ConnectFailure, true),
        (End::ResetInBody, true),
        (End::ClientLeft, false),
    ] {
        let shop = Shop::open(1);
        for _ in 0..FAILURES {
            serve(shop.vm(), end).unwrap();
        }
        assert_eq!(serve(shop.vm(), End::Status(200)).unwrap().is_some(), failure, "{end:?}");
    }
}

#[test]
fn two_configurations_at_once_keep_one_breaker() {
    let shop = Shop::open(1);
    shop.trip();
    let longer = CONFIG.replace("\"10s\"", "\"60s\"");
    assert!(shop.vm().configure(2, &longer).unwrap());
    let by_new = arrive_at(shop.vm(), 2);
    run(&by_new, End::Status(200)).unwrap();
    assert!(by_new.local_response().is_some(), "the new one finds it open");
    shop.vm().tick(2).unwrap();
    assert!(serve(shop.vm(), End::Status(200)).unwrap().is_some(), "the old one still does");
    // The old listener has drained.
    shop.vm().delete_root(ROOT).unwrap();
    shop.host.advance(WAIT + TICK);
    let probe = arrive_at(shop.vm(), 2);
    run(&probe, End::Status(200)).unwrap();
    assert_eq!(probe.local_response(), None, "the wait was the one of whoever tripped it");
}

#[test]
fn a_root_that_is_deleted_takes_nothing_along() {
    let shop = Shop::open(2);
    shop.trip();
    shop.pass(WAIT + TICK).unwrap();
    let probe = arrive(shop.vm());
    assert_eq!(enter(&probe).unwrap(), None);
    shop.vm().delete_root(ROOT).unwrap();
    // Envoy deletes streams before roots, but a late one must not trap.
    answer(&probe, End::Status(200)).unwrap();
    probe.finish().unwrap();
    let survivor = shop.only(1);
    survivor.pass(Duration::from_secs(20)).unwrap();
    assert_eq!(serve(survivor.vm(), End::Status(200)).unwrap(), None);
    assert_eq!(serve(survivor.vm(), End::Status(200)).unwrap(), None);
}

#[test]
fn memory_does_not_grow_with_traffic() {
    let shop = Shop::open(1);
    let served = |count: usize| {
        for index in 0..count {
            serve(shop.vm(), [End::Status(200), End::Status(500), End::ClientLeft][index % 3]).unwrap();
            if index % 50 == 0 {
                shop.pass(TICK).unwrap();
                shop.vm().take_calls();
            }
        }
        shop.vm().memory_size()
    };
    let before = served(500);
    assert_eq!(served(3000), before);
    assert!(shop.host.keys().len() <= 2, "{:?}", shop.host.keys());
}

#[test]
fn the_log_is_quiet_in_good_times() {
    let shop = Shop::open(1);
    for _ in 0..20 {
        serve(shop.vm(), End::Status(200)).unwrap();
        serve(shop.vm(), End::Status(500)).unwrap();
    }
    shop.pass(TICK * 4).unwrap();
    assert_eq!(shop.vm().logs(), Vec::<LogLine>::new());
}
