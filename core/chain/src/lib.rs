//! The chain engine: blocks that survive reorgs, transactions that settle, wallets.
//!
//! What is read of a chain becomes [`Step`]s: in order, without gaps, each with what a
//! reorg took back. Trackers turn steps into publications, and ask a node through
//! [`Reader`] for what a step does not hold.

mod archive;
mod block;
pub mod config;
pub mod endpoint;
mod engine;
mod error;
mod journal;
mod listener;
mod reader;
pub mod tree;

pub use block::{BlockData, BlockRef, Step};
pub use config::{ChainConfig, ConfigError, Finality};
pub use engine::ChainEngine;
pub use error::ChainError;
pub use reader::{Call, ReadError, Reader};
