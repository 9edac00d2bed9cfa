//! Errors of the engine's methods.

use tidewire_proto::v1::ErrorCode;
use tidewire_store::StoreError;
use tidewire_stream::StreamError;

use crate::RuleError;

/// Why the engine refuses a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AlertError {
    /// A field of the request is refused.
    #[error("`{field}`: {problem}")]
    Invalid {
        /// Path of the field, as in `rule.condition.threshold`.
        field: String,
        /// The fault, and what was expected.
        problem: String,
    },
    /// The user has no rule with this id.
    #[error("there is no alert {0:?}: it was deleted, or never existed")]
    NotFound(String),
    /// The user registered another rule under the idempotency key.
    #[error(
        "the idempotency key {0:?} was used with another rule, expected the same rule or a new key"
    )]
    KeyReuse(String),
    /// The user has too many rules.
    #[error(
        "the user has {0} alerts, expected at most {0}: delete one first, or raise `alerts.rules_per_user`"
    )]
    TooManyRules(usize),
    /// Too many requests wait.
    #[error("too many requests about alerts wait, try again")]
    Overloaded,
    /// The store cannot be read or written at present. A change whose flush failed may be stored all
    /// the same; then the rule is judged as it is stored.
    #[error("alerts are unavailable, try again: {0}")]
    Unavailable(#[from] StoreError),
    /// The store did not answer in time.
    #[error(
        "the store of alerts did not answer within {0:?}: a change may still be made, list the alerts before you repeat it"
    )]
    Late(std::time::Duration),
    /// A task of the engine panicked.
    #[error("alerts are unavailable until the server is restarted: {0}")]
    Broken(String),
    /// The engine has ended.
    #[error("alerts are unavailable: the server is about to stop")]
    Stopped,
    /// A stored record cannot be read.
    #[error("the stored {0} is damaged: put a copy of the store back")]
    Damaged(&'static str),
}

impl AlertError {
    /// An error about one field of the request.
    pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            problem: problem.into(),
        }
    }

    /// The kind of error on the wire.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid { .. } => ErrorCode::InvalidArgument,
            Self::NotFound(_) => ErrorCode::NotFound,
            Self::KeyReuse(_) => ErrorCode::FailedPrecondition,
            Self::TooManyRules(_) | Self::Overloaded => ErrorCode::ResourceExhausted,
            Self::Unavailable(_) | Self::Late(_) | Self::Broken(_) | Self::Stopped => {
                ErrorCode::Unavailable
            }
            Self::Damaged(_) => ErrorCode::Internal,
        }
    }

    /// The same error about a field of `outer`.
    #[must_use]
    pub fn within(self, outer: &str) -> Self {
        match self {
            Self::Invalid { field, problem } => Self::Invalid {
                field: format!("{outer}.{field}"),
                problem,
            },
            other => other,
        }
    }
}

impl From<RuleError> for AlertError {
    fn from(error: RuleError) -> Self {
        Self::Invalid {
            field: error.field,
            problem: error.problem,
        }
    }
}

impl From<AlertError> for StreamError {
    fn from(error: AlertError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}
