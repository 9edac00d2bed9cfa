//! Write-ahead log: what was committed and is not in the file yet.
//!
//! Two log files take turns. A segment is what goes to one of them until a checkpoint begins. It
//! is a run of records, each the batches of one flush. While a checkpoint moves one segment to
//! the file, the next one grows in the other log.
//!
//! # Record
//! ```text
//! magic 4 │ length 4 │ store 8 │ segment 8 │ checksum 4 │ payload
//! ```
//! Numbers are little-endian. The checksum covers the place in the log, the header and the
//! payload. A log is written again from its beginning, so old records can follow new ones: their
//! segment tells. The first record that is not valid ends a segment. A record is written after
//! the flush of the one before it; so a valid record behind an invalid one means that the disk
//! has lost something, and the log is refused. Payloads come from strangers, and any of their bytes
//! can look like the beginning of a record: only those that bear the random number of the store,
//! which nobody is told, are worth a checksum.
//!
//! The first record of a segment has no payload. It is flushed before the file notes that it has the
//! segment before, or that the logs are needed; where it is missing, a log is missing, was emptied,
//! or is an old copy. Records that are missing at the end of a log cannot be told from a flush that
//! did not end.
//!
//! Space is written with zeros in steps before it is used. A flush then changes no property of
//! the log file, and costs one write to the disk.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use super::{file, memtable::Memtable};
use crate::{Batch, StoreError, Write};

/// Names of the log files in the data folder.
pub(super) const FILES: [&str; 2] = ["store.0.log", "store.1.log"];

/// First bytes of a record.
const MAGIC: [u8; 4] = *b"twLg";

/// Reason for which a log is refused whose file is of another place or time.
const FOREIGN: &str =
    "it belongs to another `store.redb`; a copy needs all files whose names begin with `store.`";

/// Bytes of a record before its payload.
const HEADER: usize = 28;

/// Bytes by which a log file grows at least.
const STEP: u64 = 1 << 20;

/// First bytes of the writes of a payload.
const TABLE: u8 = 0;
const PUT: u8 = 1;
const DELETE: u8 = 2;
const DELETE_RANGE: u8 = 3;

/// The log files. The writer alone uses them.
#[derive(Debug)]
pub(super) struct WriteAheadLog {
    files: [LogFile; 2],
    store: u64,
    segment: u64,
    /// Bytes of the segment.
    end: u64,
    record: Vec<u8>,
}

#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: File,
    len: u64,
}

/// Changes that the logs have of a store that was not closed.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub(super) changes: Memtable,
    /// The last segment with records. None if there is nothing to replay.
    pub(super) segment: Option<u64>,
}

impl WriteAheadLog {
    /// Opens the log files in this folder, and creates them where they are missing. `checkpoint`
    /// is the last segment that the file has; with `is_needed` a missing log is an error, since it
    /// may have had changes. Call [`start`](Self::start) before the first append.
    ///
    /// # Errors
    /// A log cannot be read, is damaged, is missing, or belongs to another store.
    pub(super) fn open(
        folder: &Path,
        store: u64,
        checkpoint: u64,
        is_needed: bool,
    ) -> Result<(Self, Replay), StoreError> {
        let open = |name: &str| {
            let path = folder.join(name);
            if is_needed
                && path
                    .symlink_metadata()
                    .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
            {
                let reason =
                    "it is missing, and may have had changes that `store.redb` does not have";
                return Err(StoreError::Corrupt(path, reason.to_owned()));
            }
            let opened = file::open_private(&path)
                .and_then(|file| file.metadata().map(|about| (file, about.len())));
            match opened {
                Ok((file, len)) => Ok(LogFile { path, file, len }),
                Err(error) => Err(StoreError::Unusable(path, error.to_string())),
            }
        };
        let log = Self {
            files: [open(FILES[0])?, open(FILES[1])?],
            store,
            segment: checkpoint,
            end: 0,
            record: Vec::new(),
        };
        // New files are lost with the machine until their folder is flushed.
        let flushed = File::open(folder).and_then(|folder| folder.sync_all());
        flushed.map_err(|error| StoreError::Unusable(folder.to_owned(), error.to_string()))?;
        let mut replay = Replay::default();
        for segment in [checkpoint + 1, checkpoint + 2] {
            let file = log.file(segment);
            let corrupt = |reason: &str| StoreError::Corrupt(file.path.clone(), reason.to_owned());
            let bytes = file.read().map_err(|error| {
                StoreError::Unusable(file.path.clone(), format!("it cannot be read: {error}"))
            })?;
            let mut place = 0;
            while let Some(record) = Record::read(&bytes, place) {
                if record.store != store || record.segment > checkpoint + 2 {
                    return Err(corrupt(FOREIGN));
                }
                if record.segment % 2 != segment % 2 {
                    return Err(corrupt(
                        "it has the records of the other log: their names are exchanged",
                    ));
                }
                if record.segment != segment {
                    break;
                }
                if replay.segment.is_none() && segment == checkpoint + 2 {
                    return Err(corrupt("the log before it is missing"));
                }
                replay_batches(record.payload, &mut replay.changes)
                    .ok_or_else(|| corrupt("a record of it cannot be read"))?;
                place += HEADER + record.payload.len();
            }
            match place {
                0 if is_needed && segment == checkpoint + 1 => {
                    return Err(corrupt(
                        "its beginning is missing, and with it changes that `store.redb` may not have",
                    ));
                }
                0 => {}
                _ => replay.segment = Some(segment),
            }
            let is_later = |place| Record::read(&bytes, place).is_some();
            if places_of(&bytes, place, store, segment).any(is_later) {
                return Err(corrupt("a record of it is damaged, and others follow"));
            }
        }
        Ok((log, replay))
    }

