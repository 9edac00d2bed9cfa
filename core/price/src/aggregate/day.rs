//! The change and the volume of 24 hours, counted here for a venue that does not tell
//! them.
//!
//! The day has [`SLOTS`] slots of ten minutes, the last of them the current one. Each has
//! the price it began with, and what was traded in it. What is said is of as much of
//! the day as was heard, and how much that is goes with it.

use std::collections::VecDeque;

use rust_decimal::{Decimal, prelude::ToPrimitive as _};

const SLOT_US: i64 = 600_000_000;
const SLOTS: i64 = 144;
const DAY_US: i64 = SLOT_US * SLOTS;

/// What was heard of a source's last 24 hours.
#[derive(Debug, Default)]
pub(super) struct Day {
    slots: VecDeque<Slot>,
    /// When the first was heard.
    since_us: Option<i64>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    number: i64,
    open: Decimal,
    value: Decimal,
}

impl Day {
    /// A price, and what was traded at it if it is of a trade.
    pub(super) fn take(&mut self, price: Decimal, size: Option<Decimal>, now_us: i64) {
        self.since_us.get_or_insert(now_us);
        let number = now_us.div_euclid(SLOT_US);
        while self
            .slots
            .front()
            .is_some_and(|slot| slot.number <= number - SLOTS)
        {
            self.slots.pop_front();
        }
        if self.slots.back().is_none_or(|slot| slot.number < number) {
            self.slots.push_back(Slot {
                number,
                open: price,
                value: Decimal::ZERO,
            });
        }
        let value = size.and_then(|size| price.checked_mul(size));
        if let Some((slot, value)) = self.slots.back_mut().zip(value) {
            slot.value = slot.value.checked_add(value).unwrap_or(slot.value);
        }
    }

    /// The change to `last`, in percent.
    pub(super) fn change_percent(&self, last: Decimal) -> Option<f64> {
        let open = self.slots.front()?.open;
        let change = last.checked_div(open)?.checked_sub(Decimal::ONE)?;
        change.checked_mul(Decimal::ONE_HUNDRED)?.to_f64()
    }

    /// What was traded, in quote.
    pub(super) fn volume_quote(&self) -> Option<f64> {
        let values = self.slots.iter().map(|slot| slot.value);
        let sum = values.fold(Decimal::ZERO, |sum, value| {
            sum.checked_add(value).unwrap_or(sum)
        });
        (!sum.is_zero()).then(|| sum.to_f64()).flatten()
    }

    /// How much of the 24 hours was heard, in microseconds.
    pub(super) fn covered_us(&self, now_us: i64) -> i64 {
        self.since_us.map_or(0, |since_us| {
            now_us.saturating_sub(since_us).clamp(0, DAY_US)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_as_long_as_it_was_heard_and_no_longer_than_one() {
        let mut day = Day::default();
        assert_eq!(
            (day.change_percent(Decimal::ONE), day.volume_quote()),
            (None, None)
        );
        let hour_us = 3_600_000_000;
        for hour in 0..30 {
            day.take(
                Decimal::from(100 + hour),
                Some(Decimal::TWO),
                hour * hour_us,
            );
        }
        let now_us = 29 * hour_us;
        assert_eq!(day.covered_us(now_us), DAY_US);
        // Hours 6 to 29 lie within: the slot of hour 5 has ended.
        let expected = (6..30).map(|hour| 2.0 * f64::from(100 + hour)).sum();
        assert_eq!(day.volume_quote(), Some(expected));
        let change = day.change_percent(Decimal::from(129)).unwrap();
        assert!((change - 23.0 / 106.0 * 100.0).abs() < 1e-9);
        let mut new = Day::default();
        new.take(Decimal::from(100), None, 0);
        assert_eq!(
            (new.volume_quote(), new.covered_us(5_000_000)),
            (None, 5_000_000)
        );
    }
}
