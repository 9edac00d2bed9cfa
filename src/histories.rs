//! Histories across a restart: a graceful stop puts what the broker has into the store,
//! the next start takes it out, and clients and back ends (by their idempotency keys) go
//! on where they were.
//!
//! What was taken out is gone from the store before anything new is published. So a
//! server that is killed begins with other epochs, and never gives a place twice.

use anyhow::Context as _;
use tidewire_store::{Batch, Store, Table};
use tidewire_stream::{StreamCore, broker::SnapshotEntry};

const TABLE: Table = Table("histories");

/// Says that a stop has saved all of it: written last.
const COMPLETE: &[u8] = &[0];

/// Begins the keys of what was saved.
const ENTRY: u8 = 1;

/// Follows all keys.
const END: &[u8] = &[ENTRY + 1];

/// So many entries are read at once.
const PAGE: usize = 256;

/// A batch of about so many bytes is written at once.
const BATCH_BYTES: usize = 1 << 20;

/// Takes what the last stop saved, and removes it.
pub(crate) async fn load(store: &dyn Store, stream: &StreamCore) -> anyhow::Result<()> {
    let is_complete = store.get(TABLE, COMPLETE.to_vec()).await?.is_some();
    let mut channels = 0_u64;
    let mut after = None;
    loop {
        let page = store.scan(TABLE, vec![ENTRY], after.take(), PAGE).await?;
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        if !is_complete {
            // A stop was cut short. What it saved may be older than what was sent.
            break;
        }
        for (key, value) in page {
            let saved = SnapshotEntry {
                key: key[1..].to_vec(),
                value,
            };
            match stream.broker().load(&saved) {
                Ok(()) => channels += u64::from(saved.is_channel()),
                Err(error) => tracing::warn!(%error, "a history is lost"),
            }
        }
    }
    let mut batch = Batch::new();
    batch.delete_range(TABLE, Vec::new(), END);
    let removed = store.commit(batch).await;
    removed.context("histories that were taken cannot be removed from the store")?;
    if channels > 0 {
        tracing::info!(channels, "histories go on");
    }
    Ok(())
}

/// Saves all there is. Nothing must be published meanwhile.
pub(crate) async fn save(store: &dyn Store, stream: &StreamCore) -> anyhow::Result<()> {
    let mut batch = Batch::new();
    batch.delete_range(TABLE, Vec::new(), END);
    let mut bytes = 0;
    for SnapshotEntry { mut key, value } in stream.broker().save() {
        key.insert(0, ENTRY);
        bytes += key.len() + value.len();
        batch.put(TABLE, key, value);
        if bytes >= BATCH_BYTES {
            store.commit(std::mem::take(&mut batch)).await?;
            bytes = 0;
        }
    }
    batch.put(TABLE, COMPLETE, Vec::new());
    store.commit(batch).await?;
    Ok(())
}
