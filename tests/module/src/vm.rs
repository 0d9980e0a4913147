//! One worker's VM, its contexts, and the callbacks that a test drives as Envoy would.

use crate::faults::Faults;
use crate::imports::{self, VmState};
use crate::record::{Call, Counts};
use crate::shared::SharedHost;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use wasmi::{Engine, ExternType, Instance, Linker, Module, Store, Val, ValType};

/// Header names and values, as bytes: a client may send anything.
pub type Headers = Vec<(Vec<u8>, Vec<u8>)>;

/// Headers from text.
#[must_use]
pub fn headers(pairs: &[(&str, &str)]) -> Headers {
    pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

/// A header map of a stream, numbered as the ABI does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Map {
    /// 0
    RequestHeaders,
    /// 1
    RequestTrailers,
    /// 2
    ResponseHeaders,
    /// 3
    ResponseTrailers,
}

impl Map {
    pub(crate) fn numbered(number: u32) -> Option<Self> {
        [Self::RequestHeaders, Self::RequestTrailers, Self::ResponseHeaders, Self::ResponseTrailers]
            .get(number as usize)
            .copied()
    }
}

/// What the module wants with the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Go on to the next filter.
    Continue,
    /// Wait: for a reply of ours, or to be continued.
    Pause,
    /// A number that this host does not know.
    Other(u32),
}

/// How a header map was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MutationKind {
    /// Added beside others of its name.
    Add,
    /// Set in place of others of its name.
    Replace,
    /// Removed.
    Remove,
}

/// One change of a header map that the host accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mutation {
    /// Which map.
    pub map: Map,
    /// How.
    pub kind: MutationKind,
    /// In lower case.
    pub name: Vec<u8>,
    /// Empty for a removal.
    pub value: Vec<u8>,
}

/// A reply that the module made instead of the upstream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalResponse {
    /// HTTP status.
    pub status: u32,
    /// The response code details.
    pub details: Vec<u8>,
    /// The additional headers, in order.
    pub headers: Headers,
    /// The body.
    pub body: Vec<u8>,
    /// `grpc-status`; -1 leaves it to Envoy.
    pub grpc_status: i32,
    /// The export that sent it.
    pub callback: String,
}

impl LocalResponse {
    /// The value of the first additional header of this name, as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        find(&self.headers, name)
    }
}

fn find(headers: &Headers, name: &str) -> Option<String> {
    let (_, value) = headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes()))?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// A line of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogLine {
    /// 0 trace, 1 debug, 2 info, 3 warn, 4 error, 5 critical; what a dying process writes to stderr is an error.
    pub level: u32,
    /// What it says.
    pub message: String,
}

impl fmt::Display for LogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level =
            ["trace", "debug", "info", "warn", "error"].get(self.level as usize).unwrap_or(&"critical");
        write!(f, "{level}: {}", self.message)
    }
}

/// The module trapped, or did what no host accepts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The export that ran.
    pub callback: String,
    /// For which context.
    pub context: u32,
    /// The trap's message, or what the module did.
    pub message: String,
    /// The last lines it logged: a Rust panic says there where it was.
    pub last_words: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for context {}: {}", self.callback, self.context, self.message)?;
        for line in &self.last_words {
            write!(f, "\n    {line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

type Result<T> = std::result::Result<T, Failure>;

#[derive(Default)]
pub(crate) struct HeaderMap {
    pub(crate) headers: Headers,
    /// Whether Envoy would let the module at it in this phase.
    pub(crate) open: bool,
}

/// A root (`parent` 0) or a stream.
#[derive(Default)]
pub(crate) struct Context {
    pub(crate) parent: u32,
    pub(crate) created: bool,
    /// Deleted: kept only for what a test wants to know about it.
    pub(crate) gone: bool,
    pub(crate) tick_period: Option<u32>,
    pub(crate) request: HeaderMap,
    pub(crate) request_trailers: HeaderMap,
    pub(crate) response: HeaderMap,
    pub(crate) response_trailers: HeaderMap,
    /// In the log callback every map can be read.
    pub(crate) logging: bool,
    pub(crate) properties: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) properties_set: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) mutations: Vec<Mutation>,
    pub(crate) local_responses: Vec<LocalResponse>,
    pub(crate) continued: Vec<u32>,
}

