//! The functions that a module imports, as Envoy would answer them.
//!
//! All imports come through [`answer`], so that counting and faults have one place to be in.

use crate::faults::{Faults, status};
use crate::record::Call;
use crate::shared::{MetricKind, SharedHost};
use crate::vm::{Context, Headers, LocalResponse, LogLine, Map, Mutation, MutationKind};
use std::collections::BTreeMap;
use wasmi::{Caller, Error, Memory, Val};

/// The state of one VM that its imports work on.
pub(crate) struct VmState {
    pub(crate) shared: SharedHost,
    pub(crate) number: usize,
    pub(crate) vm_id: String,
    pub(crate) faults: Faults,
    pub(crate) calls: Vec<Call>,
    pub(crate) logs: Vec<LogLine>,
    pub(crate) contexts: BTreeMap<u32, Context>,
    /// Properties that every context sees, such as the node's.
    pub(crate) properties: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The export that runs, and for which context.
    pub(crate) callback: (String, u32),
    pub(crate) effective: u32,
    pub(crate) configuration: Option<Vec<u8>>,
    pub(crate) metrics: BTreeMap<u32, (MetricKind, Vec<u8>)>,
    pub(crate) random: crate::random::Random,
    /// What the module did that no proxy-wasm host would survive or accept.
    pub(crate) violations: Vec<String>,
}

impl VmState {
    fn context(&mut self) -> Option<&mut Context> {
        self.contexts.get_mut(&self.effective).filter(|context| !context.gone)
    }
}

/// Why a host function did not do its work.
enum Refusal {
    /// The module gets this status.
    Status(u32),
    /// The module ends here.
    Trap(Error),
}

type Answer = Result<(), Refusal>;

fn refuse<T>(status: u32) -> Result<T, Refusal> {
    Err(Refusal::Status(status))
}

fn check(status: u32) -> Answer {
    if status == status::OK { Ok(()) } else { refuse(status) }
}

/// One call in progress.
struct Import<'a, 'b> {
    caller: &'a mut Caller<'b, VmState>,
    args: &'a [Val],
    /// Bytes handed over so far.
    handed: Option<usize>,
    injected: bool,
}

/// Where a function's arguments hold the name of what it is about: the place of the pointer; its length follows.
fn argument_place(function: &str) -> Option<usize> {
    Some(match function {
        "proxy_get_property"
        | "proxy_set_property"
        | "proxy_get_shared_data"
        | "proxy_set_shared_data"
        | "proxy_register_shared_queue" => 0,
        "proxy_log"
        | "proxy_get_header_map_value"
        | "proxy_add_header_map_value"
        | "proxy_replace_header_map_value"
        | "proxy_remove_header_map_value"
        | "proxy_define_metric"
        | "proxy_send_local_response" => 1,
        "proxy_resolve_shared_queue" => 2,
        _ => return None,
    })
}

/// Answers any import. The result is the status or errno; an error ends the module.
pub(crate) fn answer(
    caller: &mut Caller<'_, VmState>,
    module: &str,
    function: &str,
    args: &[Val],
) -> Result<u32, Error> {
    let (callback, context) = caller.data().callback.clone();
    let mut import = Import { caller, args, handed: None, injected: false };
    let argument = import.argument(function)?;
    let outcome = match import.state().faults.strike(function) {
        Some(status) => {
            import.injected = true;
            Err(Refusal::Status(status))
        }
        None => import.dispatch(module, function),
    };
    let (bytes, injected) = (import.handed, import.injected);
    let status = match outcome {
        Ok(()) => status::OK,
        Err(Refusal::Status(status)) => status,
        Err(Refusal::Trap(error)) => return Err(error),
    };
    caller.data_mut().calls.push(Call {
        function: function.to_owned(),
        argument,
        bytes: bytes.filter(|_| status == status::OK),
        status,
        callback,
        context,
        injected,
    });
    Ok(status)
}

impl Import<'_, '_> {
    fn state(&mut self) -> &mut VmState {
        self.caller.data_mut()
    }

