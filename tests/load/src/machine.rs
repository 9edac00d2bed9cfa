//! Operating-system figures: processor time and memory of a process, load, usable CPUs and
//! open-file limit.

use std::fs;

use anyhow::Context as _;
use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

/// Unit of the processor times in `/proc`, in nanoseconds. Linux exports them in hundredths of
/// a second on every architecture.
const TICK: u64 = 10_000_000;

/// Processor time, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CpuTime {
    pub(crate) user: u64,
    pub(crate) system: u64,
}

impl CpuTime {
    /// Processor time used by a process, or 0 once it has exited.
    pub(crate) fn of(pid: u32) -> Self {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The program's name stands in brackets and may hold anything.
        let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let mut ticks = fields
            .split(' ')
            .skip(11)
            .map(|field| field.parse().unwrap_or(0));
        let mut next = || ticks.next().unwrap_or(0) * TICK;
        let user = next();
        let system = next();
        Self { user, system }
    }

    /// Processor time used since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
        }
    }

    pub(crate) fn total(self) -> u64 {
        self.user + self.system
    }
}

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Resident memory.
    pub(crate) rss: u64,
    /// Proportional memory: each shared page is divided by its number of users.
    pub(crate) pss: u64,
}

impl Memory {
    /// Reads the memory of a process; 0 once it has exited.
    pub(crate) fn of(pid: u32) -> Self {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let field = |name: &str| {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.trim().split(' ').next());
            number
                .and_then(|number| number.parse::<u64>().ok())
                .unwrap_or(0)
                << 10
        };
        Self {
            rss: field("Rss:"),
            pss: field("Pss:"),
        }
    }
}

/// Returns the load average of the last minute.
pub(crate) fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split(' ').next().unwrap_or_default();
    first.parse().unwrap_or(0.0)
}

/// Raises the open-file limit to the hard limit, and returns it.
pub(crate) fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // If this fails, the old limit holds, and opening connections reports it.
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Returns the CPUs that this process may use.
pub(crate) fn own_cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else {
        return Vec::new();
    };
    (0..CpuSet::MAX_CPU)
        .filter(|&cpu| set.is_set(cpu))
        .collect()
}

/// Pins this thread and its later children to these CPUs.
pub(crate) fn keep_to(cpus: &[usize]) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        anyhow::ensure!(cpu < CpuSet::MAX_CPU, "there is no CPU {cpu}");
        set.set(cpu);
    }
    sched_setaffinity(None, &set).with_context(|| format!("the CPUs {cpus:?} cannot be used"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_and_an_ended_one_has_nothing() {
        let own = Memory::of(std::process::id());
        assert!(own.rss > 0 && own.pss > 0 && own.pss <= own.rss, "{own:?}");
        assert_eq!(Memory::of(u32::MAX), Memory::default());
        assert_eq!(CpuTime::of(u32::MAX), CpuTime::default());
        assert!(!own_cpus().is_empty());
    }
}
