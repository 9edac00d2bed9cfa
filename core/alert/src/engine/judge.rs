//! Judge: the evaluator with the rules' owners, and the task that feeds it.
//!
//! The task applies what waits in the lanes and judges what time alone changes. Outputs wait here
//! until the writer has stored them. While very many wait, inputs stay in their lanes.

use std::{
    collections::{HashMap, HashSet},
    hash::BuildHasherDefault,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tidewire_stream::SharedClock;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    id::{Id, IdHasher, IdMap},
    inputs::Inputs,
    pending::Pending,
    summaries::Summaries,
    unknown_commit::Unsettled,
};
use crate::{
    Evaluator, EvaluatorConfig, Now, Output, OwnerId, Phase, Rule, RuleError, RuleState, Subject,
};

/// Outputs that wait for the writer before no further input is judged: some megabytes.
const MOST_PENDING: usize = 32_768;

/// Outputs that wait in the evaluator before no further input is judged.
const MOST_UNPOLLED: usize = 16_384;

/// Inputs that are applied before the lock is released.
const STEP_INPUTS: usize = 64;

/// Outputs that are polled in one step.
const STEP_OUTPUTS: usize = 1_024;

/// Milliseconds between two looks at the wall clock while something is due by it.
const CLOCK_LOOK_MS: u64 = 60_000;

/// The time between two looks at outputs that cannot be polled.
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// Both clocks of the engine.
#[derive(Debug, Clone)]
pub(crate) struct Clocks {
    wall: SharedClock,
    started: Instant,
}

impl Clocks {
    pub(crate) fn new(wall: SharedClock) -> Self {
        Self {
            wall,
            started: Instant::now(),
        }
    }

    pub(crate) fn now(&self) -> Now {
        let monotonic = self.started.elapsed().as_millis();
        Now {
            wall_ms: self.wall.now_ms(),
            monotonic_ms: u64::try_from(monotonic).unwrap_or(u64::MAX),
        }
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.wall.now_ms()
    }

    /// The time by which something is removed for its age.
    pub(crate) fn retention_ms(&self) -> i64 {
        self.wall.retention_ms()
    }

    /// The time of a deadline of the evaluator.
    fn instant(&self, monotonic_ms: u64) -> Instant {
        tidewire_stream::deadline(self.started, Duration::from_millis(monotonic_ms))
    }
}

/// A user with rules.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) name: Arc<str>,
    pub(crate) rules: u32,
    /// Fires that were logged since the log was last bounded.
    logged: u32,
}

/// A rule in its slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) id: Id,
    pub(crate) user: u32,
    /// Whether its fires go before those of others.
    pub(crate) is_urgent: bool,
    /// Whether it fired before, or its owner has a notice: then its record has more than its state.
    pub(crate) has_history: bool,
}

/// A rule that is inserted, and its owner.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owned<'a> {
    pub(crate) id: Id,
    pub(crate) user: &'a str,
    pub(crate) is_urgent: bool,
    pub(crate) has_history: bool,
}

/// Whether one rule comes, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// A client registered it.
    Registered,
    /// It was stored before the start, like very many others.
    Loaded,
}

/// A state that may be stored.
#[derive(Debug)]
pub(crate) struct SettledState {
    pub(crate) id: Id,
    /// The encoded state.
    pub(crate) state: Vec<u8>,
    /// Whether the record of the rule has more than its state.
    pub(crate) has_history: bool,
}

/// A map by slots, whose numbers nobody chooses.
type SlotMap<V> = HashMap<u32, V, BuildHasherDefault<IdHasher>>;

