//! Embedded store: one file, written by one thread.
//!
//! The thread writes all queued batches in one transaction, so that under load many batches
//! share one flush to the disk. A commit waits for that flush. The queue is bounded; a commit
//! that finds it full waits for room.

mod file;

use std::{path::Path, sync::Arc};

use redb::{Database, ReadableDatabase as _, TableDefinition, TableError};
use tokio::sync::{mpsc, oneshot};

use crate::{Batch, Key, Store, StoreError, StoreFuture, Table, Value, Write};

/// Batches in the queue before a commit waits.
const QUEUE: usize = 256;

/// Batches that share one transaction at most.
const GROUP: usize = 256;

type Definition<'a> = TableDefinition<'a, &'static [u8], &'static [u8]>;

struct Job {
    batch: Batch,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// A store in a file of its own. Cheap to clone; dropping the last clone closes it.
#[derive(Clone)]
pub struct EmbeddedStore {
    database: Arc<Database>,
    queue: mpsc::Sender<Job>,
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
        let database = Arc::new(database);
        let (queue, jobs) = mpsc::channel(QUEUE);
        let writer = Writer {
            database: database.clone(),
            jobs,
        };
        std::thread::Builder::new()
            .name("tidewire-store".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| StoreError::Unusable(path, error.to_string()))?;
        Ok(Self { database, queue })
    }

    /// Reads on a thread that may block on the disk.
    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, StoreError> + Send + 'static,
    ) -> StoreFuture<'_, T> {
        let database = self.database.clone();
        Box::pin(async move {
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
            let table = match transaction.open_table(Definition::new(table.0)) {
                Ok(table) => table,
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                Err(error) => return Err(failed(error)),
            };
            let value = table.get(key.as_slice()).map_err(failed)?;
            Ok(value.map(|value| value.value().to_vec()))
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
            let table = match transaction.open_table(Definition::new(table.0)) {
                Ok(table) => table,
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                Err(error) => return Err(failed(error)),
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
            let job = Job { batch, done };
            self.queue.send(job).await.map_err(|_| StoreError::Closed)?;
            written.await.map_err(|_| StoreError::Closed)?
        })
    }
}

/// The thread that writes.
struct Writer {
    database: Arc<Database>,
    jobs: mpsc::Receiver<Job>,
}

impl Writer {
    fn run(mut self) {
        let mut group = Vec::new();
        while self.jobs.blocking_recv_many(&mut group, GROUP) > 0 {
            let written = self.write(&group);
            if let Err(error) = &written {
                tracing::error!(%error, batches = group.len(), "cannot write to the store");
            }
            for job in group.drain(..) {
                // The caller may have stopped waiting. The write counts all the same.
                let _ = job.done.send(written.clone());
            }
        }
    }

    fn write(&self, group: &[Job]) -> Result<(), StoreError> {
        let transaction = self.database.begin_write().map_err(failed)?;
        for write in group.iter().flat_map(|job| job.batch.writes()) {
            match write {
                Write::Put(name, key, value) => {
                    let mut table = transaction
                        .open_table(Definition::new(name.0))
                        .map_err(failed)?;
                    table
                        .insert(key.as_slice(), value.as_slice())
                        .map_err(failed)?;
                }
                Write::Delete(name, key) => {
                    let mut table = transaction
                        .open_table(Definition::new(name.0))
                        .map_err(failed)?;
                    table.remove(key.as_slice()).map_err(failed)?;
                }
                Write::DeleteRange(name, from, to) => {
                    let mut table = transaction
                        .open_table(Definition::new(name.0))
                        .map_err(failed)?;
                    table
                        .retain_in(from.as_slice()..to.as_slice(), |_, _| false)
                        .map_err(failed)?;
                }
            }
        }
        transaction.commit().map_err(failed)
    }
}

fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(error.to_string())
}