    fn word(&self, place: usize) -> u32 {
        match self.args.get(place) {
            Some(Val::I32(value)) => *value as u32,
            _ => 0,
        }
    }

    fn long(&self, place: usize) -> i64 {
        match self.args.get(place) {
            Some(Val::I64(value)) => *value,
            _ => 0,
        }
    }

    fn memory(&mut self) -> Result<Memory, Refusal> {
        self.caller
            .get_export("memory")
            .and_then(wasmi::Extern::into_memory)
            .ok_or_else(|| Refusal::Trap(Error::new("the module exports no memory")))
    }

    /// Envoy answers a bad pointer with a status; here it is a bug of the module as well, and the test shall hear of it.
    fn outside<T>(&mut self, ptr: u32, len: usize) -> Result<T, Refusal> {
        let callback = self.state().callback.0.clone();
        let violation =
            format!("{callback}: a host call with {len} bytes at {ptr:#x}, outside of the memory");
        self.state().violations.push(violation);
        refuse(status::INVALID_MEMORY_ACCESS)
    }

    fn read(&mut self, ptr: u32, len: u32) -> Result<Vec<u8>, Refusal> {
        let memory = self.memory()?;
        let (start, len) = (ptr as usize, len as usize);
        let found = memory.data(&*self.caller).get(start..start.saturating_add(len)).map(<[u8]>::to_vec);
        match found {
            Some(bytes) => Ok(bytes),
            None => self.outside(ptr, len),
        }
    }

    fn write(&mut self, ptr: u32, bytes: &[u8]) -> Answer {
        let memory = self.memory()?;
        if memory.write(&mut *self.caller, ptr as usize, bytes).is_err() {
            return self.outside(ptr, bytes.len());
        }
        Ok(())
    }

    fn write_word(&mut self, ptr: u32, value: u32) -> Answer {
        self.write(ptr, &value.to_le_bytes())
    }

    /// The bytes whose pointer and length are these two arguments.
    fn slice(&mut self, place: usize) -> Result<Vec<u8>, Refusal> {
        self.read(self.word(place), self.word(place + 1))
    }

    fn argument(&mut self, function: &str) -> Result<Vec<u8>, Error> {
        let metric =
            matches!(function, "proxy_increment_metric" | "proxy_record_metric" | "proxy_get_metric");
        if metric {
            let id = self.word(0);
            return Ok(self.state().metrics.get(&id).map(|(_, name)| name.clone()).unwrap_or_default());
        }
        let Some(place) = argument_place(function) else { return Ok(Vec::new()) };
        match self.slice(place) {
            Ok(bytes) => Ok(bytes),
            // The call itself will find the same and answer it.
            Err(Refusal::Status(_)) => Ok(Vec::new()),
            Err(Refusal::Trap(error)) => Err(error),
        }
    }

    /// Hands bytes over as Envoy does: into memory that the module allocates, null and 0 where there are none.
    fn give(&mut self, value: &[u8], data_out: usize, len_out: usize) -> Answer {
        let scrambled = self.state().faults.scramble(value);
        self.injected |= scrambled.is_some();
        let value = scrambled.as_deref().unwrap_or(value);
        let mut ptr = 0;
        if !value.is_empty() {
            let allocate = ["proxy_on_memory_allocate", "malloc"]
                .iter()
                .find_map(|name| self.caller.get_export(name)?.into_func())
                .ok_or_else(|| Refusal::Trap(Error::new("the module has no way to allocate")))?;
            let allocate = allocate.typed::<u32, u32>(&*self.caller).map_err(Refusal::Trap)?;
            ptr = allocate.call(&mut *self.caller, value.len() as u32).map_err(Refusal::Trap)?;
            if ptr == 0 {
                return refuse(status::INVALID_MEMORY_ACCESS);
            }
            self.write(ptr, value)?;
            self.handed = Some(value.len());
        }
        self.write_word(self.word(data_out), ptr)?;
        self.write_word(self.word(len_out), value.len() as u32)
    }

