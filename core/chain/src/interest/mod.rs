//! Interest registry: the wallets, event filters and transactions that somebody follows, and
//! how long each is kept after its last follower left.
//!
//! [`InterestRegistry`] holds them by channel. [`RetentionMap`] decides when an idle item
//! expires, `links` knows which user owns which wallet, and [`WalletIndex`] is the set of
//! addresses that each block is matched against. The engine's methods are in
//! `engine/interest.rs`.

mod links;
mod registry;
mod retention;
mod wallet_index;
mod wallets;

pub(crate) use registry::{FilterSpec, InterestRegistry};
pub(crate) use retention::{InsertOutcome, RetentionMap, StoredItem};
pub use wallet_index::WalletIndex;
pub(crate) use wallets::{WalletInterest, WalletLookup};
