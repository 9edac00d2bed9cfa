//! Write-ahead log: what a crash leaves, at any place, and logs that are refused.
//!
//! A crash is a copy of the files while the store is open. No checkpoint runs then, so that the
//! copy has the file as the disk would have it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::{collections::BTreeMap, fs, path::Path};

use proptest::prelude::*;
use tempfile::TempDir;
use tidewire_store::{Batch, EmbeddedStore, Store, StoreError, StoreOptions, Table};

const TABLE: Table = Table("things");
const LOGS: [&str; 2] = ["store.0.log", "store.1.log"];

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

async fn all(store: &EmbeddedStore) -> Model {
    let found = store.scan(TABLE, Vec::new(), None, usize::MAX).await;
    found.unwrap().into_iter().collect()
}

/// Opens a store whose writer may have the file open for a moment more.
async fn open(folder: &Path, options: StoreOptions) -> Result<EmbeddedStore, StoreError> {
    loop {
        match EmbeddedStore::open_with(folder, options) {
            Err(StoreError::InUse(_)) => tokio::task::yield_now().await,
            opened => return opened,
        }
    }
}

/// A checkpoint after each flush.
fn eager() -> StoreOptions {
    StoreOptions {
        checkpoint_bytes: 1,
        ..StoreOptions::default()
    }
}

/// No checkpoint while the test runs.
fn lazy() -> StoreOptions {
    StoreOptions {
        checkpoint_age: std::time::Duration::from_secs(3_600),
        ..StoreOptions::default()
    }
}

/// The files as a crash would leave them.
fn crash(folder: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

async fn put(store: &EmbeddedStore, key: u32, value: &[u8]) {
    let mut batch = Batch::new();
    batch.put(TABLE, key.to_be_bytes(), value);
    store.commit(batch).await.unwrap();
}

fn keys(model: &Model) -> Vec<u32> {
    let keys = model
        .keys()
        .map(|key| u32::from_be_bytes(*key.first_chunk().unwrap()));
    keys.collect()
}

/// The bytes of a log up to its last record, which ends with a byte that is not zero.
fn content(log: &[u8]) -> usize {
    log.iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1)
}

/// The log with records.
fn used_log(folder: &Path) -> (std::path::PathBuf, Vec<u8>) {
    let logs = LOGS.map(|name| folder.join(name));
    let used = logs
        .into_iter()
        .find(|path| content(&fs::read(path).unwrap()) > 0);
    let path = used.unwrap();
    let bytes = fs::read(&path).unwrap();
    (path, bytes)
}

#[tokio::test]
async fn a_crash_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open_with(folder.path(), lazy()).unwrap();
    for key in 0..20 {
        put(&store, key, &[7; 300]).await;
        let left = crash(folder.path());
        // Opened twice: the first time replays the log, the second has it in the file.
        for _ in 0..2 {
            let after = open(left.path(), StoreOptions::default()).await.unwrap();
            assert_eq!(keys(&all(&after).await), (0..=key).collect::<Vec<_>>());
        }
    }
}

#[tokio::test]
async fn a_log_that_is_cut_off_anywhere_has_the_records_before() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open_with(folder.path(), lazy()).unwrap();
    let mut ends = vec![content(&used_log(folder.path()).1)];
    for key in 0..3 {
        put(&store, key, &[7; 5]).await;
        ends.push(content(&used_log(folder.path()).1));
    }
    for cut in 0..=ends[3] {
        let left = crash(folder.path());
        let (path, mut bytes) = used_log(left.path());
        // A flush that did not end leaves zeros, or what was there before.
        bytes[cut..].fill(0);
        fs::write(path, bytes).unwrap();
        if cut < ends[0] {
            // This flush had ended before the store was open.
            let error = EmbeddedStore::open(left.path()).unwrap_err().to_string();
            assert!(error.contains("its beginning is missing"), "{error}");
            continue;
        }
        let after = EmbeddedStore::open(left.path()).unwrap();
        let whole = ends.iter().filter(|end| **end <= cut).count() as u32 - 1;
        assert_eq!(
            keys(&all(&after).await),
            (0..whole).collect::<Vec<_>>(),
            "{cut}"
        );
    }
}

