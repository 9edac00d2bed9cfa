//! Comparison: what a client sees, against the model. An open application follows the events of a few
//! users, and shows their counts.

use std::collections::HashSet;

use rand::Rng as _;
use tidewire_notification::{Audience, HubEvent, Unreached};
use tidewire_proto::v1::{ListNotificationsRequest, Notification};

use super::{FOLLOWED, Run, followed, name, number};

impl Run {
    /// Compares a user's count and list, through random pages and filters.
    pub(crate) async fn compare(&mut self, user: usize) {
        self.model.expire();
        let hub = self.world.hub.clone();
        let count = hub.unread_count(&name(user)).await;
        if !self.is_ok(&count) {
            return;
        }
        let count = count.unwrap();
        assert_eq!(count, self.model.unread(user), "the count of {user}");
        // A first contact, and the events of what expires, wait for the store.
        if self.is_failing {
            return;
        }
        self.model.contact(user);
        self.follow_events().await;
        let badge = self.badges[user].replace(count);
        assert_eq!(badge.unwrap_or(count), count, "the badge of {user}");
        let mut request = ListNotificationsRequest {
            limit: Some(self.random.random_range(1..80)),
            ..ListNotificationsRequest::default()
        };
        if self.random.random_ratio(1, 4) {
            request.unread_only = Some(true);
        }
        if self.random.random_ratio(1, 6) {
            request.types = vec![1, 6, 7];
            request.custom_types = vec!["invoice".to_owned()];
        }
        if self.random.random_ratio(1, 6) {
            request.priorities = vec![2, 4];
        }
        let mut expected = self.model.visible(user);
        let is_kind = |kind| request.types.is_empty() || [1, 6, 7, 10].contains(&kind);
        expected.retain(|item| {
            (request.unread_only.is_none() || !item.is_read)
                && is_kind(item.kind)
                && (request.priorities.is_empty() || [2, 4].contains(&item.priority))
        });
        let mut listed = Vec::new();
        loop {
            let query = hub.list_query(&request).unwrap();
            let page = hub.list(&name(user), &query).await;
            if !self.is_ok(&page) {
                return;
            }
            let page = page.unwrap();
            assert_eq!(page.unread_count, self.model.unread(user));
            assert!(page.items.len() <= request.limit.unwrap() as usize);
            listed.extend(page.items);
            match page.next {
                Some(next) => request.before = Some(next.to_string()),
                None => break,
            }
        }
        let of = |item: &Notification| {
            let kind = match item.custom_type.as_str() {
                "order_shipped" => 9,
                "invoice" => 10,
                _ => item.r#type,
            };
            (
                item.title.clone(),
                kind,
                item.priority,
                item.timestamp,
                item.expires_at,
                item.read,
                item.collapse_key.clone(),
            )
        };
        let found: Vec<_> = listed.iter().map(of).collect();
        let wanted: Vec<_> = expected
            .iter()
            .map(|item| {
                (
                    item.title.clone(),
                    item.kind,
                    item.priority,
                    item.time_ms,
                    item.expires_at_ms,
                    item.is_read,
                    item.collapse.clone(),
                )
            })
            .collect();
        assert_eq!(found, wanted, "the list of {user}");
        for (item, listed) in expected.iter().zip(&listed) {
            let id = self
                .model
                .ids
                .entry(item.seq)
                .or_insert_with(|| listed.id.clone());
            assert_eq!(*id, listed.id);
        }
    }

    /// Counts as an open application does: it adds one for a notification, and else shows the
    /// count of the event. Broadcasts are fanned out to a few users.
    pub(crate) async fn follow_events(&mut self) {
        let is_for_all = |event: &HubEvent| {
            matches!(
                event,
                HubEvent::Broadcast { .. } | HubEvent::BroadcastRemoval { .. }
            )
        };
        let (for_all, direct): (Vec<_>, Vec<_>) =
            self.world.events().into_iter().partition(is_for_all);
        for event in direct {
            self.follow(&event);
        }
        // The fan-out comes later, and publishes what is true then.
        for event in for_all {
            match event {
                HubEvent::Broadcast {
                    notification,
                    class,
                } => {
                    let users = followed();
                    let hub = &self.world.hub;
                    let unreached = hub.publish_broadcast(&users, &notification, class).await;
                    self.follow_fan_out(unreached);
                }
                _ => {
                    let unreached = self.world.hub.publish_counts(&followed()).await;
                    self.follow_fan_out(unreached);
                }
            }
        }
    }

    /// Follows a fan-out to all followed users.
    fn follow_fan_out(&mut self, unreached: Unreached) {
        self.badges.fill(None);
        let failed: HashSet<_> = unreached.iter().map(|(user, _)| number(user)).collect();
        for (_, error) in unreached {
            self.is_ok(&Err::<(), _>(error));
        }
        for user in (0..FOLLOWED).filter(|user| !failed.contains(user)) {
            self.model.contact(user);
        }
        for event in self.world.events() {
            self.follow(&event);
        }
    }

    fn follow(&mut self, event: &HubEvent) {
        let (user, count) = match event {
            HubEvent::Notification {
                user,
                unread_count,
                audience: Audience::Everyone,
                ..
            } => (user, Some(*unread_count)),
            HubEvent::Notification { user, .. } => {
                let badge = self.badges[number(user)];
                (user, badge.map(|count| count + 1))
            }
            HubEvent::UnreadCount { user, unread_count } => (user, Some(*unread_count)),
            HubEvent::Read { user, receipt } => (user, Some(receipt.unread_count)),
            HubEvent::Dismissed { user, dismissed } => (user, Some(dismissed.unread_count)),
            _ => return,
        };
        self.badges[number(user)] = count;
    }
}
