//! How several sources become one price.
//!
//! Worked example: live prices 100, 103 and 101 have the median 101, and with
//! (103 − 100) / 2 the confidence ± 1.5. Without 103 the median is the mean of the
//! middle two, 100.5 ± 0.5. A lone source at 100 with offers 99.9 and 100.3 gives
//! 100 ± 0.2, and without known offers no confidence: nothing says how far it may
//! be off.

use rust_decimal::Decimal;
use smallvec::SmallVec;

use super::quote::{Life, Quote};

/// The prices of live sources put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Median {
    pub(super) price: Decimal,
    /// Half of the distance between the lowest and the highest price; of a lone
    /// source, half of the distance between its best offers.
    pub(super) confidence: Option<Decimal>,
    /// How many prices there were.
    pub(super) sources: u32,
}

/// The median of the live quotes, if there are any: the middle price, and the mean
/// of the middle two of an even number. Exact, unless the mean has more than the 28
/// digits that a decimal holds.
pub(super) fn median(quotes: &[Quote]) -> Option<Median> {
    let mut prices: SmallVec<[Decimal; 8]> = quotes.iter().filter_map(Quote::live_price).collect();
    prices.sort_unstable();
    let (lowest, highest) = (*prices.first()?, *prices.last()?);
    let middle = prices.len() / 2;
    let price = if prices.len().is_multiple_of(2) {
        mean(prices[middle - 1], prices[middle])
    } else {
        prices[middle]
    };
    let confidence = if prices.len() > 1 {
        half_distance(lowest, highest)
    } else {
        let lone = quotes.iter().find(|quote| quote.live_price().is_some());
        lone.and_then(|quote| half_distance(quote.bid?, quote.ask?))
    };
    Some(Median {
        price,
        confidence,
        sources: u32::try_from(prices.len()).unwrap_or(u32::MAX),
    })
}

fn half_distance(low: Decimal, high: Decimal) -> Option<Decimal> {
    // Offers may cross for a moment.
    let distance = high.checked_sub(low)?;
    Some(distance.abs() / Decimal::TWO)
}

/// Halved first where the sum would not fit.
fn mean(a: Decimal, b: Decimal) -> Decimal {
    match a.checked_add(b) {
        Some(sum) => sum / Decimal::TWO,
        None => a / Decimal::TWO + b / Decimal::TWO,
    }
}

/// The change over 24 hours: the median of what the live sources say it is, as one
/// venue whose window is off must not move it.
pub(super) fn change_percent(quotes: &[Quote]) -> Option<f64> {
    let mut changes: SmallVec<[f64; 8]> = live(quotes)
        .filter_map(|quote| quote.change_percent)
        .collect();
    changes.sort_unstable_by(f64::total_cmp);
    let middle = changes.len() / 2;
    let upper = *changes.get(middle)?;
    if changes.len().is_multiple_of(2) {
        return Some(f64::midpoint(changes[middle - 1], upper));
    }
    Some(upper)
}

/// The volume of 24 hours: that of all live sources together.
pub(super) fn volume_quote(quotes: &[Quote]) -> Option<f64> {
    live(quotes)
        .filter_map(|quote| quote.volume_quote)
        .reduce(|a, b| a + b)
}

fn live(quotes: &[Quote]) -> impl Iterator<Item = &Quote> {
    quotes.iter().filter(|quote| quote.life == Life::Live)
}
