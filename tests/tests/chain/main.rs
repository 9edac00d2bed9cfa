//! Chains, held against a real node and against one that lies.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::large_futures,
    reason = "a panic is how a test fails, and a test's future lives once"
)]

/// Makes a test of each function on every transport.
macro_rules! on_every_transport {
    ($($test:ident),* $(,)?) => {$(
        mod $test {
            use tidewire_tests::Transport;

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

mod blocks;
mod ledger;
mod lies;
mod lifecycle;
mod reorgs;
mod restarts;
mod watches;
