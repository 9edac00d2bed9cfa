//! Batches: writes that are applied together or not at all.

use crate::{Key, Table, Value};

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets the value of a key.
    Put(Table, Key, Value),
    /// Removes a key.
    Delete(Table, Key),
    /// Removes all keys from the first to before the second.
    DeleteRange(Table, Key, Key),
}

impl Write {
    /// The table that the write changes.
    #[must_use]
    pub fn table(&self) -> Table {
        match self {
            Self::Put(table, ..) | Self::Delete(table, _) | Self::DeleteRange(table, ..) => *table,
        }
    }
}

/// Writes that are applied together, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch(Vec<Write>);

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the value of a key.
    pub fn put(&mut self, table: Table, key: impl Into<Key>, value: impl Into<Value>) {
        self.0.push(Write::Put(table, key.into(), value.into()));
    }

    /// Removes a key.
    pub fn delete(&mut self, table: Table, key: impl Into<Key>) {
        self.0.push(Write::Delete(table, key.into()));
    }

    /// Removes all keys from `from` to before `to`.
    pub fn delete_range(&mut self, table: Table, from: impl Into<Key>, to: impl Into<Key>) {
        self.0
            .push(Write::DeleteRange(table, from.into(), to.into()));
    }

    /// Appends the writes of another batch.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Whether the batch is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The writes, in their order.
    #[must_use]
    pub fn writes(&self) -> &[Write] {
        &self.0
    }
}
