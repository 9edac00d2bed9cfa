//! Outgoing notifications, as the planner of the delivery channels reads them.

use std::collections::BTreeSet;

use tidewire_proto::v1::{DeliveryFilter, Notification};
use tidewire_store::{Batch, Key};
use tidewire_stream::UserId;

use super::{
    NotificationHub,
    reading::{self, ListedItem},
};
use crate::{
    Class, NotificationError, NotificationId, draft,
    hub_core::PAGE,
    id::Order,
    outgoing::{self, Outgoing},
    preferences, tables, work,
};

/// A notification that still has to reach its user, without its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutgoingItem {
    /// The notification.
    pub id: NotificationId,
    /// Its class, by which preferences filter.
    pub class: Class,
    expires_at_ms: Option<i64>,
    is_broadcast: bool,
}

impl NotificationHub {
    /// The first outgoing notifications, those that are due first, at most `limit`. Rows that
    /// cannot be read are removed, and the log says so: they would hold all others up.
    ///
    /// # Errors
    /// The store cannot be read, or a damaged row cannot be removed.
    pub async fn outgoing(&self, limit: usize) -> Result<Vec<Outgoing>, NotificationError> {
        self.read_outgoing(Key::new(), None, limit).await
    }

    /// The outgoing notifications that wait for a time after `now_ms`, in the order of their times,
    /// at most `limit`: the first ones, or those after `last`.
    ///
    /// # Errors
    /// The store cannot be read, or a damaged row cannot be removed.
    pub async fn outgoing_later(
        &self,
        now_ms: i64,
        last: Option<&Outgoing>,
        limit: usize,
    ) -> Result<Vec<Outgoing>, NotificationError> {
        let after = match last {
            Some(row) => outgoing::key(row.due_ms, row.user.as_ref(), row.id.order),
            // No row has this key: it ends before the place of a notification.
            None => outgoing::prefix(now_ms.saturating_add(1), None),
        };
        self.read_outgoing(Key::new(), Some(after), limit).await
    }

