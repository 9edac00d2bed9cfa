//! WebSocket conformance: RFC 6455 and RFC 7692 against the real binary, over a raw socket.
//!
//! The modules cover the case families of the Autobahn test suite. A channel that clients
//! may publish to serves as the echo. Every frame of the server is decoded twice, by a
//! strict decoder here and by tungstenite, and the results are compared (`raw_client`).

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
mod raw_client;
mod utf8;
