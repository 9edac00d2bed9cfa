//! Store file: opens it, and names its faults.

use std::{
    fs::OpenOptions,
    io::ErrorKind,
    os::unix::fs::OpenOptionsExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use redb::{Database, DatabaseError, ReadableDatabase as _, StorageError, TableDefinition};

use crate::StoreError;

/// Name of the file in the data folder.
const FILE: &str = "store.redb";

/// Size of the page cache, in bytes: enough for the pages that are read again and again.
const CACHE_BYTES: usize = 16 << 20;

/// Format of the stored data. Raise it when an older version could not read the new one.
const FORMAT: u64 = 1;

/// Table of properties of the file itself.
const ABOUT: TableDefinition<'static, &'static str, u64> = TableDefinition::new("about");

/// Opens the file in this folder, and creates both where they are missing. Only this system user
/// can read a new file: it holds users' notifications and wallets. The mode of a known file stays.
pub(super) fn open(folder: &Path) -> Result<(PathBuf, Database), StoreError> {
    let path = folder.join(FILE);
    let unusable = |error: std::io::Error| StoreError::Unusable(path.clone(), error.to_string());
    std::fs::create_dir_all(folder).map_err(unusable)?;
    create_private(&path).map_err(unusable)?;
    // The library panics on some damaged files.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(&path)
            .map_err(|error| explain(&path, error))?;
        check_format(&path, &database)?;
        Ok(database)
    }));
    let database = opened.unwrap_or_else(|_| {
        let reason = "its content contradicts its header".to_owned();
        Err(StoreError::Corrupt(path.clone(), reason))
    })?;
    Ok((path, database))
}

/// Creates an empty file that the library then fills, if there is none. The library would give
/// it the system's mode, which others can usually read.
fn create_private(path: &Path) -> std::io::Result<()> {
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match created {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
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

/// Checks the format, and writes it to a new file.
fn check_format(path: &Path, database: &Database) -> Result<(), StoreError> {
    let damaged = |error: String| StoreError::Corrupt(path.to_owned(), error);
    let read = || -> Result<Option<u64>, redb::Error> {
        let transaction = database.begin_read()?;
        match transaction.open_table(ABOUT) {
            Ok(about) => Ok(about.get("format")?.map(|format| format.value())),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    };
    match read().map_err(|error| damaged(error.to_string()))? {
        Some(found) if found > FORMAT => Err(StoreError::Newer {
            path: path.to_owned(),
            found,
            known: FORMAT,
        }),
        Some(_) => Ok(()),
        None => {
            let write = || -> Result<(), redb::Error> {
                let transaction = database.begin_write()?;
                transaction.open_table(ABOUT)?.insert("format", FORMAT)?;
                Ok(transaction.commit()?)
            };
            write().map_err(|error| damaged(error.to_string()))
        }
    }
}
