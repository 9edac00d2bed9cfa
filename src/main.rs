//! Tidewire: the real-time backbone of a Web3 product in one server.
//!
//! This package is the composition root: command line, configuration, telemetry, and the
//! wiring of engines to the streaming core and the adapters.

mod agreement;
mod alerts;
mod broker;
mod chain_notifications;
mod chain_owner;
mod chain_reach;
mod cli;
mod clock_mark;
mod command_hint;
mod config;
mod delivery;
mod engine_store;
mod fallback;
mod feed;
mod health;
mod histories;
mod maintenance;
mod notifications;
mod open_files;
mod price_owner;
mod price_publisher;
mod roles;
mod sample;
mod secret;
mod security;
mod serve;
mod server_series;
mod shared_settings;
mod store_move;
mod telemetry;
mod term_clock;
mod unserved_term;

use std::process::ExitCode;

/// A connection allocates many small pieces of many sizes: glibc's allocator took a seventh
/// of the time of a connect.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Close to jemalloc in speed, and built in seconds.
#[cfg(all(feature = "mimalloc", not(feature = "jemalloc")))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run()
}
