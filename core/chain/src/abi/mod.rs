//! Contract ABI: decodes events and errors by human-readable signatures, straight into JSON.
//!
//! Alloy parses the signatures. Values are decoded here, because anyone can write the bytes:
//! offsets may point many lists at the same words, so that kilobytes unfold into gigabytes. The
//! decoder here visits each word at most four times on average, and gives up beyond.
//!
//! # Example
//! `event Transfer(address indexed from, address indexed to, uint256 value)` decodes a log into
//! `{"from":"0x…","to":"0x…","value":"5"}`.

mod abi_type;
mod error;
mod event;
mod value;
mod word;

pub use abi_type::{AbiError, MAX_SIGNATURE_BYTES};
pub use error::ErrorAbi;
pub use event::{EventAbi, EventAbis};
pub(crate) use word::{address_at, address_word, list_at, word_at};
