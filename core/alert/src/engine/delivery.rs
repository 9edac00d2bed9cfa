//! Delivery: hands outgoing notifications to the notification hub, and removes them once it has
//! stored them.
//!
//! A row that is handed over again after a crash has the same idempotency key, so that the user
//! sees one notification. While the hub refuses for reasons of its own, rows wait.

use std::{sync::Arc, time::Duration};

use prost::Message as _;
use tidewire_proto::v1::NotifyRequest;
use tidewire_store::{Batch, Key};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Shared, SinkError, notice, record::OutgoingRecord, tables};
use crate::AlertError;

/// Rows that are handed over together.
const ROWS: usize = 256;

/// Pause after a hand-over that failed.
const FAILURE_PAUSE: Duration = Duration::from_millis(250);

/// The longest pause between two looks at rows that are due at a time.
const PAUSE_MS: i64 = 60_000;

/// Hands rows over until cancelled.
pub(crate) async fn run(shared: Arc<Shared>, cancel: CancellationToken) {
    let mut has_failed = false;
    while !cancel.is_cancelled() {
        let pause = match step(&shared).await {
            Ok(Step::More) => {
                has_failed = false;
                continue;
            }
            Ok(Step::Idle(due_ms)) => {
                has_failed = false;
                let pause_ms = (due_ms - shared.clocks.now_ms()).clamp(1, PAUSE_MS);
                match shared.store.failure() {
                    // Rows of a commit that failed may be there when it works again.
                    Some(_) => FAILURE_PAUSE,
                    None => Duration::from_millis(pause_ms.unsigned_abs()),
                }
            }
            Err(error) => {
                if !has_failed {
                    tracing::warn!(%error, "alerts cannot be notified: they wait");
                }
                has_failed = true;
                FAILURE_PAUSE
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = shared.outgoing_added.notified(), if !has_failed => {}
            () = sleep(pause) => {}
        }
    }
}

enum Step {
    /// More may be due.
    More,
    /// Nothing is due before this time.
    Idle(i64),
}

/// Why rows wait.
#[derive(Debug, thiserror::Error)]
enum DeliveryError {
    #[error(transparent)]
    Store(#[from] AlertError),
    #[error("{0}")]
    Sink(String),
}

/// Hands the rows over that are due, up to [`ROWS`].
async fn step(shared: &Shared) -> Result<Step, DeliveryError> {
    let now_ms = shared.clocks.now_ms();
    let rows = shared
        .store
        .scan(tables::OUTGOING, Key::new(), None, ROWS)
        .await
        .map_err(AlertError::from)?;
    let mut due: Vec<(Key, NotifyRequest)> = Vec::new();
    let mut removed = Batch::new();
    let mut next_ms = i64::MAX;
    let count = rows.len();
    for (key, value) in rows {
        let due_ms = tables::due_ms(&key).unwrap_or(0);
        if due_ms > now_ms {
            next_ms = due_ms;
            break;
        }
        let record = OutgoingRecord::decode(value.as_slice()).ok();
        match record.as_ref().and_then(notice::request) {
            Some(request) => due.push((key, request)),
            None => {
                tracing::error!("an outgoing alert is damaged, and is left out");
                removed.delete(tables::OUTGOING, key);
            }
        }
    }
    shared.counters.set_waiting(count as u64);
    if due.is_empty() && removed.is_empty() {
        return Ok(Step::Idle(next_ms));
    }
    let requests = due.iter().map(|(_, request)| request.clone()).collect();
    let results = shared.sink.notify(requests).await;
    let mut failure = None;
    for ((key, _), result) in due.into_iter().zip(results) {
        match result {
            Ok(()) => removed.delete(tables::OUTGOING, key),
            Err(SinkError::Refused(reason)) => {
                tracing::error!(reason, "the notification of an alert was refused");
                removed.delete(tables::OUTGOING, key);
            }
            Err(SinkError::Unavailable(reason)) => failure = Some(reason),
        }
    }
    shared
        .store
        .commit(removed)
        .await
        .map_err(AlertError::from)?;
    match failure {
        Some(reason) => Err(DeliveryError::Sink(reason)),
        None => Ok(Step::More),
    }
}
