//! Page of notifications: the part of a listed page that fits in a message.

use tidewire_notification::NotificationPage;
use tidewire_proto::{json, v1::ListNotificationsResponse};

/// The whole page as a response.
pub(super) fn response_of(page: NotificationPage) -> ListNotificationsResponse {
    ListNotificationsResponse {
        items: page.items,
        unread_count: page.unread_count,
        next: page.next.map(|id| id.to_string()),
    }
}

/// The first items of a page, up to about `bytes` of JSON, and at least one.
pub(super) fn page_within(
    page: ListNotificationsResponse,
    bytes: usize,
) -> ListNotificationsResponse {
    let ListNotificationsResponse {
        mut items,
        unread_count,
        mut next,
    } = page;
    let (mut kept, mut used) = (0, 0_usize);
    for item in &items {
        used = used.saturating_add(json::to_vec(item).len());
        if used > bytes && kept > 0 {
            break;
        }
        kept += 1;
    }
    if kept < items.len() {
        items.truncate(kept);
        next = items.last().map(|item| item.id.clone());
    }
    ListNotificationsResponse {
        items,
        unread_count,
        next,
    }
}

#[cfg(test)]
mod tests {
    use tidewire_proto::v1::Notification;

    use super::*;

    fn item(id: &str, body: usize) -> Notification {
        Notification {
            id: id.to_owned(),
            body: "b".repeat(body),
            ..Notification::default()
        }
    }

    fn page(items: Vec<Notification>) -> ListNotificationsResponse {
        ListNotificationsResponse {
            items,
            unread_count: 3,
            next: None,
        }
    }

    #[test]
    fn a_page_ends_where_the_room_ends() {
        let items = vec![item("c", 400), item("b", 400), item("a", 400)];
        let whole = page_within(page(items.clone()), 10_000);
        assert_eq!((whole.items.len(), whole.next), (3, None));
        let cut = page_within(page(items.clone()), 1_200);
        assert_eq!((cut.items.len(), cut.next.as_deref()), (2, Some("b")));
        assert_eq!(cut.unread_count, 3);
        // A page always goes on, however little room there is.
        let least = page_within(page(items), 1);
        assert_eq!((least.items.len(), least.next.as_deref()), (1, Some("c")));
        assert!(page_within(page(Vec::new()), 1).items.is_empty());
    }
}
