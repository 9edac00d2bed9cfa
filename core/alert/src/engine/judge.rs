//! Judge: the evaluator with the rules' owners, and the task that feeds it.
//!
//! The task applies what waits in the lanes and judges what time alone changes. Outputs wait here
//! until the writer has stored them. While very many wait, inputs stay in their lanes.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tidewire_stream::SharedClock;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Shared, id::Id, inputs::Inputs};
use crate::{Evaluator, EvaluatorConfig, Now, Output, Phase, Rule, RuleError, RuleState, Subject};

/// Outputs that wait for the writer before no further input is judged.
const MOST_PENDING: usize = 4_096;

/// Inputs that are applied before the lock is released.
const STEP_INPUTS: usize = 64;

/// Outputs that are polled in one step.
const STEP_OUTPUTS: usize = 1_024;

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
    /// The minute in which fires are counted.
    pub(crate) minute: i64,
    /// Fires in it.
    pub(crate) fires: u32,
    /// The summary of the fires beyond the limit, and their number.
    pub(crate) summary: Option<(Id, u64)>,
    /// Fires that were logged since the log was last bounded.
    pub(crate) logged: u32,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) id: Id,
    pub(crate) user: u32,
}

/// The rules that are judged, and their owners.
pub(crate) struct Judge {
    pub(crate) evaluator: Evaluator,
    /// Outputs that wait for the writer.
    pub(crate) pending: VecDeque<Output>,
    /// Rules whose state changed without a fire since it was stored.
    pub(crate) dirty: HashSet<u32>,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    by_id: HashMap<Id, u32>,
    users: Vec<User>,
    free_users: Vec<u32>,
    by_name: HashMap<Arc<str>, u32>,
    /// Slots of deleted rules, until their outputs are stored.
    retired: Vec<u32>,
    /// Whether the evaluator may have more outputs.
    has_more: bool,
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
            pending: VecDeque::new(),
            dirty: HashSet::new(),
            slots: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
            users: Vec::new(),
            free_users: Vec::new(),
            by_name: HashMap::new(),
            retired: Vec::new(),
            has_more: false,
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

    pub(crate) fn user_mut(&mut self, name: &str) -> Option<&mut User> {
        let place = self.by_name.get(name)?;
        self.users.get_mut(*place as usize)
    }

    pub(crate) fn rules(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn phase(&self, id: Id, now: Now) -> Option<Phase> {
        self.evaluator.phase(self.slot_of(id)?, now)
    }

    /// Inserts a rule. Its subjects have lanes from now on.
    pub(crate) fn insert(
        &mut self,
        (id, user): (Id, &str),
        rule: &Rule,
        state: RuleState,
        inputs: &Inputs,
        now: Now,
    ) -> Result<(), RuleError> {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            // The evaluator has no room for more rules than this.
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        if let Err(error) = self.evaluator.insert(slot, rule, state, now) {
            self.free.push(slot);
            return Err(error);
        }
        for subject in rule.subjects() {
            inputs.open(subject);
        }
        let user = self.add_rule_of(user);
        self.slots[slot as usize] = Some(Slot { id, user });
        self.by_id.insert(id, slot);
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
            minute: 0,
            fires: 0,
            summary: None,
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
        if self.pending.len() >= MOST_PENDING {
            return false;
        }
        let batch = inputs.take(STEP_INPUTS);
        let is_full = batch.len() == STEP_INPUTS;
        let mut is_busy = false;
        for (subject, input) in batch {
            is_busy |= !self.apply(&subject, input, inputs, now);
        }
        if self
            .evaluator
            .next_deadline()
            .is_some_and(|deadline| deadline <= now.monotonic_ms)
        {
            self.evaluator.advance(now);
            self.has_more = true;
        }
        self.poll();
        is_full || is_busy || self.has_more || !inputs.is_empty()
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
        for output in outputs {
            match output {
                Output::Change { slot } => drop(self.dirty.insert(slot)),
                output => self.pending.push_back(output),
            }
        }
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
            if !judge.pending.is_empty() {
                shared.outputs_added.notify_one();
            }
            let is_full = judge.pending.len() >= MOST_PENDING;
            let deadline = judge.evaluator.next_deadline();
            (has_more, if is_full { None } else { deadline })
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
