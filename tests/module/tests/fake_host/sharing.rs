//! What all workers of a process have in common: shared data, metrics, queues and the clock.

use crate::Test;
use resilience_module_tests::{MetricKind, status};
use std::time::Duration;

#[test]
fn shared_data_is_envoys() {
    let test = Test::new();
    assert_eq!(test.get(b"k"), Err(status::NOT_FOUND));
    // Any number creates a missing key.
    assert_eq!(test.set(b"k", b"one", 77), status::OK);
    let (value, cas) = test.get(b"k").unwrap();
    assert_eq!(value, b"one");
    assert_ne!(cas, 0);
    // Then it has to match, unless it is 0.
    assert_eq!(test.set(b"k", b"two", cas + 1), status::CAS_MISMATCH);
    assert_eq!(test.set(b"k", b"two", u32::MAX), status::CAS_MISMATCH);
    assert_eq!(test.set(b"k", b"two", cas), status::OK);
    assert_eq!(test.set(b"k", b"three", cas), status::CAS_MISMATCH, "a number is good for one write");
    assert_eq!(test.set(b"k", b"three", 0), status::OK);
    assert_eq!(test.get(b"k").unwrap().0, b"three");
    // An empty value is a value.
    assert_eq!(test.set(b"k", b"", 0), status::OK);
    assert_eq!(test.get(b"k").unwrap().0, b"");
    // One sequence for all keys, which wraps past 0.
    test.host.set_next_cas(u32::MAX);
    assert_eq!(test.set(b"k", b"x", 0), status::OK);
    assert_eq!(test.set(b"l", b"x", 0), status::OK);
    assert_eq!((test.get(b"k").unwrap().1, test.get(b"l").unwrap().1), (u32::MAX, 1));
    // Nothing is removed, and another VM of the process sees the same.
    assert_eq!(test.host.keys(), [b"k".to_vec(), b"l".to_vec()]);
    let other = Test::on(test.host);
    assert_eq!(other.get(b"l").unwrap(), (b"x".to_vec(), 1));
}

#[test]
fn metrics_are_the_processes_and_ids_the_vms() {
    let test = Test::new();
    let define = |kind: u32, name: &[u8]| {
        let len = test.name(name);
        assert_eq!(test.call("define", &[kind, 0, len, 28]), status::OK);
        test.word(28)
    };
    let (counter, gauge, histogram) = (define(0, b"c"), define(1, b"g"), define(2, b"h"));
    assert_ne!(counter, define(0, b"c"), "every definition has an id of its own");
    let wide = |export: &str, id: u32, by: i64| {
        test.vm.call_wide(export, &[i64::from(id), by]).unwrap().unwrap() as u32
    };
    assert_eq!(wide("increment", counter, 2), status::OK);
    assert_eq!(wide("increment", counter, -1), status::BAD_ARGUMENT);
    assert_eq!(wide("increment", counter, 0), status::BAD_ARGUMENT);
    assert_eq!(wide("increment", gauge, -1), status::OK);
    assert_eq!(wide("increment", histogram, 1), status::BAD_ARGUMENT);
    assert_eq!(wide("increment", 4000, 1), status::NOT_FOUND);
    assert_eq!(test.host.metric("g"), Some(u64::MAX), "a gauge wraps below zero");
    assert_eq!(wide("record", gauge, 5), status::OK);
    assert_eq!(wide("record", histogram, 9), status::OK);
    assert_eq!(wide("record", histogram, 8), status::OK);
    assert_eq!(test.call("metric", &[counter, 32]), status::OK);
    assert_eq!(test.vm.read_memory(32, 8), 2u64.to_le_bytes());
    assert_eq!(test.call("metric", &[histogram, 32]), status::BAD_ARGUMENT);
    assert_eq!(test.host.histogram("h"), [9, 8]);
    let all: Vec<_> = test.host.metrics().into_iter().collect();
    let expected =
        [("c", MetricKind::Counter, 2), ("g", MetricKind::Gauge, 5), ("h", MetricKind::Histogram, 2)];
    assert_eq!(all, expected.map(|(name, kind, value)| (name.to_owned(), (kind, value))));
}

#[test]
fn queues_wake_the_vm_that_registered_them() {
    let test = Test::new();
    let other = Test::on(test.host.clone());
    let len = test.name(b"queue");
    assert_eq!(test.call("register", &[0, len, 28]), status::OK);
    let token = test.word(28);
    other.name(b"queue");
    assert_eq!(other.call("resolve", &[0, 0, 0, 4, 28]), status::NOT_FOUND);
    assert_eq!(other.call("resolve", &[0, 0, 0, 5, 28]), status::OK);
    assert_eq!(other.word(28), token);
    assert_eq!(other.call("enqueue", &[token, 0, 3]), status::OK);
    assert_eq!(other.call("enqueue", &[99, 0, 3]), status::NOT_FOUND);
    assert_eq!((other.vm.deliver_queues().unwrap(), test.vm.deliver_queues().unwrap()), (0, 1));
    assert_eq!(test.handed(), b"que");
    assert_eq!(test.call("dequeue", &[token, 16, 20]), status::EMPTY);
    assert_eq!(test.call("dequeue", &[99, 16, 20]), status::NOT_FOUND);
    // Who registers it again takes it over, with what is in it.
    assert_eq!(test.call("enqueue", &[token, 0, 2]), status::OK);
    assert_eq!(other.call("register", &[0, 5, 28]), status::OK);
    assert_eq!(other.word(28), token);
    assert_eq!(test.call("enqueue", &[token, 0, 3]), status::OK);
    assert_eq!((test.vm.deliver_queues().unwrap(), test.handed()), (1, b"qu".to_vec()));
    assert_eq!((other.vm.deliver_queues().unwrap(), other.handed()), (1, b"que".to_vec()));
}

#[test]
fn a_queue_that_a_stream_registers_wakes_its_root() {
    let test = Test::new();
    let stream = test.vm.stream(7);
    stream.request_headers(true).unwrap();
    let len = test.name(b"queue");
    assert_eq!(test.call("register_of", &[stream.id(), 0, len, 28]), status::OK);
    assert_eq!(test.call("enqueue", &[test.word(28), 0, 3]), status::OK);
    assert_eq!(test.vm.deliver_queues().unwrap(), 1);
    let woken = test.vm.take_calls().pop().unwrap();
    assert_eq!((woken.callback.as_str(), woken.context), ("proxy_on_queue_ready", 7));
}

#[test]
fn the_clock_stands_until_it_is_moved() {
    let test = Test::new();
    let read = |clock: i64| {
        let errno = test.vm.call_wide("clock", &[clock, 0, 32]).unwrap().unwrap();
        (errno, u64::from_le_bytes(test.vm.read_memory(32, 8).try_into().unwrap()))
    };
    let start = read(1).1;
    assert_eq!(start, test.host.now());
    test.host.advance(Duration::from_millis(5));
    assert_eq!(read(1), (0, start + 5_000_000));
    test.host.set_clock(1);
    assert_eq!(read(1), (0, 1));
    assert!(read(0).1 > 1_000_000_000_000_000_000);
    assert_ne!(read(3).0, 0);
}
