//! What all workers of one Envoy process have in common: shared data, queues, metrics and the clock.

use crate::faults::status;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How a metric behaves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Is set.
    Gauge,
    /// Records a distribution; the fake keeps every value.
    Histogram,
}

#[derive(Debug)]
struct Metric {
    kind: MetricKind,
    value: u64,
    recorded: Vec<u64>,
}

impl Metric {
    fn shown(&self) -> u64 {
        match self.kind {
            MetricKind::Histogram => self.recorded.len() as u64,
            _ => self.value,
        }
    }
}

#[derive(Debug)]
struct Queue {
    name: (String, Vec<u8>),
    owner: (usize, u32),
    entries: VecDeque<Vec<u8>>,
}

#[derive(Debug)]
struct State {
    data: BTreeMap<Vec<u8>, (Vec<u8>, u32)>,
    cas: u32,
    metrics: BTreeMap<Vec<u8>, Metric>,
    /// A queue's token is its place here plus one.
    queues: Vec<Queue>,
    notifications: Vec<(usize, u32, u32)>,
    clock: u64,
    vms: usize,
    data_writes: usize,
}

/// One Envoy process. Cheap to clone: all clones are the same process.
#[derive(Clone, Debug)]
pub struct SharedHost(Arc<Mutex<State>>);

impl Default for SharedHost {
    fn default() -> Self {
        Self::new()
    }
}

