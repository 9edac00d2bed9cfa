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
use tidewire_stream::UserId;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    commands::Command,
    config::MINUTE_MS,
    id::Id,
    record::{OutgoingKind, OutgoingRecord, StateRecord, ValueRecord},
    tables, view,
};
use crate::{Fire, Now, Output, RuleState, Sources, Subject};

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
pub(crate) struct Superseded {
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
    pub(crate) superseded: HashMap<(u32, u32), Superseded>,
    /// Deleted rules with outputs that are not stored yet, by slot.
    pub(crate) deleted: HashMap<u32, Superseded>,
}

/// An output with the rule that made it.
struct Origin {
    id: Id,
    user: Arc<str>,
    /// The rule, if it is not the stored one.
    rule: Option<AlertRule>,
    /// Whether the rule still has this version: then the output's state is its newest.
    is_current: bool,
    /// Whether the rule was deleted: then it has no state.
    is_deleted: bool,
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

    /// Commits a batch, again and again until the store works. False if cancelled before.
    pub(crate) async fn commit(&self, batch: &Batch, cancel: &CancellationToken) -> bool {
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

    async fn read(
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
        mut attribution: Option<&mut Attribution<'_>>,
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
        if let Some(attribution) = attribution.as_deref_mut() {
            for (place, event) in &fires {
                if let Some(Output::Fire(fire)) = outputs.get(*place) {
                    attribution.add(fire, event);
                }
            }
        }
        self.shared.publish(chunk);
        true
    }

    /// Makes the batch of a chunk. Returns it with the fires by the place of their outputs.
    async fn stage(
        &self,
        outputs: &[Output],
        cancel: &CancellationToken,
    ) -> Option<(Chunk, Vec<(usize, AlertEvent)>)> {
        let origins: Vec<_> = outputs.iter().map(|output| self.origin(output)).collect();
        let mut keys = Vec::new();
        for origin in origins.iter().flatten() {
            keys.push((tables::RULES, origin.id.key()));
            keys.push((tables::STATES, origin.id.key()));
        }
        let mut values = self.read(keys, cancel).await?.into_iter();
        let mut rules: HashMap<Id, AlertRule> = HashMap::new();
        let mut states: HashMap<Id, StateRecord> = HashMap::new();
        for origin in origins.iter().flatten() {
            let (rule, state) = (values.next().flatten(), values.next().flatten());
            if let Some(rule) = rule.and_then(|rule| AlertRule::decode(rule.as_slice()).ok()) {
                rules.entry(origin.id).or_insert(rule);
            }
            let state = state.and_then(|state| StateRecord::decode(state.as_slice()).ok());
            states.entry(origin.id).or_insert(state.unwrap_or_default());
        }
        let retracted = self.retracted(outputs, &origins, &states, cancel).await?;
        let mut chunk = Chunk::default();
        let mut fires = Vec::new();
        for (place, (output, origin)) in outputs.iter().zip(&origins).enumerate() {
            let Some(origin) = origin else { continue };
            let rule = origin.rule.as_ref().or_else(|| rules.get(&origin.id));
            let Some(rule) = rule.cloned() else {
                tracing::error!(rule = %origin.id, "a rule that fired is not in the store");
                continue;
            };
            let state = states.entry(origin.id).or_default();
            match output {
                Output::Fire(fire) => {
                    let event = self.stage_fire(&mut chunk, fire, origin, &rule, state);
                    fires.push((place, event));
                }
                Output::Retract {
                    at, state: after, ..
                } => {
                    let event = retracted.get(&state.last_fire).cloned();
                    if let Some(event) = event {
                        self.stage_retraction(&mut chunk, event, origin, *at);
                    }
                    self.stage_state(&mut chunk, output, after, *at, origin, state);
                }
                Output::Stop {
                    at,
                    dropped,
                    state: after,
                    ..
                } => {
                    self.stage_stop(&mut chunk, *at, *dropped, origin, rule);
                    self.stage_state(&mut chunk, output, after, *at, origin, state);
                }
                Output::Vanish { slot } => {
                    let now = self.shared.clocks.now();
                    self.stage_notice(&mut chunk, OutgoingKind::Vanish, 0, origin, &rule);
                    let after = self.shared.judge.lock().evaluator.state(*slot, now);
                    if let Some(after) = after {
                        self.stage_state(&mut chunk, output, &after, now, origin, state);
                    }
                }
                Output::Change { .. } => {}
            }
        }
        chunk.batch.mark_urgent();
        Some((chunk, fires))
    }

    /// The rule that made an output. None if it is not known any more.
    fn origin(&self, output: &Output) -> Option<Origin> {
        let (slot, version) = slot_of(output);
        if let Some(deleted) = self.deleted.get(&slot) {
            let rule = version
                .and_then(|version| self.superseded.get(&(slot, version)))
                .unwrap_or(deleted);
            return Some(Origin {
                id: deleted.id,
                user: deleted.user.clone(),
                rule: Some(rule.rule.clone()),
                is_current: false,
                is_deleted: true,
            });
        }
        let superseded = version.and_then(|version| self.superseded.get(&(slot, version)));
        let judge = self.shared.judge.lock();
        let entry = judge.slot(slot)?;
        Some(Origin {
            id: entry.id,
            user: judge.owner(entry)?,
            rule: superseded.map(|one| one.rule.clone()),
            is_current: superseded.is_none(),
            is_deleted: false,
        })
    }

    /// The logged fires that are retracted, by their id.
    async fn retracted(
        &self,
        outputs: &[Output],
        origins: &[Option<Origin>],
        states: &HashMap<Id, StateRecord>,
        cancel: &CancellationToken,
    ) -> Option<HashMap<u64, AlertEvent>> {
        let mut found = Vec::new();
        for (output, origin) in outputs.iter().zip(origins) {
            if let (Output::Retract { .. }, Some(origin)) = (output, origin)
                && let Some(state) = states.get(&origin.id)
                && state.last_fire != 0
            {
                found.push((
                    state.last_fire,
                    tables::fire(&origin.user, Id(state.last_fire)),
                ));
            }
        }
        if found.is_empty() {
            return Some(HashMap::new());
        }
        let keys = found.iter().map(|(_, key)| (tables::FIRES, key.clone()));
        let values = self.read(keys.collect(), cancel).await?;
        let events = found.iter().zip(values);
        let events = events.filter_map(|((id, _), value)| {
            let event = AlertEvent::decode(value?.as_slice()).ok()?;
            Some((*id, event))
        });
        Some(events.collect())
    }

    fn stage_fire(
        &self,
        chunk: &mut Chunk,
        fire: &Fire,
        origin: &Origin,
        rule: &AlertRule,
        state: &mut StateRecord,
    ) -> AlertEvent {
        let id = self.shared.ids.next(fire.at.wall_ms);
        state.fires += 1;
        state.last_fire = id.0;
        state.last_fired_ms = fire.at.wall_ms;
        let output = Output::Fire(Box::new(fire.clone()));
        self.stage_state(chunk, &output, &fire.state, fire.at, origin, state);
        let phase = self.shared.judge.lock().phase(origin.id, fire.at);
        let shown = view::rule(rule, state, phase, view::Audience::Owner);
        let event = view::event(id, fire, shown);
        let price = fire.price.normalize().to_string();
        self.stage_event(chunk, id, &origin.user, event.clone(), Some(price));
        event
    }

    /// Stages a fire's log row and its outgoing notification.
    pub(crate) fn stage_event(
        &self,
        chunk: &mut Chunk,
        id: Id,
        user: &str,
        event: AlertEvent,
        price: Option<String>,
    ) {
        chunk
            .batch
            .put(tables::FIRES, tables::fire(user, id), event.encode_to_vec());
        chunk
            .batch
            .put(tables::FIRE_TIMES, id.key(), user.as_bytes());
        let record = OutgoingRecord {
            user: user.to_owned(),
            kind: OutgoingKind::Fire.into(),
            event: Some(event.clone()),
            count: 0,
            price,
        };
        self.stage_outgoing(chunk, id, record);
        chunk.events.push((UserId::new(user), event));
    }

    /// Stages the outgoing notification of a fire. Beyond the limit of a minute, fires share one at
    /// its end.
    fn stage_outgoing(&self, chunk: &mut Chunk, id: Id, record: OutgoingRecord) {
        let now_ms = self.shared.clocks.now_ms();
        let mut judge = self.shared.judge.lock();
        let mut row = (tables::outgoing(now_ms, id), record);
        if let Some(user) = judge.user_mut(&row.1.user) {
            let minute = now_ms.div_euclid(MINUTE_MS);
            if user.minute != minute {
                (user.minute, user.fires, user.summary) = (minute, 0, None);
            }
            user.fires = user.fires.saturating_add(1);
            user.logged = user.logged.saturating_add(1);
            if user.logged as usize > self.shared.config.log_items / 20 {
                user.logged = 0;
                self.shared.to_trim.lock().insert(user.name.clone());
            }
            if user.fires > self.shared.config.fires_per_minute {
                let (first, count) = user.summary.unwrap_or((id, 0));
                user.summary = Some((first, count + 1));
                let end_ms = (minute + 1).saturating_mul(MINUTE_MS);
                row.0 = tables::outgoing(end_ms, first);
                row.1.kind = OutgoingKind::Summary.into();
                row.1.count = count + 1;
                chunk.summarised += 1;
            }
        }
        drop(judge);
        chunk
            .batch
            .put(tables::OUTGOING, row.0, row.1.encode_to_vec());
    }

    fn stage_retraction(&self, chunk: &mut Chunk, event: AlertEvent, origin: &Origin, at: Now) {
        let event = AlertEvent {
            retracted: true,
            ..event
        };
        let Some(id) = event.id.as_deref().and_then(Id::parse) else {
            return;
        };
        let user = &*origin.user;
        chunk
            .batch
            .put(tables::FIRES, tables::fire(user, id), event.encode_to_vec());
        chunk
            .batch
            .put(tables::FIRE_TIMES, id.key(), user.as_bytes());
        let record = OutgoingRecord {
            user: user.to_owned(),
            kind: OutgoingKind::Retraction.into(),
            event: Some(event.clone()),
            count: 0,
            price: None,
        };
        let row = tables::outgoing(at.wall_ms, self.shared.ids.next(at.wall_ms));
        chunk
            .batch
            .put(tables::OUTGOING, row, record.encode_to_vec());
        chunk.events.push((UserId::new(user), event));
    }

    fn stage_stop(
        &self,
        chunk: &mut Chunk,
        at: Now,
        dropped: u32,
        origin: &Origin,
        mut rule: AlertRule,
    ) {
        let reason = "it fired 15 times in 3 minutes, expected fewer: add a cooldown or a hysteresis, then enable it";
        rule.stopped_reason = Some(reason.to_owned());
        let notified = rule.clone();
        rule.enabled = Some(false);
        if origin.is_current {
            chunk
                .batch
                .put(tables::RULES, origin.id.key(), rule.encode_to_vec());
        }
        self.stage_notice(chunk, OutgoingKind::Stop, dropped.into(), origin, &notified);
        tracing::info!(rule = %origin.id, at = at.wall_ms, "an alert fired too often and was stopped");
    }

    fn stage_notice(
        &self,
        chunk: &mut Chunk,
        kind: OutgoingKind,
        count: u64,
        origin: &Origin,
        rule: &AlertRule,
    ) {
        let now_ms = self.shared.clocks.now_ms();
        let id = self.shared.ids.next(now_ms);
        let record = OutgoingRecord {
            user: origin.user.as_ref().to_owned(),
            kind: kind.into(),
            event: Some(AlertEvent {
                alert_id: origin.id.to_string(),
                rule: Some(AlertRule {
                    id: origin.id.to_string(),
                    user: None,
                    ..rule.clone()
                }),
                timestamp: now_ms,
                id: Some(id.to_string()),
                rule_version: rule.version,
                ..AlertEvent::default()
            }),
            count,
            price: None,
        };
        let row = tables::outgoing(now_ms, id);
        chunk
            .batch
            .put(tables::OUTGOING, row, record.encode_to_vec());
    }

    /// Stages the state of a rule after an output.
    fn stage_state(
        &self,
        chunk: &mut Chunk,
        output: &Output,
        after: &RuleState,
        at: Now,
        origin: &Origin,
        record: &mut StateRecord,
    ) {
        if origin.is_deleted {
            return;
        }
        record.state = match origin.is_current {
            true => after.encode(),
            // The rule was changed after the output: its state is newer than the output's.
            false => {
                let judge = self.shared.judge.lock();
                let newest = judge.evaluator.state(slot_of(output).0, at);
                newest.map_or_else(|| after.encode(), |newest| newest.encode())
            }
        };
        chunk
            .batch
            .put(tables::STATES, origin.id.key(), record.encode_to_vec());
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

/// A batch, and what is published once it is stored.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) batch: Batch,
    pub(crate) events: Vec<(UserId, AlertEvent)>,
    /// Fires without a notification of their own.
    pub(crate) summarised: u64,
}

/// The slot of an output, and the version of the rule that made it.
fn slot_of(output: &Output) -> (u32, Option<u32>) {
    match output {
        Output::Fire(fire) => (fire.slot, Some(fire.version)),
        Output::Retract { slot, version, .. } | Output::Stop { slot, version, .. } => {
            (*slot, Some(*version))
        }
        Output::Vanish { slot } | Output::Change { slot } => (*slot, None),
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