impl Context {
    pub(crate) fn map(&mut self, map: Map) -> &mut HeaderMap {
        match map {
            Map::RequestHeaders => &mut self.request,
            Map::RequestTrailers => &mut self.request_trailers,
            Map::ResponseHeaders => &mut self.response,
            Map::ResponseTrailers => &mut self.response_trailers,
        }
    }
}

/// A compiled module. Compile it once: tests make thousands of VMs of it.
#[derive(Clone)]
pub struct Guest {
    module: Module,
    linker: Arc<Linker<VmState>>,
}

impl Guest {
    /// Compiles a module, binary or text.
    ///
    /// # Errors
    /// Why it is no module that a host could load.
    pub fn compile(wasm: &[u8]) -> std::result::Result<Self, String> {
        let engine = Engine::default();
        let module = Module::new(&engine, wasm).map_err(|error| error.to_string())?;
        let mut linker = Linker::new(&engine);
        for import in module.imports() {
            let (from, name) = (import.module().to_owned(), import.name().to_owned());
            let ExternType::Func(ty) = import.ty() else {
                return Err(format!("the module imports {from}.{name}, which is no function"));
            };
            let ty = ty.clone();
            // A name that occurs twice with different types is not ours to sort out.
            linker
                .func_new(&from.clone(), &name.clone(), ty, move |mut caller, args, results| {
                    let status = imports::answer(&mut caller, &from, &name, args)?;
                    if let Some(result) = results.first_mut() {
                        *result = Val::I32(status as i32);
                    }
                    Ok(())
                })
                .map_err(|error| error.to_string())?;
        }
        Ok(Self { module, linker: Arc::new(linker) })
    }

    /// The module that `RESILIENCE_WASM` names, compiled once per test process.
    ///
    /// # Panics
    /// If the variable is not set, or the file cannot be read or is no module.
    #[must_use]
    pub fn under_test() -> Self {
        static GUEST: OnceLock<Guest> = OnceLock::new();
        GUEST
            .get_or_init(|| {
                let path = std::env::var("RESILIENCE_WASM").unwrap_or_else(|_| {
                    panic!(
                        "RESILIENCE_WASM is not set: it has to hold the absolute path of the module under test; \
                         `make build` leaves it at dist/resilience.wasm"
                    )
                });
                let wasm = std::fs::read(Path::new(&path)).unwrap_or_else(|error| {
                    panic!("RESILIENCE_WASM={path}: {error}; `make build` leaves the module at dist/resilience.wasm")
                });
                Guest::compile(&wasm).unwrap_or_else(|error| panic!("RESILIENCE_WASM={path}: {error}"))
            })
            .clone()
    }

    /// The imports, as `module.name`.
    #[must_use]
    pub fn imports(&self) -> Vec<String> {
        self.module.imports().map(|import| format!("{}.{}", import.module(), import.name())).collect()
    }

    /// The exports' names.
    #[must_use]
    pub fn exports(&self) -> Vec<String> {
        self.module.exports().map(|export| export.name().to_owned()).collect()
    }
}

struct Inner {
    store: Store<VmState>,
    instance: Instance,
    /// Why nothing runs here any more.
    dead: Option<String>,
    next_id: u32,
    started: bool,
}

impl Inner {
    fn failure(&mut self, callback: &str, context: u32, message: String) -> Failure {
        let logs = &self.store.data().logs;
        let last_words = logs.iter().rev().take(3).rev().map(LogLine::to_string).collect();
        Failure { callback: callback.to_owned(), context, message, last_words }
    }

    /// Calls an export if it is there.
    fn call(&mut self, callback: &str, context: u32, args: &[Val]) -> Result<Option<u64>> {
        if let Some(dead) = &self.dead {
            let message = format!("not called, the VM is dead since {dead}");
            return Err(self.failure(callback, context, message));
        }
        let Some(function) = self.instance.get_func(&self.store, callback) else { return Ok(None) };
        let ty = function.ty(&self.store);
        let mut results: Vec<Val> = ty.results().iter().map(|ty| Val::default_for_ty(*ty)).collect();
        let state = self.store.data_mut();
        state.callback = (callback.to_owned(), context);
        state.effective = context;
        let outcome = function.call(&mut self.store, args, &mut results);
        if let Err(error) = outcome {
            self.dead = Some(format!("{callback} trapped: {error}"));
            return Err(self.failure(callback, context, format!("trap: {error}")));
        }
        let violations = std::mem::take(&mut self.store.data_mut().violations);
        if !violations.is_empty() {
            return Err(self.failure(callback, context, violations.join("; ")));
        }
        Ok(results.first().map(|result| match result {
            Val::I32(value) => u64::from(*value as u32),
            Val::I64(value) => *value as u64,
            _ => 0,
        }))
    }

