//! Logs and revert data as what they mean.
//!
//! Pure functions over bytes that anyone can write: whatever comes in, they never
//! panic. What a filter's own signatures say is decoded in [`abi`](crate::abi).

mod revert;
mod token;
mod topic;
mod word;

pub use revert::{CustomErrors, revert_reason};
pub use token::{MalformedLog, NftAmount, TokenEvent, decode};
pub(crate) use word::{address_word, word_at};
