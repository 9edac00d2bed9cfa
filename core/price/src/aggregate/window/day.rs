//! Day window: change and volume of 24 hours, for venues that do not report them.
//!
//! The window ends now and begins 24 hours ago, to the microsecond. The change is from the price
//! that was in force 24 hours ago, however old it was then. The volume is that of all trades since.
//! Until a day has passed, both begin with the first data. [`DayWindow::covered_us`] is the time
//! that was seen: without the time before the first data, and without lost connections.
//!
//! Worked example: trades at 100 at 0:00:00 and at 200 at 0:01:00, each of 1, and none since. At
//! 0:00:05 of the next day the change is + 100 %, because 100 was in force at 0:00:05, and the volume
//! is 200. From 0:01:00 on the change is 0 and the volume 0.
//!
//! Each change of the price and each trade is a piece. Beyond [`MAX_PIECES`], neighbours are merged
//! into pieces of at most two minutes. The part of a merged piece that lies in the window is
//! estimated by time, so the figures of a busy market are exact up to two minutes of 24 hours.

use std::collections::VecDeque;

use rust_decimal::{Decimal, prelude::ToPrimitive as _};

use crate::clock::ClockStep;

const DAY_US: i64 = 24 * 3_600 * 1_000_000;

/// Pieces of each quote in memory.
const MAX_PIECES: usize = 2_048;

/// The longest merged piece, in microseconds. A day holds twice as many merged pieces at most,
/// fewer than [`MAX_PIECES`].
const MERGED_US: i64 = DAY_US / 720;

/// Lost connections in memory. Beyond that, the oldest two count as one, with the time in between.
const MAX_HOLES: usize = 64;

/// The last 24 hours of one source.
#[derive(Debug, Default)]
pub(crate) struct DayWindow {
    pieces: VecDeque<Piece>,
    /// The sum of the pieces' values.
    sum: Decimal,
    /// The price in force before the first piece.
    before: Option<Decimal>,
    /// When the first data arrived, in microseconds since the Unix epoch, and its price.
    first: Option<(i64, Decimal)>,
    /// Whether any trade had a known size.
    is_traded: bool,
    /// When the source was not connected: from and until, in microseconds since the Unix epoch.
    holes: VecDeque<(i64, i64)>,
    /// Since when it is not connected.
    lost_us: Option<i64>,
}

/// Some prices, and what was traded at them.
#[derive(Debug, Clone, Copy)]
struct Piece {
    from_us: i64,
    until_us: i64,
    /// The last price.
    price: Decimal,
    /// In the quote currency.
    value: Decimal,
}

impl DayWindow {
    /// Adds the price in force from now on, and the value of a trade in the quote currency. A late
    /// trade has a price of its own, which is not in force.
    pub(crate) fn add(&mut self, price: Decimal, value: Option<Decimal>, now_us: i64) {
        self.first.get_or_insert((now_us, price));
        self.drop_before(now_us.saturating_sub(DAY_US));
        self.is_traded |= value.is_some();
        let value = value.unwrap_or_default();
        // A value that overflows is left out.
        let Some(sum) = self.sum.checked_add(value) else {
            return;
        };
        self.sum = sum;
        let last = self.pieces.back();
        // Also if the clock seems to have gone back.
        let now_us = now_us.max(last.map_or(i64::MIN, |last| last.until_us));
        let in_force = last.map(|last| last.price).or(self.before);
        if value.is_zero() && in_force == Some(price) {
            return;
        }
        self.pieces.push_back(Piece {
            from_us: now_us,
            until_us: now_us,
            price,
            value,
        });
        if self.pieces.len() > MAX_PIECES {
            self.merge_neighbours();
        }
    }

    /// Drops the pieces that ended by `start_us`.
    fn drop_before(&mut self, start_us: i64) {
        while let Some(first) = self
            .pieces
            .front()
            .filter(|piece| piece.until_us <= start_us)
        {
            self.before = Some(first.price);
            self.sum = self.sum.saturating_sub(first.value);
            self.pieces.pop_front();
        }
        if self.pieces.is_empty() {
            // Clears the rounding error of very large numbers.
            self.sum = Decimal::ZERO;
        }
        while self
            .holes
            .front()
            .is_some_and(|(_, until_us)| *until_us <= start_us)
        {
            self.holes.pop_front();
        }
    }

