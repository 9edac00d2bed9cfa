//! Options of the streaming core, which the operator sets.

use std::time::Duration;

use crate::transport::Transport;

/// Options that the operator sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamOptions {
    /// Bound of one client's outbox, in bytes.
    pub outbox_bytes: usize,
    /// How many channels one connection may subscribe to, 0 for any number.
    pub channels_per_connection: usize,
    /// How many channels a client may make by publishing, 0 for any number. The `service`
    /// scope is exempt.
    pub channels_per_client: usize,
    /// How long prices are collected for one message.
    pub batch_interval: BatchInterval,
    /// Silence after which an active client sends a ping.
    pub heartbeat: Duration,
    /// The same for a client in the background.
    pub heartbeat_background: Duration,
    /// Silence of an active client after which the server sends something to it and expects an
    /// answer. Twice as long while the client sleeps.
    pub keepalive: Duration,
    /// Largest document that can be published, in bytes.
    pub publication_bytes: usize,
    /// How long an idempotency key is remembered.
    pub idempotency_window: Duration,
    /// Bytes that the remembered idempotency keys may take. Beyond, a publication with a new
    /// key is refused.
    pub idempotency_bytes: usize,
    /// Memory of all histories together, with the encodings of their publications, in bytes.
    pub history_bytes: usize,
    /// Number of shards. Each needs a thread that runs it.
    pub shards: usize,
    /// Longest pause in which a shard collects publications for one write.
    pub max_write_pause: Duration,
    /// Transports whose counters are exposed before their first connection.
    pub transports: &'static [Transport],
    /// Whether the engines' data is made up. Clients are told in `welcome`.
    pub sample: bool,
}

/// Time between two batches of prices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchInterval {
    /// Usually.
    pub usual: Duration,
    /// While batches are written to many sockets. Not shorter than the usual one.
    pub busy: Duration,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            outbox_bytes: 256 << 10,
            channels_per_connection: 1_000,
            channels_per_client: 10_000,
            batch_interval: BatchInterval {
                usual: Duration::from_millis(50),
                busy: Duration::from_millis(80),
            },
            heartbeat: Duration::from_secs(2),
            heartbeat_background: Duration::from_secs(30),
            keepalive: Duration::from_secs(25),
            publication_bytes: 64 << 10,
            idempotency_window: Duration::from_secs(5 * 60),
            idempotency_bytes: 64 << 20,
            history_bytes: 512 << 20,
            shards: 0,
            max_write_pause: Duration::from_millis(15),
            transports: &[],
            sample: false,
        }
    }
}
