//! Notice queue: stores notices in the journal's transactions, until the sink has stored them.
//!
//! Each notice is a row under its number. The number of the next one is a row of its own, so that
//! a number is never used again, even after all notices were removed.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tidewire_store::{Batch, Store, StoreError};
use tokio::sync::Notify;

use super::{NUMBERS, Notice, QUEUE, StoredNotice};

/// Notices that wait at most. Beyond, further ones are dropped: chains must not stop because
/// their sink does, and the disk must not fill up.
const MAX_QUEUED: u64 = 100_000;

/// Rows in one read of the store.
const PAGE: usize = 1_000;

/// The key of the only row in [`NUMBERS`].
const NEXT: &[u8] = b"next";

/// State that the journal and the sender share. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct NoticeQueue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    next: AtomicU64,
    queued: AtomicU64,
    added: Notify,
}

impl NoticeQueue {
    /// Reads the length of the queue and the next number.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) async fn restore(&self, store: &dyn Store) -> Result<(), StoreError> {
        let next = store.get(NUMBERS, NEXT.to_vec()).await?;
        let next = next.and_then(|value| value.try_into().ok());
        let next = next.map_or(0, u64::from_be_bytes);
        let (mut queued, mut after) = (0, None);
        loop {
            let page = store.scan(QUEUE, Vec::new(), after, PAGE).await?;
            queued += page.len() as u64;
            after = page.last().map(|(key, _)| key.clone());
            if page.len() < PAGE {
                break;
            }
        }
        self.0.next.store(next, Ordering::Release);
        self.0.queued.store(queued, Ordering::Release);
        Ok(())
    }

    /// Adds notices to a write of the store. Only the journal's task calls it.
    pub(crate) fn stage(&self, writes: &mut Batch, notices: &[Notice]) {
        if notices.is_empty() {
            return;
        }
        let queued = self.0.queued.load(Ordering::Acquire);
        let room = usize::try_from(MAX_QUEUED.saturating_sub(queued)).unwrap_or(usize::MAX);
        let admitted = notices.get(..room.min(notices.len())).unwrap_or_default();
        let dropped = notices.len() - admitted.len();
        if dropped > 0 {
            metrics::counter!("tidewire_chain_notices_dropped_total").increment(dropped as u64);
            tracing::error!(
                dropped,
                "{MAX_QUEUED} notifications of chains wait: further ones are dropped"
            );
        }
        let mut next = self.0.next.load(Ordering::Acquire);
        let mut added = 0;
        for notice in admitted {
            match serde_json::to_vec(notice) {
                Ok(value) => {
                    writes.put(QUEUE, next.to_be_bytes(), value);
                    next += 1;
                    added += 1;
                }
                Err(error) => tracing::error!(%error, "a notification is not stored"),
            }
        }
        writes.put(NUMBERS, NEXT, next.to_be_bytes());
        self.0.next.store(next, Ordering::Release);
        self.0.queued.fetch_add(added, Ordering::AcqRel);
    }

    /// Wakes the sender, after the write.
    pub(crate) fn wake(&self) {
        self.0.added.notify_one();
    }

    /// Waits until notices were added since the last call.
    pub(super) async fn added(&self) {
        self.0.added.notified().await;
    }

    /// The oldest notices, `limit` at most, and the keys of the rows that were read.
    pub(super) async fn read(
        &self,
        store: &dyn Store,
        limit: usize,
    ) -> Result<(Vec<StoredNotice>, Vec<Vec<u8>>), StoreError> {
        let rows = store.scan(QUEUE, Vec::new(), None, limit).await?;
        let mut notices = Vec::with_capacity(rows.len());
        let mut keys = Vec::with_capacity(rows.len());
        for (key, value) in rows {
            let number = key.as_slice().try_into().map(u64::from_be_bytes);
            match (number, serde_json::from_slice(&value)) {
                (Ok(number), Ok(notice)) => notices.push(StoredNotice { number, notice }),
                _ => tracing::warn!("a stored notification of a chain is unreadable"),
            }
            keys.push(key);
        }
        Ok((notices, keys))
    }

    /// Removes rows that the sink has stored.
    pub(super) async fn remove(
        &self,
        store: &dyn Store,
        keys: Vec<Vec<u8>>,
    ) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        let count = keys.len() as u64;
        for key in keys {
            batch.delete(QUEUE, key);
        }
        store.commit(batch).await?;
        let before = self.0.queued.fetch_sub(count, Ordering::AcqRel);
        let left = before.saturating_sub(count);
        metrics::gauge!("tidewire_chain_notices_queued").set(left as f64);
        Ok(())
    }
}