    fn dispatch(&mut self, module: &str, function: &str) -> Answer {
        match (module, function) {
            ("env", "proxy_log") => self.log(),
            ("env", "proxy_get_log_level") => self.write_word(self.word(0), 2),
            ("env", "proxy_set_tick_period_milliseconds") => {
                let period = self.word(0);
                match self.state().context() {
                    Some(context) => context.tick_period = Some(period),
                    None => return refuse(status::BAD_ARGUMENT),
                }
                Ok(())
            }
            ("env", "proxy_get_buffer_bytes") => self.get_buffer_bytes(),
            ("env", "proxy_get_property") => self.get_property(),
            ("env", "proxy_set_property") => self.set_property(),
            ("env", "proxy_get_header_map_value") => self.get_header(),
            ("env", "proxy_get_header_map_pairs") => {
                let map = self.word(0);
                // An absent map is an empty one here, unlike everywhere else: so it is in Envoy.
                let pairs =
                    self.readable(map).ok().flatten().map(|map| encode_pairs(&map)).unwrap_or_default();
                self.give(&pairs, 1, 2)
            }
            ("env", "proxy_add_header_map_value") => self.mutate(MutationKind::Add),
            ("env", "proxy_replace_header_map_value") => self.mutate(MutationKind::Replace),
            ("env", "proxy_remove_header_map_value") => self.mutate(MutationKind::Remove),
            ("env", "proxy_get_shared_data") => {
                let key = self.slice(0)?;
                let Some((value, cas)) = self.state().shared.data(key) else {
                    return refuse(status::NOT_FOUND);
                };
                self.give(&value, 2, 3)?;
                self.write_word(self.word(4), cas)
            }
            ("env", "proxy_set_shared_data") => {
                let (key, value, cas) = (self.slice(0)?, self.slice(2)?, self.word(4));
                self.state().shared.set_data(key, value, cas).map_err(Refusal::Status)
            }
            ("env", "proxy_register_shared_queue") => {
                let name = self.slice(0)?;
                let state = self.state();
                // A stream registers for its root: only roots hear of queues.
                let root = state.contexts.get(&state.effective).map_or(state.effective, |context| {
                    if context.parent == 0 { state.effective } else { context.parent }
                });
                let token = state.shared.register_queue(state.number, root, &state.vm_id, &name);
                self.write_word(self.word(2), token)
            }
            ("env", "proxy_resolve_shared_queue") => {
                let (vm_id, name) = (self.slice(0)?, self.slice(2)?);
                let state = self.state();
                let vm_id = if vm_id.is_empty() {
                    state.vm_id.clone()
                } else {
                    String::from_utf8_lossy(&vm_id).into_owned()
                };
                match state.shared.resolve_queue(&vm_id, &name) {
                    Some(token) => self.write_word(self.word(4), token),
                    None => refuse(status::NOT_FOUND),
                }
            }
            ("env", "proxy_enqueue_shared_queue") => {
                let (token, data) = (self.word(0), self.slice(1)?);
                check(self.state().shared.enqueue(token, data))
            }
            ("env", "proxy_dequeue_shared_queue") => {
                let token = self.word(0);
                let data = self.state().shared.dequeue(token).map_err(Refusal::Status)?;
                self.give(&data, 1, 2)
            }
            ("env", "proxy_define_metric") => self.define_metric(),
            ("env", "proxy_increment_metric") => {
                let (id, offset) = (self.word(0), self.long(1));
                let (kind, name) = self.metric(id)?;
                check(self.state().shared.increment_metric(kind, &name, offset))
            }
            ("env", "proxy_record_metric") => {
                let (id, value) = (self.word(0), self.long(1) as u64);
                let (kind, name) = self.metric(id)?;
                check(self.state().shared.record_metric(kind, &name, value))
            }
            ("env", "proxy_get_metric") => {
                let (kind, name) = self.metric(self.word(0))?;
                if kind == MetricKind::Histogram {
                    return refuse(status::BAD_ARGUMENT);
                }
                let value = self.state().shared.metric(name).unwrap_or_default();
                self.write(self.word(1), &value.to_le_bytes())
            }
            ("env", "proxy_send_local_response") => self.send_local_response(),
            ("env", "proxy_set_effective_context") => {
                let id = self.word(0);
                if self.state().contexts.get(&id).is_none_or(|context| context.gone) {
                    return refuse(status::BAD_ARGUMENT);
                }
                self.state().effective = id;
                Ok(())
            }
            ("env", "proxy_continue_stream") => {
                let direction = self.word(0);
                if direction > 1 {
                    return refuse(status::BAD_ARGUMENT);
                }
                if let Some(context) = self.state().context() {
                    context.request.open = false;
                    context.continued.push(direction);
                }
                Ok(())
            }
            ("env", "proxy_get_current_time_nanoseconds") => {
                let now = self.wall_clock();
                self.write(self.word(0), &now.to_le_bytes())
            }
            ("env", "proxy_done" | "proxy_clear_route_cache") => Ok(()),
            ("wasi_snapshot_preview1" | "wasi_unstable", _) => self.wasi(function),
            _ => Err(Refusal::Trap(Error::new(format!(
                "the module called {module}.{function}, which this fake host does not have"
            )))),
        }
    }

