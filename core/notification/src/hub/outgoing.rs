//! Outgoing notifications, as the planner of the delivery channels reads them.

use tidewire_proto::v1::{DeliveryFilter, Notification};
use tidewire_store::{Batch, Key};
use tidewire_stream::UserId;

use super::{
    NotificationHub,
    reading::{self, ListQuery, ListedItem},
};
use crate::{
    Class, NotificationError, NotificationId, draft,
    outgoing::{self, Outgoing},
    preferences,
};

impl NotificationHub {
    /// The first outgoing notifications, those that are due first, at most `limit`. Rows that
    /// cannot be read are removed, and the log says so: they would hold all others up.
    ///
    /// # Errors
    /// The store cannot be read, or a damaged row cannot be removed.
    pub async fn outgoing(&self, limit: usize) -> Result<Vec<Outgoing>, NotificationError> {
        let store = &self.0.store;
        loop {
            let rows = store.scan(outgoing::TABLE, Key::new(), None, limit).await?;
            let mut damaged = Batch::new();
            let mut found = Vec::with_capacity(rows.len());
            for (key, value) in rows {
                match Outgoing::decode(self.0.realm, &key, &value) {
                    Some(row) => found.push(row),
                    None => damaged.delete(outgoing::TABLE, key),
                }
            }
            if damaged.is_empty() {
                return Ok(found);
            }
            tracing::error!(
                rows = damaged.writes().len(),
                "damaged rows of outgoing notifications are removed: what they named reaches no \
                 webhook, push or mail"
            );
            store.commit(damaged).await?;
        }
    }

    /// Waits until there are new outgoing notifications. One call returns for those that were
    /// added since the call before.
    pub async fn outgoing_added(&self) {
        self.0.outgoing.notified().await;
    }

    /// The notification, if it still has to reach the user: the user has and sees it, and has not
    /// read it.
    ///
    /// # Errors
    /// The user's id is malformed, or the store cannot be read.
    pub async fn unread(
        &self,
        user: &UserId,
        id: NotificationId,
    ) -> Result<Option<(Notification, Class)>, NotificationError> {
        let user = draft::check_user("user", user.as_str())?;
        let Some(order) = self.0.order(id) else {
            return Ok(None);
        };
        self.with_user(&user, async |work| {
            work.load([&user], Vec::new()).await?;
            let query = ListQuery::newest_unread(id);
            let mut items = reading::find(&self.0, work, &user, &query).await?;
            items.retain(|item| item.order == order);
            items.truncate(1);
            let Some(item) = items.first() else {
                return Ok(None);
            };
            let texts = reading::read_texts(&self.0, &items).await?;
            Ok(texts.into_iter().next().map(|text| (text, item.class)))
        })
        .await
    }

    /// A broadcast, if it is still in the lists.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn broadcast(
        &self,
        id: NotificationId,
    ) -> Result<Option<(Notification, Class)>, NotificationError> {
        let core = &self.0;
        let live = core.live(core.clock.now_ms());
        let found = core.order(id).and_then(|order| live.get(order).cloned());
        let Some(found) = found else { return Ok(None) };
        let texts = reading::read_texts(core, &[ListedItem::broadcast(&found)]).await?;
        Ok(texts.into_iter().next().map(|text| (text, found.class)))
    }

    /// Whether a user's filter of a delivery channel lets a notification through. Urgent ones and
    /// security warnings always pass.
    #[must_use]
    pub fn passes(&self, filter: Option<&DeliveryFilter>, class: Class) -> bool {
        filter.is_none_or(|filter| preferences::filter(&self.0.kinds, filter).shows(class))
    }
}
