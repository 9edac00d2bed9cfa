//! Commands: changes of rules, and values of back ends, as the writer runs them.
//!
//! Commands that wait together share one batch. A command is answered after its commit, so what it
//! acknowledges survives a crash. One that is refused changes nothing, except where a flush failed:
//! then [`unknown_commit`](super::unknown_commit) finds out what is stored.

use std::{collections::HashMap, sync::Arc};

use prost::Message as _;
use tidewire_proto::v1::{AlertEvent, AlertRule, Priority};
use tidewire_store::{Key, Table};
use tokio_util::sync::CancellationToken;

use super::{
    answers::{Answer, Applied, Reply, answer, refuse, refuse_all},
    evaluations::Evaluation,
    id::Id,
    judge::{Arrival, Owned},
    planning::{Registration, key_hash, key_row},
    record::{KeyRecord, StateRecord},
    staging::{Chunk, STOPPED_REASON},
    tables,
    unknown_commit::Witness,
    view,
    writer::{EarlierRule, Writer, forget},
};
use crate::{AlertError, Now, Rule, Subject};

/// A request that the writer runs.
pub(crate) enum Command {
    /// Registers a rule.
    Register {
        user: String,
        rule: Box<AlertRule>,
        key: Option<String>,
        reply: Reply<AlertRule>,
    },
    /// Changes a rule. Fields that are not given stay.
    Update {
        user: String,
        rule: Box<AlertRule>,
        reply: Reply<AlertRule>,
    },
    /// Deletes a rule.
    Delete {
        user: String,
        id: Id,
        reply: Reply<()>,
    },
    /// Fires a rule manually.
    Trigger {
        user: String,
        id: Id,
        reply: Reply<AlertEvent>,
    },
    /// Judges the value of a back end.
    Evaluate(Evaluation),
}

impl Command {
    /// Whether nobody waits for the reply any more. Such a command is not begun.
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Register { reply, .. } | Self::Update { reply, .. } => reply.is_closed(),
            Self::Delete { reply, .. } => reply.is_closed(),
            Self::Trigger { reply, .. } => reply.is_closed(),
            Self::Evaluate(evaluation) => evaluation.reply.is_closed(),
        }
    }

    /// The rule that it changes, and that may have outputs.
    fn changed_rule(&self) -> Option<Id> {
        match self {
            Self::Update { rule, .. } => Id::parse(&rule.id),
            Self::Delete { id, .. } => Some(*id),
            Self::Register { .. } | Self::Trigger { .. } | Self::Evaluate(_) => None,
        }
    }
}

/// The fires that a value of a back end caused.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluationOutcome {
    /// The first fires.
    pub events: Vec<AlertEvent>,
    /// The number of all.
    pub total: u64,
}

/// A command that is checked and waits for its commit.
enum CheckedCommand {
    Registered {
        id: Id,
        /// The row of its idempotency key.
        key: Option<Key>,
        user: String,
        rule: Box<AlertRule>,
        checked: Box<Rule>,
        reply: Reply<AlertRule>,
    },
    Updated {
        id: Id,
        before: Box<AlertRule>,
        rule: Box<AlertRule>,
        checked: Box<Rule>,
        state: Box<StateRecord>,
        /// Whether the owner enables the rule, stopped or not.
        enables: bool,
        reply: Reply<AlertRule>,
    },
    Deleted {
        id: Id,
        user: Arc<str>,
        rule: Box<AlertRule>,
        reply: Reply<()>,
    },
    Triggered {
        event: Box<AlertEvent>,
        reply: Reply<AlertEvent>,
    },
    /// Nothing changes.
    Same {
        id: Id,
        rule: Box<AlertRule>,
        state: Box<StateRecord>,
        reply: Reply<AlertRule>,
    },
}

/// The rows that a group of commands needs, with the changes of the group so far.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) rules: HashMap<Id, Option<AlertRule>>,
    pub(super) states: HashMap<Id, StateRecord>,
    pub(super) keys: HashMap<Key, KeyRecord>,
    /// Rules that the group adds, by user.
    pub(super) added: HashMap<String, usize>,
}

