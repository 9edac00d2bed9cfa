//! Volume window: the trades of one source over the method's window.
//!
//! The window has [`SLOTS`] slots of equal length; the last one is current. A slot leaves the
//! window as a whole, so the window covers 59 to 60 of its 60 slots. Sums are exact, and memory is
//! bounded at any volume.

use std::collections::VecDeque;

use rust_decimal::Decimal;

use crate::clock::ClockStep;

/// Slots in a window: fine enough that one leaving slot hardly moves a price.
const SLOTS: i64 = 60;

/// A volume, in base (`size`) and in quote (`value`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Turnover {
    pub(crate) size: Decimal,
    pub(crate) value: Decimal,
}

impl Turnover {
    /// A volume that overflows is left out.
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

/// The volumes of the window.
#[derive(Debug, Default)]
pub(crate) struct VolumeWindow {
    /// Slots with trades, by their number since the Unix epoch.
    slots: VecDeque<(i64, Turnover)>,
}

impl VolumeWindow {
    /// Adds a trade.
    pub(crate) fn add(&mut self, price: Decimal, size: Decimal, now_us: i64, window_us: i64) {
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
        let trade = Turnover { size, value };
        match self.slots.back_mut() {
            // Also if the clock seems to have gone back.
            Some((last, turnover)) if *last >= number => turnover.add(trade),
            _ => self.slots.push_back((number, trade)),
        }
    }

    /// Moves its slots by a step of the clock.
    pub(crate) fn step_back(&mut self, step: ClockStep, window_us: i64) {
        let slots = step.slots(window_us / SLOTS);
        for (number, _) in &mut self.slots {
            *number = number.saturating_sub(slots);
        }
    }

    /// The volume of the window that ends at `now_us`.
    pub(crate) fn turnover(&self, now_us: i64, window_us: i64) -> Turnover {
        let first = slot(now_us, window_us) - SLOTS;
        let mut sum = Turnover::default();
        for (number, turnover) in self.slots.iter().rev() {
            if *number <= first {
                break;
            }
            sum.add(*turnover);
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
        fn the_turnover_is_the_sum_of_the_trades_in_its_slots(
            trades in prop::collection::vec((0..3_000_i64, 1..1_000_i64, 1..1_000_i64), 1..200),
        ) {
            let mut window = VolumeWindow::default();
            let (mut now_us, mut all) = (0, Vec::new());
            for (pause_us, price, size) in trades {
                now_us += pause_us;
                let (price, size) = (Decimal::new(price, 2), Decimal::new(size, 3));
                window.add(price, size, now_us, WINDOW_US);
                all.push((now_us, price, size));
                let inside = all.iter().filter(|(at_us, ..)| at_us / 1_000 > now_us / 1_000 - 60);
                let expected = inside.fold(Turnover::default(), |sum, (_, price, size)| Turnover {
                    size: sum.size + size, value: sum.value + price * size,
                });
                prop_assert_eq!(window.turnover(now_us, WINDOW_US), expected);
                prop_assert!(window.slots.len() <= 60);
            }
            prop_assert_eq!(window.turnover(now_us + 2 * WINDOW_US, WINDOW_US), Turnover::default());
        }
    }
}
