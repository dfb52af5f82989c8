//! What this process was given: CPU and memory limits of its cgroup (v2 or v1), descriptors, pages.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Number of data-path threads without a setting: the CPU limit rounded up, else at most two.
pub fn workers() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    match cpu_limit(Path::new("/sys/fs/cgroup")) {
        Some(limit) => limit.clamp(1, cores),
        None => cores.min(2),
    }
}

/// The cgroup's CPU limit in whole cores, rounded up; `None` without one.
fn cpu_limit(root: &Path) -> Option<usize> {
    let v2 = || {
        let text = fs::read_to_string(root.join("cpu.max")).ok()?;
        let (quota, period) = text.trim().split_once(' ')?;
        Some((quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?))
    };
    let v1 = || {
        let read = |name: &str| {
            let text = fs::read_to_string(root.join("cpu").join(name)).ok()?;
            text.trim().parse::<u64>().ok()
        };
        Some((read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?))
    };
    let (quota, period) = v2().or_else(v1)?;
    usize::try_from(quota.div_ceil(period.max(1))).ok()
}

/// The cgroup's memory limit in bytes; `None` without one.
pub fn memory_limit() -> Option<u64> {
    let read = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    read("/sys/fs/cgroup/memory.max")
        .or_else(|| read("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
        .filter(|bytes| *bytes < 1 << 60)
}

/// No huge pages: where the kernel gives them to everybody, the few hundred pages that an idle proxy
/// touches would each be 2 MiB.
pub fn small_pages_only() {
    _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// Makes the allocator look for freed memory that it may give back. mimalloc does so when a page of
/// its own becomes free, a second later at the earliest; a process that falls silent frees nothing
/// more, and what its last second freed would stay resident. So this frees something: larger than
/// what the allocator shares pages for, never touched.
pub fn give_back_freed() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(1 << 20)));
}

/// Raises the descriptor limit as far as allowed; returns what is in force.
pub fn raise_nofile() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_limit_is_read_from_both_cgroup_versions() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(cpu_limit(root.path()), None);
        fs::create_dir(root.path().join("cpu")).unwrap();
        fs::write(root.path().join("cpu/cpu.cfs_quota_us"), "-1\n").unwrap();
        fs::write(root.path().join("cpu/cpu.cfs_period_us"), "100000\n").unwrap();
        assert_eq!(cpu_limit(root.path()), None, "-1 is no limit");
        fs::write(root.path().join("cpu/cpu.cfs_quota_us"), "150000\n").unwrap();
        assert_eq!(cpu_limit(root.path()), Some(2));
        fs::write(root.path().join("cpu.max"), "max 100000\n").unwrap();
        assert_eq!(cpu_limit(root.path()), Some(2), "no v2 limit, the v1 one counts");
        fs::write(root.path().join("cpu.max"), "50000 100000\n").unwrap();
        assert_eq!(cpu_limit(root.path()), Some(1));
    }
}
