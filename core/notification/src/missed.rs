//! Summary of what a user missed: one `notification_batch` for a device that comes back.
//!
//! [`NotificationSummary`] stands for the pushes of a user's channel while a device was away. Its
//! `items` are the newest notifications, oldest first, as they are at the end: read ones are
//! marked, and dismissed or replaced ones left out. `read` names the older ones that were read, and
//! `dismissed` all that were dismissed or replaced, since a device may have them from a list. The
//! count is that of the last push: each push brings one.
//!
//! # Worked example
//! A device has the notification A and a count of 1. While it is away, B (2), C (3), `read` of A
//! and B (1) and D (2) are pushed. Its batch has the items B (read), C and D, `read` with the id of
//! A, and a count of 2.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tidewire_proto::{
    prost::Message as _,
    v1::{Dismissed, Notification, NotificationBatch, ReadReceipt, server_message::Data},
};
use tidewire_stream::{Event, MissedSummary, Publication};

/// Notifications of a summary at most: about what a screen shows.
const ITEMS: usize = 50;

/// Sums up the pushes that a device of a user missed.
#[derive(Debug, Clone, Copy, Default)]
pub struct NotificationSummary;

impl MissedSummary for NotificationSummary {
    fn covers(&self, event: &Event) -> bool {
        matches!(
            event,
            Data::Notification(_)
                | Data::NotificationBatch(_)
                | Data::Read(_)
                | Data::Dismissed(_)
                | Data::UnreadCount(_)
        )
    }

    fn summarize(&self, missed: &[Arc<Publication>], max_bytes: usize) -> Option<Event> {
        let mut sum = Sum::default();
        for publication in missed {
            sum.add(&publication.event());
        }
        sum.batch(max_bytes).map(Data::NotificationBatch)
    }
}

/// Result of several pushes.
#[derive(Debug, Default)]
struct Sum {
    /// The notifications, by id: ids sort by time.
    items: BTreeMap<String, Notification>,
    /// Receipts of notifications that are not in `items`.
    read: ReadReceipt,
    /// Removed notifications.
    dismissed: BTreeSet<String>,
    /// The newest count, once a push brought one.
    unread_count: Option<u64>,
}

impl Sum {
    fn add(&mut self, event: &Event) {
        match event {
            Data::Notification(one) => {
                let next = self.unread_count.map(|count| count + u64::from(!one.read));
                self.unread_count = one.unread_count.or(next);
                self.add_notification(one);
            }
            Data::NotificationBatch(batch) => {
                batch
                    .items
                    .iter()
                    .for_each(|one| self.add_notification(one));
                self.unread_count = Some(batch.unread_count);
            }
            Data::Read(receipt) => {
                self.add_receipt(receipt);
                self.unread_count = Some(receipt.unread_count);
            }
            Data::Dismissed(dismissed) => {
                self.remove(&dismissed.ids);
                self.unread_count = Some(dismissed.unread_count);
            }
            Data::UnreadCount(count) => self.unread_count = Some(count.unread_count),
            _ => {}
        }
    }

    fn add_notification(&mut self, notification: &Notification) {
        self.remove(&notification.replaces);
        let item = Notification {
            unread_count: None,
            // The device may have them, and this one may be dismissed: `dismissed` names them.
            replaces: Vec::new(),
            ..notification.clone()
        };
        self.items.insert(item.id.clone(), item);
    }

    /// Removes notifications. The device may have them, also those of `items`: a list has a
    /// notification before it is pushed.
    fn remove(&mut self, ids: &[String]) {
        for id in ids {
            self.items.remove(id);
            self.dismissed.insert(id.clone());
        }
    }

    fn add_receipt(&mut self, receipt: &ReadReceipt) {
        for id in &receipt.ids {
            match self.items.get_mut(id) {
                Some(item) => item.read = true,
                None => self.read.ids.push(id.clone()),
            }
        }
        if receipt.all {
            for (id, item) in &mut self.items {
                item.read |= receipt.up_to.as_ref().is_none_or(|newest| id <= newest);
            }
            // Without `up_to`, everything before is read: a device that applies it before it adds
            // the items marks just that.
            self.read.up_to = match (self.read.all, self.read.up_to.take()) {
                (true, None) => None,
                (_, before) => receipt
                    .up_to
                    .clone()
                    .map(|id| before.unwrap_or_default().max(id)),
            };
            self.read.all = true;
        }
    }

