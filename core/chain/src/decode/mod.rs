//! Log decoding: turns logs of tokens and revert data into typed events and reasons.
//!
//! The functions are pure and never panic, even on malformed logs. Events of other
//! contracts are decoded by their signatures in [`abi`](crate::abi).

mod revert;
mod token;
mod topic;
mod visible;

pub use revert::{CustomErrors, revert_reason};
pub use token::{MalformedLog, NftAmount, TokenEvent, decode};
pub use visible::visible_name;
