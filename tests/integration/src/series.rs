//! Every series that our metrics make, held against what was counted elsewhere: none may be wrong, and none may be there that
//! nobody expects.

use crate::Edge;
use resilience_test_harness::{Metrics, PATIENCE};
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// What all our names begin with; left out of those here.
const PREFIX: &str = "resilience_";
/// The upper bounds of Envoy's buckets, in our unit, milliseconds.
const BUCKETS: [f64; 18] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
];
const LAST_BUCKET: f64 = 3_600_000.0;
/// Writes that met others' writes, which is chance, and what workers tell each other by: not what operators count.
const CHANCE: [&str; 2] = ["store_conflicts_total", "store_changes_total"];

/// Series by their whole names, each with what it may be.
#[derive(Debug, Clone, Default)]
pub struct Series(BTreeMap<String, RangeInclusive<u64>>);

impl Series {
    /// So much more is counted there.
    pub fn add(&mut self, name: &str, labels: &[(&str, &str)], by: u64) {
        self.add_within(name, labels, by..=by);
    }

    /// The same where a client cannot know it exactly.
    pub fn add_within(&mut self, name: &str, labels: &[(&str, &str)], by: RangeInclusive<u64>) {
        let so_far = self.0.entry(whole_name(name, labels)).or_insert(0..=0);
        *so_far = so_far.start() + by.start()..=so_far.end() + by.end();
    }

    /// It is shown as this now.
    pub fn set(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.0.insert(whole_name(name, labels), value..=value);
    }

    /// The same where it may have changed meanwhile.
    pub fn set_within(&mut self, name: &str, labels: &[(&str, &str)], values: RangeInclusive<u64>) {
        self.0.insert(whole_name(name, labels), values);
    }

    /// One more value of a distribution: in which bucket it is depends on how long it took, within these milliseconds.
    pub fn observe(&mut self, name: &str, labels: &[(&str, &str)], milliseconds: &RangeInclusive<u64>) {
        let (least, most) = (*milliseconds.start(), *milliseconds.end());
        self.add(&format!("{name}_count"), labels, 1);
        // Envoy makes the sum of the middles of bins, which are at most a tenth wide.
        self.add_within(&format!("{name}_sum"), labels, least * 9 / 10..=most * 11 / 10 + 1);
        let bucket = format!("{name}_bucket");
        for bound in BUCKETS.into_iter().chain([LAST_BUCKET]) {
            // Envoy's own bins have two digits, and the one that begins at a bound is counted whole.
            let bin = bound + 10_f64.powf(bound.log10().floor() - 1.0);
            let below = u64::from(most as f64 <= bound)..=u64::from((least as f64) < bin);
            self.add_within(&bucket, &[labels, &[("le", &bound.to_string())]].concat(), below);
        }
        self.add(&bucket, &[labels, &[("le", "+Inf")]].concat(), 1);
    }

    /// What is otherwise than expected, a line each.
    #[must_use]
    pub fn differences(&self, metrics: &Metrics) -> Vec<String> {
        let shown = shown(metrics);
        let expected = self.0.iter().filter_map(|(name, range)| match shown.get(name) {
            Some(value) if range.contains(&(*value as u64)) => None,
            Some(value) => Some(format!("{name} is {value}, not {range:?}")),
            None => Some(format!("{name} is missing, expected {range:?}")),
        });
        let others = shown.iter().filter(|(name, _)| !self.0.contains_key(*name));
        expected.chain(others.map(|(name, value)| format!("nobody expects {name}: {value}"))).collect()
    }
}

/// What Envoy shows of us.
fn shown(metrics: &Metrics) -> BTreeMap<String, f64> {
    let ours = metrics.names().into_iter().filter_map(|name| Some((name, name.strip_prefix(PREFIX)?)));
    let ours = ours.filter(|(_, short)| !CHANCE.contains(short));
    let all = ours.flat_map(|(name, short)| {
        metrics.of(name).map(move |(labels, value)| {
            let labels: Vec<_> =
                labels.iter().map(|(label, value)| (label.as_str(), value.as_str())).collect();
            (whole_name(short, &labels), value)
        })
    });
    all.collect()
}

fn whole_name(name: &str, labels: &[(&str, &str)]) -> String {
    let mut labels: Vec<_> = labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
    labels.sort();
    format!("{name}{{{}}}", labels.join(","))
}

impl Edge {
    /// Waits until our series are these and no others, and sees that they stay so: what is counted twice, or late, comes later.
    ///
    /// # Panics
    /// If they never are, with what is different.
    pub async fn wait_series(&self, expected: &Series) {
        let differences = async || expected.differences(&self.envoy.prometheus().await);
        let started = Instant::now();
        let mut last = differences().await;
        while !last.is_empty() {
            assert!(started.elapsed() < PATIENCE, "after {PATIENCE:?}:\n{}", last.join("\n"));
            tokio::time::sleep(Duration::from_millis(50)).await;
            last = differences().await;
        }
        // Two ticks of each worker.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(differences().await, Vec::<String>::new(), "a moment later");
    }
}

/// When something happened in Envoy, as far as a client can tell.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    not_before: Instant,
    not_after: Instant,
}

impl Moment {
    /// While this was done.
    pub async fn of<T>(act: impl Future<Output = T>) -> (Self, T) {
        let not_before = Instant::now();
        let done = act.await;
        (Self { not_before, not_after: Instant::now() }, done)
    }

    /// The same some time later.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self { not_before: self.not_before + span, not_after: self.not_after + span }
    }

    /// Since it has happened for certain.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        self.not_after.elapsed()
    }

    /// How many milliseconds there are to a later one.
    #[must_use]
    pub fn until(self, later: Self) -> RangeInclusive<u64> {
        let least = later.not_before.saturating_duration_since(self.not_after).as_millis() as u64;
        let most = later.not_after.saturating_duration_since(self.not_before).as_millis() as u64;
        least..=most + 1
    }
}
