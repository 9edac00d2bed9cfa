//! Delivery: hands outgoing notifications to the notification hub, and removes them once it has
//! stored them.
//!
//! A row that is handed over again after a crash has the same idempotency key, so that the user
//! sees one notification. While the hub refuses for reasons of its own, rows wait. Summaries are
//! closed before they are handed over, see [`summaries`](super::summaries).

use std::{collections::HashMap, sync::Arc, time::Duration};

use prost::Message as _;
use tidewire_proto::v1::NotifyRequest;
use tidewire_store::{Batch, Key, Value};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    Shared, SinkError,
    config::MINUTE_MS,
    notice,
    record::{OutgoingKind, OutgoingRecord},
    tables,
};
use crate::AlertError;

/// Rows that are read together.
const ROWS: usize = 64;

/// Notifications from which on no further row is handed over with them.
const REQUESTS: usize = 512;

/// Notifications that are counted as waiting, at most.
const MOST_WAITING: usize = 256;

/// Time for which a hand-over makes way for fires, at most: a user sees a fire before its
/// notification.
const WAY: Duration = Duration::from_millis(100);

/// Time for which rows are handed over before they make way again: they keep up with fires that never
/// end.
const WAY_PAUSE: Duration = Duration::from_secs(1);

/// Time after a fire in which the next one is expected: prices move in bursts, and a fire would wait
/// for the flush of the notifications of those before.
const QUIET: Duration = Duration::from_millis(20);

/// Time between two looks at these fires.
const WAY_STEP: Duration = Duration::from_millis(5);

/// Pause after a hand-over that failed.
const FAILURE_PAUSE: Duration = Duration::from_millis(250);

/// Pause before a look at a summary of which a batch has a form that is not stored yet.
const STAGED_PAUSE_MS: i64 = 250;

/// The longest pause between two looks at rows that are due at a time.
const PAUSE_MS: i64 = 60_000;

/// Hands rows over until cancelled.
pub(crate) async fn run(shared: Arc<Shared>, cancel: CancellationToken) {
    let mut has_failed = false;
    let mut made_way: Option<Instant> = None;
    while !cancel.is_cancelled() {
        if made_way.is_none_or(|at| at.elapsed() >= WAY_PAUSE) {
            cancel.run_until_cancelled(make_way(&shared)).await;
            made_way = Some(Instant::now());
        }
        let pause = match step(&shared).await {
            Ok(Step::More) => {
                has_failed = false;
                continue;
            }
            Ok(Step::Idle(due_ms)) => {
                has_failed = false;
                made_way = None;
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

/// Waits until no fire waits to be stored, and none was stored a moment ago, but not for long.
async fn make_way(shared: &Shared) {
    let began = Instant::now();
    while began.elapsed() < WAY && has_fires(shared) {
        sleep(WAY_STEP).await;
    }
}

fn has_fires(shared: &Shared) -> bool {
    let published = *shared.published_at.lock();
    published.is_some_and(|at| at.elapsed() < QUIET) || !shared.judge.lock().pending.is_empty()
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
    let (rows, next_ms) = due_rows(shared, rows, now_ms).await?;
    let mut due: Vec<DueRow> = Vec::new();
    let mut requests = Vec::new();
    let mut removed = Batch::new();
    let mut count = 0;
    for (key, value) in rows {
        let Some(value) = value else {
            count += 1;
            continue;
        };
        if requests.len() >= REQUESTS {
            break;
        }
        let row_requests = requests_of(&value);
        count += row_requests.len();
        if row_requests.is_empty() {
            removed.delete(tables::OUTGOING, key);
            continue;
        }
        due.push(DueRow {
            key,
            requests: row_requests.len(),
        });
        requests.extend(row_requests);
    }
    shared.counters.set_waiting(count.min(MOST_WAITING) as u64);
    if due.is_empty() && removed.is_empty() {
        return Ok(Step::Idle(next_ms));
    }
    let mut results = shared.sink.notify(requests).await.into_iter();
    let mut failure = None;
    for row in due {
        let mut is_done = true;
        for result in results.by_ref().take(row.requests) {
            match result {
                Ok(()) => {}
                Err(SinkError::Refused(reason)) => {
                    tracing::error!(reason, "the notification of an alert was refused");
                }
                Err(SinkError::Unavailable(reason)) => {
                    is_done = false;
                    failure = Some(reason);
                }
            }
        }
        if is_done {
            removed.delete(tables::OUTGOING, row.key);
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

/// Leaves out the contents of rows that are not due, and reads summaries that are due once they do not
/// change any more. Returns the time of the next that is due.
async fn due_rows(
    shared: &Shared,
    rows: Vec<(Key, Value)>,
    now_ms: i64,
) -> Result<(Vec<(Key, Option<Value>)>, i64), AlertError> {
    let mut next_ms = i64::MAX;
    let mut found = Vec::with_capacity(rows.len());
    let mut summaries = Vec::new();
    for (key, value) in rows {
        let due_ms = tables::due_ms(&key).unwrap_or(0);
        // A row is due within a minute, unless the clock was set back since.
        if due_ms > now_ms && due_ms.saturating_sub(now_ms) <= MINUTE_MS {
            next_ms = next_ms.min(due_ms);
            found.push((key, None));
            continue;
        }
        let record = OutgoingRecord::decode(value.as_slice());
        let is_summary = record.is_ok_and(|record| record.kind == OutgoingKind::Summary as i32);
        if is_summary {
            summaries.push(key.clone());
        }
        found.push((key, (!is_summary).then_some(value)));
    }
    if summaries.is_empty() {
        return Ok((found, next_ms));
    }
    let count = summaries.len();
    let closed = shared.judge.lock().summaries.close(summaries);
    if closed.len() < count {
        // The batch that has a form of it wakes the delivery once it is stored.
        next_ms = next_ms.min(now_ms.saturating_add(STAGED_PAUSE_MS));
    }
    let keys = closed.iter().map(|key| (tables::OUTGOING, key.clone()));
    let values = shared.store.get_many(keys.collect()).await?;
    let mut values: HashMap<Key, Option<Value>> = closed.into_iter().zip(values).collect();
    for (key, value) in &mut found {
        if let Some(newest) = values.remove(key) {
            *value = newest;
        }
    }
    Ok((found, next_ms))
}

/// A row that is handed over, and the number of its notifications.
struct DueRow {
    key: Key,
    requests: usize,
}

/// The requests of a row. Those that are damaged are left out.
fn requests_of(row: &[u8]) -> Vec<NotifyRequest> {
    let records = match OutgoingRecord::decode(row) {
        Ok(one) if one.group.is_empty() => vec![one],
        Ok(shared) => shared.group,
        Err(_) => Vec::new(),
    };
    let requests: Vec<_> = records.iter().filter_map(notice::request).collect();
    if requests.is_empty() || requests.len() < records.len() {
        tracing::error!("an outgoing alert is damaged, and is left out");
    }
    requests
}
