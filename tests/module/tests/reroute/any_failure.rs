//! Any host call fails at any time, and bytes lie: nothing traps, hangs or is answered twice, and once the host is well again
//! nothing is left behind.

use crate::play::{BACK, Back, Open, come, comes_back, end};
use crate::*;
use resilience_module_tests::shop::{ROOT, TICK};
use resilience_module_tests::{Failure, Guest, Random, SharedHost};

/// All that may become of a request, with short waits.
fn everything() -> String {
    let patient = PATIENT.replace("10s", "1s");
    let budget = r#""retry_budget": {"percent_can_retry": 0, "min_retries_per_second": 1}"#;
    let page = r#"{"static": {"status": 200, "json": {"id": "%REQUEST_ID%"}}}"#;
    let own = format!(
        r#"{BREAKER}, {patient}, "when_open": ["needed"],
        "fallback": [{{"when": {{"methods": ["GET"]}}, "on": ["refusal"], "reroute": {{"cluster": "backup", "policy": "backup"}}}},
            {SECOND}, {{"status": [502], "fail": {{"status": 500}}}}, {page}]"#
    );
    let guard =
        format!(r#"{BREAKER}, {patient}, {budget}, "timeout": {{"total": "2s"}}, "fallback": [{STATIC}]"#);
    let spare = format!(r#"{}, "fallback": [{STATIC}]"#, patient.replacen("{", r#"{"mode": "shadow", "#, 1));
    let all = [("checkout", own.as_str()), ("backup", &guard), ("spare", &spare), ("needed", BREAKER)];
    policies(&all).replace(r#""consecutive_failures": 3"#, r#""consecutive_failures": 2"#)
}

fn messages(shop: &Shop) -> Result<(), Failure> {
    shop.vms.iter().try_for_each(|vm| vm.deliver_queues().map(drop))
}

/// A part of the life of a shop. What becomes of each request is not looked at: with a host that fails it may be anything.
type Scene = fn(&Shop) -> Result<(), Failure>;
const SCENES: [Scene; 3] = [answers, goes_elsewhere, waits];

fn vm(shop: &Shop, worker: usize) -> &FakeVm {
    &shop.vms[worker % shop.vms.len()]
}

/// Answers that are replaced in every way; a success in between keeps the breaker closed.
fn answers(shop: &Shop) -> Result<(), Failure> {
    for back in [
        Back::Broken,
        Back::Fine,
        Back::Empty,
        Back::Fine,
        Back::Grpc,
        Back::Fine,
        Back::Trailers,
        Back::Fine,
    ] {
        end(come(vm(shop, 0), "checkout", !matches!(back, Back::Grpc))?, back)?;
    }
    end(come(vm(shop, 0), "checkout", true)?, Back::Unconnected)?;
    // One that trickles in, until its time is over.
    let trickles = come(vm(shop, 0), "backup", false)?;
    trickles.stream.request_body(false)?;
    shop.pass(TICK * 5)?;
    end(trickles, Back::Fine)
}

/// Refused by an open breaker: elsewhere, into the queue there, to the second guard in name only, and answered.
fn goes_elsewhere(shop: &Shop) -> Result<(), Failure> {
    for _ in 0..2 {
        end(come(vm(shop, 0), "checkout", true)?, Back::Broken)?;
    }
    let first = come(vm(shop, 0), "checkout", true)?;
    let [goes_on, leaves] = [come(vm(shop, 1), "checkout", true)?, come(vm(shop, 0), "checkout", true)?];
    let [uploads, in_name] = [come(vm(shop, 1), "checkout", false)?, come(vm(shop, 0), "checkout", false)?];
    leaves.stream.finish()?;
    end(first, Back::Broken)?;
    messages(shop)?;
    end(goes_on, Back::Empty)?;
    end(uploads, Back::Unconnected)?;
    end(in_name, Back::Nothing)
}

/// Its own queue, then that of the guard, then the end of a wait; and what another policy's breaker makes of those who wait.
fn waits(shop: &Shop) -> Result<(), Failure> {
    end(come(vm(shop, 0), "checkout", true)?, Back::Fine)?;
    let [holder, guards] = [come(vm(shop, 0), "checkout", true)?, come(vm(shop, 1), "backup", true)?];
    let [twice, overdue] = [come(vm(shop, 0), "checkout", true)?, come(vm(shop, 1), "checkout", true)?];
    shop.pass(TICK * 2)?;
    let needs = come(vm(shop, 0), "checkout", true)?;
    for _ in 0..2 {
        end(come(vm(shop, 0), "needed", true)?, Back::Broken)?;
    }
    end(holder, Back::Fine)?;
    messages(shop)?;
    end(guards, Back::Fine)?;
    messages(shop)?;
    end(twice, Back::Broken)?;
    shop.pass(TICK * 3)?;
    end(overdue, Back::Trailers)?;
    end(needs, Back::Empty)
}

/// A whole life, or a part of it.
fn live(shop: &Shop, config: &str, scenes: &[Scene]) -> Result<(), Failure> {
    for vm in &shop.vms {
        if !vm.configure(ROOT, config)? {
            return Ok(());
        }
    }
    shop.pass(TICK)?;
    for scene in scenes {
        scene(shop)?;
        shop.host.advance(WAIT + WAIT);
        shop.pass(TICK)?;
    }
    Ok(())
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
    // Longer than any wait, any stay and any lease, seen by workers that tick all through it.
    shop.host.advance(WAIT * 2);
    shop.pass(Duration::from_secs(8)).map_err(told)?;
    messages(shop).map_err(told)?;
    for policy in ["checkout", "backup", "spare"] {
        let left = (crowd(shop, policy), state(shop, policy).budget.reserved());
        if left != ((0, 0), 0) {
            return Err(format!("{left:?} are left at {policy}"));
        }
    }
    // Breakers close, and what is refused goes elsewhere and comes back with a mark.
    for policy in ["needed", "backup", "checkout", "checkout"] {
        let open = come(shop.vm(), policy, true).map_err(told)?;
        if open.first != Action::Continue || sent_to(&open.stream).is_some() {
            return Err(format!("{policy} does not let in"));
        }
        end(open, Back::Fine).map_err(told)?;
    }
    for _ in 0..2 {
        let open = come(shop.vm(), "checkout", true).map_err(told)?;
        comes_back(&open.stream, Back::Broken).map_err(told)?;
        if !open.stream.received().body().starts_with(b"{\"id\":") {
            return Err("a failure is not replaced".to_owned());
        }
        open.stream.finish().map_err(told)?;
    }
    let open = come(shop.vm(), "checkout", true).map_err(told)?;
    if sent_to(&open.stream).as_deref() != Some("backup") {
        return Err("it does not go elsewhere".to_owned());
    }
    comes_back(arrives(&open.stream), Back::Fine).map_err(told)?;
    let mark = open.stream.header(Map::ResponseHeaders, "x-resilience");
    open.stream.finish().map_err(told)?;
    if mark.as_deref() != Some(MARK) {
        return Err(format!("its mark is {mark:?}"));
    }
    Ok(())
}

fn unconfigured(workers: usize) -> Shop {
    let host = SharedHost::new();
    let vms = (0..workers).map(|_| FakeVm::load(&Guest::under_test(), &host).unwrap()).collect();
    Shop { host, vms }
}

/// The ways in which a call fails. No host forgets a value: what is not found was never written, and that is no failure.
fn faults(function: &str) -> impl Iterator<Item = u32> {
    let forgets = function == "proxy_get_shared_data";
    status::FAULTS.into_iter().filter(move |status| !forgets || *status != status::NOT_FOUND)
}

/// The scenes have all that may become of a request.
#[test]
fn a_life_has_everything() {
    let shop = unconfigured(1);
    live(&shop, &everything(), &SCENES).unwrap();
    for (reason, source) in [
        ("upstream_failure", "static"),
        ("upstream_failure", "fail"),
        ("connect_failure", "static"),
        ("circuit_open", "reroute"),
        ("bulkhead_full", "reroute"),
        ("dependency_open", "reroute"),
    ] {
        assert!(fallbacks(&shop, reason, source) > 0, "no {source} for {reason}");
    }
    for (guard, reason) in
        [("backup", "upstream_failure"), ("backup", "timeout"), ("spare", "connect_failure")]
    {
        let of_guard = format!("resilience_fallbacks_total;policy={guard};reason={reason};source=static");
        assert!(shop.metric(&of_guard) > 0, "nothing for {reason} at {guard}");
    }
    let calls = shop.vm().calls();
    for function in ["set_buffer_bytes", "send_local_response", "remove_header_map_value", "continue_stream"]
    {
        assert!(calls.iter().any(|call| call.function.ends_with(function)), "no {function}");
    }
    assert_eq!(recover(&shop, &everything()), Ok(()));
}

#[test]
fn any_single_call_of_a_life_with_fallbacks_may_fail() {
    let config = everything();
    let mut wrong = Vec::new();
    for scene in SCENES {
        let clean = unconfigured(1);
        live(&clean, &config, &[scene]).unwrap();
        let calls = clean.vm().calls().into_iter().filter(|call| FakeVm::can_fail(&call.function));
        for (nth, call) in calls.enumerate().filter(|(_, call)| call.callback != "proxy_on_configure") {
            // One of its ways, of those that follow each other another.
            let ways: Vec<_> = faults(&call.function).collect();
            let status = ways[nth % ways.len()];
            let shop = unconfigured(1);
            shop.vm().fail_nth(nth, status);
            let lived = live(&shop, &config, &[scene]).map_err(|failure| failure.to_string());
            if let Err(what) = lived.and_then(|()| recover(&shop, &config)) {
                wrong.push(format!("call {nth} ({call}) answering {status}: {what}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn any_function_may_fail_for_good_where_there_are_fallbacks() {
    let config = everything();
    for import in Guest::under_test().imports() {
        let Some((_, function)) = import.split_once('.') else { continue };
        for status in faults(function) {
            let shop = unconfigured(2);
            shop.vms.iter().for_each(|vm| vm.fail_kind(function, status));
            let lived = live(&shop, &config, &SCENES).map_err(|failure| failure.to_string());
            let recovered = lived.and_then(|()| recover(&shop, &config));
            assert_eq!(recovered, Ok(()), "{function} always answering {status}");
        }
    }
}

/// Workers, requests that overlap, time and faults, all by one seed.
fn chaos(seed: u64, config: &str, fault: impl Fn(&FakeVm, u64)) -> Shop {
    let mut random = Random::new(seed);
    let shop = Shop::with(config, 2);
    shop.vms.iter().zip(0..).for_each(|(vm, index)| fault(vm, seed * 100 + index));
    let mut open: Vec<Open> = Vec::new();
    let mut step = |open: &mut Vec<Open>| -> Result<(), Failure> {
        match random.below(12) {
            0..4 => {
                let policy = *random.pick(&["checkout", "checkout", "checkout", "backup", "spare", "needed"]);
                let whole = random.chance(0.7);
                open.push(come(&shop.vms[random.below(2)], policy, whole)?);
            }
            4..8 if !open.is_empty() => {
                let one = open.swap_remove(random.below(open.len()));
                end(one, *random.pick(&BACK))?;
            }
            8..10 => drop(shop.vms[random.below(2)].deliver_queues()?),
            10 => shop.pass(TICK)?,
            _ => shop.host.advance(Duration::from_millis([1, 15, 300, 2_500, 11_000][random.below(5)])),
        }
        Ok(())
    };
    for number in 0..1000 {
        step(&mut open).unwrap_or_else(|failure| panic!("seed {seed}, step {number}: {failure}"));
    }
    for one in open {
        end(one, Back::Nothing).unwrap_or_else(|failure| panic!("seed {seed}, at the end: {failure}"));
    }
    shop
}

#[test]
fn random_failures_leave_nothing_behind_where_there_are_fallbacks() {
    let config = everything();
    for seed in 0..8 {
        let often = [0.0, 0.02, 0.2, 0.6][seed as usize % 4];
        let shop = chaos(seed, &config, |vm, seed| vm.fail_random(seed, often));
        assert_eq!(recover(&shop, &config), Ok(()), "seed {seed}");
    }
}

#[test]
fn bytes_that_lie_trap_nothing_where_there_are_fallbacks() {
    for seed in 0..6 {
        let often = [0.02, 0.2, 0.9][seed as usize % 3];
        chaos(seed, &everything(), |vm, seed| vm.scramble_random(seed, often));
    }
}
