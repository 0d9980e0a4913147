//! The one timer of a worker: a sign of life every 500 ms, and the ends of waits.

use crate::*;

const CALL: &str = "proxy_set_tick_period_milliseconds";

/// A worker whose timer goes off when Envoy's would.
struct Clock {
    shop: Shop,
    /// For how long the timer has been running.
    since: Duration,
    /// How often the timer was set.
    set: usize,
}

impl Clock {
    fn new(config: &str) -> Self {
        Self { shop: Shop::with(config, 1), since: Duration::ZERO, set: 0 }
    }

    fn period(&self) -> Duration {
        Duration::from_millis(self.shop.vm().tick_period(ROOT).unwrap().into())
    }

    /// To set a timer starts it anew.
    fn look(&mut self) {
        let set = self.shop.vm().calls().iter().filter(|call| call.function == CALL).count();
        if set > self.set {
            (self.set, self.since) = (set, Duration::ZERO);
        }
    }

    /// Lets time pass; returns how often the timer was set meanwhile.
    fn pass(&mut self, time: Duration) -> usize {
        self.look();
        let (before, mut left) = (self.set, time);
        while !left.is_zero() {
            let step = left.min(self.period() - self.since);
            self.shop.host.advance(step);
            left -= step;
            self.since += step;
            if self.since == self.period() {
                self.since = Duration::ZERO;
                self.shop.vm().tick(ROOT).unwrap();
                self.look();
            }
        }
        self.set - before
    }

    /// How often it was set since the last look.
    fn set_by(&mut self, act: impl FnOnce(&Shop)) -> usize {
        self.look();
        let before = self.set;
        act(&self.shop);
        self.look();
        self.set - before
    }
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn waits_for(wait: &str) -> String {
    patient(1).replace(r#""max_wait_duration": "10s""#, &format!(r#""max_wait_duration": "{wait}""#))
}

/// When a request was answered, from now on, to the millisecond.
fn answered_after(clock: &mut Clock, stream: &FakeStream) -> u64 {
    let start = clock.shop.host.now();
    while stream.local_response().is_none() {
        clock.pass(ms(1));
        assert!(clock.shop.host.now() - start < 60_000_000_000, "it waits for ever");
    }
    (clock.shop.host.now() - start) / 1_000_000
}

#[test]
fn without_anybody_who_waits_it_is_set_once() {
    for config in [CONFIG.to_owned(), strict(1), patient(1)] {
        let mut clock = Clock::new(&config);
        clock.look();
        assert_eq!((clock.set, clock.period()), (1, TICK), "{config}");
        for _ in 0..10 {
            let traffic = |shop: &Shop| drop(serve(shop.vm(), End::Status(200)).unwrap());
            assert_eq!((clock.set_by(traffic), clock.pass(ms(730))), (0, 0), "{config}");
        }
    }
}

#[test]
fn the_end_of_a_wait_is_answered_when_it_comes() {
    let mut clock = Clock::new(&waits_for("250ms"));
    let holder = hold(clock.shop.vm());
    clock.pass(ms(100));
    let mut waiter = None;
    assert_eq!(clock.set_by(|shop| waiter = Some(wait(shop.vm()))), 1);
    let waiter = waiter.unwrap();
    assert_eq!(clock.period(), ms(250));
    assert_eq!(answered_after(&mut clock, &waiter), 250);
    let reply = refused(&waiter);
    assert_eq!((reply.status, reply.callback.as_str()), (503, "proxy_on_tick"));
    assert_eq!(reply.header("x-resilience").unwrap(), "checkout;reason=bulkhead_full;source=none");
    assert_eq!((crowd(&clock.shop), clock.shop.metric(FULL)), ((1, 0), 1));
    assert_eq!(clock.shop.host.histogram(WAITS), [250]);
    // The rest until the sign of life, then as ever.
    assert_eq!(clock.period(), ms(150));
    assert_eq!((clock.pass(ms(150)), clock.period()), (1, TICK));
    assert_eq!(clock.pass(ms(5000)), 0);
    leave(&holder, End::Status(200));
    assert_eq!(crowd(&clock.shop), (0, 0));
}

#[test]
fn whose_wait_ends_first_is_answered_first_and_signs_of_life_go_on() {
    let mut clock = Clock::new(&waits_for("1200ms"));
    let holder = hold(clock.shop.vm());
    let first = wait(clock.shop.vm());
    clock.pass(ms(130));
    let mut second = None;
    assert_eq!(clock.set_by(|shop| second = Some(wait(shop.vm()))), 0, "nothing is due before the beat");
    let second = second.unwrap();
    assert_eq!((answered_after(&mut clock, &first), second.local_response()), (1070, None));
    assert_eq!(answered_after(&mut clock, &second), 130);
    [first, second].iter().for_each(|stream| drop(refused(stream)));
    let before = clock.shop.host.data_writes();
    clock.pass(ms(5000));
    let beats = clock.shop.host.data_writes() - before;
    assert!((9..=11).contains(&beats), "{beats} signs of life in 5 s");
    assert_eq!(clock.period(), TICK);
    leave(&holder, End::Status(200));
    assert_eq!(crowd(&clock.shop), (0, 0));
}

#[test]
fn one_that_goes_on_or_leaves_is_not_waited_for() {
    for leaves in [false, true] {
        let mut clock = Clock::new(&waits_for("50ms"));
        clock.pass(ms(500));
        let holder = hold(clock.shop.vm());
        let waiter = wait(clock.shop.vm());
        clock.pass(ms(20));
        if leaves {
            waiter.finish().unwrap();
        } else {
            leave(&holder, End::Status(200));
            deliver(&clock.shop);
            assert_eq!(went_on(&waiter), 1);
        }
        // At most one that goes off for nothing, then the beat as ever.
        assert!(clock.pass(ms(480)) <= 2);
        assert_eq!((clock.pass(ms(5000)), clock.period()), (0, TICK));
        assert_eq!(waiter.local_response(), None);
        assert_eq!(clock.shop.metric(FULL), 0);
    }
}

#[test]
fn a_permit_that_came_before_the_end_of_the_wait_is_taken_though_its_message_was_lost() {
    let mut clock = Clock::new(&waits_for("250ms"));
    let holder = hold(clock.shop.vm());
    let waiter = wait(clock.shop.vm());
    clock.shop.vm().fail_kind("proxy_enqueue_shared_queue", status::INTERNAL_FAILURE);
    leave(&holder, End::Status(200));
    clock.pass(ms(249));
    assert_eq!(went_on(&waiter), 0);
    clock.pass(ms(1));
    assert_eq!((went_on(&waiter), waiter.local_response()), (1, None));
    leave(&waiter, End::Status(200));
    assert_eq!(crowd(&clock.shop), (0, 0));
}
