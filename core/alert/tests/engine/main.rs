//! Engine of alerts: requests, durability, delivery and limits, on a store in memory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod bounds;
mod delivery;
mod edits;
mod kills;
mod meanings;
mod outages;
mod requests;
mod restarts;
mod support;
mod texts;
mod unknown_commits;