    /// Begins a segment, at the beginning of the other log, and waits for the flush of its first
    /// record.
    pub(super) fn start(&mut self, segment: u64) -> io::Result<()> {
        self.segment = segment;
        self.end = 0;
        self.append(std::iter::empty())
    }

    /// Bytes of the segment.
    pub(super) fn len(&self) -> u64 {
        self.end
    }

    /// Appends batches in their encoded form as one record, and waits for its flush.
    pub(super) fn append<'a>(&mut self, batches: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        let mut record = std::mem::take(&mut self.record);
        record.clear();
        record.resize(HEADER, 0);
        batches.for_each(|batch| record.extend_from_slice(batch));
        let len = u32::try_from(record.len() - HEADER)
            .map_err(|_| io::Error::other("a batch has more than 4 GiB"))?;
        record[..4].copy_from_slice(&MAGIC);
        record[4..8].copy_from_slice(&len.to_le_bytes());
        record[8..16].copy_from_slice(&self.store.to_le_bytes());
        record[16..24].copy_from_slice(&self.segment.to_le_bytes());
        let sum = checksum(self.end, &record[..24], &record[HEADER..]);
        record[24..HEADER].copy_from_slice(&sum.to_le_bytes());
        let (segment, place) = (self.segment, self.end);
        let file = self.file_mut(segment);
        file.reserve(place + record.len() as u64)?;
        file.file.write_all_at(&record, place)?;
        file.file.sync_data()?;
        self.end += record.len() as u64;
        self.record = record;
        // One large batch does not keep its memory.
        self.record.shrink_to(STEP as usize);
        Ok(())
    }

    /// Makes room for the first records of the segment, to learn whether the disk has some.
    pub(super) fn probe(&mut self) -> io::Result<()> {
        let segment = self.segment;
        let file = self.file_mut(segment);
        file.reserve(1)?;
        // The space may be there already, on a disk that refuses all writes.
        file.file.write_all_at(&[0], file.len - 1)?;
        file.file.sync_data()
    }

    /// Empties the logs: the file has all of their segments.
    pub(super) fn clear(&self) -> io::Result<()> {
        self.files.iter().try_for_each(|log| log.file.set_len(0))
    }

    fn file(&self, segment: u64) -> &LogFile {
        &self.files[(segment % 2) as usize]
    }

    fn file_mut(&mut self, segment: u64) -> &mut LogFile {
        &mut self.files[(segment % 2) as usize]
    }
}

impl LogFile {
    fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.len).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Extends the file with zeros so that it has `len` bytes at least.
    fn reserve(&mut self, len: u64) -> io::Result<()> {
        if len <= self.len {
            return Ok(());
        }
        let target = len.next_multiple_of(STEP);
        let zeros = vec![0; STEP as usize];
        while self.len < target {
            let part = STEP.min(target - self.len);
            self.file.write_all_at(&zeros[..part as usize], self.len)?;
            self.len += part;
        }
        Ok(())
    }
}

