//! One worker's VM, and the callbacks of its roots that a test drives as Envoy would.

use crate::faults::Faults;
use crate::guest::Guest;
use crate::output::{Action, Failure, LogLine, Result};
use crate::record::{Call, Counts};
use crate::shared::SharedHost;
use crate::state::{Context, VmState};
use crate::stream::FakeStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use wasmi::{Instance, Store, Val, ValType};

pub(crate) struct Inner {
    pub(crate) store: Store<VmState>,
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
    pub(crate) fn call(&mut self, callback: &str, context: u32, args: &[Val]) -> Result<Option<u64>> {
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

    pub(crate) fn context(&mut self, id: u32) -> &mut Context {
        self.store.data_mut().contexts.entry(id).or_default()
    }

    pub(crate) fn create(&mut self, id: u32) -> Result<()> {
        let context = self.context(id);
        if context.created {
            return Ok(());
        }
        context.created = true;
        let parent = context.parent;
        self.call("proxy_on_context_create", id, &words(&[id, parent])).map(drop)
    }

    /// Calls an export that decides about the stream; one that is absent lets it pass.
    pub(crate) fn decide(&mut self, callback: &str, id: u32, args: &[u32]) -> Result<Action> {
        Ok(match self.call(callback, id, &words(args))? {
            None | Some(0) => Action::Continue,
            Some(1) => Action::Pause,
            Some(other) => Action::Other(other as u32),
        })
    }
}

pub(crate) fn words(args: &[u32]) -> Vec<Val> {
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
        let loaded = guest.instantiate(VmState::new(shared)).map_err(|error| Failure {
            callback: "load".to_owned(),
            context: 0,
            message: error.to_string(),
            last_words: Vec::new(),
        });
        let (store, instance) = loaded?;
        let mut inner = Inner { store, instance, dead: None, next_id: 1, started: false };
        inner.call("_initialize", 0, &[])?;
        Ok(Self(Arc::new(Mutex::new(inner))))
    }

    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
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
        FakeStream::new(self.clone(), id)
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
