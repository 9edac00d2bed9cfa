//! Situations that users of other notification systems reported.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod broadcasts;
mod clock;
mod failures;
mod inboxes;
mod outgoing;
mod schedules;
mod sending;
#[path = "../support/mod.rs"]
mod support;