    fn log(&mut self) -> Answer {
        let (level, message) = (self.word(0), self.slice(1)?);
        if level > 5 {
            return refuse(status::BAD_ARGUMENT);
        }
        let message = String::from_utf8_lossy(&message).into_owned();
        self.state().logs.push(LogLine { level, message });
        Ok(())
    }

    fn get_buffer_bytes(&mut self) -> Answer {
        let (kind, start, max) = (self.word(0), self.word(1) as usize, self.word(2) as usize);
        let buffer = match kind {
            // Bodies, of which this host has none, the call's data and the VM's configuration: there, and empty.
            0 | 1 | 4 | 6 => Vec::new(),
            7 => match self.state().configuration.clone() {
                Some(document) => document,
                None => return refuse(status::NOT_FOUND),
            },
            2 | 3 | 5 => return refuse(status::NOT_FOUND),
            _ => return refuse(status::BAD_ARGUMENT),
        };
        let part = buffer.get(start.min(buffer.len())..start.saturating_add(max).min(buffer.len()));
        let part = part.unwrap_or_default().to_vec();
        self.give(&part, 3, 4)
    }

    fn get_property(&mut self) -> Answer {
        let path = self.slice(0)?;
        let state = self.state();
        let own = state.context().and_then(|context| context.properties.get(&path).cloned());
        match own.or_else(|| state.properties.get(&path).cloned()) {
            Some(value) => self.give(&value, 2, 3),
            None => refuse(status::NOT_FOUND),
        }
    }

    fn set_property(&mut self) -> Answer {
        let (path, value) = (self.slice(0)?, self.slice(2)?);
        match self.state().context() {
            Some(context) if context.parent != 0 => {
                context.properties_set.push((path.clone(), value.clone()));
                // Envoy looks a property up by the path's first segment but stores it by the whole path.
                if !path.contains(&0) {
                    context.properties.insert(path, value);
                }
                Ok(())
            }
            _ => refuse(status::NOT_FOUND),
        }
    }

    /// The map that may be read now; `None` inside where it is absent without that being an error.
    fn readable(&mut self, map: u32) -> Result<Option<Headers>, Refusal> {
        let Some(map) = Map::numbered(map) else {
            return refuse(if map > 8 { status::BAD_ARGUMENT } else { status::NOT_FOUND });
        };
        let Some(context) = self.state().context() else { return refuse(status::BAD_ARGUMENT) };
        let logging = context.logging;
        let headers = context.map(map);
        match headers.open || logging {
            true => Ok(Some(headers.headers.clone())),
            // Maps of another phase.
            false => refuse(status::BAD_ARGUMENT),
        }
    }