    fn merge_neighbours(&mut self) {
        let all = std::mem::replace(&mut self.pieces, VecDeque::with_capacity(MAX_PIECES + 1));
        for piece in all {
            match self.pieces.back_mut() {
                Some(last) if piece.until_us - last.from_us <= MERGED_US => {
                    *last = Piece {
                        from_us: last.from_us,
                        until_us: piece.until_us,
                        price: piece.price,
                        value: last.value.saturating_add(piece.value),
                    };
                }
                _ => self.pieces.push_back(piece),
            }
        }
    }

    /// The pieces that ended by `start_us`. Few, because each new price drops them.
    fn ended_by(&self, start_us: i64) -> impl Iterator<Item = &Piece> {
        self.pieces
            .iter()
            .take_while(move |piece| piece.until_us <= start_us)
    }

    /// The change to `last`, in percent.
    pub(crate) fn change_percent(&self, last: Decimal, now_us: i64) -> Option<f64> {
        let ended = self.ended_by(now_us.saturating_sub(DAY_US)).last();
        let in_force = ended.map(|piece| piece.price).or(self.before);
        let open = in_force.or(self.first.map(|(_, price)| price))?;
        let change = last.checked_div(open)?.checked_sub(Decimal::ONE)?;
        change.checked_mul(Decimal::ONE_HUNDRED)?.to_f64()
    }

    /// The volume, in the quote currency. `None` if no trade had a known size.
    pub(crate) fn volume_quote(&self, now_us: i64) -> Option<f64> {
        if !self.is_traded {
            return None;
        }
        let start_us = now_us.saturating_sub(DAY_US);
        let ended = self.ended_by(start_us);
        let (count, sum) = ended.fold((0, self.sum), |(count, sum), piece| {
            (count + 1, sum.saturating_sub(piece.value))
        });
        let sum = sum.to_f64()?;
        let outside = self
            .pieces
            .get(count)
            .filter(|piece| piece.from_us < start_us);
        let outside = outside.and_then(|piece| {
            let share = (start_us - piece.from_us) as f64 / (piece.until_us - piece.from_us) as f64;
            Some(piece.value.to_f64()? * share)
        });
        Some(sum - outside.unwrap_or(0.0))
    }

    /// How much of the 24 hours was seen, in microseconds.
    pub(crate) fn covered_us(&self, now_us: i64) -> i64 {
        let Some((since_us, _)) = self.first else {
            return 0;
        };
        let start_us = since_us.max(now_us.saturating_sub(DAY_US));
        let now_lost = self.lost_us.map(|lost_us| (lost_us, now_us));
        let holes = self.holes.iter().copied().chain(now_lost);
        let unseen = holes.map(|(from_us, until_us)| (until_us - from_us.max(start_us)).max(0));
        (now_us - start_us - unseen.sum::<i64>()).max(0)
    }

    /// Whether the figures cover the whole 24 hours.
    pub(crate) fn is_whole(&self, now_us: i64) -> bool {
        self.covered_us(now_us) == DAY_US
    }

    /// Moves all times by a step of the clock.
    pub(crate) fn step_back(&mut self, step: ClockStep) {
        for piece in &mut self.pieces {
            step.apply(&mut piece.from_us);
            step.apply(&mut piece.until_us);
        }
        for (from_us, until_us) in &mut self.holes {
            step.apply(from_us);
            step.apply(until_us);
        }
        let first = self.first.as_mut().map(|(at_us, _)| at_us);
        for at_us in first.into_iter().chain(&mut self.lost_us) {
            step.apply(at_us);
        }
    }

    /// Records that the source is not connected from now on.
    pub(crate) fn lost(&mut self, now_us: i64) {
        self.lost_us.get_or_insert(now_us);
    }

