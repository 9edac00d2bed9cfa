//! Writer: the one task that changes stored rules, states and fires.
//!
//! A fire is stored with its rule's state and its outgoing notification in one batch. Only then is
//! it published and notified. A batch that cannot be written is tried again until the store works:
//! fires wait, and none is lost or made twice.
//!
//! In turn, it writes outputs in batches of up to 512, runs up to 256 commands, and once a second
//! stores a part of what [`saving`](super::saving) has. So neither waits for all of another. Outputs
//! have [`CHUNKS_A_SAVE`] turns for each part that is saved.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tidewire_proto::v1::AlertRule;
use tidewire_store::{Batch, Key, StoreError, Table, Value};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    answers::refuse_all,
    commands::Command,
    evaluations::Evaluations,
    id::Id,
    pending::CHUNK,
    saving::Saved,
    staging::{Chunk, Staged},
    tables,
};
use crate::{Output, Subject};

/// Commands that share one batch.
const GROUP: usize = 256;

/// Time between two writes of last values.
const SAVE: Duration = Duration::from_secs(1);

/// Batches of outputs between two parts of what is saved, while outputs wait.
const CHUNKS_A_SAVE: u32 = 16;

/// Pause after a write that failed.
pub(super) const FAILURE_PAUSE: Duration = Duration::from_millis(250);

/// A rule as it was when outputs that are not stored yet were made.
#[derive(Debug, Clone)]
pub(crate) struct EarlierRule {
    pub(crate) id: Id,
    pub(crate) user: Arc<str>,
    pub(crate) rule: AlertRule,
}

/// The task's state.
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: mpsc::Receiver<Command>,
    /// Rules of outputs that are not stored yet, and that were changed meanwhile, by slot and version.
    pub(crate) superseded: HashMap<(u32, u32), EarlierRule>,
    /// Deleted rules with outputs that are not stored yet, by slot.
    pub(crate) deleted: HashMap<u32, EarlierRule>,
    /// Values of back ends whose fires are not all stored.
    pub(crate) evaluations: Evaluations,
    /// Batches of outputs since a part was saved, or had its turn.
    pub(crate) chunks: u32,
}

