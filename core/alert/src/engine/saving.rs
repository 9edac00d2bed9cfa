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

/// States in one batch.
const STATES: usize = 4_096;

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
        let keys = changed.iter().map(|(id, _)| (tables::STATES, id.key()));
        let Some(before) = self.read(keys.collect(), cancel).await else {
            return Saved::Nothing;
        };
        let mut batch = Batch::new();
        for ((id, state), before) in changed.into_iter().zip(before) {
            let before = before.and_then(|before| StateRecord::decode(before.as_slice()).ok());
            let record = StateRecord {
                state,
                ..before.unwrap_or_default()
            };
            batch.put(tables::STATES, id.key(), record.encode_to_vec());
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
