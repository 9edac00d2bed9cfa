//! Embedded store: one file, written by one thread.
//!
//! The thread writes queued batches in one transaction, so that under load many batches share one
//! flush to the disk. A commit waits for that flush. The queue is bounded; a commit that finds it
//! full waits for room.
//!
//! Urgent batches have a queue of their own, and the next transaction is theirs alone. After it, the
//! others have their turn, with urgent ones before them. A transaction takes no further batch from
//! [`GROUP`] batches or [`GROUP_WRITES`] writes on. An urgent batch therefore waits for the end of
//! one such transaction, and for its own flush.
//!
//! # After a failed write
//! The library uses a file no more after an error of the disk. The thread closes the file, and
//! every read and commit fails at once. It opens the file again every [`RETRY`], and before a
//! commit, and keeps it only if [`PROBE_BYTES`] can be written: so a full disk is used again
//! when it has room. [`Store::failure`] tells the reason meanwhile.

mod file;

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::RwLock;
use redb::{
    Database, ReadOnlyTable, ReadTransaction, ReadableDatabase as _, TableDefinition, TableError,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

use crate::{Batch, Key, Store, StoreError, StoreFuture, Table, Value, Write};

/// Batches in the queue before a commit waits.
const QUEUE: usize = 256;

/// Batches that share one transaction at most.
const GROUP: usize = 256;

/// Writes of a transaction from which on it takes no further batch: some milliseconds of work.
const GROUP_WRITES: usize = 1_024;

/// Time between two attempts to open the file again after a failed write.
const RETRY: Duration = Duration::from_millis(250);

/// Bytes that a file which is opened again must have room for. Fewer would let the store open
/// on a disk that is still full, and fail again with the next batch.
const PROBE_BYTES: usize = 64 << 10;

/// Table of the probe, empty between probes.
const PROBE: Table = Table("probe");

type Definition<'a> = TableDefinition<'a, &'static [u8], &'static [u8]>;
type ReadTable = ReadOnlyTable<&'static [u8], &'static [u8]>;
type WriteTable<'a> = redb::Table<'a, &'static [u8], &'static [u8]>;

struct Job {
    batch: Batch,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// The open file, or the reason for which it is closed.
type FileState = Result<Arc<Database>, StoreError>;

/// A store in a file of its own. Cheap to clone; dropping the last clone closes it.
#[derive(Clone)]
pub struct EmbeddedStore {
    file: Arc<RwLock<FileState>>,
    queue: mpsc::Sender<Job>,
    urgent: mpsc::Sender<Job>,
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
        let (path, database) = file::open(folder)?;
        let unusable =
            |error: std::io::Error| StoreError::Unusable(path.clone(), error.to_string());
        let timer = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(unusable)?;
        let file = Arc::new(RwLock::new(Ok(Arc::new(database))));
        let (queue, jobs) = mpsc::channel(QUEUE);
        let (urgent, urgent_jobs) = mpsc::channel(QUEUE);
        let writer = Writer {
            folder: folder.to_owned(),
            file: file.clone(),
            jobs,
            urgent_jobs,
            waiting: VecDeque::new(),
            was_urgent: false,
            retry_at: Instant::now(),
        };
        std::thread::Builder::new()
            .name("tidewire-store".to_owned())
            .spawn(move || timer.block_on(writer.run()))
            .map_err(unusable)?;
        Ok(Self {
            file,
            queue,
            urgent,
        })
    }

    /// Reads on a thread that may block on the disk.
    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, StoreError> + Send + 'static,
    ) -> StoreFuture<'_, T> {
        let file = self.file.clone();
        Box::pin(async move {
            let database = file.read().clone()?;
            tokio::task::spawn_blocking(move || read(&database))
                .await
                .map_err(failed)?
        })
    }
}

