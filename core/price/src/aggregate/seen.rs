//! Which trades of a symbol were counted, so that each is counted once.

use std::collections::VecDeque;

use crate::venue::{Trade, TradeId};

/// How many trades are remembered. There may be tens of thousands of these.
const REMEMBERED: usize = 128;

/// A trade this much below the highest has not come late: the venue counts anew.
const LATE: u64 = 1_000;

/// Numbers that are so far apart are no gap: the venue counts anew.
const FAR: u64 = 10_000_000;

/// The trades that came last. They are remembered across connections, as a venue may say
/// recent ones again on a new one.
///
/// Trades usually come with rising numbers, and then nothing is searched. A number
/// that does not rise is a repetition if it is remembered; else the trade came late, or
/// the venue counts anew. A venue gives a number once, so one that comes back with
/// another price is a fault of the venue, and the first word stands.
#[derive(Debug, Default)]
pub(super) struct Seen {
    series: Option<Series>,
    /// The highest number on this connection.
    newest: u64,
    /// The lower halves of the numbers.
    recent: VecDeque<u32>,
    /// The highest of them, in full.
    bound: u64,
    /// Whether nothing came yet on this connection.
    is_new: bool,
    /// The highest number on any connection.
    highest: u64,
    /// Trades that the numbers say there were, and that never came.
    missing: u64,
}

/// Which kind of numbers a connection counts by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Series {
    Single,
    /// Rising, with holes.
    Loose,
    Aggregate,
}

/// What a trade is to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Novelty {
    /// New, and so many before it never came.
    New { missing: u64 },
    /// Counted before, or told in the other kind of numbers too.
    Repeated,
}

impl Seen {
    pub(super) fn take(&mut self, trade: &Trade<'_>) -> Novelty {
        let (series, first, id) = match trade.id {
            TradeId::Single(id) => (Series::Single, id, id),
            TradeId::Run { first, last } => (Series::Single, first, last),
            TradeId::Loose(id) => (Series::Loose, id, id),
            TradeId::Aggregate(id) => (Series::Aggregate, id, id),
        };
        if self.is_new && self.series != Some(series) {
            // The numbers before are of the other kind: they say nothing of these.
            *self = Self {
                missing: self.missing,
                ..Self::default()
            };
        }
        self.is_new = false;
        if *self.series.get_or_insert(series) != series {
            return Novelty::Repeated;
        }
        if id <= self.bound && self.recent.contains(&low(id)) {
            self.newest = self.newest.max(id);
            return Novelty::Repeated;
        }
        self.recent.push_back(low(id));
        self.bound = self.bound.max(id);
        if self.recent.len() > REMEMBERED {
            self.forget_oldest();
        }
        let missing = if series == Series::Loose {
            0
        } else {
            self.gap(first, id)
        };
        self.newest = self.newest.max(id);
        Novelty::New { missing }
    }

    /// How many trades are missing before this one. On a new connection, those of the
    /// time between are missing too. Trades that come late fill their gap.
    fn gap(&mut self, first: u64, last: u64) -> u64 {
        let expected = self.highest.saturating_add(1);
        if self.highest == 0 || self.highest.saturating_sub(last) > LATE {
            // The first one, or the venue counts anew.
            self.highest = last;
            return 0;
        }
        if last < expected {
            let count = (last - first.min(last)).saturating_add(1);
            self.missing = self.missing.saturating_sub(count);
            return 0;
        }
        let missing = first.saturating_sub(expected);
        self.highest = last;
        if missing > FAR {
            return 0;
        }
        self.missing = self.missing.saturating_add(missing);
        missing
    }

    /// How many of the venue's trades never came.
    pub(super) fn missing(&self) -> u64 {
        self.missing
    }

    fn forget_oldest(&mut self) {
        let oldest = self.recent.pop_front();
        // Only where the venue counts anew is the oldest the highest.
        if oldest == Some(low(self.bound)) {
            // They are near each other: the upper halves are the same, or one less.
            let upper = self.bound & !u64::from(u32::MAX);
            let highest = self.recent.iter().copied().max().unwrap_or(0);
            self.bound = upper | u64::from(highest);
            self.newest = self.newest.min(self.bound);
        }
    }

    /// Whether a trade with a higher number came before this one.
    pub(super) fn is_overtaken(&self, id: TradeId) -> bool {
        let (TradeId::Single(id)
        | TradeId::Aggregate(id)
        | TradeId::Loose(id)
        | TradeId::Run { last: id, .. }) = id;
        id < self.newest
    }

