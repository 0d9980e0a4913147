//! Which refusals have a line, and what it says.

use super::*;
use crate::breaker::Outcome;
use crate::config::Document;
use crate::testing::ms;
use crate::worker::fake::{Fake, Trouble};
use crate::worker::{Arrival, Completion, Returned, Verdict, Worker};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const P: Target = Target::whole(0);
const KEY: &[u8] = b"resilience/ns/p#refusals";
const OPEN: Reason = Reason::CircuitOpen;

/// One VM.
struct Vm(Refusals);

impl Vm {
    fn new() -> Self {
        Self(Refusals::new("ns"))
    }

    /// How many were held back, if there is a line.
    fn refused(&mut self, port: &mut Fake, at: u64) -> Option<u64> {
        self.0.refused(port, "p", P, OPEN, ms(at)).map(|due| due.held_back)
    }

    fn tick(&mut self, port: &mut Fake, at: u64) -> Vec<u64> {
        self.0.overdue(port, |_| Some("p"), ms(at)).iter().map(|due| due.held_back).collect()
    }
}

#[test]
fn the_first_of_a_burst_has_a_line_and_the_others_are_counted() {
    let (mut port, mut vm) = (Fake::default(), Vm::new());
    assert_eq!(vm.refused(&mut port, 1000), Some(0));
    port.calls();
    for at in 1001..1100 {
        assert_eq!(vm.refused(&mut port, at), None);
    }
    assert_eq!(port.calls(), [""; 0], "nobody is asked at every refusal");
    assert!(vm.tick(&mut port, 10_999).is_empty());
    assert_eq!(vm.tick(&mut port, 11_000), [99]);
    assert!(vm.tick(&mut port, 21_000).is_empty(), "once");
    // The next burst.
    assert_eq!(vm.refused(&mut port, 21_001), Some(0));
}

#[test]
fn while_a_burst_goes_on_there_is_a_line_in_each_interval() {
    let (mut port, mut vm) = (Fake::default(), Vm::new());
    let lines: Vec<_> = (0..35).filter_map(|second| vm.refused(&mut port, second * 1000)).collect();
    assert_eq!(lines, [0, 9, 9, 9]);
}

#[test]
fn there_is_one_line_over_all_workers_and_every_refusal_is_counted() {
    let mut port = Fake::default();
    let mut vms: Vec<_> = (0..4).map(|_| Vm::new()).collect();
    let (mut lines, mut refused) = (Vec::new(), 0);
    for (at, place) in (0..60_000).step_by(50).zip([0, 1, 2, 3].into_iter().cycle()) {
        // The burst ends in the middle.
        if at < 33_000 {
            refused += 1;
            lines.extend(vms[place].refused(&mut port, at).map(|held_back| (at, held_back, 1)));
        }
        if at % 500 == 0 {
            for vm in &mut vms {
                lines.extend(vm.tick(&mut port, at).into_iter().map(|held_back| (at, held_back, 0)));
            }
        }
    }
    assert_eq!((lines[0].1, lines[0].2), (0, 1));
    for pair in lines.windows(2) {
        assert!(pair[1].0 - pair[0].0 >= 10_000, "{lines:?}");
    }
    assert_eq!(lines.iter().map(|(_, held_back, one)| held_back + one).sum::<u64>(), refused);
    // What the others knew when the last refusal had its line is said later, by whoever looks first.
    assert!(lines.len() <= 6, "{lines:?}");
}

#[test]
fn who_leaves_tells_the_others_what_it_held_back() {
    let (mut port, mut gone, mut heir) = (Fake::default(), Vm::new(), Vm::new());
    assert_eq!([0, 1, 2].map(|at| gone.refused(&mut port, at)), [Some(0), None, None]);
    gone.0.leave(&mut port, |_| Some("p"), ms(3));
    assert!(gone.tick(&mut port, 20_000).is_empty());
    assert_eq!(heir.refused(&mut port, 20_000), Some(2));
    // Also where the others have lost what they knew, and where it may write no more lines itself.
    let (mut port, mut gone, mut heir) = (Fake::default(), Refusals::new("ns"), Vm::new());
    let names: Vec<_> = (0..101).map(|policy| format!("p{policy}")).collect();
    let mut refuse = |policy: usize, at| {
        gone.refused(&mut port, &names[policy], Target::whole(policy), OPEN, ms(at)).is_some()
    };
    assert!((0..100).all(|policy| refuse(policy, 20_000)));
    assert!(!refuse(100, 20_000) && !refuse(100, 20_001));
    gone.leave(&mut port, |policy| names.get(policy).map(String::as_str), ms(20_002));
    let due = heir.0.refused(&mut port, "p100", Target::whole(100), OPEN, ms(31_000));
    assert_eq!(due.map(|due| due.held_back), Some(2));
}