impl Writer {
    /// Runs a group of commands: reads, checks, commits, applies and answers.
    pub(crate) async fn run_group(&mut self, group: Vec<Command>, cancel: &CancellationToken) {
        let mut changes = Vec::with_capacity(group.len());
        for command in group {
            if command.is_abandoned() {
                continue;
            }
            match command {
                Command::Evaluate(evaluation) => {
                    // In their order with the changes before.
                    self.run_changes(std::mem::take(&mut changes), cancel).await;
                    if let Some(error) = self.shared.store.failure() {
                        // The caller may have stopped waiting.
                        let _ = evaluation.reply.send(Err(error.into()));
                        continue;
                    }
                    self.evaluations.begin(evaluation, &self.shared);
                }
                change => changes.push(change),
            }
        }
        self.run_changes(changes, cancel).await;
    }

    async fn run_changes(&mut self, commands: Vec<Command>, cancel: &CancellationToken) {
        if commands.is_empty() {
            return;
        }
        let slots = {
            let judge = self.shared.judge.lock();
            let rules = commands.iter().filter_map(Command::changed_rule);
            rules.filter_map(|id| judge.slot_of(id)).collect()
        };
        if !self.write_outputs_of(&slots, cancel).await {
            return refuse_all(commands, &AlertError::Stopped);
        }
        let now = self.shared.clocks.now();
        let mut rows = match self.load(&commands).await {
            Ok(rows) => rows,
            Err(error) => return refuse_all(commands, &error),
        };
        let mut chunk = Chunk::default();
        let mut planned = Vec::with_capacity(commands.len());
        for command in commands {
            planned.extend(self.plan(command, &mut rows, &mut chunk, now));
        }
        chunk.stage_outgoing();
        if !chunk.batch.is_empty()
            && let Err(error) = self.shared.store.commit(chunk.batch.clone()).await
        {
            let error = AlertError::from(error);
            self.shared
                .unsettle(planned.iter().filter_map(CheckedCommand::rule));
            planned.iter_mut().for_each(|one| one.refuse(&error));
            // The delivery looks for the rows as well.
            self.shared.outgoing_added.notify_one();
            let witness = planned.iter().find_map(CheckedCommand::witness);
            let is_stored = match &witness {
                Some(witness) => self.is_stored(witness, &error, cancel).await,
                None => Some(false),
            };
            match is_stored {
                Some(true) => {}
                Some(false) => {
                    self.shared.discard(&chunk);
                    return self.shared.settle();
                }
                // The next start reads the store.
                None => return,
            }
        }
        self.shared.publish(chunk);
        let mut applied = Applied::default();
        for one in planned {
            self.apply(one, &mut applied, now);
        }
        let Applied {
            undone,
            forgotten,
            rules,
            answers,
        } = applied;
        if !undone.is_empty() {
            self.shared.unsettle(rules.into_iter());
            // A rule that is refused must not come back at the next start.
            if !self.commit(&undone, cancel).await {
                return;
            }
        }
        self.shared.settle();
        answers.into_iter().for_each(Answer::send);
        if !forgotten.is_empty() {
            self.commit(&forgotten, cancel).await;
        }
        self.shared.rules_changed.notify_one();
    }

    async fn load(&self, commands: &[Command]) -> Result<Rows, AlertError> {
        let mut keys: Vec<(Table, Key)> = Vec::new();
        for command in commands {
            match command {
                Command::Register {
                    user,
                    key: Some(key),
                    ..
                } => {
                    let hash = key_hash(user, key);
                    for period in self.shared.key_periods.all() {
                        keys.push((tables::KEYS, key_row(period, &hash)));
                    }
                }
                Command::Update { rule, .. } => {
                    if let Some(id) = Id::parse(&rule.id) {
                        keys.push((tables::RULES, id.key()));
                        keys.push((tables::STATES, id.key()));
                    }
                }
                Command::Delete { id, .. } | Command::Trigger { id, .. } => {
                    keys.push((tables::RULES, id.key()));
                    keys.push((tables::STATES, id.key()));
                }
                Command::Register { .. } | Command::Evaluate(_) => {}
            }
        }
        let mut rows = Rows::default();
        let mut registered = Vec::new();
        let values = self.shared.store.get_many(keys.clone()).await?;
        for ((table, key), value) in keys.into_iter().zip(values) {
            let Some(value) = value else { continue };
            let value = value.as_slice();
            if table == tables::KEYS {
                let record = KeyRecord::decode(value);
                let record = record.map_err(|_| AlertError::Damaged("idempotency key"))?;
                registered.push(Id(record.rule));
                // The hash alone: the period does not matter.
                rows.keys.insert(key[4..].to_vec(), record);
            } else if let Some(id) = Id::of_key(&key) {
                if table == tables::RULES {
                    let rule = AlertRule::decode(value);
                    let rule = rule.map_err(|_| AlertError::Damaged("alert"))?;
                    rows.rules.insert(id, Some(rule));
                } else {
                    let state = StateRecord::decode(value);
                    let state = state.map_err(|_| AlertError::Damaged("state of an alert"))?;
                    rows.states.insert(id, state);
                }
            }
        }
        if !registered.is_empty() {
            let keys = registered
                .iter()
                .flat_map(|id| [tables::RULES, tables::STATES].map(|table| (table, id.key())));
            let mut values = self
                .shared
                .store
                .get_many(keys.collect())
                .await?
                .into_iter();
            for id in registered {
                let (rule, state) = (values.next().flatten(), values.next().flatten());
                let rule = rule.and_then(|rule| AlertRule::decode(rule.as_slice()).ok());
                let state = state.and_then(|state| StateRecord::decode(state.as_slice()).ok());
                rows.rules.entry(id).or_insert(rule);
                rows.states.entry(id).or_insert(state.unwrap_or_default());
            }
        }
        Ok(rows)
    }

