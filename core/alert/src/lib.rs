//! Alert engine: rules over prices, portfolios, gas and transactions.
//!
//! The core is pure: it does no I/O, and the caller supplies the time. A [`Rule`] is a checked
//! rule. The [`Evaluator`] judges rules as values arrive. It keeps one ordered index of
//! thresholds per signal, so that a value touches only the rules that it passes.

mod backtest;
mod catalog;
mod engine;
mod error;
mod evaluator;
mod explain;
mod index;
mod input;
mod key;
mod leaf;
mod limits;
mod output;
mod rule;
mod rule_state;
mod signal;
mod subject;
mod template;
mod window;

pub use backtest::Backtest;
pub use catalog::Catalog;
pub use engine::{
    AlertConfig, AlertEngine, AlertError, AlertSink, AlertStats, AlertTasks, EvaluationOutcome,
    STORE_TABLES, SharedCatalog, SinkError, SinkFuture, USER_TABLES,
};
pub use error::RuleError;
pub use evaluator::{Evaluator, EvaluatorConfig, EvaluatorCounters, OwnerId};
pub use explain::{Decision, Explanation};
pub use input::{Busy, Input, Now, Sources, Tick};
pub use limits::Limits;
pub use output::{Fire, Occasion, Output};
pub use rule::{Condition, Leaf, Repeat, Rule, SignalKind, Test};
pub use rule_state::{Phase, RuleState};
pub use rust_decimal::Decimal;
pub use subject::{Subject, SubjectId, SubjectValue};
pub use template::{Template, TemplateFields};