/// The rules that are judged, and their owners.
pub(crate) struct Judge {
    pub(crate) evaluator: Evaluator,
    /// Outputs that wait for the writer.
    pub(crate) pending: Pending,
    /// Outputs that were polled.
    polled: u64,
    /// Rules whose state changed without a fire since it was stored, with the number of that output.
    dirty: SlotMap<u64>,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    by_id: IdMap<u32>,
    users: Vec<User>,
    free_users: Vec<u32>,
    by_name: HashMap<Arc<str>, u32>,
    /// The fires that share notifications.
    pub(crate) summaries: Summaries,
    /// Slots of deleted rules, until their outputs are stored.
    retired: Vec<u32>,
    /// Whether the evaluator may have more outputs.
    has_more: bool,
    /// Rules whose stored rows may differ from what is judged.
    pub(super) unsettled: Unsettled,
}

impl std::fmt::Debug for Judge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Judge")
            .field("rules", &self.by_id.len())
            .field("pending", &self.pending.len())
            .finish_non_exhaustive()
    }
}

impl Judge {
    pub(crate) fn new(catch_up_ms: u64) -> Self {
        Self {
            evaluator: Evaluator::new(EvaluatorConfig {
                catch_up_ms,
                ..EvaluatorConfig::default()
            }),
            pending: Pending::default(),
            polled: 0,
            dirty: SlotMap::default(),
            slots: Vec::new(),
            free: Vec::new(),
            by_id: IdMap::default(),
            users: Vec::new(),
            free_users: Vec::new(),
            by_name: HashMap::new(),
            summaries: Summaries::default(),
            retired: Vec::new(),
            has_more: false,
            unsettled: Unsettled::default(),
        }
    }

    pub(crate) fn slot_of(&self, id: Id) -> Option<u32> {
        self.by_id.get(&id).copied()
    }

    pub(crate) fn slot(&self, slot: u32) -> Option<Slot> {
        self.slots.get(slot as usize).copied().flatten()
    }

    pub(crate) fn user(&self, name: &str) -> Option<&User> {
        let place = self.by_name.get(name)?;
        self.users.get(*place as usize)
    }

    /// Counts a fire in the log of a user. True if the log has to be bounded, after `most` fires.
    pub(crate) fn count_logged(&mut self, name: &str, most: usize) -> bool {
        let place = self.by_name.get(name);
        let Some(user) = place.and_then(|place| self.users.get_mut(*place as usize)) else {
            return true;
        };
        user.logged = user.logged.saturating_add(1);
        let is_due = user.logged as usize > most;
        if is_due {
            user.logged = 0;
        }
        is_due
    }

