//! The durable store: keys and values in tables, read by key or by prefix, written in
//! batches that happen as a whole or not at all.
//!
//! What is kept, and under which keys, is the business of the engines; which
//! implementation they get is the composition root's.

mod batch;
mod embedded;
mod error;

use std::{future::Future, pin::Pin, sync::Arc};

pub use batch::{Batch, Write};
pub use embedded::EmbeddedStore;
pub use error::StoreError;

/// A table's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Table(pub &'static str);

/// A key.
pub type Key = Vec<u8>;

/// A value.
pub type Value = Vec<u8>;

/// A future that a store returns.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A store that many parts share.
pub type SharedStore = Arc<dyn Store>;

/// Keeps what must outlive the process.
pub trait Store: Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, table: Table, key: Key) -> StoreFuture<'_, Option<Value>>;

    /// The first entries whose keys begin with `prefix`, in the order of their keys, at
    /// most `limit`. With `after`, those that come after this key.
    fn scan(
        &self,
        table: Table,
        prefix: Key,
        after: Option<Key>,
        limit: usize,
    ) -> StoreFuture<'_, Vec<(Key, Value)>>;

    /// Writes all of a batch, or nothing of it. When this is done, the batch outlives
    /// the process and the machine. Waits while too many batches are under way.
    fn commit(&self, batch: Batch) -> StoreFuture<'_, ()>;
}
