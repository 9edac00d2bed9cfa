//! End-to-end test harness: starts the real binary, and holds clients for every transport and
//! venue stand-ins.
//!
//! Tests live in `tests/`; the harness asserts nothing about behaviour. When an expected event
//! does not come, it panics and names the event.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

pub mod client;
mod deadline;
mod endpoint;
pub mod faulty_node;
pub mod host;
pub mod identity_provider;
mod link;
mod message;
pub mod node;
mod port;
mod program;
pub mod raw_socket;
mod redis;
mod redis_cluster;
mod server;
mod stop;
pub mod tls;
mod token;
pub mod venue;

pub use client::{Client, Refusal, Transport};
pub use deadline::{eventually, within};
pub use endpoint::{Endpoint, HttpResponse};
pub use faulty_node::FaultyNode;
pub use host::{Host, Place};
pub use identity_provider::IdentityProvider;
pub use link::Link;
pub use message::{Close, Message};
pub use node::Node;
pub use port::Port;
pub use program::Program;
pub use redis::{RedisSentinel, RedisServer};
pub use redis_cluster::RedisCluster;
pub use server::{Server, ServerBuilder, binary, command, interrupt, refused_start};
pub use token::{KeyPair, SECRET, Token};
pub use venue::{VenueKind, VenueStandIn};

/// Builds an HTTP client, which trusts only `authority` if there is one. Installs the TLS
/// provider first, because the client needs one.
///
/// # Panics
/// Never: a provider is always installed by then.
#[must_use]
pub fn http_client(authority: Option<&tls::Authority>) -> reqwest::Client {
    // Another test in this process may have installed one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Some(authority) = authority else {
        return reqwest::Client::new();
    };
    let config = authority.client_config("http/1.1", None);
    let builder = reqwest::Client::builder().tls_backend_preconfigured((*config).clone());
    builder.build().expect("a client")
}

/// Generates one test per transport from each function.
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

/// Generates two tests from each function: over plain TCP, and over TLS.
#[macro_export]
macro_rules! on_tcp_and_tls {
    ($($test:ident),* $(,)?) => {$(
        mod $test {
            #[tokio::test]
            async fn tcp() {
                super::$test().await;
            }

            #[tokio::test]
            async fn tls() {
                $crate::tls::over_tls(super::$test()).await;
            }
        }
    )*};
}

/// Generates the tests of [`on_every_transport`], and the same over TLS: `wss`, SSE by
/// `https`, and gRPC.
#[macro_export]
macro_rules! on_every_transport_and_tls {
    ($($test:ident),* $(,)?) => {
        $crate::on_every_transport!($($test),*);

        mod over_tls {
            $(mod $test {
                use $crate::{Transport, tls::over_tls};

                #[tokio::test]
                async fn websocket() {
                    over_tls(super::super::$test(Transport::WebSocketJson)).await;
                }

                #[tokio::test]
                async fn sse() {
                    over_tls(super::super::$test(Transport::Sse)).await;
                }

                #[tokio::test]
                async fn grpc() {
                    over_tls(super::super::$test(Transport::Grpc)).await;
                }
            })*
        }
    };
}