    /// Whether the trade of this number is newer than all that came. `None` where
    /// that cannot be told.
    pub(super) fn is_newer(&self, id: u64) -> Option<bool> {
        (self.series? == Series::Single && !self.is_new).then_some(id > self.newest)
    }

    /// On a new connection a venue may count anew, and may say again what it said on the
    /// old one: only which trades were counted is known of it.
    pub(super) fn reconnected(&mut self) {
        self.newest = 0;
        self.is_new = true;
    }
}

/// Enough of a number to tell it from those near it.
fn low(id: u64) -> u32 {
    id as u32
}

#[cfg(test)]
mod tests {
    use rust_decimal::Decimal;

    use super::*;

    fn trade(id: TradeId, price: i64) -> Trade<'static> {
        Trade {
            name: "X".into(),
            id,
            price: price.into(),
            size: crate::venue::Size::Base(Decimal::ONE),
            side: tidewire_proto::v1::TradeSide::Unspecified,
            venue_time_us: None,
        }
    }

    fn count(seen: &mut Seen, ids: impl IntoIterator<Item = u64>) -> usize {
        ids.into_iter()
            .filter(|id| seen.take(&trade(TradeId::Single(*id), 1)) != Novelty::Repeated)
            .count()
    }

    #[test]
    fn each_trade_is_new_once() {
        let mut seen = Seen::default();
        assert_eq!(count(&mut seen, [5, 5, 6, 5, 9, 8, 8, 9]), 4);
        // Also with another price.
        assert_eq!(seen.take(&trade(TradeId::Single(5), 2)), Novelty::Repeated);
        // Said again on a new connection.
        seen.reconnected();
        assert_eq!(seen.is_newer(9), None);
        assert_eq!(count(&mut seen, [5, 6, 8, 9, 10]), 1);
        // The other kind of numbers, on another one.
        seen.reconnected();
        let other = seen.take(&trade(TradeId::Aggregate(5), 1));
        assert_eq!(other, Novelty::New { missing: 0 });
        assert_eq!(count(&mut seen, [11]), 0);
    }

    #[test]
    fn a_venue_may_count_anew() {
        let mut seen = Seen::default();
        assert_eq!(count(&mut seen, 1_000..2_000), 1_000);
        assert_eq!(count(&mut seen, 1..500), 499);
        assert_eq!(seen.is_newer(500), Some(true));
        assert!(seen.recent.len() <= REMEMBERED);
    }

    #[test]
    fn trades_told_in_two_ways_count_once() {
        let mut seen = Seen::default();
        let first = seen.take(&trade(TradeId::Aggregate(1), 1));
        assert_eq!(first, Novelty::New { missing: 0 });
        assert_eq!(count(&mut seen, [100, 101]), 0);
        assert_eq!(seen.is_newer(100), None);
    }
    #[test]
    fn gaps_are_counted_and_filled_by_what_comes_late() {
        let mut seen = Seen::default();
        let missing = |seen: &mut Seen, id| match seen.take(&trade(id, 1)) {
            Novelty::New { missing } => missing,
            Novelty::Repeated => panic!("repeated"),
        };
        let single = TradeId::Single;
        assert_eq!(missing(&mut seen, single(100)), 0);
        assert_eq!(missing(&mut seen, single(101)), 0);
        assert_eq!(missing(&mut seen, single(105)), 3);
        assert_eq!((missing(&mut seen, single(103)), seen.missing()), (0, 2));
        // Of 106 to 110 all are told.
        let run = |first, last| TradeId::Run { first, last };
        assert_eq!(missing(&mut seen, run(106, 110)), 0);
        assert_eq!(missing(&mut seen, run(112, 113)), 1);
        // On a new connection what came between is missing.
        seen.reconnected();
        assert_eq!((missing(&mut seen, single(120)), seen.missing()), (6, 9));
        // It counts anew.
        seen.reconnected();
        assert_eq!(missing(&mut seen, single(1_000_000_000)), 0);
        assert_eq!(missing(&mut seen, single(5)), 0);
        assert_eq!((missing(&mut seen, single(7)), seen.missing()), (1, 10));
        let mut loose = Seen::default();
        missing(&mut loose, TradeId::Loose(1));
        assert_eq!(missing(&mut loose, TradeId::Loose(9)), 0);
    }
}
