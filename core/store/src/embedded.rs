//! Embedded store: one file and its write-ahead log, written by one thread.
//!
//! ```text
//! commit ─▶ queue ─▶ log, one flush ─▶ memtable ─▶ done
//!                                         │ checkpoint, from time to time
//!                                         ▼
//!                                        file
//! ```
//! The thread appends queued batches to the log as one record, so that under load many batches share
//! one flush to the disk. A commit waits for that flush. The queue is bounded; a commit that finds
//! it full waits for room. A read merges the memtable and the file (`snapshot`).
//!
//! The log is sequential: the cost of a flush does not depend on where the rows are. A checkpoint
//! moves what the log has gathered to the file, in the order of the keys (`checkpoint`). After a
//! crash the next start applies the log to the file (`wal`).
//!
//! Urgent batches have a queue of their own, and the next record is theirs alone. After it, the
//! others have their turn, with urgent ones before them. A record takes no further batch from
//! [`GROUP`] batches or [`GROUP_WRITES`] writes on. An urgent batch therefore waits for the flush of
//! one such record, and for its own.
//!
//! # After a failed write
//! Neither the log nor the file is used after an error of the disk. The thread closes both, and
//! every read and commit fails at once. It opens them again every [`RETRY`], and before a
//! commit, and keeps them only if [`PROBE_BYTES`] can be written: so a full disk is used again
//! when it has room. [`Store::failure`] tells the reason meanwhile. The lock of the folder is held all
//! the time, so that no other process changes what the engines have in memory.

mod checkpoint;
mod file;
mod memtable;
mod snapshot;
mod wal;
mod writer;

use std::{path::Path, sync::Arc, time::Duration};

use parking_lot::RwLock;
use redb::Database;
use tokio::sync::{mpsc, oneshot};

use crate::{Batch, Key, Store, StoreError, StoreFuture, Table, Value};
use memtable::Memtable;
use snapshot::Snapshot;
use writer::Writer;

/// Batches in the queue before a commit waits.
const QUEUE: usize = 256;

/// Batches that share one record at most.
const GROUP: usize = 256;

/// Writes of a record from which on it takes no further batch: about a millisecond of work.
const GROUP_WRITES: usize = 1_024;

/// Time between two attempts to open the file again after a failed write.
const RETRY: Duration = Duration::from_millis(250);

/// Bytes that a file which is opened again must have room for. Fewer would let the store open
/// on a disk that is still full, and fail again with the next batch.
const PROBE_BYTES: usize = 64 << 10;

/// Table of the probe, empty between probes.
const PROBE: Table = Table("probe");

/// Options of an embedded store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreOptions {
    /// Bytes of the log, or of its changes in memory, at which a checkpoint begins. While one runs,
    /// the next segment may grow to four times as many.
    pub checkpoint_bytes: usize,
    /// Age of the oldest change in the log at which a checkpoint begins, however small the log is.
    /// The next start then has less to do.
    pub checkpoint_age: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            checkpoint_bytes: 16 << 20,
            checkpoint_age: Duration::from_secs(30),
        }
    }
}

/// A batch that waits for its flush.
struct Job {
    batch: Batch,
    /// The batch as the log has it.
    encoded: Vec<u8>,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// The open store.
struct OpenStore {
    database: Arc<Database>,
    /// Changes that the log has and the file has not.
    newest: Memtable,
    /// Changes that a checkpoint moves to the file.
    frozen: Option<Arc<Memtable>>,
    /// The segment of the newest changes.
    segment: u64,
}

/// The open store, or the reason for which it is closed.
type FileState = Result<OpenStore, StoreError>;

/// Whom to tell the result of closing.
type Closing = oneshot::Sender<Result<(), StoreError>>;

/// A store in a file of its own. Cheap to clone; dropping the last clone closes it, as
/// [`close`](Store::close) does.
#[derive(Clone)]
pub struct EmbeddedStore {
    file: Arc<RwLock<FileState>>,
    queue: mpsc::Sender<Job>,
    urgent: mpsc::Sender<Job>,
    closing: mpsc::Sender<Closing>,
}

impl std::fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedStore").finish_non_exhaustive()
    }
}