    /// The outgoing notifications after `last` that have its time and its user.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn outgoing_after(
        &self,
        last: &Outgoing,
    ) -> Result<Vec<Outgoing>, NotificationError> {
        let key = |row: &Outgoing| outgoing::key(row.due_ms, row.user.as_ref(), row.id.order);
        let prefix = outgoing::prefix(last.due_ms, last.user.as_ref());
        let mut rows: Vec<Outgoing> = Vec::new();
        loop {
            let after = key(rows.last().unwrap_or(last));
            let page = self
                .read_outgoing(prefix.clone(), Some(after), PAGE)
                .await?;
            let is_last = page.len() < PAGE;
            rows.extend(page);
            if is_last {
                return Ok(rows);
            }
        }
    }

    async fn read_outgoing(
        &self,
        prefix: Key,
        after: Option<Key>,
        limit: usize,
    ) -> Result<Vec<Outgoing>, NotificationError> {
        let store = &self.0.store;
        loop {
            let rows = store
                .scan(outgoing::TABLE, prefix.clone(), after.clone(), limit)
                .await?;
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

    /// The outgoing notifications of a user that wait for a time after `now_ms`, at most `limit`.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn outgoing_waiting(
        &self,
        user: &UserId,
        now_ms: i64,
        limit: usize,
    ) -> Result<Vec<Outgoing>, NotificationError> {
        let store = &self.0.store;
        let prefix = tables::all_outgoing_of(user);
        let (mut waiting, mut after) = (Vec::new(), None);
        loop {
            let page = store
                .scan(tables::OUTGOING_OF, prefix.clone(), after, PAGE)
                .await?;
            let keys = page.iter().filter_map(|(key, due_ms)| {
                let order = key.last_chunk().copied().map(u64::from_be_bytes)?;
                let due_ms = due_ms.first_chunk().copied().map(i64::from_be_bytes)?;
                let key = outgoing::key(due_ms, Some(user), Order(order));
                (due_ms > now_ms).then_some(key)
            });
            let keys: Vec<_> = keys.take(limit - waiting.len()).collect();
            let tables = keys.iter().map(|key| (outgoing::TABLE, key.clone()));
            let values = store.get_many(tables.collect()).await?;
            let rows = keys.iter().zip(values).filter_map(|(key, value)| {
                let row = Outgoing::decode(self.0.realm, key, &value?);
                Some(row.ok_or(NotificationError::Damaged("outgoing notification")))
            });
            for row in rows {
                waiting.push(row?);
            }
            if page.len() < PAGE || waiting.len() >= limit {
                return Ok(waiting);
            }
            after = page.last().map(|(key, _)| key.clone());
        }
    }

    /// Waits until there are new outgoing notifications. One call returns for those that were
    /// added since the call before.
    pub async fn outgoing_added(&self) {
        self.0.outgoing.notified().await;
    }

    /// Wakes the caller of [`outgoing_added`](Self::outgoing_added), for a row that another part
    /// stored.
    pub fn wake_outgoing(&self) {
        self.0.outgoing.notify_one();
    }

    /// Those notifications that still have to reach the user, oldest first: the user has and sees
    /// them, and has not read them.
    ///
    /// # Errors
    /// The user's id is malformed, or the store cannot be read.
    pub async fn unread_among(
        &self,
        user: &UserId,
        ids: &[NotificationId],
    ) -> Result<Vec<OutgoingItem>, NotificationError> {
        let core = &self.0;
        let user = draft::check_user("user", user.as_str())?;
        let orders: BTreeSet<Order> = core.orders(ids).into_iter().collect();
        let orders: Vec<_> = orders.into_iter().rev().collect();
        if orders.is_empty() {
            return Ok(Vec::new());
        }
        self.with_user(&user, async |work| {
            work.load([&user], Vec::new()).await?;
            let mut items = reading::find_unread(core, work, &user, &orders).await?;
            items.sort_unstable_by_key(|item| item.order);
            let items = items.iter().map(|item| OutgoingItem {
                id: core.id(item.order),
                class: item.class,
                expires_at_ms: item.expires_at_ms,
                is_broadcast: item.is_broadcast,
            });
            Ok(items.collect())
        })
        .await
    }

    /// The notification, if it still has to reach the user.
    ///
    /// # Errors
    /// The user's id is malformed, or the store cannot be read.
    pub async fn unread(
        &self,
        user: &UserId,
        id: NotificationId,
    ) -> Result<Option<(Notification, Class)>, NotificationError> {
        let items = self.unread_among(user, &[id]).await?;
        let Some(item) = items.first() else {
            return Ok(None);
        };
        let texts = self.texts_of(&items).await?;
        Ok(texts
            .into_iter()
            .flatten()
            .next()
            .map(|text| (text, item.class)))
    }

    /// The notifications of items, as far as the store still has them. One that cannot be read is
    /// logged and left out, so that it holds up no other.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn texts_of(
        &self,
        items: &[OutgoingItem],
    ) -> Result<Vec<Option<Notification>>, NotificationError> {
        let listed = items.iter().map(|item| ListedItem {
            order: item.id.order,
            class: item.class,
            is_read: false,
            expires_at_ms: item.expires_at_ms,
            is_broadcast: item.is_broadcast,
        });
        let listed: Vec<_> = listed.collect();
        let texts = reading::find_texts(&self.0, &listed).await?;
        let texts = texts.into_iter().zip(items).map(|(text, item)| {
            let damaged = NotificationError::Damaged("notification");
            let text = text.and_then(|text| text.ok_or(damaged));
            text.inspect_err(|error| tracing::error!(%error, id = %item.id, "not sent"))
                .ok()
        });
        Ok(texts.collect())
    }

    /// The item of a row whose notification is sent whether or not its user still has it. None for
    /// a row of an earlier version.
    #[must_use]
    pub fn item_of(&self, row: &Outgoing) -> Option<OutgoingItem> {
        Some(OutgoingItem {
            id: row.id,
            class: row.class?,
            expires_at_ms: row.expires_at_ms,
            is_broadcast: false,
        })
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
        let live = core.live(core.time());
        let found = core.order(id).and_then(|order| live.find(order).cloned());
        let Some(found) = found else { return Ok(None) };
        let item = OutgoingItem {
            id,
            class: found.class,
            expires_at_ms: found.expires_at_ms,
            is_broadcast: true,
        };
        let texts = self.texts_of(&[item]).await?;
        Ok(texts
            .into_iter()
            .flatten()
            .next()
            .map(|text| (text, found.class)))
    }

    /// The broadcast of a row, also if it has left the lists since. None for a row of an earlier
    /// version.
    ///
    /// # Errors
    /// The row cannot be read.
    pub fn sent_broadcast(
        &self,
        row: &Outgoing,
    ) -> Result<Option<Notification>, NotificationError> {
        let Some(class) = row.class else {
            return Ok(None);
        };
        let order = row.id.order;
        work::notification(&self.0, order, class, row.expires_at_ms, &row.text).map(Some)
    }

    /// Whether a user's filter of a delivery channel lets a notification through. Urgent ones and
    /// security warnings always pass.
    #[must_use]
    pub fn passes(&self, filter: Option<&DeliveryFilter>, class: Class) -> bool {
        filter.is_none_or(|filter| preferences::filter(&self.0.kinds, filter).shows(class))
    }
}
