//! End-to-end tests of the behaviour that clients and operators rely on, on the real binary
//! over real sockets. One module per subject. Behaviour common to all transports is written
//! once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::large_futures,
    reason = "a panic is how a test fails, and a test's future lives once"
)]

#[macro_use(on_every_transport, on_every_transport_and_tls, on_tcp_and_tls)]
extern crate tidewire_tests;

mod admin;
mod alerts;
mod bad_input;
mod candles;
mod capacity;
mod cli;
mod command_line;
mod commands;
mod config_faults;
mod config_texts;
mod configuration;
mod deployment;
mod docs;
mod examples;
mod grpc;
mod health;
mod http;
mod identity;
mod latest;
mod lifetime;
mod limits;
mod memory;
mod notifications;
mod oracle;
mod outages;
mod prices;
mod progress;
mod rates;
mod recovery;
mod restarts;
mod rust_client;
mod sample;
mod scopes;
mod session;
mod slow_readers;
mod sources;
mod sse;
mod stopping;
mod tls;
mod unread_responses;
