//! Log: keeps the log of fires within its bounds, and removes old idempotency keys.

use std::{sync::Arc, time::Duration};

use tidewire_store::{Batch, Key, StoreError};
use tokio_util::sync::CancellationToken;

use super::{Shared, id::Id, planning, tables};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Rows that are removed in one batch.
const ROWS: usize = 4_096;

/// Bounds the log until cancelled.
pub(crate) async fn run(shared: Arc<Shared>, cancel: CancellationToken) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while cancel.run_until_cancelled(ticks.tick()).await.is_some() {
        // A store that fails is reported by those who write to it. The bounds can wait.
        let bounded = cancel.run_until_cancelled(bound(&shared)).await;
        if let Some(Err(error)) = bounded {
            tracing::debug!(%error, "the log of alerts is bounded later");
        }
    }
}

async fn bound(shared: &Shared) -> Result<(), StoreError> {
    let users: Vec<_> = shared.to_trim.lock().drain().collect();
    for user in users {
        // Fires may come faster than once a second.
        while trim(shared, &user).await? {}
    }
    while remove_old(shared).await? {}
    remove_keys(shared).await
}

/// Removes the oldest fires of a user beyond the bound, up to a batch. True if there may be more.
async fn trim(shared: &Shared, user: &str) -> Result<bool, StoreError> {
    let limit = shared.config.log_items;
    let rows = shared
        .store
        .scan(tables::FIRES, tables::of_user(user), None, limit + ROWS)
        .await?;
    if rows.len() <= limit {
        return Ok(false);
    }
    let is_full = rows.len() == limit + ROWS;
    // A twentieth more, so that this is not done for each fire.
    let left = limit - limit / 20;
    let mut batch = Batch::new();
    for (key, _) in rows.into_iter().skip(left) {
        if let Some(id) = tables::fire_id(&key) {
            batch.delete(tables::FIRE_TIMES, id.key());
        }
        batch.delete(tables::FIRES, key);
    }
    shared.store.commit(batch).await?;
    Ok(is_full)
}

/// Removes fires that are too old, up to a batch. True if there may be more.
async fn remove_old(shared: &Shared) -> Result<bool, StoreError> {
    let oldest_ms = shared.clocks.retention_ms() - shared.config.log_max_age_ms;
    let oldest = Id::at(oldest_ms);
    let rows = shared
        .store
        .scan(tables::FIRE_TIMES, Key::new(), None, ROWS)
        .await?;
    let mut batch = Batch::new();
    let mut is_full = rows.len() == ROWS;
    for (key, user) in rows {
        let Some(id) = Id::of_key(&key).filter(|id| *id < oldest) else {
            is_full = false;
            break;
        };
        if let Ok(user) = std::str::from_utf8(&user) {
            batch.delete(tables::FIRES, tables::fire(user, id));
        }
        batch.delete(tables::FIRE_TIMES, key);
    }
    shared.store.commit(batch).await?;
    Ok(is_full)
}

/// Removes idempotency keys that are not looked up any more.
async fn remove_keys(shared: &Shared) -> Result<(), StoreError> {
    let first = planning::period(shared.clocks.retention_ms()).saturating_sub(1);
    let rows = shared.store.scan(tables::KEYS, Key::new(), None, 1).await?;
    let Some((key, _)) = rows.into_iter().next() else {
        return Ok(());
    };
    let end = planning::key_row(first, &[]);
    if key >= end {
        return Ok(());
    }
    let mut batch = Batch::new();
    batch.delete_range(tables::KEYS, Key::new(), end);
    shared.store.commit(batch).await?;
    shared.key_periods.remove_before(first);
    Ok(())
}
