//! Dedup: counts each trade of a symbol once, and finds missing ones.
//!
//! Venues repeat trades: after a reconnect, on the second of two overlapping connections, or as
//! single and aggregate trades. They also lose some. Both show in the venue's trade numbers.
//!
//! A number that was seen before is a duplicate, on any connection, whenever it comes; see
//! [`seen_numbers`](super::seen_numbers). A venue uses a number once, so a repeated number with
//! another price is the venue's error, and the first one stands. A lower number that was not seen
//! is a late trade. Far below the highest, the venue restarted its numbering, and may soon use the
//! numbers of the old one again. When the new numbering reaches those after a minute, the old ones
//! are forgotten. Until then they are repetitions, for example of a connection that is behind.
//!
//! A number that is far too high is no proof of missing trades either. If the numbers go on from
//! before it, its gap is taken back.
//!
//! Worked example: the numbers 100, 101, 105, 103, 105 arrive. 105 reveals a gap of 3 (102 to 104).
//! 103 is late, counts, and leaves 2 missing. The second 105 is a duplicate. After a reconnect the
//! venue sends 101 and 108: 101 is a duplicate, and 108 reveals 2 more (106 and 107).

use super::seen_numbers::{NumberRanges, NumberSet};
use crate::{clock::ClockStep, venue::TradeId};

/// A number further below the highest is not a late trade: the venue restarted its numbering.
const MAX_LATENESS: u64 = 1_000;

/// A larger step is not a gap: the venue restarted its numbering.
const MAX_GAP: u64 = 10_000_000;

/// How long after a restart the numbers of the old numbering are still repetitions, in
/// microseconds. Venues repeat trades for half a minute.
const OLD_NUMBERS_US: i64 = 60_000_000;

/// The trade numbers of one quote. They are remembered across connections, because a venue may
/// repeat recent trades on a new one.
#[derive(Debug, Default)]
pub(super) struct TradeDedup {
    seen: SeenNumbers,
    /// The highest number on this connection.
    newest: u64,
    /// Whether no trade arrived yet on this connection.
    is_first_on_connection: bool,
    /// The highest number on any connection.
    highest: u64,
    /// The first number of this numbering. Those below it are not missing.
    origin: u64,
    /// When the venue restarted its numbering, in microseconds since the Unix epoch. None once the
    /// old numbers go on, or are forgotten.
    restarted_us: Option<i64>,
    /// The last great gap, until it is known whether the number after it was right.
    jump: Option<Jump>,
    /// Trades that the numbers prove and that did not arrive.
    missing: u64,
}

/// A step of the numbers that is wider than a late trade can be.
#[derive(Debug, Clone, Copy)]
struct Jump {
    /// The highest number before it.
    from: u64,
    missing: u64,
}

/// The numbers that have arrived, by their kind.
#[derive(Debug, Default)]
enum SeenNumbers {
    /// None yet.
    #[default]
    None,
    Single(NumberRanges),
    Aggregate(NumberRanges),
    /// Rising, with holes.
    Sparse(NumberSet),
}

/// Whether a trade is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Novelty {
    /// It is new. `missing` trades before it did not arrive.
    New { missing: u64 },
    /// It was counted before, or comes with a second kind of numbers.
    Duplicate,
}

impl SeenNumbers {
    fn of_kind(id: TradeId) -> Self {
        match id {
            TradeId::Single(_) | TradeId::Range { .. } => Self::Single(NumberRanges::default()),
            TradeId::Aggregate(_) => Self::Aggregate(NumberRanges::default()),
            TradeId::Sparse(_) | TradeId::Hashed(_) => Self::Sparse(NumberSet::default()),
        }
    }

    fn is_kind_of(&self, id: TradeId) -> bool {
        matches!(
            (self, id),
            (Self::Single(_), TradeId::Single(_) | TradeId::Range { .. })
                | (Self::Aggregate(_), TradeId::Aggregate(_))
                | (Self::Sparse(_), TradeId::Sparse(_) | TradeId::Hashed(_))
        )
    }

    fn contains(&self, first: u64, last: u64) -> bool {
        match self {
            Self::None => false,
            Self::Single(ranges) | Self::Aggregate(ranges) => ranges.contains(first, last),
            Self::Sparse(set) => set.contains(last),
        }
    }

