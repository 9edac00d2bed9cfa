//! Load tool: drives the binary under test over sockets, and compares its cost with reference
//! servers that only write bytes.
//!
//! `docs/performance.md` explains how figures are measured, and their meaning.

mod cli;
mod client;
mod clock;
mod histogram;
mod lab;
mod machine;
mod mark;
mod peer;
mod report;
mod rig;
mod scenario;
mod server;
mod tally;
mod wire;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command};
use lab::Lab;
use peer::bare::{self, Writes};

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If stderr is closed, the error cannot be reported.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    if let Command::Bare { gather } = cli.command {
        return bare::serve(if gather {
            Writes::Coalesced
        } else {
            Writes::Each
        });
    }
    let lab = Lab::new(&cli.common)?;
    match &cli.command {
        Command::Fanout(options) => scenario::fanout::run(&lab, options),
        Command::Ramp(options) => scenario::ramp::run(&lab, options),
        Command::Idle(options) => scenario::idle::run(&lab, options, "idle"),
        Command::Storm(options) => scenario::idle::run(&lab, options, "storm"),
        Command::Slow(options) => scenario::slow::run(&lab, options),
        Command::Drain(options) => scenario::drain::run(&lab, options),
        Command::Soak(options) => scenario::soak::run(&lab, options),
        Command::Bytes(options) => scenario::bytes::run(&lab, options),
        Command::Bars(options) => scenario::bars::run(&lab, options),
        Command::Bare { .. } => Ok(()),
    }
}