    fn context(&mut self, id: u32) -> &mut Context {
        self.store.data_mut().contexts.entry(id).or_default()
    }

    fn create(&mut self, id: u32) -> Result<()> {
        let context = self.context(id);
        if context.created {
            return Ok(());
        }
        context.created = true;
        let parent = context.parent;
        self.call("proxy_on_context_create", id, &words(&[id, parent])).map(drop)
    }

    /// Calls an export that decides about the stream; one that is absent lets it pass.
    fn decide(&mut self, callback: &str, id: u32, args: &[u32]) -> Result<Action> {
        Ok(match self.call(callback, id, &words(args))? {
            None | Some(0) => Action::Continue,
            Some(1) => Action::Pause,
            Some(other) => Action::Other(other as u32),
        })
    }
}

fn words(args: &[u32]) -> Vec<Val> {
    args.iter().map(|word| Val::I32(*word as i32)).collect()
}

/// One worker's VM. Clones are the same VM.
#[derive(Clone)]
pub struct FakeVm(Arc<Mutex<Inner>>);

impl FakeVm {
    /// Makes a VM of a compiled module in this process, and runs its `_initialize`.
    ///
    /// # Errors
    /// If the module does not start.
    pub fn load(guest: &Guest, shared: &SharedHost) -> Result<Self> {
        let number = shared.enter();
        let state = VmState {
            shared: shared.clone(),
            number,
            vm_id: "vm".to_owned(),
            faults: Faults::default(),
            calls: Vec::new(),
            logs: Vec::new(),
            contexts: BTreeMap::new(),
            properties: BTreeMap::new(),
            callback: ("load".to_owned(), 0),
            effective: 0,
            configuration: None,
            metrics: BTreeMap::new(),
            random: crate::random::Random::new(number as u64),
            violations: Vec::new(),
        };
        let mut store = Store::new(guest.module.engine(), state);
        let instance =
            guest.linker.instantiate_and_start(&mut store, &guest.module).map_err(|error| Failure {
                callback: "load".to_owned(),
                context: 0,
                message: error.to_string(),
                last_words: Vec::new(),
            })?;
        let mut inner = Inner { store, instance, dead: None, next_id: 1, started: false };
        inner.call("_initialize", 0, &[])?;
        Ok(Self(Arc::new(Mutex::new(inner))))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a root with this configuration: creates it, starts the VM if it is the first, and configures it. A
    /// second root is what Envoy makes of a new configuration while listeners with the old one drain.
    ///
    /// # Errors
    /// If the module traps.
    pub fn configure(&self, root: u32, document: impl AsRef<[u8]>) -> Result<bool> {
        let inner = &mut *self.inner();
        inner.next_id = inner.next_id.max(root + 1);
        inner.create(root)?;
        if !inner.started {
            inner.started = true;
            if inner.call("proxy_on_vm_start", root, &words(&[root, 0]))? == Some(0) {
                return Ok(false);
            }
        }
        let document = document.as_ref();
        inner.store.data_mut().configuration = Some(document.to_vec());
        let answer = inner.call("proxy_on_configure", root, &words(&[root, document.len() as u32]));
        inner.store.data_mut().configuration = None;
        Ok(answer? != Some(0))
    }

    /// Runs a root's timer.
    ///
    /// # Errors
    /// If the module traps.
    pub fn tick(&self, root: u32) -> Result<()> {
        self.inner().call("proxy_on_tick", root, &words(&[root])).map(drop)
    }

    /// How often the root asked to be ticked, in milliseconds.
    #[must_use]
    pub fn tick_period(&self, root: u32) -> Option<u32> {
        self.inner().context(root).tick_period
    }

    /// Ends a root, as when the last listener with its configuration has drained.
    ///
    /// # Errors
    /// If the module traps.
    pub fn delete_root(&self, root: u32) -> Result<()> {
        let inner = &mut *self.inner();
        inner.call("proxy_on_done", root, &words(&[root]))?;
        inner.call("proxy_on_delete", root, &words(&[root]))?;
        inner.store.data_mut().contexts.remove(&root);
        Ok(())
    }

    /// Tells this VM's roots of what others put into their queues. How many were told of.
    ///
    /// # Errors
    /// If the module traps.
    pub fn deliver_queues(&self) -> Result<usize> {
        let inner = &mut *self.inner();
        let state = inner.store.data();
        let pending = state.shared.notifications(state.number);
        for (root, token) in &pending {
            inner.call("proxy_on_queue_ready", *root, &words(&[*root, *token]))?;
        }
        Ok(pending.len())
    }

    /// A new request on this root, with nothing in it yet. The module hears of it with the first callback.
    #[must_use]
    pub fn stream(&self, root: u32) -> FakeStream {
        let inner = &mut *self.inner();
        let id = inner.next_id.max(root + 1);
        inner.next_id = id + 1;
        inner.context(id).parent = root;
        FakeStream { vm: self.clone(), id }
    }

    /// Calls any export with 32-bit arguments, the first of which is taken for the context: for ids that do not
    /// exist, and orders that Envoy never uses. `None` where there is no such export, or it returns nothing.
    ///
    /// # Errors
    /// If the module traps.
    pub fn call(&self, export: &str, args: &[u32]) -> Result<Option<u64>> {
        self.inner().call(export, args.first().copied().unwrap_or_default(), &words(args))
    }

    /// The same with 64-bit arguments where the export wants them.
    ///
    /// # Errors
    /// If the module traps.
    pub fn call_wide(&self, export: &str, args: &[i64]) -> Result<Option<u64>> {
        let inner = &mut *self.inner();
        let Some(function) = inner.instance.get_func(&inner.store, export) else { return Ok(None) };
        let ty = function.ty(&inner.store);
        let args: Vec<Val> = args
            .iter()
            .zip(ty.params())
            .map(|(arg, ty)| if *ty == ValType::I64 { Val::I64(*arg) } else { Val::I32(*arg as i32) })
            .collect();
        inner.call(export, 0, &args)
    }

    /// Bytes of the module's memory; empty where they lie outside.
    #[must_use]
    pub fn read_memory(&self, at: usize, len: usize) -> Vec<u8> {
        let inner = self.inner();
        let memory = inner.instance.get_memory(&inner.store, "memory");
        let bytes = memory.and_then(|memory| memory.data(&inner.store).get(at..at + len).map(<[u8]>::to_vec));
        bytes.unwrap_or_default()
    }

    /// Writes the module's memory.
    ///
    /// # Panics
    /// If the place lies outside.
    pub fn write_memory(&self, at: usize, bytes: &[u8]) {
        let inner = &mut *self.inner();
        let memory = inner.instance.get_memory(&inner.store, "memory").expect("a memory");
        memory.write(&mut inner.store, at, bytes).expect("a place inside the memory");
    }

    /// Linear memory in bytes.
    #[must_use]
    pub fn memory_size(&self) -> usize {
        let inner = self.inner();
        inner.instance.get_memory(&inner.store, "memory").map_or(0, |memory| memory.data_size(&inner.store))
    }

    /// A property that every context sees.
    pub fn set_property(&self, path: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let value = value.as_ref().to_vec();
        self.inner().store.data_mut().properties.insert(path.as_ref().to_vec(), value);
    }

    /// What it logged so far.
    #[must_use]
    pub fn logs(&self) -> Vec<LogLine> {
        self.inner().store.data().logs.clone()
    }

    /// What it logged since the last time it was asked, and forgets it.
    pub fn take_logs(&self) -> Vec<LogLine> {
        std::mem::take(&mut self.inner().store.data_mut().logs)
    }

    /// Every host call so far, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.inner().store.data().calls.clone()
    }

