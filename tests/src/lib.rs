//! The harness of the end-to-end tests: the real binary, clients of every
//! transport, and stand-ins for venues.
//!
//! What is tested lives in `tests/`; nothing here judges. A harness fails by
//! panicking, with what it waited for.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

pub mod client;
mod deadline;
pub mod fuzz;
pub mod liar;
mod message;
pub mod node;
pub mod provider;
mod server;
pub mod tls;
mod token;
pub mod venue;

pub use client::{Client, Refusal, Transport};
pub use deadline::within;
pub use liar::Liar;
pub use message::{Close, Message};
pub use node::Node;
pub use provider::KeyProvider;
pub use server::{Answer, Server, ServerBuilder, binary, command, interrupt, refused_start};
pub use token::{KeyPair, SECRET, Token};
pub use venue::{VenueKind, VenueStandIn};

/// An HTTP client. With TLS in its library, one cannot be made before it is said how
/// TLS is done.
///
/// # Panics
/// Never: some provider is there then.
#[must_use]
pub fn http_client() -> reqwest::Client {
    // Another test of this process may have come first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

/// Makes a test of each function on every transport.
#[macro_export]
macro_rules! on_every_transport {
    ($($test:ident),* $(,)?) => {$(
        mod $test {
            use $crate::Transport;

            #[tokio::test]
            async fn websocket_json() {
                super::$test(Transport::WebSocketJson).await;
            }

            #[tokio::test]
            async fn websocket_proto() {
                super::$test(Transport::WebSocketProto).await;
            }

            #[tokio::test]
            async fn sse() {
                super::$test(Transport::Sse).await;
            }

            #[tokio::test]
            async fn grpc() {
                super::$test(Transport::Grpc).await;
            }
        }
    )*};
}
