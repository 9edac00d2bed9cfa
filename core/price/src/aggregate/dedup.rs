//! Dedup: counts each trade of a symbol once, and finds missing ones.
//!
//! Venues repeat trades: after a reconnect, on the second of two overlapping connections, or as
//! single and aggregate trades. They also lose some. Both show in the venue's trade numbers.
//!
//! Numbers usually rise, and then nothing is searched. A number that does not rise is a duplicate
//! if it is among the last 128. Otherwise the trade is late, or the venue restarted its numbering.
//! A venue uses a number once, so a repeated number with another price is the venue's error, and
//! the first one stands.
//!
//! Worked example: the numbers 100, 101, 105, 103, 105 arrive. 105 reveals a gap of 3 (102 to 104).
//! 103 is late, counts, and leaves 2 missing. The second 105 is a duplicate. After a reconnect the
//! venue sends 101 and 108: 101 is a duplicate, and 108 reveals 2 more (106 and 107).

use std::collections::VecDeque;

use crate::venue::{Trade, TradeId};

/// Trades remembered for each quote. There may be tens of thousands of quotes, so memory matters.
const REMEMBERED_TRADES: usize = 128;

/// A number further below the highest is not a late trade: the venue restarted its numbering.
const MAX_LATENESS: u64 = 1_000;

/// A larger step is not a gap: the venue restarted its numbering.
const MAX_GAP: u64 = 10_000_000;

/// The last trades of one quote. They are remembered across connections, because a venue may repeat
/// recent trades on a new one.
#[derive(Debug, Default)]
pub(super) struct TradeDedup {
    series: Option<NumberSeries>,
    /// The highest number on this connection.
    newest: u64,
    /// The lower halves of the last numbers.
    recent: VecDeque<u32>,
    /// The highest of `recent`, in full.
    highest_recent: u64,
    /// Whether no trade arrived yet on this connection.
    is_first_on_connection: bool,
    /// The highest number on any connection.
    highest: u64,
    /// Trades that the numbers prove and that did not arrive.
    missing: u64,
}

/// The kind of numbers that a connection uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NumberSeries {
    Single,
    /// Rising, with holes.
    Sparse,
    Aggregate,
}

/// Whether a trade is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Novelty {
    /// It is new. `missing` trades before it did not arrive.
    New { missing: u64 },
    /// It was counted before, or comes with a second kind of numbers.
    Duplicate,
}

impl TradeDedup {
    pub(super) fn observe(&mut self, trade: &Trade<'_>) -> Novelty {
        let (series, first, id) = match trade.id {
            TradeId::Single(id) => (NumberSeries::Single, id, id),
            TradeId::Range { first, last } => (NumberSeries::Single, first, last),
            TradeId::Sparse(id) => (NumberSeries::Sparse, id, id),
            TradeId::Aggregate(id) => (NumberSeries::Aggregate, id, id),
        };
        if self.is_first_on_connection && self.series != Some(series) {
            // Numbers of the other kind are not comparable with these.
            *self = Self {
                missing: self.missing,
                ..Self::default()
            };
        }
        self.is_first_on_connection = false;
        if *self.series.get_or_insert(series) != series {
            return Novelty::Duplicate;
        }
        if id <= self.highest_recent && self.recent.contains(&low_bits(id)) {
            self.newest = self.newest.max(id);
            return Novelty::Duplicate;
        }
        self.recent.push_back(low_bits(id));
        self.highest_recent = self.highest_recent.max(id);
        if self.recent.len() > REMEMBERED_TRADES {
            self.evict_oldest();
        }
        let missing = if series == NumberSeries::Sparse {
            0
        } else {
            self.count_missing(first, id)
        };
        self.newest = self.newest.max(id);
        Novelty::New { missing }
    }

