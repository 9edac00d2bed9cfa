//! Chains, held against a real node and against one that lies.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::large_futures,
    reason = "a panic is how a test fails, and a test's future lives once"
)]

#[macro_use(on_every_transport)]
extern crate tidewire_tests;

mod activation;
mod blocks;
mod feed;
mod kinds;
mod ledger;
mod lies;
mod lifecycle;
mod limits;
mod pools;
mod proofs;
mod reorgs;
mod restarts;
mod secure;
mod shapes;
mod traces;
mod wallets;
mod watches;
