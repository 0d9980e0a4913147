//! Plays many seeds, on all cores: `--seeds N --from K`, or one of them: `--seed S`.

use resilience_simulator::{Failure, Reached, Summary, hot, play};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

const USAGE: &str = "usage: resilience-simulator [--seeds N] [--from K] | --seed S";

/// What was asked for.
struct Asked {
    from: u64,
    seeds: u64,
}

fn main() -> ExitCode {
    let Some(asked) = asked(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let started = Instant::now();
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let parts: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| work(&asked, &next, &stop))).collect();
        workers.into_iter().filter_map(|worker| worker.join().ok()).collect()
    });
    let total = parts.iter().fold(Total::default(), |sum, (part, _)| sum.and(part));
    let seconds = started.elapsed().as_secs_f64().max(0.001);
    println!(
        "{} seeds from {}, {} steps, {} that the host made ambiguous: {:.1} s, {:.0} seeds/s",
        total.seeds,
        asked.from,
        total.steps,
        total.ambiguous,
        seconds,
        total.seeds as f64 / seconds,
    );
    println!("{:?}", total.reached);
    if asked.seeds > 1 {
        for (workers, pace, budget, how) in [
            (4, hot::BUSY, false, "every worker busy"),
            (16, hot::BUSY, false, "every worker busy"),
            (64, hot::BUSY, false, "every worker busy"),
            (64, hot::BUSY, true, "the same with a retry budget instead of the bulkhead"),
            (64, hot::MODERATE, false, "every worker at a tenth of that"),
            (64, hot::RELENTLESS, false, "asking without a pause"),
        ] {
            println!("{how}: {}", hot::play(workers, 100_000, pace, budget, asked.from));
        }
    }
    match parts.into_iter().filter_map(|(_, failure)| failure).min_by_key(|failure| failure.seed) {
        None if parts_complete(&total, &asked) => ExitCode::SUCCESS,
        None => ExitCode::FAILURE,
        Some(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// A thread that did not come back has played fewer.
fn parts_complete(total: &Total, asked: &Asked) -> bool {
    total.seeds == asked.seeds
}

#[derive(Default)]
struct Total {
    seeds: u64,
    steps: u64,
    reached: Reached,
    ambiguous: u64,
}

impl Total {
    fn and(self, other: &Self) -> Self {
        let mut reached = self.reached;
        reached += other.reached;
        Self {
            seeds: self.seeds + other.seeds,
            steps: self.steps + other.steps,
            reached,
            ambiguous: self.ambiguous + other.ambiguous,
        }
    }

    fn add(&mut self, run: Summary) {
        self.seeds += 1;
        self.steps += run.steps;
        self.reached += run.reached;
        self.ambiguous += u64::from(run.ambiguous);
    }
}

fn work(asked: &Asked, next: &AtomicU64, stop: &AtomicBool) -> (Total, Option<Box<Failure>>) {
    let mut total = Total::default();
    while !stop.load(Ordering::Relaxed) {
        let index = next.fetch_add(1, Ordering::Relaxed);
        if index >= asked.seeds {
            break;
        }
        match play(asked.from.wrapping_add(index), None) {
            Ok(run) => total.add(run),
            Err(failure) => {
                stop.store(true, Ordering::Relaxed);
                return (total, Some(failure));
            }
        }
        if index > 0 && index.is_multiple_of(50_000) {
            println!("... {index} seeds");
        }
    }
    (total, None)
}

fn asked(mut args: impl Iterator<Item = String>) -> Option<Asked> {
    let mut asked = Asked { from: 0, seeds: 10_000 };
    while let Some(name) = args.next() {
        let number = args.next()?.parse().ok()?;
        match name.as_str() {
            "--seeds" => asked.seeds = number,
            "--from" | "--first" => asked.from = number,
            "--seed" => asked = Asked { from: number, seeds: 1 },
            _ => return None,
        }
    }
    Some(asked)
}