    /// Every host call so far, and forgets them.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.inner().store.data_mut().calls)
    }

    /// The calls so far by kind.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts::of(&self.inner().store.data().calls)
    }

    /// Whether faults can hit a function: all of the ABI's, and the clock.
    #[must_use]
    pub fn can_fail(function: &str) -> bool {
        Faults::can_fail(function)
    }

    /// How many calls were made that faults can hit: [`Self::fail_nth`] of a new VM counts the same ones.
    #[must_use]
    pub fn fallible_calls(&self) -> usize {
        self.inner().store.data().faults.seen
    }

    /// The `n`th host call from now on, from 0, answers with this status instead of doing anything.
    pub fn fail_nth(&self, n: usize, status: u32) {
        self.inner().store.data_mut().faults.fail_nth(n, status);
    }

    /// Every call of this function answers with this status from now on.
    pub fn fail_kind(&self, function: &str, status: u32) {
        self.inner().store.data_mut().faults.fail_kind(function, status);
    }

    /// Any call answers with some status with this probability (of 1.0), the same ones for the same seed.
    pub fn fail_random(&self, seed: u64, probability: f64) {
        self.inner().store.data_mut().faults.fail_random(seed, probability);
    }

    /// Bytes that the host returns are replaced with this probability by none, other, fewer or far too many.
    pub fn scramble_random(&self, seed: u64, probability: f64) {
        self.inner().store.data_mut().faults.scramble_random(seed, probability);
    }

    /// The next so many writes of shared data find that somebody wrote first.
    pub fn cas_conflicts(&self, times: usize) {
        self.inner().store.data_mut().faults.cas_conflicts(times);
    }

    /// Everything works again.
    pub fn clear_faults(&self) {
        self.inner().store.data_mut().faults.clear();
    }
}

