//! Passes: what a recording's frames become when it is played again and again.
//!
//! A venue uses a trade number once, and its time rises. A second pass therefore plays the frames
//! with later times, and with trade numbers above those of the pass before. Otherwise every trade
//! would count as a repetition.
//!
//! Worked example: in the first pass, the trades of BTC-USD at one source have the numbers 100 to
//! 149. They span 50 numbers. The second pass plays them as 150 to 199, the third as 200 to 249.
//! Hashes have no order, and are anywhere among the numbers: each pass turns them into others.

use std::collections::HashMap;

use crate::venue::{Stamp, Ticker, Trade, TradeId, VenueEvent};

/// The most markets whose numbers are remembered. A recording has one for each symbol of a source.
const MAX_MARKETS: usize = 100_000;

/// The number that turns the hashes of a pass into those of the next: odd, with bits all over.
const NEXT_PASS: u64 = 0x9e37_79b9_7f4a_7c15;

/// The kinds of trade numbers, which are independent of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum NumberKind {
    Single,
    Sparse,
    Aggregate,
}

/// The trade numbers of one market in the first pass.
#[derive(Debug, Clone, Copy)]
struct NumberSpan {
    first: u64,
    last: u64,
}

/// The state over all passes of a recording.
#[derive(Debug, Default)]
pub(super) struct Passes {
    /// The passes that have ended.
    ended: u64,
    /// By source, kind of numbers, and the venue's name of the market.
    spans: HashMap<(usize, NumberKind), HashMap<String, NumberSpan>>,
    markets: usize,
}

impl Passes {
    /// Whether this is the first pass.
    pub(super) fn is_first(&self) -> bool {
        self.ended == 0
    }

    /// Ends a pass.
    pub(super) fn end_pass(&mut self) {
        self.ended = self.ended.saturating_add(1);
    }

    /// Moves an event of a source into this pass. `later_us` is how much later than recorded it is
    /// played.
    pub(super) fn shift(&mut self, source: usize, event: &mut VenueEvent<'_>, later_us: i64) {
        match event {
            VenueEvent::Trade(trade) => self.shift_trade(source, trade, later_us),
            VenueEvent::Ticker(ticker) => self.shift_ticker(source, ticker, later_us),
            _ => {}
        }
    }

    fn shift_trade(&mut self, source: usize, trade: &mut Trade<'_>, later_us: i64) {
        let (kind, first, last) = match trade.id {
            TradeId::Single(id) => (NumberKind::Single, id, id),
            TradeId::Range { first, last } => (NumberKind::Single, first, last),
            TradeId::Sparse(id) => (NumberKind::Sparse, id, id),
            TradeId::Aggregate(id) => (NumberKind::Aggregate, id, id),
            TradeId::Hashed(id) => {
                let mixed = id.wrapping_add(self.ended.wrapping_mul(NEXT_PASS));
                trade.id = TradeId::Hashed(mixed);
                trade.venue_time_us = trade.venue_time_us.map(|us| us.saturating_add(later_us));
                return;
            }
        };
        if self.is_first() {
            self.note(source, kind, &trade.name, (first, last));
        } else {
            let later = self.number_shift(source, kind, &trade.name);
            let moved = |id: u64| id.saturating_add(later);
            trade.id = match trade.id {
                TradeId::Single(id) => TradeId::Single(moved(id)),
                TradeId::Range { first, last } => TradeId::Range {
                    first: moved(first),
                    last: moved(last),
                },
                TradeId::Sparse(id) => TradeId::Sparse(moved(id)),
                TradeId::Aggregate(id) => TradeId::Aggregate(moved(id)),
                TradeId::Hashed(id) => TradeId::Hashed(id),
            };
        }
        trade.venue_time_us = trade.venue_time_us.map(|us| us.saturating_add(later_us));
    }

