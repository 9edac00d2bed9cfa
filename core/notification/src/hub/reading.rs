//! Lists: pages of a user's notifications and broadcasts, newest first.
//!
//! A page merges the inbox and the live broadcasts by id, under the user's lock; so its count
//! and its items belong together. The cursor is an id, not a number: notifications that arrive
//! between two pages move nothing.

use std::collections::VecDeque;

use tidewire_proto::v1::{ListNotificationsRequest, Notification};

use super::{NotificationHub, parse_id};
use crate::{
    NotificationError, NotificationId, broadcast, draft,
    hub_core::HubCore,
    id::Order,
    inbox::{self, Entry},
    kind::{Class, Kind},
    record, tables,
    work::{self, Work},
};

/// Items of a page if the request names no number.
const DEFAULT_LIMIT: u32 = 50;

/// Items of a page at most.
const MAX_LIMIT: u32 = 500;

/// Blocks of an inbox in one read.
const BLOCKS: usize = 16;

/// Filter and cursor of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListQuery {
    limit: usize,
    before: Option<NotificationId>,
    is_unread_only: bool,
    kinds: Vec<Kind>,
    /// Numbers on the wire.
    priorities: Vec<i32>,
}

/// A page of notifications.
#[derive(Debug, Clone, PartialEq)]
pub struct NotificationPage {
    /// Newest first.
    pub items: Vec<Notification>,
    /// Number of unread notifications of the user, whatever the filter.
    pub unread_count: u64,
    /// The `before` of the next page. None on the last page.
    pub next: Option<NotificationId>,
}

/// An item of a page, without its text.
pub(super) struct ListedItem {
    pub(super) order: Order,
    pub(super) class: Class,
    pub(super) is_read: bool,
    pub(super) expires_at_ms: Option<i64>,
    pub(super) is_broadcast: bool,
}

impl NotificationHub {
    /// Checks a request to list notifications.
    ///
    /// # Errors
    /// A field is refused.
    pub fn list_query(
        &self,
        request: &ListNotificationsRequest,
    ) -> Result<ListQuery, NotificationError> {
        let limit = request.limit.unwrap_or(DEFAULT_LIMIT);
        if limit == 0 || limit > MAX_LIMIT {
            let problem = format!("{limit}, expected 1 to {MAX_LIMIT}");
            return Err(NotificationError::invalid("limit", problem));
        }
        let before = request.before.as_deref();
        let before = before.map(|text| parse_id("before", text)).transpose()?;
        let kinds = self
            .0
            .kinds
            .find_all("types", &request.types, &request.custom_types)?;
        let priorities = request.priorities.iter().enumerate();
        let priorities = priorities.map(|(place, number)| match *number {
            1..=4 => Ok(*number),
            _ => {
                let problem = format!("{number}, expected one of low, medium, high, urgent");
                Err(NotificationError::invalid(
                    format!("priorities[{place}]"),
                    problem,
                ))
            }
        });
        Ok(ListQuery {
            limit: limit as usize,
            before,
            is_unread_only: request.unread_only.unwrap_or(false),
            kinds,
            priorities: priorities.collect::<Result<_, _>>()?,
        })
    }

    /// Lists a user's notifications and broadcasts, newest first.
    ///
    /// # Errors
    /// The user's id is malformed, or the store cannot be read.
    pub async fn list(
        &self,
        user: &str,
        query: &ListQuery,
    ) -> Result<NotificationPage, NotificationError> {
        let core = &*self.0;
        let user = draft::check_user("user", user)?;
        self.read_user(&user, async |work| {
            work.load([&user], Vec::new()).await?;
            let unread_count = work.unread(&user);
            let mut items = find(core, work, &user, query).await?;
            let has_more = items.len() > query.limit;
            items.truncate(query.limit);
            let next = items
                .last()
                .filter(|_| has_more)
                .map(|item| core.id(item.order));
            let items = read_texts(core, &items).await?;
            Ok(NotificationPage {
                items,
                unread_count,
                next,
            })
        })
        .await
    }
}

impl ListQuery {
    fn matches(&self, class: Class) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&class.kind()))
            && (self.priorities.is_empty() || self.priorities.contains(&class.priority().into()))
    }
}

