//! The chain engine: blocks that survive reorgs, transactions that settle, wallets.
//!
//! What is read of a chain becomes [`Step`]s: in order, without gaps, each with what a
//! reorg took back. Trackers turn steps into publications, and ask a node through
//! [`Reader`] for what a step does not hold.

pub mod abi;
mod archive;
mod block;
pub mod config;
pub mod decode;
mod desk;
pub mod endpoint;
mod engine;
mod error;
pub mod events;
mod following;
mod journal;
mod keeping;
mod kept;
mod listener;
pub mod proof;
mod provider;
mod publish;
mod reader;
pub mod transaction;
pub mod tree;
pub mod wallet;

pub use block::{BlockData, BlockRef, Step};
pub use config::{ChainConfig, ConfigError, EndpointConfig, Finality};
pub use engine::ChainEngine;
pub use error::ChainError;
pub use publish::{News, transaction_channel, wallet_channel};
pub use reader::{Call, ReadError, Reader};
