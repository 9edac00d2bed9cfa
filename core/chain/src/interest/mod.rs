//! Interest registry: the wallets, event filters and transactions that somebody follows, and
//! for how long they stay after the last follower left.

mod links;
mod registry;
mod retention;
mod wallet_index;
mod wallets;

pub(crate) use registry::{FilterSpec, InterestRegistry};
pub(crate) use retention::{InsertOutcome, RetentionMap, StoredItem};
pub use wallet_index::WalletIndex;
pub(crate) use wallets::{WalletInterest, WalletLookup};