#[tokio::test]
async fn a_record_that_is_damaged_before_others_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open_with(folder.path(), lazy()).unwrap();
    put(&store, 1, b"one").await;
    let first = content(&used_log(folder.path()).1);
    put(&store, 2, b"two").await;
    for place in 0..first {
        let left = crash(folder.path());
        let (path, mut bytes) = used_log(left.path());
        bytes[place] ^= 0x10;
        fs::write(&path, bytes).unwrap();
        let error = EmbeddedStore::open(left.path()).unwrap_err();
        let StoreError::Corrupt(refused, reason) = error else {
            panic!("{error}");
        };
        assert_eq!(refused, path, "{reason}");
    }
}

#[tokio::test]
async fn a_log_of_another_store_is_refused() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut copies = Vec::new();
    for folder in &folders {
        let store = EmbeddedStore::open_with(folder.path(), lazy()).unwrap();
        put(&store, 1, b"one").await;
        copies.push(crash(folder.path()));
    }
    for log in LOGS {
        fs::copy(copies[0].path().join(log), copies[1].path().join(log)).unwrap();
    }
    let error = EmbeddedStore::open(copies[1].path())
        .unwrap_err()
        .to_string();
    assert!(error.contains("belongs to another `store.redb`"), "{error}");
    EmbeddedStore::open(copies[0].path()).unwrap();
}

#[tokio::test]
async fn a_log_that_is_missing_after_a_crash_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open_with(folder.path(), lazy()).unwrap();
    put(&store, 1, b"one").await;
    for log in LOGS {
        let left = crash(folder.path());
        fs::remove_file(left.path().join(log)).unwrap();
        let error = EmbeddedStore::open(left.path()).unwrap_err().to_string();
        assert!(
            error.contains(log) && error.contains("is missing"),
            "{error}"
        );
        assert!(
            !left.path().join(log).exists(),
            "the next start refuses it too"
        );
    }
}

#[tokio::test]
async fn logs_that_are_empty_or_older_than_the_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), eager()).await.unwrap();
    put(&store, 1, b"one").await;
    let older = crash(folder.path());
    drop(store);
    let store = open(folder.path(), lazy()).await.unwrap();
    put(&store, 2, b"two").await;
    let newer = crash(folder.path());
    drop(store);
    for empty in [false, true] {
        for log in LOGS {
            let log = newer.path().join(log);
            match empty {
                true => fs::write(log, b"").unwrap(),
                false => drop(fs::copy(older.path().join(log.file_name().unwrap()), log).unwrap()),
            }
        }
        let error = EmbeddedStore::open(newer.path()).unwrap_err().to_string();
        assert!(error.contains("its beginning is missing"), "{error}");
    }
}

/// An empty store would have no revocation and no notification, without a word.
#[tokio::test]
async fn a_store_file_that_is_empty_or_missing_beside_its_logs_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.redb");
    let store = EmbeddedStore::open_with(folder.path(), lazy()).unwrap();
    put(&store, 1, b"one").await;
    store.close().await.unwrap();
    let content = fs::read(&file).unwrap();
    let error = async || {
        let opened = EmbeddedStore::open(folder.path());
        opened.unwrap_err().to_string()
    };
    fs::write(&file, b"").unwrap();
    assert!(error().await.contains("it is empty or missing"));
    fs::remove_file(&file).unwrap();
    assert!(error().await.contains("it is empty or missing"));
    assert!(!file.exists(), "the next start refuses it too");
    fs::write(&file, content).unwrap();
    let store = EmbeddedStore::open(folder.path()).unwrap();
    assert_eq!(keys(&all(&store).await), [1]);
}

#[tokio::test]
async fn logs_with_exchanged_names_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open_with(folder.path(), lazy()).unwrap();
    put(&store, 1, b"one").await;
    let left = crash(folder.path());
    let [first, second] = LOGS.map(|log| left.path().join(log));
    let other = left.path().join("other");
    fs::rename(&first, &other).unwrap();
    fs::rename(&second, &first).unwrap();
    fs::rename(&other, &second).unwrap();
    let error = EmbeddedStore::open(left.path()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(..)), "{error}");
}