    fn get_header(&mut self) -> Answer {
        let (map, name) = (self.word(0), self.slice(1)?);
        let headers = self.readable(map)?.unwrap_or_default();
        // The first of several, as Envoy answers.
        match headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(&name)) {
            Some((_, value)) => self.give(&value.clone(), 3, 4),
            None => refuse(status::NOT_FOUND),
        }
    }

    fn mutate(&mut self, kind: MutationKind) -> Answer {
        let (map, name) = (self.word(0), self.slice(1)?.to_ascii_lowercase());
        let value = if kind == MutationKind::Remove { Vec::new() } else { self.slice(3)? };
        if value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')) {
            let violation =
                format!("header {:?} set to a value that splits headers", String::from_utf8_lossy(&name));
            self.state().violations.push(violation);
        }
        let Some(map) = Map::numbered(map) else { return refuse(status::BAD_ARGUMENT) };
        let Some(context) = self.state().context() else { return refuse(status::BAD_ARGUMENT) };
        let headers = context.map(map);
        if !headers.open {
            return refuse(status::BAD_ARGUMENT);
        }
        if kind != MutationKind::Add {
            headers.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(&name));
        }
        if kind != MutationKind::Remove {
            headers.headers.push((name.clone(), value.clone()));
        }
        context.mutations.push(Mutation { map, kind, name, value });
        Ok(())
    }

    fn define_metric(&mut self) -> Answer {
        let (kind, name) = (self.word(0), self.slice(1)?);
        let kind_of = match kind {
            0 => MetricKind::Counter,
            1 => MetricKind::Gauge,
            2 => MetricKind::Histogram,
            _ => return refuse(status::BAD_ARGUMENT),
        };
        let state = self.state();
        state.shared.define_metric(kind_of, &name);
        // Ids belong to the VM, carry the kind in their lowest bits and are new for every definition.
        let id = ((state.metrics.len() as u32 + 1) << 2) | kind;
        state.metrics.insert(id, (kind_of, name));
        self.write_word(self.word(3), id)
    }

    fn metric(&mut self, id: u32) -> Result<(MetricKind, Vec<u8>), Refusal> {
        match self.state().metrics.get(&id).cloned() {
            Some(metric) => Ok(metric),
            None => refuse(if id & 3 == 3 { status::BAD_ARGUMENT } else { status::NOT_FOUND }),
        }
    }

    fn send_local_response(&mut self) -> Answer {
        let status = self.word(0);
        let (details, body, pairs) = (self.slice(1)?, self.slice(3)?, self.slice(5)?);
        let grpc_status = self.word(7) as i32;
        let callback = self.state().callback.0.clone();
        let headers = match decode_pairs(&pairs) {
            Some(headers) => headers,
            None => {
                self.state().violations.push(format!("{callback}: a local response with malformed headers"));
                Headers::new()
            }
        };
        let Some(context) = self.state().context().filter(|context| context.parent != 0) else {
            return Ok(());
        };
        context.local_responses.push(LocalResponse { status, details, headers, body, grpc_status, callback });
        if context.local_responses.len() > 1 {
            let id = self.state().effective;
            self.state().violations.push(format!("a second local response on stream {id}"));
        }
        Ok(())
    }

    fn wall_clock(&mut self) -> u64 {
        // Some fixed moment when the monotonic clock was 0.
        self.state().shared.now().saturating_add(1_700_000_000_000_000_000)
    }

    fn wasi(&mut self, function: &str) -> Answer {
        const BADF: u32 = 8;
        const INVAL: u32 = 28;
        const NOTSUP: u32 = 58;
        match function {
            "clock_time_get" => {
                let now = match self.word(0) {
                    0 => self.wall_clock(),
                    1 => self.state().shared.now(),
                    _ => return refuse(NOTSUP),
                };
                self.write(self.word(2), &now.to_le_bytes())
            }
            "environ_sizes_get" | "args_sizes_get" => {
                self.write_word(self.word(0), 0)?;
                self.write_word(self.word(1), 0)
            }
            "environ_get" | "args_get" | "sched_yield" => Ok(()),
            "random_get" => {
                let (ptr, len) = (self.word(0), self.word(1));
                if len > 65_536 {
                    return refuse(INVAL);
                }
                let bytes = self.state().random.bytes(len as usize);
                self.write(ptr, &bytes)
            }
            "fd_write" => {
                let level = match self.word(0) {
                    1 => 2,
                    2 => 4,
                    _ => return refuse(BADF),
                };
                let mut text = Vec::new();
                for part in 0..self.word(2) {
                    let place = self.word(1).wrapping_add(part.wrapping_mul(8));
                    let pair = self.read(place, 8)?;
                    let word =
                        |at: usize| u32::from_le_bytes([pair[at], pair[at + 1], pair[at + 2], pair[at + 3]]);
                    text.extend(self.read(word(0), word(4))?);
                }
                let message = String::from_utf8_lossy(&text).trim_end_matches('\n').to_owned();
                self.state().logs.push(LogLine { level, message });
                self.write_word(self.word(3), text.len() as u32)
            }
            "proc_exit" => Err(Refusal::Trap(Error::new(format!("the module exited with {}", self.word(0))))),
            "fd_close"
            | "fd_read"
            | "fd_seek"
            | "fd_fdstat_get"
            | "fd_prestat_get"
            | "fd_prestat_dir_name" => refuse(BADF),
            _ => Err(Refusal::Trap(Error::new(format!(
                "the module called {function} of WASI, which this fake host does not have"
            )))),
        }
    }
}

