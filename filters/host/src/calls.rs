//! Host calls that return errors and never panic.
//!
//! Values are bytes: what a client sends is not necessarily UTF-8. A `NotFound` or empty answer of the host is `None`
//! where asking for something absent is normal.
#![allow(unsafe_code)]

mod pairs;
mod waking;

pub use pairs::{Pairs, header_pairs};
pub use waking::{
    Direction, Queue, continue_stream, dequeue, enqueue, register_queue, resolve_queue, set_effective_context,
};

use crate::abi;
use std::fmt;

/// A status other than success, as the host returned it (`proxy_status_t` of the ABI).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status(pub u32);

impl Status {
    /// What was asked for does not exist.
    pub const NOT_FOUND: Self = Self(1);
    /// An argument was wrong, or the thing cannot be had in this phase of the stream.
    pub const BAD_ARGUMENT: Self = Self(2);
    /// Nothing to take.
    pub const EMPTY: Self = Self(7);
    /// Somebody else wrote first.
    pub const CAS_MISMATCH: Self = Self(8);
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host status {}", self.0)
    }
}

/// The answer of a host call.
pub type Result<T> = std::result::Result<T, Status>;

/// Severity of a log line, as the ABI numbers them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Level {
    /// Details for whoever debugs the filter.
    Debug = 1,
    /// What an operator may want to know.
    Info = 2,
    /// What an operator should look at.
    Warn = 3,
    /// What stops something from working.
    Error = 4,
}

/// A header map of the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Map {
    /// The request's headers.
    RequestHeaders = 0,
    /// The response's headers.
    ResponseHeaders = 2,
    /// The response's trailers.
    ResponseTrailers = 3,
}

/// How a metric behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum MetricKind {
    /// Only grows.
    Counter = 0,
    /// Is set.
    Gauge = 1,
    /// Records a distribution.
    Histogram = 2,
}

/// A metric's handle; the same name gives the same process-wide metric in every VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metric(u32);

const BUFFER_RESPONSE_BODY: u32 = 1;
const BUFFER_PLUGIN_CONFIGURATION: u32 = 7;
const CLOCK_REALTIME: u32 = 0;
const CLOCK_MONOTONIC: u32 = 1;

fn check(status: u32) -> Result<()> {
    if status == 0 { Ok(()) } else { Err(Status(status)) }
}

/// Runs a call that returns bytes the host allocated through our `proxy_on_memory_allocate`, and takes them over.
fn bytes(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Result<Vec<u8>> {
    let mut data = std::ptr::null_mut();
    let mut len = 0;
    check(call(&raw mut data, &raw mut len))?;
    if data.is_null() || len == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: the host got `data` from `proxy_on_memory_allocate(len)`, which leaked a `Vec` of exactly this capacity,
    // and wrote `len` bytes to it.
    Ok(unsafe { Vec::from_raw_parts(data, len, len) })
}

fn absent_is_none<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Status::NOT_FOUND) => Ok(None),
        Err(status) => Err(status),
    }
}

/// Writes a line to Envoy's log. A failure to log is not reported: there is nowhere to.
pub fn log(level: Level, message: &str) {
    // SAFETY: the pointer and length describe `message`, which outlives the call.
    let _ = unsafe { abi::proxy_log(level as u32, message.as_ptr(), message.len()) };
}

/// Asks for `on_tick` of the current root context every `milliseconds`; 0 stops it.
///
/// # Errors
/// The host's status.
pub fn set_tick_period(milliseconds: u32) -> Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { abi::proxy_set_tick_period_milliseconds(milliseconds) })
}

/// The document of this filter's `configuration`; only while the host runs `on_configure`.
///
/// # Errors
/// The host's status.
pub fn plugin_configuration() -> Result<Vec<u8>> {
    // SAFETY: both pointers are valid for writes during the call.
    bytes(|data, len| unsafe {
        abi::proxy_get_buffer_bytes(BUFFER_PLUGIN_CONFIGURATION, 0, usize::MAX, data, len)
    })
}

