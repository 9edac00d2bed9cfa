//! Writer: the thread that appends to the log and begins checkpoints.

use std::{
    collections::VecDeque,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::RwLock;
use redb::{Database, TableDefinition};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::{
    Closing, FileState, GROUP, GROUP_WRITES, Job, OpenStore, PROBE, PROBE_BYTES, RETRY,
    StoreOptions, checkpoint, failed,
    file::{self, OpenFile},
    memtable::Memtable,
    wal::WriteAheadLog,
};
use crate::StoreError;

/// Removed keys in memory at which a checkpoint begins. A scan of a queue, from whose beginning
/// rows are removed all the time, passes them again and again.
const MAX_REMOVALS: usize = 8_192;

/// A store whose file has all that the logs had.
pub(super) struct Parts {
    pub(super) path: PathBuf,
    /// The random number of the file.
    pub(super) id: u64,
    pub(super) store: OpenStore,
    pub(super) wal: WriteAheadLog,
}

/// Opens file and logs in this folder, and applies the logs to the file.
pub(super) fn open(folder: &Path) -> Result<Parts, StoreError> {
    let OpenFile {
        path,
        database,
        store,
        checkpoint,
        needs_logs,
    } = file::open(folder)?;
    let (mut wal, replay) = WriteAheadLog::open(folder, store, checkpoint, needs_logs)?;
    let unwritable = |step: &str, error: StoreError| {
        StoreError::Unusable(path.clone(), format!("{step}: {error}"))
    };
    if let Some(segment) = replay.segment {
        let tables = replay.changes.tables().count();
        if tables > 0 {
            tracing::info!(
                tables,
                "the log has changes that the store file does not have"
            );
        }
        // The next segment takes the place of the one before this. The file has both now.
        checkpoint::write(&database, &replay.changes, segment, false)
            .map_err(|error| unwritable("its log cannot be applied to it", error))?;
    }
    let segment = replay.segment.unwrap_or(checkpoint) + 1;
    wal.start(segment)
        .map_err(|error| unwritable("its log cannot be written", failed(error)))?;
    file::note_logs(&database).map_err(|error| unwritable("it cannot be written", error))?;
    Ok(Parts {
        path,
        id: store,
        store: OpenStore {
            database: Arc::new(database),
            newest: Memtable::default(),
            frozen: None,
            segment,
        },
        wal,
    })
}

/// A running checkpoint.
type Checkpoint = JoinHandle<Result<(), StoreError>>;

/// Which batches the next record may have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    All,
    Urgent,
    None,
}

/// The thread that writes.
pub(super) struct Writer {
    folder: PathBuf,
    /// The lock of the folder, until the store is closed for good.
    lock: Option<File>,
    /// The random number of the file, and the newest segment of its logs.
    id: u64,
    segment: u64,
    options: StoreOptions,
    file: Arc<RwLock<FileState>>,
    wal: Option<WriteAheadLog>,
    jobs: mpsc::Receiver<Job>,
    urgent_jobs: mpsc::Receiver<Job>,
    /// Batches that the last record left, in their order.
    waiting: VecDeque<Job>,
    /// Whether the last record was of urgent batches alone.
    was_urgent: bool,
    /// When a closed store may be opened again.
    retry_at: Instant,
    /// When the segment is old. None while it is empty.
    old_at: Option<Instant>,
}

impl Writer {
    /// The writer of an opened store, and what readers share with it.
    pub(super) fn new(
        folder: &Path,
        lock: File,
        options: StoreOptions,
        parts: Parts,
        jobs: mpsc::Receiver<Job>,
        urgent_jobs: mpsc::Receiver<Job>,
    ) -> Self {
        Self {
            folder: folder.to_owned(),
            lock: Some(lock),
            id: parts.id,
            segment: parts.store.segment,
            options,
            file: Arc::new(RwLock::new(Ok(parts.store))),
            wal: Some(parts.wal),
            jobs,
            urgent_jobs,
            waiting: VecDeque::new(),
            was_urgent: false,
            retry_at: Instant::now(),
            old_at: None,
        }
    }

    /// The open store, for its readers.
    pub(super) fn file(&self) -> Arc<RwLock<FileState>> {
        self.file.clone()
    }

