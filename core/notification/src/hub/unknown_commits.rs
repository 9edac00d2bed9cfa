//! Unknown commits: publishes the events of batches that the store has after all.

use tidewire_store::{Batch, Value};
use tidewire_stream::UserId;

use super::{NotificationHub, fan_out};
use crate::{
    HubEvent, NotificationError, NotificationId, channel_rows,
    id::Order,
    tables,
    unknown_commits::{StateChange, UnknownCommit},
};

impl NotificationHub {
    /// Publishes the events of failed commits that the store has all the same, once it can be read.
    /// The senders may repeat their requests meanwhile: these find their keys, and publish nothing.
    /// Each [`step`](Self::step) begins with it.
    ///
    /// # Errors
    /// The store cannot be read. The next call tries again.
    pub async fn settle_unknown(&self) -> Result<(), NotificationError> {
        let core = &*self.0;
        core.reload_live().await?;
        let mut waiting = core.unknown.take();
        if waiting.is_empty() {
            return Ok(());
        }
        let mut commits = std::mem::take(&mut waiting.commits).into_iter();
        let mut failure = None;
        for commit in commits.by_ref() {
            if let Err(error) = self.settle(&commit).await {
                waiting.commits.push(commit);
                failure = Some(error);
                break;
            }
        }
        if let Some(error) = failure {
            waiting.commits.extend(commits);
            core.unknown.put_back(waiting);
            return Err(error);
        }
        if waiting.has_overflowed {
            tracing::warn!(
                "too many writes failed in a way that may have written them: connected users read their lists again"
            );
            core.events.publish(HubEvent::GapForAll);
        }
        // The batches may have had notifications for delivery channels.
        core.outgoing.notify_one();
        Ok(())
    }

    async fn settle(&self, commit: &UnknownCommit) -> Result<(), NotificationError> {
        let core = &*self.0;
        match commit {
            UnknownCommit::User { change, events } => self.settle_user(change, events).await?,
            UnknownCommit::Preferences(user) => self.settle_preferences(user).await?,
            UnknownCommit::Gap(user) => core.events.publish(HubEvent::Gap { user: user.clone() }),
            UnknownCommit::Broadcast { order, event } => {
                if core.live(core.time()).find(*order).is_some() {
                    core.events.publish(event.clone());
                }
            }
            UnknownCommit::Removal(ids) => {
                let live = core.live(core.time());
                let mut ids = ids.clone();
                ids.retain(|id| live.find(id.order).is_none());
                if !ids.is_empty() {
                    core.events.publish(HubEvent::BroadcastRemoval { ids });
                }
            }
            UnknownCommit::Channel(order) => {
                let key = order.0.to_be_bytes().to_vec();
                // Without a row it was not written, or is published by now.
                if let Some(row) = core.store.get(tables::CHANNEL_ROWS, key).await? {
                    self.publish_row(*order, &row).await?;
                }
            }
        }
        Ok(())
    }

    /// Publishes a notification to a channel that is in the store. One that cannot be read is removed.
    async fn publish_row(&self, order: Order, row: &Value) -> Result<(), NotificationError> {
        match channel_rows::decode(row) {
            Ok(event) => self.0.events.publish(event),
            Err(error) => {
                let id = self.0.id(order);
                tracing::error!(%error, %id, "subscribers miss a notification to their channel");
                self.channel_published(&[id]).await?;
            }
        }
        Ok(())
    }

    /// Removes the rows of notifications to channels, which are published by now.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn channel_published(&self, ids: &[NotificationId]) -> Result<(), NotificationError> {
        let mut batch = Batch::new();
        for order in self.0.orders(ids) {
            channel_rows::remove(&mut batch, order);
        }
        Ok(self.0.store.commit(batch).await?)
    }

    /// Publishes notifications to channels again, which the receiver could not publish.
    pub fn publish_channels_again(&self, ids: &[NotificationId]) {
        self.0.unknown.add_channels(self.0.orders(ids));
        self.0.wake.notify_one();
    }

    /// Compares the user's state with those before the commit and after it. If it is neither,
    /// another operation changed it meanwhile, and the events may be true no longer.
    async fn settle_user(
        &self,
        change: &StateChange,
        events: &[HubEvent],
    ) -> Result<(), NotificationError> {
        let user = &change.user;
        self.with_user(user, async |work| {
            let key = user.as_str().into();
            let stored = self.0.store.get(tables::STATES, key).await?;
            if stored.as_deref() == Some(&*change.after) {
                work.load([user], Vec::new()).await?;
                // Before the events of what is due now.
                work.events.splice(0..0, events.iter().cloned());
                // Broadcasts may have changed it.
                fan_out::push_count(work, user);
            } else if stored.as_deref() != change.before.as_deref() {
                work.events.push(HubEvent::Gap { user: user.clone() });
            }
            Ok(())
        })
        .await
    }

    async fn settle_preferences(&self, user: &UserId) -> Result<(), NotificationError> {
        self.with_user(user, async |work| {
            let preferences = Box::new(self.preferences(user.as_str()).await?);
            work.events.push(HubEvent::Preferences {
                user: user.clone(),
                preferences,
            });
            Ok(())
        })
        .await
    }
}
