//! Metrics by their names, each defined when it is first used, and once in a VM: the host gives out a new handle at every
//! definition and never takes one back, so configurations that follow each other must share them.

use crate::calls::{Level, Metric, MetricKind, Result, log};
use resilience_core::metrics::DROPPED;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;

/// Whether anything is written. The build where nothing is tells the benchmark what the writing costs; the counter of
/// changes, which is read to decide, is not written from here.
const WRITTEN: bool = !cfg!(feature = "bench-without-metrics");

thread_local! {
    static DEFINED: RefCell<HashMap<String, Metric>> = RefCell::default();
    /// How many there may be before there is no room for further counters and distributions.
    static MOST: Cell<usize> = const { Cell::new(0) };
    /// Counts what finds no room.
    static LEFT_OUT: Cell<Option<Metric>> = const { Cell::new(None) };
}

/// Has this VM define as many metrics as any of its configurations allows. Counters and distributions beyond that are not
/// written, and counted. Gauges are: they may be there already, and one that nobody sets any more would be wrong.
pub(crate) fn allow(most: u32) {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    MOST.set(MOST.get().max(most));
}

/// Whether less than half of what this VM may define is there: the rest is for what is used.
pub(crate) fn shows_unused() -> bool {
    DEFINED.with_borrow(|defined| defined.len() < MOST.get().div_euclid(2))
}

/// The handle of a metric that is used on every request.
#[derive(Debug, Default)]
pub(super) enum Lazy {
    #[default]
    Undefined,
    Defined(Metric),
    /// There were too many already, as many as were allowed then.
    NoRoom(usize),
}

impl Lazy {
    pub(super) fn add(&mut self, name: impl FnOnce() -> String, by: u64) {
        self.write(|| define_if_there_is_room(MetricKind::Counter, name()), |metric| add(metric, by));
    }

    pub(super) fn set(&mut self, name: impl FnOnce() -> String, value: u64) {
        self.write(|| define(MetricKind::Gauge, name()).map(Some), |metric| metric.record(value));
    }

    pub(super) fn observe(&mut self, name: impl FnOnce() -> String, value: u64) {
        self.write(|| define_if_there_is_room(MetricKind::Histogram, name()), |metric| metric.record(value));
    }

    fn write(
        &mut self,
        define: impl FnOnce() -> Result<Option<Metric>>,
        act: impl FnOnce(Metric) -> Result<()>,
    ) {
        if !WRITTEN {
            return;
        }
        let is_open = match self {
            Self::Undefined => true,
            Self::Defined(_) => false,
            Self::NoRoom(most) => MOST.get() > *most,
        };
        if is_open {
            *self = match define() {
                Ok(metric) => metric.map_or_else(|| Self::NoRoom(MOST.get()), Self::Defined),
                Err(status) => return settle(Err(status)),
            };
        }
        match self {
            Self::Defined(metric) => settle(act(*metric)),
            Self::NoRoom(_) | Self::Undefined => leave_out(),
        }
    }
}

/// Counts what happens too seldom to keep a handle of it.
pub(super) fn count(name: impl FnOnce() -> String, by: u64) {
    Lazy::default().add(name, by);
}

/// The same of a distribution.
pub(super) fn observe(name: impl FnOnce() -> String, value: u64) {
    Lazy::default().observe(name, value);
}

/// Counts what is not a policy's: there is always room for that. It is there from when it is first counted by 0.
pub(super) fn count_always(name: &str, by: u64) {
    if WRITTEN {
        settle(define(MetricKind::Counter, name.to_owned()).and_then(|metric| add(metric, by)));
    }
}

/// Shows what is not a policy's.
pub(super) fn set_always(name: &str, value: u64) {
    if WRITTEN {
        settle(define(MetricKind::Gauge, name.to_owned()).and_then(|metric| metric.record(value)));
    }
}

/// The host takes no increment by 0.
fn add(metric: Metric, by: u64) -> Result<()> {
    if by == 0 { Ok(()) } else { metric.increment(i64::try_from(by).unwrap_or(i64::MAX)) }
}

/// The metric of a name, however many there are.
pub(super) fn define(kind: MetricKind, name: String) -> Result<Metric> {
    DEFINED.with_borrow_mut(|defined| {
        if let Some(metric) = defined.get(&name) {
            return Ok(*metric);
        }
        let metric = Metric::define(kind, &name)?;
        defined.insert(name, metric);
        Ok(metric)
    })
}

/// The metric of a name; `None` where it would be one too many.
fn define_if_there_is_room(kind: MetricKind, name: String) -> Result<Option<Metric>> {
    let has_room = DEFINED.with_borrow(|defined| defined.len() < MOST.get() || defined.contains_key(&name));
    if has_room { define(kind, name).map(Some) } else { Ok(None) }
}

/// Counts a write that is not made for want of room.
fn leave_out() {
    let known = LEFT_OUT.get().map_or_else(first_left_out, Ok);
    settle(known.and_then(|metric| metric.increment(1)));
}

fn first_left_out() -> Result<Metric> {
    let metric = define(MetricKind::Counter, DROPPED.to_owned())?;
    LEFT_OUT.set(Some(metric));
    let most = MOST.get();
    let remedy = "\"max_metrics\" allows more";
    log(Level::Warn, &format!("this worker has defined {most} metrics, others are not shown: {remedy}"));
    Ok(metric)
}

/// A count that is lost must not change what happens to a request.
pub(super) fn settle(result: Result<()>) {
    if let Err(status) = result {
        log(Level::Debug, &format!("a metric could not be written: {status}"));
    }
}
