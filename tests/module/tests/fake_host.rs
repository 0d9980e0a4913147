//! The fake host against a small module of our own, before it is believed about the real one.

use resilience_module_tests::{
    Action, Counts, FakeVm, Guest, Kind, Map, MetricKind, MutationKind, Random, SharedHost, headers, status,
};
use std::time::Duration;

/// Exports nearly every import under a short name, so that a test is the module. Memory below 4096 is the test's.
const GUEST: &str = r#"(module
  (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
  (import "env" "proxy_set_tick_period_milliseconds" (func $tick (param i32) (result i32)))
  (import "env" "proxy_get_buffer_bytes" (func $buffer (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_property" (func $get_property (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_property" (func $set_property (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_header_map_value" (func $get_header (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_header_map_pairs" (func $get_headers (param i32 i32 i32) (result i32)))
  (import "env" "proxy_add_header_map_value" (func $add_header (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_replace_header_map_value" (func $replace_header (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_remove_header_map_value" (func $remove_header (param i32 i32 i32) (result i32)))
  (import "env" "proxy_get_shared_data" (func $get_shared (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_shared_data" (func $set_shared (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_register_shared_queue" (func $register (param i32 i32 i32) (result i32)))
  (import "env" "proxy_resolve_shared_queue" (func $resolve (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_enqueue_shared_queue" (func $enqueue (param i32 i32 i32) (result i32)))
  (import "env" "proxy_dequeue_shared_queue" (func $dequeue (param i32 i32 i32) (result i32)))
  (import "env" "proxy_define_metric" (func $define (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_increment_metric" (func $increment (param i32 i64) (result i32)))
  (import "env" "proxy_record_metric" (func $record (param i32 i64) (result i32)))
  (import "env" "proxy_get_metric" (func $metric (param i32 i32) (result i32)))
  (import "env" "proxy_send_local_response" (func $reply (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_effective_context" (func $effective (param i32) (result i32)))
  (import "env" "proxy_call_foreign_function" (func $foreign (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 256)
  (global $heap (mut i32) (i32.const 65536))
  (global $deny (export "deny") (mut i32) (i32.const 0))
  (global $action (mut i32) (i32.const 0))
  (func (export "_initialize") (i32.store (i32.const 4000) (i32.const 7)))
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
    (if (global.get $deny) (then (return (i32.const 0))))
    (global.get $heap)
    (global.set $heap (i32.add (global.get $heap) (local.get $size))))
  (func (export "deny_memory") (global.set $deny (i32.const 1)))
  (func (export "answer_with") (param i32) (global.set $action (local.get 0)))
  (func (export "proxy_on_context_create") (param i32 i32)
    (i32.store (i32.const 3000) (local.get 0)) (i32.store (i32.const 3004) (local.get 1)))
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (drop (call $tick (i32.const 250)))
    (drop (call $buffer (i32.const 7) (i32.const 0) (i32.const -1) (i32.const 3008) (i32.const 3012)))
    (drop (call $log (i32.const 3) (i32.load (i32.const 3008)) (i32.load (i32.const 3012))))
    (i32.ne (local.get 1) (i32.const 3)))
  (func (export "proxy_on_tick") (param i32) unreachable)
  ;; Reads the header whose name is the 5 bytes at 0; its pointer and length go to 16 and 20, the status to 24.
  (func $look (param $map i32)
    (i32.store (i32.const 24)
      (call $get_header (local.get $map) (i32.const 0) (i32.const 5) (i32.const 16) (i32.const 20))))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (call $look (i32.const 0)) (global.get $action))
  (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
    (call $look (i32.const 0)) (global.get $action))
  (func (export "proxy_on_response_trailers") (param i32 i32) (result i32)
    (call $look (i32.const 3)) (global.get $action))
  (func (export "proxy_on_log") (param i32) (call $look (i32.const 0)))
  (func (export "proxy_on_delete") (param i32) (call $look (i32.const 0)))
  (func (export "proxy_on_queue_ready") (param i32 i32)
    (drop (call $dequeue (local.get 1) (i32.const 16) (i32.const 20))))
  (func (export "get_property") (param i32 i32 i32 i32) (result i32) (call $get_property (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
  (func (export "set_property") (param i32 i32 i32 i32) (result i32) (call $set_property (local.get 0) (local.get 1) (local.get 2) (local.get 3)))

  (func (export "get_header") (param i32 i32 i32 i32 i32) (result i32) (call $get_header (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4)))
  (func (export "get_headers") (param i32 i32 i32) (result i32) (call $get_headers (local.get 0) (local.get 1) (local.get 2)))
  (func (export "get_shared") (param i32 i32 i32 i32 i32) (result i32) (call $get_shared (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4)))
  (func (export "set_shared") (param i32 i32 i32 i32 i32) (result i32) (call $set_shared (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4)))
  (func (export "define") (param i32 i32 i32 i32) (result i32) (call $define (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
  (func (export "increment") (param i32 i64) (result i32) (call $increment (local.get 0) (local.get 1)))
  (func (export "record") (param i32 i64) (result i32) (call $record (local.get 0) (local.get 1)))
  (func (export "metric") (param i32 i32) (result i32) (call $metric (local.get 0) (local.get 1)))
  (func (export "clock") (param i32 i64 i32) (result i32) (call $clock (local.get 0) (local.get 1) (local.get 2)))
  (func (export "random") (param i32 i32) (result i32) (call $random (local.get 0) (local.get 1)))
  (func (export "register") (param i32 i32 i32) (result i32) (call $register (local.get 0) (local.get 1) (local.get 2)))
  (func (export "resolve") (param i32 i32 i32 i32 i32) (result i32) (call $resolve (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4)))
  (func (export "enqueue") (param i32 i32 i32) (result i32) (call $enqueue (local.get 0) (local.get 1) (local.get 2)))
  (func (export "dequeue") (param i32 i32 i32) (result i32) (call $dequeue (local.get 0) (local.get 1) (local.get 2)))
  (func (export "fd_write") (param i32 i32 i32 i32) (result i32) (call $fd_write (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
  (func (export "exit") (param i32) (call $exit (local.get 0)))
  (func (export "foreign") (drop (call $foreign (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
    (i32.const 0) (i32.const 0))))
  ;; These act on a stream: the first argument is its id.
  (func (export "set_property_of") (param i32 i32 i32 i32 i32) (result i32)
    (call $set_property (local.get 1) (local.get 2) (local.get 3) (local.get 4)))
  (func (export "get_property_of") (param i32 i32 i32 i32 i32) (result i32)
    (call $get_property (local.get 1) (local.get 2) (local.get 3) (local.get 4)))
  (func (export "get_header_of") (param i32 i32 i32 i32 i32 i32) (result i32)
    (call $get_header (local.get 1) (local.get 2) (local.get 3) (local.get 4) (local.get 5)))
  (func (export "get_headers_of") (param i32 i32 i32 i32) (result i32)
    (call $get_headers (local.get 1) (local.get 2) (local.get 3)))
  (func (export "add_header_of") (param i32 i32 i32 i32 i32 i32) (result i32)
    (call $add_header (local.get 1) (local.get 2) (local.get 3) (local.get 4) (local.get 5)))
  (func (export "replace_header_of") (param i32 i32 i32 i32 i32 i32) (result i32)
    (call $replace_header (local.get 1) (local.get 2) (local.get 3) (local.get 4) (local.get 5)))
  (func (export "remove_header_of") (param i32 i32 i32 i32) (result i32)
    (call $remove_header (local.get 1) (local.get 2) (local.get 3)))
  (func (export "effective_of") (param i32 i32) (result i32) (call $effective (local.get 1)))
  (func (export "reply_of") (param $id i32) (param $pairs i32) (param $len i32) (result i32)
    (call $reply (i32.const 503) (i32.const 0) (i32.const 5) (i32.const 0) (i32.const 3)
      (local.get $pairs) (local.get $len) (i32.const -1)))
)"#;

struct Test {
    host: SharedHost,
    vm: FakeVm,
}

impl Test {
    fn new() -> Self {
        let host = SharedHost::new();
        let vm = FakeVm::load(&Guest::compile(GUEST.as_bytes()).unwrap(), &host).unwrap();
        Self { host, vm }
    }

    fn call(&self, export: &str, args: &[u32]) -> u32 {
        self.vm.call(export, args).unwrap().unwrap_or_default() as u32
    }

    /// Puts text at 0 and returns its length.
    fn name(&self, text: &[u8]) -> u32 {
        self.vm.write_memory(0, text);
        text.len() as u32
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.vm.read_memory(at, 4).try_into().unwrap())
    }

    /// What the host handed over: the pointer at 16, the length at 20.
    fn handed(&self) -> Vec<u8> {
        self.vm.read_memory(self.word(16) as usize, self.word(20) as usize)
    }

    fn set(&self, key: &[u8], value: &[u8], cas: u32) -> u32 {
        let len = self.name(key);
        self.vm.write_memory(256, value);
        self.call("set_shared", &[0, len, 256, value.len() as u32, cas])
    }

    fn get(&self, key: &[u8]) -> Result<(Vec<u8>, u32), u32> {
        let len = self.name(key);
        match self.call("get_shared", &[0, len, 16, 20, 28]) {
            status::OK => Ok((self.handed(), self.word(28))),
            status => Err(status),
        }
    }
}

#[test]
fn initializes_creates_and_configures_in_envoys_order() {
    let test = Test::new();
    assert_eq!(test.word(4000), 7);
    assert!(test.vm.configure(9, "{\"a\": 1}").unwrap());
    assert_eq!((test.word(3000), test.word(3004)), (9, 0));
    assert_eq!(test.vm.tick_period(9), Some(250));
    let logs = test.vm.take_logs();
    assert_eq!(logs.iter().map(ToString::to_string).collect::<Vec<_>>(), ["warn: {\"a\": 1}"]);
    assert!(!test.vm.configure(10, "{ }").unwrap(), "the module refuses three bytes");
    let stream = test.vm.stream(9);
    assert_ne!(stream.id(), 9);
    stream.request_headers(true).unwrap();
    assert_eq!((test.word(3000), test.word(3004)), (stream.id(), 9));
}

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
    let other =
        Test { vm: FakeVm::load(&Guest::compile(GUEST.as_bytes()).unwrap(), &test.host).unwrap(), ..test };
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
fn request_headers_can_be_read_only_in_their_phase_and_in_the_log() {
    let test = Test::new();
    let stream = test.vm.stream(1);
    stream.set_request_headers(headers(&[("X-One", "first"), ("x-one", "second")]));
    test.name(b"x-oNe");
    assert_eq!(stream.request_headers(false).unwrap(), Action::Continue);
    assert_eq!((test.word(24), test.handed()), (status::OK, b"first".to_vec()));
    assert_eq!(stream.response_headers(true).unwrap(), Action::Continue);
    assert_eq!(test.word(24), status::BAD_ARGUMENT);
    stream.log().unwrap();
    assert_eq!((test.word(24), test.handed()), (status::OK, b"first".to_vec()));
    stream.delete().unwrap();
    assert_eq!(test.word(24), status::BAD_ARGUMENT);
    assert_eq!(test.call("effective_of", &[1, stream.id()]), status::BAD_ARGUMENT, "it is gone");
    // A request that is held keeps its headers.
    let held = test.vm.stream(1);
    held.set_request_headers(headers(&[("x-one", "held")]));
    test.call("answer_with", &[1]);
    assert_eq!(held.request_headers(false).unwrap(), Action::Pause);
    assert_eq!(test.call("get_header_of", &[held.id(), 0, 0, 5, 16, 20]), status::OK);
    assert_eq!(test.handed(), b"held");
    test.call("answer_with", &[9]);
    assert_eq!(held.trailers().unwrap(), Action::Other(9));
    assert_eq!(test.word(24), status::NOT_FOUND);
    assert_eq!(test.call("get_header_of", &[held.id(), 9, 0, 5, 16, 20]), status::BAD_ARGUMENT);
}

#[test]
fn headers_of_any_bytes_arrive_and_changes_are_kept() {
    let test = Test::new();
    test.call("answer_with", &[1]);
    let stream = test.vm.stream(1);
    let value = vec![0xff; 60_000];
    stream.set_request_headers(vec![(b"x-one".to_vec(), value.clone()), (b"b".to_vec(), Vec::new())]);
    test.name(b"x-one");
    stream.request_headers(false).unwrap();
    assert_eq!(test.handed(), value);
    // An empty value is found, and costs no memory.
    assert_eq!(test.call("get_header_of", &[stream.id(), 0, test.name(b"b") - 1, 1, 16, 20]), status::OK);
    assert_eq!((test.word(16), test.word(20)), (0, 0));
    assert_eq!(test.call("get_headers_of", &[stream.id(), 0, 16, 20]), status::OK);
    assert_eq!(test.handed().len(), 4 + 2 * 8 + 5 + 1 + 60_000 + 1 + 1 + 1 + 1);
    test.name(b"x-oneV");
    for export in ["add_header_of", "replace_header_of"] {
        assert_eq!(test.call(export, &[stream.id(), 0, 0, 5, 5, 1]), status::OK);
    }
    assert_eq!(test.call("remove_header_of", &[stream.id(), 0, 100, 0]), status::OK);
    assert_eq!(test.call("add_header_of", &[stream.id(), 2, 0, 5, 5, 1]), status::BAD_ARGUMENT);
    let kinds: Vec<_> = stream.mutations().into_iter().map(|mutation| mutation.kind).collect();
    assert_eq!(kinds, [MutationKind::Add, MutationKind::Replace, MutationKind::Remove]);
    assert_eq!(stream.headers(Map::RequestHeaders), headers(&[("b", ""), ("x-one", "V")]));
    // What splits a header is never let through in silence.
    test.vm.write_memory(100, b"a\r\nb");
    assert!(test.vm.call("add_header_of", &[stream.id(), 0, 0, 5, 100, 4]).is_err());
}

#[test]
fn properties_belong_to_a_stream_or_to_all() {
    let test = Test::new();
    let stream = test.vm.stream(1);
    stream.request_headers(true).unwrap();
    stream.set_property(b"response\0flags", [1, 2, 3]);
    test.vm.set_property("plugin_name", "p");
    let get = |id: u32, path: &[u8]| {
        let len = test.name(path);
        match test.call("get_property_of", &[id, 0, len, 16, 20]) {
            status::OK => Ok(test.handed()),
            status => Err(status),
        }
    };
    assert_eq!(get(stream.id(), b"response\0flags"), Ok(vec![1, 2, 3]));
    assert_eq!(get(stream.id(), b"plugin_name"), Ok(b"p".to_vec()));
    assert_eq!(get(1, b"response\0flags"), Err(status::NOT_FOUND));
    let len = test.name(b"own");
    assert_eq!(test.call("set_property_of", &[stream.id(), 0, len, 0, 2]), status::OK);
    assert_eq!(stream.property_set("own").as_deref(), Some("ow"));
    assert_eq!(get(stream.id(), b"own"), Ok(b"ow".to_vec()));
    let len = test.name(b"own");
    assert_eq!(test.call("set_property_of", &[1, 0, len, 0, 2]), status::NOT_FOUND, "a root has no stream");
    stream.remove_property(b"response\0flags");
    assert_eq!(get(stream.id(), b"response\0flags"), Err(status::NOT_FOUND));
}

#[test]
fn a_local_response_is_captured_once_and_comes_back_as_a_response() {
    let test = Test::new();
    let stream = test.vm.stream(1);
    stream.request_headers(true).unwrap();
    test.name(b"abcde");
    let pairs = [&[1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0][..], b"a\0bc\0"].concat();
    test.vm.write_memory(512, &pairs);
    assert_eq!(test.call("reply_of", &[stream.id(), 512, pairs.len() as u32]), status::OK);
    let reply = stream.local_response().unwrap();
    assert_eq!((reply.status, reply.grpc_status, reply.callback.as_str()), (503, -1, "reply_of"));
    assert_eq!((reply.details.as_slice(), reply.body.as_slice()), (&b"abcde"[..], &b"abc"[..]));
    assert_eq!(reply.header("a").as_deref(), Some("bc"));
    stream.deliver_local_response().unwrap();
    assert_eq!(stream.header(Map::ResponseHeaders, ":status").as_deref(), Some("503"));
    assert_eq!(stream.header(Map::ResponseHeaders, "content-length").as_deref(), Some("3"));
    let again = test.vm.call("reply_of", &[stream.id(), 512, pairs.len() as u32]).unwrap_err();
    assert!(again.to_string().contains("second local response"), "{again}");
    let other = test.vm.stream(1);
    other.request_headers(true).unwrap();
    let malformed = test.vm.call("reply_of", &[other.id(), 512, 7]).unwrap_err();
    assert!(malformed.to_string().contains("malformed headers"), "{malformed}");
}

#[test]
fn queues_wake_the_vm_that_registered_them() {
    let test = Test::new();
    let other = Test {
        vm: FakeVm::load(&Guest::compile(GUEST.as_bytes()).unwrap(), &test.host).unwrap(),
        host: test.host.clone(),
    };
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

#[test]
fn every_call_is_counted_by_kind() {
    let test = Test::new();
    test.set(b"k", b"v", 0);
    test.get(b"k").unwrap();
    test.get(b"l").unwrap_err();
    test.vm.call_wide("clock", &[1, 0, 32]).unwrap();
    let expected =
        Counts { reads_with_bytes: 1, reads_of_nothing: 1, shared_writes: 1, clock_reads: 1, ..Counts::NONE };
    assert_eq!(test.vm.counts(), expected);
    assert_eq!(expected.total(), 4);
    let calls = test.vm.take_calls();
    assert_eq!(calls[0].to_string(), "set_shared[0] proxy_set_shared_data(k)");
    assert_eq!(calls[1].to_string(), "get_shared[0] proxy_get_shared_data(k) = 1 bytes");
    assert_eq!(calls[2].to_string(), "get_shared[0] proxy_get_shared_data(l) = status 1");
    assert_eq!((calls[1].kind(), calls[1].bytes), (Kind::ReadBytes, Some(1)));
    assert_eq!(test.vm.counts().total(), 0);
}

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

#[test]
fn random_bytes_are_the_same_every_time() {
    let bytes = |_| {
        let test = Test::new();
        assert_eq!(test.call("random", &[0, 32]), 0);
        test.vm.read_memory(0, 32)
    };
    let [one, two] = [0, 1].map(bytes);
    assert_eq!(one, two);
    assert_ne!(one, [0; 32]);
    assert_ne!(Random::new(1).bits(), Random::new(2).bits());
}
