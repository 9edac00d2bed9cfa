//! Several servers that share their channels over Redis.
//!
//! Each test starts a server of Redis of its own, and drives the broker alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod broker;
mod faults;
mod node;
mod set_up;
