//! Several servers that share their channels over Redis.
//!
//! Each test starts a server of Redis of its own. `servers`, `operators`, `configured`, `shared_store`,
//! `forwarding`, `prices`, `price_requests`, `chains`, `chain_requests`, `rolling` and `stalls` run the binary, the others
//! drive the broker alone.
//! Each test starts a server of Redis of its own. `servers`, `agreement`, `operators`, `configured`,
//! `shared_store`, `move_store`, `forwarding`, `prices`, `chains`, `rolling` and `stalls` run the binary, the
//! others drive the broker alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod agreement;
mod broker;
mod calls;
mod chain_requests;
mod chains;
mod comparison;
mod configured;
mod control;
mod ended_terms;
mod faults;
mod fences;
mod forwarding;
mod losses;
mod move_store;
mod node;
mod operators;
mod price_requests;
mod prices;
mod redis_cluster;
mod replicas;
mod rolling;
mod sentinel;
mod servers;
mod set_up;
mod several_sentinels;
mod shared_store;
mod stalls;
mod versions;
