//! Faults on purpose, traps, and pointers that lead nowhere.

use crate::Test;
use resilience_module_tests::status;

#[test]
fn faults_strike_where_they_are_told_to() {
    let test = Test::new();
    test.vm.fail_nth(1, status::INTERNAL_FAILURE);
    assert_eq!(test.set(b"k", b"1", 0), status::OK);
    assert_eq!(test.set(b"k", b"2", 0), status::INTERNAL_FAILURE);
    assert_eq!(test.get(b"k").unwrap().0, b"1", "a failed call does nothing");
    assert_eq!(test.set(b"k", b"3", 0), status::OK);
    assert!(test.vm.calls()[1].injected && !test.vm.calls()[2].injected);
    assert_eq!(test.vm.fallible_calls(), 4);

    test.vm.cas_conflicts(2);
    let answers = [0; 3].map(|_| test.set(b"k", b"4", 0));
    assert_eq!(answers, [status::CAS_MISMATCH, status::CAS_MISMATCH, status::OK]);

    test.vm.fail_kind("proxy_get_shared_data", status::UNIMPLEMENTED);
    assert_eq!(test.get(b"k"), Err(status::UNIMPLEMENTED));
    assert_eq!(test.set(b"k", b"5", 0), status::OK);
    test.vm.clear_faults();
    assert_eq!(test.get(b"k").unwrap().0, b"5");

    let run = |seed: u64| {
        test.vm.fail_random(seed, 0.5);
        let answers: Vec<u32> = (0..200).map(|_| test.set(b"k", b"6", 0)).collect();
        test.vm.clear_faults();
        answers
    };
    let first = run(1);
    assert_eq!(first, run(1));
    assert_ne!(first, run(2));
    let failed = first.iter().filter(|status| **status != status::OK).count();
    assert!((60..140).contains(&failed), "{failed} of 200");

    test.set(b"k", b"0123456789", 0);
    test.vm.scramble_random(3, 1.0);
    let values: Vec<Vec<u8>> = (0..100).map(|_| test.get(b"k").unwrap().0).collect();
    assert!(values.iter().all(|value| value != b"0123456789"));
    assert!(values.iter().any(Vec::is_empty) && values.iter().any(|value| value.len() > 4000));
}

#[test]
fn traps_are_told_with_their_last_words_and_the_vm_stays_dead() {
    let test = Test::new();
    test.vm.write_memory(0, b"boom\n");
    test.vm.write_memory(64, &[0, 0, 0, 0, 5, 0, 0, 0]);
    assert_eq!(test.call("fd_write", &[2, 64, 1, 72]), 0);
    assert_eq!(test.word(72), 5);
    let failure = test.vm.tick(1).unwrap_err();
    assert_eq!(failure.callback, "proxy_on_tick");
    assert!(failure.to_string().contains("unreachable"), "{failure}");
    assert!(failure.to_string().contains("error: boom"), "{failure}");
    let later = test.vm.stream(1).request_headers(true).unwrap_err();
    assert!(later.to_string().contains("dead since proxy_on_tick"), "{later}");

    let exit = Test::new().vm.call("exit", &[3]).unwrap_err();
    assert!(exit.to_string().contains("exited with 3"), "{exit}");
    let foreign = Test::new().vm.call("foreign", &[]).unwrap_err();
    assert!(foreign.to_string().contains("env.proxy_call_foreign_function"), "{foreign}");
}

#[test]
fn bad_pointers_and_a_module_without_memory_are_noticed() {
    let test = Test::new();
    let outside = test.vm.call("get_shared", &[u32::MAX, 4, 16, 20, 28]).unwrap_err();
    assert!(outside.to_string().contains("outside of the memory"), "{outside}");
    test.set(b"k", b"v", 0);
    test.call("deny_memory", &[]);
    assert_eq!(test.get(b"k"), Err(status::INVALID_MEMORY_ACCESS));
}