    /// Records that the source is connected again.
    pub(crate) fn connected(&mut self, now_us: i64) {
        let Some(lost_us) = self.lost_us.take() else {
            return;
        };
        self.holes.push_back((lost_us, now_us.max(lost_us)));
        if self.holes.len() > MAX_HOLES
            && let Some((from_us, _)) = self.holes.pop_front()
            && let Some(next) = self.holes.front_mut()
        {
            next.0 = from_us;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: i64 = 3_600_000_000;

    fn change(day: &DayWindow, last: i64, now_us: i64) -> f64 {
        let change = day.change_percent(Decimal::from(last), now_us).unwrap();
        (change * 1e9).round() / 1e9
    }

    #[test]
    fn the_worked_example_holds() {
        let mut day = DayWindow::default();
        assert_eq!(
            (day.change_percent(Decimal::ONE, 0), day.volume_quote(0)),
            (None, None)
        );
        day.add(Decimal::from(100), Some(Decimal::from(100)), 0);
        day.add(Decimal::from(200), Some(Decimal::from(200)), 60_000_000);
        assert_eq!(
            (change(&day, 200, 60_000_000), day.volume_quote(60_000_000)),
            (100.0, Some(300.0))
        );
        let next_us = DAY_US + 5_000_000;
        assert_eq!(
            (change(&day, 200, next_us), day.volume_quote(next_us)),
            (100.0, Some(200.0))
        );
        assert_eq!(day.covered_us(next_us), DAY_US);
        let next_us = DAY_US + 60_000_000;
        assert_eq!(
            (change(&day, 200, next_us), day.volume_quote(next_us)),
            (0.0, Some(0.0))
        );
        // Another trade drops what has left the window, and changes nothing of that.
        day.add(Decimal::from(200), Some(Decimal::from(400)), next_us);
        assert_eq!(
            (change(&day, 200, next_us), day.volume_quote(next_us)),
            (0.0, Some(400.0))
        );
    }

    #[test]
    fn a_price_without_trades_has_a_change_and_no_volume() {
        let mut day = DayWindow::default();
        for hour in 0..30 {
            day.add(Decimal::from(100 + hour), None, hour * HOUR_US);
            day.add(Decimal::from(100 + hour), None, hour * HOUR_US + 1);
        }
        assert_eq!(day.pieces.len(), 24);
        let now_us = 29 * HOUR_US;
        assert_eq!(
            (change(&day, 129, now_us), day.volume_quote(now_us)),
            (22.857142857, None)
        );
    }

    #[test]
    fn lost_connections_are_not_covered() {
        let mut day = DayWindow::default();
        day.lost(0);
        day.connected(HOUR_US);
        assert_eq!(day.covered_us(2 * HOUR_US), 0);
        day.add(Decimal::ONE, None, 2 * HOUR_US);
        day.lost(4 * HOUR_US);
        day.lost(5 * HOUR_US);
        assert_eq!(day.covered_us(6 * HOUR_US), 2 * HOUR_US);
        day.connected(11 * HOUR_US);
        day.connected(12 * HOUR_US);
        assert_eq!(day.covered_us(26 * HOUR_US), 17 * HOUR_US);
        // Half of the hole has left the window; then all of it.
        assert_eq!(day.covered_us(32 * HOUR_US), 21 * HOUR_US);
        assert!(!day.is_whole(32 * HOUR_US) && day.is_whole(35 * HOUR_US));
        // Never more than was seen, however often the connection is lost.
        for hour in 35..235 {
            day.lost(hour * HOUR_US / 2 + 20 * HOUR_US);
            day.connected(hour * HOUR_US / 2 + 20 * HOUR_US + HOUR_US / 4);
        }
        assert_eq!(day.holes.len(), MAX_HOLES);
        let now_us = 138 * HOUR_US;
        assert!(
            day.covered_us(now_us) <= 13 * HOUR_US,
            "{}",
            day.covered_us(now_us)
        );
    }

    #[test]
    fn a_busy_market_is_merged_and_exact_up_to_two_minutes() {
        let mut day = DayWindow::default();
        let step_us = 700_000;
        let price = |n: i64| 1_000 + (n / 600) % 977;
        let count = 3 * DAY_US / step_us;
        for n in 0..count {
            let price = Decimal::from(price(n));
            day.add(price, Some(price), n * step_us);
            assert!(day.pieces.len() <= MAX_PIECES);
        }
        let now_us = (count - 1) * step_us;
        let inside = (0..count)
            .rev()
            .take_while(|n| n * step_us > now_us - DAY_US);
        let exact: i64 = inside.clone().map(price).sum();
        let volume = day.volume_quote(now_us).unwrap();
        assert!(
            (volume - exact as f64).abs() < exact as f64 / 100_000.0,
            "{volume} {exact}"
        );
        let open = inside.last().map(|first| price(first - 1)).unwrap();
        let found = change(&day, price(count - 1), now_us);
        let expected = (price(count - 1) as f64 / open as f64 - 1.0) * 100.0;
        assert!((found - expected).abs() < 0.2, "{found} {expected}");
    }
}
