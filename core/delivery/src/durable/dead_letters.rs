//! Dead letters: messages that could not be sent, for the operator to read and to send again.

use tidewire_store::{Batch, Key, SharedStore, StoreError};

use super::{
    record::{self, StoredDeadLetter, StoredJob},
    tables,
};
use crate::{Channel, Job, MessageId};

/// Dead letters in the store at most. A further one removes the oldest.
pub const MAX_DEAD_LETTERS: usize = 10_000;

/// Rows that are removed at once when there are too many.
const SURPLUS: usize = 100;

/// Rows of one read.
const PAGE: usize = 1_000;

/// A message that could not be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// The id of the message.
    pub id: String,
    /// When it was given up, in milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// The channel.
    pub channel: Channel,
    /// The endpoint's name.
    pub endpoint: String,
    /// The recipient. Empty for a broadcast.
    pub user: String,
    /// The notifications' titles.
    pub titles: Vec<String>,
    /// Attempts that were made.
    pub attempts: u32,
    /// Why it was given up.
    pub reason: String,
}

/// The dead letters in a store.
#[derive(Clone)]
pub struct DeadLetters {
    store: SharedStore,
}

impl std::fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLetters").finish_non_exhaustive()
    }
}

impl DeadLetters {
    pub(super) fn new(store: SharedStore) -> Self {
        Self { store }
    }

    /// The dead letters, oldest first, at most `limit`, after the one with this time and id.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn list(
        &self,
        after: Option<(i64, &str)>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let after = after.map(|(time_ms, id)| tables::dead(time_ms, id));
        let rows = self
            .store
            .scan(tables::DEAD, Key::new(), after, limit)
            .await?;
        let rows = rows.into_iter().map(|(key, value)| {
            let letter: StoredDeadLetter = record::decode("dead letter", &value)?;
            let job = letter.job.unwrap_or_default();
            let time = key.first_chunk();
            Ok(DeadLetter {
                id: job.id,
                time_ms: time.map_or(0, |bytes| i64::from_be_bytes(*bytes)),
                channel: channel(letter.channel),
                endpoint: letter.endpoint,
                user: job.user,
                titles: job.notifications.into_iter().map(|one| one.title).collect(),
                attempts: job.attempts,
                reason: letter.reason,
            })
        });
        rows.collect()
    }

    /// The row of the oldest dead letter with this id of a message: its key, and itself.
    pub(super) async fn find(
        &self,
        id: &MessageId,
    ) -> Result<Option<(Key, StoredDeadLetter)>, StoreError> {
        let mut after = None;
        loop {
            let rows = self
                .store
                .scan(tables::DEAD, Key::new(), after, PAGE)
                .await?;
            let is_last = rows.len() < PAGE;
            after = rows.last().map(|(key, _)| key.clone());
            let mut rows = rows.into_iter();
            let found =
                rows.find(|(key, _)| tables::message_of_dead(key) == id.as_str().as_bytes());
            match found {
                Some((key, value)) => {
                    let letter = record::decode("dead letter", &value)?;
                    return Ok(Some((key, letter)));
                }
                None if is_last => return Ok(None),
                None => {}
            }
        }
    }

    /// Stages a dead letter.
    pub(super) fn add(batch: &mut Batch, job: &Job, attempts: u32, reason: &str, now_ms: i64) {
        let endpoint = job.target.endpoint();
        let letter = StoredDeadLetter {
            job: Some(StoredJob::new(&job.message, attempts, 0)),
            channel: endpoint.channel as u32,
            endpoint: endpoint.name.as_ref().to_owned(),
            reason: reason.to_owned(),
        };
        let key = tables::dead(now_ms, job.message.id.as_str());
        batch.put(tables::DEAD, key, record::encode(&letter));
    }

    /// Removes the oldest beyond [`MAX_DEAD_LETTERS`]. `count` is their number.
    pub(super) async fn trim(&self, count: usize) -> Result<usize, StoreError> {
        if count <= MAX_DEAD_LETTERS {
            return Ok(count);
        }
        let rows = self
            .store
            .scan(tables::DEAD, Key::new(), None, SURPLUS)
            .await?;
        let mut batch = Batch::new();
        for (key, _) in &rows {
            batch.delete(tables::DEAD, key.clone());
        }
        self.store.commit(batch).await?;
        Ok(count - rows.len())
    }

    /// The number of dead letters.
    pub(super) async fn count(&self) -> Result<usize, StoreError> {
        let (mut count, mut after) = (0, None);
        loop {
            let rows = self
                .store
                .scan(tables::DEAD, Key::new(), after, PAGE)
                .await?;
            count += rows.len();
            match rows.last() {
                Some((key, _)) if rows.len() == PAGE => after = Some(key.clone()),
                _ => return Ok(count),
            }
        }
    }
}

/// The channel of a stored number.
pub(super) fn channel(number: u32) -> Channel {
    let mut all = Channel::ALL.into_iter();
    all.find(|channel| *channel as u32 == number)
        .unwrap_or(Channel::Webhook)
}
