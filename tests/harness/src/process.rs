//! Child processes that do not outlive the tests, whatever way these end.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

type Order = (Command, Sender<io::Result<Child>>);

/// Spawns from a thread that lives as long as this process.
///
/// The kernel's parent-death signal is what ends Envoy when the test process is killed, when no destructor runs. It
/// fires when the *thread* that spawned the child ends, so a test's own thread must not be the one.
pub(crate) fn spawn(mut command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();
    // SAFETY: between fork and exec only `prctl` runs, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0 {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        });
    }
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                let _ = answer.send(command.spawn());
            }
        });
        orders
    });
    let (answer, result) = channel();
    spawner.send((command, answer)).expect("the spawning thread never ends");
    result.recv().expect("the spawning thread always answers")
}

/// Sends a signal to a child that has not been waited for, so that the number still is its own.
pub(crate) fn signal(child: &Child, signal: libc::c_int) {
    let pid = libc::pid_t::try_from(child.id()).expect("a process id fits");
    // SAFETY: takes no pointer.
    let status = unsafe { libc::kill(pid, signal) };
    assert_eq!(status, 0, "signal {signal} to {pid}: {}", io::Error::last_os_error());
}

/// The machine's monotonic clock, in nanoseconds: what a module in Envoy should see.
///
/// # Panics
/// If there is no such clock.
#[must_use]
pub fn monotonic_nanoseconds() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is valid for a write during the call.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    assert_eq!(status, 0, "{}", io::Error::last_os_error());
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).expect("since the machine started")
}

/// The CPU time of a process's living threads. The kernel counts it in nanoseconds, which `times` rounds to hundredths.
pub(crate) fn cpu_of(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    let nanoseconds = tasks.map(|task| {
        let file = task.expect("a thread").path().join("schedstat");
        // A thread may end between the two looks.
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0)
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// The resident memory of a process.
pub(crate) fn resident_kilobytes_of(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("every process has a size");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Keeps all threads of a process, and those they start, on one processor. Returns whether the kernel did.
#[must_use]
pub fn pin(pid: u32, processor: usize) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    tasks.fold(true, |pinned, task| {
        let name = task.expect("a thread").file_name();
        let thread = name.to_str().and_then(|name| name.parse().ok()).expect("a thread has a number");
        // SAFETY: an all-zero set is a valid one.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: `set` is a valid set; a number beyond its size is ignored.
        unsafe { libc::CPU_SET(processor, &mut set) };
        // SAFETY: `set` is valid for reads of its size during the call.
        let status = unsafe { libc::sched_setaffinity(thread, size_of_val(&set), &raw const set) };
        pinned && status == 0
    })
}
