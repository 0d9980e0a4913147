//! Runs the fuzzers of `tests/fuzz/targets`, which libFuzzer drives, over the inputs that are kept beside them.

mod inputs;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Names the directory of the fuzzers that were built.
const BUILT: &str = "RESILIENCE_FUZZERS";
/// No run of one input takes near this: one that does is a hang. In seconds.
const HANG: u32 = 60;
/// In megabytes.
const MEMORY: u32 = 2048;

/// The fuzzers, in the order in which they are run.
pub const TARGETS: [Target; 8] = [
    Target { name: "configuration", longest: 4096, dictionary: true },
    Target { name: "state", longest: 1024, dictionary: false },
    Target { name: "bulkhead", longest: 1024, dictionary: false },
    Target { name: "budget", longest: 1024, dictionary: false },
    Target { name: "steering", longest: 1024, dictionary: false },
    Target { name: "fallback", longest: 1024, dictionary: false },
    Target { name: "members", longest: 1024, dictionary: false },
    Target { name: "inspection", longest: 1024, dictionary: false },
];
/// The one with a mistake in it, see `bin/planted.rs`.
pub const PLANTED: Target = Target { name: "planted", longest: 64, dictionary: false };

/// A fuzzer.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The program.
    pub name: &'static str,
    /// The longest input it is given, in bytes.
    longest: u32,
    dictionary: bool,
}

/// When a run ends that finds nothing.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// After so many executions, always the same ones.
    Executions(u64),
    /// After so many seconds. What it learns is kept for the next time.
    Seconds(u64),
}

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// Whether it ended without a finding.
    pub clean: bool,
    /// How many executions there were, as far as the fuzzer came to tell.
    pub executions: u64,
    /// What the fuzzer said.
    pub log: String,
}

impl Target {
    /// Runs it.
    ///
    /// # Errors
    /// If it could not be started, or its files not be written.
    pub fn run(self, limit: Limit) -> io::Result<Report> {
        let place = built()?;
        let work = place.join("work").join(self.name);
        let seeds = work.join("seeds");
        empty(&seeds)?;
        inputs::unpack(self.name, &seeds)?;
        let findings = work.join("findings");
        fs::create_dir_all(&findings)?;
        let (learned, limits) = match limit {
            Limit::Executions(count) => {
                let learned = work.join("learned-by-test");
                empty(&learned)?;
                // What is learned is not read back: when that happens depends on the time.
                (learned, vec![format!("-runs={count}"), "-seed=1".to_owned(), "-reload=0".to_owned()])
            }
            Limit::Seconds(seconds) => {
                let learned = work.join("learned");
                fs::create_dir_all(&learned)?;
                (learned, vec![format!("-max_total_time={seconds}")])
            }
        };
        let mut command = Command::new(place.join(self.name));
        command.args(limits).arg(argument("-artifact_prefix=", &findings.join("")));
        if self.dictionary {
            command.arg(argument("-dict=", &inputs::directory().join("configuration.dict")));
        }
        command.arg(format!("-max_len={}", self.longest));
        command.args([format!("-timeout={HANG}"), format!("-rss_limit_mb={MEMORY}")]);
        command.arg("-print_final_stats=1").arg(&learned).arg(&seeds);
        report(&mut command)
    }

    /// Adds to the inputs that are kept what long runs have learned beyond them. Returns how many there are.
    ///
    /// # Errors
    /// If the fuzzer could not be started, failed, or its files could not be written.
    pub fn keep(self) -> io::Result<usize> {
        let place = built()?;
        let work = place.join("work").join(self.name);
        let (known, kept) = (work.join("known"), work.join("kept"));
        for directory in [&known, &kept] {
            empty(directory)?;
        }
        inputs::unpack_made(self.name, &kept)?;
        inputs::unpack(self.name, &known)?;
        inputs::copy_short(&work.join("learned"), &known)?;
        let mut command = Command::new(place.join(self.name));
        // Only what reaches code that nothing smaller reaches: how often code was run would keep many times as much.
        command.args(["-set_cover_merge=1", "-use_counters=0"]).arg(format!("-max_len={}", self.longest));
        command.arg(&kept).arg(&known);
        let report = report(&mut command)?;
        if !report.clean {
            return Err(io::Error::other(report.log));
        }
        inputs::pack_found(self.name, &kept)
    }
}

fn built() -> io::Result<PathBuf> {
    let place = std::env::var_os(BUILT).map(PathBuf::from);
    place.ok_or_else(|| io::Error::other(format!("{BUILT} is not set: use `make test-fuzz` or `make fuzz`")))
}

fn argument(name: &str, path: &Path) -> OsString {
    let mut argument = OsString::from(name);
    argument.push(path);
    argument
}

fn empty(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir_all(directory)
}

/// Runs a fuzzer to its end. It tells everything on standard error.
fn report(command: &mut Command) -> io::Result<Report> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(
            |error| io::Error::new(error.kind(), format!("{}: {error}", command.get_program().display())),
        )?;
    let mut said = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_end(&mut said)?;
    }
    let clean = child.wait()?.success();
    let log = String::from_utf8_lossy(&said).into_owned();
    Ok(Report { clean, executions: executions(&log), log })
}

/// The last number of executions that the log tells: its statistics, or the number that each line of it begins with.
fn executions(log: &str) -> u64 {
    let told = log.lines().filter_map(|line| {
        let number = line.strip_prefix("stat::number_of_executed_units:").or_else(|| {
            let (number, _) = line.strip_prefix('#')?.split_once(|letter: char| letter.is_whitespace())?;
            Some(number)
        })?;
        number.trim().parse().ok()
    });
    told.max().unwrap_or(0)
}
