//! Background work: expiry, scheduled deliveries, and the removal of what nobody lists any more.
//!
//! The work is done in steps that read and write a bounded number of rows, so that requests are
//! never held up for long. All of it can be repeated: a step that fails is done again later.

use std::{collections::BTreeMap, time::Duration};

use tidewire_store::{Batch, Key};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{NotificationHub, schedules};
use crate::{
    HubEvent, NotificationError,
    hub_core::HubCore,
    hub_time::HubTime,
    id::Order,
    idempotency,
    inbox::NEVER_MS,
    record,
    tables::{self, DueWork},
};

/// Rows of each kind that a step handles at most.
const STEP_ROWS: usize = 256;

/// The longest pause between two steps.
const MAX_PAUSE_MS: i64 = 60_000;

/// Pause after a step that failed, for example on a full disk.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// Texts stay this long after their notifications are too old: a list may be reading them.
const TEXT_MARGIN_MS: i64 = 60 * 60 * 1_000;

/// Result of a step of background work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepOutcome {
    /// More is due now.
    More,
    /// Nothing is due before this time, in milliseconds since the Unix epoch.
    Idle(i64),
}

impl NotificationHub {
    /// Does background work until cancelled.
    pub async fn run(&self, cancel: CancellationToken) {
        let core = &*self.0;
        while !cancel.is_cancelled() {
            let pause = match self.step().await {
                Ok(StepOutcome::More) => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Ok(StepOutcome::Idle(due_ms)) => {
                    let pause_ms = (due_ms - core.clock.now_ms()).clamp(1, MAX_PAUSE_MS);
                    Duration::from_millis(pause_ms.unsigned_abs())
                }
                Err(error) => {
                    tracing::error!(%error, "the background work of notifications failed, it is tried again");
                    FAILURE_PAUSE
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = core.wake.notified() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Does a bounded part of the work that is due: expiry, scheduled deliveries, removal of old
    /// keys and texts. [`run`](Self::run) calls it; tests call it in its place.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub async fn step(&self) -> Result<StepOutcome, NotificationError> {
        let core = &*self.0;
        let time = core.time();
        let now_ms = time.now_ms;
        // Work that is added from here on wakes the task.
        core.sleep_until(NEVER_MS);
        self.settle_unknown().await?;
        let (mut has_more, next_due_ms) = self.step_due(time).await?;
        has_more |= end_broadcasts(core, time).await?;
        has_more |= remove_keys(core, time.retention_ms).await?;
        has_more |= remove_old_texts(core, time.retention_ms).await?;
        has_more |= remove_garbage(core).await?;
        if has_more {
            return Ok(StepOutcome::More);
        }
        // What is due by a clock that is in doubt waits for its end.
        let live_due_ms = match core.live(time).next_due_ms() {
            due_ms if due_ms <= now_ms => now_ms.saturating_add(MAX_PAUSE_MS),
            due_ms => due_ms,
        };
        let due_ms = next_due_ms.min(live_due_ms);
        core.sleep_until(due_ms.min(now_ms.saturating_add(MAX_PAUSE_MS)));
        Ok(StepOutcome::Idle(due_ms))
    }

    /// Expires and delivers. Returns whether more is due, and when the next is.
    async fn step_due(&self, time: HubTime) -> Result<(bool, i64), NotificationError> {
        let core = &*self.0;
        let mut after = None;
        loop {
            let rows = core
                .store
                .scan(tables::DUE, Key::new(), after.take(), STEP_ROWS)
                .await?;
            let is_full = rows.len() == STEP_ROWS;
            after = rows.last().map(|(key, _)| key.clone());
            let mut done = 0;
            for (key, _) in rows {
                let Some((due_ms, due)) = tables::parse_due(&key) else {
                    return Err(NotificationError::Damaged("time of due work"));
                };
                if due_ms > time.now_ms {
                    return Ok((false, due_ms));
                }
                done += usize::from(match &due {
                    // By a clock that is in doubt.
                    DueWork::Expiry(_) if due_ms > time.retention_ms => false,
                    DueWork::Expiry(user) => {
                        self.with_user(user, async |work| {
                            work.load([user], Vec::new()).await.map(drop)
                        })
                        .await?;
                        true
                    }
                    DueWork::Delivery(order) => schedules::deliver_due(&self.0, *order).await?,
                });
            }
            // Rows that wait for the end of a doubt must not hold up those after them.
            if !is_full || done > 0 {
                return Ok((is_full, NEVER_MS));
            }
        }
    }
}

/// Removes the records of broadcasts that left the lists by time.
async fn end_broadcasts(core: &HubCore, time: HubTime) -> Result<bool, NotificationError> {
    core.live(time);
    let ended = core.take_ended();
    if ended.is_empty() {
        return Ok(false);
    }
    let mut batch = Batch::new();
    for order in &ended {
        batch.delete(tables::BROADCASTS, order.0.to_be_bytes());
    }
    if let Err(error) = core.store.commit(batch).await {
        core.put_back_ended(ended);
        return Err(error.into());
    }
    let ids = ended.iter().map(|order| core.id(*order)).collect();
    core.events.publish(HubEvent::BroadcastRemoval { ids });
    Ok(false)
}

/// Removes idempotency keys whose time is over.
async fn remove_keys(core: &HubCore, retention_ms: i64) -> Result<bool, NotificationError> {
    let oldest = idempotency::first_kept(retention_ms);
    let rows = core
        .store
        .scan(tables::KEYS, Key::new(), None, STEP_ROWS)
        .await?;
    let mut batch = Batch::new();
    for (row, _) in rows {
        if idempotency::row_period(&row).is_some_and(|period| period < oldest) {
            batch.delete(tables::KEYS, row);
        }
    }
    let has_more = batch.writes().len() == STEP_ROWS;
    core.store.commit(batch).await?;
    if !has_more {
        core.key_periods.remove_before(oldest);
    }
    Ok(has_more)
}

/// Removes texts of notifications that are too old for every inbox.
async fn remove_old_texts(core: &HubCore, retention_ms: i64) -> Result<bool, NotificationError> {
    let age_ms = core.config.max_age_ms.saturating_add(TEXT_MARGIN_MS);
    let end = Order::at(retention_ms.saturating_sub(age_ms));
    let chunks = core.store.scan(tables::BODIES, Key::new(), None, 1).await?;
    let is_old = |key: &Key| tables::order(key).is_some_and(|first| first < end);
    if !chunks.iter().any(|(key, _)| is_old(key)) {
        return Ok(false);
    }
    let chunks = core
        .store
        .scan(tables::BODIES, Key::new(), None, STEP_ROWS)
        .await?;
    let mut batch = Batch::new();
    for (key, chunk) in chunks {
        let first =
            tables::order(&key).ok_or(NotificationError::Damaged("chunk of notifications"))?;
        let bodies = record::decode_chunk(first, &chunk)?;
        if bodies.iter().all(|body| body.order < end) {
            batch.delete(tables::BODIES, key);
        } else {
            break;
        }
    }
    let has_more = batch.writes().len() == STEP_ROWS;
    core.store.commit(batch).await?;
    Ok(has_more)
}

/// Removes texts that no inbox lists any more.
async fn remove_garbage(core: &HubCore) -> Result<bool, NotificationError> {
    let rows = core
        .store
        .scan(tables::GARBAGE, Key::new(), None, STEP_ROWS)
        .await?;
    if rows.is_empty() {
        return Ok(false);
    }
    let wanted = outgoing_from(core).await?;
    let has_more = rows.len() == STEP_ROWS;
    let mut batch = Batch::new();
    let mut counts: BTreeMap<Order, u32> = BTreeMap::new();
    for (key, _) in rows {
        let order =
            tables::order(&key).ok_or(NotificationError::Damaged("removed notification"))?;
        // The rows are in the order of their places.
        if order >= wanted {
            break;
        }
        *counts.entry(order).or_default() += 1;
        batch.delete(tables::GARBAGE, key);
    }
    if counts.is_empty() {
        return Ok(false);
    }
    let has_more = has_more && batch.writes().len() == STEP_ROWS;
    let keys = counts
        .keys()
        .map(|order| order.0.to_be_bytes().to_vec())
        .collect();
    let chunks = core.store.get_floor(tables::BODIES, keys).await?;
    // Several of them may be in one chunk.
    let chunks: BTreeMap<Key, Vec<u8>> = chunks.into_iter().flatten().collect();
    for (key, chunk) in chunks {
        let first =
            tables::order(&key).ok_or(NotificationError::Damaged("chunk of notifications"))?;
        let mut bodies = record::decode_chunk(first, &chunk)?;
        for body in &mut bodies {
            body.inboxes = body
                .inboxes
                .saturating_sub(counts.get(&body.order).copied().unwrap_or(0));
        }
        bodies.retain(|body| body.inboxes > 0);
        batch.delete(tables::BODIES, key);
        // The first body may be gone, and the chunk then has another key.
        for (first, chunk) in record::encode_chunks(&bodies) {
            batch.put(tables::BODIES, first.0.to_be_bytes(), chunk);
        }
    }
    core.store.commit(batch).await?;
    Ok(has_more)
}

/// The first notification whose text the planner of the delivery channels may still read. A
/// program receives each notification, also one that its user has removed or replaced meanwhile:
/// its row is due when it is sent, so the first row of all is not later.
async fn outgoing_from(core: &HubCore) -> Result<Order, NotificationError> {
    if !core.config.has_delivery {
        return Ok(Order::MAX);
    }
    let table = tables::OUTGOING;
    let rows = core.store.scan(table, Key::new(), None, 1).await?;
    let due_ms = rows.first().and_then(|(key, _)| key.first_chunk().copied());
    Ok(due_ms.map_or(Order::MAX, |due_ms| Order::at(i64::from_be_bytes(due_ms))))
}
