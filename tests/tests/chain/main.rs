//! Chain engine end to end: the server with a real node, and with faulty ones in front of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::large_futures,
    reason = "a panic is how a test fails, and a test's future lives once"
)]

#[macro_use(on_every_transport)]
extern crate tidewire_tests;

mod activation;
mod alerts;
mod blocks;
mod endpoint_limits;
mod faulty_endpoints;
mod ledger;
mod malformed_logs;
mod mempools;
mod notifications;
mod outages;
mod proofs;
mod refusals;
mod reorgs;
mod restarts;
mod tls;
mod traces;
mod transaction_outcomes;
mod unknown_types;
mod wallet_updates;
mod wallets;
mod watching;
