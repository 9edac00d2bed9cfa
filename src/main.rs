//! Tidewire: the real-time backbone of a Web3 product in one server.
//!
//! This package is only the composition root: the command line, the configuration,
//! the wiring of the engines to the adapters, and telemetry.

mod cli;
mod config;
mod secret;
mod security;
mod serve;
mod telemetry;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
