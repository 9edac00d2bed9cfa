//! Store file: opens it, and names its faults.

use std::{
    fs::{File, OpenOptions, TryLockError},
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io::ErrorKind,
    os::unix::fs::OpenOptionsExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use redb::{
    Database, DatabaseError, ReadableDatabase as _, StorageError, TableDefinition, WriteTransaction,
};

use super::{failed, wal};
use crate::StoreError;

/// Name of the file in the data folder.
const FILE: &str = "store.redb";

/// Name of the empty file that the process with the store holds a lock on.
const LOCK: &str = "store.lock";

/// Size of the page cache, in bytes: enough for the pages that are read again and again.
const CACHE_BYTES: usize = 16 << 20;

/// Format of the stored data. Raise it when an older version could not read the new one.
/// Format 2 has logs beside the file.
const FORMAT: u64 = 2;

/// Table of properties of the file itself.
const ABOUT: TableDefinition<'static, &'static str, u64> = TableDefinition::new("about");

/// Key of a random number that tells the logs of this file from those of others.
const STORE: &str = "store";

/// Key of the last segment of the logs that the file has.
const CHECKPOINT: &str = "checkpoint";

/// Key of whether the logs may have changes that the file does not have.
const LOGS: &str = "logs";

/// An opened file.
pub(super) struct OpenFile {
    pub(super) path: PathBuf,
    pub(super) database: Database,
    /// The random number of the file.
    pub(super) store: u64,
    /// The last segment of the logs that the file has.
    pub(super) checkpoint: u64,
    /// Whether the logs may have changes that the file does not have.
    pub(super) needs_logs: bool,
}

/// Opens the file in this folder, and creates it where it is missing. Only this system user
/// can read a new file: it holds users' notifications and wallets. The mode of a known file stays.
pub(super) fn open(folder: &Path) -> Result<OpenFile, StoreError> {
    let path = folder.join(FILE);
    let unusable = |error: std::io::Error| StoreError::Unusable(path.clone(), error.to_string());
    // A new file is written and flushed before there are logs.
    let is_new = path.metadata().map_or(true, |about| about.len() == 0);
    if is_new && let Some(log) = wal::FILES.iter().find(|log| folder.join(log).exists()) {
        let reason = format!("it is empty or missing, although `{log}` is beside it");
        return Err(StoreError::Corrupt(path, reason));
    }
    open_private(&path).map_err(unusable)?;
    // The library panics on some damaged files.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(&path)
            .map_err(|error| explain(&path, error))?;
        let about = check_format(&path, &database)?;
        Ok((database, about))
    }));
    let (database, about) = opened.unwrap_or_else(|_| {
        let reason = "its content contradicts its header".to_owned();
        Err(StoreError::Corrupt(path.clone(), reason))
    })?;
    Ok(OpenFile {
        path,
        database,
        store: about.store,
        checkpoint: about.checkpoint,
        needs_logs: about.needs_logs,
    })
}

/// Locks the folder for this process, and creates it where it is missing. The lock lasts until the
/// returned file is dropped, also while the store is closed after an error of the disk: the engines
/// still have its content in memory, so nobody else may change it.
pub(super) fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join(LOCK);
    let unusable = |error: std::io::Error| StoreError::Unusable(path.clone(), error.to_string());
    std::fs::create_dir_all(folder).map_err(unusable)?;
    let file = open_private(&path).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(folder.join(FILE))),
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
            tracing::warn!(
                "the file system has no locks: take care that one server uses the store"
            );
            Ok(file)
        }
        Err(TryLockError::Error(error)) => Err(unusable(error)),
    }
}

/// Opens a file, and creates an empty one if there is none. The library would give it the
/// system's mode, which others can usually read.
pub(super) fn open_private(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match options.clone().create_new(true).open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => options.open(path),
        created => created,
    }
}

/// Runs a change of the file. The library panics on some damaged pages.
pub(super) fn catch(change: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
    let changed = catch_unwind(AssertUnwindSafe(change));
    changed.unwrap_or_else(|_| Err(failed("its content contradicts itself")))
}

/// Notes in a transaction that the file has a segment of the logs, and all before.
pub(super) fn note_checkpoint(
    transaction: &WriteTransaction,
    segment: u64,
    needs_logs: bool,
) -> Result<(), StoreError> {
    let mut about = transaction.open_table(ABOUT).map_err(failed)?;
    about.insert(CHECKPOINT, segment).map_err(failed)?;
    about.insert(LOGS, u64::from(needs_logs)).map_err(failed)?;
    Ok(())
}

/// Notes that the logs may have changes that the file does not have.
pub(super) fn note_logs(database: &Database) -> Result<(), StoreError> {
    catch(|| {
        let transaction = database.begin_write().map_err(failed)?;
        {
            let mut about = transaction.open_table(ABOUT).map_err(failed)?;
            about.insert(LOGS, 1).map_err(failed)?;
        }
        transaction.commit().map_err(failed)
    })
}

fn explain(path: &Path, error: DatabaseError) -> StoreError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(path),
        DatabaseError::UpgradeRequired(version) => {
            StoreError::Corrupt(path, format!("its file format {version} is too old"))
        }
        DatabaseError::Storage(StorageError::Io(error))
            if error.kind() != ErrorKind::InvalidData =>
        {
            StoreError::Unusable(path, error.to_string())
        }
        damaged => StoreError::Corrupt(path, damaged.to_string()),
    }
}

/// Properties that the file has of itself.
struct About {
    store: u64,
    checkpoint: u64,
    needs_logs: bool,
}

/// Checks the format, and completes the properties of a new file and of one of an earlier format.
fn check_format(path: &Path, database: &Database) -> Result<About, StoreError> {
    let damaged = |error: String| StoreError::Corrupt(path.to_owned(), error);
    let read = || -> Result<[Option<u64>; 4], redb::Error> {
        let transaction = database.begin_read()?;
        match transaction.open_table(ABOUT) {
            Ok(about) => {
                let mut found = [None; 4];
                for (key, place) in ["format", STORE, CHECKPOINT, LOGS]
                    .into_iter()
                    .zip(&mut found)
                {
                    *place = about.get(key)?.map(|found| found.value());
                }
                Ok(found)
            }
            Err(redb::TableError::TableDoesNotExist(_)) => Ok([None; 4]),
            Err(error) => Err(error.into()),
        }
    };
    let [format, store, checkpoint, logs] = read().map_err(|error| damaged(error.to_string()))?;
    if let Some(found) = format.filter(|found| *found > FORMAT) {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            found,
            known: FORMAT,
        });
    }
    if let (Some(FORMAT), Some(store)) = (format, store) {
        return Ok(About {
            store,
            checkpoint: checkpoint.unwrap_or(0),
            needs_logs: logs == Some(1),
        });
    }
    // The keys of this hasher are random.
    let store = RandomState::new().build_hasher().finish();
    let write = || -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        {
            let mut about = transaction.open_table(ABOUT)?;
            about.insert("format", FORMAT)?;
            about.insert(STORE, store)?;
        }
        Ok(transaction.commit()?)
    };
    write().map_err(|error| damaged(error.to_string()))?;
    Ok(About {
        store,
        checkpoint: 0,
        needs_logs: false,
    })
}
