//! Memtable: the writes of one segment of the write-ahead log, sorted, as they will be in the file.
//!
//! A key that was written several times is here once. A removed range hides what the file has in
//! it. Writes after the removal are points, and count more than ranges.

use std::{collections::BTreeMap, ops::Bound};

use crate::{Batch, Key, Table, Value, Write};

/// Bytes of an entry beside its key and its value, about.
const ENTRY_BYTES: usize = 80;

/// Changes of one table.
#[derive(Debug, Default)]
pub(super) struct TableChanges {
    /// New values. None for a removed key.
    points: BTreeMap<Key, Option<Value>>,
    /// Removed ranges, from the key to before the value. They neither overlap nor touch.
    ranges: BTreeMap<Key, Key>,
}

impl TableChanges {
    /// New values and removed keys, in order.
    pub(super) fn points(&self) -> &BTreeMap<Key, Option<Value>> {
        &self.points
    }

    /// New values and removed keys from a key on.
    pub(super) fn points_from(
        &self,
        key: &[u8],
    ) -> impl DoubleEndedIterator<Item = (&Key, &Option<Value>)> {
        let range = (Bound::Included(key), Bound::Unbounded);
        self.points.range::<[u8], _>(range)
    }

    /// New values and removed keys up to a key.
    pub(super) fn points_up_to(
        &self,
        key: &[u8],
    ) -> impl DoubleEndedIterator<Item = (&Key, &Option<Value>)> {
        self.points.range::<[u8], _>(up_to(key))
    }

    /// Removed ranges, which were removed before the points were written.
    pub(super) fn ranges(&self) -> impl Iterator<Item = (&Key, &Key)> {
        self.ranges.iter()
    }

    /// Whether a removed range covers a key. A point with this key counts more.
    pub(super) fn covers(&self, key: &[u8]) -> bool {
        let before = self.ranges.range::<[u8], _>(up_to(key)).next_back();
        before.is_some_and(|(_, to)| key < to.as_slice())
    }

    /// The value of a key: `Some(None)` if it is removed, None if only the file knows.
    fn find(&self, key: &[u8]) -> Option<Option<&Value>> {
        match self.points.get(key) {
            Some(value) => Some(value.as_ref()),
            None => self.covers(key).then_some(None),
        }
    }

    fn remove_range(&mut self, mut from: Key, mut to: Key) {
        // Ranges that it touches become a part of it.
        while let Some((other, end)) = self
            .ranges
            .range(..=to.clone())
            .next_back()
            .filter(|(_, end)| **end >= from)
            .map(|(other, end)| (other.clone(), end.clone()))
        {
            self.ranges.remove(&other);
            from = from.min(other);
            to = to.max(end);
        }
        self.ranges.insert(from, to);
    }
}

fn up_to(key: &[u8]) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Unbounded, Bound::Included(key))
}

/// Changes of all tables.
#[derive(Debug, Default)]
pub(super) struct Memtable {
    /// There are some tens of tables.
    tables: Vec<(String, TableChanges)>,
    bytes: usize,
    /// Removed keys.
    removals: usize,
}

impl Memtable {
    /// Bytes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of removed keys. A scan passes those of its table.
    pub(super) fn removals(&self) -> usize {
        self.removals
    }

    pub(super) fn tables(&self) -> impl Iterator<Item = (&str, &TableChanges)> {
        let tables = self.tables.iter();
        tables.map(|(name, changes)| (name.as_str(), changes))
    }

    pub(super) fn table(&self, name: &str) -> Option<&TableChanges> {
        let mut tables = self.tables();
        tables
            .find(|(table, _)| *table == name)
            .map(|(_, changes)| changes)
    }

    fn table_mut(&mut self, name: &str) -> &mut TableChanges {
        let place = match self.tables.iter().position(|(table, _)| table == name) {
            Some(place) => place,
            None => {
                self.tables.push((name.to_owned(), TableChanges::default()));
                self.tables.len() - 1
            }
        };
        &mut self.tables[place].1
    }

    /// Applies the writes of a batch in their order.
    pub(super) fn apply(&mut self, batch: Batch) {
        for write in batch.into_writes() {
            match write {
                Write::Put(Table(name), key, value) => self.set(name, key, Some(value)),
                Write::Delete(Table(name), key) => self.set(name, key, None),
                Write::DeleteRange(Table(name), from, to) => self.remove_range(name, from, to),
            }
        }
    }

    /// Sets or removes a key.
    pub(super) fn set(&mut self, name: &str, key: Key, value: Option<Value>) {
        let len = value.as_ref().map_or(0, Vec::len);
        let added = key.len() + ENTRY_BYTES;
        self.removals += usize::from(value.is_none());
        match self.table_mut(name).points.insert(key, value) {
            Some(before) => {
                self.removals -= usize::from(before.is_none());
                self.bytes += len;
                self.bytes -= before.map_or(0, |before| before.len());
            }
            None => self.bytes += added + len,
        }
    }

