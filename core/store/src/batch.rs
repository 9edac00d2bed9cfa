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
pub struct Batch {
    writes: Vec<Write>,
    is_urgent: bool,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the value of a key.
    pub fn put(&mut self, table: Table, key: impl Into<Key>, value: impl Into<Value>) {
        self.writes
            .push(Write::Put(table, key.into(), value.into()));
    }

    /// Removes a key.
    pub fn delete(&mut self, table: Table, key: impl Into<Key>) {
        self.writes.push(Write::Delete(table, key.into()));
    }

    /// Removes all keys from `from` to before `to`.
    pub fn delete_range(&mut self, table: Table, from: impl Into<Key>, to: impl Into<Key>) {
        self.writes
            .push(Write::DeleteRange(table, from.into(), to.into()));
    }

    /// Appends the writes of another batch.
    pub fn extend(&mut self, other: Self) {
        self.writes.extend(other.writes);
        self.is_urgent |= other.is_urgent;
    }

    /// Lets the batch be written before others that wait. It must not write a key that one of these
    /// writes.
    pub fn mark_urgent(&mut self) {
        self.is_urgent = true;
    }

    /// Whether the batch is written before others that wait.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        self.is_urgent
    }

    /// Whether the batch is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Takes the writes, in their order.
    #[must_use]
    pub fn into_writes(self) -> Vec<Write> {
        self.writes
    }

    /// The writes, in their order.
    #[must_use]
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }
}