impl Store for EmbeddedStore {
    fn get(&self, table: Table, key: Key) -> StoreFuture<'_, Option<Value>> {
        self.read(move |database| {
            let transaction = database.begin_read().map_err(failed)?;
            let Some(table) = open_read(&transaction, table)? else {
                return Ok(None);
            };
            let value = table.get(key.as_slice()).map_err(failed)?;
            Ok(value.map(|value| value.value().to_vec()))
        })
    }

    fn get_many(&self, keys: Vec<(Table, Key)>) -> StoreFuture<'_, Vec<Option<Value>>> {
        self.read(move |database| {
            let transaction = database.begin_read().map_err(failed)?;
            let mut tables: Vec<(Table, Option<ReadTable>)> = Vec::new();
            let mut found = Vec::with_capacity(keys.len());
            for (name, key) in keys {
                let place = match tables.iter().position(|(opened, _)| *opened == name) {
                    Some(place) => place,
                    None => {
                        tables.push((name, open_read(&transaction, name)?));
                        tables.len() - 1
                    }
                };
                found.push(match &tables[place].1 {
                    Some(table) => {
                        let value = table.get(key.as_slice()).map_err(failed)?;
                        value.map(|value| value.value().to_vec())
                    }
                    None => None,
                });
            }
            Ok(found)
        })
    }

    fn get_floor(
        &self,
        table: Table,
        keys: Vec<Key>,
    ) -> StoreFuture<'_, Vec<Option<(Key, Value)>>> {
        self.read(move |database| {
            let transaction = database.begin_read().map_err(failed)?;
            let Some(table) = open_read(&transaction, table)? else {
                return Ok(vec![None; keys.len()]);
            };
            let floor = |key: Key| {
                let mut range = table.range(..=key.as_slice()).map_err(failed)?;
                let entry = range.next_back().transpose().map_err(failed)?;
                Ok(entry.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())))
            };
            keys.into_iter().map(floor).collect()
        })
    }

    fn scan(
        &self,
        table: Table,
        prefix: Key,
        after: Option<Key>,
        limit: usize,
    ) -> StoreFuture<'_, Vec<(Key, Value)>> {
        self.read(move |database| {
            let transaction = database.begin_read().map_err(failed)?;
            let Some(table) = open_read(&transaction, table)? else {
                return Ok(Vec::new());
            };
            let from = match after {
                // The least key after `after`.
                Some(mut after) => {
                    after.push(0);
                    after.max(prefix.clone())
                }
                None => prefix.clone(),
            };
            let mut found = Vec::new();
            for entry in table.range(from.as_slice()..).map_err(failed)? {
                let (key, value) = entry.map_err(failed)?;
                if found.len() >= limit || !key.value().starts_with(&prefix) {
                    break;
                }
                found.push((key.value().to_vec(), value.value().to_vec()));
            }
            Ok(found)
        })
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
            let job = Job { batch, done };
            queue.send(job).await.map_err(|_| StoreError::Closed)?;
            written.await.map_err(|_| StoreError::Closed)?
        })
    }

    fn failure(&self) -> Option<StoreError> {
        match self.queue.is_closed() {
            true => Some(StoreError::Closed),
            false => self.file.read().as_ref().err().cloned(),
        }
    }
}

/// The thread that writes.
struct Writer {
    folder: PathBuf,
    file: Arc<RwLock<FileState>>,
    jobs: mpsc::Receiver<Job>,
    urgent_jobs: mpsc::Receiver<Job>,
    /// Batches that the last transaction left, in their order.
    waiting: VecDeque<Job>,
    /// Whether the last transaction was of urgent batches alone.
    was_urgent: bool,
    /// When a closed file may be opened again.
    retry_at: Instant,
}

impl Writer {
    async fn run(mut self) {
        let mut group = Vec::new();
        loop {
            let (is_open, retry_at) = (self.file.read().is_ok(), self.retry_at);
            let collected = self.collect(&mut group);
            let has_jobs = match is_open {
                true => collected.await,
                false => match timeout_at(retry_at, collected).await {
                    Ok(has_jobs) => has_jobs,
                    Err(_) => {
                        self.open_again();
                        continue;
                    }
                },
            };
            if !has_jobs {
                return;
            }
            let written = self.write_group(&group);
            for job in group.drain(..) {
                // The caller may have stopped waiting. The write counts all the same.
                let _ = job.done.send(written.clone());
            }
        }
    }

    /// Waits for batches, and collects those of the next transaction. False if there will be none
    /// any more.
    async fn collect(&mut self, group: &mut Vec<Job>) -> bool {
        if self.waiting.is_empty() {
            // Both queues belong to the same handles, so that both end together.
            let job = tokio::select! {
                biased;
                Some(urgent) = self.urgent_jobs.recv() => {
                    group.push(urgent);
                    None
                }
                job = self.jobs.recv() => job,
            };
            self.waiting.extend(job);
            if group.is_empty() && self.waiting.is_empty() {
                return false;
            }
        }
        let writes = |group: &[Job]| {
            let batches = group.iter().map(|job| job.batch.writes().len());
            batches.sum::<usize>()
        };
        while group.len() < GROUP
            && writes(group) < GROUP_WRITES
            && let Ok(urgent) = self.urgent_jobs.try_recv()
        {
            group.push(urgent);
        }
        // Others are not kept waiting twice in a row.
        self.was_urgent = !group.is_empty() && !self.was_urgent;
        if self.was_urgent {
            return true;
        }
        while self.waiting.len() < GROUP
            && let Ok(job) = self.jobs.try_recv()
        {
            self.waiting.push_back(job);
        }
        let mut count = writes(group);
        while group.len() < GROUP
            && count < GROUP_WRITES
            && let Some(job) = self.waiting.pop_front()
        {
            count += job.batch.writes().len();
            group.push(job);
        }
        true
    }

