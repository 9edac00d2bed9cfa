//! Evaluations: values of back ends whose fires are not all stored.
//!
//! The writer applies such a value and goes on. It collects the fires of the value as it stores
//! them, and answers the request once the last one, the value itself and the states that it changed
//! are stored. So a value that fires half a million rules delays neither changes nor the fires of
//! others, and one that was answered is not forgotten in a crash.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
};

use tidewire_proto::v1::AlertEvent;

use super::{Shared, answers::Reply, commands::EvaluationOutcome};
use crate::{AlertError, Fire, Input, Sources, Subject};

/// Events that `Evaluate` returns at most.
const MOST_EVENTS: usize = 100;

/// Evaluations that are judged or stored at the same time. Beyond it, requests are refused.
const MOST: usize = 1_024;

/// A value of a back end.
pub(crate) struct Evaluation {
    pub(crate) subject: Subject,
    pub(crate) input: Box<Input>,
    /// Its fires carry them, and no others do.
    pub(crate) sources: Sources,
    pub(crate) reply: Reply<EvaluationOutcome>,
}

/// How far a value is.
enum Progress {
    /// The subject has too many values that are not judged.
    Waits(Box<Input>),
    /// Its rules are not all judged. The number is that of the value.
    Applied(u64),
    /// Its outputs are stored once this many are.
    Judged(u64),
    /// Its fires are stored. The value is, once this many saves are complete.
    Fired(u64),
}

struct Running {
    subject: Subject,
    sources: Sources,
    progress: Progress,
    /// The first fires, by the number of their output.
    events: Vec<(u64, AlertEvent)>,
    total: u64,
    reply: Reply<EvaluationOutcome>,
}

/// The evaluations at work, oldest first.
#[derive(Default)]
pub(crate) struct Evaluations {
    running: VecDeque<Running>,
    /// Saves of last values and states that are complete.
    saves: u64,
}

impl Evaluations {
    /// Begins an evaluation.
    pub(super) fn begin(&mut self, evaluation: Evaluation, shared: &Shared) {
        let Evaluation {
            subject,
            input,
            sources,
            reply,
        } = evaluation;
        if self.running.len() >= MOST {
            // The caller may have stopped waiting.
            let _ = reply.send(Err(AlertError::Overloaded));
            return;
        }
        self.running.push_back(Running {
            subject,
            sources,
            progress: Progress::Waits(input),
            events: Vec::new(),
            total: 0,
            reply,
        });
        self.advance(shared);
    }

    /// Whether an evaluation waits for a save of last values and states.
    pub(super) fn needs_save(&self) -> bool {
        let mut running = self.running.iter();
        running.any(|one| matches!(one.progress, Progress::Fired(_)))
    }

    /// Notes that all values and states that may be stored are stored.
    pub(super) fn note_save(&mut self) {
        self.saves += 1;
    }

    /// Whether no fire belongs to an evaluation.
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Counts a stored fire for the evaluation that caused it. `number` is that of the output: fires
    /// may be stored in another order.
    pub(super) fn add(&mut self, number: u64, fire: &Fire, event: &AlertEvent) {
        // A rule that was registered since has the sources too.
        let Some(sources) = fire.sources.as_ref().filter(|_| fire.is_arrival) else {
            return;
        };
        let is_own = |one: &&mut Running| {
            let own = one.sources.as_ref();
            own.is_some_and(|own| Arc::ptr_eq(own, sources))
        };
        if let Some(one) = self.running.iter_mut().find(is_own) {
            one.total += 1;
            let place = one.events.partition_point(|(before, _)| *before < number);
            if place < MOST_EVENTS {
                one.events.truncate(MOST_EVENTS - 1);
                one.events.insert(place, (number, event.clone()));
            }
        }
    }

    /// Applies values that wait, and answers the evaluations all of whose fires are stored. Returns
    /// whether one went on.
    pub(super) fn advance(&mut self, shared: &Shared) -> bool {
        if self.running.is_empty() {
            return false;
        }
        let mut has_advanced = false;
        let mut waiting: Vec<Subject> = Vec::new();
        let mut left = VecDeque::with_capacity(self.running.len());
        for mut one in std::mem::take(&mut self.running) {
            // Values of one subject stay in their order.
            let may_apply = !waiting.contains(&one.subject);
            let is_done = loop {
                match one.advance(shared, self.saves, may_apply) {
                    Step::Done => break true,
                    Step::Waits => break false,
                    Step::Next => has_advanced = true,
                }
            };
            if is_done {
                has_advanced = true;
                // The caller may have stopped waiting.
                let events = one.events.into_iter().map(|(_, event)| event);
                let _ = one.reply.send(Ok(EvaluationOutcome {
                    events: events.collect(),
                    total: one.total,
                }));
                continue;
            }
            if matches!(one.progress, Progress::Waits(_)) {
                waiting.push(one.subject.clone());
            }
            left.push_back(one);
        }
        self.running = left;
        let has_evaluations = !self.running.is_empty();
        shared
            .has_evaluations
            .store(has_evaluations, Ordering::Release);
        has_advanced
    }
}

enum Step {
    Next,
    Waits,
    Done,
}

impl Running {
    fn advance(&mut self, shared: &Shared, saves: u64, may_apply: bool) -> Step {
        let mut judge = shared.judge.lock();
        match &self.progress {
            Progress::Waits(_) if !may_apply => Step::Waits,
            Progress::Waits(input) => {
                let now = shared.clocks.now();
                match judge.apply_now(&self.subject, (**input).clone(), now) {
                    None => Step::Done,
                    Some(false) => Step::Waits,
                    Some(true) => {
                        self.progress = Progress::Applied(judge.evaluator.newest_job());
                        judge.poll();
                        shared.rules_changed.notify_one();
                        Step::Next
                    }
                }
            }
            Progress::Applied(job) => match judge.evaluator.is_judged(&self.subject, *job) {
                true => {
                    self.progress = Progress::Judged(judge.evaluator.output_count());
                    Step::Next
                }
                false => Step::Waits,
            },
            Progress::Judged(outputs) => {
                judge.poll();
                match judge.stored() >= *outputs {
                    true => {
                        self.progress = Progress::Fired(saves + 1);
                        Step::Next
                    }
                    false => Step::Waits,
                }
            }
            Progress::Fired(needed) => match saves >= *needed {
                true => Step::Done,
                false => Step::Waits,
            },
        }
    }
}
