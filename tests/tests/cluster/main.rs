//! Several servers that share their channels over Redis.
//!
//! Each test starts a Redis, or several, of its own. Some drive the broker alone, the others run the binary.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod agreement;
mod broker;
mod calls;
mod chain_reach;
mod chain_requests;
mod chains;
mod comparison;
mod configured;
mod control;
mod ended_terms;
mod faults;
mod fences;
mod forwarding;
mod long_histories;
mod losses;
mod move_store;
mod node;
mod operators;
mod price_requests;
mod prices;
mod recoveries;
mod redis_cluster;
mod redis_cluster_bus;
mod redis_cluster_fences;
mod redis_cluster_losses;
mod redis_cluster_servers;
mod redis_cluster_stalls;
mod replicas;
mod rolling;
mod sentinel;
mod servers;
mod set_up;
mod several_sentinels;
mod shared_store;
mod situations;
mod stalls;
mod versions;
mod webhooks;
