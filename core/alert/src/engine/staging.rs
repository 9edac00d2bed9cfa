//! Staging: the batch of outputs, and what is published once it is stored.

use std::{collections::HashMap, sync::Arc};

use prost::Message as _;
use tidewire_proto::v1::{AlertEvent, AlertRule};
use tidewire_store::Batch;
use tidewire_stream::UserId;
use tokio_util::sync::CancellationToken;

use super::{
    config::MINUTE_MS,
    id::Id,
    record::{OutgoingKind, OutgoingRecord, StateRecord},
    tables, view,
    writer::Writer,
};
use crate::{Fire, Now, Output, RuleState};

/// Why the automatic stop disabled a rule.
pub(super) const STOPPED_REASON: &str = "it fired 15 times in 3 minutes, expected fewer: add a cooldown or a hysteresis, then enable it";

/// A batch, and what is published once it is stored.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) batch: Batch,
    pub(crate) events: Vec<(UserId, AlertEvent)>,
    /// Fires without a notification of their own.
    pub(crate) summarised: u64,
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
    /// Makes the batch of a chunk. Returns it with the fires by the place of their outputs.
    pub(super) async fn stage(
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
        // Fires of this chunk, which may be retracted in it.
        let mut staged: HashMap<u64, AlertEvent> = HashMap::new();
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
                    staged.insert(state.last_fire, event.clone());
                    fires.push((place, event));
                }
                Output::Retract {
                    slot,
                    at,
                    state: after,
                    ..
                } => {
                    let event = retracted.get(&state.last_fire);
                    let event = event.or_else(|| staged.get(&state.last_fire)).cloned();
                    if let Some(event) = event {
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
        self.stage_state(chunk, fire.slot, &fire.state(), fire.at, origin, state);
        let phase = self.shared.judge.lock().phase(origin.id, fire.at);
        let shown = view::rule(rule, state, phase, view::Audience::Owner);
        let event = view::event(id, fire, shown);
        // A price that never came is 0 in the evaluator.
        let price = (!fire.price.is_zero()).then(|| fire.price.normalize().to_string());
        self.stage_event(chunk, id, &origin.user, event.clone(), price);
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
        if judge.count_logged(&row.1.user, self.shared.config.log_items / 20) {
            self.shared
                .to_trim
                .lock()
                .insert(row.1.user.as_str().into());
        }
        let minute = now_ms.div_euclid(MINUTE_MS);
        let of_user = judge.fire_count(&row.1.user, minute);
        of_user.fires = of_user.fires.saturating_add(1);
        if of_user.fires > self.shared.config.fires_per_minute {
            let (first, count) = of_user.summary.unwrap_or((id, 0));
            of_user.summary = Some((first, count + 1));
            let end_ms = (minute + 1).saturating_mul(MINUTE_MS);
            row.0 = tables::outgoing(end_ms, first);
            row.1.kind = OutgoingKind::Summary.into();
            row.1.count = count + 1;
            chunk.summarised += 1;
        }
        drop(judge);
        chunk
            .batch
            .put(tables::OUTGOING, row.0, row.1.encode_to_vec());
    }

    fn stage_retraction(&self, chunk: &mut Chunk, event: AlertEvent, origin: &Origin) {
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
        // Due after its fire, which was due when it was staged.
        let now_ms = self.shared.clocks.now_ms();
        let row = tables::outgoing(now_ms, self.shared.ids.next(now_ms));
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
