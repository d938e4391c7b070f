//! What Linux tells of processes and processors; nowhere else do load runs depend on it.

use std::fs;
use std::io;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of the machine's steady clock, which all processes share.
pub fn now() -> u64 {
    let it = clock_gettime(ClockId::Monotonic);
    it.tv_sec as u64 * 1_000_000_000 + it.tv_nsec as u64
}

/// Keeps this thread, and every thread and process that it starts, on one processor, until dropped.
#[derive(Debug)]
pub struct Pinned(CpuSet);

impl Pinned {
    /// # Errors
    /// When there is no such processor.
    pub fn to(core: usize) -> io::Result<Self> {
        let before = sched_getaffinity(None)?;
        let mut only = CpuSet::new();
        only.set(core);
        sched_setaffinity(None, &only)?;
        Ok(Self(before))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = sched_setaffinity(None, &self.0);
    }
}

/// Processors of this machine.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The processor's name, and how many of it there are.
pub fn name() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|it| it.strip_prefix("model name")?.split_once(':'));
    format!("{} × {}", cores(), model.map_or("unknown processor", |it| it.1.trim()))
}

/// Time that a process has had on processors, all its threads together.
pub fn cpu_time(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let running = threads.filter_map(|it| {
        let times = fs::read_to_string(it.path().join("schedstat")).ok()?;
        times.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(running.sum())
}

/// Memory that a process has for itself, in bytes. Its code, read from its file when it is first needed, is no call's.
///
/// Source: Linux, proc_pid_status(5), "RssAnon" and "RssShmem", in kB.
pub fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let of = |name| {
        let line = status.lines().find_map(|it| it.strip_prefix(name));
        line.and_then(|it| it.trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    of("RssAnon:") + of("RssShmem:")
}

/// Processor time that was taken away by whoever runs this machine, since it started.
pub fn stolen() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let steal = stat.lines().next().and_then(|it| it.split_whitespace().nth(8)?.parse::<u64>().ok()).unwrap_or(0);
    // In ticks of 10 ms.
    Duration::from_millis(steal * 10)
}