/// Monotonic nanoseconds, the same clock in every VM of the process; `None` if the host does not say.
#[must_use]
pub fn monotonic_nanoseconds() -> Option<u64> {
    clock(CLOCK_MONOTONIC)
}

/// The wall clock's nanoseconds since 1970; `None` if the host does not say.
#[must_use]
pub fn wall_nanoseconds() -> Option<u64> {
    clock(CLOCK_REALTIME)
}

fn clock(id: u32) -> Option<u64> {
    let mut now = 0;
    // SAFETY: `now` is valid for a write during the call.
    let errno = unsafe { abi::clock_time_get(id, 0, &raw mut now) };
    (errno == 0).then_some(now)
}

/// A property by its path, segments joined by NUL as the ABI wants them (`b"xds\0route_name"`).
///
/// # Errors
/// The host's status, other than that there is no such property.
pub fn property(path: &[u8]) -> Result<Option<Vec<u8>>> {
    // SAFETY: `path` outlives the call; the out pointers are valid for writes.
    absent_is_none(bytes(|data, len| unsafe {
        abi::proxy_get_property(path.as_ptr(), path.len(), data, len)
    }))
}

/// Sets a property of the stream, for access logs and other filters (Envoy: filter state `wasm.<path>`).
///
/// # Errors
/// The host's status.
pub fn set_property(path: &[u8], value: &[u8]) -> Result<()> {
    // SAFETY: both slices outlive the call.
    check(unsafe { abi::proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len()) })
}

/// The value of a header, the first of several of one name; `None` where there is none.
///
/// # Errors
/// The host's status, `BAD_ARGUMENT` where this map cannot be read in this phase.
pub fn header(map: Map, name: &str) -> Result<Option<Vec<u8>>> {
    // SAFETY: `name` outlives the call; the out pointers are valid for writes.
    absent_is_none(bytes(|data, len| unsafe {
        abi::proxy_get_header_map_value(map as u32, name.as_ptr(), name.len(), data, len)
    }))
}

/// Adds a header beside any of the same name.
///
/// # Errors
/// The host's status.
pub fn add_header(map: Map, name: &str, value: &[u8]) -> Result<()> {
    // SAFETY: both slices outlive the call.
    check(unsafe {
        abi::proxy_add_header_map_value(map as u32, name.as_ptr(), name.len(), value.as_ptr(), value.len())
    })
}

/// Sets a header in place of any of the same name. On a request this clears Envoy's cached route.
///
/// # Errors
/// The host's status.
pub fn replace_header(map: Map, name: &str, value: &[u8]) -> Result<()> {
    // SAFETY: both slices outlive the call.
    check(unsafe {
        abi::proxy_replace_header_map_value(
            map as u32,
            name.as_ptr(),
            name.len(),
            value.as_ptr(),
            value.len(),
        )
    })
}

/// Removes every header of a name.
///
/// # Errors
/// The host's status.
pub fn remove_header(map: Map, name: &str) -> Result<()> {
    // SAFETY: `name` outlives the call.
    check(unsafe { abi::proxy_remove_header_map_value(map as u32, name.as_ptr(), name.len()) })
}

/// A value of the shared data of this `vm_id`, with its compare-and-swap number.
///
/// # Errors
/// The host's status, other than that there is no such key.
pub fn shared_data(key: &[u8]) -> Result<Option<(Vec<u8>, u32)>> {
    let mut cas = 0;
    // SAFETY: `key` outlives the call; the out pointers are valid for writes.
    let value = absent_is_none(bytes(|data, len| unsafe {
        abi::proxy_get_shared_data(key.as_ptr(), key.len(), data, len, &raw mut cas)
    }))?;
    Ok(value.map(|value| (value, cas)))
}

/// Writes shared data if `cas` is still the key's number. The host's own rules, which a test of every supported Envoy
/// holds: 0 overwrites whatever is there, and on a key that does not exist any number creates it.
///
/// # Errors
/// `CAS_MISMATCH` where somebody wrote in between; else the host's status.
pub fn set_shared_data(key: &[u8], value: &[u8], cas: u32) -> Result<()> {
    // SAFETY: both slices outlive the call.
    check(unsafe { abi::proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), cas) })
}