/// Whatever users wrote into a log before, the next start does not check a sum at each place that
/// looks like a record: half a million sums of megabytes take minutes.
#[tokio::test]
async fn old_bytes_that_look_like_records_cost_a_start_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open_with(folder.path(), lazy()).unwrap();
    put(&store, 1, b"one").await;
    let left = crash(folder.path());
    let (path, mut bytes) = used_log(left.path());
    let end = content(&bytes);
    bytes.truncate(end);
    bytes.extend_from_slice(&b"twLg\0\0\x40\0".repeat(1 << 20));
    fs::write(path, bytes).unwrap();
    let after = EmbeddedStore::open(left.path()).unwrap();
    assert_eq!(keys(&all(&after).await), [1]);
}

#[tokio::test]
async fn an_old_copy_of_the_file_beside_newer_logs_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), eager()).await.unwrap();
    put(&store, 0, b"old").await;
    drop(store);
    let store = open(folder.path(), eager()).await.unwrap();
    let old = crash(folder.path());
    for key in 1..10 {
        put(&store, key, b"new").await;
    }
    drop(store);
    let store = open(folder.path(), lazy()).await.unwrap();
    put(&store, 10, b"newest").await;
    let new = crash(folder.path());
    let file = "store.redb";
    fs::copy(old.path().join(file), new.path().join(file)).unwrap();
    let error = EmbeddedStore::open(new.path()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(..)), "{error}");
}

#[tokio::test]
async fn a_closed_store_needs_no_log() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open_with(folder.path(), lazy()).unwrap();
    put(&store, 1, b"one").await;
    drop(store);
    // The writer has closed the file once it can be opened.
    drop(open(folder.path(), StoreOptions::default()).await.unwrap());
    drop(open(folder.path(), StoreOptions::default()).await.unwrap());
    for log in LOGS {
        fs::remove_file(folder.path().join(log)).unwrap();
    }
    let store = open(folder.path(), StoreOptions::default()).await.unwrap();
    assert_eq!(keys(&all(&store).await), [1]);
}

#[tokio::test]
async fn closing_writes_what_waits_and_gives_the_files_up() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open_with(folder.path(), lazy()).unwrap();
    let other = store.clone();
    let commits: Vec<_> = (0..300_u32)
        .map(|key| {
            let store = store.clone();
            tokio::spawn(async move { put(&store, key, b"value").await })
        })
        .collect();
    for commit in commits {
        commit.await.unwrap();
    }
    store.close().await.unwrap();
    store.close().await.unwrap();
    assert_eq!(other.failure(), Some(StoreError::Closed));
    let mut late = Batch::new();
    late.put(TABLE, b"late".to_vec(), Vec::new());
    assert_eq!(other.commit(late).await, Err(StoreError::Closed));
    assert_eq!(
        other.get(TABLE, b"late".to_vec()).await,
        Err(StoreError::Closed)
    );
    for log in LOGS {
        assert_eq!(fs::metadata(folder.path().join(log)).unwrap().len(), 0);
        fs::remove_file(folder.path().join(log)).unwrap();
    }
    // The file alone has everything, although handles of the closed store are alive.
    let after = EmbeddedStore::open(folder.path()).unwrap();
    assert_eq!(keys(&all(&after).await).len(), 300);
}

#[tokio::test]
async fn a_file_of_the_format_without_logs_is_read() {
    let folder = tempfile::tempdir().unwrap();
    {
        let database = redb::Database::create(folder.path().join("store.redb")).unwrap();
        let transaction = database.begin_write().unwrap();
        let about = redb::TableDefinition::<&str, u64>::new("about");
        let things = redb::TableDefinition::<&[u8], &[u8]>::new(TABLE.0);
        let mut table = transaction.open_table(about).unwrap();
        table.insert("format", 1).unwrap();
        drop(table);
        let mut table = transaction.open_table(things).unwrap();
        table.insert(&b"\0\0\0\x01"[..], &b"one"[..]).unwrap();
        drop(table);
        transaction.commit().unwrap();
    }
    let store = EmbeddedStore::open(folder.path()).unwrap();
    put(&store, 2, b"two").await;
    let left = crash(folder.path());
    let after = EmbeddedStore::open(left.path()).unwrap();
    assert_eq!(keys(&all(&after).await), [1, 2]);
}