impl Writer {
    /// Writes until cancelled, and then what is left.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let mut save_at = Instant::now() + SAVE;
        while !cancel.is_cancelled() {
            let has_written = self.write_outputs(&cancel).await;
            let has_run = self.run_commands(&cancel).await;
            let has_evaluated = self.evaluations.advance(&self.shared);
            let needs_save = self.evaluations.needs_save();
            if !has_written {
                self.chunks = CHUNKS_A_SAVE;
            }
            if self.chunks >= CHUNKS_A_SAVE {
                // A fire waits for what is saved before it.
                self.chunks = 0;
                if (needs_save || Instant::now() >= save_at)
                    && self.save_part(&cancel).await != Saved::Part
                {
                    save_at = Instant::now() + SAVE;
                }
            }
            if has_written || has_run || has_evaluated || needs_save {
                continue;
            }
            tokio::select! {
                () = cancel.cancelled() => {}
                () = self.shared.outputs_added.notified() => {}
                () = self.shared.commands_added.notified() => {}
                () = tokio::time::sleep_until(save_at) => {}
            }
        }
        self.finish().await;
    }

    /// Judges and stores what came before the end.
    async fn finish(&mut self) {
        // Ends at once where the store fails.
        let ended = CancellationToken::new();
        ended.cancel();
        let started = Instant::now();
        while started.elapsed() < SAVE {
            let has_more = {
                let mut judge = self.shared.judge.lock();
                judge.step(&self.shared.inputs, self.shared.clocks.now())
            };
            let has_written = self.write_outputs(&ended).await;
            if !has_more && !has_written {
                break;
            }
        }
        while self.evaluations.advance(&self.shared) {}
        while self.save_part(&ended).await == Saved::Part {}
        while self.evaluations.advance(&self.shared) {}
    }

    /// Runs the commands that wait, as one group. False if there was none.
    async fn run_commands(&mut self, cancel: &CancellationToken) -> bool {
        let mut group = Vec::new();
        while group.len() < GROUP
            && let Ok(command) = self.commands.try_recv()
        {
            group.push(command);
        }
        if group.is_empty() {
            return false;
        }
        self.run_group(group, cancel).await;
        true
    }

    /// Commits a batch, again and again until the store works. Requests are refused meanwhile. False
    /// if cancelled before.
    pub(crate) async fn commit(&mut self, batch: &Batch, cancel: &CancellationToken) -> bool {
        let mut has_failed = false;
        loop {
            match self.shared.store.commit(batch.clone()).await {
                Ok(()) => {
                    if has_failed {
                        tracing::info!("alerts can be stored again");
                    }
                    return true;
                }
                Err(error) => {
                    if !has_failed {
                        tracing::error!(%error, "alerts cannot be stored: they wait");
                    }
                    has_failed = true;
                    let mut waiting = Vec::new();
                    while let Ok(command) = self.commands.try_recv() {
                        waiting.push(command);
                    }
                    refuse_all(waiting, &error.into());
                }
            }
            if cancel.is_cancelled() {
                return false;
            }
            tokio::select! {
                () = cancel.cancelled() => {}
                () = sleep(FAILURE_PAUSE) => {}
            }
        }
    }

    pub(super) async fn read(
        &self,
        keys: Vec<(Table, Key)>,
        cancel: &CancellationToken,
    ) -> Option<Vec<Option<Value>>> {
        loop {
            match self.shared.store.get_many(keys.clone()).await {
                Ok(values) => return Some(values),
                Err(error) if cancel.is_cancelled() => {
                    tracing::error!(%error, "alerts cannot be read");
                    return None;
                }
                Err(_) => sleep(FAILURE_PAUSE).await,
            }
        }
    }

    /// Stores and publishes outputs that wait: a chunk, and further ones while nothing else is to be
    /// done. Each is staged while the one before is stored. False if there were none, or if the store
    /// failed and the task ends.
    pub(crate) async fn write_outputs(&mut self, cancel: &CancellationToken) -> bool {
        self.order_outputs();
        let outputs = {
            let mut judge = self.shared.judge.lock();
            if judge.pending.is_empty() {
                judge.poll();
            }
            let outputs = judge.pending.chunk(0);
            if judge.is_drained() {
                self.superseded.clear();
                self.deleted.clear();
                judge.release_retired();
            }
            outputs
        };
        if outputs.is_empty() {
            return false;
        }
        let Some(staged) = self.stage(outputs, &mut || {}, cancel).await else {
            return false;
        };
        // Chunks are published while others are staged.
        let mut evaluations = std::mem::take(&mut self.evaluations);
        let has_written = self.write_chunks(staged, &mut evaluations, cancel).await;
        self.evaluations = evaluations;
        has_written
    }

    /// Stores and publishes a chunk, and further ones while nothing else is to be done. Each is
    /// published as soon as it is stored, also while the next one is staged. If that one is staged
    /// already, its flush begins before.
    async fn write_chunks(
        &mut self,
        staged: Staged,
        evaluations: &mut Evaluations,
        cancel: &CancellationToken,
    ) -> bool {
        let shared = self.shared.clone();
        let mut flush = Flush::begin(&shared, staged);
        loop {
            let next = self.next_outputs(flush.staged.as_ref());
            let mut publish = || {
                if let Some(stored) = flush.take_stored() {
                    shared.publish_waiting(stored, evaluations);
                }
            };
            let ahead = match next.is_empty() {
                true => None,
                false => self.stage(next, &mut publish, cancel).await,
            };
            if let Some(staged) = &flush.staged
                && !flush.result.is_good().await
                && !self.commit(&staged.chunk.batch, cancel).await
            {
                return false;
            }
            self.chunks += 1;
            let stored = flush.staged.take();
            let next = ahead.map(|next| Flush::begin(&shared, next));
            if let Some(stored) = stored {
                shared.publish_waiting(stored, evaluations);
            }
            match next {
                Some(next) => flush = next,
                None => return true,
            }
        }
    }

    /// The outputs after those that are staged, which may be staged while these are stored. None
    /// while a request waits, or outputs that may go before them. Those of the same rules have to
    /// wait, since they build on the stored state.
    fn next_outputs(&self, staged: Option<&Staged>) -> Vec<(u64, Output)> {
        let Some(staged) = staged else {
            return Vec::new();
        };
        if !self.commands.is_empty() || self.chunks >= CHUNKS_A_SAVE {
            return Vec::new();
        }
        let mut next = self.shared.judge.lock().outputs_after(staged.chunk.outputs);
        let slots: HashSet<u32> = staged.outputs.iter().map(|(_, one)| one.slot()).collect();
        let known = next
            .iter()
            .position(|(_, output)| slots.contains(&output.slot()));
        next.truncate(known.unwrap_or(next.len()));
        next
    }

    /// Puts the outputs first that somebody waits for.
    fn order_outputs(&self) {
        let owners = self.shared.judge.lock().owners_to_order();
        if owners.is_empty() {
            return;
        }
        // Without the lock: there may be very many.
        let sink = &self.shared.sink;
        let watching = owners.iter().filter(|(_, name)| sink.is_watched(name));
        let watching = watching.map(|(user, _)| *user).collect();
        self.shared.judge.lock().order(&watching);
    }

    /// Stores and publishes the outputs of some rules before the others that wait, so that these
    /// rules can be changed. Until then, the stored state of a rule is from before its fires: a crash
    /// after the change would lose them. False if the store failed and the task ends.
    pub(crate) async fn write_outputs_of(
        &mut self,
        slots: &HashSet<u32>,
        cancel: &CancellationToken,
    ) -> bool {
        let outputs = self.shared.judge.lock().take_outputs_of(slots);
        let mut left = &outputs[..];
        while !left.is_empty() {
            let part = left[..left.len().min(CHUNK)].to_vec();
            let Some(staged) = self.stage(part, &mut || {}, cancel).await else {
                return false;
            };
            if !self.commit(&staged.chunk.batch, cancel).await {
                return false;
            }
            left = &left[self.shared.publish_outputs(staged, &mut self.evaluations)..];
        }
        true
    }
}

