//! Snapshot: the store at one moment, of the file and of the memtables above it.
//!
//! The memtable that is written changes with each flush. A snapshot therefore copies what the read
//! may need of it. The memtable of a running checkpoint no longer changes, and is shared.
//!
//! The file changes through checkpoints alone, and the memtable of one hides what it writes. A
//! snapshot is whole if no checkpoint began between its copy and its transaction.

use std::{iter::Peekable, sync::Arc};

use parking_lot::RwLock;
use redb::{ReadOnlyTable, ReadTransaction, ReadableDatabase as _, TableDefinition, TableError};

use super::{
    FileState, failed,
    memtable::{Memtable, TableChanges},
};
use crate::{Key, StoreError, Table, Value};

type Definition<'a> = TableDefinition<'a, &'static [u8], &'static [u8]>;
type ReadTable = ReadOnlyTable<&'static [u8], &'static [u8]>;
type Entry = (Key, Value);

pub(super) struct Snapshot {
    /// The newest changes, as far as the read may need them.
    newest: Memtable,
    /// Changes that a checkpoint moves to the file.
    frozen: Option<Arc<Memtable>>,
    transaction: ReadTransaction,
}

impl Snapshot {
    /// The store now. `part` copies what the read may need of the newest changes.
    pub(super) fn take(
        file: &RwLock<FileState>,
        part: impl Fn(&Memtable) -> Memtable,
    ) -> Result<Self, StoreError> {
        loop {
            let (database, newest, frozen, segment) = match &*file.read() {
                Ok(open) => (
                    open.database.clone(),
                    part(&open.newest),
                    open.frozen.clone(),
                    open.segment,
                ),
                Err(error) => return Err(error.clone()),
            };
            let transaction = database.begin_read().map_err(failed)?;
            match &*file.read() {
                Ok(open) if open.segment != segment => {}
                Ok(_) => {
                    return Ok(Self {
                        newest,
                        frozen,
                        transaction,
                    });
                }
                Err(error) => return Err(error.clone()),
            }
        }
    }

    pub(super) fn get_many(&self, keys: &[(Table, Key)]) -> Result<Vec<Option<Value>>, StoreError> {
        let mut tables: Vec<(Table, Option<ReadTable>)> = Vec::new();
        let mut found = Vec::with_capacity(keys.len());
        for (name, key) in keys {
            let in_memory = self.newest.find(name.0, key);
            let in_memory = in_memory.or_else(|| self.frozen.as_ref()?.find(name.0, key));
            if let Some(value) = in_memory {
                found.push(value.cloned());
                continue;
            }
            let place = match tables.iter().position(|(opened, _)| opened == name) {
                Some(place) => place,
                None => {
                    tables.push((*name, self.open_table(*name)?));
                    tables.len() - 1
                }
            };
            found.push(match &tables[place].1 {
                Some(table) => {
                    let value = table.get(key.as_slice()).map_err(failed)?;
                    value.map(|value| value.value().to_vec())
                }
                None => None,
            });
        }
        Ok(found)
    }

    pub(super) fn get_floor(
        &self,
        name: Table,
        keys: Vec<Key>,
    ) -> Result<Vec<Option<Entry>>, StoreError> {
        let table = self.open_table(name)?;
        let floor = |key: Key| {
            let layers = self.layers(name).map(|changes| Layer {
                changes,
                entries: boxed(changes.points_up_to(&key).rev()),
            });
            let base: Entries<'_> = match &table {
                Some(table) => {
                    let range = table.range(..=key.as_slice()).map_err(failed)?;
                    Box::new(range.rev().map(owned))
                }
                None => Box::new(std::iter::empty()),
            };
            let mut merge = Merge {
                layers: layers.collect(),
                base: base.peekable(),
                is_descending: true,
            };
            merge.next_entry()
        };
        keys.into_iter().map(floor).collect()
    }

    pub(super) fn scan(
        &self,
        name: Table,
        from: &[u8],
        prefix: &[u8],
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let layers = self.layers(name).map(|changes| Layer {
            changes,
            entries: boxed(changes.points_from(from)),
        });
        let table = self.open_table(name)?;
        let base: Entries<'_> = match &table {
            Some(table) => {
                let range = table.range(from..).map_err(failed)?;
                Box::new(range.map(owned))
            }
            None => Box::new(std::iter::empty()),
        };
        let mut merge = Merge {
            layers: layers.collect(),
            base: base.peekable(),
            is_descending: false,
        };
        let mut found = Vec::new();
        while found.len() < limit
            && let Some(entry) = merge.next_entry()?
            && entry.0.starts_with(prefix)
        {
            found.push(entry);
        }
        Ok(found)
    }

    /// The changes of a table, newest first.
    fn layers(&self, name: Table) -> impl Iterator<Item = &TableChanges> {
        let tables = [Some(&self.newest), self.frozen.as_deref()];
        let tables = tables.into_iter().flatten();
        tables.filter_map(move |table| table.table(name.0))
    }

    /// Opens a table of the file. None if nothing was ever written to it.
    fn open_table(&self, table: Table) -> Result<Option<ReadTable>, StoreError> {
        match self.transaction.open_table(Definition::new(table.0)) {
            Ok(table) => Ok(Some(table)),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }
}

