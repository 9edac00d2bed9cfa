//! Checkpoint: moves the changes of a segment from memory to the file.
//!
//! The writes are those of many flushes, sorted: a row that was written many times is written
//! once, and rows that are neighbours change one page. A checkpoint is a few transactions of a
//! bounded size, so that flushes of the log between them find the disk free. The last one notes
//! the segment. After a crash before that the whole segment is applied again, which has the same
//! result.

use redb::{Database, TableDefinition};

use super::{failed, file, memtable::Memtable};
use crate::StoreError;

/// Bytes of a transaction from which on the next one begins.
const PART_BYTES: usize = 1 << 20;

/// Bytes that a write counts beside its key and its value: it may change a page of its own.
const WRITE_BYTES: usize = 1 << 10;

type Definition<'a> = TableDefinition<'a, &'static [u8], &'static [u8]>;

/// Applies changes to the file, then notes that it has this segment, and whether the logs are
/// needed for a later one.
pub(super) fn write(
    database: &Database,
    changes: &Memtable,
    segment: u64,
    needs_logs: bool,
) -> Result<(), StoreError> {
    file::catch(|| {
        let mut transaction = database.begin_write().map_err(failed)?;
        let mut bytes = 0;
        for (name, changes) in changes.tables() {
            let mut points = changes.points().iter();
            let mut ranges = changes.ranges();
            let mut is_done = false;
            while !is_done {
                if bytes >= PART_BYTES {
                    transaction.commit().map_err(failed)?;
                    transaction = database.begin_write().map_err(failed)?;
                    bytes = 0;
                }
                let mut table = transaction
                    .open_table(Definition::new(name))
                    .map_err(failed)?;
                // Ranges were removed before the points were written.
                for (from, to) in ranges.by_ref() {
                    table
                        .retain_in(from.as_slice()..to.as_slice(), |_, _| false)
                        .map_err(failed)?;
                }
                while !is_done && bytes < PART_BYTES {
                    let Some((key, value)) = points.next() else {
                        is_done = true;
                        continue;
                    };
                    let len = match value {
                        Some(value) => {
                            table
                                .insert(key.as_slice(), value.as_slice())
                                .map_err(failed)?;
                            value.len()
                        }
                        None => {
                            table.remove(key.as_slice()).map_err(failed)?;
                            0
                        }
                    };
                    bytes += key.len() + len + WRITE_BYTES;
                }
            }
        }
        file::note_checkpoint(&transaction, segment, needs_logs)?;
        transaction.commit().map_err(failed)
    })
}