    /// Writes until all handles are gone, or one asks to close the store.
    pub(super) async fn run(mut self, mut closings: mpsc::Receiver<Closing>) {
        let mut closing = None;
        let mut group = Vec::new();
        let mut running: Option<Checkpoint> = None;
        loop {
            if running.is_none() && self.is_checkpoint_due() {
                running = self.begin_checkpoint();
            }
            let room = self.room(running.is_some());
            let is_open = self.wal.is_some();
            let wake_at = match (is_open, running.is_some()) {
                (false, _) => Some(self.retry_at),
                (true, false) => self.old_at,
                (true, true) => None,
            };
            let ended = async {
                match &mut running {
                    Some(checkpoint) => checkpoint.await,
                    None => std::future::pending().await,
                }
            };
            let woken = async {
                match wake_at {
                    Some(time) => sleep_until(time).await,
                    None => std::future::pending().await,
                }
            };
            let has_jobs = tokio::select! {
                biased;
                ended = ended => {
                    running = None;
                    self.end_checkpoint(ended.unwrap_or_else(|error| Err(failed(error))));
                    continue;
                }
                Some(asked) = closings.recv(), if closing.is_none() => {
                    // What waits in the queues is still written.
                    self.jobs.close();
                    self.urgent_jobs.close();
                    closing = Some(asked);
                    continue;
                }
                has_jobs = self.collect(&mut group, room) => has_jobs,
                () = woken => {
                    if !is_open {
                        self.open_again(running.is_some());
                    }
                    continue;
                }
            };
            if !has_jobs {
                break;
            }
            self.write_group(&mut group, running.is_some());
        }
        if let Some(checkpoint) = running {
            let ended = checkpoint.await;
            self.end_checkpoint(ended.unwrap_or_else(|error| Err(failed(error))));
        }
        let closed = self.close_orderly().await;
        // Another process may open all of it from now on.
        self.lock = None;
        match closing {
            Some(asked) => drop(asked.send(closed)),
            None => {
                if let Err(error) = closed {
                    // The next start applies the log.
                    tracing::warn!(%error, "the log of the store is not emptied");
                }
            }
        }
    }

    /// Moves all changes to the file, empties the logs, and gives both up.
    async fn close_orderly(&mut self) -> Result<(), StoreError> {
        let before = std::mem::replace(&mut *self.file.write(), Err(StoreError::Closed));
        let open = before?;
        let wal = self.wal.take().ok_or(StoreError::Closed)?;
        let close = move || {
            // Also without changes: the next start begins another segment, so that a log of before
            // is not taken for its own.
            checkpoint::write(&open.database, &open.newest, open.segment, false)?;
            wal.clear().map_err(failed)
        };
        let closed = tokio::task::spawn_blocking(close).await;
        closed.unwrap_or_else(|error| Err(failed(error)))
    }

    /// Bytes of the segment: of its log, or of its changes in memory.
    fn segment_bytes(&self) -> usize {
        let logged = self.wal.as_ref().map_or(0, WriteAheadLog::len);
        let in_memory = match &*self.file.read() {
            Ok(open) => open.newest.bytes(),
            Err(_) => 0,
        };
        in_memory.max(usize::try_from(logged).unwrap_or(usize::MAX))
    }

    /// Which batches have room in the segment. While a checkpoint runs, the segment cannot end.
    fn room(&self, is_checkpoint_running: bool) -> Room {
        let full = self.options.checkpoint_bytes.saturating_mul(2);
        match self.segment_bytes() {
            bytes if !is_checkpoint_running || bytes < full => Room::All,
            bytes if bytes < full.saturating_mul(2) => Room::Urgent,
            _ => Room::None,
        }
    }

    fn is_checkpoint_due(&self) -> bool {
        // Without changes there is nothing to move.
        let Some(old_at) = self.old_at else {
            return false;
        };
        let removals = match &*self.file.read() {
            Ok(open) => open.newest.removals(),
            Err(_) => 0,
        };
        self.segment_bytes() >= self.options.checkpoint_bytes
            || removals >= MAX_REMOVALS
            || old_at <= Instant::now()
    }

    /// Begins the next segment, and moves the one before it to the file.
    fn begin_checkpoint(&mut self) -> Option<Checkpoint> {
        let segment = self.file.read().as_ref().ok()?.segment;
        if let Err(error) = self.wal.as_mut()?.start(segment + 1) {
            let error = failed(error);
            tracing::error!(
                %error,
                "cannot write to the log of the store: it is closed until it can be written again"
            );
            self.close(error);
            return None;
        }
        let mut file = self.file.write();
        let open = file.as_mut().ok()?;
        let changes = Arc::new(std::mem::take(&mut open.newest));
        open.frozen = Some(changes.clone());
        open.segment = segment + 1;
        self.segment = segment + 1;
        self.old_at = None;
        let database = open.database.clone();
        let write = move || checkpoint::write(&database, &changes, segment, true);
        Some(tokio::task::spawn_blocking(write))
    }