    fn insert(&mut self, first: u64, last: u64, now_us: i64) {
        match self {
            Self::None => {}
            Self::Single(ranges) | Self::Aggregate(ranges) => ranges.insert(first, last),
            Self::Sparse(set) => set.insert(last, now_us),
        }
    }

    /// Forgets the numbers above this one.
    fn forget_above(&mut self, number: u64) {
        if let Self::Single(ranges) | Self::Aggregate(ranges) = self {
            ranges.forget_above(number);
        }
    }
}

impl TradeDedup {
    /// Whether a trade of this number, which arrived at `now_us`, was counted before, or comes with
    /// a second kind of numbers.
    pub(super) fn is_repeated(&mut self, id: TradeId, now_us: i64) -> bool {
        if !self.seen.is_kind_of(id) {
            // Another connection may use another kind of numbers.
            return !self.is_first_on_connection && !matches!(self.seen, SeenNumbers::None);
        }
        let (first, last) = bounds(id);
        let is_repeated = self.seen.contains(first, last) && !self.is_reused(last, now_us);
        if is_repeated {
            self.is_first_on_connection = false;
            self.newest = self.newest.max(last);
        }
        is_repeated
    }

    /// Whether this number is of the restarted numbering, even if the old one had it too.
    fn is_reused(&self, number: u64, now_us: i64) -> bool {
        let step = number.saturating_sub(self.highest);
        (1..=MAX_LATENESS).contains(&step)
            && self
                .restarted_us
                .is_some_and(|at_us| now_us.saturating_sub(at_us) >= OLD_NUMBERS_US)
    }

    /// Counts a trade that arrived at `now_us`.
    pub(super) fn observe(&mut self, id: TradeId, now_us: i64) -> Novelty {
        if self.is_repeated(id, now_us) {
            return Novelty::Duplicate;
        }
        if !self.seen.is_kind_of(id) {
            // Numbers of the other kind are not comparable with these.
            *self = Self {
                missing: self.missing,
                seen: SeenNumbers::of_kind(id),
                ..Self::default()
            };
        }
        self.is_first_on_connection = false;
        let (first, last) = bounds(id);
        let missing = match self.seen {
            SeenNumbers::Sparse(_) => 0,
            _ => self.count_missing(first, last, now_us),
        };
        self.seen.insert(first, last, now_us);
        self.newest = self.newest.max(last);
        Novelty::New { missing }
    }

    /// The trades missing before this one, which is new. After a reconnect these include trades
    /// made in between. A late trade reduces the count.
    fn count_missing(&mut self, first: u64, last: u64, now_us: i64) -> u64 {
        if self.highest.saturating_sub(last) > MAX_LATENESS {
            self.take_back_jump(last);
        }
        if self.highest == 0 || self.highest.saturating_sub(last) > MAX_LATENESS {
            // The first trade, or the venue restarted its numbering.
            self.restarted_us = (self.highest > 0).then_some(now_us);
            (self.highest, self.origin, self.newest) = (last, first, last);
            return 0;
        }
        if last < self.highest {
            if first >= self.origin {
                let count = (last - first).saturating_add(1);
                self.missing = self.missing.saturating_sub(count);
            }
            return 0;
        }
        if self.is_reused(last, now_us) {
            self.seen.forget_above(self.highest);
            self.restarted_us = None;
        } else if last.saturating_sub(self.highest) > MAX_LATENESS {
            self.restarted_us = None;
        }
        let expected = self.highest.saturating_add(1);
        self.highest = last;
        let before = first.saturating_sub(1);
        if self.seen.contains(before, before) {
            return 0;
        }
        let missing = first.saturating_sub(expected);
        if missing > MAX_GAP {
            self.origin = first;
            return 0;
        }
        self.missing = self.missing.saturating_add(missing);
        self.jump = (missing > MAX_LATENESS).then_some(Jump {
            from: expected.saturating_sub(1),
            missing,
        });
        missing
    }

    /// Forgets the last great gap if the numbers go on from before it: the one after it was wrong.
    fn take_back_jump(&mut self, number: u64) {
        let goes_on = |jump: &mut Jump| jump.from.abs_diff(number) <= MAX_LATENESS;
        if let Some(jump) = self.jump.take_if(goes_on) {
            self.missing = self.missing.saturating_sub(jump.missing);
            (self.highest, self.newest) = (jump.from, jump.from);
        }
    }

    /// The venue's trades that did not arrive.
    pub(super) fn missing(&self) -> u64 {
        self.missing
    }

