//! Stored histories: a graceful stop writes the broker's histories to the store, and the next
//! start reads them. Clients then recover across a deploy, and idempotency keys stay known.
//!
//! A start removes the entries before anything new is published. Otherwise a server that is
//! killed later would read old positions again, and would use a `seq` twice. Without entries
//! it starts with new epochs.
//!
//! The entries are stored in pages: a server may have a million channels, and a record of the
//! store costs much more than a channel in a page.

use anyhow::bail;
use tidewire_store::{Batch, Store, Table};
use tidewire_stream::{StreamCore, broker::SnapshotEntry};
use tokio::time::Instant;

const TABLE: Table = Table("histories");

/// The key that marks a complete save. Written last.
const COMPLETE: &[u8] = &[0];

/// The first byte of the keys of pages. Its number follows.
const PAGE: u8 = 2;

/// The end of the range of all keys.
const END: &[u8] = &[PAGE + 1];

/// Bytes of a page, about.
const PAGE_BYTES: usize = 256 << 10;

/// Pages read at once, to bound memory.
const PAGES: usize = 16;

/// Bytes of one store transaction, about. Bounds memory, and the time of a write.
const BATCH_BYTES: usize = 4 << 20;

/// Loads the entries of the last stop into the broker, and removes them from the store. A store
/// that cannot be written restores nothing, and the server starts with new epochs.
pub(crate) async fn load(store: &dyn Store, stream: &StreamCore) -> anyhow::Result<()> {
    // Without it the last stop was interrupted: clients may have newer positions.
    if store.get(TABLE, COMPLETE.to_vec()).await?.is_some() {
        let mut batch = Batch::new();
        batch.delete(TABLE, COMPLETE);
        if let Err(error) = store.commit(batch).await {
            tracing::error!(%error, "histories are not restored: clients will read their state again");
            return Ok(());
        }
        load_pages(store, stream).await?;
    }
    if !store.scan(TABLE, Vec::new(), None, 1).await?.is_empty() {
        let mut batch = Batch::new();
        batch.delete_range(TABLE, Vec::new(), END);
        if let Err(error) = store.commit(batch).await {
            // Harmless: without the mark they are never read again.
            tracing::warn!(%error, "restored histories cannot be removed from the store");
        }
    }
    Ok(())
}

async fn load_pages(store: &dyn Store, stream: &StreamCore) -> anyhow::Result<()> {
    let mut channels = 0_u64;
    let mut after = None;
    loop {
        let pages = store.scan(TABLE, vec![PAGE], after.take(), PAGES).await?;
        let Some((last, _)) = pages.last() else { break };
        after = Some(last.clone());
        for saved in pages.iter().flat_map(|(_, page)| entries(page)) {
            let Some(saved) = saved else {
                bail!("a page of histories is cut off: put a copy of the store back");
            };
            match stream.broker().load(&saved) {
                Ok(()) => channels += u64::from(saved.is_channel()),
                Err(error) => tracing::warn!(%error, "a history cannot be restored"),
            }
        }
    }
    if channels > 0 {
        tracing::info!(channels, "histories are restored");
    }
    Ok(())
}

/// Saves the histories, those of the channels that were used last first. At `end` the others are
/// left out, and their channels begin new epochs. Nothing may be published meanwhile.
pub(crate) async fn save(
    store: &dyn Store,
    stream: &StreamCore,
    end: Instant,
) -> anyhow::Result<()> {
    let mut batch = Batch::new();
    batch.delete_range(TABLE, Vec::new(), END);
    let (mut page, mut number, mut bytes) = (Vec::new(), 0_u64, 0);
    let mut entries = stream.broker().save().peekable();
    while let Some(entry) = entries.next() {
        append(&mut page, &entry);
        if page.len() < PAGE_BYTES && entries.peek().is_some() {
            continue;
        }
        let is_late = Instant::now() >= end && entries.peek().is_some();
        if is_late {
            tracing::warn!(
                "the time of the stop is over: the histories that were used least recently are not saved"
            );
            append(&mut page, &SnapshotEntry::incomplete());
        }
        bytes += page.len();
        let key = [&[PAGE], number.to_be_bytes().as_slice()].concat();
        batch.put(TABLE, key, std::mem::take(&mut page));
        number += 1;
        if bytes >= BATCH_BYTES {
            store.commit(std::mem::take(&mut batch)).await?;
            bytes = 0;
        }
        if is_late {
            break;
        }
    }
    batch.put(TABLE, COMPLETE, Vec::new());
    store.commit(batch).await?;
    Ok(())
}

/// Appends an entry to a page: the lengths of key and value, then both.
fn append(page: &mut Vec<u8>, entry: &SnapshotEntry) {
    for part in [&entry.key, &entry.value] {
        page.extend_from_slice(&(part.len() as u64).to_be_bytes());
    }
    page.extend_from_slice(&entry.key);
    page.extend_from_slice(&entry.value);
}

/// The entries of a page. None ends a page that is cut off.
fn entries(page: &[u8]) -> impl Iterator<Item = Option<SnapshotEntry>> {
    let mut rest = Some(page);
    std::iter::from_fn(move || {
        let mut bytes = rest.take().filter(|bytes| !bytes.is_empty())?;
        let entry = take_entry(&mut bytes);
        rest = entry.is_some().then_some(bytes);
        Some(entry)
    })
}

