//! Every fuzzer, for a bounded number of executions that begin with the inputs that are kept.

use resilience_fuzz::{Limit, PLANTED, Report, TARGETS, Target};

/// Chance alone would need more than this for the planted mistake, by many orders of magnitude.
const ENOUGH: u64 = 10_000_000;

fn run(target: Target, executions: u64) -> Report {
    let report = target.run(Limit::Executions(executions)).unwrap();
    println!("{}: {} executions", target.name, report.executions);
    report
}

fn finds_nothing(name: &str, executions: u64) {
    let target = TARGETS.into_iter().find(|target| target.name == name).unwrap();
    let report = run(target, executions);
    assert!(report.clean, "{}", report.log);
    assert!(report.executions >= executions, "{}", report.log);
}

#[test]
fn any_bytes_are_a_configuration_or_an_error() {
    finds_nothing("configuration", 200_000);
}

#[test]
fn any_bytes_are_a_state_that_lives_on() {
    finds_nothing("state", 50_000);
}

#[test]
fn any_bytes_are_a_bulkhead_that_forgets_nobody() {
    finds_nothing("bulkhead", 50_000);
}

#[test]
fn any_bytes_are_a_budget_that_keeps_what_it_grants() {
    finds_nothing("budget", 50_000);
}

#[test]
fn any_bytes_are_headers_that_steer_only_as_their_policy_says() {
    finds_nothing("steering", 100_000);
}

#[test]
fn any_bytes_are_a_request_that_its_fallback_answers() {
    finds_nothing("fallback", 100_000);
}

#[test]
fn any_bytes_are_a_table_of_members_that_lives_on() {
    finds_nothing("members", 20_000);
}

#[test]
fn any_bytes_are_told_to_operators_in_json() {
    finds_nothing("inspection", 20_000);
}

/// A fuzzer that were built without being told which code an input reaches would find nothing at all, and say so.
#[test]
fn a_planted_mistake_is_found() {
    let report = run(PLANTED, ENOUGH);
    assert!(!report.clean && report.log.contains("the planted mistake"), "{}", report.log);
    assert!(report.executions < ENOUGH, "{}", report.log);
}
