//! Staging: the batch of outputs, and what is published once it is stored.

use std::{collections::HashMap, sync::Arc};

use prost::Message as _;
use tidewire_proto::v1::{AlertEvent, AlertRule};
use tidewire_store::{Batch, Key, Table, Value};
use tidewire_stream::UserId;
use tokio_util::sync::CancellationToken;

use super::{
    id::{Id, IdMap},
    outgoing::Outgoing,
    record::{OutgoingKind, OutgoingRecord, StateRecord},
    summaries::{Group, Share},
    tables, view,
    writer::Writer,
};
use crate::{Fire, Now, Output, Phase, RuleState};

/// Why the automatic stop disabled a rule.
pub(super) const STOPPED_REASON: &str = "it fired 15 times in 3 minutes, expected fewer: add a cooldown or a hysteresis, then enable it";

/// Bytes of events from which on a batch takes no further output.
const CHUNK_BYTES: usize = 4 << 20;

/// Outputs that are staged before the chunk before is published, if it is stored: less than a
/// millisecond.
const BETWEEN: usize = 32;

/// A batch, and what is published once it is stored.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) batch: Batch,
    pub(crate) events: Vec<(UserId, AlertEvent)>,
    /// The fires: the place of the output, and that of the event.
    pub(crate) fires: Vec<(usize, usize)>,
    /// Outputs that the batch has.
    pub(crate) outputs: usize,
    /// Fires without a notification of their own.
    pub(crate) summarised: u64,
    /// The rows of the summaries that it has, each once.
    pub(crate) summaries: Vec<Key>,
    outgoing: Outgoing,
    /// Bytes of the events.
    bytes: usize,
}

impl Chunk {
    /// Puts the outgoing notifications into the batch. Call it last.
    pub(crate) fn stage_outgoing(&mut self) {
        std::mem::take(&mut self.outgoing).stage(&mut self.batch);
    }
}

/// Outputs with their batch.
pub(crate) struct Staged {
    pub(crate) outputs: Vec<(u64, Output)>,
    pub(crate) chunk: Chunk,
}

/// An output with the rule that made it.
struct Origin {
    id: Id,
    user: Arc<str>,
    /// The rule, if it is not the stored one.
    rule: Option<AlertRule>,
    /// The rule's phase, for a fire.
    phase: Option<Phase>,
    /// Whether the record of the rule has more than its state.
    has_history: bool,
    /// Whether the rule still has this version: then the output's state is its newest.
    is_current: bool,
    /// Whether the rule was deleted: then it has no state.
    is_deleted: bool,
}

/// The stored rows of the rules that made outputs.
#[derive(Default)]
struct Stored {
    /// Encoded rules: most are decoded once.
    rules: IdMap<Value>,
    states: IdMap<StateRecord>,
}

impl Stored {
    fn rule(&self, id: Id) -> Option<AlertRule> {
        AlertRule::decode(self.rules.get(&id)?.as_slice()).ok()
    }
}

impl Writer {
    /// Makes the batch of a chunk: of all outputs, or of the first ones if they are very long. Calls
    /// `between` from time to time.
    pub(super) async fn stage(
        &self,
        outputs: Vec<(u64, Output)>,
        between: &mut (dyn FnMut() + Send),
        cancel: &CancellationToken,
    ) -> Option<Staged> {
        let origins = self.origins(&outputs);
        let mut stored = self.stored(&origins, cancel).await?;
        let states = &stored.states;
        let retracted = self.retracted(&outputs, &origins, states, cancel).await?;
        let mut chunk = Chunk::default();
        // Fires of this chunk, which may be retracted in it.
        let mut staged: HashMap<u64, usize> = HashMap::new();
        for (place, ((_, output), origin)) in outputs.iter().zip(&origins).enumerate() {
            if chunk.bytes >= CHUNK_BYTES {
                break;
            }
            if place % BETWEEN == 0 {
                between();
            }
            chunk.outputs = place + 1;
            let Some(origin) = origin else { continue };
            let rule = origin.rule.clone().or_else(|| stored.rule(origin.id));
            let Some(rule) = rule else {
                tracing::error!(rule = %origin.id, "a rule that fired is not in the store");
                continue;
            };
            let state = stored.states.entry(origin.id).or_default();
            match output {
                Output::Fire(fire) => {
                    self.stage_fire(&mut chunk, fire, origin, rule, state);
                    let event = chunk.events.len() - 1;
                    staged.insert(state.last_fire, event);
                    chunk.fires.push((place, event));
                }
                Output::Retract {
                    slot,
                    at,
                    state: after,
                    ..
                } => {
                    let event = retracted.get(&state.last_fire).or_else(|| {
                        let event = staged.get(&state.last_fire)?;
                        chunk.events.get(*event).map(|(_, event)| event)
                    });
                    if let Some(event) = event.cloned() {
                        self.stage_retraction(&mut chunk, event, origin);
                    }
                    self.stage_state(&mut chunk, *slot, after, *at, origin, state);
                }
                Output::Stop {
                    slot,
                    at,
                    dropped,
                    state: after,
                    ..
                } => {
                    self.stage_stop(&mut chunk, *at, *dropped, origin, rule);
                    self.stage_state(&mut chunk, *slot, after, *at, origin, state);
                }
                Output::Vanish { slot } => {
                    let now = self.shared.clocks.now();
                    // Once, however often the server starts without the symbol.
                    if !std::mem::replace(&mut state.has_vanish_notice, true) {
                        self.stage_notice(&mut chunk, OutgoingKind::Vanish, 0, origin, &rule);
                    }
                    let after = self.shared.judge.lock().evaluator.state(*slot, now);
                    if let Some(after) = after {
                        self.stage_state(&mut chunk, *slot, &after, now, origin, state);
                    }
                }
                Output::Change { .. } => {}
            }
        }
        chunk.stage_outgoing();
        chunk.batch.mark_urgent();
        Some(Staged { outputs, chunk })
    }