#[test]
fn whose_line_was_put_off_is_not_put_off_for_ever() {
    let (mut port, mut vm) = (Fake::default(), Refusals::new("ns"));
    let names: Vec<_> = (0..250).map(|policy| format!("p{policy}")).collect();
    let name = |policy: usize| names.get(policy).map(String::as_str);
    let mut spoken_of = [false; 250];
    // All go on refusing, less often than a VM ticks.
    for at in (20_000..60_000).step_by(500) {
        for (policy, name) in names.iter().enumerate().filter(|_| at % 2000 == 250 || at == 20_000) {
            let due = vm.refused(&mut port, name, Target::whole(policy), OPEN, ms(at));
            spoken_of[policy] |= due.is_some();
        }
        let due = vm.overdue(&mut port, name, ms(at));
        due.iter().for_each(|due| spoken_of[due.target.policy] = true);
        for (policy, name) in names.iter().take(100).enumerate() {
            vm.refused(&mut port, name, Target::whole(policy), OPEN, ms(at + 1));
        }
    }
    assert!(spoken_of.iter().all(|spoken_of| *spoken_of), "{spoken_of:?}");
}

#[test]
fn thousands_of_policies_have_their_lines_one_after_the_other() {
    let (mut port, mut vm) = (Fake::default(), Refusals::new("ns"));
    let names: Vec<_> = (0..250).map(|policy| format!("p{policy}")).collect();
    let name = |policy: usize| names.get(policy).map(String::as_str);
    let (mut lines, mut told) = (Vec::new(), 0);
    for at in (20_000..60_000).step_by(500).map(ms) {
        let mut due = Vec::new();
        for policy in (0..250).filter(|_| at < ms(20_600)) {
            due.extend(
                vm.refused(&mut port, &names[policy], Target::whole(policy), OPEN, at).map(|due| (due, 1)),
            );
        }
        due.extend(vm.overdue(&mut port, name, at).into_iter().map(|due| (due, 0)));
        lines.push(due.len());
        told += due.iter().map(|(due, one)| due.held_back + one).sum::<u64>();
    }
    assert_eq!(told, 500, "each of the two refusals of each policy");
    assert_eq!(lines[0], 100);
    assert!(lines.windows(20).all(|interval| interval.iter().sum::<usize>() <= 100), "{lines:?}");
}

#[test]
fn reasons_and_policies_have_lines_of_their_own() {
    let (mut port, mut vm) = (Fake::default(), Refusals::new("ns"));
    let mut refused = |name, policy, reason, at| {
        vm.refused(&mut port, name, Target::whole(policy), reason, ms(at)).is_some()
    };
    for (name, policy) in [("p", 0), ("q", 1)] {
        for reason in [OPEN, Reason::BulkheadFull, Reason::DependencyOpen, Reason::DeadlineExceeded] {
            assert!(refused(name, policy, reason, 1));
            assert!(!refused(name, policy, reason, 2));
        }
    }
}

#[test]
fn where_nobody_can_be_asked_each_says_what_it_knows() {
    for trouble in [Trouble::Unreadable, Trouble::Unwritable, Trouble::Contended] {
        let (mut port, mut vm) = (Fake::default(), Vm::new());
        port.trouble.insert(KEY, trouble);
        assert_eq!([0, 1, 2].map(|at| vm.refused(&mut port, at)), [Some(0), None, None]);
        assert_eq!(vm.tick(&mut port, 10_000), [2]);
        let gave_up = |event: &Event| matches!(event, Event::GaveUp { operation: Operation::Log });
        assert_eq!(port.events.iter().filter(|event| gave_up(event)).count(), 2);
    }
}

#[test]
fn a_value_that_nobody_wrote_holds_no_line_back() {
    let later = encode(&[Known { reason: OPEN as u8, last: ms(60_000), held_back: 3 }]);
    let many: Vec<_> = (0..17).map(|reason| Known { reason, last: ms(0), held_back: 0 }).collect();
    for bytes in [b"".to_vec(), b"x".to_vec(), later, encode(&many)] {
        let (mut port, mut vm) = (Fake::default(), Vm::new());
        port.set(KEY, &bytes);
        assert_eq!(vm.refused(&mut port, 1), Some(0), "{bytes:?}");
        assert_eq!(vm.refused(&mut port, 2), None);
    }
}

/// A document's policies with a worker, and what is said of a refusal of the first.
fn said(document: &str, reason: Reason, before: impl FnOnce(&mut Worker, &mut Fake)) -> String {
    let policies = Document::parse(document.as_bytes()).unwrap().policies;
    let shared = policies.iter().map(|policy| (policy.name.as_str(), policy.shared(0)));
    let (mut worker, mut port) = (Worker::new("ns", 1, shared), Fake::default());
    before(&mut worker, &mut port);
    let numbers = numbers(&mut port, &mut worker, &policies, P, reason, ms(3000));
    let due = Due { target: P, reason, held_back: 7 };
    Line { due, name: "policy p", numbers: &numbers, request_id: Some("id-1") }.to_string()
}