impl SharedHost {
    /// A process that has just started, an hour into its machine's monotonic clock.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            data: BTreeMap::new(),
            cas: 1,
            metrics: BTreeMap::new(),
            queues: Vec::new(),
            notifications: Vec::new(),
            clock: 3_600_000_000_000,
            vms: 0,
            data_writes: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that failed while it held the lock has already said why.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Monotonic nanoseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.state().clock
    }

    /// Sets the monotonic clock, backwards too.
    pub fn set_clock(&self, nanoseconds: u64) {
        self.state().clock = nanoseconds;
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state();
        state.clock = state.clock.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX));
    }

    /// A key's bytes and compare-and-swap number.
    #[must_use]
    pub fn data(&self, key: impl AsRef<[u8]>) -> Option<(Vec<u8>, u32)> {
        self.state().data.get(key.as_ref()).cloned()
    }

    /// Writes as Envoy does: 0 overwrites, any number creates a key that is not there, else it has to match.
    ///
    /// # Errors
    /// The ABI's status for a mismatch.
    pub fn set_data(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        cas: u32,
    ) -> std::result::Result<(), u32> {
        let state = &mut *self.state();
        state.data_writes += 1;
        if let Some((_, current)) = state.data.get(key.as_ref())
            && cas != 0
            && cas != *current
        {
            return Err(status::CAS_MISMATCH);
        }
        // Numbers are one sequence for all keys; 0 is never given out, it means "whatever is there".
        let next = state.cas;
        state.cas = match state.cas.wrapping_add(1) {
            0 => 1,
            number => number,
        };
        state.data.insert(key.as_ref().to_vec(), (value.as_ref().to_vec(), next));
        Ok(())
    }

    /// All keys in order.
    #[must_use]
    pub fn keys(&self) -> Vec<Vec<u8>> {
        self.state().data.keys().cloned().collect()
    }

    /// How often anyone tried to write shared data, by a module or by a test.
    #[must_use]
    pub fn data_writes(&self) -> usize {
        self.state().data_writes
    }

    /// The number that the next write gets, for tests of its wrap.
    pub fn set_next_cas(&self, next: u32) {
        self.state().cas = next.max(1);
    }

    /// The value of a counter or gauge; the number of values of a histogram. `None` where nobody defined it.
    #[must_use]
    pub fn metric(&self, name: impl AsRef<[u8]>) -> Option<u64> {
        self.state().metrics.get(name.as_ref()).map(Metric::shown)
    }

    /// Everything defined, by name: its kind and value, as [`Self::metric`] gives it.
    #[must_use]
    pub fn metrics(&self) -> BTreeMap<String, (MetricKind, u64)> {
        self.state()
            .metrics
            .iter()
            .map(|(name, metric)| (String::from_utf8_lossy(name).into_owned(), (metric.kind, metric.shown())))
            .collect()
    }

    /// The values that a histogram recorded, in order.
    #[must_use]
    pub fn histogram(&self, name: impl AsRef<[u8]>) -> Vec<u64> {
        self.state().metrics.get(name.as_ref()).map(|metric| metric.recorded.clone()).unwrap_or_default()
    }

    pub(crate) fn enter(&self) -> usize {
        let mut state = self.state();
        state.vms += 1;
        state.vms
    }

    pub(crate) fn define_metric(&self, kind: MetricKind, name: &[u8]) {
        self.state().metrics.entry(name.to_vec()).or_insert(Metric { kind, value: 0, recorded: Vec::new() });
    }

    pub(crate) fn increment_metric(&self, kind: MetricKind, name: &[u8], offset: i64) -> u32 {
        let mut state = self.state();
        let Some(metric) = state.metrics.get_mut(name) else { return status::NOT_FOUND };
        match kind {
            MetricKind::Counter if offset > 0 => {
                metric.value = metric.value.wrapping_add_signed(offset);
                status::OK
            }
            // Envoy wraps a gauge below zero rather than refuse.
            MetricKind::Gauge => {
                metric.value = metric.value.wrapping_add_signed(offset);
                status::OK
            }
            _ => status::BAD_ARGUMENT,
        }
    }

    pub(crate) fn record_metric(&self, kind: MetricKind, name: &[u8], value: u64) -> u32 {
        let mut state = self.state();
        let Some(metric) = state.metrics.get_mut(name) else { return status::NOT_FOUND };
        match kind {
            MetricKind::Counter => metric.value = metric.value.wrapping_add(value),
            MetricKind::Gauge => metric.value = value,
            MetricKind::Histogram => metric.recorded.push(value),
        }
        status::OK
    }

    pub(crate) fn register_queue(&self, vm: usize, root: u32, vm_id: &str, name: &[u8]) -> u32 {
        let state = &mut *self.state();
        let name = (vm_id.to_owned(), name.to_vec());
        let place = state.queues.iter().position(|queue| queue.name == name).unwrap_or_else(|| {
            state.queues.push(Queue { name, owner: (vm, root), entries: VecDeque::new() });
            state.queues.len() - 1
        });
        // The last to register owns it; what is in it stays.
        state.queues[place].owner = (vm, root);
        place as u32 + 1
    }

    /// The number of a queue that some VM of `vm_id` registered; the VMs of this host are all of `"vm"`.
    #[must_use]
    pub fn resolve_queue(&self, vm_id: &str, name: &[u8]) -> Option<u32> {
        let state = self.state();
        let place = state.queues.iter().position(|queue| queue.name.0 == vm_id && queue.name.1 == name)?;
        Some(place as u32 + 1)
    }

    /// Puts a message into a queue, as any VM of the process may, and returns the ABI's status.
    pub fn enqueue(&self, token: u32, data: Vec<u8>) -> u32 {
        let state = &mut *self.state();
        let Some(queue) = (token as usize).checked_sub(1).and_then(|place| state.queues.get_mut(place))
        else {
            return status::NOT_FOUND;
        };
        queue.entries.push_back(data);
        state.notifications.push((queue.owner.0, queue.owner.1, token));
        status::OK
    }

    pub(crate) fn dequeue(&self, token: u32) -> std::result::Result<Vec<u8>, u32> {
        let mut state = self.state();
        let queue = (token as usize).checked_sub(1).and_then(|place| state.queues.get_mut(place));
        queue.ok_or(status::NOT_FOUND)?.entries.pop_front().ok_or(status::EMPTY)
    }

    /// Takes what is to be told to this VM's roots: (root, queue).
    pub(crate) fn notifications(&self, vm: usize) -> Vec<(u32, u32)> {
        let mut state = self.state();
        let (ours, others) =
            std::mem::take(&mut state.notifications).into_iter().partition(|(of, ..)| *of == vm);
        state.notifications = others;
        let ours: Vec<(usize, u32, u32)> = ours;
        ours.into_iter().map(|(_, root, token)| (root, token)).collect()
    }
}
