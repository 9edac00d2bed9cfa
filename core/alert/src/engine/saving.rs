//! Saving: last values, and states that changed without a fire, about once a second.
//!
//! A value is stored after the fires that it caused: if it were stored before them, a crash in
//! between would lose them, because a restarted server compares with the stored value. Values and
//! states that wait for nothing are stored at once, however many fires of others wait.

use prost::Message as _;
use tidewire_store::Batch;
use tokio_util::sync::CancellationToken;

use super::{
    record::{StateRecord, ValueRecord},
    tables,
    writer::Writer,
};

/// Last values in one batch.
const VALUES: usize = 10_000;

/// States in one batch: a fire waits for it.
const STATES: usize = 1_024;

/// Result of a save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Saved {
    /// All that may be stored is stored.
    All,
    /// More can be stored at once.
    Part,
    /// The store failed, and the task ends.
    Nothing,
}

impl Writer {
    /// Stores a part of what changed.
    pub(super) async fn save_part(&mut self, cancel: &CancellationToken) -> Saved {
        let now = self.shared.clocks.now();
        let (changed, values, has_more) = {
            let mut judge = self.shared.judge.lock();
            let (changed, has_more) = judge.settled_states(STATES, now);
            let stored = judge.stored();
            let values = judge.evaluator.settled_values(VALUES, stored);
            let has_more = has_more || values.len() == VALUES;
            (changed, values, has_more)
        };
        if changed.is_empty() && values.is_empty() {
            self.evaluations.note_save();
            return Saved::All;
        }
        let known = changed.iter().filter(|one| one.has_history);
        let keys: Vec<_> = known.map(|one| (tables::STATES, one.id.key())).collect();
        let mut before = Vec::new().into_iter();
        if !keys.is_empty() {
            match self.read(keys, cancel).await {
                Some(rows) => before = rows.into_iter(),
                None => return Saved::Nothing,
            }
        }
        let mut batch = Batch::new();
        for one in changed {
            let row = one.has_history.then(|| before.next()).flatten();
            let row = row.flatten();
            let before = row.and_then(|row| StateRecord::decode(row.as_slice()).ok());
            let record = StateRecord {
                state: one.state,
                ..before.unwrap_or_default()
            };
            batch.put(tables::STATES, one.id.key(), record.encode_to_vec());
        }
        for (subject, value) in &values {
            batch.put(tables::VALUES, tables::subject(subject), {
                ValueRecord::of(value).encode_to_vec()
            });
        }
        batch.mark_urgent();
        if !self.commit(&batch, cancel).await {
            return Saved::Nothing;
        }
        if has_more {
            return Saved::Part;
        }
        self.evaluations.note_save();
        Saved::All
    }
}
