//! Day window: change and volume of 24 hours, for venues that do not report them.
//!
//! The day has [`SLOTS`] slots of ten minutes; the last one is current. A slot holds its first
//! price and its volume. Until a day has passed, the figures cover less, and
//! [`DayWindow::covered_us`] returns the covered time.

use std::collections::VecDeque;

use rust_decimal::{Decimal, prelude::ToPrimitive as _};

const SLOT_US: i64 = 600_000_000;
const SLOTS: i64 = 144;
const DAY_US: i64 = SLOT_US * SLOTS;

/// The last 24 hours of one source.
#[derive(Debug, Default)]
pub(crate) struct DayWindow {
    slots: VecDeque<DaySlot>,
    /// When the first data arrived, in microseconds since the Unix epoch.
    since_us: Option<i64>,
}

#[derive(Debug, Clone, Copy)]
struct DaySlot {
    number: i64,
    open: Decimal,
    value: Decimal,
}

impl DayWindow {
    /// Adds a price, and the size traded at it if it is of a trade.
    pub(crate) fn add(&mut self, price: Decimal, size: Option<Decimal>, now_us: i64) {
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
            self.slots.push_back(DaySlot {
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
    pub(crate) fn change_percent(&self, last: Decimal) -> Option<f64> {
        let open = self.slots.front()?.open;
        let change = last.checked_div(open)?.checked_sub(Decimal::ONE)?;
        change.checked_mul(Decimal::ONE_HUNDRED)?.to_f64()
    }

    /// The volume, in the quote currency.
    pub(crate) fn volume_quote(&self) -> Option<f64> {
        let values = self.slots.iter().map(|slot| slot.value);
        let sum = values.fold(Decimal::ZERO, |sum, value| {
            sum.checked_add(value).unwrap_or(sum)
        });
        (!sum.is_zero()).then(|| sum.to_f64()).flatten()
    }

    /// How much of the 24 hours is covered, in microseconds.
    pub(crate) fn covered_us(&self, now_us: i64) -> i64 {
        self.since_us.map_or(0, |since_us| {
            now_us.saturating_sub(since_us).clamp(0, DAY_US)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_day_covers_the_time_with_data_up_to_24_hours() {
        let mut day = DayWindow::default();
        assert_eq!(
            (day.change_percent(Decimal::ONE), day.volume_quote()),
            (None, None)
        );
        let hour_us = 3_600_000_000;
        for hour in 0..30 {
            day.add(
                Decimal::from(100 + hour),
                Some(Decimal::TWO),
                hour * hour_us,
            );
        }
        let now_us = 29 * hour_us;
        assert_eq!(day.covered_us(now_us), DAY_US);
        // Hours 6 to 29 are inside; the slot of hour 5 has left the window.
        let expected = (6..30).map(|hour| 2.0 * f64::from(100 + hour)).sum();
        assert_eq!(day.volume_quote(), Some(expected));
        let change = day.change_percent(Decimal::from(129)).unwrap();
        assert!((change - 23.0 / 106.0 * 100.0).abs() < 1e-9);
        let mut new = DayWindow::default();
        new.add(Decimal::from(100), None, 0);
        assert_eq!(
            (new.volume_quote(), new.covered_us(5_000_000)),
            (None, 5_000_000)
        );
    }
}
