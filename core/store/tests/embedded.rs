//! Embedded store: durability, scans, and the files that it refuses.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod suite;

use std::{path::Path, sync::Arc};

use proptest::prelude::*;
use tidewire_store::{Batch, EmbeddedStore, SharedStore, Store as _, StoreError};

use suite::TABLE;

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

/// An empty store, and its folder.
fn empty() -> (tempfile::TempDir, SharedStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path()).unwrap();
    (folder, Arc::new(store))
}

#[tokio::test]
async fn a_scan_returns_the_keys_of_a_prefix_in_pages() {
    let (_folder, store) = empty();
    suite::scan_in_pages(&*store).await;
}

#[tokio::test]
async fn many_keys_and_floors_are_read_at_once() {
    let (_folder, store) = empty();
    suite::read_many(&*store).await;
}

#[tokio::test]
async fn concurrent_commits_all_succeed() {
    let (_folder, store) = empty();
    suite::commit_concurrently(&store).await;
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_behaves_like_a_map(batches in suite::batches()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (_folder, store) = empty();
            suite::compare_with_map(&*store, batches).await;
        });
    }
}

#[tokio::test]
async fn an_urgent_batch_is_written_before_those_that_wait() {
    let (_folder, store) = empty();
    suite::commit_urgently(&store).await;
}
