//! Backtest: one rule, judged by the same evaluator over supplied values.

use crate::{
    Busy, Evaluator, EvaluatorConfig, Fire, Input, Now, Output, Rule, RuleError, RuleState, Subject,
};

/// Milliseconds before the first value on the backtest's monotonic clock.
const START_MS: u64 = 1;

/// Deadlines between two values that are judged. Beyond them time moves to the next value at once.
const MOST_DEADLINES: usize = 10_000;

/// Deadlines of a whole backtest, each counted once for each number that the rule tests.
const ALL_DEADLINES: usize = 500_000;

/// A backtest of one rule. Time passes as the values say: both clocks follow their timestamps.
#[derive(Debug)]
pub struct Backtest {
    evaluator: Evaluator,
    rule: Rule,
    start_ms: Option<i64>,
    last_ms: i64,
    /// Deadlines that may still be judged.
    deadlines_left: usize,
    stopped_at_ms: Option<i64>,
}

impl Backtest {
    /// Begins a backtest. The rule is judged as if it had been registered at the first value.
    ///
    /// # Errors
    /// The rule cannot be judged, see [`Evaluator::insert`].
    pub fn new(rule: &Rule) -> Result<Self, RuleError> {
        let evaluator = Evaluator::new(EvaluatorConfig::default());
        evaluator.admit(rule)?;
        Ok(Self {
            evaluator,
            rule: rule.clone(),
            start_ms: None,
            last_ms: i64::MIN,
            deadlines_left: ALL_DEADLINES,
            stopped_at_ms: None,
        })
    }

    /// Applies a value of the past, and returns the fires until then. `at_ms` is in milliseconds
    /// since the Unix epoch.
    ///
    /// # Errors
    /// The times are not in order.
    pub fn apply(
        &mut self,
        subject: &Subject,
        input: Input,
        at_ms: i64,
    ) -> Result<Vec<Fire>, RuleError> {
        if at_ms < self.last_ms {
            let problem = format!("{at_ms} after {}, expected times in order", self.last_ms);
            return Err(RuleError::new("timestamp", problem));
        }
        self.last_ms = at_ms;
        let start_ms = *self.start_ms.get_or_insert(at_ms);
        let now = now(start_ms, at_ms);
        if self.evaluator.counters().rules == 0 {
            self.evaluator
                .insert(0, &self.rule, RuleState::new(), now)?;
        }
        let mut fires = Vec::new();
        for _ in 0..MOST_DEADLINES {
            if self.deadlines_left == 0 {
                let problem = format!(
                    "the windows end {ALL_DEADLINES} times before this price, expected fewer prices or longer windows"
                );
                return Err(RuleError::new("prices", problem));
            }
            let due_ms = self.evaluator.next_deadline();
            let Some(due_ms) = due_ms.filter(|due_ms| *due_ms < now.monotonic_ms) else {
                break;
            };
            let numbers = self.evaluator.counters().signals.max(1);
            self.deadlines_left = self.deadlines_left.saturating_sub(numbers);
            let due_ms = i64::try_from(due_ms.saturating_sub(START_MS)).unwrap_or(i64::MAX);
            self.evaluator
                .advance(self::now(start_ms, start_ms.saturating_add(due_ms)));
            self.poll(&mut fires);
        }
        let id = self.evaluator.intern(subject);
        if self.evaluator.apply(id, input, now) == Err(Busy(id)) {
            // One rule never fills a queue, and it was polled after each value.
            return Err(RuleError::new(
                "prices",
                "too many values at once, expected fewer",
            ));
        }
        self.poll(&mut fires);
        Ok(fires)
    }

    fn poll(&mut self, fires: &mut Vec<Fire>) {
        let mut outputs = Vec::new();
        while self.evaluator.poll(usize::MAX, &mut outputs) {}
        for output in outputs {
            match output {
                Output::Fire(fire) => fires.push(fire),
                Output::Stop { at, .. } => self.stopped_at_ms = Some(at.wall_ms),
                _ => {}
            }
        }
    }

    /// When the rule fired too often and was stopped, in milliseconds since the Unix epoch. Nothing
    /// fires after it.
    #[must_use]
    pub const fn stopped_at_ms(&self) -> Option<i64> {
        self.stopped_at_ms
    }
}

fn now(start_ms: i64, at_ms: i64) -> Now {
    Now {
        wall_ms: at_ms,
        monotonic_ms: START_MS + at_ms.saturating_sub(start_ms).max(0).unsigned_abs(),
    }
}