    /// Checks a command and stages its writes. None if it is answered already.
    fn plan(
        &self,
        command: Command,
        rows: &mut Rows,
        chunk: &mut Chunk,
        now: Now,
    ) -> Option<CheckedCommand> {
        match command {
            Command::Register {
                user,
                rule,
                key,
                reply,
            } => match self.plan_register(&user, *rule, key.as_deref(), (rows, chunk), now) {
                Ok(Registration::New(id, rule, checked, key)) => Some(CheckedCommand::Registered {
                    id,
                    key,
                    user,
                    rule: Box::new(rule),
                    checked: Box::new(checked),
                    reply,
                }),
                Ok(Registration::Known(id, rule)) => Some(CheckedCommand::Same {
                    state: Box::new(rows.states.get(&id).cloned().unwrap_or_default()),
                    id,
                    rule: Box::new(rule),
                    reply,
                }),
                Err(error) => answer(reply, Err(error)),
            },
            Command::Update { user, rule, reply } => {
                let enables = rule.enabled;
                match self.plan_update(&user, &rule, rows, &mut chunk.batch, now) {
                    Ok((id, before, rule, checked)) => {
                        let state = Box::new(rows.states.get(&id).cloned().unwrap_or_default());
                        if let Some(checked) = &checked
                            && let Some(record) = rearmed(&before, &rule, checked, &state, now)
                        {
                            // With the rule, so that a crash before the next save cannot leave
                            // the state of the old condition to the new one.
                            let row = record.encode_to_vec();
                            chunk.batch.put(tables::STATES, id.key(), row);
                        }
                        let (before, rule) = (Box::new(before), Box::new(rule));
                        Some(match checked {
                            Some(checked) => CheckedCommand::Updated {
                                id,
                                before,
                                rule,
                                checked: Box::new(checked),
                                state,
                                enables: enables == Some(true),
                                reply,
                            },
                            None => CheckedCommand::Same {
                                id,
                                rule,
                                state,
                                reply,
                            },
                        })
                    }
                    Err(error) => answer(reply, Err(error)),
                }
            }
            Command::Delete { user, id, reply } => match rows.of_user(id, &user) {
                Ok(rule) => {
                    chunk.batch.delete(tables::RULES, id.key());
                    chunk.batch.delete(tables::STATES, id.key());
                    chunk.batch.delete(tables::OWNERS, tables::owner(&user, id));
                    rows.rules.insert(id, None);
                    Some(CheckedCommand::Deleted {
                        id,
                        user: user.into(),
                        rule: Box::new(rule),
                        reply,
                    })
                }
                Err(error) => answer(reply, Err(error)),
            },
            Command::Trigger { user, id, reply } => match rows.of_user(id, &user) {
                Ok(rule) => {
                    let state = rows.states.get(&id).cloned().unwrap_or_default();
                    let fire = self.shared.ids.next(now.wall_ms);
                    let (event, price) = self.manual_fire((fire, id), &user, &rule, &state, now);
                    self.stage_event(chunk, fire, &user.into(), event.clone(), price);
                    let event = Box::new(event);
                    Some(CheckedCommand::Triggered { event, reply })
                }
                Err(error) => answer(reply, Err(error)),
            },
            // `run_group` runs it alone.
            Command::Evaluate(evaluation) => answer(evaluation.reply, Err(AlertError::Stopped)),
        }
    }

