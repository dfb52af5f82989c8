//! What the bench needs from Linux: which cores it may use, pinning, and what a process has
//! cost so far. A child inherits the cores of the thread that spawns it, so a proxy is pinned
//! from its first instruction and no tool such as `taskset` is needed.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// The two cores of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    /// Load generator and server.
    pub(crate) load: usize,
    /// Both proxies of the pair under test.
    pub(crate) proxies: usize,
}

impl Cores {
    /// Takes the first core this process may use for the load and the last for the proxies.
    pub(crate) fn pick() -> Result<Cores> {
        let allowed = sched_getaffinity(None).context("could not read the CPU affinity")?;
        let usable: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
        match usable.as_slice() {
            [load, .., proxies] => Ok(Cores { load: *load, proxies: *proxies }),
            _ => bail!("the bench needs two cores: one for the proxies, one for load and server"),
        }
    }
}

/// Pins the calling thread, and whatever it starts from now on.
pub(crate) fn pin_thread(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("could not pin to core {cpu}"))
}

/// Lets the calling thread, and whatever it starts from now on, use both cores.
pub(crate) fn spread_thread(cores: Cores) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cores.load);
    set.set(cores.proxies);
    sched_setaffinity(None, &set).context("could not use both cores")
}

/// CPU time the calling thread has used.
pub(crate) fn own_cpu_time() -> Duration {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(used).unwrap_or_default()
}

/// CPU time a process has used, all threads, user and system, ended threads included.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
    let ticks = stat_ticks(&stat).with_context(|| format!("{path} has an unknown form"))?;
    Ok(from_ticks(ticks))
}

/// Fields 14 and 15 of `/proc/PID/stat`; the second field, a name in parentheses, may hold blanks.
fn stat_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// CPU time all processes together have used on all cores, without interrupts, which nobody owns.
/// Time the hypervisor gave to others counts: it is missing all the same.
pub(crate) fn cpu_time_of_all() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat").context("could not read /proc/stat")?;
    let ticks = all_ticks(&stat).context("/proc/stat has an unknown form")?;
    Ok(from_ticks(ticks))
}

/// The first line: user, nice, system, idle, iowait, irq, softirq, steal.
fn all_ticks(stat: &str) -> Option<u64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
    let fields: Vec<u64> = fields.map_while(|field| field.parse().ok()).collect();
    [0, 1, 2, 7].iter().map(|at| fields.get(*at).copied()).sum()
}

fn from_ticks(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Resident memory of a process in bytes.
pub(crate) fn resident_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/statm");
    let statm = fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
    let pages = statm.split_ascii_whitespace().nth(1).and_then(|field| field.parse::<u64>().ok());
    let pages = pages.with_context(|| format!("{path} has an unknown form"))?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// The processor's name and how many cores the kernel shows, for the record beside the figures.
pub(crate) fn describe() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown processor", |(_, name)| name.trim());
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {cores} cores, Linux {}", release.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_a_name_with_blanks_and_parentheses() {
        let stat = "17 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 42 58 0 0 20 0 1";
        assert_eq!(stat_ticks(stat), Some(100));
        assert_eq!(stat_ticks("17 a S"), None);
    }

    #[test]
    fn idle_time_and_interrupts_are_nobodys() {
        assert_eq!(all_ticks("cpu  1 2 4 800 1600 32 64 128 0 0\ncpu0 1"), Some(135));
        assert_eq!(all_ticks("cpu  1 2"), None);
    }
}