    /// Writes a group of batches. A failure closes the file.
    fn write_group(&mut self, group: &[Job]) -> Result<(), StoreError> {
        if self.file.read().is_err() && self.retry_at <= Instant::now() {
            self.open_again();
        }
        let database = self.file.read().clone()?;
        let writes = group.iter().flat_map(|job| job.batch.writes());
        let written = write(&database, writes);
        drop(database);
        if let Err(error) = &written {
            tracing::error!(
                %error,
                batches = group.len(),
                "cannot write to the store: it is closed until it can be written again"
            );
            self.close(error.clone());
        }
        written
    }

    fn close(&mut self, reason: StoreError) {
        *self.file.write() = Err(reason);
        self.retry_at = Instant::now() + RETRY;
    }

    /// Opens a closed file again if it can be written. Readers that still have the old file
    /// open make it fail once more.
    fn open_again(&mut self) {
        let opened = file::open(&self.folder).and_then(|(_, database)| {
            probe(&database)?;
            Ok(database)
        });
        match opened {
            Ok(database) => {
                *self.file.write() = Ok(Arc::new(database));
                tracing::info!("the store can be written again");
            }
            Err(error) => self.close(error),
        }
    }
}

/// Writes some bytes and removes them again.
fn probe(database: &Database) -> Result<(), StoreError> {
    let put = Write::Put(PROBE, Key::new(), vec![0; PROBE_BYTES]);
    write(database, [&put].into_iter())?;
    let delete = Write::Delete(PROBE, Key::new());
    write(database, [&delete].into_iter())
}

/// Applies writes in one transaction.
fn write<'a>(
    database: &Database,
    writes: impl Iterator<Item = &'a Write>,
) -> Result<(), StoreError> {
    // The library panics on some damaged pages.
    let written = catch_unwind(AssertUnwindSafe(|| commit(database, writes)));
    written.unwrap_or_else(|_| Err(failed("its content contradicts itself")))
}

/// Opens a table to read. None if nothing was ever written to it.
fn open_read(transaction: &ReadTransaction, table: Table) -> Result<Option<ReadTable>, StoreError> {
    match transaction.open_table(Definition::new(table.0)) {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Applies writes table by table, each opened once, and in the order of their keys: neighbours
/// then change one page of the file, and a key that was written several times is written once.
fn commit<'a>(
    database: &Database,
    writes: impl Iterator<Item = &'a Write>,
) -> Result<(), StoreError> {
    let transaction = database.begin_write().map_err(failed)?;
    let mut tables: Vec<(Table, Vec<&Write>)> = Vec::new();
    for write in writes {
        let name = write.table();
        match tables.iter_mut().find(|(table, _)| *table == name) {
            Some((_, writes)) => writes.push(write),
            None => tables.push((name, vec![write])),
        }
    }
    for (name, writes) in tables {
        let mut table = transaction
            .open_table(Definition::new(name.0))
            .map_err(failed)?;
        for part in writes.split_inclusive(|write| matches!(write, Write::DeleteRange(..))) {
            let (range, points) = match part.split_last() {
                Some((Write::DeleteRange(_, from, to), points)) => (Some((from, to)), points),
                _ => (None, part),
            };
            apply_points(&mut table, points)?;
            if let Some((from, to)) = range {
                table
                    .retain_in(from.as_slice()..to.as_slice(), |_, _| false)
                    .map_err(failed)?;
            }
        }
    }
    transaction.commit().map_err(failed)
}

/// Applies writes of single keys. The last write of a key wins.
fn apply_points(table: &mut WriteTable<'_>, writes: &[&Write]) -> Result<(), StoreError> {
    let mut points: Vec<(&[u8], Option<&[u8]>)> = writes
        .iter()
        .filter_map(|write| match write {
            Write::Put(_, key, value) => Some((key.as_slice(), Some(value.as_slice()))),
            Write::Delete(_, key) => Some((key.as_slice(), None)),
            Write::DeleteRange(..) => None,
        })
        .collect();
    // Stable, so that the writes of one key keep their order.
    points.sort_by_key(|(key, _)| *key);
    for (place, (key, value)) in points.iter().enumerate() {
        if points.get(place + 1).is_some_and(|(next, _)| next == key) {
            continue;
        }
        match value {
            Some(value) => drop(table.insert(*key, *value).map_err(failed)?),
            None => drop(table.remove(*key).map_err(failed)?),
        }
    }
    Ok(())
}

fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(error.to_string())
}
