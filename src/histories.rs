//! Stored histories: a graceful stop writes the broker's histories to the store, and the next
//! start reads them. Clients then recover across a deploy, and idempotency keys stay known.
//!
//! A start removes the entries before anything new is published. Otherwise a server that is
//! killed later would read old positions again, and would use a `seq` twice. Without entries
//! it starts with new epochs.

use anyhow::Context as _;
use tidewire_store::{Batch, Store, Table};
use tidewire_stream::{StreamCore, broker::SnapshotEntry};

const TABLE: Table = Table("histories");

/// The key that marks a complete save. Written last.
const COMPLETE: &[u8] = &[0];

/// The first byte of the keys of entries.
const ENTRY: u8 = 1;

/// The end of the range of all keys.
const END: &[u8] = &[ENTRY + 1];

/// Entries read at once, to bound memory.
const PAGE: usize = 256;

/// Bytes of one store transaction, about. Bounds memory, and the time of a write.
const BATCH_BYTES: usize = 1 << 20;

/// Loads the entries of the last stop into the broker, and removes them from the store.
pub(crate) async fn load(store: &dyn Store, stream: &StreamCore) -> anyhow::Result<()> {
    let is_complete = store.get(TABLE, COMPLETE.to_vec()).await?.is_some();
    let mut channels = 0_u64;
    let mut after = None;
    loop {
        let page = store.scan(TABLE, vec![ENTRY], after.take(), PAGE).await?;
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        if !is_complete {
            // The last stop was interrupted: clients may have newer positions.
            break;
        }
        for (key, value) in page {
            let saved = SnapshotEntry {
                key: key[1..].to_vec(),
                value,
            };
            match stream.broker().load(&saved) {
                Ok(()) => channels += u64::from(saved.is_channel()),
                Err(error) => tracing::warn!(%error, "a history cannot be restored"),
            }
        }
    }
    let mut batch = Batch::new();
    batch.delete_range(TABLE, Vec::new(), END);
    let removed = store.commit(batch).await;
    removed.context("restored histories cannot be removed from the store")?;
    if channels > 0 {
        tracing::info!(channels, "histories are restored");
    }
    Ok(())
}

/// Saves all histories. Nothing may be published meanwhile.
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