    /// Removes the keys from `from` to before `to`.
    pub(super) fn remove_range(&mut self, name: &str, from: Key, to: Key) {
        if from >= to {
            return;
        }
        let changes = self.table_mut(name);
        let (mut freed, mut removals, ranges) = (0, 0, changes.ranges.len());
        let covered = changes.points.range(from.clone()..to.clone());
        let covered: Vec<_> = covered.map(|(key, _)| key.clone()).collect();
        for key in covered {
            let value = changes.points.remove(&key).flatten();
            removals += usize::from(value.is_none());
            freed += key.len() + ENTRY_BYTES + value.map_or(0, |value| value.len());
        }
        let len = from.len() + to.len() + ENTRY_BYTES;
        changes.remove_range(from, to);
        let is_added = changes.ranges.len() > ranges;
        self.removals -= removals;
        self.bytes = self.bytes.saturating_sub(freed) + if is_added { len } else { 0 };
    }

    /// The changes of these keys.
    pub(super) fn part_of_keys(&self, keys: &[(Table, Key)]) -> Self {
        let mut part = Self::default();
        for (Table(name), key) in keys {
            let found = self.table(name).and_then(|changes| changes.find(key));
            if let Some(value) = found {
                part.set(name, key.clone(), value.cloned());
            }
        }
        part
    }

    /// The changes of a table from `from` on, until there are `limit` values: a list of that
    /// length needs no more of them.
    pub(super) fn part_from(&self, name: &str, from: &[u8], prefix: &[u8], limit: usize) -> Self {
        let mut part = Self::default();
        let Some(changes) = self.table(name) else {
            return part;
        };
        part.table_mut(name).ranges = changes.ranges.clone();
        let mut values = 0;
        for (key, value) in changes.points_from(from) {
            if values >= limit || !key.starts_with(prefix) {
                break;
            }
            values += usize::from(value.is_some());
            part.set(name, key.clone(), value.clone());
        }
        part
    }

    /// The changes of a table at and before each of these keys, down to the first value of each.
    pub(super) fn part_below(&self, name: &str, keys: &[Key]) -> Self {
        let mut part = Self::default();
        let Some(changes) = self.table(name) else {
            return part;
        };
        part.table_mut(name).ranges = changes.ranges.clone();
        for key in keys {
            for (key, value) in changes.points_up_to(key).rev() {
                part.set(name, key.clone(), value.clone());
                if value.is_some() {
                    break;
                }
            }
        }
        part
    }

    /// The value of a key: `Some(None)` if it is removed, None if only the file knows.
    pub(super) fn find(&self, name: &str, key: &[u8]) -> Option<Option<&Value>> {
        self.table(name)?.find(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_are_one() {
        let mut table = Memtable::default();
        let mut remove = |from: u8, to: u8| table.remove_range("t", vec![from], vec![to]);
        for (from, to) in [(1, 3), (5, 7), (3, 4), (9, 9), (8, 2), (20, 30), (22, 25)] {
            remove(from, to);
        }
        let ranges = |table: &Memtable| -> Vec<(u8, u8)> {
            let ranges = table.table("t").unwrap().ranges();
            ranges.map(|(from, to)| (from[0], to[0])).collect()
        };
        assert_eq!(ranges(&table), [(1, 4), (5, 7), (20, 30)]);
        table.remove_range("t", vec![2], vec![21]);
        assert_eq!(ranges(&table), [(1, 30)]);
    }

    #[test]
    fn a_write_after_the_removal_of_its_range_stays() {
        let mut table = Memtable::default();
        let key = |byte: u8| vec![byte];
        table.set("t", key(1), Some(key(1)));
        table.set("t", key(2), Some(key(2)));
        let bytes = table.bytes();
        table.remove_range("t", key(2), key(5));
        table.set("t", key(3), Some(key(3)));
        assert_eq!(table.find("t", &key(1)), Some(Some(&key(1))));
        assert_eq!(table.find("t", &key(2)), Some(None));
        assert_eq!(table.find("t", &key(3)), Some(Some(&key(3))));
        assert_eq!(table.find("t", &key(5)), None);
        assert!(table.bytes() > bytes, "the range is counted");
    }

    #[test]
    fn a_key_that_is_written_again_takes_no_more_memory() {
        let mut table = Memtable::default();
        table.set("t", vec![1], Some(vec![0; 100]));
        let bytes = table.bytes();
        for _ in 0..100 {
            table.set("t", vec![1], Some(vec![0; 100]));
        }
        assert_eq!(table.bytes(), bytes);
        for _ in 0..2 {
            table.set("t", vec![1], None);
            assert_eq!((table.bytes(), table.removals()), (bytes - 100, 1));
        }
        table.remove_range("t", vec![1], vec![2]);
        assert_eq!(table.removals(), 0);
    }
}
