//! Which trades of a symbol were counted, so that each is counted once.

use std::collections::VecDeque;

use crate::venue::{Trade, TradeId};

/// How many trades are remembered.
const REMEMBERED: usize = 256;

/// The trades that came last on a connection.
///
/// Trades usually come with rising numbers, and then nothing is searched. A number
/// that does not rise is a repetition if it is remembered; else the trade came late, or
/// the venue counts anew. A venue gives a number once, so one that comes back with
/// another price is a fault of the venue, and the first word stands.
#[derive(Debug, Default)]
pub(super) struct Seen {
    series: Option<Series>,
    newest: u64,
    recent: VecDeque<u64>,
}

/// Which kind of numbers a connection counts by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Series {
    Single,
    Aggregate,
}

/// What a trade is to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Novelty {
    New,
    /// Counted before, or told in the other kind of numbers too.
    Repeated,
}

impl Seen {
    pub(super) fn take(&mut self, trade: &Trade<'_>) -> Novelty {
        let (series, id) = match trade.id {
            TradeId::Single(id) => (Series::Single, id),
            TradeId::Aggregate(id) => (Series::Aggregate, id),
        };
        if *self.series.get_or_insert(series) != series {
            return Novelty::Repeated;
        }
        if id <= self.newest && self.recent.contains(&id) {
            return Novelty::Repeated;
        }
        self.recent.push_back(id);
        self.newest = self.newest.max(id);
        if self.recent.len() > REMEMBERED {
            self.forget_oldest();
        }
        Novelty::New
    }

    fn forget_oldest(&mut self) {
        let oldest = self.recent.pop_front();
        // Only where the venue counts anew is the oldest the highest.
        if oldest == Some(self.newest) {
            self.newest = self.recent.iter().copied().max().unwrap_or(0);
        }
    }

    /// Whether a trade with a higher number came before this one.
    pub(super) fn is_overtaken(&self, id: TradeId) -> bool {
        let (TradeId::Single(id) | TradeId::Aggregate(id)) = id;
        id < self.newest
    }

    /// Whether the trade of this number is newer than all that came. `None` where
    /// that cannot be told.
    pub(super) fn is_newer(&self, id: u64) -> Option<bool> {
        (self.series? == Series::Single).then_some(id > self.newest)
    }

    /// On a new connection a venue may count anew.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
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
            size: Decimal::ONE,
            side: tidewire_proto::v1::TradeSide::Unspecified,
            venue_time_us: None,
        }
    }

    fn count(seen: &mut Seen, ids: impl IntoIterator<Item = u64>) -> usize {
        ids.into_iter()
            .filter(|id| seen.take(&trade(TradeId::Single(*id), 1)) == Novelty::New)
            .count()
    }

    #[test]
    fn each_trade_is_new_once() {
        let mut seen = Seen::default();
        assert_eq!(count(&mut seen, [5, 5, 6, 5, 9, 8, 8, 9]), 4);
        // Also with another price.
        assert_eq!(seen.take(&trade(TradeId::Single(5), 2)), Novelty::Repeated);
        seen.forget();
        assert_eq!(count(&mut seen, [5, 6]), 2);
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
        assert_eq!(seen.take(&trade(TradeId::Aggregate(1), 1)), Novelty::New);
        assert_eq!(count(&mut seen, [100, 101]), 0);
        assert_eq!(seen.is_newer(100), None);
    }
}
