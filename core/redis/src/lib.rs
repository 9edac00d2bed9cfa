//! Connections to Redis, for the broker and the store.
//!
//! A connection is signed in, encrypted if its address says so, and leads to the master if sentinels
//! watch the server, or if it is one of a cluster. Pipelines of commands and their repetition are the
//! caller's. Scripts, keys and queues are those of the parts that use Redis.

pub mod address;
mod answers;
mod authority;
pub mod cluster;
pub mod connection;
pub mod error;
pub mod resp;
pub mod sentinels;
pub mod slots;
mod succession;
pub mod tls;

/// The key of the lease of the shared store. The field `term` names the term of its owner, by which
/// the broker tells which positions of personal channels are older.
#[must_use]
pub fn store_lease(prefix: &str) -> String {
    format!("{prefix}:{{store}}:lease")
}

pub use address::{NodeProtocol, RedisAddress, RedisOptions};
pub use cluster::Cluster;
pub use connection::RedisConnection;
pub use error::RedisError;
pub use resp::Reply;
pub use sentinels::Sentinels;
pub use slots::{ServerAddress, Slot, SlotMap};
pub use tls::{CertificateFiles, RedisTls};