/// The flush of a chunk.
struct Flush {
    /// The chunk, until it is stored and published.
    staged: Option<Staged>,
    result: FlushResult,
}

/// The result of a flush, which another task reports.
struct FlushResult {
    done: oneshot::Receiver<Result<(), StoreError>>,
    known: Option<bool>,
}

impl Flush {
    /// Has a chunk stored, by a task of its own: its encoding takes a while, too.
    fn begin(shared: &Shared, staged: Staged) -> Self {
        let (reply, done) = oneshot::channel();
        let (store, batch) = (shared.store.clone(), staged.chunk.batch.clone());
        tokio::spawn(async move {
            // The writer may have ended.
            let _ = reply.send(store.commit(batch).await);
        });
        Self {
            staged: Some(staged),
            result: FlushResult { done, known: None },
        }
    }

    /// The chunk, if it is stored by now.
    fn take_stored(&mut self) -> Option<Staged> {
        match self.staged.is_some() && self.result.is_known_good() {
            true => self.staged.take(),
            false => None,
        }
    }
}

impl FlushResult {
    fn is_known_good(&mut self) -> bool {
        if self.known.is_none() {
            self.known = match self.done.try_recv() {
                Ok(result) => Some(result.is_ok()),
                // The task is gone without a result.
                Err(oneshot::error::TryRecvError::Closed) => Some(false),
                Err(oneshot::error::TryRecvError::Empty) => None,
            };
        }
        self.known == Some(true)
    }

    /// Waits for the result.
    async fn is_good(&mut self) -> bool {
        match self.known {
            Some(known) => known,
            None => matches!((&mut self.done).await, Ok(Ok(()))),
        }
    }
}

impl Shared {
    /// Publishes outputs that were stored, and removes them from those that wait.
    fn publish_waiting(&self, staged: Staged, evaluations: &mut Evaluations) {
        let count = self.publish_outputs(staged, evaluations);
        // The writer alone removes outputs.
        self.judge.lock().pending.remove(count);
        self.rules_changed.notify_one();
    }

    /// Publishes outputs that were stored. Returns their number.
    fn publish_outputs(&self, staged: Staged, evaluations: &mut Evaluations) -> usize {
        let Staged { outputs, chunk } = staged;
        if !evaluations.is_empty() {
            for (place, event) in &chunk.fires {
                if let Some((number, Output::Fire(fire))) = outputs.get(*place)
                    && let Some((_, event)) = chunk.events.get(*event)
                {
                    evaluations.add(*number, fire, event);
                }
            }
        }
        let count = chunk.outputs;
        self.publish(chunk);
        count
    }

    /// Publishes what was stored, and wakes the delivery.
    pub(crate) fn publish(&self, chunk: Chunk) {
        if !chunk.summaries.is_empty() {
            self.judge.lock().summaries.unstage(&chunk.summaries);
        }
        if !chunk.events.is_empty() {
            *self.published_at.lock() = Some(Instant::now());
        }
        let counters = &self.counters;
        counters.add_fired(chunk.events.len() as u64);
        counters.add_summarised(chunk.summarised);
        for (user, event) in chunk.events {
            self.sink.publish(&user, event);
        }
        self.outgoing_added.notify_one();
    }
}

/// Removes the last values of subjects that no rule is about any more.
pub(crate) fn forget(batch: &mut Batch, subjects: &[Subject]) {
    for subject in subjects {
        batch.delete(tables::VALUES, tables::subject(subject));
    }
}
