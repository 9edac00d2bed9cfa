//! Values: how inputs and time change subjects and their signals.

use std::cmp::Reverse;

use rust_decimal::Decimal;
use smallvec::SmallVec;

use super::{
    Evaluator, MOST_JOBS, MOST_OUTPUTS,
    jobs::{Moment, Move, Moves, SubjectChange},
    subjects::{Continuity, Liveness},
};
use crate::{Busy, Input, Now, Output, Subject, SubjectId, SubjectValue, Tick};

/// A value of a subject, whatever its kind.
struct Arrival {
    tick: Tick,
    volume: Option<Decimal>,
    currency: Option<Box<str>>,
    is_retraction: bool,
}

impl Evaluator {
    /// Applies an input. Values that are not positive, and inputs of another kind of subject,
    /// change nothing. Times must not go back on the monotonic clock.
    ///
    /// # Errors
    /// Too many values of the subject, or outputs, wait. Nothing was changed.
    pub fn apply(&mut self, subject: SubjectId, input: Input, now: Now) -> Result<(), Busy> {
        let number = subject.0;
        let Some(entry) = self.subjects.get(number as usize) else {
            return Ok(());
        };
        if entry.jobs.len() >= MOST_JOBS || self.outputs.len() >= MOST_OUTPUTS {
            return Err(Busy(subject));
        }
        self.advance(now);
        self.counters.inputs += 1;
        // Time may have removed the subject's last rule.
        let Some(entry) = self.subjects.get(number as usize) else {
            return Ok(());
        };
        let arrival = match (&entry.key, input) {
            (Subject::Symbol(_), Input::Price { tick, volume }) if tick.value > Decimal::ZERO => {
                Arrival {
                    tick,
                    volume,
                    currency: None,
                    is_retraction: false,
                }
            }
            (Subject::Gas(_), Input::Gas(tick)) if tick.value > Decimal::ZERO => Arrival {
                tick,
                volume: None,
                currency: None,
                is_retraction: false,
            },
            (Subject::Portfolio { .. }, Input::Portfolio { tick, currency })
                if tick.value >= Decimal::ZERO =>
            {
                Arrival {
                    tick,
                    volume: None,
                    currency: Some(currency),
                    is_retraction: false,
                }
            }
            (
                Subject::Transaction { .. },
                Input::Transaction {
                    state,
                    is_retraction,
                    observed_us,
                },
            ) => Arrival {
                tick: Tick::new(Decimal::from(state as i32), observed_us),
                volume: None,
                currency: None,
                is_retraction,
            },
            (_, Input::Stale) => {
                self.stale(number, now);
                return Ok(());
            }
            (_, Input::Correction) => {
                let entry = &mut self.subjects[number as usize];
                if entry.liveness != Liveness::Never {
                    entry.liveness = Liveness::Corrected;
                }
                return Ok(());
            }
            (Subject::Symbol(_), Input::Vanished) => {
                self.vanish(number, now);
                return Ok(());
            }
            _ => return Ok(()),
        };
        self.arrive(number, arrival, now);
        Ok(())
    }

    fn stale(&mut self, number: u32, now: Now) {
        let entry = &mut self.subjects[number as usize];
        if entry.is_live() {
            entry.liveness = Liveness::Stale {
                since_ms: now.monotonic_ms,
            };
        }
    }

    fn vanish(&mut self, number: u32, now: Now) {
        self.stale(number, now);
        // The rules that the last values end are not told. This happens once in a symbol's life.
        while self
            .subjects
            .get(number as usize)
            .is_some_and(|entry| !entry.jobs.is_empty())
        {
            self.run_chunk(number);
        }
        let Some(entry) = self.subjects.get_mut(number as usize) else {
            return;
        };
        if std::mem::replace(&mut entry.has_vanished, true) {
            return;
        }
        self.merge_subject(number);
        let Some(entry) = self.subjects.get(number as usize) else {
            return;
        };
        let mut slots = Vec::new();
        for signal in &entry.signals {
            let signal = &self.signals[*signal as usize];
            slots.extend(signal.simple.slots());
            slots.extend(signal.complex.slots());
        }
        slots.sort_unstable();
        slots.dedup();
        self.outputs
            .extend(slots.into_iter().map(|slot| Output::Vanish { slot }));
    }

