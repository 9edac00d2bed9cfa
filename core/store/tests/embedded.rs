//! Embedded store: durability, scans, and the files that it refuses.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::{collections::BTreeMap, path::Path};

use proptest::prelude::*;
use tidewire_store::{Batch, EmbeddedStore, MemoryStore, Store, StoreError, Table, Write};

const TABLE: Table = Table("things");

async fn all(store: &dyn Store) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let found = store.scan(TABLE, Vec::new(), None, usize::MAX).await;
    found.unwrap().into_iter().collect()
}

fn file(folder: &Path) -> std::path::PathBuf {
    folder.join("store.redb")
}

#[tokio::test]
async fn a_commit_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    {
        let store = EmbeddedStore::open(folder.path()).unwrap();
        assert_eq!(store.get(TABLE, b"a".to_vec()).await.unwrap(), None);
        let mut batch = Batch::new();
        batch.put(TABLE, *b"a", *b"1");
        batch.put(TABLE, *b"b", *b"2");
        store.commit(batch).await.unwrap();
        let mut batch = Batch::new();
        batch.delete(TABLE, *b"a");
        store.commit(batch).await.unwrap();
    }
    // The writer's thread may have the file open for a moment more.
    let store = loop {
        match EmbeddedStore::open(folder.path()) {
            Err(StoreError::InUse(_)) => tokio::task::yield_now().await,
            opened => break opened.unwrap(),
        }
    };
    assert_eq!(store.get(TABLE, b"a".to_vec()).await.unwrap(), None);
    let value = store.get(TABLE, b"b".to_vec()).await.unwrap();
    assert_eq!(value.as_deref(), Some(b"2".as_slice()));
}

#[cfg(unix)]
#[tokio::test]
async fn only_its_user_can_read_a_new_file() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = tempfile::tempdir().unwrap();
    let _store = EmbeddedStore::open(folder.path()).unwrap();
    let mode = std::fs::metadata(file(folder.path()))
        .unwrap()
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_scan_returns_the_keys_of_a_prefix_in_pages() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path()).unwrap();
    let mut batch = Batch::new();
    for key in ["a", "b/1", "b/2", "b/3", "c"] {
        batch.put(TABLE, key, key);
    }
    store.commit(batch).await.unwrap();
    let keys = |found: Vec<(Vec<u8>, Vec<u8>)>| -> Vec<String> {
        let keys = found.into_iter().map(|(key, _)| key);
        keys.map(|key| String::from_utf8(key).unwrap()).collect()
    };
    let first = store.scan(TABLE, b"b/".to_vec(), None, 2).await.unwrap();
    assert_eq!(keys(first), ["b/1", "b/2"]);
    let after = Some(b"b/2".to_vec());
    let rest = store.scan(TABLE, b"b/".to_vec(), after, 2).await.unwrap();
    assert_eq!(keys(rest), ["b/3"]);
    let mut batch = Batch::new();
    batch.delete_range(TABLE, *b"b/1", *b"b/3");
    store.commit(batch).await.unwrap();
    assert_eq!(all(&store).await.len(), 3);
}

#[tokio::test]
async fn many_keys_and_floors_are_read_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path()).unwrap();
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
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
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

#[tokio::test]
async fn concurrent_commits_all_succeed() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path()).unwrap();
    let commits = (0..500_u32).map(|number| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut batch = Batch::new();
            batch.put(TABLE, number.to_be_bytes(), number.to_be_bytes());
            store.commit(batch).await
        })
    });
    for commit in commits.collect::<Vec<_>>() {
        commit.await.unwrap().unwrap();
    }
    assert_eq!(all(&store).await.len(), 500);
}

#[tokio::test]
async fn a_second_open_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _store = EmbeddedStore::open(folder.path()).unwrap();
    let error = EmbeddedStore::open(folder.path()).unwrap_err();
    assert_eq!(error, StoreError::InUse(file(folder.path())));
}

