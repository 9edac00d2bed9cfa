//! Memory store: the same tables without a file, for tests and benchmarks of engines.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::RwLock;

use crate::{Batch, Key, Store, StoreError, StoreFuture, Table, Value, Write};

type Tables = HashMap<Table, BTreeMap<Key, Value>>;

/// A store that ends with the process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    tables: RwLock<Tables>,
    is_failing: AtomicBool,
    has_ended: AtomicBool,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets all commits fail from now on, as on a full disk. Reads still succeed.
    pub fn fail_commits(&self) {
        self.is_failing.store(true, Ordering::Release);
    }

    /// Lets commits succeed again.
    pub fn accept_commits(&self) {
        self.is_failing.store(false, Ordering::Release);
    }

    /// Lets all commits fail for good, as after the term of a shared store.
    pub fn end(&self) {
        self.has_ended.store(true, Ordering::Release);
    }

    /// Number of entries in a table.
    #[must_use]
    pub fn len(&self, table: Table) -> usize {
        self.tables.read().get(&table).map_or(0, BTreeMap::len)
    }

    fn read<T: Send + 'static>(&self, read: impl FnOnce(&Tables) -> T) -> StoreFuture<'static, T> {
        let value = read(&self.tables.read());
        Box::pin(std::future::ready(Ok(value)))
    }

    fn refusal(&self) -> Option<StoreError> {
        if self.has_ended() {
            return Some(StoreError::TakenOver);
        }
        let is_failing = self.is_failing.load(Ordering::Acquire);
        is_failing.then(|| StoreError::Failed("commits are set to fail".to_owned()))
    }
}

impl Store for MemoryStore {
    fn get(&self, table: Table, key: Key) -> StoreFuture<'_, Option<Value>> {
        self.read(|tables| tables.get(&table)?.get(&key).cloned())
    }

    fn get_many(&self, keys: Vec<(Table, Key)>) -> StoreFuture<'_, Vec<Option<Value>>> {
        self.read(|tables| {
            let get = |(table, key): (Table, Key)| tables.get(&table)?.get(&key).cloned();
            keys.into_iter().map(get).collect()
        })
    }

    fn get_floor(
        &self,
        table: Table,
        keys: Vec<Key>,
    ) -> StoreFuture<'_, Vec<Option<(Key, Value)>>> {
        self.read(|tables| {
            let floor = |key: Key| {
                let (key, value) = tables.get(&table)?.range(..=key).next_back()?;
                Some((key.clone(), value.clone()))
            };
            keys.into_iter().map(floor).collect()
        })
    }

    fn scan(
        &self,
        table: Table,
        prefix: Key,
        after: Option<Key>,
        limit: usize,
    ) -> StoreFuture<'_, Vec<(Key, Value)>> {
        self.read(|tables| {
            let from = match after {
                Some(after) if after >= prefix => Bound::Excluded(after),
                _ => Bound::Included(prefix.clone()),
            };
            let entries = tables.get(&table).into_iter();
            entries
                .flat_map(|entries| entries.range((from.clone(), Bound::Unbounded)))
                .take_while(|(key, _)| key.starts_with(&prefix))
                .take(limit)
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        })
    }

    fn commit(&self, batch: Batch) -> StoreFuture<'_, ()> {
        let refusal = self.refusal().filter(|_| !batch.is_empty());
        if let Some(error) = refusal {
            return Box::pin(std::future::ready(Err(error)));
        }
        let mut tables = self.tables.write();
        for write in batch.writes() {
            let table = tables.entry(write.table()).or_default();
            match write {
                Write::Put(_, key, value) => drop(table.insert(key.clone(), value.clone())),
                Write::Delete(_, key) => drop(table.remove(key)),
                Write::DeleteRange(_, from, to) => {
                    let range = table.range(from.clone()..to.clone());
                    let keys: Vec<_> = range.map(|(key, _)| key.clone()).collect();
                    for key in keys {
                        table.remove(&key);
                    }
                }
            }
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    fn failure(&self) -> Option<StoreError> {
        self.refusal()
    }
}