    /// The event of a fire by hand, with the values that are known now, and the price.
    fn manual_fire(
        &self,
        (fire, id): (Id, Id),
        user: &str,
        rule: &AlertRule,
        state: &StateRecord,
        now: Now,
    ) -> (AlertEvent, Option<String>) {
        let checked = Rule::restore(rule, user, rule.version.unwrap_or(1)).ok();
        let (phase, explained) = {
            let judge = self.shared.judge.lock();
            let explained = judge
                .slot_of(id)
                .zip(checked.as_ref())
                .and_then(|(slot, checked)| judge.evaluator.explain(slot, checked, now));
            (judge.phase(id, now), explained)
        };
        let test = explained.as_ref().map_or(0, |explained| explained.test);
        let threshold = checked.as_ref().and_then(|checked| {
            let leaves = checked.condition.leaves();
            leaves.get(test).and_then(|leaf| leaf.test.threshold())
        });
        let shown = view::rule(rule, state, phase, view::Audience::Owner);
        let event = view::manual_event(fire, explained.as_ref(), threshold, shown, now.wall_ms);
        let current = explained.and_then(|explained| explained.current);
        let price = current.map(|current| current.value.normalize().to_string());
        (event, price)
    }

    /// Applies a command whose writes are stored.
    fn apply(&mut self, planned: CheckedCommand, applied: &mut Applied, now: Now) {
        let shared = self.shared.clone();
        let mut judge = shared.judge.lock();
        let show = |rule: &AlertRule, state: &StateRecord, phase| {
            view::rule(rule, state, phase, view::Audience::Owner)
        };
        match planned {
            CheckedCommand::Registered {
                id,
                key,
                user,
                rule,
                checked,
                reply,
            } => {
                let state = crate::RuleState::new();
                let owner = Owned {
                    id,
                    user: user.as_str(),
                    is_urgent: rule.priority() == Priority::Urgent,
                    has_history: false,
                };
                let arrival = (Arrival::Registered, &shared.inputs);
                let admitted = judge.admit(&user, None, &checked, now);
                let inserted =
                    admitted.and_then(|()| judge.insert(owner, &checked, state, arrival, now));
                if let Err(error) = inserted {
                    let undone = &mut applied.undone;
                    undone.delete(tables::RULES, id.key());
                    undone.delete(tables::OWNERS, tables::owner(&user, id));
                    // The same request may succeed later.
                    if let Some(key) = key {
                        undone.delete(tables::KEYS, key);
                    }
                    applied.rules.push(id);
                    return applied.refuse(reply, error.into());
                }
                judge.poll();
                let phase = judge.phase(id, now);
                shared.follow((id, user.as_str()), &judge, &checked, now);
                drop(judge);
                applied.show(reply, show(&rule, &StateRecord::default(), phase));
            }
            CheckedCommand::Updated {
                id,
                before,
                mut rule,
                mut checked,
                state,
                enables,
                reply,
            } => {
                let Some(slot) = judge.slot_of(id) else {
                    return applied.refuse(reply, AlertError::NotFound(rule.id));
                };
                let user = before.user.clone().unwrap_or_default();
                let earlier = before.version.unwrap_or(1);
                let subjects: Vec<Subject> = Rule::restore(&before, &user, earlier)
                    .map(|rule| rule.subjects().into_iter().cloned().collect())
                    .unwrap_or_default();
                for subject in checked.subjects() {
                    shared.inputs.open(subject);
                }
                if checked.is_enabled && !enables && judge.is_stopped(slot) {
                    // The automatic stop came while the change was stored. Only its owner enables
                    // a rule that was stopped.
                    checked.is_enabled = false;
                    rule.enabled = Some(false);
                    rule.stopped_reason = Some(STOPPED_REASON.to_owned());
                    let row = rule.encode_to_vec();
                    applied.undone.put(tables::RULES, id.key(), row);
                    applied.rules.push(id);
                }
                if let Err(error) = judge.update(slot, &checked, now) {
                    judge.mark_dirty(slot);
                    let row = before.encode_to_vec();
                    applied.undone.put(tables::RULES, id.key(), row);
                    applied.rules.push(id);
                    return applied.refuse(reply, error.into());
                }
                judge.set_urgent(slot, rule.priority() == Priority::Urgent);
                for subject in subjects {
                    let is_symbol = matches!(subject, Subject::Symbol(_));
                    if !is_symbol && judge.evaluator.subject(&subject).is_none() {
                        shared.inputs.close(&subject);
                        forget(&mut applied.forgotten, &[subject]);
                    }
                }
                let superseded = EarlierRule {
                    id,
                    user: user.as_str().into(),
                    rule: *before,
                };
                self.superseded.insert((slot, earlier), superseded);
                judge.poll();
                let phase = judge.phase(id, now);
                shared.follow((id, user.as_str()), &judge, &checked, now);
                drop(judge);
                applied.show(reply, show(&rule, &state, phase));
            }
            CheckedCommand::Deleted {
                id,
                user,
                rule,
                reply,
            } => {
                let version = rule.version.unwrap_or(1);
                if let (Some(slot), Ok(checked)) =
                    (judge.slot_of(id), Rule::restore(&rule, &user, version))
                {
                    let gone = judge.remove(id, &checked, &shared.inputs);
                    forget(&mut applied.forgotten, &gone);
                    let deleted = EarlierRule {
                        id,
                        user,
                        rule: *rule,
                    };
                    self.deleted.insert(slot, deleted);
                }
                judge.mark_changed();
                applied.answers.push(Answer::Deleted(reply));
            }
            CheckedCommand::Triggered { event, reply } => {
                applied.answers.push(Answer::Triggered(reply, event));
            }
            CheckedCommand::Same {
                id,
                rule,
                state,
                reply,
            } => {
                let phase = judge.phase(id, now);
                applied.show(reply, show(&rule, &state, phase));
            }
        }
    }
}

