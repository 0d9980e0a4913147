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
    /// How many of policies this VM may define.
    static MOST: Cell<usize> = const { Cell::new(0) };
}

/// Has this VM define as many metrics as any of its configurations allows. What is beyond is not written, and counted.
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
pub(super) struct Lazy(Option<Metric>);

impl Lazy {
    pub(super) fn add(&mut self, name: impl FnOnce() -> String, by: u32) {
        self.write(MetricKind::Counter, name, |metric| add(metric, by.into()));
    }

    pub(super) fn set(&mut self, name: impl FnOnce() -> String, value: u64) {
        self.write(MetricKind::Gauge, name, |metric| metric.record(value));
    }

    pub(super) fn observe(&mut self, name: impl FnOnce() -> String, value: u64) {
        self.write(MetricKind::Histogram, name, |metric| metric.record(value));
    }

    fn write(
        &mut self,
        kind: MetricKind,
        name: impl FnOnce() -> String,
        act: impl FnOnce(Metric) -> Result<()>,
    ) {
        if !WRITTEN {
            return;
        }
        let known = self.0;
        let metric = known.map_or_else(|| define_if_there_is_room(kind, name()), |metric| Ok(Some(metric)));
        settle(metric.and_then(|metric| {
            self.0 = metric;
            metric.map_or(Ok(()), act)
        }));
    }
}

/// Counts what happens too seldom to keep a handle of it.
pub(super) fn count(name: String, by: u64) {
    if !WRITTEN {
        return;
    }
    let metric = define_if_there_is_room(MetricKind::Counter, name);
    settle(metric.and_then(|metric| metric.map_or(Ok(()), |metric| add(metric, by))));
}

/// The same of a distribution.
pub(super) fn observe(name: String, value: u64) {
    Lazy::default().observe(|| name, value);
}

/// Counts what is not a policy's: there is always room for that. It is there from when it is first counted by 0.
pub(super) fn count_always(name: &str, by: u64) {
    if !WRITTEN {
        return;
    }
    settle(define(MetricKind::Counter, name.to_owned()).and_then(|metric| add(metric, by)));
}

/// The host takes no increment by 0.
fn add(metric: Metric, by: u64) -> Result<()> {
    if by == 0 { Ok(()) } else { metric.increment(i64::try_from(by).unwrap_or(i64::MAX)) }
}

/// Shows what is not a policy's.
pub(super) fn set_always(name: &str, value: u64) {
    if !WRITTEN {
        return;
    }
    settle(define(MetricKind::Gauge, name.to_owned()).and_then(|metric| metric.record(value)));
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
    if has_room {
        return define(kind, name).map(Some);
    }
    let is_first = DEFINED.with_borrow(|defined| !defined.contains_key(DROPPED));
    if is_first {
        let most = MOST.get();
        let remedy = "\"max_metrics\" allows more";
        log(Level::Warn, &format!("this worker has defined {most} metrics, others are not shown: {remedy}"));
    }
    count_always(DROPPED, 1);
    Ok(None)
}

/// A count that is lost must not change what happens to a request.
pub(super) fn settle(result: Result<()>) {
    if let Err(status) = result {
        log(Level::Debug, &format!("a metric could not be written: {status}"));
    }
}