impl EmbeddedStore {
    /// Opens the store in this folder, and creates both where they are missing.
    ///
    /// # Errors
    /// The file cannot be read or written, is damaged, is open in another process, or was
    /// written by a newer version.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        Self::open_with(folder, StoreOptions::default())
    }

    /// Opens the store with options.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_with(folder: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let lock = file::lock(folder)?;
        let parts = writer::open(folder)?;
        let path = parts.path.clone();
        let unusable =
            |error: std::io::Error| StoreError::Unusable(path.clone(), error.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(&unusable)?;
        let (queue, jobs) = mpsc::channel(QUEUE);
        let (urgent, urgent_jobs) = mpsc::channel(QUEUE);
        let (closing, closings) = mpsc::channel(1);
        let writer = Writer::new(folder, lock, options, parts, jobs, urgent_jobs);
        let file = writer.file();
        std::thread::Builder::new()
            .name("tidewire-store".to_owned())
            .spawn(move || runtime.block_on(writer.run(closings)))
            .map_err(unusable)?;
        Ok(Self {
            file,
            queue,
            urgent,
            closing,
        })
    }

    /// Reads a snapshot on a thread that may block on the disk. `part` copies what the read may
    /// need of the newest changes.
    fn read<T: Send + 'static>(
        &self,
        part: impl Fn(&Memtable) -> Memtable + Send + 'static,
        read: impl FnOnce(&Snapshot) -> Result<T, StoreError> + Send + 'static,
    ) -> StoreFuture<'_, T> {
        let file = self.file.clone();
        Box::pin(async move {
            tokio::task::spawn_blocking(move || read(&Snapshot::take(&file, part)?))
                .await
                .map_err(failed)?
        })
    }
}

impl Store for EmbeddedStore {
    fn get(&self, table: Table, key: Key) -> StoreFuture<'_, Option<Value>> {
        let found = self.get_many(vec![(table, key)]);
        // There is one value for each key.
        Box::pin(async move { Ok(found.await?.pop().flatten()) })
    }

    fn get_many(&self, keys: Vec<(Table, Key)>) -> StoreFuture<'_, Vec<Option<Value>>> {
        let keys: Arc<[_]> = keys.into();
        let wanted = keys.clone();
        self.read(
            move |newest| newest.part_of_keys(&wanted),
            move |snapshot| snapshot.get_many(&keys),
        )
    }

    fn get_floor(
        &self,
        table: Table,
        keys: Vec<Key>,
    ) -> StoreFuture<'_, Vec<Option<(Key, Value)>>> {
        let wanted = keys.clone();
        self.read(
            move |newest| newest.part_below(table.0, &wanted),
            move |snapshot| snapshot.get_floor(table, keys),
        )
    }

    fn scan(
        &self,
        table: Table,
        prefix: Key,
        after: Option<Key>,
        limit: usize,
    ) -> StoreFuture<'_, Vec<(Key, Value)>> {
        let from = match after {
            // The least key after `after`.
            Some(mut after) => {
                after.push(0);
                after.max(prefix.clone())
            }
            None => prefix.clone(),
        };
        let wanted = (from.clone(), prefix.clone());
        self.read(
            move |newest| newest.part_from(table.0, &wanted.0, &wanted.1, limit),
            move |snapshot| snapshot.scan(table, &from, &prefix, limit),
        )
    }

    fn commit(&self, batch: Batch) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            if batch.is_empty() {
                return Ok(());
            }
            let (done, written) = oneshot::channel();
            let queue = match batch.is_urgent() {
                true => &self.urgent,
                false => &self.queue,
            };
            // Here, so that the writer's thread need not.
            let encoded = wal::encode(&batch);
            let job = Job {
                batch,
                encoded,
                done,
            };
            queue.send(job).await.map_err(|_| StoreError::Closed)?;
            written.await.map_err(|_| StoreError::Closed)?
        })
    }

    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            let (done, closed) = oneshot::channel();
            // Nobody answers when another call has ended it.
            let asked = self.closing.send(done).await;
            match asked {
                Ok(()) => closed.await.unwrap_or(Ok(())),
                Err(_) => Ok(()),
            }
        })
    }

    fn has_ended(&self) -> bool {
        self.queue.is_closed()
    }

    fn failure(&self) -> Option<StoreError> {
        match self.queue.is_closed() {
            true => Some(StoreError::Closed),
            false => self.file.read().as_ref().err().cloned(),
        }
    }
}

fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(error.to_string())
}
