//! Subject: the thing whose values rules test.

use rust_decimal::Decimal;
use tidewire_proto::v1::TransactionState;

use crate::{Now, Sources};

/// The thing whose values rules test.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// The price of a symbol, in its canonical form.
    Symbol(Box<str>),
    /// The gas price of a chain, in gwei.
    Gas(u64),
    /// A user's portfolio.
    Portfolio {
        /// The user.
        user: Box<str>,
        /// The portfolio's id.
        portfolio: Box<str>,
    },
    /// A transaction.
    Transaction {
        /// The chain's id.
        chain: u64,
        /// The hash, lower case with `0x`.
        hash: Box<str>,
    },
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Symbol(symbol) => f.write_str(symbol),
            Self::Gas(chain) => write!(f, "the gas price of chain {chain}"),
            Self::Portfolio { portfolio, .. } => write!(f, "the portfolio {portfolio:?}"),
            Self::Transaction { hash, .. } => write!(f, "the transaction {hash}"),
        }
    }
}

/// Number of a subject in one evaluator. It is valid as long as a rule is about the subject; that
/// of a symbol is valid for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubjectId(pub(crate) u32);

/// The last value of a subject, to be stored and restored.
#[derive(Debug, Clone, PartialEq)]
pub struct SubjectValue {
    /// The value: price, gwei, or portfolio value. For a transaction the number of its
    /// [`TransactionState`].
    pub value: Decimal,
    /// When it arrived.
    pub at: Now,
    /// When it was formed, in microseconds since the Unix epoch.
    pub formed_us: i64,
    /// Sources of the value.
    pub sources: Sources,
    /// Highest value, for drawdowns without a window.
    pub peak: Option<Decimal>,
    /// The currency of a portfolio.
    pub currency: Option<Box<str>>,
}

impl SubjectValue {
    /// The state of a transaction.
    #[must_use]
    pub fn transaction_state(&self) -> Option<TransactionState> {
        let number = i32::try_from(self.value).ok()?;
        TransactionState::try_from(number).ok()
    }
}

/// The public name of a transaction's state, for example `confirmed`.
pub(crate) fn state_name(state: TransactionState) -> String {
    let name = state.as_str_name();
    let name = name.strip_prefix("TRANSACTION_STATE_").unwrap_or(name);
    name.to_ascii_lowercase()
}
