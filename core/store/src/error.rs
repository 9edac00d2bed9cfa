//! What can go wrong with a store.

use std::path::PathBuf;

/// Why a store does not do what it is asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The folder or the file cannot be read or written.
    #[error("the store {0} cannot be opened: {1}")]
    Unusable(PathBuf, String),
    /// Another process has it open.
    #[error("the store {0} is open in another process, expected one server for each data folder")]
    Taken(PathBuf),
    /// The file is no store, or was damaged.
    #[error(
        "the store {0} is damaged: {1}; put a copy of it back, or move it away to start without what it kept"
    )]
    Corrupt(PathBuf, String),
    /// A newer version has written it.
    #[error(
        "the store {path} has format {found}, expected at most {known}: a newer version has written it"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The newest format that this version knows.
        known: u64,
    },
    /// A write or a read failed.
    #[error("the store failed: {0}")]
    Failed(String),
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}