    /// The trades missing before this one. After a reconnect these include trades made in between.
    /// A late trade reduces the count.
    fn count_missing(&mut self, first: u64, last: u64) -> u64 {
        let expected = self.highest.saturating_add(1);
        if self.highest == 0 || self.highest.saturating_sub(last) > MAX_LATENESS {
            // The first trade, or the venue restarted its numbering.
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
        if missing > MAX_GAP {
            return 0;
        }
        self.missing = self.missing.saturating_add(missing);
        missing
    }

    /// The venue's trades that did not arrive.
    pub(super) fn missing(&self) -> u64 {
        self.missing
    }

    fn evict_oldest(&mut self) {
        let oldest = self.recent.pop_front();
        // The oldest is the highest only after the venue restarted its numbering.
        if oldest == Some(low_bits(self.highest_recent)) {
            // Recent numbers are close together: their upper halves are the same, or one less.
            let upper = self.highest_recent & !u64::from(u32::MAX);
            let highest = self.recent.iter().copied().max().unwrap_or(0);
            self.highest_recent = upper | u64::from(highest);
            self.newest = self.newest.min(self.highest_recent);
        }
    }

    /// Whether a trade with a higher number arrived before this one.
    pub(super) fn is_overtaken(&self, id: TradeId) -> bool {
        let (TradeId::Single(id)
        | TradeId::Aggregate(id)
        | TradeId::Sparse(id)
        | TradeId::Range { last: id, .. }) = id;
        id < self.newest
    }

    /// Whether this number is above all that arrived. `None` if the numbers are not comparable.
    pub(super) fn is_newer(&self, id: u64) -> Option<bool> {
        (self.series? == NumberSeries::Single && !self.is_first_on_connection)
            .then_some(id > self.newest)
    }

    /// Prepares for a new connection. The venue may restart its numbering or repeat trades, so old
    /// numbers only identify duplicates.
    pub(super) fn reconnected(&mut self) {
        self.newest = 0;
        self.is_first_on_connection = true;
    }
}

/// Low bits of a number: enough to distinguish it from its neighbours.
fn low_bits(id: u64) -> u32 {
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

    fn count(dedup: &mut TradeDedup, ids: impl IntoIterator<Item = u64>) -> usize {
        ids.into_iter()
            .filter(|id| dedup.observe(&trade(TradeId::Single(*id), 1)) != Novelty::Duplicate)
            .count()
    }

    #[test]
    fn the_worked_example_holds() {
        let mut dedup = TradeDedup::default();
        let mut observe = |id| match dedup.observe(&trade(TradeId::Single(id), 1)) {
            Novelty::New { missing } => Some((missing, dedup.missing())),
            Novelty::Duplicate => None,
        };
        let observed = [100, 101, 105, 103, 105].map(&mut observe);
        let expected = [Some((0, 0)), Some((0, 0)), Some((3, 3)), Some((0, 2)), None];
        assert_eq!(observed, expected);
        dedup.reconnected();
        let mut observe = |id| dedup.observe(&trade(TradeId::Single(id), 1));
        assert_eq!(observe(101), Novelty::Duplicate);
        assert_eq!(observe(108), Novelty::New { missing: 2 });
    }

    #[test]
    fn each_trade_is_new_once() {
        let mut dedup = TradeDedup::default();
        assert_eq!(count(&mut dedup, [5, 5, 6, 5, 9, 8, 8, 9]), 4);
        // Also with another price.
        assert_eq!(
            dedup.observe(&trade(TradeId::Single(5), 2)),
            Novelty::Duplicate
        );
        // Repeated on a new connection.
        dedup.reconnected();
        assert_eq!(dedup.is_newer(9), None);
        assert_eq!(count(&mut dedup, [5, 6, 8, 9, 10]), 1);
        // The other kind of numbers, on another connection.
        dedup.reconnected();
        let other = dedup.observe(&trade(TradeId::Aggregate(5), 1));
        assert_eq!(other, Novelty::New { missing: 0 });
        assert_eq!(count(&mut dedup, [11]), 0);
    }

    #[test]
    fn a_venue_may_restart_its_numbering() {
        let mut dedup = TradeDedup::default();
        assert_eq!(count(&mut dedup, 1_000..2_000), 1_000);
        assert_eq!(count(&mut dedup, 1..500), 499);
        assert_eq!(dedup.is_newer(500), Some(true));
        assert!(dedup.recent.len() <= REMEMBERED_TRADES);
    }

    #[test]
    fn trades_with_two_kinds_of_numbers_count_once() {
        let mut dedup = TradeDedup::default();
        let first = dedup.observe(&trade(TradeId::Aggregate(1), 1));
        assert_eq!(first, Novelty::New { missing: 0 });
        assert_eq!(count(&mut dedup, [100, 101]), 0);
        assert_eq!(dedup.is_newer(100), None);
    }
    #[test]
    fn gaps_are_counted_and_filled_by_late_trades() {
        let mut dedup = TradeDedup::default();
        let missing = |dedup: &mut TradeDedup, id| match dedup.observe(&trade(id, 1)) {
            Novelty::New { missing } => missing,
            Novelty::Duplicate => panic!("repeated"),
        };
        let single = TradeId::Single;
        assert_eq!(missing(&mut dedup, single(100)), 0);
        assert_eq!(missing(&mut dedup, single(101)), 0);
        assert_eq!(missing(&mut dedup, single(105)), 3);
        assert_eq!((missing(&mut dedup, single(103)), dedup.missing()), (0, 2));
        // All of 106 to 110 arrive as one.
        let range = |first, last| TradeId::Range { first, last };
        assert_eq!(missing(&mut dedup, range(106, 110)), 0);
        assert_eq!(missing(&mut dedup, range(112, 113)), 1);
        // Trades made between two connections are missing.
        dedup.reconnected();
        assert_eq!((missing(&mut dedup, single(120)), dedup.missing()), (6, 9));
        // The venue restarts its numbering.
        dedup.reconnected();
        assert_eq!(missing(&mut dedup, single(1_000_000_000)), 0);
        assert_eq!(missing(&mut dedup, single(5)), 0);
        assert_eq!((missing(&mut dedup, single(7)), dedup.missing()), (1, 10));
        let mut sparse = TradeDedup::default();
        missing(&mut sparse, TradeId::Sparse(1));
        assert_eq!(missing(&mut sparse, TradeId::Sparse(9)), 0);
    }
}