fn encode_pairs(headers: &Headers) -> Vec<u8> {
    if headers.is_empty() {
        return Vec::new();
    }
    let mut out = (headers.len() as u32).to_le_bytes().to_vec();
    for (name, value) in headers {
        out.extend((name.len() as u32).to_le_bytes());
        out.extend((value.len() as u32).to_le_bytes());
    }
    for part in headers.iter().flat_map(|(name, value)| [name, value]) {
        out.extend(part);
        out.push(0);
    }
    out
}

/// `None` where the bytes are not exactly what the ABI describes; no bytes at all mean no headers.
fn decode_pairs(bytes: &[u8]) -> Option<Headers> {
    fn word(bytes: &[u8], at: usize) -> Option<usize> {
        let word = bytes.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(word.try_into().ok()?) as usize)
    }
    fn part<'a>(bytes: &'a [u8], at: &mut usize, len: usize) -> Option<&'a [u8]> {
        let end = at.checked_add(len)?;
        let part = bytes.get(*at..end)?;
        if bytes.get(end) != Some(&0) {
            return None;
        }
        *at = end + 1;
        Some(part)
    }
    if bytes.is_empty() {
        return Some(Headers::new());
    }
    let count = word(bytes, 0)?;
    let mut at = count.checked_mul(8)?.checked_add(4)?;
    let mut headers = Headers::new();
    for index in 0..count {
        let (name, value) = (word(bytes, 4 + index * 8)?, word(bytes, 8 + index * 8)?);
        headers.push((part(bytes, &mut at, name)?.to_vec(), part(bytes, &mut at, value)?.to_vec()));
    }
    (at == bytes.len()).then_some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_survive_both_ways_and_anything_else_is_refused() {
        let headers: Headers = vec![(b"a".to_vec(), Vec::new()), (b"b\xff".to_vec(), b"two".to_vec())];
        let bytes = encode_pairs(&headers);
        assert_eq!(decode_pairs(&bytes), Some(headers));
        assert_eq!(decode_pairs(&[]), Some(Headers::new()));
        assert_eq!(decode_pairs(&[0, 0, 0, 0]), Some(Headers::new()));
        for len in 1..bytes.len() {
            assert_eq!(decode_pairs(&bytes[..len]), None, "cut at {len}");
        }
        assert_eq!(decode_pairs(&[255; 12]), None);
    }
}
