//! Mempool: transactions that are not in a block, as the nodes of a chain report them.

mod listener;
mod pending;
mod poller;

pub(crate) use listener::MempoolListener;
pub(crate) use pending::{PendingTransactions, PendingWatch};
