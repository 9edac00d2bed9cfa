//! Inbox of a user: a small state, and the entries of the notifications that the inbox lists.
//!
//! The changes here are pure: they read no store and no clock, so a test can compare them with a
//! naive model. `work` loads inboxes, lets these functions change them, and stores them.
//!
//! # Layout
//! The state holds the counts and the newest entries. When these are more than [`HEAD`], the
//! oldest of them move to a block, a record of its own. A new notification therefore reads and
//! writes the state alone; only a change of older entries loads the blocks.
//!
//! # Reading all
//! `mark_all` moves a watermark instead of changing entries: everything up to it counts as read.
//! Broadcasts have a watermark of their own, because a broadcast may be on its way to the store
//! while a newer notification is in the inbox already.

use std::collections::HashMap;

use smallvec::SmallVec;

use crate::{
    broadcast::LiveBroadcasts,
    counts::Visibility,
    hub_time::HubTime,
    id::Order,
    kind::{Class, Kind},
};

/// Newest entries that the state holds. They are read and written with each notification.
const HEAD: usize = 16;

/// Time at which a state without anything that can become due is due.
pub(crate) const NEVER_MS: i64 = i64::MAX;

/// An entry of an inbox: all of a notification but its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) order: Order,
    pub(crate) class: Class,
    /// Whether it was marked as read by itself. The watermark may cover it beside that.
    pub(crate) is_marked_read: bool,
    pub(crate) expires_at_ms: Option<i64>,
    /// Hash of the collapse key.
    pub(crate) collapse: Option<u64>,
}

/// A broadcast that a user has read or dismissed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BroadcastMark {
    pub(crate) order: Order,
    pub(crate) is_dismissal: bool,
}

/// State of a user: some tens of bytes in the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct UserState {
    /// When the user was first seen, in milliseconds since the Unix epoch.
    pub(crate) first_contact_ms: i64,
    /// Notifications in the inbox.
    pub(crate) items: u32,
    /// Blocks of older entries.
    pub(crate) blocks: u32,
    /// Notifications up to this one are read.
    pub(crate) read_watermark: Order,
    /// Broadcasts up to this one are read.
    pub(crate) broadcast_watermark: Order,
    /// No notification expires or gets too old before this time.
    pub(crate) next_due_ms: i64,
    /// The lowest visible priority, 0 for all.
    pub(crate) min_priority: u8,
    /// Hidden types.
    pub(crate) muted: SmallVec<[Kind; 4]>,
    /// Unread notifications by class, without broadcasts.
    pub(crate) unread: SmallVec<[(Class, u32); 4]>,
    /// Broadcasts after the watermark that were read, and those that were dismissed.
    pub(crate) marks: Vec<BroadcastMark>,
    /// The newest entries, oldest first.
    pub(crate) head: Vec<Entry>,
}

impl UserState {
    /// The state of a user who is seen for the first time.
    pub(crate) fn new(now_ms: i64) -> Self {
        Self {
            first_contact_ms: now_ms,
            next_due_ms: NEVER_MS,
            ..Self::default()
        }
    }

    /// Moves a first contact in the future to now: the clock was wrong then, and the user would
    /// see no broadcast until that time.
    pub(crate) fn correct_first_contact(&mut self, now_ms: i64) {
        self.first_contact_ms = self.first_contact_ms.min(now_ms);
    }

    pub(crate) fn is_read(&self, entry: &Entry) -> bool {
        entry.is_marked_read || entry.order <= self.read_watermark
    }

    pub(crate) fn visibility(&self) -> Visibility {
        Visibility {
            min_priority: self.min_priority,
            muted: self.muted.clone(),
        }
    }

    /// The user's mark on a broadcast.
    pub(crate) fn mark(&self, order: Order) -> Option<&BroadcastMark> {
        self.marks.iter().find(|mark| mark.order == order)
    }

    /// Whether a broadcast is in the user's list. `floor` is the first broadcast that is the user's.
    pub(crate) fn has_broadcast(&self, order: Order, live: &LiveBroadcasts, floor: Order) -> bool {
        let is_dismissed = || self.mark(order).is_some_and(|mark| mark.is_dismissal);
        order >= floor && live.get(order).is_some() && !is_dismissed()
    }

    fn add_unread(&mut self, class: Class) {
        match self.unread.iter_mut().find(|(known, _)| *known == class) {
            Some((_, count)) => *count += 1,
            None => self.unread.push((class, 1)),
        }
    }

    fn remove_unread(&mut self, class: Class) {
        if let Some((_, count)) = self.unread.iter_mut().find(|(known, _)| *known == class) {
            *count = count.saturating_sub(1);
        }
        self.unread.retain(|(_, count)| *count > 0);
    }
}

/// A block of older entries. Its key is the place that its first entry had at first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) key: Order,
    /// Oldest first.
    pub(crate) entries: Vec<Entry>,
    pub(crate) is_dirty: bool,
}

/// Rules of retention.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retention {
    pub(crate) max_items: usize,
    pub(crate) max_age_ms: i64,
}

