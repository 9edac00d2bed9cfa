//! Events and errors decoded by human-readable signatures.
//!
//! Signatures are parsed by alloy. Values are decoded here, straight into JSON, because
//! the bytes come from strangers: offsets may point many lists at the same words, so that
//! a few kilobytes unfold into gigabytes. What is decoded here never visits more than a
//! few times the words that are there.

mod error;
mod event;
mod shape;
mod value;

pub use error::ErrorAbi;
pub use event::{EventAbi, EventAbis};
pub use shape::{AbiError, MAX_SIGNATURE_BYTES};
