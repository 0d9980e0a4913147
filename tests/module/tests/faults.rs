//! Every host call failing: no trap, and once the host is well again so is the module.

use resilience_module_tests::shop::{
    CONFIG, End, FAILURES, ROOT, STAY, Shop, TICK, WAIT, answer, arrive, enter, policy_and, serve,
};
use resilience_module_tests::{Failure, FakeStream, FakeVm, Guest, Random, SharedHost, status};
use std::time::Duration;

/// A breaker's whole life in one VM. Whether each request is refused is not looked at: with a host that fails it may
/// be either.
fn live(shop: &Shop, config: &str) -> Result<(), Failure> {
    let vm = shop.vm();
    if !vm.configure(ROOT, config)? {
        return Ok(());
    }
    shop.pass(TICK)?;
    serve(vm, End::Status(200))?;
    serve(vm, End::Grpc(0))?;
    // Until it trips, by each way to fail.
    for end in [End::Status(500), End::ConnectFailure, End::ResetInBody] {
        serve(vm, end)?;
    }
    serve(vm, End::Status(200))?;
    // A probe whose client leaves, one that fails, one that closes it.
    for end in [End::ClientLeft, End::Grpc(14), End::Grpc(0)] {
        shop.host.advance(WAIT);
        shop.pass(TICK)?;
        serve(vm, end)?;
        serve(vm, End::Status(200))?;
    }
    shop.pass(TICK)?;
    serve(vm, End::Status(200))?;
    Ok(())
}

/// Brings a shop back whose host is well again, and says what it still gets wrong.
fn recover(shop: &Shop, config: &str) -> Result<(), String> {
    let told = |failure: Failure| failure.to_string();
    for vm in &shop.vms {
        vm.clear_faults();
        // Envoy does not serve with a configuration that was refused; a new one has to be taken.
        if !vm.configure(ROOT, config).map_err(told)? {
            return Err(format!("refuses the configuration: {:?}", vm.logs()));
        }
    }
    // Longer than any wait and any stay, then longer than any lease, seen by workers that tick all through it.
    shop.host.advance(WAIT + STAY);
    shop.pass(Duration::from_secs(7)).map_err(told)?;
    for vm in &shop.vms {
        for _ in 0..2 {
            if serve(vm, End::Status(200)).map_err(told)?.is_some() {
                return Err("a request is refused".to_owned());
            }
        }
    }
    shop.pass(TICK * 2).map_err(told)?;
    let state = shop.metric("resilience_circuit_breaker_state;policy=checkout;key=_");
    if state != 0 {
        return Err(format!("the gauge shows state {state}"));
    }
    // And it still is a breaker.
    for _ in 0..FAILURES {
        serve(shop.vm(), End::Status(500)).map_err(told)?;
    }
    if serve(shop.vm(), End::Status(200)).map_err(told)?.is_none() {
        return Err("it no longer trips".to_owned());
    }
    Ok(())
}

fn unconfigured() -> Shop {
    let host = SharedHost::new();
    let vm = FakeVm::load(&Guest::under_test(), &host).unwrap();
    Shop { host, vms: vec![vm] }
}

