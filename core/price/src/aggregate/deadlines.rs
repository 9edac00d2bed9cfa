//! When quotes grow stale.

use std::{cmp::Reverse, collections::BinaryHeap};

/// Where a quote is: its symbol, and its place among the symbol's quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) symbol: usize,
    pub(super) quote: usize,
}

/// Deadlines, the soonest first. Each quote has one at most: data does not move it,
/// and when it comes up, whoever spoke meanwhile gets a new one. So data costs
/// nothing here, and a tick only what is due.
#[derive(Debug, Default)]
pub(super) struct Deadlines(BinaryHeap<Reverse<(i64, Place)>>);

impl Deadlines {
    pub(super) fn set(&mut self, at_us: i64, place: Place) {
        self.0.push(Reverse((at_us, place)));
    }

    /// Takes out a deadline that has come, with its time.
    pub(super) fn due(&mut self, now_us: i64) -> Option<(i64, Place)> {
        let Reverse((at_us, _)) = self.0.peek()?;
        if *at_us > now_us {
            return None;
        }
        self.0.pop().map(|Reverse(due)| due)
    }
}