struct Record<'a> {
    store: u64,
    segment: u64,
    payload: &'a [u8],
}

impl<'a> Record<'a> {
    /// The record at a place. None if there is no valid one.
    fn read(log: &'a [u8], place: usize) -> Option<Self> {
        let (header, rest) = log.get(place..)?.split_at_checked(HEADER)?;
        let number = |from: usize| {
            let bytes = header[from..].first_chunk().copied();
            bytes.map(u64::from_le_bytes)
        };
        let small = |from: usize| {
            let bytes = header[from..].first_chunk().copied();
            bytes.map(u32::from_le_bytes)
        };
        let payload = rest.get(..usize::try_from(small(4)?).ok()?)?;
        let is_valid = header.starts_with(&MAGIC)
            && small(24)? == checksum(place as u64, &header[..24], payload);
        is_valid.then_some(Self {
            store: number(8)?,
            segment: number(16)?,
            payload,
        })
    }
}

fn checksum(place: u64, header: &[u8], payload: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&place.to_le_bytes());
    sum.update(header);
    sum.update(payload);
    sum.finalize()
}

/// The places from `from` on at which a record of this store and segment may begin.
fn places_of(log: &[u8], from: usize, store: u64, segment: u64) -> impl Iterator<Item = usize> {
    let mut owner = [0; 16];
    owner[..8].copy_from_slice(&store.to_le_bytes());
    owner[8..].copy_from_slice(&segment.to_le_bytes());
    let headers = log.get(from..).unwrap_or_default().windows(HEADER);
    let is_record = move |(place, header): (usize, &[u8])| {
        (header.starts_with(&MAGIC) && header[8..24] == owner).then_some(place)
    };
    headers
        .enumerate()
        .filter_map(is_record)
        .map(move |place| from + place)
}

/// Encodes the writes of a batch.
pub(super) fn encode(batch: &Batch) -> Vec<u8> {
    let writes = batch.writes().iter();
    let len = writes.clone().map(|write| match write {
        Write::Put(_, one, other) | Write::DeleteRange(_, one, other) => one.len() + other.len(),
        Write::Delete(_, key) => key.len(),
    });
    // The lengths of most keys and values take one or two bytes.
    let mut out = Vec::with_capacity(len.map(|len| len + 5).sum::<usize>() + 64);
    let mut current = None;
    for write in writes {
        let table = write.table();
        if current != Some(table) {
            out.push(TABLE);
            put_bytes(&mut out, table.0.as_bytes());
            current = Some(table);
        }
        match write {
            Write::Put(_, key, value) => {
                out.push(PUT);
                put_bytes(&mut out, key);
                put_bytes(&mut out, value);
            }
            Write::Delete(_, key) => {
                out.push(DELETE);
                put_bytes(&mut out, key);
            }
            Write::DeleteRange(_, from, to) => {
                out.push(DELETE_RANGE);
                put_bytes(&mut out, from);
                put_bytes(&mut out, to);
            }
        }
    }
    out
}

/// Appends bytes after their length, a number of 7 bits in each byte.
fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut len = bytes.len();
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend_from_slice(bytes);
}

fn take_bytes<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut len = 0_usize;
    for shift in (0..usize::BITS).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        len |= usize::from(byte & 0x7f).checked_shl(shift)?;
        if *byte < 0x80 {
            let (bytes, rest) = from.split_at_checked(len)?;
            *from = rest;
            return Some(bytes);
        }
    }
    None
}

/// Applies the encoded batches of a record. None if they cannot be read.
fn replay_batches(mut from: &[u8], changes: &mut Memtable) -> Option<()> {
    let mut table = "";
    while let Some((kind, rest)) = from.split_first() {
        from = rest;
        let first = take_bytes(&mut from)?;
        match *kind {
            TABLE => table = std::str::from_utf8(first).ok()?,
            PUT => {
                let value = take_bytes(&mut from)?;
                changes.set(table, first.to_vec(), Some(value.to_vec()));
            }
            DELETE => changes.set(table, first.to_vec(), None),
            DELETE_RANGE => {
                let to = take_bytes(&mut from)?;
                changes.remove_range(table, first.to_vec(), to.to_vec());
            }
            _ => return None,
        }
    }
    Some(())
}