/// The items of a page, and one more if there are more.
pub(super) async fn find(
    core: &HubCore,
    work: &mut Work<'_>,
    user: &tidewire_stream::UserId,
    query: &ListQuery,
) -> Result<Vec<ListedItem>, NotificationError> {
    let before = query.before.map_or(Order(u64::MAX), |id| id.order);
    let (live, time) = (work.live.clone(), work.time);
    let inbox = work.inbox(user);
    let state = &inbox.state;
    let (visibility, floor) = (state.visibility(), core.floor(state));
    let is_shown = |class: Class, is_read: bool| {
        visibility.shows(class) && query.matches(class) && !(query.is_unread_only && is_read)
    };
    let mut broadcasts = live
        .before(before)
        .take_while(|broadcast| broadcast.order >= floor);
    let mut next_broadcast = || {
        broadcasts.find_map(|broadcast| {
            let mark = state.mark(broadcast.order);
            let is_read = broadcast.order <= state.broadcast_watermark || mark.is_some();
            let is_dismissed = mark.is_some_and(|mark| mark.is_dismissal);
            (!is_dismissed && is_shown(broadcast.class, is_read)).then_some(ListedItem {
                order: broadcast.order,
                class: broadcast.class,
                is_read,
                expires_at_ms: broadcast.expires_at_ms,
                is_broadcast: true,
            })
        })
    };
    let listed = |entry: &Entry| {
        let is_read = state.is_read(entry);
        let is_hidden = time.hides(entry.expires_at_ms);
        (entry.order < before && !is_hidden && is_shown(entry.class, is_read)).then_some(
            ListedItem {
                order: entry.order,
                class: entry.class,
                is_read,
                expires_at_ms: entry.expires_at_ms,
                is_broadcast: false,
            },
        )
    };
    let mut direct: VecDeque<ListedItem> = match &inbox.blocks {
        // All entries are in memory: there is no block, or something has just expired.
        Some(_) => inbox.entries().rev().filter_map(listed).collect(),
        None => state.head.iter().rev().filter_map(listed).collect(),
    };
    let prefix = tables::blocks_of(user);
    // The newest block whose first entry is before the cursor.
    let mut after = (before.0 < u64::MAX).then(|| tables::block(user, before));
    let mut has_more = inbox.blocks.is_none();
    let mut items = Vec::new();
    let mut broadcast = next_broadcast();
    while items.len() <= query.limit {
        if direct.is_empty() && has_more {
            let page = core
                .store
                .scan(tables::BLOCKS, prefix.clone(), after.take(), BLOCKS)
                .await?;
            has_more = page.len() == BLOCKS;
            after = page.last().map(|(key, _)| key.clone());
            for (_, value) in &page {
                direct.extend(record::decode_block(value)?.iter().rev().filter_map(listed));
            }
            continue;
        }
        let newest_direct = direct.front().map(|item| item.order);
        let item = match (newest_direct, &broadcast) {
            (Some(order), Some(other)) if order > other.order => direct.pop_front(),
            (Some(_), None) => direct.pop_front(),
            _ => std::mem::replace(&mut broadcast, next_broadcast()),
        };
        match item {
            Some(item) => items.push(item),
            None => break,
        }
    }
    Ok(items)
}