#[tokio::test]
async fn an_old_change_reaches_the_file_though_the_log_is_small() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        checkpoint_age: std::time::Duration::ZERO,
        ..StoreOptions::default()
    };
    let store = open(folder.path(), options).await.unwrap();
    put(&store, 1, b"one").await;
    // The next record goes to the other log, once the first is in the file.
    loop {
        put(&store, 2, b"two").await;
        let logs = LOGS.map(|name| fs::read(folder.path().join(name)).unwrap());
        if logs.iter().all(|log| content(log) > 0) {
            break;
        }
    }
    assert_eq!(keys(&all(&store).await), [1, 2]);
}

/// An operation on keys of few bytes, so that they overlap.
#[derive(Debug, Clone)]
enum Step {
    Put(u32, u8),
    Delete(u32),
    DeleteRange(u32, u32),
    Floor(u32),
    Scan(u32, usize),
    /// Closes the store and opens it again.
    Restart,
    /// Opens what a crash leaves.
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0_u32..24;
    let step = prop_oneof![
        8 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        3 => key.clone().prop_map(Step::Delete),
        2 => (key.clone(), key.clone()).prop_map(|(from, to)| Step::DeleteRange(from, to)),
        4 => key.clone().prop_map(Step::Floor),
        4 => (key, 0_usize..9).prop_map(|(from, limit)| Step::Scan(from, limit)),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..60)
}

/// Compares a store with a map, also while checkpoints run, after restarts and after crashes.
async fn compare(steps: &[Step], options: StoreOptions, can_crash: bool) {
    let mut folder = tempfile::tempdir().unwrap();
    let mut store = EmbeddedStore::open_with(folder.path(), options).unwrap();
    let mut model: BTreeMap<u32, u8> = BTreeMap::new();
    let bytes = |key: u32| key.to_be_bytes().to_vec();
    let entry = |(key, value): (&u32, &u8)| (bytes(*key), vec![*value]);
    for step in steps {
        let mut batch = Batch::new();
        match step {
            Step::Put(key, value) => {
                model.insert(*key, *value);
                batch.put(TABLE, bytes(*key), [*value]);
            }
            Step::Delete(key) => {
                model.remove(key);
                batch.delete(TABLE, bytes(*key));
            }
            Step::DeleteRange(from, to) => {
                model.retain(|key, _| key < from || key >= to);
                batch.delete_range(TABLE, bytes(*from), bytes(*to));
            }
            Step::Floor(key) => {
                let found = store.get_floor(TABLE, vec![bytes(*key)]).await.unwrap();
                let expected = model.range(..=key).next_back().map(entry);
                assert_eq!(found, [expected]);
            }
            Step::Scan(from, limit) => {
                let after = Some(bytes(*from));
                let found = store.scan(TABLE, Vec::new(), after, *limit).await.unwrap();
                let expected = model.range(from + 1..).map(entry).take(*limit);
                assert_eq!(found, expected.collect::<Vec<_>>());
            }
            Step::Restart => {
                drop(store);
                store = open(folder.path(), options).await.unwrap();
            }
            Step::Crash if can_crash => {
                let left = crash(folder.path());
                drop(store);
                folder = left;
                store = open(folder.path(), options).await.unwrap();
            }
            Step::Crash => {}
        }
        store.commit(batch).await.unwrap();
        let key = (TABLE, bytes(7));
        let found = store.get_many(vec![key]).await.unwrap();
        assert_eq!(found, [model.get(&7).map(|value| vec![*value])]);
    }
    let expected: Model = model.iter().map(entry).collect();
    assert_eq!(all(&store).await, expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_a_map_while_changes_are_in_the_log(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(compare(&steps, lazy(), true));
    }

    /// A copy that is taken during a checkpoint would not be what a disk has.
    #[test]
    fn the_store_is_a_map_while_checkpoints_run(steps in steps(), checkpoint_bytes in 1_usize..400) {
        let options = StoreOptions { checkpoint_bytes, ..StoreOptions::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(compare(&steps, options, false));
    }
}