#[tokio::test]
async fn a_file_that_is_not_a_store_is_refused_and_not_changed() {
    for text in ["", "x", &"no store at all ".repeat(10_000)] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(file(folder.path()), text).unwrap();
        match EmbeddedStore::open(folder.path()) {
            // An empty file is a new store.
            Ok(_) => assert_eq!(text, ""),
            Err(error) => {
                assert!(matches!(error, StoreError::Corrupt(..)), "{error:?}");
                assert!(error.to_string().contains("is damaged"), "{error}");
                assert_eq!(std::fs::read(file(folder.path())).unwrap(), text.as_bytes());
            }
        }
    }
}

#[tokio::test]
async fn a_truncated_or_overwritten_file_never_crashes_the_process() {
    let folder = tempfile::tempdir().unwrap();
    {
        let store = EmbeddedStore::open(folder.path()).unwrap();
        let mut batch = Batch::new();
        for number in 0..2_000_u32 {
            batch.put(TABLE, number.to_be_bytes(), vec![7; 100]);
        }
        store.commit(batch).await.unwrap();
    }
    let whole = std::fs::read(file(folder.path())).unwrap();
    let try_open = |bytes: &[u8]| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(file(folder.path()), bytes).unwrap();
        EmbeddedStore::open(folder.path()).map(|_| ())
    };
    let mut refused = 0;
    for cut in [10, 64, 500, 4_096, whole.len() / 2, whole.len() - 1] {
        refused += usize::from(try_open(&whole[..cut]).is_err());
    }
    for place in [0, 20, 100, 200, 300] {
        let mut bytes = whole.clone();
        bytes[place..place + 16].fill(0xff);
        refused += usize::from(try_open(&bytes).is_err());
    }
    assert!(refused >= 5, "{refused}");
}

#[tokio::test]
async fn a_file_of_a_newer_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    {
        let database = redb::Database::create(file(folder.path())).unwrap();
        let transaction = database.begin_write().unwrap();
        let about = redb::TableDefinition::<&str, u64>::new("about");
        transaction
            .open_table(about)
            .unwrap()
            .insert("format", 99)
            .unwrap();
        transaction.commit().unwrap();
    }
    let error = EmbeddedStore::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("format 99, expected at most 2"), "{error}");
}

/// Writes to few keys, so that they overlap.
fn batches() -> impl Strategy<Value = Vec<Vec<Write>>> {
    let key = prop::collection::vec(0_u8..4, 0..3);
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_behaves_like_a_map(batches in batches()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let store = EmbeddedStore::open(folder.path()).unwrap();
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
                assert_eq!(all(&store).await, model);
                assert_eq!(all(&memory).await, model);
                let keys: Vec<_> = (0_u8..4).map(|byte| vec![byte, 1]).collect();
                let floors = store.get_floor(TABLE, keys.clone()).await.unwrap();
                assert_eq!(memory.get_floor(TABLE, keys).await.unwrap(), floors);
            }
        });
    }
}

#[tokio::test]
async fn an_urgent_batch_is_written_before_those_that_wait() {
    const BATCHES: u32 = 4_000;
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path()).unwrap();
    let written = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let mut commits = tokio::task::JoinSet::new();
    for number in 0..BATCHES {
        let (store, written) = (store.clone(), written.clone());
        commits.spawn(async move {
            let mut batch = Batch::new();
            for part in 0..20_u32 {
                let key = [number.to_be_bytes(), part.to_be_bytes()].concat();
                batch.put(TABLE, key, vec![b'x'; 100]);
            }
            store.commit(batch).await.unwrap();
            written.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        });
    }
    // All of them wait in the queue, or for room in it.
    tokio::task::yield_now().await;
    let mut urgent = Batch::new();
    urgent.put(TABLE, *b"urgent", *b"1");
    urgent.mark_urgent();
    store.commit(urgent).await.unwrap();
    let before = written.load(std::sync::atomic::Ordering::Relaxed);
    assert!(before < BATCHES, "{before}");
    while let Some(done) = commits.join_next().await {
        done.unwrap();
    }
    assert_eq!(all(&store).await.len(), 20 * BATCHES as usize + 1);
}