/// One request on its way through the module. Dropping it tells the module nothing, as when a worker dies.
pub struct FakeStream {
    vm: FakeVm,
    id: u32,
}

impl Drop for FakeStream {
    fn drop(&mut self) {
        // One that was never deleted stays: its callbacks could still act on it, as on a stream of a stopped worker.
        let inner = &mut *self.vm.inner();
        if inner.context(self.id).gone {
            inner.store.data_mut().contexts.remove(&self.id);
        }
    }
}

impl FakeStream {
    /// Its context id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    fn with<T>(&self, work: impl FnOnce(&mut Context) -> T) -> T {
        work(self.vm.inner().context(self.id))
    }

    /// What the client sends.
    pub fn set_request_headers(&self, headers: Headers) -> &Self {
        self.with(|context| context.request.headers = headers);
        self
    }

    /// What the upstream, or Envoy in its place, answers.
    pub fn set_response_headers(&self, headers: Headers) -> &Self {
        self.with(|context| context.response.headers = headers);
        self
    }

    /// How the answer ends.
    pub fn set_response_trailers(&self, headers: Headers) -> &Self {
        self.with(|context| context.response_trailers.headers = headers);
        self
    }

    /// A property, its path with NUL between the segments.
    pub fn set_property(&self, path: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &Self {
        self.with(|context| context.properties.insert(path.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    /// Takes a property away.
    pub fn remove_property(&self, path: impl AsRef<[u8]>) -> &Self {
        self.with(|context| context.properties.remove(path.as_ref()));
        self
    }

    fn headers_callback(&self, map: Map, callback: &str, end: Option<bool>) -> Result<Action> {
        let inner = &mut *self.vm.inner();
        if map == Map::RequestHeaders {
            inner.create(self.id)?;
        }
        let headers = inner.context(self.id).map(map);
        headers.open = true;
        let count = headers.headers.len() as u32;
        let action = match end {
            Some(end) => inner.decide(callback, self.id, &[self.id, count, u32::from(end)]),
            None => inner.decide(callback, self.id, &[self.id, count]),
        };
        // Envoy takes the map away when the stream moves on, and keeps it while the module holds it.
        if matches!(action, Ok(Action::Continue)) && inner.context(self.id).local_responses.is_empty() {
            inner.context(self.id).map(map).open = false;
        }
        action
    }

    /// The request's headers arrive.
    ///
    /// # Errors
    /// If the module traps.
    pub fn request_headers(&self, end: bool) -> Result<Action> {
        self.headers_callback(Map::RequestHeaders, "proxy_on_request_headers", Some(end))
    }

    /// The response's headers arrive.
    ///
    /// # Errors
    /// If the module traps.
    pub fn response_headers(&self, end: bool) -> Result<Action> {
        self.headers_callback(Map::ResponseHeaders, "proxy_on_response_headers", Some(end))
    }

    /// The response's trailers arrive.
    ///
    /// # Errors
    /// If the module traps.
    pub fn trailers(&self) -> Result<Action> {
        self.headers_callback(Map::ResponseTrailers, "proxy_on_response_trailers", None)
    }

    /// The module's own reply comes back through its response callbacks, as Envoy's local replies do.
    ///
    /// # Errors
    /// If the module traps.
    ///
    /// # Panics
    /// If there is none.
    pub fn deliver_local_response(&self) -> Result<Action> {
        let reply = self.local_response().expect("a local response");
        let mut headers = headers(&[(":status", &reply.status.to_string())]);
        if !reply.body.is_empty() {
            headers.extend(self::headers(&[
                ("content-length", &reply.body.len().to_string()),
                ("content-type", "text/plain"),
            ]));
        }
        for (name, value) in reply.headers {
            headers.retain(|(other, _)| *other != name || name == b":status");
            headers.push((name, value));
        }
        self.set_response_headers(headers);
        self.response_headers(reply.body.is_empty())
    }

    /// The log callback, where every header map can be read.
    ///
    /// # Errors
    /// If the module traps.
    pub fn log(&self) -> Result<()> {
        let inner = &mut *self.vm.inner();
        // Envoy logs requests whose headers never came this far, and creates the context for it.
        inner.create(self.id)?;
        inner.context(self.id).logging = true;
        let outcome = inner.call("proxy_on_log", self.id, &words(&[self.id]));
        inner.context(self.id).logging = false;
        outcome.map(drop)
    }

    /// The done callback.
    ///
    /// # Errors
    /// If the module traps.
    pub fn done(&self) -> Result<()> {
        self.vm.inner().call("proxy_on_done", self.id, &words(&[self.id])).map(drop)
    }

    /// The delete callback; the module cannot come back to the context afterwards.
    ///
    /// # Errors
    /// If the module traps.
    pub fn delete(&self) -> Result<()> {
        let inner = &mut *self.vm.inner();
        let outcome = inner.call("proxy_on_delete", self.id, &words(&[self.id]));
        inner.context(self.id).gone = true;
        outcome.map(drop)
    }

    /// Log, done and delete, in Envoy's order.
    ///
    /// # Errors
    /// If the module traps.
    pub fn finish(&self) -> Result<()> {
        self.log()?;
        self.done()?;
        self.delete()
    }

    /// The reply that the module made, if it made one.
    #[must_use]
    pub fn local_response(&self) -> Option<LocalResponse> {
        self.with(|context| context.local_responses.first().cloned())
    }

    /// The changes of header maps so far.
    #[must_use]
    pub fn mutations(&self) -> Vec<Mutation> {
        self.with(|context| context.mutations.clone())
    }

    /// The properties that the module set, in order.
    #[must_use]
    pub fn properties_set(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.with(|context| context.properties_set.clone())
    }

    /// The last value that the module set for a property, as text.
    #[must_use]
    pub fn property_set(&self, path: impl AsRef<[u8]>) -> Option<String> {
        let set = self.properties_set();
        let (_, value) = set.iter().rev().find(|(other, _)| other == path.as_ref())?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    /// A header map as it is now.
    #[must_use]
    pub fn headers(&self, map: Map) -> Headers {
        self.with(|context| context.map(map).headers.clone())
    }

    /// A header as it is now, as text.
    #[must_use]
    pub fn header(&self, map: Map, name: &str) -> Option<String> {
        find(&self.headers(map), name)
    }

    /// The directions in which the module continued the stream (0 request, 1 response).
    #[must_use]
    pub fn continued(&self) -> Vec<u32> {
        self.with(|context| context.continued.clone())
    }

    /// The host calls made for this stream, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        let inner = self.vm.inner();
        inner.store.data().calls.iter().filter(|call| call.context == self.id).cloned().collect()
    }

    /// The same by kind.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts::of(&self.calls())
    }
}
