//! The load tool: starts the binary under test, drives it over sockets, and shows
//! what it costs beside servers that only write bytes.
//!
//! `docs/performance.md` tells how figures are taken and what they mean.

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
            // Nowhere is left to say that even this cannot be said.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    if let Command::Bare { gather } = cli.command {
        return bare::serve(if gather {
            Writes::Gathered
        } else {
            Writes::Each
        });
    }
    let lab = Lab::new(&cli.common)?;
    match &cli.command {
        Command::Fanout(asked) => scenario::fanout::run(&lab, asked),
        Command::Ramp(asked) => scenario::ramp::run(&lab, asked),
        Command::Idle(asked) => scenario::idle::run(&lab, asked, "idle"),
        Command::Storm(asked) => scenario::idle::run(&lab, asked, "storm"),
        Command::Slow(asked) => scenario::slow::run(&lab, asked),
        Command::Drain(asked) => scenario::drain::run(&lab, asked),
        Command::Soak(asked) => scenario::soak::run(&lab, asked),
        Command::Bytes(asked) => scenario::bytes::run(&lab, asked),
        Command::Bars(asked) => scenario::bars::run(&lab, asked),
        Command::Bare { .. } => Ok(()),
    }
}
