//! Durable store: tables of keys and values, read by key or by prefix, written in atomic
//! batches.
//!
//! The engines choose the stored values and their keys; the composition root chooses the
//! implementation.

mod batch;
mod embedded;
mod error;
mod key_periods;
mod memory;
mod redis;

use std::{future::Future, pin::Pin, sync::Arc};

pub use batch::{Batch, Write};
pub use embedded::{EmbeddedStore, StoreOptions};
pub use error::StoreError;
pub use key_periods::KeyPeriods;
pub use memory::MemoryStore;
pub use redis::{
    Balance, BalancedShard, Candidacy, EngineLease, EngineTerm, Lease, Ownership, Prefer,
    Preference, RedisStore, RedisStoreOptions, StoreLease, Tenure, TenureChange,
};

/// Name of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Table(pub &'static str);

/// A key.
pub type Key = Vec<u8>;

/// A value.
pub type Value = Vec<u8>;

/// A future that a store returns.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A store shared by many parts.
pub type SharedStore = Arc<dyn Store>;

/// Store of values that must outlive the process.
pub trait Store: Send + Sync + 'static {
    /// Returns the value of a key.
    fn get(&self, table: Table, key: Key) -> StoreFuture<'_, Option<Value>>;

    /// Returns the values of many keys, in their order. One read serves all, so that an
    /// operation on many keys costs one hand-over to the disk's thread.
    fn get_many(&self, keys: Vec<(Table, Key)>) -> StoreFuture<'_, Vec<Option<Value>>>;

    /// Returns for each key the entry with the greatest key up to it, the key itself included,
    /// in the order of `keys`.
    fn get_floor(&self, table: Table, keys: Vec<Key>)
    -> StoreFuture<'_, Vec<Option<(Key, Value)>>>;

    /// Returns the entries whose keys begin with `prefix`, in the order of the keys, at most
    /// `limit`. With `after`, the entries after this key.
    fn scan(
        &self,
        table: Table,
        prefix: Key,
        after: Option<Key>,
        limit: usize,
    ) -> StoreFuture<'_, Vec<(Key, Value)>>;

    /// Writes a batch as a whole or not at all. After this the batch survives a crash of the
    /// process or the machine. Waits while the queue of batches is full.
    fn commit(&self, batch: Batch) -> StoreFuture<'_, ()>;

    /// Writes all that was committed to its place, and ends the store: later reads and commits fail.
    /// Commits survive without it; the next start is then a little longer.
    ///
    /// # Errors
    /// Something could not be written to its place.
    fn close(&self) -> StoreFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Whether no other process can have changed the store. If one can, answers from memory may be
    /// out of date.
    fn is_current(&self) -> bool {
        true
    }

    /// Whether nothing can be read or written any more, for good: the store is closed, or the term of
    /// a shared one is over. Work on it then ends, and is not tried again.
    fn has_ended(&self) -> bool {
        false
    }

    /// Why nothing can be read or written at present. None while the store works. A store that
    /// failed recovers by itself when it can be written again.
    fn failure(&self) -> Option<StoreError>;
}