impl Metric {
    /// Defines a metric, or finds the one of this name.
    ///
    /// # Errors
    /// The host's status.
    pub fn define(kind: MetricKind, name: &str) -> Result<Self> {
        let mut id = 0;
        // SAFETY: `name` outlives the call and `id` is valid for a write.
        check(unsafe { abi::proxy_define_metric(kind as u32, name.as_ptr(), name.len(), &raw mut id) })?;
        Ok(Self(id))
    }

    /// Adds to a counter or a gauge, across all workers.
    ///
    /// # Errors
    /// The host's status.
    pub fn increment(self, offset: i64) -> Result<()> {
        // SAFETY: takes no pointer.
        check(unsafe { abi::proxy_increment_metric(self.0, offset) })
    }

    /// Sets a gauge, or records into a histogram.
    ///
    /// # Errors
    /// The host's status.
    pub fn record(self, value: u64) -> Result<()> {
        // SAFETY: takes no pointer.
        check(unsafe { abi::proxy_record_metric(self.0, value) })
    }

    /// The present value of a counter or a gauge. Costs a tenth of a read that returns bytes.
    ///
    /// # Errors
    /// The host's status.
    pub fn value(self) -> Result<u64> {
        let mut value = 0;
        // SAFETY: `value` is valid for a write.
        check(unsafe { abi::proxy_get_metric(self.0, &raw mut value) })?;
        Ok(value)
    }
}

/// A reply made by the filter instead of the upstream.
#[derive(Debug)]
pub struct LocalResponse<'a> {
    /// HTTP status.
    pub status: u16,
    /// What `%RESPONSE_CODE_DETAILS%` of an access log shows.
    pub details: &'a str,
    /// Extra headers, in order.
    pub headers: &'a [(String, String)],
    /// The body; to a gRPC caller Envoy sends it as `grpc-message`.
    pub body: &'a [u8],
    /// `grpc-status` for a gRPC caller; `None` lets Envoy derive it from `status`.
    pub grpc_status: Option<u8>,
}

/// Answers the request. In request headers the callback must return `Pause` afterwards; never twice on a stream.
///
/// # Errors
/// The host's status.
pub fn send_local_response(response: &LocalResponse<'_>) -> Result<()> {
    let headers = pairs::encode(response.headers);
    // SAFETY: all slices outlive the call.
    check(unsafe {
        abi::proxy_send_local_response(
            u32::from(response.status),
            response.details.as_ptr(),
            response.details.len(),
            response.body.as_ptr(),
            response.body.len(),
            headers.as_ptr(),
            headers.len(),
            response.grpc_status.map_or(-1, i32::from),
        )
    })
}

/// Puts `bytes` in the place of the piece of the response's body that the host hands over; only in the callback of the
/// response's body.
///
/// # Errors
/// The host's status.
pub fn replace_response_body(bytes: &[u8]) -> Result<()> {
    // SAFETY: `bytes` outlives the call.
    check(unsafe {
        abi::proxy_set_buffer_bytes(BUFFER_RESPONSE_BODY, 0, usize::MAX, bytes.as_ptr(), bytes.len())
    })
}

/// Memory for the host to return bytes in; [`bytes`] takes it over. Modules export it as `proxy_on_memory_allocate`.
#[must_use]
pub fn allocate(size: usize) -> *mut u8 {
    let mut buffer = Vec::<u8>::new();
    // A reservation that fails answers null, which the host reports as a failed call: better than a trap.
    if buffer.try_reserve_exact(size).is_err() {
        return std::ptr::null_mut();
    }
    std::mem::ManuallyDrop::new(buffer).as_mut_ptr()
}

/// Sets libc up. Modules export it as `_initialize`, which the host calls once, before anything else.
pub fn initialize() {
    #[cfg(target_os = "wasi")]
    // SAFETY: called once, at the start, as the linker expects.
    unsafe {
        abi::__wasm_call_ctors();
    }
}
