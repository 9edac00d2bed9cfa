//! Suite of a store: the same steps for each implementation.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use proptest::prelude::*;
use tidewire_store::{Batch, MemoryStore, SharedStore, Store, Table, Write};
use tokio::task::JoinSet;

/// The table of all steps.
pub(crate) const TABLE: Table = Table("things");

/// All entries.
pub(crate) async fn all(store: &dyn Store) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let found = store.scan(TABLE, Vec::new(), None, usize::MAX).await;
    found.unwrap().into_iter().collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A scan returns the keys of a prefix, in pages.
pub(crate) async fn scan_in_pages(store: &dyn Store) {
    let mut batch = Batch::new();
    for key in ["a", "b/1", "b/2", "b/3", "c"] {
        batch.put(TABLE, key, key);
    }
    store.commit(batch).await.unwrap();
    let keys = |found: Vec<(Vec<u8>, Vec<u8>)>| -> Vec<String> {
        found.iter().map(|(key, _)| text(key)).collect()
    };
    let first = store.scan(TABLE, b"b/".to_vec(), None, 2).await.unwrap();
    assert_eq!(keys(first), ["b/1", "b/2"]);
    let after = Some(b"b/2".to_vec());
    let rest = store.scan(TABLE, b"b/".to_vec(), after, 2).await.unwrap();
    assert_eq!(keys(rest), ["b/3"]);
    let mut batch = Batch::new();
    batch.delete_range(TABLE, *b"b/1", *b"b/3");
    store.commit(batch).await.unwrap();
    assert_eq!(all(store).await.len(), 3);
}

/// Many keys, and the floors of keys, are read at once.
pub(crate) async fn read_many(store: &dyn Store) {
    let other = Table("others");
    let mut batch = Batch::new();
    for key in ["b", "d"] {
        batch.put(TABLE, key, key);
    }
    batch.put(other, *b"b", *b"other");
    store.commit(batch).await.unwrap();
    let keys = [
        (TABLE, "d"),
        (Table("none"), "d"),
        (TABLE, "c"),
        (other, "b"),
    ];
    let keys = keys.map(|(table, key)| (table, key.into()));
    let found = store.get_many(keys.into()).await.unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|value| value.as_deref().map(text))
        .collect();
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(found, [some("d"), None, None, some("other")]);
    let keys = ["a", "b", "c", "d", "e"].map(Vec::from);
    let floors = store.get_floor(TABLE, keys.into()).await.unwrap();
    let floors: Vec<_> = floors
        .iter()
        .map(|entry| entry.as_ref().map(|entry| text(&entry.0)))
        .collect();
    assert_eq!(floors, [None, some("b"), some("b"), some("d"), some("d")]);
}

/// Commits of many tasks all succeed.
pub(crate) async fn commit_concurrently(store: &SharedStore) {
    let mut commits = JoinSet::new();
    for number in 0..500_u32 {
        let store = store.clone();
        commits.spawn(async move {
            let mut batch = Batch::new();
            batch.put(TABLE, number.to_be_bytes(), number.to_be_bytes());
            store.commit(batch).await
        });
    }
    while let Some(committed) = commits.join_next().await {
        committed.unwrap().unwrap();
    }
    assert_eq!(all(&**store).await.len(), 500);
}

/// An urgent batch is written before those that wait.
pub(crate) async fn commit_urgently(store: &SharedStore) {
    const BATCHES: u32 = 4_000;
    let written = Arc::new(AtomicU32::new(0));
    let mut commits = JoinSet::new();
    for number in 0..BATCHES {
        let (store, written) = (store.clone(), written.clone());
        commits.spawn(async move {
            let mut batch = Batch::new();
            for part in 0..20_u32 {
                let key = [number.to_be_bytes(), part.to_be_bytes()].concat();
                batch.put(TABLE, key, vec![b'x'; 100]);
            }
            store.commit(batch).await.unwrap();
            written.fetch_add(1, Ordering::Relaxed);
        });
    }
    // All of them wait in the queue, or for room in it.
    tokio::task::yield_now().await;
    let mut urgent = Batch::new();
    urgent.put(TABLE, *b"urgent", *b"1");
    urgent.mark_urgent();
    store.commit(urgent).await.unwrap();
    let before = written.load(Ordering::Relaxed);
    assert!(before < BATCHES, "{before}");
    while let Some(done) = commits.join_next().await {
        done.unwrap();
    }
    assert_eq!(all(&**store).await.len(), 20 * BATCHES as usize + 1);
}

/// Writes to few keys, so that they overlap. Some bytes of keys mean something to Redis.
pub(crate) fn batches() -> impl Strategy<Value = Vec<Vec<Write>>> {
    let byte = prop::sample::select(vec![0_u8, b'(', b'[', u8::MAX]);
    let key = prop::collection::vec(byte, 0..3);
    let write = prop_oneof![
        (key.clone(), any::<u8>()).prop_map(|(key, value)| Write::Put(TABLE, key, vec![value])),
        key.clone().prop_map(|key| Write::Delete(TABLE, key)),
        (key.clone(), key).prop_map(|(a, b)| {
            let (from, to) = if a <= b { (a, b) } else { (b, a) };
            Write::DeleteRange(TABLE, from, to)
        }),
    ];
    prop::collection::vec(prop::collection::vec(write, 1..6), 1..6)
}

/// An empty store behaves like a map, and like the memory store.
pub(crate) async fn compare_with_map(store: &dyn Store, batches: Vec<Vec<Write>>) {
    let memory = MemoryStore::new();
    let mut model = BTreeMap::new();
    for writes in batches {
        let mut batch = Batch::new();
        for write in writes {
            match write {
                Write::Put(table, key, value) => {
                    model.insert(key.clone(), value.clone());
                    batch.put(table, key, value);
                }
                Write::Delete(table, key) => {
                    model.remove(&key);
                    batch.delete(table, key);
                }
                Write::DeleteRange(table, from, to) => {
                    model.retain(|key, _| *key < from || *key >= to);
                    batch.delete_range(table, from, to);
                }
            }
        }
        memory.commit(batch.clone()).await.unwrap();
        store.commit(batch).await.unwrap();
        assert_eq!(all(store).await, model);
        assert_eq!(all(&memory).await, model);
        for prefix in [vec![b'('], vec![u8::MAX]] {
            let after = Some([&prefix[..], &[0]].concat());
            for after in [None, after] {
                let found = store.scan(TABLE, prefix.clone(), after.clone(), 3).await;
                let expected = memory.scan(TABLE, prefix.clone(), after, 3).await;
                assert_eq!(found, expected);
            }
        }
        let keys: Vec<_> = [0, b'(', b'[', u8::MAX]
            .map(|byte| vec![byte, 1])
            .into_iter()
            .collect();
        let floors = store.get_floor(TABLE, keys.clone()).await.unwrap();
        assert_eq!(memory.get_floor(TABLE, keys).await.unwrap(), floors);
    }
}