/// Finds the unread notifications among some of a user. Reads the blocks that may have one, and
/// none for what the watermark covers. `orders` are sorted, newest first.
pub(super) async fn find_unread(
    core: &HubCore,
    work: &mut Work<'_>,
    user: &tidewire_stream::UserId,
    orders: &[Order],
) -> Result<Vec<ListedItem>, NotificationError> {
    let live = work.live.clone();
    let inbox = work.inbox(user);
    let state = &inbox.state;
    let (visibility, floor) = (state.visibility(), core.floor(state));
    let mut items = Vec::new();
    let mut older = Vec::new();
    let mut add = |entry: &Entry| {
        if !state.is_read(entry) && visibility.shows(entry.class) {
            items.push(ListedItem {
                order: entry.order,
                class: entry.class,
                is_read: false,
                expires_at_ms: entry.expires_at_ms,
                is_broadcast: false,
            });
        }
    };
    let mut broadcasts = Vec::new();
    for order in orders {
        if let Some(broadcast) = live.get(*order) {
            let is_read = *order <= state.broadcast_watermark || state.mark(*order).is_some();
            if *order >= floor && !is_read && visibility.shows(broadcast.class) {
                broadcasts.push(ListedItem {
                    order: *order,
                    class: broadcast.class,
                    is_read: false,
                    expires_at_ms: broadcast.expires_at_ms,
                    is_broadcast: true,
                });
            }
        } else if *order > state.read_watermark {
            match inbox::find(&state.head, *order) {
                Some(entry) => add(entry),
                None => older.push(*order),
            }
        }
    }
    if let Some(blocks) = &inbox.blocks {
        let block_of = |order| blocks.iter().rfind(|block| block.key <= order);
        let found = |order: &Order| inbox::find(&block_of(*order)?.entries, *order);
        older.iter().filter_map(found).for_each(&mut add);
        older.clear();
    }
    let mut older = older.into_iter().peekable();
    while let Some(newest) = older.peek() {
        // Newest block first, from the one that may have it on.
        let after = tables::block(user, Order(newest.0.saturating_add(1)));
        let limit = older.size_hint().0.clamp(1, BLOCKS);
        let prefix = tables::blocks_of(user);
        let rows = core
            .store
            .scan(tables::BLOCKS, prefix, Some(after), limit)
            .await?;
        if rows.is_empty() {
            break;
        }
        for (key, value) in rows {
            let first =
                tables::block_order(&key).ok_or(NotificationError::Damaged("block of an inbox"))?;
            let mut entries: Option<Vec<Entry>> = None;
            while let Some(order) = older.next_if(|order| *order >= first) {
                let entries = match &mut entries {
                    Some(entries) => entries,
                    None => entries.insert(record::decode_block(&value)?),
                };
                if let Some(entry) = inbox::find(entries, order) {
                    add(entry);
                }
            }
        }
    }
    items.append(&mut broadcasts);
    Ok(items)
}

/// Reads the texts of items.
pub(super) async fn read_texts(
    core: &HubCore,
    items: &[ListedItem],
) -> Result<Vec<Notification>, NotificationError> {
    let texts = find_texts(core, items).await?.into_iter();
    let texts = texts.map(|text| text?.ok_or(NotificationError::Damaged("notification")));
    texts.collect()
}

/// Reads the texts of items, as far as the store has them.
pub(super) async fn find_texts(
    core: &HubCore,
    items: &[ListedItem],
) -> Result<Vec<Result<Option<Notification>, NotificationError>>, NotificationError> {
    let key = |item: &ListedItem| item.order.0.to_be_bytes().to_vec();
    let direct = items
        .iter()
        .filter(|item| !item.is_broadcast)
        .map(key)
        .collect::<Vec<_>>();
    let broadcasts = items.iter().filter(|item| item.is_broadcast);
    let broadcasts: Vec<_> = broadcasts
        .map(|item| (tables::BROADCASTS, key(item)))
        .collect();
    let mut direct = match direct.is_empty() {
        true => Vec::new().into_iter(),
        false => core
            .store
            .get_floor(tables::BODIES, direct)
            .await?
            .into_iter(),
    };
    let mut broadcasts = match broadcasts.is_empty() {
        true => Vec::new().into_iter(),
        false => core.store.get_many(broadcasts).await?.into_iter(),
    };
    let read = items.iter().map(|item| {
        let text = match item.is_broadcast {
            true => {
                let record = broadcasts.next().flatten();
                record
                    .map(|record| broadcast::decode(item.order, &record))
                    .transpose()?
                    .map(|(_, text)| text)
            }
            false => direct.next().flatten().and_then(|(first, chunk)| {
                let first = tables::order(&first)?;
                record::find_body(first, &chunk, item.order).map(<[u8]>::to_vec)
            }),
        };
        let Some(text) = text else { return Ok(None) };
        let notification =
            work::notification(core, item.order, item.class, item.expires_at_ms, &text)?;
        Ok(Some(Notification {
            read: item.is_read,
            ..notification
        }))
    });
    Ok(read.collect())
}