    fn shift_ticker(&mut self, source: usize, ticker: &mut Ticker<'_>, later_us: i64) {
        if !self.is_first() {
            let later = self.number_shift(source, NumberKind::Single, &ticker.name);
            ticker.last_id = ticker.last_id.map(|id| id.saturating_add(later));
        }
        ticker.stamp = ticker.stamp.map(|stamp| match stamp {
            Stamp::Sent(us) => Stamp::Sent(us.saturating_add(later_us)),
            Stamp::Formed(us) => Stamp::Formed(us.saturating_add(later_us)),
        });
    }

    /// Remembers the numbers of a trade of the first pass.
    fn note(&mut self, source: usize, kind: NumberKind, name: &str, (first, last): (u64, u64)) {
        let spans = self.spans.entry((source, kind)).or_default();
        if let Some(span) = spans.get_mut(name) {
            span.first = span.first.min(first);
            span.last = span.last.max(last);
        } else if self.markets < MAX_MARKETS {
            self.markets += 1;
            spans.insert(name.to_string(), NumberSpan { first, last });
        }
    }

    /// How far the numbers of a market lie above those of the first pass.
    fn number_shift(&self, source: usize, kind: NumberKind, name: &str) -> u64 {
        let spans = self.spans.get(&(source, kind));
        let span = spans.and_then(|spans| spans.get(name));
        span.map_or(0, |span| {
            let numbers = span.last.saturating_sub(span.first).saturating_add(1);
            numbers.saturating_mul(self.ended)
        })
    }
}

#[cfg(test)]
mod tests {
    use rust_decimal::Decimal;
    use tidewire_proto::v1::TradeSide;

    use super::*;
    use crate::venue::Size;

    fn trade(name: &'static str, id: TradeId) -> VenueEvent<'static> {
        VenueEvent::Trade(Trade {
            name: name.into(),
            id,
            price: Decimal::ONE,
            size: Size::Base(Decimal::ONE),
            side: TradeSide::Buy,
            venue_time_us: Some(7),
            unexpected: Vec::new(),
        })
    }

    fn shifted(passes: &mut Passes, event: VenueEvent<'static>) -> (TradeId, Option<i64>) {
        let mut event = event;
        passes.shift(0, &mut event, 1_000);
        match event {
            VenueEvent::Trade(trade) => (trade.id, trade.venue_time_us),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_worked_example_holds() {
        let mut passes = Passes::default();
        for id in 100..150 {
            let got = shifted(&mut passes, trade("BTC-USD", TradeId::Single(id)));
            assert_eq!(got, (TradeId::Single(id), Some(1_007)));
        }
        shifted(&mut passes, trade("BTC-USD", TradeId::Aggregate(7)));
        for pass in 1..4 {
            passes.end_pass();
            for id in 100..150 {
                let got = shifted(&mut passes, trade("BTC-USD", TradeId::Single(id)));
                assert_eq!(got.0, TradeId::Single(id + 50 * pass));
            }
            let range = TradeId::Range {
                first: 100,
                last: 102,
            };
            let moved = TradeId::Range {
                first: 100 + 50 * pass,
                last: 102 + 50 * pass,
            };
            assert_eq!(shifted(&mut passes, trade("BTC-USD", range)).0, moved);
            let other = shifted(&mut passes, trade("BTC-USD", TradeId::Aggregate(7)));
            assert_eq!(other.0, TradeId::Aggregate(7 + pass));
            let unknown = shifted(&mut passes, trade("ETH-USD", TradeId::Sparse(9)));
            assert_eq!(unknown.0, TradeId::Sparse(9));
        }
        let mut ticker = VenueEvent::Ticker(Ticker {
            name: "BTC-USD".into(),
            last_id: Some(149),
            stamp: Some(Stamp::Sent(5)),
            ..Ticker::default()
        });
        passes.shift(0, &mut ticker, 10);
        let VenueEvent::Ticker(ticker) = ticker else {
            panic!("{ticker:?}");
        };
        assert_eq!(
            (ticker.last_id, ticker.stamp),
            (Some(299), Some(Stamp::Sent(15)))
        );
    }
}
