//! Unread counts: a sum over classes, which reads no notification.
//!
//! ```text
//! unread = Σ over visible classes:  unread notifications of the class
//!                                 + live broadcasts of the class after the watermark
//!        − read or dismissed broadcasts of visible classes after the watermark
//! ```
//!
//! # Preferences are a view
//! Types that a user turned off, and priorities below the user's lowest one, are hidden from
//! list, count and push alike while the preference is set. Nothing is deleted: they appear again
//! when it is removed. `mark_all_read` covers hidden ones too. Urgent notifications and security
//! warnings are never hidden.

use smallvec::SmallVec;

use crate::{
    broadcast::LiveBroadcasts,
    id::Order,
    inbox::UserState,
    kind::{Class, Kind},
};

/// The classes that a user sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Visibility {
    /// The lowest visible priority, 0 for all.
    pub(crate) min_priority: u8,
    /// Hidden types.
    pub(crate) muted: SmallVec<[Kind; 4]>,
}

impl Visibility {
    /// Whether the user sees notifications of this class.
    pub(crate) fn shows(&self, class: Class) -> bool {
        class.is_exempt()
            || (class.priority() as u16 >= u16::from(self.min_priority)
                && !self.muted.contains(&class.kind()))
    }
}

/// The number of unread notifications and broadcasts that a user sees. `floor` is the first
/// broadcast that is the user's.
pub(crate) fn unread(state: &UserState, live: &LiveBroadcasts, floor: Order) -> u64 {
    let visibility = state.visibility();
    let direct = state
        .unread
        .iter()
        .filter(|(class, _)| visibility.shows(*class));
    let direct: u64 = direct.map(|(_, count)| u64::from(*count)).sum();
    let first = floor.max(Order(state.broadcast_watermark.0.saturating_add(1)));
    let broadcasts = live.classes().filter(|(class, _)| visibility.shows(*class));
    let broadcasts: usize = broadcasts
        .map(|(_, orders)| orders.len() - orders.partition_point(|order| *order < first))
        .sum();
    let is_exception = |order: Order| {
        order >= first
            && live
                .get(order)
                .is_some_and(|found| visibility.shows(found.class))
    };
    let exceptions = state
        .marks
        .iter()
        .filter(|mark| is_exception(mark.order))
        .count();
    direct + (broadcasts as u64).saturating_sub(exceptions as u64)
}
