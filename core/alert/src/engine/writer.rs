//! Writer: the one task that changes stored rules, states and fires.
//!
//! A fire is stored with its rule's state and its outgoing notification in one batch. Only then is
//! it published and notified. A batch that cannot be written is tried again until the store works:
//! fires wait, and none is lost or made twice. Last values and states that changed without a fire
//! are stored about once a second, when everything before them is stored.

use std::{collections::HashMap, sync::Arc, time::Duration};

use prost::Message as _;
use tidewire_proto::v1::{AlertEvent, AlertRule};
use tidewire_store::{Batch, Key, Table, Value};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    commands::{self, Command},
    id::Id,
    record::{StateRecord, ValueRecord},
    staging::Chunk,
    tables,
};
use crate::{Fire, Output, Sources, Subject};

/// Outputs that share one batch.
const CHUNK: usize = 512;

/// Commands that share one batch.
const GROUP: usize = 256;

/// Time between two writes of last values.
const SAVE: Duration = Duration::from_secs(1);

/// Last values in one batch.
const VALUES: usize = 10_000;

/// Pause after a write that failed.
const FAILURE_PAUSE: Duration = Duration::from_millis(250);

/// A rule as it was when outputs that are not stored yet were made.
#[derive(Debug, Clone)]
pub(crate) struct EarlierRule {
    pub(crate) id: Id,
    pub(crate) user: Arc<str>,
    pub(crate) rule: AlertRule,
}

/// The fires that one `Evaluate` caused. They carry its sources.
pub(crate) struct Attribution<'a> {
    pub(crate) sources: &'a Sources,
    pub(crate) events: Vec<AlertEvent>,
    pub(crate) total: u64,
    pub(crate) most: usize,
}

impl Attribution<'_> {
    fn add(&mut self, fire: &Fire, event: &AlertEvent) {
        let is_same = match (self.sources, &fire.sources) {
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            _ => false,
        };
        if is_same {
            self.total += 1;
            if self.events.len() < self.most {
                self.events.push(event.clone());
            }
        }
    }
}

/// The task's state.
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: mpsc::Receiver<Command>,
    /// Rules of outputs that are not stored yet, and that were changed meanwhile, by slot and version.
    pub(crate) superseded: HashMap<(u32, u32), EarlierRule>,
    /// Deleted rules with outputs that are not stored yet, by slot.
    pub(crate) deleted: HashMap<u32, EarlierRule>,
}

impl Writer {
    /// Writes until cancelled, and then what is left.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let mut save_at = Instant::now() + SAVE;
        while !cancel.is_cancelled() {
            let has_written = self.write_outputs(&cancel, None).await;
            let has_run = self.run_commands(&cancel).await;
            if Instant::now() >= save_at {
                self.save(&cancel).await;
                save_at = Instant::now() + SAVE;
            }
            if has_written || has_run {
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
            let has_written = self.write_outputs(&ended, None).await;
            if !has_more && !has_written {
                break;
            }
        }
        self.save(&ended).await;
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
                    commands::refuse_all(waiting, &error.into());
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

    /// Stores and publishes outputs that wait, up to a chunk. False if there were none, or if the
    /// store failed and the task ends.
    pub(crate) async fn write_outputs(
        &mut self,
        cancel: &CancellationToken,
        attribution: Option<&mut Attribution<'_>>,
    ) -> bool {
        let outputs: Vec<Output> = {
            let mut judge = self.shared.judge.lock();
            if judge.pending.is_empty() {
                judge.poll();
            }
            let count = judge.pending.len().min(CHUNK);
            let outputs = judge.pending.iter().take(count).cloned().collect();
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
        let Some((chunk, fires)) = self.stage(&outputs, cancel).await else {
            return false;
        };
        if !self.commit(&chunk.batch, cancel).await {
            return false;
        }
        {
            let mut judge = self.shared.judge.lock();
            // The writer alone removes outputs.
            judge.pending.drain(..outputs.len());
        }
        self.shared.rules_changed.notify_one();
        if let Some(attribution) = attribution {
            for (place, event) in &fires {
                if let Some(Output::Fire(fire)) = outputs.get(*place) {
                    attribution.add(fire, event);
                }
            }
        }
        self.shared.publish(chunk);
        true
    }

    /// Stores last values, and states that changed without a fire, if everything before is stored.
    async fn save(&mut self, cancel: &CancellationToken) {
        let now = self.shared.clocks.now();
        let (changed, values) = {
            let mut judge = self.shared.judge.lock();
            judge.poll();
            if !judge.is_drained() {
                return;
            }
            let slots: Vec<u32> = judge.dirty.drain().collect();
            let changed: Vec<_> = slots
                .into_iter()
                .filter_map(|slot| {
                    let id = judge.slot(slot)?.id;
                    Some((id, judge.evaluator.state(slot, now)?.encode()))
                })
                .collect();
            (changed, judge.evaluator.changed_values(VALUES))
        };
        if changed.is_empty() && values.is_empty() {
            return;
        }
        let keys = changed.iter().map(|(id, _)| (tables::STATES, id.key()));
        let Some(before) = self.read(keys.collect(), cancel).await else {
            return;
        };
        let mut batch = Batch::new();
        for ((id, state), before) in changed.into_iter().zip(before) {
            let before = before.and_then(|before| StateRecord::decode(before.as_slice()).ok());
            let record = StateRecord {
                state,
                ..before.unwrap_or_default()
            };
            batch.put(tables::STATES, id.key(), record.encode_to_vec());
        }
        for (subject, value) in &values {
            batch.put(tables::VALUES, tables::subject(subject), {
                ValueRecord::of(value).encode_to_vec()
            });
        }
        batch.mark_urgent();
        self.commit(&batch, cancel).await;
    }
}

impl Shared {
    /// Publishes what was stored, and wakes the delivery.
    pub(crate) fn publish(&self, chunk: Chunk) {
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