    /// The rules that made outputs. None for one that is not known any more.
    fn origins(&self, outputs: &[(u64, Output)]) -> Vec<Option<Origin>> {
        let mut judge = self.shared.judge.lock();
        let mut origin = |output: &Output| {
            let (slot, version) = slot_of(output);
            if let Some(deleted) = self.deleted.get(&slot) {
                let rule = version
                    .and_then(|version| self.superseded.get(&(slot, version)))
                    .unwrap_or(deleted);
                return Some(Origin {
                    id: deleted.id,
                    user: deleted.user.clone(),
                    rule: Some(rule.rule.clone()),
                    phase: None,
                    has_history: false,
                    is_current: false,
                    is_deleted: true,
                });
            }
            let superseded = version.and_then(|version| self.superseded.get(&(slot, version)));
            let entry = judge.slot(slot)?;
            let phase = match output {
                Output::Fire(fire) => judge.evaluator.phase(slot, fire.at),
                _ => None,
            };
            judge.note_history(slot);
            Some(Origin {
                id: entry.id,
                user: judge.owner(entry)?,
                rule: superseded.map(|one| one.rule.clone()),
                phase,
                has_history: entry.has_history,
                is_current: superseded.is_none(),
                is_deleted: false,
            })
        };
        outputs.iter().map(|(_, output)| origin(output)).collect()
    }

