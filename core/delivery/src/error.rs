//! Errors of configuration and input.

/// A value that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}`: {problem}")]
pub struct DeliveryError {
    /// The key of the configuration, or the field of the request.
    pub field: String,
    /// The value that was found and the one that was expected. It holds no secret.
    pub problem: String,
}

impl DeliveryError {
    pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
        }
    }
}
