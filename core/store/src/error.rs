//! Errors of a store.

use std::path::PathBuf;

/// Reason for which a store cannot be opened, read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The folder or the file cannot be read or written.
    #[error(
        "the store {0} cannot be opened: {1}; check the disk and the permissions of the folder"
    )]
    Unusable(PathBuf, String),
    /// Another process has the file open.
    #[error(
        "the store {0} is open in another process: stop it, or set another folder in `store.path`"
    )]
    InUse(PathBuf),
    /// The file is not a store, or is damaged.
    #[error(
        "the store {0} is damaged: {1}; put copies of all files back whose names begin with `store.`, or move all of them away to start with an empty store, in which no token is revoked"
    )]
    Corrupt(PathBuf, String),
    /// A newer version has written the file.
    #[error(
        "the store {path} has format {found}, expected at most {known}: a newer version has written it"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The format of the file.
        found: u64,
        /// The newest format that this version knows.
        known: u64,
    },
    /// A write or a read failed.
    #[error("the store failed: {0}")]
    Failed(String),
    /// Nobody has the lease, or it cannot be found out.
    #[error("{0}")]
    NoOwner(String),
    /// Another node has taken over the shared store.
    #[error("another node has taken over the shared store")]
    TakenOver,
    /// It is not known whether a commit was stored.
    #[error("it is not known whether the last commit was stored: Redis: {0}")]
    InDoubt(String),
    /// Redis lacks commits that were acknowledged.
    #[error(
        "Redis has lost {0} commits of this store that were acknowledged: check its persistence and its replicas"
    )]
    Lost(u64),
    /// The server has no store.
    #[error("this server has no store: its log says why")]
    Absent,
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}
