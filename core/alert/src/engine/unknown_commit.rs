//! Unknown commit: whether the changes of a commit that failed are stored.
//!
//! A flush that fails may have written its batch all the same. Only the store knows, once it works
//! again. Until then the rules of the batch are *unsettled*: their stored rows may differ from what
//! is judged, so that nothing is answered about them. The writer reads one row of the batch, which
//! was written as a whole or not at all, and applies the changes if they are there.
//!
//! Example: the flush of a registration fails, and the request returns `unavailable`. The store
//! opens again, and has the rule. From now on the rule is judged, and a repetition of the request
//! under its idempotency key returns it.

use std::collections::HashSet;

use prost::Message as _;
use tidewire_proto::v1::AlertRule;
use tidewire_store::{Key, Table, Value};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    answers::refuse_all,
    id::Id,
    staging::Chunk,
    tables,
    writer::{FAILURE_PAUSE, Writer},
};
use crate::AlertError;

/// A row that tells whether a batch is stored.
#[derive(Debug)]
pub(super) struct Witness {
    pub(super) table: Table,
    pub(super) key: Key,
    /// The version of its rule before the batch. None if the row did not exist.
    pub(super) before: Option<u32>,
}

impl Witness {
    /// The row of a rule.
    pub(super) fn rule(id: Id, before: Option<&AlertRule>) -> Self {
        Self {
            table: tables::RULES,
            key: id.key(),
            before: before.map(|rule| rule.version.unwrap_or(1)),
        }
    }

    /// The row of a fire.
    pub(super) fn fire(id: &str) -> Option<Self> {
        Some(Self {
            table: tables::FIRE_TIMES,
            key: Id::parse(id)?.key(),
            before: None,
        })
    }

    fn is_changed(&self, row: Option<&Value>) -> bool {
        let version = |row: &Value| {
            let rule = AlertRule::decode(row.as_slice()).ok();
            rule.and_then(|rule| rule.version).unwrap_or(1)
        };
        match self.before {
            None => row.is_some(),
            before => row.map(version) != before,
        }
    }
}

impl Writer {
    /// Whether a batch is stored whose commit failed. Waits until the store can be read, and refuses
    /// requests meanwhile. None if cancelled before.
    pub(super) async fn is_stored(
        &mut self,
        witness: &Witness,
        error: &AlertError,
        cancel: &CancellationToken,
    ) -> Option<bool> {
        loop {
            let row = self.shared.store.get(witness.table, witness.key.clone());
            if let Ok(row) = row.await {
                return Some(witness.is_changed(row.as_ref()));
            }
            let mut waiting = Vec::new();
            while let Ok(command) = self.commands.try_recv() {
                waiting.push(command);
            }
            refuse_all(waiting, error);
            cancel.run_until_cancelled(sleep(FAILURE_PAUSE)).await?;
        }
    }
}

/// Rules whose stored rows may differ from what is judged.
#[derive(Debug, Default)]
pub(super) struct Unsettled(HashSet<Id>);

impl Unsettled {
    fn has_any(&self, rules: &[Id]) -> bool {
        !self.0.is_empty() && rules.iter().any(|id| self.0.contains(id))
    }
}

impl Shared {
    /// Notes that the rows of some rules may differ from what is judged.
    pub(super) fn unsettle(&self, rules: impl Iterator<Item = Id>) {
        self.judge.lock().unsettled.0.extend(rules);
    }

    /// Forgets a batch that is not stored. Its summaries end as they were stored before.
    pub(super) fn discard(&self, chunk: &Chunk) {
        if !chunk.summaries.is_empty() {
            let mut judge = self.judge.lock();
            judge.summaries.unstage(&chunk.summaries);
            judge.summaries.close(chunk.summaries.clone());
        }
    }

    /// Notes that all rules are judged as they are stored.
    pub(super) fn settle(&self) {
        let mut judge = self.judge.lock();
        if !std::mem::take(&mut judge.unsettled.0).is_empty() {
            self.rules_settled.notify_waiters();
        }
    }

    /// Reads rows of rules, once these are judged as they are stored.
    pub(super) async fn read_settled(
        &self,
        keys: Vec<(Table, Key)>,
        rules: &[Id],
    ) -> Result<Vec<Option<Value>>, AlertError> {
        let read = async {
            loop {
                let rows = self.store.get_many(keys.clone()).await?;
                // Before the look, so that no notice is missed.
                let settled = self.rules_settled.notified();
                if !self.judge.lock().unsettled.has_any(rules) {
                    return Ok(rows);
                }
                settled.await;
            }
        };
        self.in_time(read).await
    }
}
