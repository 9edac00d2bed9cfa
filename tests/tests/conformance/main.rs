//! RFC 6455 and RFC 7692, held against the real binary over a raw socket: the case
//! families of the Autobahn test suite as tests of our own. One module a subject.
//!
//! The echo is a channel that clients may publish to. Every frame that the server
//! sends is read twice, by a strict reader here and by tungstenite, and what both
//! read is compared (`peer`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod closing;
mod compression;
mod control;
mod framing;
mod handshake;
mod limits;
mod peer;
mod utf8;