/// The state of a rule that a change arms again, as
/// [`Evaluator::update`](crate::Evaluator::update) does. None if the change does not.
fn rearmed(
    before: &AlertRule,
    rule: &AlertRule,
    checked: &Rule,
    record: &StateRecord,
    now: Now,
) -> Option<StateRecord> {
    let is_on = |rule: &AlertRule| rule.enabled != Some(false) && rule.stopped_reason.is_none();
    let is_over = |rule: &AlertRule| rule.expires_at.is_some_and(|at_ms| at_ms <= now.wall_ms);
    // By meaning, as the evaluator compares them, and not by the form of the messages.
    let user = before.user.as_deref().unwrap_or_default();
    let earlier = Rule::restore(before, user, before.version.unwrap_or(1)).ok();
    let is_new = earlier.is_none_or(|earlier| {
        earlier.condition != checked.condition || earlier.repeat != checked.repeat
    });
    let revives = is_on(rule) && (!is_on(before) || is_over(before) && !is_over(rule));
    if !is_new && !revives {
        return None;
    }
    let fires_left = record.rule_state().and_then(|state| state.fires_left);
    let fires_left = fires_left.filter(|left| !is_new && *left > 0);
    Some(StateRecord {
        state: crate::RuleState::rearmed(fires_left).encode(),
        has_vanish_notice: false,
        ..record.clone()
    })
}

impl Rows {
    /// The rule of a user. That of another user is not found.
    pub(super) fn of_user(&self, id: Id, user: &str) -> Result<AlertRule, AlertError> {
        let rule = self.rules.get(&id).and_then(Option::as_ref);
        let rule = rule.filter(|rule| rule.user.as_deref() == Some(user));
        rule.cloned()
            .ok_or_else(|| AlertError::NotFound(id.to_string()))
    }
}

impl CheckedCommand {
    /// Refuses the command. Its change is applied later if it is stored all the same.
    fn refuse(&mut self, error: &AlertError) {
        match self {
            Self::Registered { reply, .. }
            | Self::Updated { reply, .. }
            | Self::Same { reply, .. } => refuse(reply, error),
            Self::Deleted { reply, .. } => refuse(reply, error),
            Self::Triggered { reply, .. } => refuse(reply, error),
        }
    }

    /// The rule that it changes.
    fn rule(&self) -> Option<Id> {
        match self {
            Self::Registered { id, .. } | Self::Updated { id, .. } | Self::Deleted { id, .. } => {
                Some(*id)
            }
            Self::Triggered { .. } | Self::Same { .. } => None,
        }
    }

    /// The row that tells whether the change is stored.
    fn witness(&self) -> Option<Witness> {
        match self {
            Self::Registered { id, .. } => Some(Witness::rule(*id, None)),
            Self::Updated { id, before, .. } => Some(Witness::rule(*id, Some(before))),
            Self::Deleted { id, rule, .. } => Some(Witness::rule(*id, Some(rule))),
            Self::Triggered { event, .. } => event.id.as_deref().and_then(Witness::fire),
            Self::Same { .. } => None,
        }
    }
}
