//! The fake host against a small module of our own, before it is believed about the real one.

mod bodies;
mod failures;
mod sharing;
mod streams;
mod waiting;

use resilience_module_tests::{Counts, FakeVm, Guest, Kind, Random, SharedHost, status};

/// Exports nearly every import under a short name, so that a test is the module. Memory below 4096 is the test's.
const GUEST: &str = include_str!("guest.wat");

struct Test {
    host: SharedHost,
    vm: FakeVm,
}

impl Test {
    fn new() -> Self {
        Self::on(SharedHost::new())
    }

    /// One more VM of a process.
    fn on(host: SharedHost) -> Self {
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