fn document(sections: &str, others: &str) -> String {
    format!(r#"{{"policies": [{{"name": "p", "match": [{{"any": true}}], {sections}}}{others}]}}"#)
}

const BREAKER: &str =
    r#""circuit_breaker": {"consecutive_failures": 2, "wait_duration_in_open_state": "30s"}"#;

/// Trips the breaker of a policy.
fn trip(worker: &mut Worker, port: &mut Fake, target: Target) {
    for call in 0..2 {
        let Verdict::Admitted(pass) =
            worker.admit(port, target, Arrival { call, ..Arrival::default() }, ms(1000))
        else {
            panic!("refused")
        };
        let (ticket, returned) = (pass.ticket, Returned::default());
        let completion = Completion { target, ticket, outcome: Outcome::Failure, returned };
        worker.complete(port, completion, ms(1000), || true);
    }
}

#[test]
fn a_line_says_what_has_opened_the_breaker() {
    let line = said(&document(BREAKER, ""), OPEN, |worker, port| trip(worker, port, P));
    let numbers = "breaker=open wait_ms=28000 cause=consecutive_failures count=2 limit=2";
    assert_eq!(line, format!("policy p: refused reason=circuit_open {numbers} held_back=7 request_id=id-1"));
    let closed = said(&document(BREAKER, ""), OPEN, |_, _| {});
    assert_eq!(closed, "policy p: refused reason=circuit_open breaker=closed held_back=7 request_id=id-1");
    let forced = document(r#""circuit_breaker": {"consecutive_failures": 2, "mode": "forced_open"}"#, "");
    assert!(said(&forced, OPEN, |_, _| {}).contains(" breaker=open cause=mode "), "{forced}");
    let unread = said(&document(BREAKER, ""), OPEN, |_, port| {
        port.trouble.insert(b"resilience/ns/p", Trouble::Unreadable);
    });
    assert_eq!(unread, "policy p: refused reason=circuit_open held_back=7 request_id=id-1");
}

#[test]
fn a_probe_that_failed_since_is_not_why_it_is_open() {
    let line = said(&document(BREAKER, ""), OPEN, |worker, port| {
        trip(worker, port, P);
        let admitted = worker.admit(port, P, Arrival::default(), ms(40_000));
        let Verdict::Admitted(probe) = admitted else { panic!("{admitted:?}") };
        let (ticket, returned) = (probe.ticket, Returned::default());
        let completion = Completion { target: P, ticket, outcome: Outcome::Failure, returned };
        worker.complete(port, completion, ms(40_000), || true);
    });
    assert!(line.contains(" cause=consecutive_failures count=2 limit=2 "), "{line}");
}

#[test]
fn a_line_says_how_full_the_bulkhead_is() {
    let bulkhead = r#""bulkhead": {"max_concurrent_calls": 1, "max_wait_duration": "1s", "max_queue": 2}"#;
    let line = said(&document(bulkhead, ""), Reason::BulkheadFull, |worker, port| {
        for call in 0..2 {
            worker.admit(port, P, Arrival { call, ..Arrival::default() }, ms(1000));
        }
    });
    let numbers = "in_flight=1 waiting=1 limit=1 max_queue=2";
    assert_eq!(line, format!("policy p: refused reason=bulkhead_full {numbers} held_back=7 request_id=id-1"));
}

#[test]
fn a_line_says_which_dependency_is_open_and_what_time_there_was() {
    let others = format!(
        r#", {{"name": "a", "match": [{{"path": {{"exact": "/a"}}}}], {BREAKER}}}, {{"name": "b", "match": [{{"path": {{"exact": "/b"}}}}], {BREAKER}}}"#
    );
    let needs = document(r#""when_open": ["a", "b"]"#, &others);
    let line = said(&needs, Reason::DependencyOpen, |worker, port| trip(worker, port, Target::whole(2)));
    assert_eq!(line, "policy p: refused reason=dependency_open dependency=b held_back=7 request_id=id-1");
    assert!(
        said(&needs, Reason::DependencyOpen, |_, _| {}).contains(" dependency=_ "),
        "it may have closed since"
    );
    let timeout = document(r#""timeout": {"total": "2s", "margin": "15ms"}"#, "");
    let line = said(&timeout, Reason::DeadlineExceeded, |_, _| {});
    let numbers = "total_ms=2000 margin_ms=15";
    assert_eq!(
        line,
        format!("policy p: refused reason=deadline_exceeded {numbers} held_back=7 request_id=id-1")
    );
}

#[test]
fn an_identity_cannot_write_lines() {
    assert_eq!(request_id(b"6f9a-B_1.2:3"), "6f9a-B_1.2:3");
    assert_eq!(request_id(b"a b=\"c\"\r\n\xffd"), "a_b__c____d");
    assert_eq!(request_id(&[b'a'; 100]).len(), 64);
}