    /// Reads the rows of rules, in the order of their keys: the store then finds neighbours together.
    async fn stored(
        &self,
        origins: &[Option<Origin>],
        cancel: &CancellationToken,
    ) -> Option<Stored> {
        let ids = |is_read: &dyn Fn(&Origin) -> bool| {
            let origins = origins.iter().flatten().filter(|origin| is_read(origin));
            let mut ids: Vec<Id> = origins.map(|origin| origin.id).collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        let rules = ids(&|origin| origin.rule.is_none());
        let states = ids(&|origin| origin.has_history);
        let keys = |table: Table, ids: &[Id]| -> Vec<(Table, Key)> {
            ids.iter().map(|id| (table, id.key())).collect()
        };
        let mut wanted = keys(tables::RULES, &rules);
        wanted.extend(keys(tables::STATES, &states));
        let mut rows = self.read(wanted, cancel).await?.into_iter();
        let mut stored = Stored::default();
        for id in rules {
            stored
                .rules
                .extend(rows.next().flatten().map(|row| (id, row)));
        }
        for id in states {
            let state = rows.next().flatten();
            let state = state.and_then(|state| StateRecord::decode(state.as_slice()).ok());
            stored.states.extend(state.map(|state| (id, state)));
        }
        Some(stored)
    }

    /// The logged fires that are retracted, by their id.
    async fn retracted(
        &self,
        outputs: &[(u64, Output)],
        origins: &[Option<Origin>],
        states: &IdMap<StateRecord>,
        cancel: &CancellationToken,
    ) -> Option<HashMap<u64, AlertEvent>> {
        let mut found = Vec::new();
        for ((_, output), origin) in outputs.iter().zip(origins) {
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
        rule: AlertRule,
        state: &mut StateRecord,
    ) {
        let id = self.shared.ids.next(fire.at.wall_ms);
        state.fires += 1;
        state.last_fire = id.0;
        state.last_fired_ms = fire.at.wall_ms;
        self.stage_state(chunk, fire.slot, &fire.state(), fire.at, origin, state);
        let shown = view::into_view(rule, state, origin.phase, view::Audience::Owner);
        let event = view::event(id, fire, shown);
        // A price that never came is 0 in the evaluator.
        let price = (!fire.price.is_zero()).then(|| fire.price.normalize().to_string());
        self.stage_event(chunk, id, &origin.user, event, price);
    }

    /// Stages a fire's log row and its outgoing notification.
    pub(crate) fn stage_event(
        &self,
        chunk: &mut Chunk,
        id: Id,
        user: &Arc<str>,
        event: AlertEvent,
        price: Option<String>,
    ) {
        let group = Group::of(&event);
        let record = self.stage_logged(chunk, OutgoingKind::Fire, id, user, event);
        self.stage_outgoing(chunk, (id, group), user, OutgoingRecord { price, ..record });
    }

    /// Stages the log row of an event, which is published later. Returns the record of its
    /// notification.
    fn stage_logged(
        &self,
        chunk: &mut Chunk,
        kind: OutgoingKind,
        id: Id,
        user: &Arc<str>,
        event: AlertEvent,
    ) -> OutgoingRecord {
        let encoded = event.encode_to_vec();
        chunk.bytes += encoded.len();
        let (batch, key) = (&mut chunk.batch, tables::fire(user, id));
        batch.put(tables::FIRES, key, encoded.clone());
        batch.put(tables::FIRE_TIMES, id.key(), user.as_bytes());
        chunk.events.push((UserId::new(user), event));
        OutgoingRecord {
            user: user.as_ref().to_owned(),
            kind: kind.into(),
            event: encoded,
            ..OutgoingRecord::default()
        }
    }

    /// Stages the outgoing notification of a fire. Beyond the limit of a minute, fires of a group share
    /// one at its end.
    fn stage_outgoing(
        &self,
        chunk: &mut Chunk,
        (id, group): (Id, Group),
        user: &Arc<str>,
        record: OutgoingRecord,
    ) {
        let config = &self.shared.config;
        let now_ms = self.shared.clocks.now_ms();
        let mut judge = self.shared.judge.lock();
        let is_long = judge.count_logged(user, config.log_items / 20);
        let summaries = &mut judge.summaries;
        let share = summaries.count(user, (id, group), config.fires_per_minute, now_ms);
        if let Share::Summary(key, _) = &share
            && !chunk.outgoing.has_summary(key)
        {
            summaries.stage(key.clone());
            chunk.summaries.push(key.clone());
        }
        drop(judge);
        if is_long {
            self.shared.to_trim.lock().insert(user.clone());
        }
        match share {
            Share::Own => chunk.outgoing.add(tables::outgoing(now_ms, id), record),
            Share::Summary(key, count) => {
                let record = OutgoingRecord {
                    kind: OutgoingKind::Summary.into(),
                    count,
                    ..record
                };
                chunk.outgoing.set_summary(key, record);
                chunk.summarised += 1;
            }
        }
    }

    fn stage_retraction(&self, chunk: &mut Chunk, event: AlertEvent, origin: &Origin) {
        let event = AlertEvent {
            retracted: true,
            ..event
        };
        let Some(id) = event.id.as_deref().and_then(Id::parse) else {
            return;
        };
        let kind = OutgoingKind::Retraction;
        let record = self.stage_logged(chunk, kind, id, &origin.user, event);
        // Due after its fire, which was due when it was staged.
        let now_ms = self.shared.clocks.now_ms();
        let row = tables::outgoing(now_ms, self.shared.ids.next(now_ms));
        chunk.outgoing.add(row, record);
    }

    fn stage_stop(
        &self,
        chunk: &mut Chunk,
        at: Now,
        dropped: u32,
        origin: &Origin,
        mut rule: AlertRule,
    ) {
        rule.stopped_reason = Some(STOPPED_REASON.to_owned());
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
        let event = AlertEvent {
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
        };
        let record = OutgoingRecord {
            user: origin.user.as_ref().to_owned(),
            kind: kind.into(),
            event: event.encode_to_vec(),
            count,
            ..OutgoingRecord::default()
        };
        chunk.outgoing.add(tables::outgoing(now_ms, id), record);
    }

    /// Stages the state of a rule after an output.
    fn stage_state(
        &self,
        chunk: &mut Chunk,
        slot: u32,
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
                let newest = judge.evaluator.state(slot, at);
                newest.map_or_else(|| after.encode(), |newest| newest.encode())
            }
        };
        chunk
            .batch
            .put(tables::STATES, origin.id.key(), record.encode_to_vec());
    }
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
