//! Interest registry: the followed wallets, event filters and transactions, and how long each
//! is retained after its last follower left.
//!
//! [`InterestRegistry`] holds them by channel. [`RetentionMap`] decides when an idle item
//! expires, and `links` knows the owner of each wallet. [`WalletIndex`] is the set of addresses
//! that each block is matched against. The engine's methods are in `engine/interest.rs`.

mod idle;
mod links;
mod registry;
mod retention;
mod wallet_index;
mod wallets;

pub(crate) use links::Links;
pub(crate) use registry::{FilterSpec, InterestRegistry};
pub(crate) use retention::{InsertOutcome, Retained, RetentionLimit, RetentionMap, StoredItem};
pub use wallet_index::WalletIndex;
pub(crate) use wallets::{WalletInterest, WalletLookup};