    pub(crate) fn rules(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn phase(&self, id: Id, now: Now) -> Option<Phase> {
        self.evaluator.phase(self.slot_of(id)?, now)
    }

    /// Whether there is room for a user's rule. `replaced` is the slot of the rule that it changes.
    pub(crate) fn admit(
        &self,
        user: &str,
        replaced: Option<u32>,
        rule: &Rule,
        now: Now,
    ) -> Result<(), RuleError> {
        // A user without rules has no windows yet.
        let owner = self.by_name.get(user).map_or(u32::MAX, |place| *place);
        let owner = Some(OwnerId(owner));
        match replaced {
            Some(slot) => self.evaluator.admit_change(owner, slot, rule, now),
            None if rule.is_enabled => self.evaluator.admit_of(owner, None, rule),
            None => Ok(()),
        }
    }

    /// Changes a rule.
    pub(crate) fn update(&mut self, slot: u32, rule: &Rule, now: Now) -> Result<(), RuleError> {
        let owner = self.slot(slot).map(|slot| OwnerId(slot.user));
        self.evaluator.update_of(owner, slot, rule, now)?;
        self.has_more = true;
        self.dirty.insert(slot, self.evaluator.output_count());
        Ok(())
    }

    /// Notes that the record of a rule has more than its state.
    pub(crate) fn note_history(&mut self, slot: u32) {
        if let Some(Some(rule)) = self.slots.get_mut(slot as usize) {
            rule.has_history = true;
        }
    }

    /// Notes whether the fires of a rule go before those of others.
    pub(crate) fn set_urgent(&mut self, slot: u32, is_urgent: bool) {
        if let Some(Some(rule)) = self.slots.get_mut(slot as usize) {
            rule.is_urgent = is_urgent;
        }
    }

    /// Has the newest state of a rule stored.
    pub(crate) fn mark_dirty(&mut self, slot: u32) {
        self.dirty.insert(slot, self.evaluator.output_count());
    }

    /// Whether the automatic stop ended a rule.
    pub(crate) fn is_stopped(&self, slot: u32) -> bool {
        self.evaluator.is_stopped(slot)
    }

    /// Inserts a rule. Its subjects have lanes from now on.
    pub(crate) fn insert(
        &mut self,
        owned: Owned<'_>,
        rule: &Rule,
        state: RuleState,
        (arrival, inputs): (Arrival, &Inputs),
        now: Now,
    ) -> Result<(), RuleError> {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            // The evaluator has no room for more rules than this.
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let user = self.add_rule_of(owned.user);
        let owner = Some(OwnerId(user));
        let inserted = match arrival {
            Arrival::Registered => self.evaluator.insert_of(owner, slot, rule, state, now),
            Arrival::Loaded => {
                self.evaluator.load(owner, slot, rule, state, now);
                Ok(())
            }
        };
        if let Err(error) = inserted {
            self.free.push(slot);
            self.remove_rule_of(user);
            return Err(error);
        }
        rule.condition.each_leaf(&mut |leaf| {
            if !matches!(leaf.subject, Subject::Symbol(_)) {
                inputs.open(&leaf.subject);
            }
        });
        self.slots[slot as usize] = Some(Slot {
            id: owned.id,
            user,
            is_urgent: owned.is_urgent,
            has_history: owned.has_history,
        });
        self.by_id.insert(owned.id, slot);
        self.has_more = true;
        Ok(())
    }

    /// Removes a rule. Its outputs that are not stored yet stay. Returns the subjects that no rule is
    /// about any more.
    pub(crate) fn remove(&mut self, id: Id, rule: &Rule, inputs: &Inputs) -> Vec<Subject> {
        let Some(slot) = self.by_id.remove(&id) else {
            return Vec::new();
        };
        self.evaluator.remove(slot);
        self.dirty.remove(&slot);
        if let Some(removed) = self.slots[slot as usize].take() {
            self.remove_rule_of(removed.user);
        }
        self.retired.push(slot);
        let subjects = rule.subjects().into_iter();
        let gone = subjects.filter(|subject| {
            !matches!(subject, Subject::Symbol(_)) && self.evaluator.subject(subject).is_none()
        });
        let gone: Vec<_> = gone.cloned().collect();
        gone.iter().for_each(|subject| inputs.close(subject));
        gone
    }

    /// Notes that the rules may have outputs, after they were changed.
    pub(crate) fn mark_changed(&mut self) {
        self.has_more = true;
    }

    fn add_rule_of(&mut self, name: &str) -> u32 {
        if let Some(place) = self.by_name.get(name) {
            self.users[*place as usize].rules += 1;
            return *place;
        }
        let name: Arc<str> = name.into();
        let user = User {
            name: name.clone(),
            rules: 1,
            // The length of the log is not known: the first fire bounds it.
            logged: u32::MAX,
        };
        let place = match self.free_users.pop() {
            Some(place) => {
                self.users[place as usize] = user;
                place
            }
            None => {
                self.users.push(user);
                u32::try_from(self.users.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.by_name.insert(name, place);
        place
    }

    fn remove_rule_of(&mut self, place: u32) {
        let Some(user) = self.users.get_mut(place as usize) else {
            return;
        };
        user.rules = user.rules.saturating_sub(1);
        if user.rules == 0 {
            self.by_name.remove(&user.name);
            self.free_users.push(place);
        }
    }

    /// The name of the owner of a slot.
    pub(crate) fn owner(&self, slot: Slot) -> Option<Arc<str>> {
        let user = self.users.get(slot.user as usize)?;
        Some(user.name.clone())
    }

    /// Applies inputs that wait, and polls outputs. Returns whether there is more to do at once.
    pub(crate) fn step(&mut self, inputs: &Inputs, now: Now) -> bool {
        // While the writer is behind, values are judged, but no further chunks of large moves.
        if self.evaluator.waiting_outputs() >= MOST_UNPOLLED {
            self.poll();
            if self.evaluator.waiting_outputs() >= MOST_UNPOLLED {
                return false;
            }
        }
        let mut has_applied = false;
        let mut is_busy = false;
        for (subject, input) in inputs.take(STEP_INPUTS) {
            match self.apply(&subject, input, inputs, now) {
                true => has_applied = true,
                false => is_busy = true,
            }
        }
        if self.evaluator.is_due(now) {
            self.evaluator.advance(now);
            self.has_more = true;
        }
        self.poll();
        let may_poll = self.pending.len() < MOST_PENDING;
        // A subject with very many values waits for the writer, and the others do not.
        has_applied && !inputs.is_empty() || may_poll && (self.has_more || is_busy)
    }

    /// Applies an input. False if it has to wait, and was put back.
    fn apply(&mut self, subject: &Subject, input: crate::Input, inputs: &Inputs, now: Now) -> bool {
        let number = match subject {
            // The last value of a symbol is known before its first rule.
            Subject::Symbol(_) => Some(self.evaluator.intern(subject)),
            other => self.evaluator.subject(other),
        };
        let Some(number) = number else { return true };
        self.has_more = true;
        if self.evaluator.apply(number, input.clone(), now).is_err() {
            inputs.put_back(subject, input);
            return false;
        }
        true
    }

    /// Applies an input of a request at once. None if no rule is about the subject; false if it
    /// must be applied again after a poll.
    pub(crate) fn apply_now(
        &mut self,
        subject: &Subject,
        input: crate::Input,
        now: Now,
    ) -> Option<bool> {
        let number = match subject {
            Subject::Symbol(_) => self.evaluator.intern(subject),
            other => self.evaluator.subject(other)?,
        };
        self.has_more = true;
        Some(self.evaluator.apply(number, input, now).is_ok())
    }

    /// Polls outputs, unless very many wait.
    pub(crate) fn poll(&mut self) {
        if !self.has_more || self.pending.len() >= MOST_PENDING {
            return;
        }
        let mut outputs = Vec::new();
        self.has_more = self.evaluator.poll(STEP_OUTPUTS, &mut outputs);
        self.take(outputs);
    }

    fn take(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            self.polled += 1;
            match output {
                Output::Change { slot } => drop(self.dirty.insert(slot, self.polled)),
                output => {
                    // It is stored with the rule's state.
                    self.dirty.remove(&output.slot());
                    self.pending.push(self.polled, output);
                }
            }
        }
    }

    /// Outputs that are stored: all up to this number.
    pub(crate) fn stored(&self) -> u64 {
        let first = self.pending.first_number();
        first.map_or(self.polled, |number| number - 1)
    }

    /// The owners of outputs that wait, each once, if the writer may choose among these.
    pub(crate) fn owners_to_order(&self) -> Vec<(u32, Arc<str>)> {
        if !self.pending.may_order(self.polled) {
            return Vec::new();
        }
        let slots = self.pending.to_order().filter_map(|slot| self.slot(slot));
        let mut users: Vec<u32> = slots.map(|slot| slot.user).collect();
        users.sort_unstable();
        users.dedup();
        let named = users.into_iter().filter_map(|place| {
            let user = self.users.get(place as usize)?;
            Some((place, user.name.clone()))
        });
        named.collect()
    }

    /// The outputs after the first ones of the next batch, unless an ordering comes first.
    pub(crate) fn outputs_after(&self, count: usize) -> Vec<(u64, Output)> {
        match self.pending.may_order(self.polled) {
            true => Vec::new(),
            false => self.pending.chunk(count),
        }
    }

    /// Puts the outputs of some users, and those of urgent rules, before the others.
    pub(crate) fn order(&mut self, users: &HashSet<u32>) {
        let slots = &self.slots;
        self.pending.order(self.polled, |slot| {
            let slot = slots.get(slot as usize).copied().flatten();
            slot.is_some_and(|slot| slot.is_urgent || users.contains(&slot.user))
        });
    }

    /// Takes the outputs of some rules out of those that wait, judged by all values that arrived.
    pub(crate) fn take_outputs_of(&mut self, slots: &HashSet<u32>) -> Vec<(u64, Output)> {
        for slot in slots {
            self.evaluator.settle_rule(*slot);
        }
        let mut outputs = Vec::new();
        self.evaluator.take_outputs(&mut outputs);
        self.take(outputs);
        self.pending.take_of(slots)
    }

    /// The states that may be stored: those of rules that changed without a fire, all of whose
    /// outputs before are stored. At most `most`, and whether there are more.
    pub(crate) fn settled_states(&mut self, most: usize, now: Now) -> (Vec<SettledState>, bool) {
        // A state has all outputs of its rule in it, also those that nobody polled.
        let mut outputs = Vec::new();
        self.evaluator.take_outputs(&mut outputs);
        self.take(outputs);
        let stored = self.stored();
        let settled = self.dirty.iter();
        let mut settled = settled.filter(|(_, number)| **number <= stored);
        let slots: Vec<u32> = settled.by_ref().map(|(slot, _)| *slot).take(most).collect();
        let has_more = settled.next().is_some();
        let mut states = Vec::with_capacity(slots.len());
        for slot in slots {
            self.dirty.remove(&slot);
            if let (Some(of), Some(state)) = (self.slot(slot), self.evaluator.state(slot, now)) {
                states.push(SettledState {
                    id: of.id,
                    state: state.encode(),
                    has_history: of.has_history,
                });
            }
        }
        (states, has_more)
    }

    /// Frees the slots of deleted rules. Call it when nothing waits: an output of a deleted rule must
    /// not be mistaken for one of a new rule in its slot.
    pub(crate) fn release_retired(&mut self) {
        self.free.append(&mut self.retired);
    }

    /// Whether everything that was applied is judged and stored.
    pub(crate) fn is_drained(&self) -> bool {
        !self.has_more && self.pending.is_empty()
    }
}

/// Judges until cancelled.
pub(crate) async fn run(shared: Arc<Shared>, cancel: CancellationToken) {
    loop {
        let (has_more, deadline) = {
            let mut judge = shared.judge.lock();
            let has_more = judge.step(&shared.inputs, shared.clocks.now());
            let has_evaluations = shared.has_evaluations.load(Ordering::Acquire);
            if !judge.pending.is_empty() || has_evaluations {
                shared.outputs_added.notify_one();
            }
            let is_full = judge.evaluator.waiting_outputs() >= MOST_UNPOLLED;
            let mut deadline = judge.evaluator.next_deadline().filter(|_| !is_full);
            if judge.evaluator.follows_wall_clock() {
                // The clock may be set while the task sleeps.
                let look_ms = shared.clocks.now().monotonic_ms + CLOCK_LOOK_MS;
                deadline = deadline.map(|deadline| deadline.min(look_ms));
            }
            (has_more, deadline)
        };
        if cancel.is_cancelled() {
            return;
        }
        if has_more {
            tokio::task::yield_now().await;
            continue;
        }
        let is_waiting = !shared.inputs.is_empty() || shared.judge.lock().has_more;
        let due = async {
            match deadline {
                _ if is_waiting => tokio::time::sleep(BUSY_PAUSE).await,
                Some(at) => tokio::time::sleep_until(shared.clocks.instant(at)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = shared.inputs.added.notified() => {}
            () = shared.rules_changed.notified() => {}
            () = due => {}
        }
    }
}
