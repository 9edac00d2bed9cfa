//! Outgoing notifications of one batch: those that are due at once share rows.
//!
//! A row costs a write, a place in the file and a removal, whatever it holds. A group of records is
//! handed over together, and its row removed when the hub has all of them. Summaries have rows of
//! their own, which are written again as they grow: once a batch, whatever their number of fires.

use std::collections::HashMap;

use prost::Message as _;
use tidewire_store::{Batch, Key};

use super::{record::OutgoingRecord, tables};

/// Records of one row.
const GROUP: usize = 128;

/// Bytes of events from which on a row takes no further record.
const GROUP_BYTES: usize = 64 << 10;

/// Outgoing notifications, in the order in which they are due.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    due: Vec<(Key, OutgoingRecord)>,
    summaries: HashMap<Key, OutgoingRecord>,
}

impl Outgoing {
    /// Adds a notification that is due at once.
    pub(crate) fn add(&mut self, key: Key, record: OutgoingRecord) {
        self.due.push((key, record));
    }

    /// Whether it has a summary.
    pub(crate) fn has_summary(&self, key: &Key) -> bool {
        self.summaries.contains_key(key)
    }

    /// Sets the newest form of a summary.
    pub(crate) fn set_summary(&mut self, key: Key, record: OutgoingRecord) {
        self.summaries.insert(key, record);
    }

    /// Puts the rows into a batch.
    pub(crate) fn stage(self, batch: &mut Batch) {
        let mut due = self.due.into_iter().peekable();
        while let Some((key, first)) = due.next() {
            let mut bytes = first.event.len();
            let mut group = vec![first];
            while group.len() < GROUP
                && bytes < GROUP_BYTES
                && let Some((_, next)) = due.next()
            {
                bytes += next.event.len();
                group.push(next);
            }
            let row = match &group[..] {
                [one] => one.encode_to_vec(),
                _ => {
                    let shared = OutgoingRecord {
                        group,
                        ..OutgoingRecord::default()
                    };
                    shared.encode_to_vec()
                }
            };
            batch.put(tables::OUTGOING, key, row);
        }
        for (key, summary) in self.summaries {
            batch.put(tables::OUTGOING, key, summary.encode_to_vec());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{id::Id, record::OutgoingKind};

    fn record(user: &str) -> OutgoingRecord {
        OutgoingRecord {
            user: user.to_owned(),
            ..OutgoingRecord::default()
        }
    }

    fn rows(outgoing: Outgoing) -> Vec<(Key, OutgoingRecord)> {
        let mut batch = Batch::new();
        outgoing.stage(&mut batch);
        let rows = batch.into_writes().into_iter().map(|write| match write {
            tidewire_store::Write::Put(_, key, row) => {
                (key, OutgoingRecord::decode(row.as_slice()).unwrap())
            }
            other => panic!("{other:?}"),
        });
        rows.collect()
    }

    #[test]
    fn records_share_rows_in_their_order() {
        let mut outgoing = Outgoing::default();
        for number in 0..=2 * GROUP as u64 {
            outgoing.add(tables::outgoing(7, Id(number)), record(&number.to_string()));
        }
        let rows = rows(outgoing);
        let firsts = [0, GROUP as u64, 2 * GROUP as u64];
        let keys: Vec<_> = rows.iter().map(|(key, _)| key.clone()).collect();
        assert_eq!(keys, firsts.map(|first| tables::outgoing(7, Id(first))));
        assert_eq!(rows[1].1.group.len(), GROUP);
        assert_eq!(rows[1].1.group[3].user, (GROUP + 3).to_string());
        assert_eq!(
            rows[2].1.user,
            (2 * GROUP).to_string(),
            "one needs no group"
        );
    }

    #[test]
    fn long_records_share_no_row() {
        let mut outgoing = Outgoing::default();
        for number in 0..3 {
            let event = vec![0; GROUP_BYTES / 2];
            let record = OutgoingRecord {
                event,
                ..record("ada")
            };
            outgoing.add(tables::outgoing(7, Id(number)), record);
        }
        let mut batch = Batch::new();
        outgoing.stage(&mut batch);
        assert_eq!(batch.writes().len(), 2);
    }

    #[test]
    fn a_summary_is_stored_in_its_newest_form() {
        let mut outgoing = Outgoing::default();
        let key = tables::outgoing(60_000, Id(1));
        for count in 1..=3 {
            let record = OutgoingRecord {
                kind: OutgoingKind::Summary.into(),
                count,
                ..record("ada")
            };
            outgoing.set_summary(key.clone(), record);
        }
        let rows = rows(outgoing);
        assert_eq!((rows.len(), rows[0].1.count), (1, 3));
    }
}