impl Retention {
    /// Number of notifications that stay when an inbox is over the limit. Some room is made at
    /// once, because that reads and writes older entries.
    fn after_overflow(self) -> usize {
        self.max_items - self.max_items / 20
    }
}

/// A user's inbox while it is changed.
#[derive(Debug, Clone)]
pub(crate) struct Inbox {
    pub(crate) state: UserState,
    /// Older entries, oldest block first. None while they are not loaded.
    pub(crate) blocks: Option<Vec<Block>>,
    /// Blocks that were made while the others are not loaded.
    pub(crate) new_blocks: Vec<Block>,
    /// Notifications that the inbox no longer lists, whose texts can be removed.
    pub(crate) removed: Vec<Order>,
}

impl Inbox {
    pub(crate) fn new(state: UserState) -> Self {
        let blocks = (state.blocks == 0).then(Vec::new);
        Self {
            state,
            blocks,
            new_blocks: Vec::new(),
            removed: Vec::new(),
        }
    }

    /// All entries, oldest first. The blocks are loaded.
    pub(crate) fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        let older = self
            .blocks
            .iter()
            .flatten()
            .flat_map(|block| &block.entries);
        older.chain(&self.state.head)
    }

    /// The newest entry. The blocks are loaded if the head is empty.
    pub(crate) fn newest(&self) -> Order {
        let newest = self.entries().next_back();
        newest.map(|entry| entry.order).unwrap_or_default()
    }

    /// Adds a notification. Removes the one with the same collapse key, which it returns, and the
    /// oldest beyond the limit. The blocks are loaded if there is a collapse key, or if the inbox
    /// is full.
    pub(crate) fn insert(&mut self, entry: Entry, retention: Retention) -> Vec<Order> {
        let before = self.removed.len();
        if let Some(hash) = entry.collapse {
            self.remove_where(|entry| entry.collapse == Some(hash));
        }
        let replaced = self.removed[before..].to_vec();
        let age_due_ms = entry.order.time_ms().saturating_add(retention.max_age_ms);
        if self.state.items == 0 {
            self.state.next_due_ms = NEVER_MS;
        }
        let due_ms = entry.expires_at_ms.unwrap_or(NEVER_MS).min(age_due_ms);
        self.state.next_due_ms = self.state.next_due_ms.min(due_ms);
        // Places rise under the user's lock, so the newcomer is after the watermark.
        if !self.state.is_read(&entry) {
            self.state.add_unread(entry.class);
        }
        self.state.items += 1;
        self.state.head.push(entry);
        if self.state.head.len() > HEAD {
            self.spill();
        }
        if self.state.items as usize > retention.max_items {
            let surplus = self.state.items as usize - retention.after_overflow();
            let mut rank = 0;
            self.remove_where(|_| {
                rank += 1;
                rank <= surplus
            });
            self.update_due(retention);
        }
        replaced
    }

    /// Moves all but the newest entry of the head to a block.
    fn spill(&mut self) {
        let newest = self.state.head.split_off(self.state.head.len() - 1);
        let entries = std::mem::replace(&mut self.state.head, newest);
        let Some(first) = entries.first() else { return };
        let block = Block {
            key: first.order,
            entries,
            is_dirty: true,
        };
        self.state.blocks += 1;
        match &mut self.blocks {
            Some(blocks) => blocks.push(block),
            None => self.new_blocks.push(block),
        }
    }

    /// Removes entries, oldest first.
    fn remove_where(&mut self, mut is_removed: impl FnMut(&Entry) -> bool) {
        let Self {
            state,
            blocks,
            removed,
            ..
        } = self;
        let mut gone: Vec<Entry> = Vec::new();
        let mut emptied = 0;
        for block in blocks
            .iter_mut()
            .flatten()
            .filter(|block| !block.entries.is_empty())
        {
            let before = gone.len();
            gone.extend(block.entries.extract_if(.., |entry| is_removed(entry)));
            block.is_dirty |= gone.len() > before;
            emptied += u32::from(block.entries.is_empty());
        }
        state.blocks -= emptied;
        gone.extend(state.head.extract_if(.., |entry| is_removed(entry)));
        for entry in gone {
            if !state.is_read(&entry) {
                state.remove_unread(entry.class);
            }
            state.items -= 1;
            removed.push(entry.order);
        }
    }

    /// Removes what has expired and what is too old. The blocks are loaded.
    pub(crate) fn expire(&mut self, retention_ms: i64, retention: Retention) {
        self.remove_where(|entry| due_ms(entry, retention) <= retention_ms);
        self.update_due(retention);
    }

    /// The number of unread notifications that the user would see, and that have expired by a clock
    /// that is in doubt. The blocks are loaded if anything is due.
    pub(crate) fn hidden_unread(&self, time: HubTime) -> u64 {
        if self.state.next_due_ms > time.now_ms {
            return 0;
        }
        let visibility = self.state.visibility();
        let hidden = self.entries().filter(|entry| {
            time.hides(entry.expires_at_ms)
                && !self.state.is_read(entry)
                && visibility.shows(entry.class)
        });
        hidden.count() as u64
    }

    fn update_due(&mut self, retention: Retention) {
        let due = self.entries().map(|entry| due_ms(entry, retention)).min();
        self.state.next_due_ms = due.unwrap_or(NEVER_MS);
    }

    /// Whether a change of these notifications needs the blocks.
    pub(crate) fn needs_blocks(&self, orders: &[Order]) -> bool {
        let oldest = self.state.head.first().map(|entry| entry.order);
        let is_older = |order: &Order| oldest.is_none_or(|oldest| *order < oldest);
        self.blocks.is_none() && orders.iter().any(is_older)
    }

    /// Marks notifications and broadcasts as read. Returns those that the user has, and whether
    /// anything changed. The blocks are loaded if [`needs_blocks`](Self::needs_blocks).
    pub(crate) fn mark_read(
        &mut self,
        orders: &[Order],
        live: &LiveBroadcasts,
        floor: Order,
    ) -> (Vec<Order>, bool) {
        let (mut known, mut is_changed) = (Vec::new(), false);
        for order in orders {
            if self.state.has_broadcast(*order, live, floor) {
                known.push(*order);
                let is_read =
                    *order <= self.state.broadcast_watermark || self.state.mark(*order).is_some();
                if !is_read {
                    self.state.marks.push(BroadcastMark {
                        order: *order,
                        is_dismissal: false,
                    });
                    is_changed = true;
                }
                continue;
            }
            let Self { state, blocks, .. } = self;
            let found = find_mut(&mut state.head, *order).or_else(|| {
                let blocks = blocks.as_mut()?;
                let block = blocks.iter_mut().rfind(|block| block.key <= *order)?;
                let entry = find_mut(&mut block.entries, *order)?;
                block.is_dirty |= !entry.is_marked_read;
                Some(entry)
            });
            let Some(entry) = found else { continue };
            known.push(*order);
            let was_read = entry.is_marked_read || entry.order <= state.read_watermark;
            if !was_read {
                entry.is_marked_read = true;
                let class = entry.class;
                state.remove_unread(class);
                is_changed = true;
            }
        }
        (known, is_changed)
    }

    /// Removes notifications, and broadcasts for this user. Returns those that the user had. The
    /// blocks are loaded if [`needs_blocks`](Self::needs_blocks).
    pub(crate) fn dismiss(
        &mut self,
        orders: &[Order],
        live: &LiveBroadcasts,
        floor: Order,
    ) -> Vec<Order> {
        let mut gone = Vec::new();
        for order in orders {
            if self.state.has_broadcast(*order, live, floor) {
                self.state.marks.retain(|mark| mark.order != *order);
                self.state.marks.push(BroadcastMark {
                    order: *order,
                    is_dismissal: true,
                });
                gone.push(*order);
            }
        }
        let before = self.removed.len();
        self.remove_where(|entry| orders.contains(&entry.order));
        gone.extend(&self.removed[before..]);
        gone
    }

    /// Marks everything up to a place as read: notifications up to `direct`, broadcasts up to
    /// `broadcasts`. Returns whether anything changed. The blocks are loaded if
    /// [`needs_blocks`](Self::needs_blocks) says so of the place.
    pub(crate) fn mark_all(&mut self, direct: Order, broadcasts: Order) -> bool {
        let state = &mut self.state;
        let is_changed = direct > state.read_watermark || broadcasts > state.broadcast_watermark;
        state.broadcast_watermark = state.broadcast_watermark.max(broadcasts);
        let watermark = state.broadcast_watermark;
        state
            .marks
            .retain(|mark| mark.is_dismissal || mark.order > watermark);
        if direct <= state.read_watermark {
            return is_changed;
        }
        state.read_watermark = direct;
        let mut unread: HashMap<Class, u32> = HashMap::new();
        for entry in self
            .entries()
            .rev()
            .take_while(|entry| entry.order > direct)
        {
            if !entry.is_marked_read {
                *unread.entry(entry.class).or_default() += 1;
            }
        }
        let mut unread: SmallVec<_> = unread.into_iter().collect();
        unread.sort_unstable();
        self.state.unread = unread;
        is_changed
    }
}

/// When an entry expires or gets too old.
fn due_ms(entry: &Entry, retention: Retention) -> i64 {
    let too_old_ms = entry.order.time_ms().saturating_add(retention.max_age_ms);
    entry.expires_at_ms.unwrap_or(NEVER_MS).min(too_old_ms)
}

/// The entry of a place.
pub(crate) fn find(entries: &[Entry], order: Order) -> Option<&Entry> {
    entries.get(place(entries, order)?)
}

fn find_mut(entries: &mut [Entry], order: Order) -> Option<&mut Entry> {
    entries.get_mut(place(entries, order)?)
}

fn place(entries: &[Entry], order: Order) -> Option<usize> {
    let place = entries.binary_search_by_key(&order, |entry| entry.order);
    place.ok()
}