    /// Takes a usable value.
    fn arrive(&mut self, number: u32, arrival: Arrival, now: Now) {
        let entry = &mut self.subjects[number as usize];
        let is_same_currency = entry
            .last
            .as_ref()
            .is_none_or(|last| last.currency == arrival.currency);
        let mut continuity = match entry.liveness {
            Liveness::Never | Liveness::Live => Continuity::Follows,
            Liveness::Corrected => Continuity::Baseline,
            Liveness::Stale { since_ms } => {
                match now.monotonic_ms.saturating_sub(since_ms) > self.config.catch_up_ms {
                    true => Continuity::Baseline,
                    false => Continuity::Follows,
                }
            }
            Liveness::Restored => {
                let last_ms = entry.last.as_ref().map_or(i64::MIN, |last| last.at.wall_ms);
                // A value that is ahead of the clock, which was set back, may be as old as any.
                let age_ms = now.wall_ms.abs_diff(last_ms);
                match age_ms > self.config.catch_up_ms {
                    true => Continuity::Baseline,
                    false => Continuity::CatchUp,
                }
            }
        };
        // The states of a transaction are facts: a late one is as true.
        if matches!(entry.key, Subject::Transaction { .. }) {
            continuity = Continuity::Follows;
        }
        if !is_same_currency {
            continuity = Continuity::Baseline;
        }
        let was_live = entry.is_live();
        let is_baseline = continuity == Continuity::Baseline;
        let value = arrival.tick.value;
        let old_peak = entry.last.as_ref().and_then(|last| last.peak);
        let peak = match entry.key {
            Subject::Portfolio { .. } if is_baseline => Some(value),
            Subject::Portfolio { .. } => Some(old_peak.map_or(value, |peak| peak.max(value))),
            _ => None,
        };
        entry.previous = entry.last.replace(SubjectValue {
            value,
            at: now,
            formed_us: arrival.tick.formed_us,
            sources: arrival.tick.sources.clone(),
            peak,
            currency: arrival.currency,
        });
        self.arrivals += 1;
        entry.arrival = self.arrivals;
        entry.continuity = Some(continuity);
        entry.liveness = Liveness::Live;
        entry.last_live_ms = Some(now.monotonic_ms);
        entry.has_vanished = false;
        self.mark_changed(number);
        let entry = &self.subjects[number as usize];
        if entry.signals.is_empty() {
            return;
        }
        for signal in &entry.signals {
            let signal = &mut self.signals[*signal as usize];
            if is_baseline {
                signal.clear();
            }
            signal.feed(now.monotonic_ms, value, arrival.volume);
        }
        let moment = Moment {
            now,
            arrival: entry.arrival,
            price: value,
            earlier: entry
                .previous
                .as_ref()
                .map_or(value, |previous| previous.value),
            sources: arrival.tick.sources,
            formed_us: arrival.tick.formed_us,
            is_catch_up: continuity == Continuity::CatchUp,
            is_baseline,
            is_retraction: arrival.is_retraction,
            is_arrival: true,
            is_back: !was_live,
        };
        let moves = self.refresh(number, &moment);
        if !moves.is_empty() {
            self.judge(vec![SubjectChange {
                subject: number,
                moment,
                moves,
            }]);
        }
        if self.subjects.contains(number as usize) {
            self.schedule(number, self.now);
        }
    }

    /// Judges what time alone changes: windows, averages, ages, and ends of cooldown and snooze.
    /// Call it at [`Self::next_deadline`]: a late call judges everything by its own time.
    pub fn advance(&mut self, now: Now) {
        self.now = now;
        self.end_blocks(now);
        let mut due = SmallVec::<[u32; 4]>::new();
        while let Some(Reverse((due_ms, number))) = self.deadlines.peek().copied() {
            if due_ms > now.monotonic_ms {
                break;
            }
            self.deadlines.pop();
            let Some(entry) = self.subjects.get_mut(number as usize) else {
                continue;
            };
            if entry.deadline_ms != Some(due_ms) {
                // An entry of a subject that was removed, or one that an earlier one replaced.
                continue;
            }
            entry.deadline_ms = None;
            due.push(number);
        }
        self.pass_time(&due, now);
    }

    /// Computes the signals of subjects anew, without a new value. Time changes all of them in one
    /// moment: a rule of several is judged once, so that it never sees one before and another after.
    pub(super) fn pass_time(&mut self, numbers: &[u32], now: Now) {
        for &number in numbers {
            // Time cannot be refused: make room.
            while self
                .subjects
                .get(number as usize)
                .is_some_and(|entry| entry.jobs.len() >= MOST_JOBS)
            {
                self.run_chunk(number);
            }
        }
        let mut changes = Vec::new();
        for &number in numbers {
            let Some(entry) = self.subjects.get(number as usize) else {
                continue;
            };
            let moment = self.subject_present(Some(entry), now);
            let moves = self.refresh(number, &moment);
            if !moves.is_empty() {
                changes.push(SubjectChange {
                    subject: number,
                    moment,
                    moves,
                });
            }
        }
        if !changes.is_empty() {
            self.judge(changes);
        }
        for &number in numbers {
            if self.subjects.contains(number as usize) {
                self.schedule(number, self.now);
            }
        }
    }

    /// Computes a subject's signals. Returns the moves that may concern rules.
    fn refresh(&mut self, number: u32, moment: &Moment) -> Moves {
        self.merge_subject(number);
        let entry = &self.subjects[number as usize];
        let basis = entry.basis(moment.now);
        let is_live = entry.is_live();
        let mut moves = Moves::new();
        for &signal_number in &entry.signals {
            let signal = &mut self.signals[signal_number as usize];
            // Only an age grows while no source counts.
            if !is_live && signal.kind != crate::SignalKind::Age {
                continue;
            }
            let before = signal.value;
            let after = signal.compute(basis);
            signal.value = after;
            let Some(after) = after else {
                continue;
            };
            let has_unresolved = moment.is_arrival && !signal.unresolved.is_empty();
            // While no source counts, rules keep what they know of an age, also over a restart after
            // which it is 0: the value that ends this concerns all of them.
            let is_end_of_silence = moment.is_back && signal.kind == crate::SignalKind::Age;
            let is_whole =
                before.is_none() || signal.kind == crate::SignalKind::State || is_end_of_silence;
            let range = Move::range(before, after, is_whole, signal.has_long);
            let passes = match (before, range) {
                (Some(before), _) if before == after && !is_whole => false,
                (_, range) => !super::is_in_gap(signal, range),
            };
            if passes || has_unresolved || moment.is_back && signal.complex.len() > 0 {
                moves.push(Move {
                    signal: signal_number,
                    before,
                    after,
                    range,
                    passes,
                });
            }
        }
        moves
    }
}
