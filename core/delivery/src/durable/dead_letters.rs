//! Dead letters: messages that could not be sent, for the operator to read.
//!
//! Their number is bounded. Beyond it, the user or the webhook with the most loses the oldest, so
//! one whose endpoint refuses everything pushes out none of others.

use std::collections::HashMap;

use tidewire_store::{Batch, Key, SharedStore, StoreError};

use super::{
    record::{self, StoredDeadLetter, StoredJob},
    tables,
};
use tidewire_stream::UserId;

use crate::{Channel, Job, MessageId, ledger::Owner};

/// Dead letters in the store at most. A further one removes the oldest of the user or the webhook
/// with the most.
pub const MAX_DEAD_LETTERS: usize = 10_000;

/// Rows that are removed at once when there are too many.
const SURPLUS: usize = 100;

/// Dead letters of one owner up to which nobody has too many: the oldest of all are removed.
const FEW: usize = 10;

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

    /// The numbers of dead letters.
    pub(super) async fn count(&self) -> Result<Counts, StoreError> {
        let (mut counts, mut after) = (Counts::default(), None);
        loop {
            let rows = self.store.scan(tables::DEAD, Key::new(), after, PAGE);
            let rows = rows.await?;
            for (_, value) in &rows {
                counts.add(owner_of(value)?);
            }
            match rows.last() {
                Some((key, _)) if rows.len() == PAGE => after = Some(key.clone()),
                _ => return Ok(counts),
            }
        }
    }

    /// Removes some if there are more than [`MAX_DEAD_LETTERS`].
    pub(super) async fn trim(&self, counts: &mut Counts) -> Result<(), StoreError> {
        if counts.total <= MAX_DEAD_LETTERS {
            return Ok(());
        }
        let most = counts.owners.iter().max_by_key(|(_, count)| **count);
        let most = most.map(|(owner, count)| (owner.clone(), *count));
        let most = most.filter(|(_, count)| *count > FEW);
        let surplus = most
            .as_ref()
            .map_or(SURPLUS, |(_, count)| SURPLUS.min(count / 2));
        let (mut batch, mut removed, mut after) = (Batch::new(), Vec::new(), None);
        while removed.len() < surplus {
            let rows = self.store.scan(tables::DEAD, Key::new(), after, PAGE);
            let rows = rows.await?;
            for (key, value) in &rows {
                let owner = owner_of(value)?;
                let is_one = most.as_ref().is_none_or(|(most, _)| *most == owner);
                if is_one && removed.len() < surplus {
                    batch.delete(tables::DEAD, key.clone());
                    removed.push(owner);
                }
            }
            match rows.last() {
                Some((key, _)) if rows.len() == PAGE => after = Some(key.clone()),
                _ => break,
            }
        }
        self.store.commit(batch).await?;
        for owner in removed {
            counts.remove(&owner);
        }
        Ok(())
    }
}

/// The numbers of dead letters, of all and of each owner who has one.
#[derive(Debug, Default)]
pub(super) struct Counts {
    total: usize,
    owners: HashMap<Owner, usize>,
}

impl Counts {
    /// Counts a further one.
    pub(super) fn add(&mut self, owner: Owner) {
        self.total += 1;
        *self.owners.entry(owner).or_default() += 1;
    }

    /// Counts one less.
    pub(super) fn remove(&mut self, owner: &Owner) {
        self.total = self.total.saturating_sub(1);
        if let Some(count) = self.owners.get_mut(owner) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.owners.remove(owner);
            }
        }
    }
}

/// The owner of a stored dead letter.
fn owner_of(value: &[u8]) -> Result<Owner, StoreError> {
    let letter: StoredDeadLetter = record::decode("dead letter", value)?;
    Ok(match channel(letter.channel) {
        Channel::Webhook => Owner::Webhook(letter.endpoint.into()),
        Channel::Push | Channel::Email => {
            let user = letter.job.unwrap_or_default().user;
            Owner::User(UserId::new(&user))
        }
    })
}

/// The channel of a stored number.
pub(super) fn channel(number: u32) -> Channel {
    let mut all = Channel::ALL.into_iter();
    all.find(|channel| *channel as u32 == number)
        .unwrap_or(Channel::Webhook)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidewire_proto::v1::Notification;
    use tidewire_store::{MemoryStore, Store as _};

    use super::*;
    use crate::{JobId, MessageId, OutgoingMessage, Target};

    /// A mail to a user.
    fn job(user: &str, number: usize) -> Job {
        let id = format!("{user}-{number}");
        let message = OutgoingMessage::notification(
            MessageId::new(&id).unwrap(),
            UserId::new(user),
            Notification::default(),
        );
        let target = Target::Email("a@example.com".parse().unwrap());
        Job::new(JobId::new(&id), target, message)
    }

    #[tokio::test]
    async fn the_one_with_the_most_loses_the_oldest() {
        let store = Arc::new(MemoryStore::new());
        let letters = DeadLetters::new(store.clone());
        let mut counts = letters.count().await.unwrap();
        let mut batch = Batch::new();
        let add = |batch: &mut Batch, user: &str, number: usize| {
            let job = job(user, number);
            let time_ms = i64::try_from(number).unwrap();
            DeadLetters::add(batch, &job, 1, "HTTP status 400", time_ms);
            job.owner()
        };
        // The oldest are those of others.
        for number in 0..20 {
            counts.add(add(&mut batch, "ada", number));
        }
        for number in 20..MAX_DEAD_LETTERS {
            counts.add(add(&mut batch, "eve", number));
        }
        store.commit(batch).await.unwrap();
        letters.trim(&mut counts).await.unwrap();
        assert_eq!(counts.total, MAX_DEAD_LETTERS, "there is room for all");
        let mut batch = Batch::new();
        counts.add(add(&mut batch, "bob", MAX_DEAD_LETTERS));
        store.commit(batch).await.unwrap();
        letters.trim(&mut counts).await.unwrap();
        assert_eq!(counts.total, MAX_DEAD_LETTERS + 1 - SURPLUS);
        assert_eq!(store.len(tables::DEAD), counts.total);
        let again = letters.count().await.unwrap();
        assert_eq!((again.total, &again.owners), (counts.total, &counts.owners));
        let count = |user: &str| counts.owners[&Owner::User(UserId::new(user))];
        assert_eq!((count("ada"), count("bob")), (20, 1));
        let left = letters.list(None, 21).await.unwrap();
        assert_eq!(left[20].id, format!("eve-{}", 20 + SURPLUS));
    }

    #[tokio::test]
    async fn the_oldest_go_when_nobody_has_many() {
        let store = Arc::new(MemoryStore::new());
        let letters = DeadLetters::new(store.clone());
        let mut counts = Counts::default();
        let mut batch = Batch::new();
        for number in 0..=MAX_DEAD_LETTERS {
            let job = job(&format!("u{}", number % 5_000), number);
            let time_ms = i64::try_from(number).unwrap();
            DeadLetters::add(&mut batch, &job, 1, "HTTP status 400", time_ms);
            counts.add(job.owner());
        }
        store.commit(batch).await.unwrap();
        letters.trim(&mut counts).await.unwrap();
        let first = letters.list(None, 1).await.unwrap();
        assert_eq!(first[0].id, format!("u{SURPLUS}-{SURPLUS}"));
    }
}
