//! Error of a rule: the field and what was expected.

/// Why a rule is refused. Refused rules are never stored, so evaluation has no errors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct RuleError {
    /// The field in the JSON form, for example `condition.all[1].threshold`.
    pub field: String,
    /// The fault, and what was expected.
    pub problem: String,
}

impl RuleError {
    /// An error about a field.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
        }
    }
}
