//! Unsent responses: the bytes of responses that a connection's client has not taken yet.
//!
//! A client decides how fast it takes responses, and over HTTP/2 it has many at a time. Their
//! bytes are bounded for each connection: beyond the bound, its further requests wait, each
//! before a handler begins with it. A request that waits for too long is refused. Streams of
//! sessions do not count here: an outbox bounds each of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tidewire_proto::v1;
use tidewire_stream::LimitError;
use tokio::{sync::Notify, time::timeout};

use crate::reply::source_of;

/// Milliseconds after which a refused client may try again.
const RETRY_MS: u32 = 1_000;

/// The error of a request that found no room on its connection, for its body or its response.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(crate) struct ConnectionFull {
    error: LimitError,
    /// The error as gRPC reports it.
    #[source]
    status: tonic::Status,
}

impl ConnectionFull {
    /// The client does not take the responses.
    fn of_responses(limit: usize) -> Self {
        Self::new(format!(
            "{limit} bytes of responses wait for the client of this connection, which does not read them"
        ))
    }

    /// The client began too many requests that it does not end.
    pub(super) fn of_requests(limit: usize) -> Self {
        Self::new(format!(
            "the requests of this connection that have not ended hold more than {limit} bytes (`limits.response_bytes`): end some before others begin"
        ))
    }

    fn new(text: String) -> Self {
        let error = LimitError::new(text, RETRY_MS);
        let status = v1::Error::from(error.clone()).into();
        Self { error, status }
    }

    /// The limit, if it is among an error and its causes.
    pub(crate) fn find(error: &(dyn std::error::Error + 'static)) -> Option<LimitError> {
        source_of::<Self>(error).map(|full| full.error.clone())
    }
}

impl From<ConnectionFull> for LimitError {
    fn from(full: ConnectionFull) -> Self {
        full.error
    }
}

/// The unsent bytes of one connection's responses.
#[derive(Debug)]
pub(crate) struct UnsentResponses {
    bytes: AtomicUsize,
    limit: usize,
    /// Time in which a request waits for room.
    patience: Duration,
    /// Of all connections.
    total: Arc<AtomicUsize>,
    /// Wakes the next request when there is room.
    room: Notify,
}

impl UnsentResponses {
    /// No bytes yet, and up to about `limit`. They count in `total` too.
    pub(crate) fn new(limit: usize, patience: Duration, total: Arc<AtomicUsize>) -> Arc<Self> {
        Arc::new(Self {
            bytes: AtomicUsize::new(0),
            limit,
            patience,
            total,
            room: Notify::new(),
        })
    }

    /// Unsent bytes.
    fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Counts bytes of a response that was made.
    pub(super) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes out that were sent, or will never be.
    pub(super) fn remove(&self, bytes: usize) {
        let before = self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.total.fetch_sub(bytes, Ordering::Relaxed);
        if before >= self.limit && before - bytes < self.limit {
            self.room.notify_one();
        }
    }

    /// Waits until a further response has room, for a bounded time.
    ///
    /// # Errors
    /// The client did not make room in time.
    pub(crate) async fn wait_for_room(&self) -> Result<(), ConnectionFull> {
        let room = async {
            while self.bytes() >= self.limit {
                self.room.notified().await;
            }
        };
        let found = timeout(self.patience, room).await;
        // The next one runs after this request has made its response, or waits for others.
        self.room.notify_one();
        found.map_err(|_| ConnectionFull::of_responses(self.limit))
    }

    /// Whether a further response has room.
    pub(crate) fn has_room(&self) -> bool {
        self.bytes() < self.limit
    }
}