#[test]
fn any_single_call_of_a_whole_life_may_fail() {
    let static_answer = policy_and(r#""fallback": [{"static": {"status": 503, "text": "%REQUEST_ID%"}}]"#);
    let clean = unconfigured();
    live(&clean, &static_answer).unwrap();
    let calls = clean.vm().calls();
    let fallible = clean.vm().fallible_calls();
    assert!(fallible > 150, "only {fallible} calls: this life is too short");
    recover(&clean, &static_answer).unwrap();

    let mut wrong = Vec::new();
    let fallible = calls.iter().filter(|call| FakeVm::can_fail(&call.function)).take(fallible);
    for (nth, call) in fallible.clone().enumerate() {
        for status in status::FAULTS {
            let shop = unconfigured();
            shop.vm().fail_nth(nth, status);
            let lived = live(&shop, &static_answer).map_err(|failure| failure.to_string());
            if let Err(what) = lived.and_then(|()| recover(&shop, &static_answer)) {
                wrong.push(format!("call {nth} ({call}) answering {status}: {what}"));
            }
        }
    }
    println!("{} lives with one failing call each", fallible.count() * status::FAULTS.len());
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn any_function_may_fail_for_good() {
    let functions: Vec<String> = Guest::under_test()
        .imports()
        .iter()
        .filter_map(|import| import.split_once('.').map(|it| it.1.to_owned()))
        .collect();
    for function in functions {
        for status in status::FAULTS {
            let shop = unconfigured();
            shop.vm().fail_kind(&function, status);
            let lived = live(&shop, CONFIG).map_err(|failure| failure.to_string());
            let recovered = lived.and_then(|()| recover(&shop, CONFIG));
            assert_eq!(recovered, Ok(()), "{function} always answering {status}");
        }
    }
}

#[test]
fn a_healthy_upstream_stays_reachable_while_everything_fails() {
    for status in status::FAULTS {
        let shop = Shop::open(1);
        shop.vm().fail_random(u64::from(status), 1.0);
        for _ in 0..5 {
            shop.pass(TICK).unwrap();
            assert_eq!(serve(shop.vm(), End::Status(200)).unwrap(), None);
        }
        assert_eq!(recover(&shop, CONFIG), Ok(()));
    }
}

#[test]
fn an_open_breaker_keeps_refusing_while_the_store_fails() {
    let shop = Shop::open(1);
    shop.trip();
    // Past what the worker believes without looking.
    shop.host.advance(Duration::from_millis(200));
    for status in status::FAULTS {
        // What is not found was never written: that is a fresh start, not a failure.
        if status != status::NOT_FOUND {
            shop.vm().fail_kind("proxy_get_shared_data", status);
            let reply = serve(shop.vm(), End::Status(200)).unwrap().expect("a refusal");
            assert_eq!(reply.header("retry-after").as_deref(), Some("1"), "nobody knows for how long");
            shop.vm().clear_faults();
        }
    }
    let given_up = shop.metric("resilience_store_give_ups_total;operation=admit");
    assert_eq!(given_up, status::FAULTS.len() as u64 - 1, "each is counted");
}

#[test]
fn a_few_conflicts_are_retried_and_many_are_given_up() {
    let shop = Shop::open(1);
    shop.vm().cas_conflicts(3);
    shop.trip();
    assert_eq!(shop.metric("resilience_store_conflicts_total;operation=record"), 3);
    assert_eq!(shop.metric("resilience_store_give_ups_total;operation=record"), 0);

    let shop = Shop::open(1);
    shop.vm().cas_conflicts(usize::MAX);
    for _ in 0..5 {
        assert_eq!(
            serve(shop.vm(), End::Status(500)).unwrap(),
            None,
            "a closed breaker drops what it cannot record"
        );
    }
    assert_eq!(shop.metric("resilience_store_give_ups_total;operation=record"), 5);
    shop.vm().clear_faults();
    shop.trip();
}

#[test]
fn a_probes_verdict_is_kept_until_the_store_takes_it() {
    for (end, refused) in [(End::Status(200), false), (End::Status(500), true), (End::ClientLeft, false)] {
        let shop = Shop::open(1);
        shop.trip();
        shop.pass(WAIT + TICK).unwrap();
        let probe = arrive(shop.vm());
        assert_eq!(enter(&probe).unwrap(), None);
        shop.vm().cas_conflicts(usize::MAX);
        answer(&probe, end).unwrap();
        probe.finish().unwrap();
        assert!(
            serve(shop.vm(), End::Status(200)).unwrap().is_some(),
            "{end:?}: the only probe is still out"
        );
        shop.vm().clear_faults();
        shop.pass(TICK).unwrap();
        let reply = serve(shop.vm(), End::Status(200)).unwrap();
        assert_eq!(reply.is_some(), refused, "{end:?}: the tick delivers it");
    }
}

/// A request somewhere between its first callback and its last.
struct Open {
    stream: FakeStream,
    answered: bool,
}

/// Workers, requests that overlap, time and faults, all by one seed.
struct Chaos {
    random: Random,
    shop: Shop,
    open: Vec<Open>,
}

impl Chaos {
    fn new(seed: u64, config: &str) -> Self {
        Self { random: Random::new(seed), shop: Shop::with(config, 2), open: Vec::new() }
    }

    fn step(&mut self) -> Result<(), Failure> {
        const ENDS: [End; 8] = [
            End::Status(200),
            End::Status(404),
            End::Status(500),
            End::Grpc(0),
            End::Grpc(14),
            End::ConnectFailure,
            End::ResetInBody,
            End::ClientLeft,
        ];
        match self.random.below(10) {
            0..4 => {
                let worker = self.random.below(self.shop.vms.len());
                let stream = arrive(&self.shop.vms[worker]);
                if enter(&stream)?.is_some() {
                    stream.deliver_local_response()?;
                    stream.finish()?;
                } else {
                    self.open.push(Open { stream, answered: false });
                }
            }
            4..8 if !self.open.is_empty() => {
                let mut open = self.open.swap_remove(self.random.below(self.open.len()));
                if !open.answered && self.random.chance(0.8) {
                    answer(&open.stream, *self.random.pick(&ENDS))?;
                    open.answered = true;
                    self.open.push(open);
                } else {
                    open.stream.finish()?;
                }
            }
            8 => self.shop.pass(TICK)?,
            _ => {
                let jump = [1, 20, 150, 600, 6_000, 11_000][self.random.below(6)];
                self.shop.host.advance(Duration::from_millis(jump));
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Failure> {
        self.open.drain(..).try_for_each(|open| open.stream.finish())
    }

    /// All of a seed, on workers with this fault: it takes the worker, its seed, and how often it is to strike.
    fn play(seed: u64, config: &str, often: [f64; 3], fault: impl Fn(&FakeVm, u64, f64)) -> Self {
        let mut chaos = Self::new(seed, config);
        for (index, vm) in chaos.shop.vms.iter().enumerate() {
            fault(vm, seed * 100 + index as u64, often[seed as usize % 3]);
        }
        for step in 0..STEPS {
            if let Err(failure) = chaos.step() {
                panic!("seed {seed}, step {step}: {failure}");
            }
        }
        chaos.finish().unwrap_or_else(|failure| panic!("seed {seed}, at the end: {failure}"));
        chaos
    }
}

const STEPS: usize = 1500;
const RULES: &str = r#""outcome": {"failure": {"headers": [{"name": "content-type", "value": "text/plain"}]},
    "ignore": {"status": [404], "grpc_status": ["ABORTED"], "headers": [{"name": "x-none", "value": ""}]}}"#;

#[test]
fn random_failures_trap_nothing_and_leave_nothing_behind() {
    for seed in 0..6 {
        // Every other seed with rules that make it read whole header maps.
        let config = if seed % 2 == 0 { CONFIG.to_owned() } else { policy_and(RULES) };
        let chaos = Chaos::play(seed, &config, [0.02, 0.2, 0.6], FakeVm::fail_random);
        assert_eq!(recover(&chaos.shop, &config), Ok(()), "seed {seed}");
    }
}

#[test]
fn bytes_that_lie_trap_nothing() {
    for seed in 0..6 {
        // A lying host may send any status, so nothing is asked of what comes of it but that nothing traps.
        for config in [CONFIG, &policy_and(RULES)] {
            Chaos::play(seed, config, [0.02, 0.2, 0.9], FakeVm::scramble_random);
        }
    }
}