    /// Whether a trade with a higher number arrived before this one. Where numbers have no order, it
    /// may have.
    pub(super) fn is_overtaken(&self, id: TradeId) -> bool {
        matches!(id, TradeId::Hashed(_)) || bounds(id).1 < self.newest
    }

    /// Whether this number of a single trade is above all that arrived. `None` if the numbers are
    /// not comparable.
    pub(super) fn is_newer(&self, id: u64) -> Option<bool> {
        if !matches!(self.seen, SeenNumbers::Single(_)) {
            return None;
        }
        if self.seen.contains(id, id) {
            return Some(false);
        }
        (!self.is_first_on_connection).then_some(id > self.newest)
    }

    /// Moves its times by a step of the clock.
    pub(super) fn step_back(&mut self, step: ClockStep) {
        if let Some(restarted_us) = &mut self.restarted_us {
            step.apply(restarted_us);
        }
        if let SeenNumbers::Sparse(set) = &mut self.seen {
            set.step_back(step);
        }
    }

    /// Prepares for a new connection. The venue may restart its numbering or repeat trades, so old
    /// numbers only identify duplicates.
    pub(super) fn reconnected(&mut self) {
        self.newest = 0;
        self.is_first_on_connection = true;
    }
}

/// The first and the last number.
fn bounds(id: TradeId) -> (u64, u64) {
    match id {
        TradeId::Single(id)
        | TradeId::Sparse(id)
        | TradeId::Hashed(id)
        | TradeId::Aggregate(id) => (id, id),
        TradeId::Range { first, last } => (first.min(last), last),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_US: i64 = 1_750_000_000_000_000;

    fn count(dedup: &mut TradeDedup, ids: impl IntoIterator<Item = u64>) -> usize {
        count_as(dedup, ids.into_iter().map(TradeId::Single))
    }

    fn count_as(dedup: &mut TradeDedup, ids: impl IntoIterator<Item = TradeId>) -> usize {
        ids.into_iter()
            .filter(|id| dedup.observe(*id, NOW_US) != Novelty::Duplicate)
            .count()
    }

    #[test]
    fn the_worked_example_holds() {
        let mut dedup = TradeDedup::default();
        let mut observe = |id| match dedup.observe(TradeId::Single(id), NOW_US) {
            Novelty::New { missing } => Some((missing, dedup.missing())),
            Novelty::Duplicate => None,
        };
        let observed = [100, 101, 105, 103, 105].map(&mut observe);
        let expected = [Some((0, 0)), Some((0, 0)), Some((3, 3)), Some((0, 2)), None];
        assert_eq!(observed, expected);
        dedup.reconnected();
        let mut observe = |id| dedup.observe(TradeId::Single(id), NOW_US);
        assert_eq!(observe(101), Novelty::Duplicate);
        assert_eq!(observe(108), Novelty::New { missing: 2 });
    }

    #[test]
    fn each_trade_is_new_once() {
        let mut dedup = TradeDedup::default();
        assert_eq!(count(&mut dedup, [5, 5, 6, 5, 9, 8, 8, 9]), 4);
        // Repeated on a new connection.
        dedup.reconnected();
        assert_eq!(dedup.is_newer(9), Some(false));
        assert_eq!(dedup.is_newer(7), None);
        assert_eq!(count(&mut dedup, [5, 6, 8, 9, 10]), 1);
        // The other kind of numbers, on another connection.
        dedup.reconnected();
        assert!(!dedup.is_repeated(TradeId::Aggregate(5), NOW_US));
        let other = dedup.observe(TradeId::Aggregate(5), NOW_US);
        assert_eq!(other, Novelty::New { missing: 0 });
        assert_eq!(count(&mut dedup, [11]), 0);
    }

    /// The numbers of two connections, of which the second is `late` trades behind.
    fn overlapping(late: u64) -> impl Iterator<Item = u64> {
        (0..60_000).flat_map(move |number| {
            let repeated = (number >= late).then(|| 1_000_000 + number - late);
            [Some(1_000_000 + number), repeated].into_iter().flatten()
        })
    }

    #[test]
    fn two_connections_count_each_trade_once_however_far_apart() {
        // 60 ms, 500 ms and 30 s at 2,000 trades a second.
        for late in [120, 1_000, 59_999] {
            let mut dedup = TradeDedup::default();
            assert_eq!(count(&mut dedup, overlapping(late)), 60_000, "{late}");
            assert_eq!(dedup.missing(), 0);
            // A number of each has a hole before it.
            let sparse = overlapping(late).map(|number| TradeId::Sparse(number * 3));
            let mut dedup = TradeDedup::default();
            assert_eq!(count_as(&mut dedup, sparse), 60_000, "{late}");
        }
    }

    #[test]
    fn a_reconnect_that_repeats_trades_neither_counts_them_nor_fills_gaps() {
        let mut dedup = TradeDedup::default();
        assert_eq!(count(&mut dedup, (1_000..2_000).chain(2_007..2_200)), 1_193);
        assert_eq!(dedup.missing(), 7);
        dedup.reconnected();
        assert_eq!(count(&mut dedup, (1_900..2_000).chain(2_007..2_200)), 0);
        assert_eq!((count(&mut dedup, 2_200..2_300), dedup.missing()), (100, 7));
        // Trades from before the first one fill no gap.
        let mut dedup = TradeDedup::default();
        count(&mut dedup, [1_000, 1_005]);
        assert_eq!((count(&mut dedup, 900..910), dedup.missing()), (10, 4));
        assert_eq!((count(&mut dedup, 1_001..1_003), dedup.missing()), (2, 2));
    }

    #[test]
    fn one_wrong_number_is_no_restart_and_no_gap() {
        let mut dedup = TradeDedup::default();
        assert_eq!(count(&mut dedup, 50_000..60_000), 10_000);
        for wrong in [40, u64::MAX] {
            assert_eq!(count(&mut dedup, [wrong]), 1);
        }
        assert_eq!(
            (count(&mut dedup, 60_000..60_010), dedup.missing()),
            (10, 0)
        );
        assert_eq!(count(&mut dedup, 50_000..60_010), 0);
    }

    #[test]
    fn a_venue_may_restart_its_numbering() {
        let mut dedup = TradeDedup::default();
        assert_eq!(count(&mut dedup, 1_000..2_000), 1_000);
        // More than 1,000 below the highest.
        assert_eq!(count(&mut dedup, 1..500), 499);
        assert_eq!(dedup.is_newer(500), Some(true));
        assert_eq!((dedup.is_newer(499), dedup.missing()), (Some(false), 0));
    }

    #[test]
    fn a_restarted_numbering_may_use_remembered_numbers_again() {
        const SECOND_US: i64 = 1_000_000;
        let mut dedup = TradeDedup::default();
        assert_eq!(count(&mut dedup, 1_500..9_000), 7_500);
        let new = |dedup: &mut TradeDedup, id, seconds| {
            let at_us = NOW_US + seconds * SECOND_US;
            dedup.observe(TradeId::Single(id), at_us) != Novelty::Duplicate
        };
        // Ten trades a second, from 1 on. The numbers from 1,500 on come after 150 seconds.
        for id in 1..9_100 {
            assert!(new(&mut dedup, id, id as i64 / 10), "{id}");
        }
        assert!((1..9_100).all(|id| !new(&mut dedup, id, 910)));
        assert_eq!(dedup.missing(), 0);
        // A second connection that is far behind is no restart, whatever it alone has seen.
        let mut dedup = TradeDedup::default();
        assert_eq!(count(&mut dedup, (1_000..2_000).chain(2_001..9_000)), 7_999);
        for id in 2_000..9_000 {
            assert_eq!(new(&mut dedup, id, 1 + id as i64 / 1_000), id == 2_000);
        }
        // Nor is one wrong number, after which the market is quiet.
        assert!(new(&mut dedup, 40, 10) && new(&mut dedup, 9_000, 500));
        assert!((1_000..9_001).all(|id| !new(&mut dedup, id, 501)));
        // 2,000 came too late to fill its gap.
        assert_eq!(dedup.missing(), 1);
    }

    #[test]
    fn trades_with_two_kinds_of_numbers_count_once() {
        let mut dedup = TradeDedup::default();
        let first = dedup.observe(TradeId::Aggregate(1), NOW_US);
        assert_eq!(first, Novelty::New { missing: 0 });
        assert!(dedup.is_repeated(TradeId::Single(100), NOW_US));
        assert_eq!(count(&mut dedup, [100, 101]), 0);
        assert_eq!(dedup.is_newer(100), None);
    }

    #[test]
    fn gaps_are_counted_and_filled_by_late_trades() {
        let mut dedup = TradeDedup::default();
        let missing = |dedup: &mut TradeDedup, id| match dedup.observe(id, NOW_US) {
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
