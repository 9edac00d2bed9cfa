//! Benchmark support: command-line options and timing.
#![allow(dead_code, reason = "each benchmark uses what it needs")]

use std::{
    fs,
    io::{self, Write as _},
    time::{Duration, Instant},
};

/// Samples per benchmark. The median is printed.
const SAMPLES: usize = 15;

/// Approximate length of a sample.
const SAMPLE: Duration = Duration::from_millis(100);

/// Runs benchmarks and prints their cost.
pub(crate) struct Bench {
    filter: String,
    /// Whether each benchmark makes a fixed number of runs without timing, for tools that
    /// count instructions.
    pub(crate) is_fixed: bool,
}

impl Bench {
    /// Reads the command line: `--fixed`, and a part of the benchmark names.
    pub(crate) fn from_arguments() -> Self {
        let mut bench = Self {
            filter: String::new(),
            is_fixed: false,
        };
        for argument in std::env::args().skip(1) {
            match argument.as_str() {
                "--fixed" => bench.is_fixed = true,
                // Cargo passes this flag.
                "--bench" => {}
                filter => bench.filter = filter.to_owned(),
            }
        }
        bench
    }

    /// Whether the filter selects this name.
    pub(crate) fn wants(&self, name: &str) -> bool {
        name.contains(&self.filter)
    }

    /// Runs `work`, which processes `items` items per call. With `--fixed` it is called
    /// `fixed` times; otherwise until the timing is stable.
    pub(crate) fn run(
        &self,
        name: &str,
        fixed: u32,
        items: u32,
        mut work: impl FnMut(),
    ) -> io::Result<()> {
        if !self.wants(name) {
            return Ok(());
        }
        if self.is_fixed {
            (0..fixed).for_each(|_| work());
            return writeln!(io::stdout(), "{name:<56} {fixed} runs");
        }
        let mut time = |runs: u32| {
            let start = Instant::now();
            (0..runs).for_each(|_| work());
            start.elapsed()
        };
        let once = (time(3) / 3).max(Duration::from_nanos(1));
        let runs = (SAMPLE.as_nanos() / once.as_nanos()).clamp(1, 1_000_000) as u32;
        let per_item =
            |elapsed: Duration| elapsed.as_nanos() as f64 / f64::from(runs) / f64::from(items);
        let mut samples: Vec<_> = (0..SAMPLES).map(|_| per_item(time(runs))).collect();
        samples.sort_by(f64::total_cmp);
        writeln!(
            io::stdout(),
            "{name:<56} {:>9.1} ns each (least {:.1})",
            samples[SAMPLES / 2],
            samples[0]
        )
    }
}

/// Resident memory in bytes, on Linux.
pub(crate) fn resident() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib << 10)
}