    fn end_checkpoint(&mut self, result: Result<(), StoreError>) {
        if let Err(error) = result {
            tracing::error!(
                %error,
                "cannot write to the store file: it is closed until it can be written again"
            );
            self.close(error);
            return;
        }
        let frozen = match &mut *self.file.write() {
            Ok(open) => open.frozen.take(),
            Err(_) => None,
        };
        // Without the lock: it may be large.
        drop(frozen);
    }

    /// Waits for batches, and collects those of the next record. False if there will be none any
    /// more.
    async fn collect(&mut self, group: &mut Vec<Job>, room: Room) -> bool {
        if room == Room::None {
            return std::future::pending().await;
        }
        if self.waiting.is_empty() || room == Room::Urgent {
            // Both queues belong to the same handles, so that both end together.
            let job = tokio::select! {
                biased;
                Some(urgent) = self.urgent_jobs.recv() => {
                    group.push(urgent);
                    None
                }
                job = self.jobs.recv(), if room == Room::All => job,
                // The queue has ended, and the checkpoint makes room for what waits.
                else => return std::future::pending().await,
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
        if self.was_urgent || room == Room::Urgent {
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

    /// Appends a group of batches to the log, and applies them. A failure closes the store.
    fn write_group(&mut self, group: &mut Vec<Job>, is_checkpoint_running: bool) {
        if self.wal.is_none() && self.retry_at <= Instant::now() {
            self.open_again(is_checkpoint_running);
        }
        let appended = match (&mut self.wal, &*self.file.read()) {
            (Some(wal), Ok(_)) => wal
                .append(group.iter().map(|job| job.encoded.as_slice()))
                .map_err(failed),
            (_, Err(error)) => Err(error.clone()),
            (None, Ok(_)) => Err(StoreError::Closed),
        };
        if let Err(error) = appended {
            if self.wal.is_some() {
                tracing::error!(
                    %error,
                    batches = group.len(),
                    "cannot write to the log of the store: it is closed until it can be written again"
                );
                self.close(error.clone());
            }
            for job in group.drain(..) {
                let _ = job.done.send(Err(error.clone()));
            }
            return;
        }
        let age = self.options.checkpoint_age;
        self.old_at.get_or_insert_with(|| Instant::now() + age);
        for job in group.drain(..) {
            if let Ok(open) = &mut *self.file.write() {
                open.newest.apply(job.batch);
            }
            // The caller may have stopped waiting. The write counts all the same.
            let _ = job.done.send(Ok(()));
        }
    }

    fn close(&mut self, reason: StoreError) {
        let before = std::mem::replace(&mut *self.file.write(), Err(reason));
        drop(before);
        self.wal = None;
        self.old_at = None;
        self.retry_at = Instant::now() + RETRY;
    }

    /// Opens a closed store again if it can be written. Readers that still have the old file
    /// open make it fail once more, and so does a checkpoint that is still running.
    fn open_again(&mut self, is_checkpoint_running: bool) {
        if is_checkpoint_running {
            self.retry_at = Instant::now() + RETRY;
            return;
        }
        let began = Instant::now();
        let opened = open(&self.folder).and_then(|mut parts| {
            // The segment grows with each opening. Engines have what was written in memory.
            if parts.id != self.id || parts.store.segment < self.segment {
                let reason = "its files were exchanged while the server ran; start it again";
                return Err(StoreError::Unusable(parts.path, reason.to_owned()));
            }
            self.segment = parts.store.segment;
            probe(&parts.store.database)?;
            parts.wal.probe().map_err(failed)?;
            Ok(parts)
        });
        match opened {
            Ok(parts) => {
                *self.file.write() = Ok(parts.store);
                self.wal = Some(parts.wal);
                tracing::info!("the store can be written again");
            }
            Err(error) => {
                self.close(error);
                // Reading full logs again and again would take a processor of its own.
                self.retry_at += began.elapsed() * 4;
            }
        }
    }
}

/// Writes some bytes and removes them again.
fn probe(database: &Database) -> Result<(), StoreError> {
    let table = TableDefinition::<&[u8], &[u8]>::new(PROBE.0);
    file::catch(|| {
        for value in [Some([0; PROBE_BYTES]), None] {
            let transaction = database.begin_write().map_err(failed)?;
            {
                let mut table = transaction.open_table(table).map_err(failed)?;
                match &value {
                    Some(value) => drop(table.insert(&[][..], &value[..]).map_err(failed)?),
                    None => drop(table.remove(&[][..]).map_err(failed)?),
                }
            }
            transaction.commit().map_err(failed)?;
        }
        Ok(())
    })
}
