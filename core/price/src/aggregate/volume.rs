//! What a source traded within a window that moves in steps.
//!
//! The window has [`SLOTS`] slots of equal length, the last of them the current one. A
//! slot is dropped as a whole: the window reaches back over at least 59 and at most 60 of
//! its 60 parts. Sums are exact, and memory is bounded however much is traded.

use std::collections::VecDeque;

use rust_decimal::Decimal;

/// How many parts a window has.
const SLOTS: i64 = 60;

/// What was traded: how much, in base, and for how much, in quote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Traded {
    pub(super) size: Decimal,
    pub(super) value: Decimal,
}

impl Traded {
    /// What cannot be held is left out.
    fn add(&mut self, other: Self) {
        let sums = (
            self.size.checked_add(other.size),
            self.value.checked_add(other.value),
        );
        if let (Some(size), Some(value)) = sums {
            *self = Self { size, value };
        }
    }
}

/// What was traded within the window.
#[derive(Debug, Default)]
pub(super) struct VolumeWindow {
    /// Slots with trades, by their number since the epoch.
    slots: VecDeque<(i64, Traded)>,
}

impl VolumeWindow {
    /// Adds a trade.
    pub(super) fn take(&mut self, price: Decimal, size: Decimal, now_us: i64, window_us: i64) {
        let Some(value) = price.checked_mul(size) else {
            return;
        };
        let number = slot(now_us, window_us);
        while self
            .slots
            .front()
            .is_some_and(|(first, _)| *first <= number - SLOTS)
        {
            self.slots.pop_front();
        }
        let trade = Traded { size, value };
        match self.slots.back_mut() {
            // Also if time seems to have gone back.
            Some((last, traded)) if *last >= number => traded.add(trade),
            _ => self.slots.push_back((number, trade)),
        }
    }

    /// What was traded within the window that ends now.
    pub(super) fn traded(&self, now_us: i64, window_us: i64) -> Traded {
        let first = slot(now_us, window_us) - SLOTS;
        let mut sum = Traded::default();
        for (number, traded) in self.slots.iter().rev() {
            if *number <= first {
                break;
            }
            sum.add(*traded);
        }
        sum
    }
}

fn slot(now_us: i64, window_us: i64) -> i64 {
    now_us.div_euclid((window_us / SLOTS).max(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW_US: i64 = 60_000;

    proptest! {
        #[test]
        fn it_is_the_sum_of_the_trades_in_its_slots(
            trades in prop::collection::vec((0..3_000_i64, 1..1_000_i64, 1..1_000_i64), 1..200),
        ) {
            let mut window = VolumeWindow::default();
            let (mut now_us, mut all) = (0, Vec::new());
            for (pause_us, price, size) in trades {
                now_us += pause_us;
                let (price, size) = (Decimal::new(price, 2), Decimal::new(size, 3));
                window.take(price, size, now_us, WINDOW_US);
                all.push((now_us, price, size));
                let inside = all.iter().filter(|(at_us, ..)| at_us / 1_000 > now_us / 1_000 - 60);
                let expected = inside.fold(Traded::default(), |sum, (_, price, size)| Traded {
                    size: sum.size + size, value: sum.value + price * size,
                });
                prop_assert_eq!(window.traded(now_us, WINDOW_US), expected);
                prop_assert!(window.slots.len() <= 60);
            }
            prop_assert_eq!(window.traded(now_us + 2 * WINDOW_US, WINDOW_US), Traded::default());
        }
    }
}