/// Entries of the file.
type Entries<'a> = Box<dyn Iterator<Item = Result<Entry, StoreError>> + 'a>;

/// Entries of a memtable.
type Points<'a> = Box<dyn Iterator<Item = (&'a Key, &'a Option<Value>)> + 'a>;

fn boxed<'a>(
    points: impl Iterator<Item = (&'a Key, &'a Option<Value>)> + 'a,
) -> Peekable<Points<'a>> {
    let points: Points<'a> = Box::new(points);
    points.peekable()
}

type Guard<'a> = redb::AccessGuard<'a, &'static [u8]>;

fn owned(entry: Result<(Guard<'_>, Guard<'_>), redb::StorageError>) -> Result<Entry, StoreError> {
    let (key, value) = entry.map_err(failed)?;
    Ok((key.value().to_vec(), value.value().to_vec()))
}

/// Changes of a table, in the order of the merge.
struct Layer<'a> {
    changes: &'a TableChanges,
    entries: Peekable<Points<'a>>,
}

/// Merge of the changes of a table and of its entries in the file.
struct Merge<'a> {
    /// Newest first.
    layers: Vec<Layer<'a>>,
    base: Peekable<Entries<'a>>,
    is_descending: bool,
}

impl Merge<'_> {
    /// The next entry that was not removed.
    fn next_entry(&mut self) -> Result<Option<Entry>, StoreError> {
        loop {
            let is_descending = self.is_descending;
            let is_before = |one: &[u8], other: &[u8]| match is_descending {
                true => one > other,
                false => one < other,
            };
            // The layer of the next key. The number of layers stands for the file.
            let mut next: Option<(usize, Key)> = None;
            for (place, layer) in self.layers.iter_mut().enumerate() {
                if let Some((key, _)) = layer.entries.peek()
                    && next.as_ref().is_none_or(|(_, first)| is_before(key, first))
                {
                    next = Some((place, (*key).clone()));
                }
            }
            let file = self.layers.len();
            match self.base.peek() {
                Some(Ok((key, _)))
                    if next.as_ref().is_none_or(|(_, first)| is_before(key, first)) =>
                {
                    next = Some((file, key.clone()));
                }
                Some(Err(error)) => return Err(error.clone()),
                _ => {}
            }
            let Some((place, key)) = next else {
                return Ok(None);
            };
            let mut value = None;
            for (other, layer) in self.layers.iter_mut().enumerate() {
                let entry = layer.entries.next_if(|(found, _)| **found == key);
                if let Some((_, found)) = entry.filter(|_| other == place) {
                    value.clone_from(found);
                }
            }
            let is_same =
                |entry: &Result<Entry, _>| entry.as_ref().is_ok_and(|(found, _)| *found == key);
            if let Some(Ok((_, found))) = self.base.next_if(is_same)
                && place == file
            {
                value = Some(found);
            }
            let newer = &self.layers[..place];
            let is_removed = newer.iter().any(|layer| layer.changes.covers(&key));
            if let Some(value) = value.filter(|_| !is_removed) {
                return Ok(Some((key, value)));
            }
        }
    }
}
