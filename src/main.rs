//! Tidewire: the real-time backbone of a Web3 product in one server.
//!
//! This package is only the composition root: the command line, the configuration,
//! the wiring of the engines to the adapters, and telemetry.

mod cli;
mod config;
mod histories;
mod secret;
mod security;
mod serve;
mod telemetry;

use std::process::ExitCode;

/// Connections come and go with many small pieces of many sizes: glibc's allocator took
/// a seventh of the time of a connect.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    cli::run()
}
