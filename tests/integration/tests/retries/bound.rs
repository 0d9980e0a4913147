//! What a budget promises for every prefix of its life, whatever comes: attempts are at most the requests, a share of them,
//! and the floor, which comes back as what was spent leaves the window.

use resilience_test_harness::{Running, Upstream};
use std::time::{Duration, Instant};

/// A budget's numbers, and the attempts that they allow.
#[derive(Clone, Copy)]
pub(crate) struct Bound {
    /// A divisor of 100, or 0: then what a retry costs is not rounded.
    pub(crate) percent: usize,
    /// Retries that nobody need have paid for: `min_retries_per_second` times the seconds of `ttl`, or `max_balance`.
    pub(crate) floor: usize,
    pub(crate) ttl: Duration,
}

impl Bound {
    /// The budget that nobody has written.
    pub(crate) const DEFAULT: Self = Self { percent: 20, floor: 100, ttl: Duration::from_secs(10) };

    /// Retries after so many requests in a time that began before the first of them.
    pub(crate) fn retries(self, requests: usize, elapsed: Duration) -> usize {
        let slice = self.ttl / 10;
        let windows = (elapsed + slice).as_nanos().div_ceil((slice * 10).as_nanos());
        requests * self.percent / 100 + self.floor * usize::try_from(windows).expect("a few")
    }

    /// Attempts, which are the requests and their retries.
    pub(crate) fn attempts(self, requests: usize, elapsed: Duration) -> usize {
        requests + self.retries(requests, elapsed)
    }
}

/// What was seen of a flow while it ran.
pub(crate) struct Watch {
    pub(crate) looks: usize,
    pub(crate) requests: usize,
    pub(crate) attempts: usize,
    pub(crate) elapsed: Duration,
}

impl Bound {
    /// Holds every moment of a flow to the bound, to its end.
    pub(crate) async fn holds(self, running: &mut Running, upstream: &Upstream) -> Watch {
        let mut watch = Watch { looks: 0, requests: 0, attempts: 0, elapsed: Duration::ZERO };
        running
            .watch(|running| {
                // In this order: what the upstream has got was sent before, and paid.
                let attempts = upstream.requests();
                let (requests, elapsed) = (running.sent(), running.elapsed());
                let most = self.attempts(requests, elapsed);
                assert!(
                    attempts <= most,
                    "{attempts} attempts of {requests} requests after {elapsed:?}, at most {most}"
                );
                watch = Watch { looks: watch.looks + 1, requests, attempts, elapsed };
            })
            .await;
        watch
    }
}

/// Waits until so many requests of a flow were sent.
pub(crate) async fn sent(running: &Running, requests: usize) {
    let started = Instant::now();
    while running.sent() < requests {
        assert!(started.elapsed() < Duration::from_secs(120), "{} sent, not {requests}", running.sent());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_the_documentation() {
        let bound = Bound::DEFAULT;
        for (seconds, attempts) in [(0, 2500), (9, 2500), (10, 2600), (19, 2600), (20, 2700)] {
            assert_eq!(bound.attempts(2000, Duration::from_secs(seconds)), attempts, "{seconds}");
        }
    }
}