    /// The batch, with as many items as fit. None if the count is unknown, or what is about older
    /// notifications does not fit.
    fn batch(self, max_bytes: usize) -> Option<NotificationBatch> {
        let unread_count = self.unread_count?;
        let mut read = self.read;
        read.ids.sort_unstable();
        read.ids.dedup();
        let has_read = read.all || !read.ids.is_empty();
        let mut batch = NotificationBatch {
            items: Vec::new(),
            unread_count,
            read: has_read.then_some(ReadReceipt {
                unread_count,
                ..read
            }),
            dismissed: (!self.dismissed.is_empty()).then_some(Dismissed {
                ids: self.dismissed.into_iter().collect(),
                unread_count,
            }),
            next: None,
        };
        let mut bytes = batch.encoded_len();
        if bytes > max_bytes / 2 {
            return None;
        }
        let count = self.items.len();
        let newest = self
            .items
            .into_values()
            .rev()
            .take(ITEMS)
            .take_while(|item| {
                // JSON takes up to twice as much as protobuf. One item is sent in any case.
                let fits = bytes + 2 * item.encoded_len() <= max_bytes;
                let is_first = bytes == batch.encoded_len();
                bytes += 2 * item.encoded_len();
                fits || is_first
            });
        let mut newest: Vec<_> = newest.collect();
        newest.reverse();
        if newest.len() < count {
            batch.next = newest.first().map(|oldest| oldest.id.clone());
        }
        batch.items = newest;
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use tidewire_proto::v1::GetUnreadCountResponse;
    use tidewire_stream::{ChannelName, Epoch, Position};

    use super::*;

    fn note(id: &str, unread_count: Option<u64>) -> Event {
        Data::Notification(Notification {
            id: id.to_owned(),
            unread_count,
            ..Notification::default()
        })
    }

    fn read(ids: &[&str], unread_count: u64) -> Event {
        Data::Read(ReadReceipt {
            ids: ids.iter().map(ToString::to_string).collect(),
            unread_count,
            ..ReadReceipt::default()
        })
    }

    fn read_all(up_to: Option<&str>, unread_count: u64) -> Event {
        Data::Read(ReadReceipt {
            all: true,
            up_to: up_to.map(str::to_owned),
            unread_count,
            ..ReadReceipt::default()
        })
    }

    fn dismissed(ids: &[&str], unread_count: u64) -> Event {
        Data::Dismissed(Dismissed {
            ids: ids.iter().map(ToString::to_string).collect(),
            unread_count,
        })
    }

    fn sum_up(events: Vec<Event>, max_bytes: usize) -> Option<NotificationBatch> {
        let publications = events.into_iter().zip(1..).map(|(event, seq)| {
            assert!(NotificationSummary.covers(&event));
            let position = Position {
                epoch: Epoch::new("e"),
                seq,
            };
            Publication::new(ChannelName::user("ada").unwrap(), position, 0, event)
        });
        let publications: Vec<_> = publications.collect();
        match NotificationSummary.summarize(&publications, max_bytes)? {
            Data::NotificationBatch(batch) => Some(batch),
            other => panic!("{other:?}"),
        }
    }

    fn sum(events: Vec<Event>) -> NotificationBatch {
        sum_up(events, 64 << 10).unwrap()
    }

    fn items(batch: &NotificationBatch) -> Vec<(&str, bool)> {
        let items = batch.items.iter();
        items.map(|item| (item.id.as_str(), item.read)).collect()
    }

    #[test]
    fn a_summary_is_as_in_the_example() {
        let batch = sum(vec![
            note("b", Some(2)),
            note("c", Some(3)),
            read(&["a", "b"], 1),
            note("d", Some(2)),
        ]);
        assert_eq!(items(&batch), [("b", true), ("c", false), ("d", false)]);
        assert_eq!((batch.unread_count, &batch.next), (2, &None));
        let older = batch.read.unwrap();
        assert_eq!((older.ids, older.unread_count), (vec!["a".to_owned()], 2));
        assert_eq!(batch.dismissed, None);
    }

    #[test]
    fn dismissed_and_replaced_ones_are_left_out() {
        let keyed = |id: &str, replaces: &[&str], count| {
            let Data::Notification(mut one) = note(id, Some(count)) else {
                unreachable!()
            };
            one.collapse_key = Some("k".to_owned());
            one.replaces = replaces.iter().map(ToString::to_string).collect();
            Data::Notification(one)
        };
        let batch = sum(vec![
            keyed("b", &[], 1),
            note("c", Some(2)),
            dismissed(&["a", "c"], 1),
            keyed("d", &["b"], 1),
            // A broadcast leaves a user's own one with the same key alone.
            keyed("e", &[], 2),
        ]);
        assert_eq!(items(&batch), [("d", false), ("e", false)]);
        // The device may have b and c from a list, which has a notification before it is pushed.
        assert_eq!(batch.dismissed.unwrap().ids, ["a", "b", "c"]);
        assert_eq!(batch.unread_count, 2);
        // The device has the one that was replaced, also if the newer one was dismissed.
        for (events, ids) in [
            (vec![keyed("b", &["a"], 1)], &["a"][..]),
            (
                vec![keyed("b", &["a"], 1), dismissed(&["b"], 0)],
                &["a", "b"],
            ),
            (
                vec![keyed("b", &["a"], 1), keyed("c", &["b"], 1)],
                &["a", "b"],
            ),
        ] {
            let batch = sum(events);
            assert_eq!(batch.dismissed.unwrap().ids, ids);
            assert!(batch.items.iter().all(|item| item.replaces.is_empty()));
        }
    }

    #[test]
    fn reading_all_concerns_what_was_before() {
        let batch = sum(vec![
            note("b", Some(3)),
            read_all(None, 0),
            note("c", Some(1)),
        ]);
        assert_eq!(items(&batch), [("b", true), ("c", false)]);
        let older = batch.read.unwrap();
        assert_eq!((older.all, older.up_to), (true, None));
        let batch = sum(vec![
            note("c", Some(3)),
            read_all(Some("a"), 2),
            read_all(Some("c"), 0),
            read_all(Some("b"), 0),
        ]);
        assert_eq!(items(&batch), [("c", true)]);
        assert_eq!(batch.read.unwrap().up_to.as_deref(), Some("c"));
        let batch = sum(vec![read_all(None, 0), read_all(Some("b"), 0)]);
        assert_eq!(batch.read.unwrap().up_to, None);
    }

    #[test]
    fn a_broadcast_adds_one_to_a_known_count() {
        assert_eq!(sum_up(vec![note("b", None)], 1_000), None);
        let count = Data::UnreadCount(GetUnreadCountResponse { unread_count: 7 });
        let batch = sum(vec![note("b", None), count, note("c", None)]);
        assert_eq!((batch.items.len(), batch.unread_count), (2, 8));
    }

    #[test]
    fn a_batch_in_the_history_is_taken_apart() {
        let inner = NotificationBatch {
            items: vec![Notification {
                id: "b".to_owned(),
                ..Notification::default()
            }],
            unread_count: 4,
            ..NotificationBatch::default()
        };
        let batch = sum(vec![Data::NotificationBatch(inner), note("c", None)]);
        assert_eq!((items(&batch).len(), batch.unread_count), (2, 5));
    }

    #[test]
    fn a_page_has_the_newest_and_says_where_to_go_on() {
        let many = |count: u64| {
            let events = (1..=count).map(|number| note(&format!("{number:04}"), Some(number)));
            events.collect::<Vec<_>>()
        };
        let batch = sum(many(1_000));
        assert_eq!(batch.items.len(), ITEMS);
        assert_eq!(batch.items[0].id, "0951");
        assert_eq!(batch.next.as_deref(), Some("0951"));
        assert_eq!(batch.unread_count, 1_000);
        let small = sum_up(many(20), 100).unwrap();
        assert!((1..10).contains(&small.items.len()), "{small:?}");
        assert_eq!(small.items.last().unwrap().id, "0020");
        assert_eq!(sum(many(ITEMS as u64)).next, None);
        let ids: Vec<_> = (0..100).map(|number| format!("{number:026}")).collect();
        let ids: Vec<_> = ids.iter().map(String::as_str).collect();
        assert_eq!(sum_up(vec![read(&ids, 0)], 1_000), None, "nothing is cut");
    }
}