fn take_entry(bytes: &mut &[u8]) -> Option<SnapshotEntry> {
    let mut length = || -> Option<usize> {
        let (length, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        usize::try_from(u64::from_be_bytes(*length)).ok()
    };
    let (key, value) = (length()?, length()?);
    let (key, rest) = bytes.split_at_checked(key)?;
    let (value, rest) = rest.split_at_checked(value)?;
    *bytes = rest;
    Some(SnapshotEntry {
        key: key.to_vec(),
        value: value.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidewire_store::{Key, StoreError, StoreFuture, Value};
    use tidewire_stream::{
        AnonymousPolicy, Authenticator, Identity, ManualClock, Namespace, Namespaces, PageLimit,
        StreamOptions,
    };

    use super::*;

    /// A store with one saved channel, on a disk without room.
    struct FullStore(Vec<u8>);

    impl Store for FullStore {
        fn get(&self, _table: Table, _key: Key) -> StoreFuture<'_, Option<Value>> {
            Box::pin(async { Ok(Some(Value::new())) })
        }

        fn get_many(&self, keys: Vec<(Table, Key)>) -> StoreFuture<'_, Vec<Option<Value>>> {
            Box::pin(async move { Ok(vec![None; keys.len()]) })
        }

        fn get_floor(
            &self,
            _table: Table,
            keys: Vec<Key>,
        ) -> StoreFuture<'_, Vec<Option<(Key, Value)>>> {
            Box::pin(async move { Ok(vec![None; keys.len()]) })
        }

        fn scan(
            &self,
            _table: Table,
            _prefix: Key,
            after: Option<Key>,
            _limit: usize,
        ) -> StoreFuture<'_, Vec<(Key, Value)>> {
            let page = (vec![PAGE], self.0.clone());
            Box::pin(async move { Ok(after.map_or_else(|| vec![page], |_| Vec::new())) })
        }

        fn commit(&self, _batch: Batch) -> StoreFuture<'_, ()> {
            Box::pin(async { Err(StoreError::Failed("no space left".to_owned())) })
        }

        fn failure(&self) -> Option<StoreError> {
            None
        }
    }

    fn core() -> Arc<StreamCore> {
        core_at(ManualClock::at(1_000_000))
    }

    async fn top(stream: &StreamCore, channel: &str) -> tidewire_stream::Position {
        let identity = Identity::Anonymous;
        let history = stream.history_as(&identity, channel, None, PageLimit::ALL);
        history.await.unwrap().1.top
    }

    fn core_at(clock: Arc<ManualClock>) -> Arc<StreamCore> {
        let mut namespaces = Namespaces::built_in();
        namespaces.add(Namespace::history("orders")).unwrap();
        let policy = AnonymousPolicy::Read;
        let authenticator = Authenticator::hs256(&[7; 32], policy, clock.clone()).unwrap();
        StreamCore::in_memory(namespaces, authenticator, clock, StreamOptions::default())
    }

    #[test]
    fn a_full_disk_restores_nothing_and_the_server_starts() {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(async {
            let mut page = Vec::new();
            let before = core();
            for entry in before.broker().save() {
                append(&mut page, &entry);
            }
            let after = core();
            load(&FullStore(page), &after).await.unwrap();
            // The epoch of the last stop may be used once more by a later start.
            let (after, before) = (
                top(&after, "orders:1").await,
                top(&before, "orders:1").await,
            );
            assert_ne!(after.epoch, before.epoch);
        });
    }

    #[test]
    fn at_its_end_a_save_leaves_out_the_channels_that_were_used_first() {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(async {
            let clock = ManualClock::at(1_000_000);
            let before = core_at(clock.clone());
            let names = ["orders:1", "orders:2", "orders:3"];
            for name in names {
                clock.advance(1);
                let data = vec![b' '; PAGE_BYTES].into();
                let name = tidewire_stream::ChannelName::parse(name).unwrap();
                let event = tidewire_proto::v1::server_message::Data::Message(data);
                tidewire_stream::Publisher::publish(&*before, &name, event);
            }
            let store = tidewire_store::MemoryStore::new();
            let (now, later) = (
                Instant::now(),
                Instant::now() + std::time::Duration::from_secs(60),
            );
            for (end, saved) in [(now, 1), (later, 3)] {
                save(&store, &before, end).await.unwrap();
                let after = core_at(clock.clone());
                load(&store, &after).await.unwrap();
                for (index, name) in names.into_iter().rev().enumerate() {
                    let (first, second) = (top(&before, name).await, top(&after, name).await);
                    if index < saved {
                        assert_eq!(first, second, "{name}");
                    } else {
                        assert_ne!(first.epoch, second.epoch, "{name}");
                    }
                }
            }
        });
    }

    #[test]
    fn a_page_holds_entries_until_it_is_cut_off() {
        let all: Vec<_> = ["", "a", "orders:1"]
            .map(|key| SnapshotEntry {
                key: key.as_bytes().to_vec(),
                value: key.repeat(3).into_bytes(),
            })
            .into();
        let mut page = Vec::new();
        for entry in &all {
            append(&mut page, entry);
        }
        let read: Vec<_> = entries(&page).map(Option::unwrap).collect();
        assert_eq!(read, all);
        for length in 1..page.len() {
            let read: Vec<_> = entries(&page[..length]).collect();
            let whole = read.iter().flatten().count();
            assert!(whole < all.len() && read.len() <= whole + 1, "{length}");
        }
        assert_eq!(entries(&page[..page.len() - 1]).last(), Some(None));
    }
}
